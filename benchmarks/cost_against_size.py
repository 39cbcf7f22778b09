"""How a training step's time and memory grow with the network, the batch and the depth.

usage: python benchmarks/cost_against_size.py [--rounds 1] [--short] [--peaks] [--output FILE]

Three forms of the same function: stock Keras layers, as the formulas read and as
``keras.applications`` has them; ours; ours, memory-efficient. Each measurement has a process of its
own (``measure.py``), all forms of a size in turn, on all cores. One round takes about a quarter of
an hour on two cores; the record is written anew after each measurement, so stop at any time, and
run the same command again to go on. A size that would not fit into the free memory is left out, by
name. ``--short`` takes the two smallest sizes of each kind; it is recorded only where ``--output``
says. ``--peaks`` records the peak memory of growing batches alone, in ``peak_memory.json``: other
work on the machine disturbs times, and not these.
"""

import argparse
import functools
import sys
from pathlib import Path
from statistics import median
from typing import Any

import recording
import schedule
from candidates import OURS, OURS_MEMORY_EFFICIENT, TEXTBOOK, classes, configuration

from densenet_nb import cost, plots

OUTPUT = recording.RESULTS / "cost_against_size.json"
PEAKS = recording.RESULTS / "peak_memory.json"
FIGURE = Path(__file__).parent.parent / "docs" / "cost_against_size.png"

CANDIDATES = (TEXTBOOK, OURS, OURS_MEMORY_EFFICIENT)

SETTINGS = {
    "optimizer": "SGD, Nesterov momentum 0.9",
    "steps": 2,
    "sweeps": {
        "layers L, 224x224 pixels, batch 8": [
            [layers, {"network": f"DenseNet{layers}", "side": 224, "batch": 8}]
            for layers in (121, 169, 201, 264)
        ],
        "images in a batch, DenseNet-121, 224x224 pixels": [
            [batch, {"network": "DenseNet121", "side": 224, "batch": batch}]
            for batch in (1, 8, 32, 64)
        ],
        "layers L at k = 12, 32x32 pixels, batch 16": [
            [layers, {"network": f"L={layers}", "side": 32, "batch": 16}]
            for layers in (16, 40, 70, 100)
        ],
    },
    "measures": {"training step (s)": "step_s", "peak memory (GiB)": "peak_gib"},
}


def short(settings: dict[str, Any], sizes: int = 2) -> dict[str, Any]:
    """Return the settings with the smallest sizes only."""
    sweeps = {label: sweep[:sizes] for label, sweep in settings["sweeps"].items()}
    return settings | {"sweeps": sweeps}


def peaks(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with growing batches and their peak memory only."""
    sweeps = {label: sweep for label, sweep in settings["sweeps"].items() if "batch," in label}
    return settings | {"sweeps": sweeps, "measures": {"peak memory (GiB)": "peak_gib"}}


def peak_alone(options: schedule.Case) -> schedule.Case:
    """Return what was measured of the memory, without the times."""
    found = schedule.measure(options, {"KERAS_BACKEND": "tensorflow"})
    return {name: found[name] for name in ("base_gib", "peak_gib")}


def needed_gib(size: schedule.Case) -> float:
    """Estimate what the process of the textbook form needs: half more than it keeps, and 1.5 GiB.

    Kept are the tensors for the backward pass; gradients, weights and TensorFlow come on top. With
    32 images keras.applications' DenseNet-121 keeps 3.9 GiB, and its process took 5.6 GiB.
    """
    side = size["side"]
    kept = cost.activation_bytes(
        configuration(size["network"]),
        side,
        side,
        classes=classes(size["network"]),
        batch_size=size["batch"],
    )
    return 1.5 + 1.5 * kept / 2**30


def cases(settings: dict[str, Any], free_gib: float | None) -> list[schedule.Case]:
    """Return what to measure in each round, and say which sizes are too large for the memory."""
    wanted = []
    for sweep in settings["sweeps"].values():
        for _, size in sweep:
            need = needed_gib(size)
            if free_gib is not None and need > free_gib:
                name = ", ".join(f"{name} {value}" for name, value in size.items())
                print(f"{name}: left out, needs {need:.1f} GiB of {free_gib:.1f} GiB free")
                continue
            found = ({"candidate": name, "what": "training", **size} for name in CANDIDATES)
            wanted += [case for case in found if case not in wanted]  # a size in two sweeps
    return wanted


def summary(record: dict[str, Any]) -> str:
    """Return a table for each sweep: the median of each measure for each size and candidate."""
    lines = [record["machine"]]
    for label, sweep in record["settings"]["sweeps"].items():
        for title, value in record["settings"]["measures"].items():
            sizes = "".join(f"{x:>9}" for x, _ in sweep)
            lines += ["", title, f"  {label:<48}{sizes}"]
            for name in CANDIDATES:
                cells = (_cell(record, {"candidate": name, **size}, value) for _, size in sweep)
                lines.append(f"  {name:<48}{''.join(cells)}")
    return "\n".join(lines)


def _cell(record: dict[str, Any], case: schedule.Case, value: str) -> str:
    found = [run[value] for run in schedule.matching(record["runs"], case) if value in run]
    return f"{median(found):9.3g}" if found else f"{'–':>9}"


def main() -> None:
    """Measure what is missing, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--output", type=Path, help="the record; none with --short")
    parser.add_argument("--short", action="store_true", help="small sizes only")
    parser.add_argument("--peaks", action="store_true", help="peak memory of growing batches only")
    arguments = parser.parse_args()
    settings = peaks(SETTINGS) if arguments.peaks else SETTINGS
    settings = short(settings) if arguments.short else settings
    default = PEAKS if arguments.peaks else OUTPUT
    path = arguments.output or (None if arguments.short else default)
    record = recording.resume(path, settings)
    failures = schedule.run(
        record,
        cases(settings, recording.free_gib()),
        arguments.rounds,
        path,
        lambda case: case | {"steps": settings["steps"]},
        peak_alone
        if arguments.peaks
        else functools.partial(schedule.measure, environment={"KERAS_BACKEND": "tensorflow"}),
    )
    print("\n" + summary(record))
    if path == OUTPUT:
        plots.cost_against_size(record).savefig(FIGURE)
    if failures:
        sys.exit("\n".join(["Not measured:", *failures]))


if __name__ == "__main__":
    main()
