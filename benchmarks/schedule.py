"""Measurements in turn, each in a process of its own, recorded one by one, so that any can be last.

A *case* is a dictionary that says what to measure: the options of ``measure.py`` that differ
between measurements. A *run* in a record is a case, its round and what was measured.
"""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import recording

WORKER = Path(__file__).parent / "measure.py"

Case = dict[str, Any]


class Failed(Exception):
    """A measurement failed; says in one line why."""


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return the command line of ``measure.py`` for `options`; what is False is left out."""
    line = [options["what"]]
    for name, value in options.items():
        if name != "what" and value is not False:
            line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def measure(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Case:
    """Return what ``measure.py`` measures with `options`, in a new process.

    Raises
    ------
    Failed
        The process did not end well.
    """
    done = subprocess.run(
        [sys.executable, str(WORKER), *flags(options)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | (environment or {}),
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(f"ended with {done.returncode}: {textwrap.shorten(last, 200)}")
    return json.loads(done.stdout.splitlines()[-1])


def matching(runs: Iterable[Case], case: Case) -> list[Case]:
    """Return the runs of `case`, in every round."""
    return [run for run in runs if case.items() <= run.items()]


def missing(runs: Iterable[Case], cases: Iterable[Case], rounds: int) -> list[Case]:
    """Return the cases and rounds that have no run yet, all cases of a round before the next.

    So whatever changes in the machine meanwhile changes for all cases alike.
    """
    plan = [case | {"round": index} for index in range(rounds) for case in cases]
    return [entry for entry in plan if not matching(runs, entry)]


def seconds_left(runs: list[Case], remaining: list[Case]) -> float:
    """Estimate how long `remaining` will take: as long as their like took, or as the mean run."""
    mean = sum(run["wall_s"] for run in runs) / len(runs)
    total = 0.0
    for entry in remaining:
        case = {name: value for name, value in entry.items() if name != "round"}
        took = [run["wall_s"] for run in matching(runs, case)]
        total += sum(took) / len(took) if took else mean
    return total


def children_cpu_seconds() -> float:
    """Return the processor time of all child processes that have ended (0 on Windows)."""
    times = os.times()
    return times.children_user + times.children_system


def run(
    record: dict[str, Any],
    cases: list[Case],
    rounds: int,
    path: Path | None,
    options: Callable[[Case], Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], Case] = measure,
) -> list[str]:
    """Measure what is missing in `record` and save it after each measurement.

    Parameters
    ----------
    record : dict
        As `recording.resume` returns it; the runs are added.
    cases : list of dict
        What to measure in every round.
    rounds : int
        How often.
    path : pathlib.Path or None
        The record's file; None saves nothing.
    options : callable
        Gives the options of ``measure.py`` for a case.
    measure : callable
        Measures; tests put another in its place.

    Returns
    -------
    list of str
        The cases that failed, each with its reason. One that failed is not tried again.
    """
    remaining = missing(record["runs"], cases, rounds)
    total, failures = len(remaining), {}
    for done, entry in enumerate(remaining, start=1):
        case = {name: value for name, value in entry.items() if name != "round"}
        name = ", ".join(map(str, case.values()))
        if name in failures:
            continue
        start, cpu = time.perf_counter(), children_cpu_seconds()
        try:
            result = measure(options(case))
        except Failed as failure:
            failures[name] = f"{name}: {failure}"
            print(f"[{done}/{total}] {failures[name]}", flush=True)
            continue
        except KeyboardInterrupt:
            sys.exit("\nStopped. The same command goes on from here." if path else "\nStopped.")
        wall = time.perf_counter() - start
        record["runs"].append(entry | result | {"wall_s": round(wall, 1)})
        record["cpu_seconds"] = round(record["cpu_seconds"] + children_cpu_seconds() - cpu, 1)
        if path is not None:
            recording.save(record, path)
        minutes = seconds_left(record["runs"], remaining[done:]) / 60
        print(
            f"[{done}/{total}] round {entry['round'] + 1} of {rounds}: {name}: "
            f"{wall:.0f} s; about {minutes:.0f} min left",
            flush=True,
        )
    return list(failures.values())
