"""Checks of arguments and settings: each names the value, the rule and the fix.

Nothing here needs Keras, but for the checks of its settings.
"""

import difflib
import re
from collections.abc import Iterable
from math import isfinite
from numbers import Integral, Real
from typing import Any

BACKENDS = ("tensorflow", "jax")
"""Keras's backends on which the engine's backward passes are written and tested."""


def require_positive_integer(name: str, value: Any, where: str = "") -> int:
    """Return `value` as an int, or raise a ValueError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r}{where}: must be an integer of at least 1.")
    return int(value)


def require_boolean(name: str, value: Any) -> bool:
    """Return `value`, or raise a ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be True or False.")
    return value


def require_name(name: Any) -> str:
    """Return `name`, or raise a ValueError unless TensorFlow can take it for a scope's name."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"name={name!r}: must be a non-empty string of the letters A to Z, digits, '_', '-' "
            "and '.', without '/', and not begin with '_' or '-'; layers' names begin with it."
        )
    return name


def require_real(name: str, value: Any) -> float:
    """Return `value` as a float, or raise a ValueError unless it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"{name}={value!r}: must be a finite number.")
    return float(value)


def require_compression(value: Any) -> float:
    """Return `value` as a float, or raise a ValueError unless it is a θ in (0, 1]."""
    if not 0 < require_real("compression", value) <= 1:
        raise ValueError(
            f"compression={value!r}: θ must lie in (0, 1]; 0.5 is DenseNet-C's, 1 keeps every "
            "channel."
        )
    return float(value)


def require_known_keywords(keywords: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raise a TypeError for an unknown keyword that names the one probably meant."""
    for keyword in keywords:
        if keyword not in known:
            near = difflib.get_close_matches(keyword, known, n=1)
            raise TypeError(
                f"{function}() has no keyword {keyword!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"It takes {', '.join(known)}."
            )


def require_image_shape(name: str, shape: Any, stride: int) -> tuple[int | None, ...]:
    """Return `shape` as a tuple of ints and None, or raise a ValueError."""
    rule = f"must be (height, width, channels), each side at least {stride} pixels or None"
    if not isinstance(shape, Iterable) or len(tuple(shape)) != 3:
        raise ValueError(f"{name}={shape!r}: {rule}; leave the batch axis out.")
    shape = tuple(shape)
    if shape[-1] is None:
        raise ValueError(f"{name}={shape!r}: {rule}; the number of channels must be known.")
    shape = tuple(
        None if size is None else require_positive_integer(name, size, f" in {shape!r}")
        for size in shape
    )
    if any(side is not None and side < stride for side in shape[:2]):
        raise ValueError(
            f"{name}={shape!r}: {rule}, the network's stride; enlarge the images or take a "
            "network of fewer blocks or without the ImageNet stem."
        )
    return shape


def require_tensorflow(name: str) -> None:
    """Raise a RuntimeError unless Keras runs on TensorFlow, which takes the gradients here."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{name} needs TensorFlow as Keras's backend, not {keras.backend.backend()}: "
            "set KERAS_BACKEND=tensorflow before Keras is imported."
        )


def require_backend() -> None:
    """Raise a ValueError unless Keras runs on a backend that this library trains on."""
    import keras

    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"KERAS_BACKEND={backend!r}: densenet_nb's layers run on TensorFlow and JAX; set "
            "KERAS_BACKEND=tensorflow or jax before Keras is imported. On others build "
            "keras.applications.DenseNet121, whose weights carry over by set_weights."
        )


def require_channels_last() -> None:
    """Raise a ValueError if Keras is set to channels first: rows would pass for channels."""
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"image_data_format={keras.config.image_data_format()!r}: the last axis is normalized, "
            "so images must be (batch, height, width, channels); call "
            'keras.config.set_image_data_format("channels_last").'
        )
