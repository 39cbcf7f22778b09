"""The parts of the paper as Keras layers: composite function, dense layer, dense block, transition.

Every part takes and returns raw feature maps, ``(batch, height, width, channels)``, so any layer
may stand between them. Weights are made in the order of ``keras.applications``.
"""

import functools
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.checks import require_boolean, require_compression, require_positive_integer
from densenet_nb.configurations import BOTTLENECK_WIDTH, transition_filters
from densenet_nb.engine import recomputation, ways
from densenet_nb.engine.statistics import Statistics, moments, moving_together, require_images
from densenet_nb.normalization import BatchNormalization
from densenet_nb.parts import HeNormalFanOut, Part, fresh

__all__ = [
    "CompositeFunction",
    "DenseBlock",
    "DenseLayer",
    "HeNormalFanOut",
    "StemPooling",
    "Transition",
]


@keras.saving.register_keras_serializable("densenet_nb")
class CompositeFunction(Part):
    """H: batch normalization, ReLU, convolution (section 3, "Composite function").

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size : int
        Side of the convolution in pixels; the map keeps its size.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon, synchronized,
        kernel_initializer, kernel_regularizer.
    """

    def __init__(self, filters: int, kernel_size: int, **options: Any) -> None:
        super().__init__(**options)
        composite = self.composite
        self.filters = require_positive_integer("filters", filters)
        self.kernel_size = require_positive_integer("kernel_size", kernel_size)
        self.norm = self._part(
            BatchNormalization,
            momentum=composite.momentum,
            epsilon=composite.epsilon,
            synchronized=composite.synchronized,
            name="norm",
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
        if ways.has_weights(self.activate):
            self.activate.build(input_shape)
        self.conv.build(input_shape)

    def call(
        self, x: Any, training: bool | None = None, statistics: Statistics | None = None
    ) -> Any:
        """Map (batch, height, width, m) to (batch, height, width, filters).

        In training the maps' statistics may be given: see
        :class:`densenet_nb.normalization.BatchNormalization`.
        """
        if training and ways.serves(self, x):
            return self.dropout(ways.by_kernels(self, x, statistics), training=True)
        x = self.activate(self.norm(x, training=training, statistics=statistics))
        return self.dropout(self.conv(x), training=training)

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
class DenseLayer(Part):
    """H_l: the k new feature maps that one layer of a dense block makes from all before it.

    Parameters
    ----------
    growth_rate : int
        k, the channels of the output.
    bottleneck : bool
        True: BN-ReLU-Conv(1x1) to 4 k channels, then BN-ReLU-Conv(3x3) (DenseNet-B).
        False: BN-ReLU-Conv(3x3) alone.
    **options
        Those of every part: activation, dropout_rate, momentum, epsilon, synchronized,
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
class DenseBlock(Part):
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
        Those of every part: activation, dropout_rate, momentum, epsilon, synchronized,
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
        if training and ways.written_out(self._functions(), x):
            return ways.dense_block(self.dense_layers, x, self.memory_efficient)
        if training and self.memory_efficient:
            return recomputation.dense_block(self.dense_layers, x, self.composite.synchronized)
        statistics = self._moments(x) if training else None
        with moving_together():
            for layer in self.dense_layers:
                new = layer(x, training=training, statistics=statistics)  # (…, k)
                x = ops.concatenate([x, new], axis=-1)  # (…, k0 + l k)
                statistics = statistics.join(self._moments(new)) if training else None
        return x

    def _moments(self, x: Any) -> Statistics:
        return moments(x, self.composite.synchronized)

    def _functions(self) -> list[CompositeFunction]:
        return [function for layer in self.dense_layers for function in layer.functions]

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


@keras.saving.register_keras_serializable("densenet_nb")
class Transition(Part):
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
        Those of every part: activation, dropout_rate, momentum, epsilon, synchronized,
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
        if training and all(x.shape[1:]) and ways.compiles(self.function, x):
            return self.function.conv(ways.compiled_pooling(self.function, x))
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
