"""Gradient against depth at initialization, on the digits: plain networks, ResNet and DenseNet.

usage: python benchmarks/gradient_against_depth.py [--output FILE] [--short]

For each network, depth and seed: the norms of the weights W_l and of the loss's gradient with
respect to them, for l = 1 and l = L; the norms of the maps x_l and of the gradient with respect to
them, for l = 0 and l = L. Notebook 01 draws them.

The file is written anew after each network and depth. Run the same command again to go on where it
stopped.
"""

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import recording
import tensorflow as tf
import trainer

from densenet_nb import data, probes, textbook
from densenet_nb.configurations import Configuration

SETTINGS = {"depths": [5, 10, 20, 40], "seeds": 30, "images": 128, "width": 16, "growth_rate": 8}
SHORT = SETTINGS | {"depths": [5, 10], "seeds": 2}

OUTPUT = recording.RESULTS / "gradient_against_depth.json"

DIGITS = {"input_shape": (8, 8, 1), "classes": 10}
WIDTH, K = SETTINGS["width"], SETTINGS["growth_rate"]


def plain(depth: int, **composite: Any) -> keras.Model:
    """Build x_l = H(x_(l-1))."""
    return textbook.PlainCNN(depth, WIDTH, **DIGITS, **composite)


def residual(depth: int) -> keras.Model:
    """Build x_l = H(x_(l-1)) + x_(l-1)."""
    return textbook.ResNet(depth, WIDTH, **DIGITS)


def dense(depth: int) -> keras.Model:
    """Build x_l = H([x_0, …, x_(l-1)]): one block, no bottleneck, so `depth` convolutions."""
    block = Configuration((depth,), K, WIDTH, bottleneck=False, imagenet_stem=False)
    return textbook.DenseNet(block, **DIGITS)


NETWORKS: dict[str, Callable[[int], keras.Model]] = {
    "plain, He": lambda depth: plain(depth, normalization=False),
    "plain, Glorot": lambda depth: plain(
        depth, normalization=False, kernel_initializer="glorot_uniform"
    ),
    "plain, batch norm": plain,
    "ResNet": residual,
    "DenseNet": dense,
}


def with_maps(model: keras.Model) -> keras.Model:
    """Return the model with the outputs x_0, x_L and its own, (batch, classes)."""
    stem, *convolutions = [
        layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    sums = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]  # a ResNet's
    last = (sums or convolutions)[-1]
    return keras.Model(model.input, [stem.output, last.output, model.output])


def map_norms(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> tuple[list[float], list[float]]:
    """Return ‖∂loss/∂x‖ and ‖x‖ of the maps among the outputs of `with_maps`, in training mode."""
    with tf.GradientTape() as tape:
        *maps, predictions = model(images, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(labels, predictions)
        loss = keras.ops.mean(losses)
    gradients = tape.gradient(loss, maps)
    return [np.linalg.norm(g) for g in gradients], [np.linalg.norm(x) for x in maps]


def measure(
    model: keras.Model, maps: keras.Model, images: np.ndarray, labels: np.ndarray
) -> dict[str, list[float]]:
    """Return the norms at both ends: of W_1 and W_L, of x_0 and x_L, and of their gradients."""
    ends = [1, -1]  # the convolution at 0 is the stem, which the formulas call x_0
    of_weights = [norms[ends] for norms in probes.gradient_norms(model, images, labels)]
    names = ("gradient", "weight", "map_gradient", "map")
    norms = zip(names, [*of_weights, *map_norms(maps, images, labels)], strict=True)
    return {name: [float(f"{value:.5g}") for value in values] for name, values in norms}


def ratios(record: dict[str, Any], network: str, depth: int) -> dict[str, np.ndarray]:
    """Return g_1 / g_L and ‖∂loss/∂x_0‖ / ‖∂loss/∂x_L‖ of every seed, (seeds,) each."""
    cell = {"network": network, "depth": depth}
    runs = [run for run in record["runs"] if cell.items() <= run.items()]
    weights = np.array([np.multiply(run["gradient"], run["weight"]) for run in runs])
    maps = np.array([run["map_gradient"] for run in runs])
    return {"weights": weights[:, 0] / weights[:, 1], "maps": maps[:, 0] / maps[:, 1]}


def summary(record: dict[str, Any]) -> str:
    """Return a line per network and depth: medians of first / last, and 5% to 95% of the seeds."""
    lines = [f"{'network':18} depth {'weights: g_1 / g_L':>32} {'maps: x_0 / x_L':>32}"]
    for name, depth in product(NETWORKS, record["settings"]["depths"]):
        line = f"{name:18} {depth:5}"
        for many in ratios(record, name, depth).values():
            low, median, high = np.quantile(many, (0.05, 0.5, 0.95))
            line += f" {median:11.3g} ({low:7.2g} to {high:7.2g})"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help=f"default {OUTPUT.name}, none with --short")
    parser.add_argument("--short", action="store_true", help="two depths, two seeds: a trial")
    options = parser.parse_args()
    settings = SHORT if options.short else SETTINGS
    path = options.output or (None if options.short else OUTPUT)
    record = recording.resume(path, settings)
    images, labels = data.load_arrays("digits", f"train[:{settings['images']}]")
    for depth, network in product(settings["depths"], NETWORKS):
        cell = {"network": network, "depth": depth}
        if any(cell.items() <= run.items() for run in record["runs"]):
            continue
        cpu = time.process_time()
        model = NETWORKS[network](depth)
        maps = with_maps(model)
        for seed in range(settings["seeds"]):
            trainer.redraw(model, seed)
            run = cell | {"parameters": model.count_params(), "seed": seed}
            record["runs"].append(run | measure(model, maps, images, labels))
        record["cpu_seconds"] = round(record["cpu_seconds"] + time.process_time() - cpu, 1)
        if path:
            recording.save(record, path)
        done = len(record["runs"]) / settings["seeds"]
        print(
            f"{network}, depth {depth}: {done:.0f} of {len(NETWORKS) * len(settings['depths'])}",
            flush=True,
        )
    print(summary(record))


if __name__ == "__main__":
    main()
