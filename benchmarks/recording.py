"""What every record of a measurement has: where it came from, and a file that is never half."""

import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "densenet_nb" / "records"


PACKAGES = (
    "tensorflow",
    "keras",
    "tf-keras",
    "keras-hub",
    "jax",
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
)
"""Whose versions a record holds, where they are installed."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of those `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine() -> str:
    """Return the processor's name, the cores and the memory, as far as the system tells."""
    names = re.findall(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    processor = names[0] if names else platform.processor() or platform.machine()
    text = f"{processor}, {platform.machine()}, {cores()} of {os.cpu_count()} cores used"
    memory = _memory_gib("MemTotal")
    return f"{text}, {memory:.0f} GiB" if memory else text


def free_gib() -> float | None:
    """Return the memory that a new process can have, in GiB, or None if the system does not say."""
    return _memory_gib("MemAvailable")


def _memory_gib(entry: str) -> float | None:
    found = re.search(rf"^{entry}: +(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) / 2**20 if found else None


def _read(path: str) -> str:
    """Return the text of a file of Linux, or nothing elsewhere."""
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""


def provenance() -> dict[str, Any]:
    """Return the command, the commit, the machine, the versions and the date."""
    program = Path(sys.argv[0]).name
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    described = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", f"benchmarks/{program}", *sys.argv[1:]]),
        "commit": described.stdout.strip() or "unknown",
        "machine": machine(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def resume(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the record at `path`, which this commit adds to, or a new one with no runs.

    Raises
    ------
    SystemExit
        The record has other settings; nothing is overwritten.
    """
    if path is None or not path.exists():
        return provenance() | {"cpu_seconds": 0.0, "settings": settings, "runs": []}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        sys.exit(
            f"{path}: recorded with {record['settings']}, this program has {settings}; "
            "give another --output, or move the file away."
        )
    commits = record["commit"].split(", ")  # of all whose runs are in it
    record["commit"] = ", ".join(dict.fromkeys([*commits, provenance()["commit"]]))
    return record


def save(record: dict[str, Any], path: Path) -> None:
    """Write `record`, a line for each run; a crash leaves the old file or the new one."""
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1)
    rows = ",\n  ".join(json.dumps(run) for run in record["runs"])
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(f'{head[:-2]},\n "runs": [\n  {rows}\n ]\n}}\n', encoding="utf-8")
    partial.replace(path)
