"""What a DenseNet costs, counted from its configuration: parameters, multiply-adds, kept memory.

Nothing is built and Keras is not needed. :func:`rows` walks once over the network as
:func:`densenet_nb.textbook.DenseNet` builds it; every total is a sum over that walk.

Sizes are pixels, ``(height, width)`` of one feature map; counts are of one image unless a batch is
named.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from itertools import groupby
from typing import NamedTuple

from densenet_nb.checks import require_positive_integer
from densenet_nb.configurations import BOTTLENECK_WIDTH, Configuration, transition_filters

__all__ = [
    "Convolution",
    "Cost",
    "Parameters",
    "Peak",
    "Row",
    "activation_bytes",
    "composite_function",
    "dense_layer",
    "multiply_adds",
    "parameters",
    "peak",
    "rows",
    "table",
    "total_cost",
    "transition",
]


class Parameters(NamedTuple):
    """Counts of parameters.

    Attributes
    ----------
    trainable : int
        Kernels, the classifier's biases, and γ and β of batch normalization.
    total : int
        Those and the moving means and variances.
    """

    trainable: int
    total: int


class Convolution(NamedTuple):
    """A ``size x size`` convolution without bias from `channels` to `filters` feature maps."""

    channels: int
    filters: int
    size: int

    @property
    def weights(self) -> int:
        """Values in the kernel; also the multiply-adds of one output pixel."""
        return self.size**2 * self.channels * self.filters

    def multiply_adds(self, height: int, width: int) -> int:
        """Multiply-adds for ``height x width`` output pixels, products with padding included."""
        return height * width * self.weights


@dataclass(frozen=True)
class Cost:
    """What some part of a network costs; costs add up.

    Attributes
    ----------
    trainable, total : int
        Parameters, as in :class:`Parameters`.
    multiply_adds : int
        Of the convolutions and the classifier, for one image, forward.
    kept : int
        Values that the textbook keeps for the backward pass, for one image (see
        :func:`activation_bytes`).
    kept_plain : int
        The same of :mod:`densenet_nb.models`: a tensor for each composite function, and the maps.
    kept_memory_efficient : int
        The same with ``memory_efficient=True``: a block keeps its maps only.
    """

    trainable: int = 0
    total: int = 0
    multiply_adds: int = 0
    kept: int = 0
    kept_plain: int = 0
    kept_memory_efficient: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Row:
    """A step of the network: what it reads, what it passes on, what it costs.

    Attributes
    ----------
    name : str
        Name of the layer in :mod:`densenet_nb.models`, without the model's prefix: ``stem_conv``,
        ``block1``, ``transition1``, … The dense layers of a block share the block's name.
    inputs : int
        Channels that enter.
    height, width, channels : int
        The feature maps that leave; after a dense layer, all maps of the block so far.
    cost : Cost
        Batch normalization and ReLU count with the convolution that they belong to.
    """

    name: str
    inputs: int
    height: int
    width: int
    channels: int
    cost: Cost


def parameters(
    configuration: Configuration,
    channels: int = 3,
    classes: int = 1000,
    include_top: bool = True,
) -> Parameters:
    """Count the parameters of a network.

    Parameters
    ----------
    configuration : Configuration
        The network.
    channels : int
        Of the images.
    classes : int
        Width of the classifier.
    include_top : bool
        Whether the classifier counts.

    Returns
    -------
    counts : Parameters
        Trainable, and total with moving statistics: what Keras's ``count_params`` says.

    Raises
    ------
    ValueError
        `channels` or `classes` is not a positive integer.
    """
    side = configuration.stride  # any size will do: weights are shared by all pixels
    cost = total_cost(rows(configuration, side, side, channels, classes, include_top))
    return Parameters(cost.trainable, cost.total)


def multiply_adds(
    configuration: Configuration,
    height: int = 224,
    width: int = 224,
    channels: int = 3,
    classes: int = 1000,
    include_top: bool = True,
) -> int:
    """Count the multiply-adds of one image's forward pass.

    Counted are the convolutions, in the paper's order (a transition convolves, then pools), and
    the classifier's matrix product. A product with a padding zero counts, as in TensorFlow's
    profiler, whose float operations are twice this. Normalization, ReLU, pooling and biases do
    not count.

    Parameters
    ----------
    configuration : Configuration
        The network.
    height, width, channels : int
        Of the image.
    classes : int
        Width of the classifier.
    include_top : bool
        Whether the classifier counts.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        A number is not a positive integer, or the image is smaller than the network's stride.
    """
    return total_cost(
        rows(configuration, height, width, channels, classes, include_top)
    ).multiply_adds


def activation_bytes(
    configuration: Configuration,
    height: int = 224,
    width: int = 224,
    channels: int = 3,
    classes: int = 1000,
    include_top: bool = True,
    *,
    batch_size: int = 1,
    itemsize: int = 4,
    memory_efficient: bool = False,
) -> int:
    """Count the bytes that a training step keeps for the backward pass.

    The network is the textbook's, as :func:`densenet_nb.textbook.DenseNet` builds it, or with
    `memory_efficient` that of :mod:`densenet_nb.models`; without dropout. Kept are
    the forward tensors that the gradients with respect to the weights read: the input of each
    convolution, batch normalization, max pooling and matrix product, the output of each ReLU and
    of the max pooling, and the softmax for the cross-entropy. A tensor that several gradients read
    is kept once. Tensors that do not grow with the batch (weights, statistics per channel) are
    left out.

    The textbook's l-th dense layer keeps its concatenated input twice, before and after
    normalization and ReLU: 2 (k0 + (l − 1) k) maps, and 8 k more with a bottleneck. Summed over a
    block this grows with the square of its layers (arXiv 1707.06990, section 3).

    A memory-efficient block keeps its k0 + n k maps once, whatever its dense layers and the
    transition after it make of them: what is kept grows linearly with the number n of layers.

    Parameters
    ----------
    configuration : Configuration
        The network.
    height, width, channels : int
        Of the images.
    classes : int
        Width of the classifier.
    include_top : bool
        Whether the network ends with its classifier and the loss is the cross-entropy; otherwise
        the step ends with the last ReLU.
    batch_size : int
        Images in a step.
    itemsize : int
        Bytes of a value, one for all tensors: 4 for float32. (Keras's mixed precision is no such
        case: it normalizes in float32.)
    memory_efficient : bool
        Whether the step is that of a network built with ``memory_efficient=True``.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        A number is not a positive integer, or the image is smaller than the network's stride.
    """
    batch_size = require_positive_integer("batch_size", batch_size)
    itemsize = require_positive_integer("itemsize", itemsize)
    cost = total_cost(rows(configuration, height, width, channels, classes, include_top))
    return batch_size * itemsize * (cost.kept_memory_efficient if memory_efficient else cost.kept)


WORKING_MAPS = 5
"""Tensors as large as the maps at hand that a step of the backward pass holds beside what is kept:
the gradient of these maps, the maps normalized and activated anew, the gradients behind and before
ReLU, and one more, which a second thread still reads or already writes. (A bottleneck's 4 k maps
come in the place of the layer's share of such a tensor.)"""

ALLOCATOR_GAPS = {False: 0.38, True: 0.275}
"""Measured, plain and memory-efficient: the share that TensorFlow's allocator takes on top. It
hands out chunks of up to twice the size asked for, and gives none back."""

PROGRAM_MIB = {
    (True, False): (0, 1.4),
    (True, True): (4, 1.35),
    (False, False): (0, 3.2),
    (False, True): (25, 1.85),
}
"""Measured, by whether there are bottlenecks and whether it is memory-efficient: MiB of the process
for any network, and for each convolution. It is the traced step with its kernels, the same for
every batch."""


class Peak(NamedTuple):
    """Bytes that training takes at its peak.

    Attributes
    ----------
    weights : int
        All weights and the optimizer's momenta; there before the first step.
    gradients : int
        Of the trainable weights.
    maps : int
        What is kept at the widest moment, the tensors that moment works on, and the allocator's
        gaps. The only part that grows with the batch, in proportion.
    program : int
        The traced step in the memory of the process; on a GPU it is the host's.
    """

    weights: int
    gradients: int
    maps: int
    program: int

    @property
    def step(self) -> int:
        """What a step adds to a process that has the weights and the momenta."""
        return self.gradients + self.maps + self.program


def peak(
    configuration: Configuration,
    height: int = 224,
    width: int = 224,
    channels: int = 3,
    classes: int = 1000,
    *,
    batch_size: int = 1,
    memory_efficient: bool = False,
) -> Peak:
    """Predict the peak memory of a training step on a CPU: float32, SGD with momentum, no XLA.

    The network is that of :mod:`densenet_nb.models`, with its classifier and without dropout. The
    backward pass frees what is kept from the end on, and works on the maps of one row at a time:
    of the moments, each :data:`WORKING_MAPS` tensors as large as what a row reads or makes, and
    all that the rows up to it keep, the widest counts. Memory-efficient blocks make it the last
    layer of block 1, plain ones the last row.

    Weights, gradients and maps are counted from the code; :data:`ALLOCATOR_GAPS` and
    :data:`PROGRAM_MIB` are measured, with TensorFlow 2.21 on two cores. In the records
    ``side_by_side``, ``cost_against_size`` and ``peak_memory`` the process grew by at most what
    this says and, where it grew most for a size, by at least 1/1.15 of it. A GPU's layouts and
    workspaces come on top: there take it for a lower bound.

    Parameters
    ----------
    configuration : Configuration
        The network.
    height, width, channels : int
        Of the images.
    classes : int
        Width of the classifier.
    batch_size : int
        Images in a step.
    memory_efficient : bool
        Whether the network is built with ``memory_efficient=True``.

    Returns
    -------
    Peak

    Raises
    ------
    ValueError
        A number is not a positive integer, or the image is smaller than the network's stride.
    """
    batch_size = require_positive_integer("batch_size", batch_size)
    kept = widest = 0
    before = height * width
    for row in rows(configuration, height, width, channels, classes):
        after = row.height * row.width
        kept += row.cost.kept_memory_efficient if memory_efficient else row.cost.kept_plain
        at_hand = max(row.inputs * before, row.channels * after)
        widest = max(widest, kept + WORKING_MAPS * at_hand)
        before = after
    trainable, total = parameters(configuration, channels, classes)
    start, each = PROGRAM_MIB[configuration.bottleneck, memory_efficient]
    return Peak(
        weights=4 * (total + trainable),
        gradients=4 * trainable,
        maps=int(4 * batch_size * widest * (1 + ALLOCATOR_GAPS[memory_efficient])),
        program=int((start + each * (configuration.depth - 1)) * 2**20),
    )


def rows(
    configuration: Configuration,
    height: int = 224,
    width: int = 224,
    channels: int = 3,
    classes: int = 1000,
    include_top: bool = True,
) -> Iterator[Row]:
    """Walk over the network from the image to the classifier, one dense layer at a time.

    A tensor that the textbook keeps counts in the row that reads it: the last concatenation of a
    block in the transition. The maps that a memory-efficient block keeps count in the rows that
    make them, those that enter in the first.

    Parameters
    ----------
    configuration : Configuration
        The network.
    height, width, channels : int
        Of the image.
    classes : int
        Width of the classifier.
    include_top : bool
        Whether the walk ends with the classifier.

    Returns
    -------
    iterator of Row

    Raises
    ------
    ValueError
        A number is not a positive integer, or the image is smaller than the network's stride.
    """
    channels = require_positive_integer("channels", channels)
    classes = require_positive_integer("classes", classes)
    height = require_positive_integer("height", height)
    width = require_positive_integer("width", width)
    for name, value in (("height", height), ("width", width)):
        if value < configuration.stride:
            raise ValueError(
                f"{name}={value!r}: must be at least {configuration.stride}, the network's stride; "
                "enlarge the image or take a network of fewer blocks or without the ImageNet stem."
            )
    return _walk(configuration, height, width, channels, classes if include_top else None)


def table(steps: Iterable[Row]) -> list[Row]:
    """Merge the dense layers of each block, as the paper's Table 1 does.

    Parameters
    ----------
    steps : iterable of Row
        From :func:`rows`.

    Returns
    -------
    list of Row
        With the inputs of a block's first layer, the output of its last and the cost of all.
    """
    return [_merge(list(layers)) for _, layers in groupby(steps, key=lambda row: row.name)]


def total_cost(steps: Iterable[Row]) -> Cost:
    """Add up the costs of `steps`."""
    return sum((row.cost for row in steps), Cost())


def dense_layer(
    channels: int, growth_rate: int, bottleneck: bool = True
) -> tuple[Convolution, ...]:
    """Return the convolutions of a dense layer (section 3, "Bottleneck layers").

    Parameters
    ----------
    channels : int
        c, the feature maps that the layer reads.
    growth_rate : int
        k, the feature maps that it makes.
    bottleneck : bool
        True: 1x1 from c to 4 k, then 3x3 from 4 k to k. False: 3x3 from c to k.

    Raises
    ------
    ValueError
        `channels` or `growth_rate` is not a positive integer.
    """
    channels = require_positive_integer("channels", channels)
    growth_rate = require_positive_integer("growth_rate", growth_rate)
    if not bottleneck:
        return (Convolution(channels, growth_rate, 3),)
    middle = BOTTLENECK_WIDTH * growth_rate
    return Convolution(channels, middle, 1), Convolution(middle, growth_rate, 3)


def transition(channels: int, compression: float = 0.5) -> Convolution:
    """Return a transition's convolution: 1x1 from m to floor(θ m) (section 3, "Compression").

    Parameters
    ----------
    channels : int
        m, the feature maps that leave the dense block.
    compression : float
        θ in (0, 1].

    Raises
    ------
    ValueError
        `channels` is not a positive integer, or θ is out of range.
    """
    channels = require_positive_integer("channels", channels)
    return Convolution(channels, transition_filters(channels, compression), 1)


def composite_function(convolution: Convolution, height: int, width: int) -> Cost:
    """Count BN, ReLU, convolution (section 3, "Composite function") on ``height x width`` maps.

    Kept are the input, for batch normalization's gradient, and ReLU's output, for ReLU's and the
    convolution's.
    """
    return _normalize_activate(convolution.channels, height, width) + _convolve(
        convolution, height, width
    )


def _walk(
    configuration: Configuration, height: int, width: int, channels: int, classes: int | None
) -> Iterator[Row]:
    stem = list(_stem(configuration, height, width, channels))
    yield from stem
    height, width = stem[-1].height, stem[-1].width
    k = configuration.growth_rate
    inputs_and_outputs = zip(configuration.block_inputs, configuration.block_outputs, strict=True)
    for index, (k0, m) in enumerate(inputs_and_outputs, start=1):
        for c in range(k0, m, k):
            layers = dense_layer(c, k, configuration.bottleneck)
            cost = sum((composite_function(layer, height, width) for layer in layers), Cost())
            # Plain, a layer keeps as many maps as its convolutions read; the block's maps, once,
            # count where they are read at last.
            inputs = sum(layer.channels for layer in layers)
            new = c + k if c == k0 else k
            cost = replace(
                cost,
                kept_plain=height * width * inputs,
                kept_memory_efficient=height * width * new,
            )
            yield Row(f"block{index}", c, height, width, c + k, cost)
        if index < len(configuration.blocks):
            convolution = transition(m, configuration.compression)
            cost = composite_function(convolution, height, width)
            height, width = height // 2, width // 2
            pooled = height * width * m  # before the convolution, in models
            cost = replace(cost, kept_plain=cost.kept + pooled, kept_memory_efficient=0)
            yield Row(f"transition{index}", m, height, width, convolution.filters, cost)
    cost = _normalize_activate(m, height, width)
    cost = replace(cost, kept_memory_efficient=height * width * m)  # the block has its input
    yield Row("final_norm", m, height, width, m, cost)
    if classes is not None:
        weights = m * classes + classes
        kept = m + classes
        cost = Cost(weights, weights, m * classes, kept, kept, kept)
        yield Row("classifier", m, 1, 1, classes, cost)


def _stem(configuration: Configuration, height: int, width: int, channels: int) -> Iterator[Row]:
    """Yield the steps up to the first dense block, which counts what it reads of them."""
    k0 = configuration.stem_filters
    if not configuration.imagenet_stem:
        convolution = Convolution(channels, k0, 3)
        cost = _convolve(convolution, height, width, kept=height * width * channels)
        yield Row("stem_conv", channels, height, width, k0, cost)
        return
    convolution = Convolution(channels, k0, 7)
    padded_image = (height + 6) * (width + 6) * channels
    height, width = (height + 1) // 2, (width + 1) // 2  # stride 2, padded by 3 on every side
    cost = _convolve(convolution, height, width, padded_image)
    cost += _normalize_activate(k0, height, width)
    yield Row("stem_conv", channels, height, width, k0, cost)
    padded_maps = (height + 2) * (width + 2) * k0
    height, width = (height + 1) // 2, (width + 1) // 2  # stride 2, padded by 1 on every side
    cost = Cost(kept=padded_maps)  # ReLU's output, padded: models pad it again
    yield Row("stem_pool", k0, height, width, k0, cost)


def _convolve(convolution: Convolution, height: int, width: int, kept: int = 0) -> Cost:
    """Count a convolution to ``height x width`` pixels, and the `kept` values of its input."""
    weights = convolution.weights
    return Cost(weights, weights, convolution.multiply_adds(height, width), kept, kept, kept)


def _normalize_activate(channels: int, height: int, width: int) -> Cost:
    """Count BN-ReLU: γ and β, then moving mean and variance; its input and output are kept."""
    kept = 2 * height * width * channels
    return Cost(2 * channels, 4 * channels, 0, kept, kept, kept)


def _merge(layers: list[Row]) -> Row:
    return replace(layers[-1], inputs=layers[0].inputs, cost=total_cost(layers))
