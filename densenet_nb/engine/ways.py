"""The ways that a layer can take in training: whether one serves it, and what it hands over.

A composite function is read here as its parts ``norm``, ``activate``, ``conv`` and ``dropout``,
a dense layer as its composite functions, ``functions``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb.engine.statistics import (
    Statistics,
    has_kernel,
    moments,
    moving_together,
    uses_kernel,
)

if keras.backend.backend() == "tensorflow":
    from densenet_nb.engine import block, compiled, composite

__all__ = [
    "by_kernels",
    "compiled_pooling",
    "compiles",
    "dense_block",
    "has_weights",
    "serves",
    "written_out",
]


def has_weights(activation: Any) -> bool:
    """Whether an activation is a Keras layer, which may learn: its gradient is autodiff's."""
    return isinstance(activation, keras.layers.Layer)


def serves(function: keras.layers.Layer, x: Any) -> bool:
    """Whether :func:`by_kernels` serves a composite function of `x`."""
    return _fits(function, x) and uses_kernel(x)


def _fits(function: keras.layers.Layer, x: Any) -> bool:
    single = function.norm.variable_dtype == "float32"
    return single and has_kernel(x) and not has_weights(function.activate)


def by_kernels(function: keras.layers.Layer, x: Any, statistics: Statistics | None) -> Any:
    """Return a composite function's outputs, before dropout, and move its averages.

    Parameters
    ----------
    function : densenet_nb.layers.CompositeFunction
        Built.
    x : tensor
        (batch, height, width, m).
    statistics : Statistics, optional
        Of `x`; by default they are computed.

    Returns
    -------
    tensor
        (batch, height, width, filters).
    """
    norm = function.norm
    if not norm.trainable:
        statistics = Statistics(norm.moving_mean.value, norm.moving_variance.value)
    elif statistics is None and norm.synchronized:
        statistics = moments(x, norm.synchronized)
    outputs, statistics = composite.composite_function(
        x,
        *_vectors(function),
        function.conv.kernel.value,
        statistics,
        activation=function.activate,
        epsilon=norm.epsilon,
    )
    if norm.trainable:
        norm.move_averages(x, statistics)
    return outputs


def written_out(functions: Iterable[keras.layers.Layer], x: Any) -> bool:
    """Whether passes that are written out serve composite functions of `x` and what they make.

    These must be normalization, an activation without weights and a convolution, no more.
    """
    return all(_plain(f) and _fits(f, x) for f in functions)


def compiles(function: keras.layers.Layer, x: Any) -> bool:
    """Whether :func:`compiled_pooling` serves a composite function of `x`."""
    return written_out([function], x) and compiled.serves(x)


def _plain(function: keras.layers.Layer) -> bool:
    norm = function.norm
    return norm.trainable and not norm.synchronized and function.dropout.rate == 0


def dense_block(layers: Sequence[keras.layers.Layer], x: Any, memory_efficient: bool) -> Any:
    """Return all maps of a dense block and move its averages: on a GPU :mod:`.compiled`'s way.

    Parameters
    ----------
    layers : sequence of densenet_nb.layers.DenseLayer
        Built; each reads all maps before it and makes k.
    x : tensor
        (batch, height, width, k0).
    memory_efficient : bool
        Whether nothing but the maps is kept.

    Returns
    -------
    tensor
        (batch, height, width, k0 + num_layers k).
    """
    functions = [function for layer in layers for function in layer.functions]
    way = compiled if compiled.serves(x) else block
    maps, used = way.dense_block(
        x,
        [
            [block.Weights(*_vectors(each), each.conv.kernel.value) for each in layer.functions]
            for layer in layers
        ],
        activation=functions[0].activate,
        epsilon=functions[0].norm.epsilon,
        memory_efficient=memory_efficient,
    )
    with moving_together():
        for function, statistics in zip(functions, used, strict=True):
            function.norm.move_averages(x, statistics)
    return maps


def compiled_pooling(function: keras.layers.Layer, x: Any) -> Any:
    """Return what a transition convolves, and move its averages.

    Parameters
    ----------
    function : densenet_nb.layers.CompositeFunction
        Built; its convolution is left out.
    x : tensor
        (batch, height, width, m), height and width known.

    Returns
    -------
    tensor
        Normalized, activated and averaged over 2x2 pixels.
    """
    outputs, statistics = compiled.normalize(
        x,
        *_vectors(function),
        activation=function.activate,
        epsilon=function.norm.epsilon,
        pooled=True,
    )
    function.norm.move_averages(x, statistics)
    return outputs


def _vectors(function: keras.layers.Layer) -> tuple[Any, Any]:
    return function.norm.gamma.value, function.norm.beta.value
