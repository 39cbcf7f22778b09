"""How much each layer weighs what each earlier layer made: the paper's Figure 5."""

from collections.abc import Iterator
from dataclasses import dataclass

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.layers import CompositeFunction, DenseBlock, Transition

__all__ = ["Reuse", "feature_reuse"]

PER_CHANNEL = (
    keras.layers.Activation,
    keras.layers.AveragePooling2D,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.ZeroPadding2D,
)
"""Layers whose every output channel comes from the input channel of the same number."""


@dataclass(frozen=True)
class Reuse:
    """The weights of a dense block and of what reads it.

    `sources` names what was concatenated, from the block's input on; `targets` names the layers
    that read it, in order; ``weights[s, t]`` is the mean absolute weight with which target t reads
    source s, and NaN where it does not. (sources, targets) in float.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    weights: np.ndarray


@dataclass(frozen=True)
class _Reader:
    """A convolution or classifier: `sources` are what it reads, (name, channels), in order."""

    name: str
    sources: tuple[tuple[str, int], ...]
    kernel: keras.Variable
    gamma: keras.Variable | None


def feature_reuse(model: keras.Model, gamma: bool = False) -> list[Reuse]:
    """Average the absolute weights that connect each layer of a dense block to each later one.

    As Figure 5 of arXiv 1608.06993: for each convolution that reads a concatenation, the mean of
    |W| over the channels of each of the maps concatenated, all pixels of the kernel and all
    filters. The last column is the transition's 1x1 convolution, or the classifier. With
    bottlenecks a layer's first convolution, 1x1, is the one that reads the concatenation.

    The paper weighs the filters alone. But each convolution reads maps that its own batch
    normalization has scaled by γ, so a small weight behind a large γ is as good as a large
    one behind a small γ. With `gamma` each weight is multiplied by the absolute γ of its channel.

    Parameters
    ----------
    model : keras.Model
        A functional model with dense blocks: ours, in stock Keras layers, or of
        ``keras.applications``. Concatenations of other networks are read in the same way.
    gamma : bool
        Whether to multiply each weight by the scale γ of the normalization before it.

    Returns
    -------
    list of Reuse
        One for each block, from the input on.

    Raises
    ------
    ValueError
        Nothing is concatenated in the model.
    """
    by_input: dict[str, list[_Reader]] = {}
    for reader in _readers(model):
        by_input.setdefault(reader.sources[0][0], []).append(reader)
    blocks = [r for r in by_input.values() if any(len(reader.sources) > 1 for reader in r)]
    if not blocks:
        raise ValueError(
            f"model {model.name!r} has no convolution or classifier that reads a concatenation: "
            "nothing is reused in it. (Of a model inside another, give that one.)"
        )
    return [_reuse(readers, gamma) for readers in blocks]


def _reuse(readers: list[_Reader], gamma: bool) -> Reuse:
    sources = [name for name, _ in max((r.sources for r in readers), key=len)]
    weights = np.full((len(sources), len(readers)), np.nan)
    for column, reader in enumerate(readers):
        means = _channel_means(reader, gamma)  # (channels,)
        start = 0
        for name, channels in reader.sources:
            weights[sources.index(name), column] = means[start : start + channels].mean()
            start += channels
    return Reuse(tuple(sources), tuple(reader.name for reader in readers), weights)


def _channel_means(reader: _Reader, gamma: bool) -> np.ndarray:
    kernel = np.abs(keras.ops.convert_to_numpy(reader.kernel).astype("float64"))
    means = np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1).mean(axis=1)
    if gamma and reader.gamma is not None:
        means *= np.abs(keras.ops.convert_to_numpy(reader.gamma))
    return means


def _readers(model: keras.Model) -> Iterator[_Reader]:
    """Yield all that have a kernel over channels, in the order of the graph."""
    for layer in model.layers:
        if isinstance(layer, DenseBlock):
            sources = _sources(layer.input)
            for part, made in zip(layer.dense_layers, _made(layer), strict=True):
                yield _function(f"{layer.name}/{part.name}", part.functions[0], sources)
                sources = (*sources, made)
        elif isinstance(layer, Transition):
            yield _function(layer.name, layer.function, _sources(layer.input))
        elif type(layer) in (keras.layers.Conv2D, keras.layers.Dense):
            gamma, tensor = _gamma_before(layer.input)
            if tensor.shape[-1] == layer.kernel.shape[-2]:  # not in groups
                yield _Reader(layer.name, _sources(tensor), layer.kernel, gamma)


def _function(
    name: str, function: CompositeFunction, sources: tuple[tuple[str, int], ...]
) -> _Reader:
    return _Reader(name, sources, function.conv.kernel, function.norm.gamma)


def _gamma_before(
    tensor: keras.KerasTensor,
) -> tuple[keras.Variable | None, keras.KerasTensor]:
    """Go back to what is normalized, activated and pooled; return γ too, if there is one."""
    gamma = None
    while isinstance(layer := tensor._keras_history.operation, PER_CHANNEL):
        gamma = getattr(layer, "gamma", None) if gamma is None else gamma
        tensor = layer.input
    return gamma, tensor


def _sources(tensor: keras.KerasTensor) -> tuple[tuple[str, int], ...]:
    """Return what is concatenated in a tensor: the name of each part and its channels."""
    layer = tensor._keras_history.operation
    if isinstance(layer, DenseBlock):
        return (*_sources(layer.input), *_made(layer))
    if isinstance(layer, keras.layers.Concatenate) and layer.axis in (-1, len(tensor.shape) - 1):
        return tuple(source for part in layer.input for source in _sources(part))
    _, made = _gamma_before(tensor)
    return ((made._keras_history.operation.name, tensor.shape[-1]),)


def _made(block: DenseBlock) -> list[tuple[str, int]]:
    """Return the name and channels of what each layer of a block makes."""
    return [(f"{block.name}/{part.name}", block.growth_rate) for part in block.dense_layers]
