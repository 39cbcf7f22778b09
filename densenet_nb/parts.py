"""What the parts of the paper share: how each of their composite functions is made."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb.checks import (
    require_backend,
    require_boolean,
    require_channels_last,
    require_known_keywords,
    require_name,
    require_real,
)
from densenet_nb.normalization import RunsOnce

__all__ = ["CompositeOptions", "HeNormalFanOut", "Part", "activation_layer", "fresh"]


@keras.saving.register_keras_serializable("densenet_nb")
class HeNormalFanOut(keras.initializers.VarianceScaling):
    """He et al.'s initialization as the authors' code has it: N(0, 2 / (size² filters)).

    Untruncated and by fan-out, where Keras's ``he_normal`` is truncated and by fan-in
    (section 4.2; arXiv 1502.01852). Given as a class, so that each convolution draws its own
    values: one unseeded Keras initializer *instance* gives equal shapes equal values.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal initializer."""
        return {"seed": super().get_config()["seed"]}


@dataclass(frozen=True)
class CompositeOptions:
    """How each composite function of a part is made; see :class:`CompositeFunction`.

    No dictionary: Keras would track a layer in it (the pattern of the activations) as a part.
    """

    activation: str | Callable
    dropout_rate: float
    momentum: float
    epsilon: float
    synchronized: bool
    kernel_initializer: Any
    kernel_regularizer: Any

    def __post_init__(self) -> None:
        for name in ("dropout_rate", "momentum"):
            value = require_real(name, getattr(self, name))
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: must lie in [0, 1).")
        if require_real("epsilon", self.epsilon) <= 0:
            raise ValueError(
                f"epsilon={self.epsilon!r}: must be above 0; the paper's code has 1e-5."
            )
        require_boolean("synchronized", self.synchronized)
        if isinstance(self.activation, type):
            raise ValueError(
                f"activation={self.activation.__name__}: a class; give an instance, such as "
                f"{self.activation.__name__}()."
            )
        for name, kind in MADE_OF.items():
            object.__setattr__(self, name, kind.get(getattr(self, name)))

    def serialized(self) -> dict[str, Any]:
        """Return the options as a layer's configuration holds them."""
        return vars(self) | {
            name: kind.serialize(getattr(self, name))
            for name, kind in MADE_OF.items()
            if getattr(self, name) is not None
        }


MADE_OF = {
    "activation": keras.activations,
    "kernel_initializer": keras.initializers,
    "kernel_regularizer": keras.regularizers,
}
"""The options that may be given by a name, and Keras's modules that know it."""

KERAS_KEYWORDS = ("name", "dtype", "trainable", "activity_regularizer", "autocast")


class Part(RunsOnce, keras.layers.Layer):
    """What the parts share: how each of their composite functions is made.

    Parameters
    ----------
    activation : str or callable
        Between normalization and convolution; the paper's is ReLU. A layer, such as
        ``keras.layers.PReLU(shared_axes=[1, 2])``, is a pattern: each composite function has its
        own like it, with weights of its own.
    dropout_rate : float
        Share of values dropped after each convolution in training, in [0, 1). The paper has 0.2
        without data augmentation and 0 otherwise (section 4.2).
    momentum, epsilon : float
        Of batch normalization: the share of the old moving average kept each step, in [0, 1), and
        what is added to the variance, above 0. Defaults as in ``keras.applications``.
    synchronized : bool
        Whether batch normalization takes the statistics of all replicas of a ``tf.distribute``
        strategy together (TensorFlow only), so that the network trains as on one device.
    kernel_initializer : str or keras.initializers.Initializer
        Of the convolutions.
    kernel_regularizer : str or keras.regularizers.Regularizer, optional
        Penalty on the convolutions' kernels, in ``model.losses``.
    **kwargs
        ``name``, ``dtype``, ``trainable`` of a Keras layer.

    Raises
    ------
    ValueError
        A value out of range; nothing is built then.
    TypeError
        An unknown keyword.
    """

    def __init__(
        self,
        *,
        activation: str | Callable = "relu",
        dropout_rate: float = 0.0,
        momentum: float = 0.99,
        epsilon: float = 1.001e-5,
        synchronized: bool = False,
        kernel_initializer: Any = HeNormalFanOut,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        own = [*inspect.signature(type(self)).parameters, *inspect.signature(Part).parameters]
        known = [keyword for keyword in own if keyword not in ("options", "kwargs")]
        require_known_keywords(kwargs, [*known, *KERAS_KEYWORDS], type(self).__name__)
        require_backend()
        require_channels_last()
        if kwargs.get("name") is not None:
            require_name(kwargs["name"])
        composite = CompositeOptions(
            activation=activation,
            dropout_rate=dropout_rate,
            momentum=momentum,
            epsilon=epsilon,
            synchronized=synchronized,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
        )
        super().__init__(**kwargs)
        self.composite = composite
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), **self.composite.serialized()}

    def _part(self, part: type, *args: Any, name: str, **options: Any) -> keras.layers.Layer:
        """Make a smaller part, frozen if this one is: a reloaded layer is told so first."""
        return part(*args, **options, name=name, dtype=self.dtype_policy, trainable=self.trainable)

    def _in_order(self, parts: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
        """Return a list of `parts`, each an attribute too: TensorFlow does not look into lists."""
        for index, part in enumerate(parts, start=1):
            setattr(self, f"part{index}", part)
        return list(parts)


def fresh(value: Any, **changes: Any) -> Any:
    """Return a copy of an initializer or a layer, with `changes`, and a function itself.

    One unseeded Keras initializer gives all equal shapes equal values, and one layer as the
    activation of several composite functions would share its weights among them.
    """
    if isinstance(value, keras.initializers.Initializer):
        return value.clone()
    if isinstance(value, keras.layers.Layer):
        return type(value).from_config(value.get_config() | changes)
    return value


def activation_layer(activation: str | Callable, name: str | None = None) -> keras.layers.Layer:
    """Return a layer that activates maps: one like `activation`, if that is a layer itself."""
    if isinstance(activation, keras.layers.Layer):
        return fresh(activation, name=name)
    return keras.layers.Activation(activation, name=name)
