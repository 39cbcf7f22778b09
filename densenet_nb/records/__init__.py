"""Measurements that the notebooks draw: what took too long to run in a cell, as JSON files.

Programs in ``benchmarks/`` write them. Each says with which command, on which machine and when it
was made. They are part of the package, so a notebook finds them wherever it runs.
"""

import json
from importlib import resources
from typing import Any

__all__ = ["names", "read"]


def names() -> list[str]:
    """Return the names of all records, in order."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def read(name: str) -> dict[str, Any]:
    """Return a record as a dictionary; its measurements stand in the list ``runs``.

    Parameters
    ----------
    name : str
        The program that made it, such as ``"side_by_side"``; `names` returns all.

    Raises
    ------
    ValueError
        There is no such record; the message names those there are.
    """
    file = resources.files(__name__) / f"{name}.json"
    if name not in names():
        raise ValueError(f"name={name!r}: no such record; there are {', '.join(names())}.")
    return json.loads(file.read_text(encoding="utf-8"))
