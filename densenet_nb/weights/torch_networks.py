"""Weights of torchvision's and timm's networks: arrays under other names, with other axes."""

import os
import re
from collections.abc import Mapping
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import safetensors
import safetensors.numpy

from densenet_nb.weights.parts import assign, parts_of, require_epsilon

__all__ = ["from_torch", "to_torch"]

TORCH_EPSILON = 1e-5
"""Of the normalizations in torchvision and timm."""

TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Torch's name of each variable."""


def from_torch(model: keras.Model, state: Any, epsilon: float = TORCH_EPSILON) -> None:
    """Give a network of ours the weights of torchvision's or timm's of the same configuration.

    The outputs are then equal to rounding, given `preprocess`'s images, which are Torch's too.
    Moving averages mean the same here and there (Torch's running variance has Bessel's correction,
    and a momentum of 0.1 there is 0.9 here: both matter only to further training).

    Parameters
    ----------
    model : keras.Model
        Such as ``DenseNet121(epsilon=1e-5)``.
    state : mapping or path
        What ``state_dict()`` returns, of arrays or of tensors on the CPU, or the path of a
        ``.safetensors`` file of it. Torch's own files are pickles, which can run any code, and are
        refused. The classifier is left out if the model has none.
    epsilon : float
        Of the Torch network's normalizations, which must be the model's as well.

    Raises
    ------
    ValueError
        The model's epsilon is another one, or arrays are missing, superfluous or of other shapes;
        the message names them all, and nothing has changed.
    TypeError
        `state` is no mapping and no path.
    """
    parts = parts_of(model)
    require_epsilon(model, parts, epsilon, "the Torch network's")
    whose = "the Torch network"
    if isinstance(state, (str, os.PathLike)):
        whose = repr(os.fspath(state))
        state = _safetensors(state)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state={type(state).__name__}: must be a mapping of names to arrays, such as "
            "state_dict() returns, or the path of a .safetensors file."
        )
    found = {
        _today(name): array
        for name, array in state.items()
        if not name.endswith("num_batches_tracked")  # Torch counts them and doesn't read them
    }
    if "features.conv1.weight" in found:
        raise ValueError(
            f"{whose} has a stem of three convolutions, as timm's densenetblur121d and "
            "densenet264d have: it is not the paper's network, and no network here equals it."
        )
    variables = {
        f"{part.torch}.{TORCH[name]}": variable
        for part in parts
        for name, variable in part.variables()
    }
    arrays = {name: _to_keras(np.asarray(array)) for name, array in found.items()}
    assign(model, variables, arrays, whose)


def to_torch(model: keras.Model, epsilon: float = TORCH_EPSILON) -> dict[str, np.ndarray]:
    """Return the weights of a network of ours under the names that torchvision and timm have.

    ``net.load_state_dict({name: torch.tensor(array) for name, array in to_torch(model).items()})``
    loads them there, and ``safetensors.numpy.save_file(to_torch(model), path)`` writes a file.

    Parameters
    ----------
    model : keras.Model
        Any network of this package.
    epsilon : float
        Of the Torch network's normalizations, which must be the model's as well.

    Raises
    ------
    ValueError
        The model's epsilon is another one.
    """
    parts = parts_of(model)
    require_epsilon(model, parts, epsilon, "the Torch network's")
    return {
        f"{part.torch}.{TORCH[name]}": _to_torch(keras.ops.convert_to_numpy(variable))
        for part in parts
        for name, variable in part.variables()
    }


def _to_keras(array: np.ndarray) -> np.ndarray:
    """Move a kernel's axes, (filters, channels, ...) in Torch, to (..., channels, filters)."""
    return np.moveaxis(array, (1, 0), (-2, -1)) if array.ndim > 1 else array


def _to_torch(array: np.ndarray) -> np.ndarray:
    """Undo `_to_keras`."""
    moved = np.moveaxis(array, (-2, -1), (1, 0)) if array.ndim > 1 else array
    return np.ascontiguousarray(moved)


def _today(name: str) -> str:
    """Return a name of torchvision's first files, ``…denselayer1.norm.1.weight``, as it is now."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", name)


def _safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a ``.safetensors`` file; refuse any other."""
    if not os.path.isfile(path):
        raise ValueError(f"state={os.fspath(path)!r}: there is no such file.")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"state={os.fspath(path)!r}: no .safetensors file ({error}). {TO_SAFETENSORS}"
        ) from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"state={os.fspath(path)!r}: holds a type that NumPy lacks ({error}); save it in "
            "float32."
        ) from error


TO_SAFETENSORS = (
    "A .pth file is a pickle, which can run any code, and is not read here. Where torch is: "
    'safetensors.torch.save_file(torch.load(path, weights_only=True), "weights.safetensors"); '
    'here: densenet_nb.weights.from_torch(model, "weights.safetensors").'
)
"""How the weights of Torch's own files get here."""
