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
import functools
import time
from itertools import product
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import recording
import tensorflow as tf

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


def network(order: str, layers: int, seed: int = 0) -> keras.Model:
    """Build the network in one order; the same seed gives both orders the same kernels."""
    k = RECIPE["growth_rate"]
    keras.utils.set_random_seed(seed)
    return textbook.DenseNet(
        Configuration((layers, layers), k, 2 * k, imagenet_stem=False),
        input_shape=(8, 8, 1),
        classes=10,
        pre_activation=order == "pre",
        momentum=RECIPE["batch_norm_momentum"],
        epsilon=RECIPE["epsilon"],
    )


@functools.lru_cache(maxsize=len(ORDERS))  # the cells of one depth start from the same
def fresh_weights(order: str, layers: int, seed: int) -> list[np.ndarray]:
    """Return the weights of a new network."""
    return network(order, layers, seed).get_weights()


class Trainer:
    """One network, traced once, that any number of runs start afresh."""

    def __init__(self, order: str, layers: int) -> None:
        self.order, self.layers = order, layers
        self.model = network(order, layers)
        self.optimizer = keras.optimizers.SGD(
            RECIPE["rate"], RECIPE["nesterov_momentum"], nesterov=True
        )
        self.optimizer.build(self.model.trainable_variables)
        self.train, self.test = data.load_arrays("digits")

    @tf.function(jit_compile=False)
    def step(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        """Update the weights on one batch."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            probabilities = self.model(images, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, variables)
        decay = RECIPE["weight_decay"]  # of every variable, as in the authors' code
        self.optimizer.apply(
            [g + decay * v for g, v in zip(gradients, variables, strict=True)], variables
        )

    def run(self, images: int, steps: int, seed: int) -> dict[str, float]:
        """Train on `images` digits from fresh weights; return how the test digits fared."""
        self.model.set_weights(fresh_weights(self.order, self.layers, seed))
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        rng = np.random.default_rng(seed)
        subset = rng.permutation(len(self.train[1]))[:images]
        size = RECIPE["batch"]
        epochs = -(-steps * size // images)
        order = np.concatenate([rng.permutation(subset) for _ in range(epochs)])
        for index in range(steps):
            passed = (index >= steps // 2) + (index >= steps * 3 // 4)
            self.optimizer.learning_rate.assign(RECIPE["rate"] / 10**passed)
            batch = order[index * size : (index + 1) * size]
            self.step(tf.constant(self.train[0][batch]), tf.constant(self.train[1][batch]))
        return self.score()

    def score(self) -> dict[str, float]:
        """Count the test digits that are named rightly; the mean cross-entropy is in nats."""
        images, labels = self.test
        probabilities = self.model.predict_on_batch(images)
        losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        return {
            "correct": int(np.sum(probabilities.argmax(axis=-1) == labels)),
            "cross_entropy": round(float(np.mean(losses)), 4),
        }


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
    trainers = {pair: Trainer(*pair) for pair in product(ORDERS, grid["layers"])}
    start, cpu = time.perf_counter(), 0.0  # imports and tracing count as CPU time
    for done, seed in enumerate(missing, 1):
        for layers, images, steps in cells(grid):
            for order in ORDERS:
                cell = {"seed": seed, "order": order, "layers": layers}
                cell |= {"images": images, "steps": steps}
                result = trainers[order, layers].run(images, steps, seed)
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
