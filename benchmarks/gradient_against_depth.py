"""Gradient against depth at initialization, on the digits: plain networks, ResNet and DenseNet.

usage: python benchmarks/gradient_against_depth.py [--output FILE] [--short]

For each network, depth and seed: the norms of the loss's gradient and of the weights, for the
convolution of the first composite function and for that of the last. Notebook 01 draws them.

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


def redraw(model: keras.Model, seed: int) -> None:
    """Give every kernel fresh initial values; what else there is to initialize is constant."""
    keras.utils.set_random_seed(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            initializer = layer.kernel_initializer.clone()  # the old one repeats its values
            layer.kernel.assign(initializer(layer.kernel.shape, layer.kernel.dtype))


def measure(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Return the norms [of the first composite function's convolution, of the last one's]."""
    ends = [1, -1]  # the convolution at 0 is the stem, which the formulas call x_0
    norms = zip(("gradient", "weight"), probes.gradient_norms(model, images, labels), strict=True)
    return {name: [float(f"{value:.5g}") for value in values[ends]] for name, values in norms}


def summary(record: dict[str, Any]) -> str:
    """Return a line per network and depth: geometric means and the standard error of the first."""
    lines = ["network            depth seeds  first / last (factor of error)  last alone"]
    for name, depth in product(NETWORKS, record["settings"]["depths"]):
        cell = {"network": name, "depth": depth}
        runs = [run for run in record["runs"] if cell.items() <= run.items()]
        effect = np.array([np.multiply(run["gradient"], run["weight"]) for run in runs])
        ratio = np.log(effect[:, 0] / effect[:, 1])
        error = ratio.std(ddof=1) / len(ratio) ** 0.5
        lines.append(
            f"{name:18} {depth:5} {len(runs):5} {np.exp(ratio.mean()):10.3g} ({np.exp(error):.2f})"
            f"{np.exp(np.log(effect[:, 1]).mean()):27.3g}"
        )
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
        for seed in range(settings["seeds"]):
            redraw(model, seed)
            run = cell | {"parameters": model.count_params(), "seed": seed}
            record["runs"].append(run | measure(model, images, labels))
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
