"""Weights files of ``keras.applications``, of three formats; and whose a file seems to be."""

import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import densenet_nb._startup  # noqa: F401

import h5py
import keras
from keras.src.saving.saving_lib import (
    safe_get_h5_dataset,  # no links to other files, no shapes that fill the memory
    safe_get_h5_group,
)

from densenet_nb.weights.imagenet import KERAS_EPSILON
from densenet_nb.weights.parts import VARIABLES, Part, assign, parts_of, require_epsilon, some

__all__ = ["load_stock", "of_stock_layers", "require_loadable", "to_keras_applications"]

CLASSIFIER = "layers/dense/vars/0"
"""Where ``save_weights`` of a network of ours puts the classifier's kernel, (channels, classes)."""

KERAS_3 = {
    "conv2d": "convolution",
    "batch_normalization": "normalization",
    "dense": "classifier",
}
"""The kind of a layer by the name that Keras 3 gives it in a weights file, less its number."""


def load_stock(model: keras.Model, path: str | os.PathLike, skip_mismatch: bool = False) -> None:
    """Give a network of ours the weights in a file of ``keras.applications``' same network.

    The file may be in Keras 2's format, as the published ones are, or what ``save_weights`` writes
    now. ``model.load_weights(path)`` calls this, and so does ``DenseNet121(weights=path)``. (The
    other way about, ``theirs.set_weights(ours.get_weights())`` will do: the order is the same.)

    Arrays are told by their kind and their order, as Keras itself does: names in the published
    files have not always been those of the layers (keras-applications#17).

    Parameters
    ----------
    model : keras.Model
        A network of this package.
    path : path
        An ``.h5`` file of ``keras.applications`` or of `textbook`. Its classifier is left out if
        the model has none.
    skip_mismatch : bool
        Whether to leave out arrays that are missing or of other shapes, with a warning.

    Raises
    ------
    ValueError
        Arrays are missing, superfluous or of other shapes; the message names them all, and nothing
        has changed.
    """
    parts = parts_of(model)
    variables = {f"{part.keras}/{name}": v for part in parts for name, v in part.variables()}
    with h5py.File(path, "r") as file:
        try:
            found = _stock_arrays(file, parts)
        except KeyError as error:
            raise ValueError(f"{os.fspath(path)!r} is broken: it lacks {error}.") from error
        if skip_mismatch:
            fits = {
                name
                for name, variable in variables.items()
                if name in found and found[name].shape == tuple(variable.shape)
            }
            if skipped := variables.keys() - fits:
                warnings.warn(
                    f"{os.fspath(path)!r}: could not be loaded: {some(skipped)}.",
                    UserWarning,
                    stacklevel=3,
                )
            variables, found = ({name: each[name] for name in fits} for each in (variables, found))
        assign(model, variables, found, repr(os.fspath(path)))


def to_keras_applications(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a file that ``keras.applications.DenseNet121(weights=path)`` loads.

    It is in the format of the published files, so Keras 2 reads it as well.

    Parameters
    ----------
    model : keras.Model
        A network of this package, of the configuration that is to load the file.
    path : path
        Of a new file; its name ends in ``.h5``, and not in ``.weights.h5``, by which Keras tells
        another format.

    Raises
    ------
    ValueError
        Another name, or the normalizations have another epsilon than those of
        ``keras.applications``.
    """
    path = Path(path)
    if path.suffix != ".h5" or path.name.endswith(".weights.h5"):
        raise ValueError(
            f"path={os.fspath(path)!r}: must end in .h5 and not in .weights.h5, or Keras takes it "
            "for another format."
        )
    parts = parts_of(model)
    require_epsilon(model, parts, KERAS_EPSILON, "that of keras.applications")
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        file.attrs["layer_names"] = [part.keras.encode() for part in parts]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.1.6"  # the layout's, not this Keras's
        for part in parts:
            group = file.create_group(part.keras)
            arrays = {f"{part.keras}/{name}:0": variable for name, variable in part.variables()}
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, variable in arrays.items():
                group[name] = keras.ops.convert_to_numpy(variable)
    partial.replace(path)


def _stock_arrays(file: h5py.File, parts: list[Part]) -> dict[str, h5py.Dataset]:
    """Return what a file holds by ``keras.applications``' names of today, one kind after another.

    What there is too much of keeps the file's names.
    """
    names = {kind: iter([p.keras for p in parts if p.kind == kind]) for kind in VARIABLES}
    names["classifier"] = iter(["predictions"])
    found = {}
    for kind, name, arrays in _stock_layers(file):
        layer = next(names[kind], name)
        found |= {f"{layer}/{variable}": array for variable, array in arrays.items()}
    return found


def _stock_layers(file: h5py.File) -> Iterator[tuple[str, str, dict[str, h5py.Dataset]]]:
    """Yield kind, name and arrays of each layer with weights; those of a kind in their order."""
    root = safe_get_h5_group(file, "model_weights") if "model_weights" in file else file
    if "layer_names" not in root.attrs:
        yield from _keras_3_layers(safe_get_h5_group(file, "layers"))
        return
    for name in map(_text, root.attrs["layer_names"]):
        group = safe_get_h5_group(root, name)
        arrays = {  # by the last word of a name such as conv1/bn/gamma:0
            re.sub(r".*/|:\d+$", "", weight): safe_get_h5_dataset(group, weight)
            for weight in map(_text, group.attrs["weight_names"])
        }
        if arrays:
            yield _kind(arrays), name, arrays


def _keras_3_layers(
    layers: h5py.Group,
) -> Iterator[tuple[str, str, dict[str, h5py.Dataset]]]:
    for name in sorted(layers, key=lambda name: (len(name), name)):  # conv2d_9 before conv2d_10
        group = safe_get_h5_group(layers, f"{name}/vars")
        arrays = [safe_get_h5_dataset(group, key) for key in sorted(group)]
        if arrays:
            kind = KERAS_3.get(re.sub(r"_\d+$", "", name))
            if kind is None:
                raise ValueError(f"the file has a layer {name!r}, which no DenseNet has.")
            yield kind, name, dict(zip(VARIABLES[kind], arrays, strict=False))


def _kind(arrays: Mapping[str, Any]) -> str:
    """Tell a layer by its arrays."""
    if "gamma" in arrays:
        return "normalization"
    return "convolution" if len(arrays["kernel"].shape) == 4 else "classifier"


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


# Whose a file is, told before anything is built or loaded


def require_loadable(path: Any, classes: int | None = None) -> None:
    """Raise a ValueError unless `path` is a weights file that a network of ours may load.

    Parameters
    ----------
    path : str or path
        Written by ``save_weights`` (``.weights.h5``) or ``save`` (``.keras``) of a network of ours,
        or by ``keras.applications``.
    classes : int, optional
        Of the network that is to load it; None if it has no classifier.

    Raises
    ------
    ValueError
        There is no such file, it is a Torch network's, or it has another number of classes; the
        message says how to go on.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        raise ValueError(
            f"weights={path!r}: must be None (random), 'imagenet', or the path of an existing "
            "weights file written by save_weights."
        )
    if _of_torch(path):
        raise ValueError(
            f"weights={os.fspath(path)!r}: it seems to be torchvision's, timm's or another Torch "
            "network's. Build the network without weights and call "
            f"densenet_nb.weights.from_torch(model, {os.fspath(path)!r})."
        )
    found = _classes(path)
    if None not in (classes, found) and found != classes:
        raise ValueError(
            f"weights={os.fspath(path)!r}: its classifier has {found} classes, this network's "
            f"{classes}. Build it with classes={found}, or keep all but the classifier: "
            "model.load_weights(path, skip_mismatch=True)."
        )


def _of_torch(path: str | os.PathLike) -> bool:
    """Whether a file seems to be a Torch network's: a pickle, alone or in an archive, or arrays."""
    if zipfile.is_zipfile(path):
        return any(name.endswith("data.pkl") for name in zipfile.ZipFile(path).namelist())
    with open(path, "rb") as file:
        head = file.read(9)
    pickled = head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04"))
    return pickled or head[8:] == b"{"  # safetensors: after eight bytes of length


def of_stock_layers(path: str | os.PathLike) -> bool:
    """Whether a file seems to be ``keras.applications``', where a block is many layers."""
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        layers = list(file.get("layers", ()))  # by type; a block of ours is one layer
        return "concatenate" in layers or "layer_names" in file.get("model_weights", file).attrs


def _classes(path: str | os.PathLike) -> int | None:
    """Return the classes of a file of ours, or None if it has no classifier."""
    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        return file[CLASSIFIER].shape[-1] if CLASSIFIER in file else None
