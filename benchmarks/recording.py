"""What every record of a measurement has: where it came from, and a file that is never half."""

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": " ".join(["python", f"benchmarks/{program}", *sys.argv[1:]]),
        "commit": described.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, {cores} of {os.cpu_count()} cores used",
        "versions": {
            "python": platform.python_version(),
            "tensorflow": version("tensorflow"),
            "keras": version("keras"),
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def resume(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the record at `path`, or a new one with no runs if there is none.

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
    return record


def save(record: dict[str, Any], path: Path) -> None:
    """Write `record`, a line for each run; a crash leaves the old file or the new one."""
    head = json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1)
    rows = ",\n  ".join(json.dumps(run) for run in record["runs"])
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(f'{head[:-2]},\n "runs": [\n  {rows}\n ]\n}}\n', encoding="utf-8")
    partial.replace(path)
