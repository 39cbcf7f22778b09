"""Files of weights: whose they seem to be, told before anything is built or loaded."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py

__all__ = ["require_loadable"]

CLASSIFIER = "layers/dense/vars/0"
"""Where ``save_weights`` of a network of ours puts the classifier's kernel, (channels, classes)."""

STOCK = "keras.applications', or of another network of stock Keras layers"
TORCH = "torchvision's, timm's or another Torch network's"
CARRY = {
    STOCK: "Load it into that network and carry it over: model.set_weights(theirs.get_weights()), "
    "for keras.applications.DenseNet121 and textbook.DenseNet have the same arrays in our order.",
    TORCH: "Read it there; kernels (filters, channels, height, width) become (height, width, "
    "channels, filters), and model.set_weights takes all arrays in the order of model.weights.",
}
"""What to do with a file that is not ours, by whose it seems to be."""


def require_loadable(path: Any, classes: int | None = None) -> None:
    """Raise a ValueError unless `path` is a weights file that a network of ours may have written.

    Parameters
    ----------
    path : str or path
        Written by ``save_weights`` (``.weights.h5``) or ``save`` (``.keras``).
    classes : int, optional
        Of the network that is to load it; None if it has no classifier.

    Raises
    ------
    ValueError
        There is no such file, it seems to be another library's, or it has another number of
        classes; the message says how to go on.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        raise ValueError(
            f"weights={path!r}: must be None (random) or the path of an existing weights file "
            "written by save_weights."
        )
    with open(path, "rb") as file:
        if owner := _owner(Path(path), file.read(64)):
            raise ValueError(f"weights={os.fspath(path)!r}: it seems to be {owner}. {CARRY[owner]}")
    found = _classes(path)
    if None not in (classes, found) and found != classes:
        raise ValueError(
            f"weights={os.fspath(path)!r}: its classifier has {found} classes, this network's "
            f"{classes}. Build it with classes={found}, or keep all but the classifier: "
            "model.load_weights(path, skip_mismatch=True)."
        )


def _owner(path: Path, head: bytes) -> str | None:
    """Return whose file it seems to be, one of `CARRY`, or None if it may be ours."""
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        return TORCH if any(name.endswith("data.pkl") for name in names) else None
    pickled = head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04"))
    safetensors = head[8:9] == b"{"  # after eight bytes of length
    if pickled or safetensors:
        return TORCH
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        layers = list(file.get("layers", ()))  # by type; a block of ours is one layer
        names = map(_text, file.get("model_weights", file).attrs.get("layer_names", ()))
        flat = "concatenate" in layers or any(re.match("conv[1-5][_/]", name) for name in names)
        return STOCK if flat else None


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _classes(path: str | os.PathLike) -> int | None:
    """Return the classes of a file of ours, or None if it has no classifier."""
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        return file[CLASSIFIER].shape[-1] if CLASSIFIER in file else None
