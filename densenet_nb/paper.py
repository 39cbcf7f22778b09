"""What others measured: the paper's Tables 2 and 3, and the ResNets that it compares with.

Every number here is quoted, none is ours; test and validation errors are in %. Costs that the
tables leave out are counted. Nothing here needs Keras.
"""

from typing import NamedTuple

from densenet_nb.cost import Convolution, Parameters

__all__ = ["RESNETS", "TABLE_2", "TABLE_3", "ImageNetErrors", "SmallImageErrors", "resnet_costs"]


class SmallImageErrors(NamedTuple):
    """A row of Table 2: test errors in %, None where the table has none.

    Attributes
    ----------
    network : str
        As in the table; a DenseNet of ours by its name in `configurations.CONFIGURATIONS`.
    depth : int
        Layers with weights.
    millions : float
        Parameters, as printed.
    c10, c100, svhn : float or None
        CIFAR-10, CIFAR-100 and SVHN as they are.
    c10_plus, c100_plus : float or None
        With mirrored and shifted training images ("+").
    """

    network: str
    depth: int
    millions: float
    c10: float | None = None
    c10_plus: float | None = None
    c100: float | None = None
    c100_plus: float | None = None
    svhn: float | None = None


TABLE_2 = (
    SmallImageErrors("ResNet", 110, 1.7, None, 6.61),
    SmallImageErrors("ResNet, stochastic depth", 110, 1.7, 11.66, 5.23, 37.80, 24.58, 1.75),
    SmallImageErrors("Wide ResNet", 16, 11.0, None, 4.81, None, 22.07),
    SmallImageErrors("Wide ResNet", 28, 36.5, None, 4.17, None, 20.50),
    SmallImageErrors("ResNet, pre-activation", 164, 1.7, 11.26, 5.46, 35.58, 24.33),
    SmallImageErrors("ResNet, pre-activation", 1001, 10.2, 10.56, 4.62, 33.47, 22.71),
    SmallImageErrors("DenseNet-40 (k=12)", 40, 1.0, 7.00, 5.24, 27.55, 24.42, 1.79),
    SmallImageErrors("DenseNet-100 (k=12)", 100, 7.0, 5.77, 4.10, 23.79, 20.20, 1.67),
    SmallImageErrors("DenseNet-100 (k=24)", 100, 27.2, 5.83, 3.74, 23.42, 19.25, 1.59),
    SmallImageErrors("DenseNet-BC-100 (k=12)", 100, 0.8, 5.92, 4.51, 24.15, 22.27, 1.76),
    SmallImageErrors("DenseNet-BC-250 (k=24)", 250, 15.3, 5.19, 3.62, 19.64, 17.60, 1.74),
    SmallImageErrors("DenseNet-BC-190 (k=40)", 190, 25.6, None, 3.46, None, 17.18),
)
"""arXiv 1608.06993, Table 2, without the networks that are neither ResNet nor DenseNet."""


class ImageNetErrors(NamedTuple):
    """Errors on ImageNet's validation images in %: of one central crop, and of ten crops."""

    network: str
    top_1: float
    top_1_ten_crop: float
    top_5: float
    top_5_ten_crop: float


TABLE_3 = (
    ImageNetErrors("DenseNet121", 25.02, 23.61, 7.71, 6.66),
    ImageNetErrors("DenseNet169", 23.80, 22.08, 6.85, 5.92),
    ImageNetErrors("DenseNet201", 22.58, 21.46, 6.34, 5.54),
    ImageNetErrors("DenseNet264", 22.15, 20.80, 6.12, 5.29),
)
"""arXiv 1608.06993, Table 3; the networks by their names in `configurations.CONFIGURATIONS`."""

RESNETS = (
    ImageNetErrors("ResNet-34", 26.73, 24.76, 8.74, 7.35),
    ImageNetErrors("ResNet-50", 24.01, 22.24, 7.02, 6.08),
    ImageNetErrors("ResNet-101", 22.44, 21.08, 6.21, 5.35),
)
"""The Torch models that the paper compares with in Figure 3 (github.com/facebookarchive/
fb.resnet.torch, pretrained/README.md)."""

_STAGES = {"ResNet-34": (3, 4, 6, 3), "ResNet-50": (3, 4, 6, 3), "ResNet-101": (3, 4, 23, 3)}
_BOTTLENECK_FROM = 50


def resnet_costs(network: str) -> tuple[Parameters, int]:
    """Count the parameters of one of `RESNETS`, and its multiply-adds for 224x224 pixels.

    The network is that of arXiv 1512.03385, Table 1, with projections where a stage begins (option
    B) and, as the Torch models have it, with a bottleneck's stride in its 3x3 convolution. Counted
    as in :mod:`densenet_nb.cost`.

    Parameters
    ----------
    network : str
        Its name in `RESNETS`.

    Returns
    -------
    parameters : Parameters
        Trainable, and with moving statistics.
    multiply_adds : int
        Of one image's forward pass.

    Raises
    ------
    ValueError
        There is no such network; the message names those there are.
    """
    if network not in _STAGES:
        raise ValueError(f"network={network!r}: must be one of {', '.join(_STAGES)}.")
    bottleneck = int(network.removeprefix("ResNet-")) >= _BOTTLENECK_FROM
    convolutions = [(112, Convolution(3, 64, 7))]  # each with the side of the maps it makes
    channels = 64
    for stage, num_blocks in enumerate(_STAGES[network]):
        side, width = 56 // 2**stage, 64 * 2**stage
        filters = 4 * width if bottleneck else width
        for index in range(num_blocks):
            before = 2 * side if stage > 0 and index == 0 else side
            if channels != filters:
                convolutions.append((side, Convolution(channels, filters, 1)))  # the projection
            if bottleneck:
                convolutions.append((before, Convolution(channels, width, 1)))
                convolutions.append((side, Convolution(width, width, 3)))
                convolutions.append((side, Convolution(width, filters, 1)))
            else:
                convolutions.append((side, Convolution(channels, width, 3)))
                convolutions.append((side, Convolution(width, width, 3)))
            channels = filters
    classifier = 1000 * channels
    weights = sum(convolution.weights for _, convolution in convolutions) + classifier + 1000
    normalized = sum(convolution.filters for _, convolution in convolutions)
    multiply_adds = sum(convolution.multiply_adds(side, side) for side, convolution in convolutions)
    return Parameters(
        weights + 2 * normalized, weights + 4 * normalized
    ), multiply_adds + classifier
