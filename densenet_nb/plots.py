"""Figures: one style, colors that color-blind readers can tell apart, and words for every figure.

The background is white and opaque, so that a figure reads the same on a dark page and a light one.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from densenet_nb.configurations import Configuration

__all__ = [
    "COLORS",
    "NETWORKS",
    "STYLE",
    "along",
    "amounts",
    "answers",
    "architecture",
    "boundaries",
    "channels_along",
    "connections",
    "cost_against_size",
    "costs_by_stage",
    "crossing_lines",
    "dense_layer_bars",
    "effect_of_epsilon",
    "error_against_cost",
    "errors_by_stage",
    "feature_maps",
    "gradient_against_depth",
    "gradient_by_layer",
    "kept_against_depth",
    "learning_curve",
    "overlays",
    "paired_differences",
    "reuse",
    "show",
    "side_by_side",
    "waffle",
    "wirings",
]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""The palette of Okabe and Ito (2008), without its yellow, which is too pale on white."""

NETWORKS = (
    {"color": "dimgray"},
    {"color": "gray", "linestyle": "--"},
    {"color": COLORS[1]},
    {"color": COLORS[3]},
    {"color": COLORS[0], "linewidth": 3},
)
"""Lines of the networks compared, in order: two without normalization, gray; last our subject."""

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 11,
    "grid.alpha": 0.3,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
}
"""Put on figures by ``@plt.rc_context(STYLE)`` above the function that draws them."""

_HIDDEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip: rect(0, 0, 0, 0)"


def show(figure: Figure, alt: str) -> None:
    """Display `figure` with a text that says what it shows, and close it.

    JupyterLab gives its pictures no ``alt`` attribute, so the text also follows the picture as a
    paragraph that is hidden from sight and that screen readers read. Where styles are not
    applied (an untrusted notebook) the paragraph is simply seen.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    alt : str
        What a reader who does not see the figure must know, in a sentence or two. The same in
        every run: it is compared, the picture is not.

    Raises
    ------
    ValueError
        `alt` is empty.
    """
    if not alt.strip():
        raise ValueError(f"alt={alt!r}: say in a sentence what the figure shows.")
    png = BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    display(
        {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": alt},
        metadata={"image/png": {"alt": alt}},
        raw=True,
    )
    paragraph = f'<p style="{_HIDDEN}">{html.escape(alt)}</p>'
    display({"text/html": paragraph}, raw=True)


@plt.rc_context(STYLE)
def feature_maps(rows: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Draw images side by side, one row for each label.

    Parameters
    ----------
    rows : mapping of str to sequence of numpy.ndarray
        Title of the row, and its images: feature maps (height, width), each with a brightness
        range of its own, or photographs (height, width, 3) of uint8.
    """
    columns = max(map(len, rows.values()))
    height, width = next(iter(rows.values()))[0].shape[:2]
    row_height = 9 / columns * height / width + 0.35  # inches; the title takes the rest
    figure = plt.figure(figsize=(9, row_height * len(rows)))
    strips = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for strip, (label, images) in zip(strips, rows.items(), strict=True):
        strip.suptitle(label, x=0.01, horizontalalignment="left", fontsize="medium")
        for axis in strip.subplots(1, columns, squeeze=False)[0]:
            axis.set_axis_off()
        for axis, image in zip(strip.axes, images, strict=False):  # a row may be a short one
            axis.imshow(image)
    return figure


@plt.rc_context(STYLE)
def overlays(panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw maps over the images that they explain, side by side.

    Parameters
    ----------
    panels : mapping of str to (numpy.ndarray, numpy.ndarray)
        Title; the image, (height, width) or (height, width, 3), drawn in gray; and the map over
        it, of any height and width, stretched to the image's, with a color range of its own.
    """
    height, width = next(iter(panels.values()))[0].shape[:2]
    size = 9, 9 / len(panels) * height / width + 0.5  # inches; the titles take the rest
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, (title, (image, over)) in zip(axes[0], panels.items(), strict=True):
        gray = image if image.ndim == 2 else image.mean(-1)
        height, width = gray.shape
        whole = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(gray, cmap="gray")
        axis.imshow(over, cmap="inferno", alpha=0.6, extent=whole, interpolation="bilinear")
        axis.set_title(title, fontsize="medium")
        axis.set_axis_off()
    return figure


@plt.rc_context(STYLE)
def dense_layer_bars(
    values: Sequence[float],
    blocks: Sequence[int],
    ylabel: str,
    level: float | None = None,
    level_label: str | None = None,
) -> Figure:
    """Draw a bar for each dense layer of a network, each block in its own color.

    Parameters
    ----------
    values : sequence of float
        One for each dense layer, in order.
    blocks : sequence of int
        Dense layers in each block.
    ylabel : str
        What `values` are, with their unit.
    level, level_label : float and str, optional
        A dashed line at this value, and its name in the legend.

    Raises
    ------
    ValueError
        `blocks` do not hold as many layers as there are values.
    """
    if len(values) != sum(blocks):
        raise ValueError(f"{len(values)} values for blocks={blocks!r}: give one for each layer.")
    figure, axes = plt.subplots(figsize=(9, 3.6))
    start = 0
    for index, num_layers in enumerate(blocks, start=1):
        end = start + num_layers
        axes.bar(range(start + 1, end + 1), values[start:end], label=f"block {index}")
        start = end
    if level is not None:
        axes.axhline(level, color="black", linestyle="--", label=level_label)
    axes.set(xlabel="dense layer, counted from the stem", ylabel=ylabel, axisbelow=True)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend()
    return figure


@plt.rc_context(STYLE)
def crossing_lines(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    crossing: tuple[float, float],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw named curves over `x` and mark the point where they cross.

    Parameters
    ----------
    x : sequence of float
        Common to all curves.
    curves : mapping of str to sequence of float
        Name in the legend, and values.
    crossing : (float, float)
        The point to mark.
    xlabel, ylabel : str
        Names of the axes, with units.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    for label, y in curves.items():
        axes.plot(x, y, label=label)
    axes.plot(*crossing, "o", color="black")
    axes.axvline(crossing[0], color="black", linestyle=":", label=f"break-even, {crossing[0]:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend()
    return figure


@plt.rc_context(STYLE)
def channels_along(networks: Mapping[str, Configuration]) -> Figure:
    """Draw the channels of the feature maps along networks: up in blocks, down in transitions.

    Parameters
    ----------
    networks : mapping of str to Configuration
        Name in the legend, and network.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    for label, network in networks.items():
        layer, layers, channels = 0, [], []
        for num_layers, k0, m in zip(
            network.blocks, network.block_inputs, network.block_outputs, strict=True
        ):
            layers += [layer, layer + num_layers]
            channels += [k0, m]
            layer += num_layers
        axes.plot(layers, channels, marker="o", label=label)
    axes.set(xlabel="dense layers passed", ylabel="channels of the feature maps", ylim=(0, None))
    axes.legend()
    return figure


@plt.rc_context(STYLE)
def connections(k0: int, growth_rate: int, num_layers: int) -> Figure:
    """Draw what each layer of a dense block reads: a segment, and so a connection, for each x_i.

    Parameters
    ----------
    k0 : int
        Channels that enter the block.
    growth_rate : int
        k, the channels that each layer makes.
    num_layers : int
        Dense layers in the block. One more row is drawn: what leaves the block.
    """
    readers = [f"layer {index} reads" for index in range(1, num_layers + 1)] + ["leaves the block"]
    figure, axes = plt.subplots(figsize=(8, 0.5 * num_layers + 1.6))
    left = 0
    for maker in range(num_layers + 1):
        width = growth_rate if maker else k0
        rows = range(maker, num_layers + 1)  # all that come later read it
        color = COLORS[maker % len(COLORS)]
        bars = axes.barh(rows, width, left=left, color=color, edgecolor="white", linewidth=2)
        axes.bar_label(
            bars, labels=[f"$x_{{{maker}}}$"] * len(rows), label_type="center", color="w"
        )
        left += width
    axes.set(xlabel="channels", yticks=range(num_layers + 1), yticklabels=readers)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


@plt.rc_context(STYLE)
def paired_differences(
    differences: Mapping[str, Sequence[float]], xlabel: str, errors: float = 3
) -> Figure:
    """Draw paired differences of many seeds: a dot a seed, the mean, and its standard errors.

    Parameters
    ----------
    differences : mapping of str to sequence of float
        Name of the row, and one difference for each seed.
    xlabel : str
        What was subtracted from what, with its unit.
    errors : float
        Standard errors that the bar reaches to either side. A direction is claimed only where
        the bar of 3 leaves out zero. A single seed has no standard error, so no bar.
    """
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(differences) + 1.4))
    for row, values in enumerate(map(np.asarray, differences.values())):
        spread = np.linspace(-0.2, 0.2, len(values))  # equal values would hide one another
        axes.plot(values, row + spread, ".", color=COLORS[4], alpha=0.8)
        error = errors * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
        axes.errorbar(values.mean(), row, xerr=error, fmt="o", color=COLORS[0], capsize=4)
    axes.axvline(0, color="black", linewidth=1)
    axes.set(xlabel=xlabel, yticks=range(len(differences)), yticklabels=differences)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


@plt.rc_context(STYLE)
def along(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    live: Mapping[str, Mapping[str, np.ndarray]],
    xlabel: str,
    ylabels: Sequence[str],
    log: str = "",
) -> Figure:
    """Draw measurements of many seeds along x: the mean, 5% to 95% of the seeds, and one live.

    Parameters
    ----------
    x : sequence of float
        (points,), common to all panels; layers, or numbers of images.
    panels : mapping of str to mapping of str to numpy.ndarray
        Title; then plain network, ResNet and DenseNet in this order, (seeds, points) each.
    live : mapping of str to mapping of str to numpy.ndarray
        The same of a single seed, (points,) each, NaN where it was not measured: crosses.
    xlabel, ylabels : str and sequence of str
        What x is and what each panel shows, with its unit.
    log : str
        Axes that are logarithmic: "x", "y", "xy" or none.
    """
    width = 1 + 4.5 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 4.2), squeeze=False)
    for axis, (title, networks), ylabel in zip(axes[0], panels.items(), ylabels, strict=True):
        for style, (network, values) in zip(NETWORKS[2:], networks.items(), strict=True):
            low, high = np.quantile(values, (0.05, 0.95), axis=0)
            mean = np.exp(np.log(values).mean(axis=0)) if "y" in log else values.mean(axis=0)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
            axis.plot(x, mean, label=network, **style)
            if title in live:
                axis.plot(x, live[title][network], "x", color=style["color"], markersize=8)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.set(**{f"{letter}scale": "log" for letter in log})
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.set_xticks([], minor=True)
        axis.set_title(title, fontsize="medium")
    lines, names = axes[0, 0].get_legend_handles_labels()
    lines.append(Patch(color="black", alpha=0.2, linewidth=0))
    names.append("5% to 95% of the seeds")
    if live:
        lines.append(Line2D([], [], color="black", marker="x", linestyle=""))
        names.append("live seed")
    columns = len(names) if len(panels) > 1 else 3
    figure.legend(lines, names, loc="outside lower center", ncols=columns)
    return figure


@plt.rc_context(STYLE)
def reuse(maps: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw how much each layer of a block weighs what each earlier one made (Figure 5).

    Parameters
    ----------
    maps : mapping of str to sequence of sequence of float
        Title, and for each reader its weights for the sources from the block's input on: one for
        the first layer, and one more for each later one; the classifier last. They are drawn as
        shares of the reader's largest.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(1 + 4.5 * len(maps), 4.4), squeeze=False)
    for axis, (title, readers) in zip(axes[0], maps.items(), strict=True):
        shares = np.full((len(readers), len(readers)), np.nan)
        for column, weights in enumerate(readers):
            shares[: len(weights), column] = np.divide(weights, max(weights))
        image = axis.imshow(shares, vmin=0, vmax=1)
        layers = range(len(readers))
        axis.set(xlabel="reader (last: the classifier)", ylabel="source (0: the block's input)")
        axis.set_xticks(layers, [*range(1, len(readers)), "end"])
        axis.set_yticks(layers)
        axis.grid(visible=False)
        axis.set_title(title, fontsize="medium")
    figure.colorbar(image, ax=axes, label="mean weight, share of the reader's largest")
    return figure


@plt.rc_context(STYLE)
def boundaries(
    panels: Mapping[str, Sequence[np.ndarray]], points: np.ndarray, labels: np.ndarray
) -> Figure:
    """Draw where classifiers of the plane change their minds, and what they were trained on.

    Parameters
    ----------
    panels : mapping of str to sequence of numpy.ndarray
        Title, and the lines of the boundary, (points, 2) each.
    points : numpy.ndarray
        (examples, 2), x and y.
    labels : numpy.ndarray
        (examples,), 0 or 1.
    """
    size = (1 + 3.2 * len(panels), 3.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for label, marker in enumerate("os"):
            axis.plot(*points[labels == label].T, marker, color=COLORS[label], alpha=0.5)
        for line in lines:
            axis.plot(*line.T, color="black", linewidth=2)
        axis.set(aspect="equal", xlabel="first channel")
        axis.set_title(title, fontsize="medium")
    axes[0, 0].set(ylabel="second channel")
    return figure


@plt.rc_context(STYLE)
def error_against_cost(
    families: Mapping[str, Mapping[str, Sequence[float]]], xlabels: Sequence[str], ylabel: str
) -> Figure:
    """Draw the errors of families of networks against what the networks cost, a panel a cost.

    Parameters
    ----------
    families : mapping of str to mapping of str to sequence of float
        Name in the legend; then network, and its costs in the order of the panels, its error and
        the standard error of that. A family whose standard errors are all 0 has no bars.
    xlabels : sequence of str
        What each cost is, with its unit.
    ylabel : str
        What the errors are, with their unit.
    """
    width = 1 + 4.5 * len(xlabels)
    figure, axes = plt.subplots(1, len(xlabels), figsize=(width, 4), sharey=True, squeeze=False)
    for (family, networks), marker in zip(families.items(), "osD^v", strict=False):
        *costs, errors, bars = np.transpose(list(networks.values()))
        for axis, cost in zip(axes[0], costs, strict=True):
            yerr = bars if bars.any() else None
            container = axis.errorbar(cost, errors, yerr, marker=marker, capsize=3, label=family)
            color = container.lines[0].get_color()
            for network, *place in zip(networks, cost, errors, strict=True):
                axis.annotate(
                    network,
                    place,
                    (5, 5),
                    textcoords="offset points",
                    color=color,
                    fontsize="small",
                )
    for axis, xlabel in zip(axes[0], xlabels, strict=True):
        axis.set(xlabel=xlabel)
        axis.margins(x=0.12, y=0.1)  # room for the names
    axes[0, 0].set(ylabel=ylabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@plt.rc_context(STYLE)
def architecture(configuration: Configuration, side: int) -> Figure:
    """Draw a network as the channels of its feature maps, one bar after each layer.

    In a block the color of channels is their age: the first layer's are dark, the last one's pale.

    Parameters
    ----------
    configuration : Configuration
        The network.
    side : int
        Height and width of the images, in pixels; a bar's block says what is left of them. The
        first bar of a block is what enters it.
    """
    k = configuration.growth_rate
    if configuration.imagenet_stem:  # two strides of 2, rounded up
        side = (side + 3) // 4
    figure, axes = plt.subplots(figsize=(9, 4))
    gap = 3 + sum(configuration.blocks) // 8  # bars; wide enough for the words in it
    width = 0.9 if sum(configuration.blocks) < 20 else 1  # many narrow gaps would shimmer
    position, top, centers, labels = 0, 0, [], []
    for index, (num_layers, k0) in enumerate(
        zip(configuration.blocks, configuration.block_inputs, strict=True), start=1
    ):
        if index > 1:
            _transition(axes, position - gap, position, top, k0)
        bars = position + np.arange(num_layers + 1)
        axes.bar(bars, k0, width, color="lightgray")
        ages = plt.colormaps["cividis"](np.linspace(0, 1, num_layers))
        for layer, color in enumerate(ages):  # what a layer adds stays to the end of its block
            axes.bar(bars[layer + 1 :], k, width, k0 + layer * k, color=color)
        centers.append(bars.mean())
        labels.append(f"dense block {index}\n{num_layers} layers\n{side} × {side} pixels")
        top = k0 + num_layers * k
        axes.text(bars.mean(), k0 / 2, f"{k0}", ha="center", va="center")
        axes.text(bars[-1], top, f"{top}", ha="center", va="bottom")
        position, side = bars[-1] + gap, side // 2
    axes.set_xticks(centers, labels)
    axes.set(xlabel="layers, from the image to the classifier", ylabel="channels")
    axes.set_title(f"each layer adds k = {k} channels to those before it", fontsize="medium")
    axes.grid(visible=False)
    return figure


def _transition(axes: Axes, last: float, first: float, before: int, after: int) -> None:
    """Draw an arrow down from the last bar of a block to the first of the next, and name it."""
    arrow = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (first - 0.45, after), (last + 0.45, before), arrowprops=arrow)
    text = f"transition\n{before} → {after}"
    axes.text((last + first) / 2, 0, text, ha="center", va="bottom", fontsize="small")


@plt.rc_context(STYLE)
def answers(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Draw images with a network's answers below them, a wrong one with the label beside it.

    Parameters
    ----------
    images : numpy.ndarray
        (n, height, width, 1).
    labels : numpy.ndarray of int
        (n,), the right classes.
    probabilities : numpy.ndarray
        (n, classes), the network's.
    """
    columns = 10
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 1.4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label, row in zip(axes.flat, images, labels, probabilities, strict=False):
        answer = row.argmax()
        text = f"{answer}" if answer == label else f"{answer}, is {label}"
        axis.imshow(image[..., 0], cmap="gray_r")
        axis.set_title(f"{text}\n{row[answer]:.0%}", fontsize="small", y=-0.55)
    return figure


@plt.rc_context(STYLE)
def learning_curve(
    history: Mapping[str, Sequence[float]], rate_drops: Sequence[int] = ()
) -> Figure:
    """Draw the loss and the accuracy of each epoch, in training and on the test images.

    Parameters
    ----------
    history : mapping of str to sequence of float
        ``model.fit(...).history``. Without ``accuracy`` among the metrics, or without validation
        data, what is there is drawn.
    rate_drops : sequence of int
        Epochs after which the learning rate drops: a dashed line between each and the next.
    """
    ylabels = {"loss": "cross entropy (nats)", "accuracy": "accuracy (fraction right)"}
    metrics = [metric for metric in ylabels if metric in history]
    figure, axes = plt.subplots(1, len(metrics), figsize=(4.5 * len(metrics), 3.2), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for key, label in ((metric, "training images"), (f"val_{metric}", "test images")):
            if key in history:
                axis.plot(range(1, len(history[key]) + 1), history[key], marker="o", label=label)
        for index, epoch in enumerate(rate_drops):
            label = None if index else "learning rate drops"  # one entry in the legend
            axis.axvline(epoch + 0.5, color="gray", linestyle="--", label=label)
        axis.set(xlabel="epoch", ylabel=ylabels[metric])
        axis.legend(frameon=True, framealpha=1, edgecolor="white")  # hides the lines behind it
    return figure


@plt.rc_context(STYLE)
def wirings(depth: int) -> Figure:
    """Draw how H_1 … H_depth are wired in a plain network, a ResNet and a dense block.

    Parameters
    ----------
    depth : int
        L, the number of composite functions.
    """
    titles = (
        r"plain: $x_\ell = H_\ell(x_{\ell-1})$",
        r"ResNet: $x_\ell = H_\ell(x_{\ell-1}) + x_{\ell-1}$",
        r"DenseNet: $x_\ell = H_\ell([x_0, \ldots, x_{\ell-1}])$",
    )
    heights = (0.6, 1, 0.25 * depth + 0.6)
    figure, axes = plt.subplots(3, figsize=(9, 5.2), height_ratios=heights)
    for axis, title, height in zip(axes, titles, heights, strict=True):
        axis.set(xlim=(-0.4, 2 * depth + 0.4), ylim=(-0.3, height - 0.3))
        axis.set_title(title, loc="left")
        axis.set_axis_off()
        for layer in range(depth + 1):
            _node(axis, 2 * layer, f"$x_{{{layer}}}$", "circle", "white")
        for layer in range(1, depth + 1):
            _node(axis, 2 * layer - 1, f"$H_{{{layer}}}$", "square", "lightgray")
            _arrow(axis, 2 * layer - 2, 2 * layer - 1, COLORS[0])
            _arrow(axis, 2 * layer - 1, 2 * layer, "black")
    for layer in range(1, depth + 1):
        _arrow(axes[1], 2 * layer - 2, 2 * layer, COLORS[1])
        for source in range(layer - 1):
            _arrow(axes[2], 2 * source, 2 * layer - 1, COLORS[1])
    return figure


def _node(axes: Axes, x: float, text: str, shape: str, color: str) -> None:
    box = {"boxstyle": shape, "facecolor": color}
    axes.text(x, 0, text, ha="center", va="center", bbox=box, zorder=3)


def _arrow(axes: Axes, start: float, end: float, color: str) -> None:
    """Draw an arrow between two nodes, the higher the further it goes."""
    bend = 0 if end == start + 1 else -0.35
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 13, "shrinkB": 13}
    arrow = {**style, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", (end, 0), (start, 0), arrowprops=arrow)


@plt.rc_context(STYLE)
def gradient_against_depth(
    depths: Sequence[int],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    live: Mapping[str, Mapping[str, float]],
    ylabels: Sequence[str],
) -> Figure:
    """Draw measurements of many seeds against depth: median, 5% to 95% of seeds, and one live.

    Parameters
    ----------
    depths : sequence of int
        Depths of the networks.
    panels : mapping of str to mapping of str to numpy.ndarray
        Title, network, positive values (depths, seeds). The first panel has all networks, in the
        order of `NETWORKS`; the others may leave some out.
    live : mapping of str to mapping of str to float
        The same of a single seed at the largest depth: a cross, its number beside the line's name.
    ylabels : sequence of str
        Label of the vertical axis of each panel, with its unit.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.6), squeeze=False)
    styles = dict(zip(next(iter(panels.values())), NETWORKS, strict=False))
    for axis, (title, networks), ylabel in zip(axes[0], panels.items(), ylabels, strict=True):
        ends = {}
        for network, values in networks.items():
            low, median, high = np.quantile(values, (0.05, 0.5, 0.95), axis=1)
            color, value = styles[network]["color"], live[title][network]
            axis.fill_between(depths, low, high, color=color, alpha=0.25, linewidth=0)
            axis.plot(depths, median, label=network, **styles[network])
            axis.plot(depths[-1], value, "x", color=color, markersize=8)
            ends[f"{network} {_number(value)}"] = median[-1], color
        axis.set(xscale="log", yscale="log", xlabel="depth L (composite functions)", ylabel=ylabel)
        axis.set(xlim=(depths[0] * 0.9, depths[-1] * 6))  # room for the names
        axis.set_title(title, fontsize="medium")
        axis.set_xticks(depths, depths)
        axis.minorticks_off()
        _name_lines(axis, depths[-1] * 1.1, ends, "left")
    handles = [
        Line2D([], [], color="black", label="median of the seeds"),
        Patch(color="black", alpha=0.25, linewidth=0, label="5% to 95% of the seeds"),
        Line2D([], [], color="black", marker="x", linestyle="", label="live seed, and its number"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@plt.rc_context(STYLE)
def gradient_by_layer(
    panels: Mapping[str, Mapping[str, np.ndarray]], ylabels: Sequence[str], depth: int
) -> Figure:
    """Draw a measurement of each layer of some networks; beside its name, first over last value.

    Parameters
    ----------
    panels : mapping of str to mapping of str to numpy.ndarray
        Title, network, positive values, (layers,) from the input on; the last is that of layer
        `depth`. The networks in the order of `NETWORKS`.
    ylabels : sequence of str
        Label of the vertical axis of each panel, with its unit.
    depth : int
        L, the number of composite functions.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.6), squeeze=False)
    for axis, (title, networks), ylabel in zip(axes[0], panels.items(), ylabels, strict=True):
        starts = {}
        for style, (network, values) in zip(NETWORKS, networks.items(), strict=False):
            layers = range(depth + 1 - len(values), depth + 1)
            axis.plot(layers, values, marker=".", label=network, **style)
            name = f"{network} {_number(values[0] / values[-1])}"
            starts[name] = values[0], style["color"]
        axis.set(yscale="log", xlabel="layer $\\ell$ (0: the stem)", ylabel=ylabel)
        axis.set(xlim=(-1.1 * depth, depth + 1), xticks=range(0, depth + 1, 10))  # room for names
        axis.set_title(title, fontsize="medium")
        _name_lines(axis, -1, starts, "right")
    return figure


def _name_lines(
    axes: Axes, x: float, lines: Mapping[str, tuple[float, str]], alignment: str
) -> None:
    """Write the name of each line at `x`, as high as its (value, color) says, but apart."""
    low, high = np.log(axes.get_ylim())
    gap = 0.06 * (high - low)
    lowest = low
    for name, (value, color) in sorted(lines.items(), key=lambda line: line[1][0]):
        height = max(np.log(value), lowest)
        axes.text(x, np.exp(height), name, color=color, ha=alignment, va="center")
        lowest = height + gap


def _number(value: float) -> str:
    """Return a value with about two digits: 7,012, 124, 0.13, 2e-08."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


@plt.rc_context(STYLE)
def costs_by_stage(panels: Mapping[str, Mapping[str, Sequence[float]]], names: list[str]) -> Figure:
    """Draw what the stages of several networks cost: a bar for each network, a piece a stage.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of float
        Label of the x axis with its unit; for each stage, by its name, the cost in each network.
    names : list of str
        The networks.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.6), sharey=True, squeeze=False)
    for axis, (xlabel, stages) in zip(axes.flat, panels.items(), strict=True):
        left = np.zeros(len(names))
        for index, (stage, values) in enumerate(stages.items()):
            color = COLORS[index % len(COLORS)]
            axis.barh(names, values, left=left, color=color, edgecolor="white", label=stage)
            left += values
        axis.set(xlabel=xlabel)
        axis.grid(visible=False, axis="y")
    axes[0, 0].set(ylabel="network")
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@plt.rc_context(STYLE)
def amounts(panels: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Draw several amounts of the same things: a panel for each amount, a bar for each thing.

    Parameters
    ----------
    panels : mapping of str to mapping of str to float
        Label of the x axis with its unit; the things, by name, from the top row down.
    ylabel : str
        What the things are.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.8), sharey=True, squeeze=False)
    for axis, color, (xlabel, bars) in zip(axes[0], COLORS, panels.items(), strict=False):
        axis.barh(list(bars), list(bars.values()), color=color)
        axis.set(xlabel=xlabel, axisbelow=True)
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.grid(visible=False, axis="y")
    axes[0, 0].set(ylabel=ylabel)
    axes[0, 0].invert_yaxis()
    return figure


@plt.rc_context(STYLE)
def waffle(counts: Mapping[str, int], title: str, columns: int = 32) -> Figure:
    """Draw amounts as so many equal squares, one after the other, a color for each amount.

    Parameters
    ----------
    counts : mapping of str to int
        Name in the legend, and squares, from the top left on.
    title : str
        What a square stands for.
    columns : int
        Squares in a row.
    """
    rows = -(-sum(counts.values()) // columns)
    figure, axes = plt.subplots(figsize=(9, 9 / columns * rows + 1.1))
    first = 0
    for (name, count), color in zip(counts.items(), COLORS, strict=False):
        row, column = np.divmod(np.arange(first, first + count), columns)
        axes.bar(column, 0.9, 0.9, row, color=color, label=f"{name}: {count}")
        first += count
    axes.set(title=title, xlim=(-0.6, columns - 0.4), ylim=(rows, -0.1), aspect="equal")
    axes.set_axis_off()
    figure.legend(loc="outside lower center", ncols=len(counts))
    return figure


@plt.rc_context(STYLE)
def kept_against_depth(
    depths: Sequence[int],
    kept: Mapping[str, Sequence[float]],
    counted: Mapping[str, Mapping[int, float]],
    ylabel: str,
) -> Figure:
    """Draw what a training step keeps against a network's depth: by formula, and counted.

    Parameters
    ----------
    depths : sequence of int
        Depths of the networks.
    kept : mapping of str to sequence of float
        Form of the network; what the formula gives for each depth.
    counted : mapping of str to mapping of int to float
        The same forms; depth, and what was counted on the network of this depth.
    ylabel : str
        What is kept, with its unit.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    for form, values in kept.items():
        (line,) = axes.plot(depths, values, marker=".", label=form)
        found = counted[form]
        axes.plot(list(found), list(found.values()), "x", color=line.get_color(), markersize=10)
    axes.plot([], [], "x", color="black", markersize=10, label="counted on the graph")
    axes.set(xlabel="depth L (layers with weights)", ylabel=ylabel, ylim=(0, None))
    axes.legend()
    return figure


@plt.rc_context(STYLE)
def errors_by_stage(errors: Mapping[str, Mapping[str, float]], band: float) -> Figure:
    """Draw relative errors along a network, and the largest that passes.

    Parameters
    ----------
    errors : mapping of str to mapping of str to float
        Name in the legend; for each stage, by its name, the relative error. Zero is drawn a
        decade below the smallest error, and the axis says so.
    band : float
        Drawn as a dashed line.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    smallest = min((error for e in errors.values() for error in e.values() if error), default=band)
    zero = 10.0 ** np.floor(np.log10(smallest) - 1)
    for label, stages in errors.items():
        axes.semilogy(
            list(stages), [error or zero for error in stages.values()], marker="o", label=label
        )
    decades = 10.0 ** np.arange(np.log10(zero) + 1, 1)
    axes.set_yticks([zero, *decades], ["0", *(f"$10^{{{np.log10(d):.0f}}}$" for d in decades)])
    axes.axhline(band, color="black", linestyle="--", label=f"passes below {band:g}")
    axes.set(xlabel="stage", ylabel="relative error of the output")
    axes.tick_params(axis="x", rotation=60)
    axes.legend()
    return figure


@plt.rc_context(STYLE)
def effect_of_epsilon(
    variances: Mapping[str, np.ndarray], published: float, other: float
) -> Figure:
    """Draw what another ε does to a normalized map, and below it where the variances of maps lie.

    Parameters
    ----------
    variances : mapping of str to numpy.ndarray
        Name of the group in the legend, and the variance of each of its maps, (n,), positive.
    published, other : float
        The ε of the weights, and the one that takes its place. Batch normalization divides by
        sqrt(v + ε), so a map of variance v is scaled by sqrt((v + published) / (v + other)).
    """
    figure, (curve, counts) = plt.subplots(2, figsize=(9, 5), sharex=True)
    every = np.concatenate(list(variances.values()))
    bins = np.geomspace(min(every.min(), other) / 2, every.max() * 2, 40)
    curve.plot(bins, np.sqrt((bins + published) / (bins + other)), color="black")
    curve.set(ylabel=f"factor by which\nε = {other:g} scales a map", xscale="log", ylim=(0, 1.05))
    for label, values in variances.items():
        share = np.full(values.shape, 100 / values.size)
        counts.hist(values, bins, weights=share, label=label, alpha=0.6)
    counts.set(xlabel="variance of the map (squared units of the map)", ylabel="maps (%)")
    counts.legend()
    return figure


@plt.rc_context(STYLE)
def side_by_side(record: Mapping[str, Any]) -> Figure:
    """Draw what candidates need of time and memory, relative to the median of one of them.

    A dot a round, a bar at the median; ours in blue. A candidate that was not measured in a panel
    has an empty row there. Measures among few candidates only have no panel.

    Parameters
    ----------
    record : mapping
        What ``benchmarks/side_by_side.py`` writes: ``settings`` has the ``reference`` and, by
        title, the ``measures`` (which ``runs``, and which ``value`` of them); then the ``runs``.
    """
    settings, runs = record["settings"], record["runs"]
    measures = {
        title: measure for title, measure in settings["measures"].items() if "among" not in measure
    }
    drawn = (run for measure in measures.values() for run in _alike(runs, measure["runs"]))
    names = list(dict.fromkeys(run["candidate"] for run in drawn))
    columns = 3
    rows = -(-len(measures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(10, rows * (0.26 * len(names) + 0.9)), sharey=True, squeeze=False
    )
    for axis in axes.flat[len(measures) :]:
        axis.set_axis_off()
    for axis, (title, measure) in zip(axes.flat, measures.items(), strict=False):
        where, value = measure["runs"], measure["value"]
        unit = np.median(_recorded(runs, {**where, "candidate": settings["reference"]}, value))
        for row, name in enumerate(names):
            ratios = _recorded(runs, {**where, "candidate": name}, value) / unit
            color = COLORS[0] if name.startswith("densenet_nb") else "dimgray"
            axis.plot(ratios, np.full(len(ratios), row), "o", color=color, alpha=0.4)
            if len(ratios):
                axis.plot(
                    np.median(ratios), row, "|", color=color, markersize=14, markeredgewidth=3
                )
        axis.axvline(1, color="black", linewidth=1)
        batch = "" if "batch" in title else f", batch {where['batch']}"
        axis.set(title=title + batch, yticks=range(len(names)), yticklabels=names, xlim=(0, None))
        axis.set(ylim=(len(names) - 0.5, -0.5))  # the first candidate on top
        axis.title.set_fontsize("medium")
        axis.grid(visible=False, axis="y")
    figure.supxlabel(f"ratio to {settings['reference']} (less is better)", fontsize="medium")
    return figure


@plt.rc_context(STYLE)
def cost_against_size(record: Mapping[str, Any]) -> Figure:
    """Draw how time and memory of a training step grow, a column for what grows.

    Parameters
    ----------
    record : mapping
        What ``benchmarks/cost_against_size.py`` writes: ``settings`` has the ``sweeps`` (by label,
        pairs of a size and which runs have it) and by label the ``measures`` of a run; then the
        ``runs``.
    """
    settings, runs = record["settings"], record["runs"]
    sweeps, measures = settings["sweeps"], settings["measures"]
    names = dict.fromkeys(run["candidate"] for run in runs)
    styles = {
        name: {"color": color, "marker": marker}
        for name, color, marker in zip(names, ("dimgray", *COLORS), "osD^vP", strict=False)
    }
    figure, axes = plt.subplots(
        len(measures), len(sweeps), figsize=(10, 2.6 * len(measures)), sharex="col", squeeze=False
    )
    for column, (xlabel, sweep) in zip(axes.T, sweeps.items(), strict=True):
        column[-1].set(xlabel=xlabel.replace(", ", "\n", 1), xticks=[x for x, _ in sweep])
        for axis, (ylabel, value) in zip(column, measures.items(), strict=True):
            for name, style in styles.items():
                found = [
                    (x, _recorded(runs, {**size, "candidate": name}, value)) for x, size in sweep
                ]
                points = [(x, np.median(values)) for x, values in found if len(values)]
                axis.plot(*np.reshape(points, (-1, 2)).T, label=name, **style)
            axis.set(ylim=(0, None))
            if axis in axes[:, 0]:
                axis.set(ylabel=ylabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _recorded(
    runs: Sequence[Mapping[str, Any]], where: Mapping[str, Any], value: str
) -> np.ndarray:
    """Return `value` of every run that agrees with `where` and has it, (runs,)."""
    return np.array([run[value] for run in _alike(runs, where) if value in run])


def _alike(runs: Sequence[Mapping[str, Any]], where: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run for run in runs if where.items() <= run.items()]
