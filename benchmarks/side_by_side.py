"""DenseNet-121 side by side: training, memory, first step and inference, ours and the peers'.

usage: python benchmarks/side_by_side.py [--rounds 5] [--short] [--output FILE]

Every peer that is installed takes part: keras.applications, which the ratios refer to, always;
keras-hub, ONNX Runtime and OpenVINO with ``pip install -e .[benchmarks]``, torchvision (and its
graph for these two) with ``pip install torch torchvision onnx`` beside. Nothing is downloaded;
weights are random.

Each measurement has a process of its own (``measure.py`` says what it does) on all cores, and all
candidates take turns in each round. The whole takes about fifty minutes on two cores. The record is
written anew after each measurement: stop at any time, and run the same command again to go on.
``--short`` is one round with a small batch, without stock ``fit``, in about two minutes; it is
recorded only where ``--output`` says.

Where there is a GPU, the same command measures training on it instead: images per second and peak
device memory in float32 and mixed bfloat16, with and without XLA, into a record with the GPU's
name. Where TensorFlow cannot use the GPU and JAX can, Keras runs on JAX.

What was tried where a number is not yet what we aim for: ``benchmarks/NOTES.md``.
"""

import argparse
import functools
import re
import sys
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import recording
import schedule
from candidates import (
    CANDIDATES,
    KERAS_APPLICATIONS,
    OURS,
    OURS_MEMORY_EFFICIENT,
    TEXTBOOK,
    TORCHVISION_MEMORY_EFFICIENT,
    configuration,
    missing_packages,
)

from densenet_nb import cost, plots

OUTPUT = recording.RESULTS / "side_by_side.json"
FIGURE = Path(__file__).parent.parent / "docs" / "side_by_side.png"

REFERENCE = KERAS_APPLICATIONS
MACHINE = {"what": "limit"}

SMALL = ("L=40", "L=100-BC")
FORMS = [TEXTBOOK, OURS, OURS_MEMORY_EFFICIENT]
"""The paper's networks for small images, which no peer has: ratios are to stock Keras layers."""


def settings(batch: int) -> dict[str, Any]:
    """Return what is measured on a processor, training with `batch` images a step."""
    training = {"what": "training", "batch": batch}
    measures = {
        "training step": {"runs": training, "value": "step_s", "unit": "s"},
        "training, peak memory": {"runs": training, "value": "peak_gib", "unit": "GiB"},
        "first training step": {"runs": training, "value": "first_s", "unit": "s"},
        "first step of stock fit": {
            "runs": {"what": "fit", "batch": batch},
            "value": "first_s",
            "unit": "s",
        },
    }
    for images in (1, 8):
        measures[f"inference, batch {images}"] = {
            "runs": {"what": "inference", "batch": images},
            "value": "step_s",
            "unit": "s",
        }
    for network in SMALL:
        training = {"what": "training", "batch": 64, "network": network, "side": 32}
        for title, value in (("training step", "step_s"), ("first training step", "first_s")):
            name = f"{title}, {network}, 32x32 pixels"
            measures[name] = {"runs": training, "value": value, "unit": "s", "among": FORMS}
    return {
        "network": "DenseNet121",
        "side": 224,
        "optimizer": "SGD, Nesterov momentum 0.9",
        "reference": REFERENCE,
        "steps": {"training": 3, "fit": 1, "inference": 20},
        "measures": measures,
    }


def short(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without stock fit and small networks, and with fewer steps."""
    measures = {
        title: measure
        for title, measure in settings["measures"].items()
        if measure["runs"]["what"] != "fit" and "among" not in measure
    }
    return settings | {"measures": measures, "steps": {"training": 1, "inference": 5}}


def gpu_settings(device: str, backend: str, batch: int) -> dict[str, Any]:
    """Return what is measured on a GPU. JAX always compiles, so it has no form without XLA."""
    measures = {}
    for precision, jit in product(("float32", "mixed_bfloat16"), (False, True)):
        if backend == "jax" and not jit:
            continue
        training = {"what": "training", "batch": batch, "precision": precision, "jit": jit}
        name = f"{precision}, XLA" if jit else precision
        for title, value, unit in (
            ("images per second", "images_per_s", "1/s"),
            ("peak device memory", "device_peak_gib", "GiB"),
        ):
            measures[f"{title}, {name}"] = {"runs": training, "value": value, "unit": unit}
    if backend == "tensorflow":
        fit = {"what": "fit", "batch": batch, "precision": "mixed_bfloat16"}
        title = "first step of stock fit, mixed_bfloat16"
        measures[title] = {"runs": fit, "value": "first_s", "unit": "s"}
    return settings(batch) | {
        "gpu": device,
        "backend": backend,
        "steps": {"training": 20, "fit": 1},
        "measures": measures,
    }


def candidates(gpu: bool) -> list[str]:
    """Return who takes part, and say who could but is not installed."""
    if gpu:
        names = [KERAS_APPLICATIONS, OURS, OURS_MEMORY_EFFICIENT]
        peers = ["torchvision", TORCHVISION_MEMORY_EFFICIENT]
        return names + [name for name in peers if not missing_packages(name)]
    installed = []
    for name in CANDIDATES:
        lacking = missing_packages(name)
        if lacking:
            print(f"{name}: left out, not installed: {', '.join(lacking)}", flush=True)
        elif name != TEXTBOOK:  # the same operations as keras.applications'
            installed.append(name)
    return installed


def cases(settings: dict[str, Any], names: list[str]) -> list[schedule.Case]:
    """Return what to measure in each round: the machine's limit, then each measure's runs."""
    wanted = []
    for measure in settings["measures"].values():
        for name in measure.get("among", names):
            case, candidate = {"candidate": name, **measure["runs"]}, CANDIDATES[name]
            possible = case["what"] in candidate.measured
            possible &= not case.get("jit") or candidate.engine == "keras"  # XLA is Keras's here
            if possible and case not in wanted:
                wanted.append(case)
    return wanted if "gpu" in settings else [MACHINE, *wanted]


def options(settings: dict[str, Any], case: schedule.Case) -> dict[str, Any]:
    """Return the options of ``measure.py`` for `case`."""
    if case == MACHINE:
        return case
    common = {name: settings[name] for name in ("network", "side")}
    return common | case | {"steps": settings["steps"][case["what"]], "gpu": "gpu" in settings}


def values(record: dict[str, Any], title: str) -> dict[str, list[float]]:
    """Return what each candidate measured under a title, round by round."""
    measure = record["settings"]["measures"][title]
    found: dict[str, list[float]] = {}
    for run in schedule.matching(record["runs"], measure["runs"]):
        if measure["value"] in run:
            found.setdefault(run["candidate"], []).append(run[measure["value"]])
    return found


def floor(record: dict[str, Any], title: str) -> float | None:
    """Return the seconds that the multiply-adds of a measure take at the best rate measured here.

    A training step computes each convolution three times: forward, and the gradients of its input
    and of its weights; the first convolution's input needs none.
    """
    measure = record["settings"]["measures"][title]
    what, batch, network, side = _what_runs(record, measure)
    machine = schedule.matching(record["runs"], MACHINE)
    if measure["value"] != "step_s" or not machine:
        return None
    count = multiply_adds(network, side, what)
    return batch * count / max(run["multiply_adds_per_s"] for run in machine)


def _what_runs(record: dict[str, Any], measure: dict[str, Any]) -> list[Any]:
    runs = record["settings"] | measure["runs"]
    return [runs[name] for name in ("what", "batch", "network", "side")]


def multiply_adds(network: str, side: int, what: str) -> int:
    """Count an image's multiply-adds in a training step or an inference call."""
    forward = cost.multiply_adds(configuration(network), side, side)
    if what == "inference":
        return forward
    first = next(cost.rows(configuration(network), side, side)).cost.multiply_adds
    return 3 * forward - first


def table(record: dict[str, Any], title: str) -> str:
    """Return the lines of one measure: median, smallest and largest of the rounds, and ratios."""
    found, measure = values(record, title), record["settings"]["measures"][title]
    least = floor(record, title)
    reference = found.get(measure.get("among", [record["settings"]["reference"]])[0])
    head = f"{title}{_batch(measure, title)}, in {measure['unit']}"
    lines = [f"{head:<44} {'median':>8} {'min':>8} {'max':>8} {'ratio':>6}"]
    lines[0] += f" {'/ floor':>8}" if least else ""
    for name, numbers in found.items():
        middle = median(numbers)
        line = f"  {name:<42} {middle:8.4g} {min(numbers):8.4g} {max(numbers):8.4g}"
        line += f" {middle / median(reference):6.2f}" if reference else f" {'':6}"
        lines.append(line + (f" {middle / least:8.2f}" if least else ""))
    return "\n".join(lines)


def _batch(measure: dict[str, Any], title: str) -> str:
    return "" if "batch" in title else f", batch {measure['runs']['batch']}"


def limits(record: dict[str, Any]) -> str:
    """Return what bounds a training step from below on this machine, in a few lines."""
    machine = schedule.matching(record["runs"], MACHINE)
    if not machine:
        return ""
    network, side = (record["settings"][name] for name in ("network", "side"))
    batch = record["settings"]["measures"]["training step"]["runs"]["batch"]
    rate = max(run["multiply_adds_per_s"] for run in machine)
    bandwidth = max(run["bytes_per_s"] for run in machine)
    count = batch * multiply_adds(network, side, "training")
    kept = cost.activation_bytes(configuration(network), side, side, batch_size=batch)
    return (
        f"Floor of a training step of {batch} images: {count / 1e9:.0f} billion multiply-adds, at "
        f"{rate / 1e9:.0f} billion a second\n(product of large float32 matrices) "
        f"{count / rate:.2f} s. Beside it, writing and reading once the {kept / 2**30:.1f} GiB\n"
        f"that the textbook form keeps for the backward pass, at {bandwidth / 2**30:.0f} GiB/s "
        f"(copying): {2 * kept / bandwidth:.2f} s."
    )


def summary(record: dict[str, Any]) -> str:
    """Return the machine, the tables and the limits."""
    facts = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    parts = [record["settings"].get("gpu") or record["machine"], facts]
    measured = [title for title in record["settings"]["measures"] if values(record, title)]
    parts += ["\n" + table(record, title) for title in measured]
    return "\n".join([*parts, "", limits(record)])


def main() -> None:
    """Measure what is missing, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--output", type=Path, help="the record; none with --short")
    parser.add_argument("--short", action="store_true", help="one round of a small batch")
    arguments = parser.parse_args()
    found = schedule.measure({"what": "device"})
    batch = 8 if arguments.short else 32
    if found["gpu"]:
        what = gpu_settings(found["gpu"], found["backend"], batch)
        name = re.sub(r"\W+", "_", found["gpu"].lower())
        output = OUTPUT.with_stem(f"{OUTPUT.stem}_{name}")
    else:
        what, output = settings(batch), OUTPUT
    if arguments.short:
        what, output = short(what), None
    path = arguments.output or output
    record = recording.resume(path, what)
    names = candidates(gpu=bool(found["gpu"]))
    failures = schedule.run(
        record,
        cases(what, names),
        1 if arguments.short else arguments.rounds,
        path,
        functools.partial(options, what),
        functools.partial(schedule.measure, environment={"KERAS_BACKEND": found["backend"]}),
    )
    print("\n" + summary(record))
    if path == OUTPUT:
        plots.side_by_side(record).savefig(FIGURE)
    if failures:
        sys.exit("\n".join(["Not measured:", *failures]))


if __name__ == "__main__":
    main()
