"""The history of a run as arrays, as CSV and for TensorBoard: all of it functions of its rows."""

import csv
import os
from pathlib import Path

from densenet_nb._startup import quietly

import numpy as np

with quietly():
    import tensorflow as tf

__all__ = ["COLUMNS", "arrays", "write"]

Row = dict[str, float]

COLUMNS = ("epoch", "step", "rate", "loss", "accuracy", "test_loss", "test_accuracy")
"""What a row has; one row for each epoch that ended."""


def arrays(rows: list[Row]) -> dict[str, np.ndarray]:
    """Return the columns, (epochs,) each: epoch and step int64, the others float64."""
    return {name: np.array([row[name] for row in rows]) for name in COLUMNS}


def write(folder: Path, rows: list[Row]) -> None:
    """Write ``history.csv`` and ``tensorboard/``: a crash leaves the old files or the new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "history.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, folder / "history.csv")
    # TensorBoard's own writer is in its package; its file is a list of records.
    with tf.io.TFRecordWriter(str(partial)) as file:
        file.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        for row in rows:
            file.write(_event(row).SerializeToString())
    (folder / "tensorboard").mkdir(exist_ok=True)
    os.replace(partial, folder / "tensorboard" / "events.out.tfevents.history")


def _event(row: Row) -> tf.compat.v1.Event:
    """Return a row as TensorBoard reads it; its time is the epoch: equal runs have equal files."""
    value = tf.compat.v1.Summary.Value
    values = [value(tag=name, simple_value=row[name]) for name in COLUMNS[2:]]
    summary = tf.compat.v1.Summary(value=values)
    return tf.compat.v1.Event(wall_time=row["epoch"], step=row["step"], summary=summary)
