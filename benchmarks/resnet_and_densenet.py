"""ResNet against DenseNet-BC at equal cost; and what depth, growth rate and compression cost.

usage: python benchmarks/resnet_and_densenet.py [--seeds 20] [--output FILE] [--short]

Counts right answers on the test images of the digits and of Fashion-MNIST. Each DenseNet-BC has
two ResNets beside it, of as many blocks, dense layers there and residual blocks here, so of the
same depth but for one or two layers: one is as wide as makes its parameters equal, the other its
multiply-adds (within 3%). Of the digits only a hundred or two are trained on; with all 1,437 every
network is right on 98 to 99% and nothing can be told apart. One case is trained four times as
long, to tell a network that learns faster from one that ends better. Notebook 07 draws it all.

Runs are paired: within a seed all networks of a case see the same training images in the same
batches. The recipe is one for all but for the learning rate. That is chosen for each network and
case from `rates`, by the mean error of `rate_seeds` on training images that are not trained on:
these seeds are not among those compared, and the test images have no part in the choice. (The
digits need ten: with three the choice was luck, and cost a ResNet two points. A rate of 3, tried
with the smallest networks, was far worse.)

A case is finished before the next begins, a seed before the next seed. The file is written anew
after each run. Run the same command again to go on where it stopped. The digits take about 100
minutes of one processor core, Fashion-MNIST about 75.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import fashion_mnist
import keras
import numpy as np
import recording
import trainer

from densenet_nb import data, textbook
from densenet_nb.configurations import Configuration

OUTPUT = recording.RESULTS / "resnet_and_densenet.json"

RECIPE = {
    "batch": 32,
    "schedule": "divided by 10 at 50% and 75% of the steps",
    "nesterov_momentum": 0.9,
    "weight_decay": 1e-4,
    "batch_norm_momentum": 0.9,
    "epsilon": 1e-5,
    "rates": [0.03, 0.1, 0.3, 1.0],
    "rate_seeds": {"digits": list(range(1000, 1010)), "fashion_mnist": [1000, 1001]},
    "validation_images": 1000,
}

Network = dict[str, Any]
"""What tells a network from others, as its runs are recorded."""


def dense(layers: int, growth_rate: int, compression: float = 0.5, blocks: int = 2) -> Network:
    """Name a DenseNet-BC of as many dense layers in each block."""
    sizes = {"blocks": [layers] * blocks, "growth_rate": growth_rate, "compression": compression}
    return {"network": "DenseNet-BC"} | sizes


def residual(layers: int, width: int, stages: int = 2) -> Network:
    """Name a ResNet of as many residual blocks in each stage, the first `width` channels wide."""
    return {"network": "ResNet", "blocks": [layers] * stages, "width": width}


TRIOS = {
    "small": (dense(2, 11), residual(2, 12), residual(2, 15)),
    "middle": (dense(4, 13), residual(4, 15), residual(4, 18)),
    "large": (dense(8, 12), residual(8, 15), residual(8, 18)),
    "Fashion-MNIST": (
        dense(2, 12, blocks=3),
        residual(2, 8, stages=3),
        residual(2, 14, stages=3),
    ),
}
"""A DenseNet-BC, the ResNet with its parameters and the ResNet with its multiply-adds."""

GRID = (
    dense(2, 13),
    dense(8, 13),
    dense(4, 6),
    dense(4, 26),
    dense(4, 13, compression=0.25),
    dense(4, 13, compression=1.0),
)
"""The middle DenseNet-BC with half and twice its depth, its growth rate, its compression."""

DIGITS_100 = {"data": "digits", "images": 100, "steps": 100}
DIGITS_100_LONG = DIGITS_100 | {"steps": 400}
DIGITS_200 = {"data": "digits", "images": 200, "steps": 100}
FASHION = {"data": "fashion_mnist", "images": 5_000, "steps": 782}  # 5 epochs

CASES = (
    (DIGITS_100, TRIOS["small"]),
    (DIGITS_200, TRIOS["small"]),
    (DIGITS_100_LONG, TRIOS["small"]),
    (DIGITS_100, TRIOS["middle"]),
    (DIGITS_200, TRIOS["middle"]),
    (DIGITS_200, GRID),
    (DIGITS_100, TRIOS["large"]),
    (DIGITS_200, TRIOS["large"]),
    (FASHION, TRIOS["Fashion-MNIST"]),
)
SHORT = (
    (
        {"data": "digits", "images": 100, "steps": 4},
        (dense(1, 8), residual(1, 9), residual(1, 11)),
    ),
)


def build(network: Network, input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a network for ten classes."""
    options = {"momentum": RECIPE["batch_norm_momentum"], "epsilon": RECIPE["epsilon"]}
    if network["network"] == "ResNet":
        return textbook.StagedResNet(
            network["blocks"], network["width"], input_shape, 10, **options
        )
    k, compression = network["growth_rate"], network["compression"]
    configuration = Configuration(
        network["blocks"], k, 2 * k, compression=compression, imagenet_stem=False
    )
    return textbook.DenseNet(configuration, input_shape, 10, **options)


def costs(model: keras.Model) -> dict[str, int]:
    """Count the trainable parameters, and the multiply-adds of one image as `cost` does."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            pixels = layer.output.shape[1:-1]  # () of a classifier
            total += int(np.prod(pixels)) * int(np.prod(layer.kernel.shape))
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return {"parameters": parameters, "multiply_adds": total}


@functools.cache
def load(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the training and the test examples."""
    return fashion_mnist.load_arrays() if name == "fashion_mnist" else data.load_arrays(name)


@functools.cache
def _trainer(network: str, input_shape: tuple[int, int, int]) -> trainer.Trainer:
    model = build(json.loads(network), input_shape)
    return trainer.Trainer(model, RECIPE["nesterov_momentum"], RECIPE["weight_decay"])


def run(case: dict[str, Any], network: Network, seed: int, part: str, rate: float) -> dict:
    """Train once and score on the `part` "test", or "validation", which is not trained on."""
    train, test = load(case["data"])
    ours = _trainer(json.dumps(network), train[0].shape[1:])
    rng = np.random.default_rng(seed)
    subset, rest = np.split(rng.permutation(len(train[1])), [case["images"]])
    order = trainer.batches(subset, case["steps"], RECIPE["batch"], rng)
    ours.run(*train, order, rate, seed)
    held_out = rest[: RECIPE["validation_images"]]
    scored = test if part == "test" else (train[0][held_out], train[1][held_out])
    about = {"seed": seed, "part": part, "rate": rate, **costs(ours.model)}
    return case | network | about | {"of": len(scored[1])} | ours.score(*scored)


def matching(record: dict[str, Any], cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that have all entries of `cell`, by seed."""
    runs = [found for found in record["runs"] if cell.items() <= found.items()]
    return sorted(runs, key=lambda found: found["seed"])


def errors(record: dict[str, Any], case: dict[str, Any], network: Network) -> np.ndarray:
    """Return the test error of each seed in %, (seeds,)."""
    runs = matching(record, case | network | {"part": "test"})
    return np.array([100 * (1 - found["correct"] / found["of"]) for found in runs])


def chosen_rate(
    record: dict[str, Any],
    case: dict[str, Any],
    network: Network,
    rates: Sequence[float] = RECIPE["rates"],
) -> float:
    """Return the learning rate with the most right validation answers; the smaller of equals."""

    def right(rate: float) -> int:
        cell = case | network | {"part": "validation", "rate": rate}
        return sum(found["correct"] for found in matching(record, cell))

    return max(sorted(rates), key=right)


def plan(case: dict, networks: tuple[Network, ...], seeds: int) -> Iterator[tuple]:
    """Yield (network, seed, part, rate) of every run of a case; a rate of None is to be chosen."""
    for network in networks:
        for rate in RECIPE["rates"]:
            for seed in RECIPE["rate_seeds"][case["data"]]:
                yield network, seed, "validation", rate
    for seed in range(seeds):
        for network in networks:
            yield network, seed, "test", None


def missing(record: dict[str, Any], case: dict, networks: tuple[Network, ...], seeds: int) -> list:
    """Return what `plan` yields and the record lacks."""

    def cell(network: Network, seed: int, part: str, rate: float | None) -> dict[str, Any]:
        return case | network | {"seed": seed, "part": part} | ({"rate": rate} if rate else {})

    return [entry for entry in plan(case, networks, seeds) if not matching(record, cell(*entry))]


def fill(
    record: dict[str, Any],
    case: dict[str, Any],
    networks: tuple[Network, ...],
    seeds: int,
    path: Path | None,
) -> None:
    """Run what is missing of a case, saving the record after each run."""
    remaining = missing(record, case, networks, seeds)
    start = time.perf_counter()
    for done, (network, seed, part, rate) in enumerate(remaining, start=1):
        cpu = time.process_time()
        rate = rate or chosen_rate(record, case, network)
        found = run(case, network, seed, part, rate)
        record["runs"].append(found)
        record["cpu_seconds"] = round(record["cpu_seconds"] + time.process_time() - cpu, 1)
        if path:
            recording.save(record, path)
        left = (time.perf_counter() - start) / done * (len(remaining) - done) / 60
        print(
            f"[{done}/{len(remaining)}] {label(case)}: {label(network)}, rate {rate}, seed {seed}: "
            f"{found['correct']} of {found['of']} {part} images; about {left:.0f} min left",
            flush=True,
        )


def label(named: dict[str, Any]) -> str:
    """Write a case or a network in a few words."""
    return ", ".join(
        f"{value}" if isinstance(value, str) else f"{name} {value}" for name, value in named.items()
    )


def summary(record: dict[str, Any], cases: tuple = CASES) -> str:
    """Return a line per case and network: its costs, its error, and how much more it has.

    Errors are means in % with standard errors; the last column is the paired difference to the
    first network of the case.
    """
    lines = []
    for case, networks in cases:
        lines.append(label(case))
        first = errors(record, case, networks[0])
        for network in networks:
            found = errors(record, case, network)
            if not len(found):
                continue
            cell = matching(record, case | network | {"part": "test"})[0]
            line = (
                f"  {label(network):62} {cell['parameters']:8,} {cell['multiply_adds']:11,} "
                f"rate {cell['rate']:5} {len(found):3} seeds {_mean(found)}"
            )
            paired = min(len(first), len(found))
            lines.append(line + f" {_mean(found[:paired] - first[:paired])}")
    return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{values.mean():+6.2f} ({error:.2f})"


def main() -> None:
    """Run what is missing, case by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="of each case (default 20)")
    parser.add_argument("--output", type=Path, help=f"default {OUTPUT.name}, none with --short")
    parser.add_argument("--short", action="store_true", help="two seeds of small networks: a trial")
    options = parser.parse_args()
    cases, seeds = (SHORT, 2) if options.short else (CASES, options.seeds)
    path = options.output or (None if options.short else OUTPUT)
    record = recording.resume(path, {"recipe": RECIPE})
    for case, networks in cases:
        try:
            load(case["data"])
        except FileNotFoundError as reason:
            print(f"{label(case)}: left out. {reason}", flush=True)
            continue
        try:
            fill(record, case, networks, seeds, path)
        except KeyboardInterrupt:
            sys.exit("\nStopped. The same command goes on from here." if path else "\nStopped.")
    print(summary(record, cases))


if __name__ == "__main__":
    main()
