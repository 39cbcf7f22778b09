"""The parts of the paper as Keras layers: composite function, dense layer, dense block, transition.

Every part takes and returns raw feature maps, ``(batch, height, width, channels)``, so any layer
may stand between them. Weights are made in the order of ``keras.applications``.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.checks import (
    require_backend,
    require_boolean,
    require_channels_last,
    require_compression,
    require_known_keywords,
    require_name,
    require_positive_integer,
    require_real,
)
from densenet_nb.configurations import BOTTLENECK_WIDTH, transition_filters
from densenet_nb.engine import recomputation
from densenet_nb.engine.statistics import (
    Statistics,
    moments,
    moving_together,
    require_images,
)
from densenet_nb.normalization import BatchNormalization, RunsOnce

if keras.backend.backend() == "tensorflow":
    from densenet_nb.engine import compiled, composite

__all__ = [
    "CompositeFunction",
    "DenseBlock",
    "DenseLayer",
    "HeNormalFanOut",
    "StemPooling",
    "Transition",
]


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


class _Part(RunsOnce, keras.layers.Layer):
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
        kernel_initializer: Any = HeNormalFanOut,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        own = [*inspect.signature(type(self)).parameters, *inspect.signature(_Part).parameters]
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


@keras.saving.register_keras_serializable("densenet_nb")
class CompositeFunction(_Part):
    """H: batch normalization, ReLU, convolution (section 3, "Composite function").

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size : int
        Side of the convolution in pixels; the map keeps its size.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon,
        kernel_initializer, kernel_regularizer.
    """

    def __init__(self, filters: int, kernel_size: int, **options: Any) -> None:
        super().__init__(**options)
        composite = self.composite
        self.filters = require_positive_integer("filters", filters)
        self.kernel_size = require_positive_integer("kernel_size", kernel_size)
        self.norm = self._part(
            BatchNormalization, momentum=composite.momentum, epsilon=composite.epsilon, name="norm"
        )
        self.activate = fresh(composite.activation)
        self.conv = self._part(
            keras.layers.Conv2D,
            self.filters,
            self.kernel_size,
            padding="same",
            use_bias=False,
            kernel_initializer=fresh(composite.kernel_initializer),
            kernel_regularizer=composite.kernel_regularizer,
            name="conv",
        )
        self.dropout = self._part(keras.layers.Dropout, composite.dropout_rate, name="dropout")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights: γ, β, moving mean, moving variance, the activation's, kernel."""
        self.norm.build(input_shape)
        if has_weights(self.activate):
            self.activate.build(input_shape)
        self.conv.build(input_shape)

    def call(
        self, x: Any, training: bool | None = None, statistics: Statistics | None = None
    ) -> Any:
        """Map (batch, height, width, m) to (batch, height, width, filters).

        In training the maps' statistics may be given: see
        :class:`densenet_nb.normalization.BatchNormalization`.
        """
        if training and self.norm.uses_kernel(x) and not has_weights(self.activate):
            return self.dropout(self._by_kernels(x, statistics), training=True)
        x = self.activate(self.norm(x, training=training, statistics=statistics))
        return self.dropout(self.conv(x), training=training)

    @property
    def plain(self) -> bool:
        """Whether it is normalization, an activation without weights and a convolution, no more."""
        learns = self.norm.trainable and not has_weights(self.activate)
        return learns and self.dropout.rate == 0

    def _by_kernels(self, x: Any, statistics: Statistics | None) -> Any:
        norm = self.norm
        if not norm.trainable:
            statistics = Statistics(norm.moving_mean.value, norm.moving_variance.value)
        outputs, statistics = composite.composite_function(
            x,
            norm.gamma.value,
            norm.beta.value,
            self.conv.kernel.value,
            statistics,
            activation=self.activate,
            epsilon=norm.epsilon,
        )
        if norm.trainable:
            norm.move_averages(x, statistics)
        return outputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the maps it makes."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
        }


@keras.saving.register_keras_serializable("densenet_nb")
class DenseLayer(_Part):
    """H_l: the k new feature maps that one layer of a dense block makes from all before it.

    Parameters
    ----------
    growth_rate : int
        k, the channels of the output.
    bottleneck : bool
        True: BN-ReLU-Conv(1x1) to 4 k channels, then BN-ReLU-Conv(3x3) (DenseNet-B).
        False: BN-ReLU-Conv(3x3) alone.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon,
        kernel_initializer, kernel_regularizer.
    """

    def __init__(self, growth_rate: int, bottleneck: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.growth_rate = k = require_positive_integer("growth_rate", growth_rate)
        self.bottleneck = require_boolean("bottleneck", bottleneck)
        shapes = [(k, 3, "composite")]
        if bottleneck:
            shapes.insert(0, (BOTTLENECK_WIDTH * k, 1, "bottleneck"))
        self.functions = self._in_order(
            [
                self._part(CompositeFunction, filters, size, name=name, **vars(self.composite))
                for filters, size, name in shapes
            ]
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights of each composite function in turn."""
        for function in self.functions:
            function.build(input_shape)
            input_shape = function.compute_output_shape(input_shape)

    def call(
        self, x: Any, training: bool | None = None, statistics: Statistics | None = None
    ) -> Any:
        """Map (batch, height, width, m) to (batch, height, width, k).

        `statistics` are those of `x`, for the first composite function.
        """
        first, *rest = self.functions
        x = first(x, training=training, statistics=statistics)
        for function in rest:
            x = function(x, training=training)
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the new maps."""
        return (*input_shape[:-1], self.growth_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "growth_rate": self.growth_rate,
            "bottleneck": self.bottleneck,
        }


@keras.saving.register_keras_serializable("densenet_nb")
class DenseBlock(_Part):
    """Layers each of which reads all maps before it: x_l = H_l([x_0, x_1, …, x_(l-1)]) (eq. 2).

    Parameters
    ----------
    num_layers : int
        Dense layers in the block.
    growth_rate : int
        k, the channels that each layer adds.
    bottleneck : bool
        Whether each layer has a 1x1 convolution to 4 k channels first (DenseNet-B).
    memory_efficient : bool
        In training, keep nothing but the maps, once; compute the rest again in the backward pass
        (arXiv 1707.06990). The same function to rounding.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon,
        kernel_initializer, kernel_regularizer.
    """

    def __init__(
        self,
        num_layers: int,
        growth_rate: int,
        bottleneck: bool = True,
        memory_efficient: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.memory_efficient = require_boolean("memory_efficient", memory_efficient)
        self.num_layers = require_positive_integer("num_layers", num_layers)
        self.growth_rate = require_positive_integer("growth_rate", growth_rate)
        self.bottleneck = require_boolean("bottleneck", bottleneck)
        self.dense_layers = self._in_order(
            [
                self._part(
                    DenseLayer,
                    growth_rate,
                    bottleneck,
                    name=f"layer{index}",
                    **vars(self.composite),
                )
                for index in range(1, self.num_layers + 1)
            ]
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights of each layer for the channels it reads: k0 + (l - 1) k."""
        for index, layer in enumerate(self.dense_layers):
            layer.build((*input_shape[:-1], input_shape[-1] + index * self.growth_rate))

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Map (batch, height, width, k0) to (batch, height, width, k0 + num_layers k)."""
        x = require_images(x) if training else x
        if training and self._compiles(x):
            return self._compiled(x)
        if training and self.memory_efficient:
            return recomputation.dense_block(self.dense_layers, x)
        statistics = moments(x) if training else None
        with moving_together():
            for layer in self.dense_layers:
                new = layer(x, training=training, statistics=statistics)  # (…, k)
                x = ops.concatenate([x, new], axis=-1)  # (…, k0 + l k)
                statistics = statistics.join(moments(new)) if training else None
        return x

    def _compiles(self, x: Any) -> bool:
        served = all(part.plain and part.norm.uses_kernel(x) for part in self._functions())
        return served and compiled.serves(x)

    def _functions(self) -> list[CompositeFunction]:
        return [function for layer in self.dense_layers for function in layer.functions]

    def _compiled(self, x: Any) -> Any:
        first, *_ = self.dense_layers[0].functions
        maps, used = compiled.dense_block(
            x,
            [[_weights(function) for function in layer.functions] for layer in self.dense_layers],
            activation=first.activate,
            epsilon=first.norm.epsilon,
            memory_efficient=self.memory_efficient,
        )
        with moving_together():
            for function, statistics in zip(self._functions(), used, strict=True):
                function.norm.move_averages(x, statistics)
        return maps

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of all maps: those that came in and those that were made."""
        return (*input_shape[:-1], input_shape[-1] + self.num_layers * self.growth_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "growth_rate": self.growth_rate,
            "bottleneck": self.bottleneck,
            "memory_efficient": self.memory_efficient,
        }


def _weights(function: CompositeFunction) -> "compiled.Weights":
    norm = function.norm
    return compiled.Weights(norm.gamma.value, norm.beta.value, function.conv.kernel.value)


@keras.saving.register_keras_serializable("densenet_nb")
class Transition(_Part):
    """Between two dense blocks: BN-ReLU-Conv(1x1) to floor(θ m) channels, 2x2 average pooling.

    The 1x1 convolution and the pooling are linear, one over channels and one over pixels, so they
    commute: pooling first spares the convolution three quarters of its pixels. Only with dropout
    between them, in training, is the paper's order kept.

    Parameters
    ----------
    compression : float
        θ in (0, 1]: the share of the m channels kept (section 3, "Compression").
    memory_efficient : bool
        In training, keep nothing but the input; compute the rest again in the backward pass.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon,
        kernel_initializer, kernel_regularizer.
    """

    def __init__(
        self, compression: float = 0.5, memory_efficient: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.memory_efficient = require_boolean("memory_efficient", memory_efficient)
        self.compression = require_compression(compression)
        self.pool = self._part(keras.layers.AveragePooling2D, 2, name="pool")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make γ, β, moving mean, moving variance and the kernel for floor(θ m) channels."""
        filters = transition_filters(input_shape[-1], self.compression)
        self.function = self._part(
            CompositeFunction, filters, 1, name="composite", **vars(self.composite)
        )
        self.function.build(input_shape)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Map (batch, height, width, m) to (batch, height // 2, width // 2, floor(θ m))."""
        if training and self.memory_efficient:
            return recomputation.recompute(self, functools.partial(self._map, training=True), x)
        return self._map(x, training)

    def _map(self, x: Any, training: bool | None) -> Any:
        if training and self.function.dropout.rate > 0:
            return self.pool(self.function(x, training=training))
        norm = self.function.norm
        served = self.function.plain and norm.uses_kernel(x) and all(x.shape[1:])
        if training and served and compiled.serves(x):
            outputs, statistics = compiled.normalize(
                x,
                norm.gamma.value,
                norm.beta.value,
                activation=self.function.activate,
                epsilon=norm.epsilon,
                pooled=True,
            )
            norm.move_averages(x, statistics)
            return self.function.conv(outputs)
        x = self.function.activate(self.function.norm(x, training=training))
        return self.function.conv(self.pool(x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape after halving both sides and keeping floor(θ m) channels."""
        *_, channels = input_shape
        pooled = self.pool.compute_output_shape(input_shape)
        return (*pooled[:-1], transition_filters(channels, self.compression))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {
            **super().get_config(),
            "compression": self.compression,
            "memory_efficient": self.memory_efficient,
        }


@keras.saving.register_keras_serializable("densenet_nb")
class StemPooling(keras.layers.MaxPooling2D):
    """3x3 max pooling with stride 2 over maps padded with zeros (Table 1).

    In training the padded copy is not kept: it would be a tenth of a network's memory.
    """

    def __init__(self, pool_size: int = 3, strides: int = 2, **options: Any) -> None:
        super().__init__(pool_size, strides, **options)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Map (batch, height, width, k0) to (batch, ⌈height / 2⌉, ⌈width / 2⌉, k0)."""
        return recomputation.recompute(self, self._pool, x) if training else self._pool(x)

    def _pool(self, x: Any) -> Any:
        return super().call(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape after padding and pooling."""
        batch, *sides, channels = input_shape
        padded = [None if side is None else side + 2 for side in sides]
        return super().compute_output_shape((batch, *padded, channels))


def has_weights(activation: Any) -> bool:
    """Whether an activation is a Keras layer, which may learn: its gradient is autodiff's."""
    return isinstance(activation, keras.layers.Layer)


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
