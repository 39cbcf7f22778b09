"""Why DenseNet works, as the article has it: each claim measured over seeds, at equal parameters.

usage: python benchmarks/why_it_works.py [--seeds 20] [--output FILE] [--short]

Three wirings of as many composite functions H and as many parameters (within 3%): plain, ResNet and
DenseNet, one block each, without bottlenecks, so that layer l of one stands beside layer l of the
others. In every case the networks of a seed see the same images in the same batches. Recorded are

- the test accuracy, with 50 to 1,000 training images;
- the gradient of each convolution, before training and after;
- how well linear classifiers tell the classes from what each H reads, and how well linear
  regression tells three low-level properties of the image from it;
- how much each layer of the DenseNets weighs each earlier one;
- the loss on a plane around the trained weights;
- on two-dimensional data the length and the turning of the decision boundary.

The recipe is one for all but for the learning rate, which is chosen for each wiring and depth as in
`resnet_and_densenet.py`: by images that are neither trained on nor tested on, and by other seeds.

First come a group's rates, then one seed after another. The file is written anew after each run;
the same command goes on where it stopped. It takes about 25 minutes of one processor core.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import fashion_mnist
import keras
import numpy as np
import recording
import resnet_and_densenet
import trainer
from resnet_and_densenet import costs, label, matching

from densenet_nb import data, probes, textbook
from densenet_nb.configurations import Configuration

OUTPUT = recording.RESULTS / "why_it_works.json"

RECIPE = {
    "batch": 32,
    "schedule": "divided by 10 at 50% and 75% of the steps",
    "nesterov_momentum": 0.9,
    "weight_decay": 1e-4,
    "batch_norm_momentum": 0.9,
    "epsilon": 1e-5,
    "rates": [0.1, 0.3, 1.0],
    "held_out_images": 400,
    "gradient_images": 128,
}

WIRINGS = ("plain", "ResNet", "DenseNet")

SIZES = {
    "digits 8": {"width": 17, "growth_rate": 7},
    "digits 16": {"width": 16, "growth_rate": 5},
    "fashion_mnist 8": {"width": 17, "growth_rate": 7},
    "moons 8": {"width": 18, "growth_rate": 7},
}
"""Channels of plain networks and ResNets, and k of the DenseNets, whose stem makes 2 k."""

SHAPES = {
    "digits": ((8, 8, 1), 10),
    "fashion_mnist": ((7, 7, 1), 10),
    "moons": ((1, 1, 2), 2),
}
"""Of the images, and the number of classes."""

Case = dict[str, Any]


def case(name: str, depth: int, images: int, steps: int, probed: bool) -> Case:
    """Name a data set, the depth of the networks, and how they are trained."""
    return {"data": name, "depth": depth, "images": images, "steps": steps, "probed": probed}


DIGITS = tuple(case("digits", 8, images, 80, images == 200) for images in (50, 100, 200, 500, 1000))
DEEPER = case("digits", 16, 200, 80, True)
MOONS = case("moons", 8, 100, 150, False)
FASHION = case("fashion_mnist", 8, 1000, 100, True)
GROUPS = ((*DIGITS, MOONS), (DEEPER,), (FASHION,))
"""A seed of all cases of a group is finished before the next seed begins."""

SHORT = (case("digits", 2, 50, 4, True), case("moons", 2, 20, 4, False))
SHORT_SIZES = {name: {"width": 4, "growth_rate": 2} for name in ("digits 2", "moons 2")}

RATED = {
    "digits 8": (DIGITS[2], 3),
    "digits 16": (DEEPER, 2),
    "moons 8": (MOONS, 3),
    "fashion_mnist 8": (FASHION, 2),
    "digits 2": (SHORT[0], 1),
    "moons 2": (SHORT[1], 1),
}
"""The case and the number of seeds by which the rate of a data set and depth is chosen."""


def network(name: str, depth: int, wiring: str) -> keras.Model:
    """Build a network of `depth` composite functions for the images of a data set."""
    size = (SIZES | SHORT_SIZES)[f"{name} {depth}"]
    shape, classes = SHAPES[name]
    options = {"momentum": RECIPE["batch_norm_momentum"], "epsilon": RECIPE["epsilon"]}
    if name == "moons":
        return of_points(depth, wiring, size, **options)
    if wiring == "DenseNet":
        k = size["growth_rate"]
        block = Configuration((depth,), k, 2 * k, bottleneck=False, imagenet_stem=False)
        return textbook.DenseNet(block, shape, classes, **options)
    build = textbook.ResNet if wiring == "ResNet" else textbook.PlainCNN
    return build(depth, size["width"], shape, classes, **options)


def of_points(depth: int, wiring: str, size: dict[str, int], **options: Any) -> keras.Model:
    """Build a network for images of one pixel with two channels: points in the plane.

    Its convolutions are 1x1. With 3x3 eight of nine weights would meet nothing but padding.
    """
    H = textbook.CompositeFunction(**options)
    k, width = size["growth_rate"], size["width"]
    shape, classes = SHAPES["moons"]
    inputs = keras.layers.Input(shape)
    x = H.convolve(inputs, 2 * k if wiring == "DenseNet" else width, 1)
    for _ in range(depth):
        if wiring == "DenseNet":
            x = keras.layers.Concatenate()([x, H(x, k, 1)])
        elif wiring == "ResNet":
            x = keras.layers.Add()([H(x, width, 1), x])
        else:
            x = H(x, width, 1)
    x = keras.layers.GlobalAveragePooling2D()(H.activate(x))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


@functools.cache
def load(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the training and the test examples.

    Fashion-MNIST's pixels are averaged in squares of four by four, to 7x7, and 1,000 of its test
    images are used: as fast as the digits. The moons are scikit-learn's, with noise.
    """
    if name == "digits":
        return data.load_arrays("digits")
    if name == "moons":
        return _moons(4000, seed=0), _moons(2000, seed=1)
    (images, labels), (test_images, test_labels) = fashion_mnist.load_arrays()
    return (_shrunk(images), labels), (_shrunk(test_images[:1000]), test_labels[:1000])


def _moons(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_moons

    points, labels = make_moons(count, noise=0.25, random_state=seed)
    return points.astype("float32").reshape(-1, 1, 1, 2), labels


def _shrunk(images: np.ndarray) -> np.ndarray:
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 4, 4, width // 4, 4, channels)
    return squares.mean(axis=(2, 4), dtype="float32")


@functools.cache
def _trainer(name: str, depth: int, wiring: str) -> trainer.Trainer:
    model = network(name, depth, wiring)
    return trainer.Trainer(model, RECIPE["nesterov_momentum"], RECIPE["weight_decay"])


def run(which: Case, wiring: str, seed: int, part: str, rate: float) -> dict[str, Any]:
    """Train once, score on the `part` "test" or "validation" and, if it is a test, measure."""
    train, test = load(which["data"])
    ours = _trainer(which["data"], which["depth"], wiring)
    rng = np.random.default_rng(seed)
    subset, rest = np.split(rng.permutation(len(train[1])), [which["images"]])
    held_out = _examples(train, rest[: RECIPE["held_out_images"]])
    order = trainer.batches(subset, which["steps"], RECIPE["batch"], rng)
    probed = which["probed"] and part == "test"
    ours.fresh(seed)
    before = {"at_start": gradients(ours.model, held_out)} if probed else {}
    ours.run(*train, order, rate, seed)
    scored = test if part == "test" else held_out
    about = {"wiring": wiring, "seed": seed, "part": part, "rate": rate, **costs(ours.model)}
    found = which | about | {"of": len(scored[1])} | ours.score(*scored) | before
    if part == "test" and which["data"] == "moons":
        found |= boundary(ours.model)
    if probed:
        found |= probe(ours.model, _examples(train, subset), held_out, test)
    return found


def _examples(examples: tuple[np.ndarray, np.ndarray], indices: np.ndarray) -> tuple:
    return tuple(values[indices] for values in examples)


def probe(model: keras.Model, trained_on: tuple, held_out: tuple, test: tuple) -> dict[str, Any]:
    """Measure a trained network: the probes of what each H and the classifier read, and more.

    Probes are fitted on images that the network was not trained on.
    """
    reads = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    reads = reads[:: 1 if len(reads) < 10 else 4]
    low_level = [(images, properties(images)) for images, _ in (held_out, test)]
    found = {}
    for name, examples in (("probes", (held_out, test)), ("low_level", low_level)):
        scores = probes.linear_probes(model, *examples, reads, progress=False)
        found[name] = _rounded(scores.values())
    if any(isinstance(layer, keras.layers.Concatenate) for layer in model.layers):
        for name, gamma in (("reuse", False), ("reuse_with_gamma", True)):
            (block,) = probes.feature_reuse(model, gamma)
            found[name] = [_rounded(block.weights[: t + 1, t]) for t in range(len(block.targets))]
    few = tuple(values[:200] for values in trained_on)
    _, losses = probes.loss_surface(model, *few, reach=0.5, points=5, progress=False)
    found["losses"] = [_rounded(row) for row in losses]
    found["at_end"] = gradients(model, held_out)  # last: it moves the moving statistics
    return found


def gradients(model: keras.Model, examples: tuple) -> list[float]:
    """Return ‖W‖ ‖∂loss/∂W‖ of each convolution but the stem, in nats."""
    few = (values[: RECIPE["gradient_images"]] for values in examples)
    return _rounded(np.prod(probes.gradient_norms(model, *few), axis=0)[1:])


def properties(images: np.ndarray) -> np.ndarray:
    """Return brightness, and strength of vertical and of horizontal edges, (images, 3)."""
    across, down = np.diff(images, axis=2), np.diff(images, axis=1)
    return np.stack([np.abs(x).mean(axis=(1, 2, 3)) for x in (images, across, down)], axis=-1)


def boundary(model: keras.Model) -> dict[str, float]:
    """Return the length and the turning of the boundary between the moons."""
    line = probes.decision_boundary(model, low=(-2, -1.5), high=(3, 2))
    return {"length": round(line.length, 3), "turning": round(line.turning, 3)}


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def rated(which: Case) -> tuple[Case, list[int]]:
    """Return the case that chooses a case's rates, and its seeds."""
    chosen, seeds = RATED[f"{which['data']} {which['depth']}"]
    return chosen, list(range(1000, 1000 + seeds))


def chosen_rate(record: dict[str, Any], which: Case, wiring: str) -> float:
    """Return the rate of a case's data set and depth; see `resnet_and_densenet`."""
    network = {"wiring": wiring}
    return resnet_and_densenet.chosen_rate(record, rated(which)[0], network, RECIPE["rates"])


def plan(cases: tuple[Case, ...], seeds: int) -> Iterator[tuple]:
    """Yield (case, wiring, seed, part, rate) of a group's runs; a rate of None is to be chosen."""
    choosing = [rated(which) for which in cases]
    for index, (which, rate_seeds) in enumerate(choosing):
        if choosing.index((which, rate_seeds)) < index:
            continue
        for wiring in WIRINGS:
            for rate in RECIPE["rates"]:
                for seed in rate_seeds:
                    yield which, wiring, seed, "validation", rate
    for seed in range(seeds):
        for which in cases:
            for wiring in WIRINGS:
                yield which, wiring, seed, "test", None


def missing(record: dict[str, Any], cases: tuple[Case, ...], seeds: int) -> list[tuple]:
    """Return what `plan` yields and the record lacks."""

    def cell(which: Case, wiring: str, seed: int, part: str, rate: float | None) -> dict:
        about = {"wiring": wiring, "seed": seed, "part": part}
        return which | about | ({"rate": rate} if rate else {})

    return [entry for entry in plan(cases, seeds) if not matching(record, cell(*entry))]


def fill(record: dict, cases: tuple[Case, ...], seeds: int, path: Path | None) -> None:
    """Run what is missing, saving the record after each run."""
    remaining = missing(record, cases, seeds)
    start = time.perf_counter()
    for done, (which, wiring, seed, part, rate) in enumerate(remaining, start=1):
        cpu = time.process_time()
        rate = rate or chosen_rate(record, which, wiring)
        found = run(which, wiring, seed, part, rate)
        record["runs"].append(found)
        spent = time.process_time() - cpu
        record["cpu_seconds"] = round(record["cpu_seconds"] + spent, 1)
        if path:
            recording.save(record, path)
        left = (time.perf_counter() - start) / done * (len(remaining) - done) / 60
        print(
            f"[{done}/{len(remaining)}] {label(which)}: {wiring}, rate {rate}, seed {seed}: "
            f"{found['correct']} of {found['of']} {part} images; {spent:.1f} s, about "
            f"{left:.0f} min left",
            flush=True,
        )


def main() -> None:
    """Run what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="of each case (default 20)")
    parser.add_argument("--output", type=Path, help=f"default {OUTPUT.name}, none with --short")
    parser.add_argument("--short", action="store_true", help="two seeds of few steps: a trial")
    options = parser.parse_args()
    groups, seeds = ((SHORT,), 2) if options.short else (GROUPS, options.seeds)
    path = options.output or (None if options.short else OUTPUT)
    record = recording.resume(path, {"recipe": RECIPE, "sizes": SIZES})
    try:
        for cases in groups:
            fill(record, cases, seeds, path)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here." if path else "\nStopped.")


if __name__ == "__main__":
    main()
