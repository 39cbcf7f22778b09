"""What a DenseNet is, as numbers: one table that the models, the costs and the figures read.

A configuration names the paper's four choices (layers per dense block, growth rate, bottleneck,
compression) and the stem. From it follow every channel count of the network (section 3).
Nothing here needs Keras.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

from densenet_nb.checks import require_boolean, require_compression, require_positive_integer

__all__ = ["BOTTLENECK_WIDTH", "CONFIGURATIONS", "Configuration", "cifar", "imagenet"]

BOTTLENECK_WIDTH = 4
"""Channels of a bottleneck's 1x1 convolution, in growth rates (section 3, "Bottleneck layers")."""


def transition_filters(channels: int, compression: float) -> int:
    """Return floor(θ m), the channels that a transition keeps of m (section 3, "Compression").

    Raises
    ------
    ValueError
        None would be left.
    """
    filters = floor(require_compression(compression) * channels)
    if filters < 1:
        raise ValueError(
            f"compression={compression!r}: a transition would keep floor(θ m) = 0 of m = "
            f"{channels} channels; use at least 1 / {channels}."
        )
    return filters


@dataclass(frozen=True)
class Configuration:
    """The numbers that define a DenseNet.

    Parameters
    ----------
    blocks : sequence of int
        Dense layers in each dense block.
    growth_rate : int
        k, the channels that each dense layer adds.
    stem_filters : int
        k0, the channels that enter the first dense block.
    bottleneck : bool
        Whether each dense layer has a 1x1 convolution to ``4 * growth_rate`` channels before its
        3x3 convolution (DenseNet-B).
    compression : float
        θ in (0, 1]: a transition keeps ``floor(θ m)`` of m channels (DenseNet-C if θ < 1).
    imagenet_stem : bool
        True: 7x7 convolution with stride 2, batch norm, ReLU and 3x3 max pooling with stride 2
        (Table 1). False: one 3x3 convolution, for small images (section 3, "Implementation
        details").

    Raises
    ------
    ValueError
        A number outside its range; the message names the value, the rule and the fix.
    """

    blocks: Sequence[int]
    growth_rate: int
    stem_filters: int
    bottleneck: bool = True
    compression: float = 0.5
    imagenet_stem: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str) or not isinstance(self.blocks, Iterable):
            blocks = ()
        else:
            blocks = tuple(self.blocks)
        if not blocks:
            raise ValueError(
                f"blocks={self.blocks!r}: give the number of dense layers of each dense block as a "
                "non-empty sequence, such as (6, 12, 24, 16)."
            )
        checked = {
            "blocks": tuple(
                require_positive_integer("blocks", layers, f" in {blocks!r}") for layers in blocks
            ),
            "growth_rate": require_positive_integer("growth_rate", self.growth_rate),
            "stem_filters": require_positive_integer("stem_filters", self.stem_filters),
            "bottleneck": require_boolean("bottleneck", self.bottleneck),
            "compression": require_compression(self.compression),
            "imagenet_stem": require_boolean("imagenet_stem", self.imagenet_stem),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        _ = self.block_outputs  # refuses a θ that keeps nothing

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the last feature map, along one axis."""
        return 2 ** (len(self.blocks) - 1) * (4 if self.imagenet_stem else 1)

    @property
    def depth(self) -> int:
        """L, the layers with weights on the longest path: what the 121 of DenseNet-121 counts."""
        convolutions = 2 if self.bottleneck else 1
        return 1 + convolutions * sum(self.blocks) + len(self.blocks) - 1 + 1

    @property
    def block_inputs(self) -> tuple[int, ...]:
        """k0 of each dense block: the channels that enter it."""
        channels = [self.stem_filters]
        for layers in self.blocks[:-1]:
            m = channels[-1] + layers * self.growth_rate
            channels.append(transition_filters(m, self.compression))
        return tuple(channels)

    @property
    def block_outputs(self) -> tuple[int, ...]:
        """Channels m that leave each dense block: ``k0 + layers * k`` channels leave it."""
        return tuple(
            k0 + layers * self.growth_rate
            for k0, layers in zip(self.block_inputs, self.blocks, strict=True)
        )


def imagenet(
    blocks: Sequence[int], growth_rate: int = 32, compression: float = 0.5
) -> Configuration:
    """Return a DenseNet-BC for large images (Table 1): bottlenecks, k0 = 2 k, the 7x7 stem."""
    require_positive_integer("growth_rate", growth_rate)
    return Configuration(blocks, growth_rate, 2 * growth_rate, compression=compression)


def cifar(
    depth: int,
    growth_rate: int = 12,
    bottleneck: bool = True,
    compression: float | None = None,
) -> Configuration:
    """Return a network of `depth` layers in three equal blocks, for small images (section 3).

    Parameters
    ----------
    depth : int
        L = 3 n + 4 for n dense layers a block, or 6 n + 4 with bottlenecks (two convolutions each).
    growth_rate : int
        k.
    bottleneck : bool
        DenseNet-B. The stem has 2 k filters with bottlenecks and 16 without.
    compression : float, optional
        θ; by default 0.5 with bottlenecks (DenseNet-BC) and 1 without (DenseNet), as in Table 2.

    Raises
    ------
    ValueError
        No split into three equal blocks gives `depth`; the message names the nearest depths.
    """
    require_positive_integer("depth", depth)
    require_positive_integer("growth_rate", growth_rate)
    step = 6 if bottleneck else 3
    layers, rest = divmod(depth - 4, step)
    if rest or layers < 1:
        below = max(layers, 1) * step + 4
        raise ValueError(
            f"depth={depth}: three equal dense blocks {'with' if bottleneck else 'without'} "
            f"bottlenecks need depth = {step} n + 4 with n >= 1; the nearest are {below} and "
            f"{below + step}."
        )
    return Configuration(
        blocks=(layers,) * 3,
        growth_rate=growth_rate,
        stem_filters=2 * growth_rate if bottleneck else 16,
        bottleneck=bottleneck,
        compression=(0.5 if bottleneck else 1.0) if compression is None else compression,
        imagenet_stem=False,
    )


CONFIGURATIONS: dict[str, Configuration] = {
    "DenseNet121": imagenet((6, 12, 24, 16)),
    "DenseNet161": imagenet((6, 12, 36, 24), growth_rate=48),
    "DenseNet169": imagenet((6, 12, 32, 32)),
    "DenseNet201": imagenet((6, 12, 48, 32)),
    "DenseNet264": imagenet((6, 12, 64, 48)),
    "DenseNet-40 (k=12)": cifar(40, 12, bottleneck=False),
    "DenseNet-100 (k=12)": cifar(100, 12, bottleneck=False),
    "DenseNet-100 (k=24)": cifar(100, 24, bottleneck=False),
    "DenseNet-BC-100 (k=12)": cifar(100, 12),
    "DenseNet-BC-250 (k=24)": cifar(250, 24),
    "DenseNet-BC-190 (k=40)": cifar(190, 40),
}
"""The paper's networks: Table 1 (161 is from the authors' repository) and Table 2."""
