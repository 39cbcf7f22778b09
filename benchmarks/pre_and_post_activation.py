"""Pre- against post-activation: BN-ReLU-conv and conv-BN-ReLU in small DenseNets on the digits.

usage: python benchmarks/pre_and_post_activation.py [--seeds 20] [--output FILE] [--short]

Trains both orders of DenseNet-BC (two dense blocks, k = 12) over a grid of depth, data size and
training length, and counts right answers on 360 test images. Notebook 02 draws them. Runs are
paired: within a seed both orders have the same initial kernels, training images and batches. Every
length has a schedule of its own, the paper's (section 4.2): rate 0.1, divided by 10 at 50% and at
75%, so that a short run is a finished run and not a long one cut off. The budget for twenty seeds
is 45 minutes of one processor core.

The file is written anew after each seed. Run the same command again to go on where it stopped.
"""

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import recording
import trainer

from densenet_nb import data, textbook
from densenet_nb.configurations import Configuration

OUTPUT = recording.RESULTS / "pre_and_post_activation.json"

ORDERS = ("pre", "post")
GRID = {"layers": [4, 10], "images": [100, 1437], "steps": [80, 240]}
SHORT = {"layers": [4], "images": [100], "steps": [8]}
RECIPE = {
    "network": "DenseNet-BC, two dense blocks of `layers` dense layers, theta = 0.5",
    "growth_rate": 12,
    "batch": 32,
    "rate": 0.1,
    "schedule": "divided by 10 at 50% and 75% of the steps",
    "nesterov_momentum": 0.9,
    "weight_decay": 1e-4,
    "batch_norm_momentum": 0.9,
    "epsilon": 1e-5,
    "test_images": 360,
}


def network(order: str, layers: int) -> keras.Model:
    """Build the network in one order; a seed redraws the same kernels for both."""
    k = RECIPE["growth_rate"]
    return textbook.DenseNet(
        Configuration((layers, layers), k, 2 * k, imagenet_stem=False),
        input_shape=(8, 8, 1),
        classes=10,
        pre_activation=order == "pre",
        momentum=RECIPE["batch_norm_momentum"],
        epsilon=RECIPE["epsilon"],
    )


def run(
    network: trainer.Trainer,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    images: int,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Train on `images` digits from fresh weights; return how the test digits fared."""
    rng = np.random.default_rng(seed)
    subset = rng.permutation(len(train[1]))[:images]
    order = trainer.batches(subset, steps, RECIPE["batch"], rng)
    network.run(*train, order, RECIPE["rate"], seed)
    return network.score(*test)


def cells(grid: dict[str, list]) -> list[tuple[int, int, int]]:
    """Return (layers, images, steps) of every cell of a grid."""
    return list(product(*grid.values()))


def summary(record: dict[str, Any]) -> str:
    """Return a line per cell: mean accuracies and their paired difference, post minus pre."""
    lines = ["layers images steps seeds   pre     post    post - pre (standard error), in %"]
    for layers, images, steps in cells(record["settings"]["grid"]):
        pre, post = (accuracies(record, order, layers, images, steps) for order in ORDERS)
        difference = 100 * (post - pre)
        error = difference.std(ddof=1) / len(pre) ** 0.5 if len(pre) > 1 else float("nan")
        lines.append(
            f"{layers:6} {images:6} {steps:5} {len(pre):5} {100 * pre.mean():7.2f} "
            f"{100 * post.mean():7.2f} {difference.mean():+7.2f} ({error:.2f})"
        )
    return "\n".join(lines)


def accuracies(
    record: dict[str, Any], order: str, layers: int, images: int, steps: int
) -> np.ndarray:
    """Return the test accuracy of each seed, (seeds,), of one order in one cell of the grid."""
    cell = {"order": order, "layers": layers, "images": images, "steps": steps}
    rows = [run for run in record["runs"] if cell.items() <= run.items()]
    rows.sort(key=lambda run: run["seed"])
    return np.array([run["correct"] for run in rows]) / record["settings"]["recipe"]["test_images"]


def main() -> None:
    """Run what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--output", type=Path, help=f"default {OUTPUT.name}, none with --short")
    parser.add_argument("--short", action="store_true", help="one seed of a tiny grid: a trial")
    options = parser.parse_args()
    grid = SHORT if options.short else GRID
    path = options.output or (None if options.short else OUTPUT)
    settings = {"recipe": RECIPE, "grid": grid}
    record = recording.resume(path, settings)
    seeds = range(1 if options.short else options.seeds)
    missing = sorted(set(seeds) - {run["seed"] for run in record["runs"]})
    train, test = data.load_arrays("digits")
    optimizer = {name: RECIPE[name] for name in ("nesterov_momentum", "weight_decay")}
    trainers = {
        pair: trainer.Trainer(network(*pair), **optimizer)
        for pair in product(ORDERS, grid["layers"])
    }
    start, cpu = time.perf_counter(), 0.0  # imports and tracing count as CPU time
    for done, seed in enumerate(missing, 1):
        for layers, images, steps in cells(grid):
            for order in ORDERS:
                cell = {"seed": seed, "order": order, "layers": layers}
                cell |= {"images": images, "steps": steps}
                result = run(trainers[order, layers], train, test, images, steps, seed)
                record["runs"].append(cell | result)
                print(cell | result, flush=True)
        record["cpu_seconds"] = round(record["cpu_seconds"] + time.process_time() - cpu, 1)
        cpu = time.process_time()
        if path:
            recording.save(record, path)
        left = (time.perf_counter() - start) / done * (len(missing) - done) / 60
        print(f"seed {seed}: {done} of {len(missing)} done, about {left:.0f} min left", flush=True)
    print(summary(record))


if __name__ == "__main__":
    main()
