"""Weights in and out: those of ``keras.applications``, of torchvision and of timm; their images.

All these networks have the same arrays as ours, under other names, and Torch's with other axes. So
carrying them over is a copy, and what is computed stays the same. Files hold arrays here, never
code: HDF5 and safetensors are read, pickles are not.

The ImageNet weights are those that ``keras.applications`` publishes. All of these networks expect
the same images, which `preprocess` makes.
"""

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import densenet_nb._startup  # noqa: F401

import h5py
import keras
import numpy as np
import safetensors
import safetensors.numpy
from keras.src.backend.config import keras_home  # where `get_file` keeps its files
from keras.src.saving.saving_lib import (
    safe_get_h5_dataset,  # no links to other files, no shapes that fill the memory
    safe_get_h5_group,
)

from densenet_nb import connection
from densenet_nb.configurations import CONFIGURATIONS, Configuration
from densenet_nb.layers import CompositeFunction, DenseBlock, Transition

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PUBLISHED",
    "fetch",
    "from_torch",
    "imagenet_file",
    "load_stock",
    "of_stock_layers",
    "preprocess",
    "require_loadable",
    "to_keras_applications",
    "to_torch",
]

ORIGIN = "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
"""Where ``keras.applications`` fetches its files from."""

PUBLISHED = {
    "DenseNet121": ("9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738"),
    "DenseNet169": ("d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "DenseNet201": ("1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1"),
}
"""MD5, the only hash that is published, of each file: with the classifier, and without it."""

KERAS_EPSILON = 1.001e-5
"""Of the normalizations in ``keras.applications``, and so of ours by default."""

TORCH_EPSILON = 1e-5
"""Of the normalizations in torchvision and timm."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, of pixels between 0 and 1."""

CLASSIFIER = "layers/dense/vars/0"
"""Where ``save_weights`` of a network of ours puts the classifier's kernel, (channels, classes)."""

VARIABLES = {
    "convolution": ("kernel",),
    "normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "classifier": ("kernel", "bias"),
}
"""The variables of each kind of layer, in Keras's order."""

KERAS_3 = {
    "conv2d": "convolution",
    "batch_normalization": "normalization",
    "dense": "classifier",
}
"""The kind of a layer by the name that Keras 3 gives it in a weights file, less its number."""

TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Torch's name of each variable."""


# ImageNet's weights


def imagenet_file(network: str, include_top: bool = True) -> Path:
    """Return where ``keras.applications``' file of ImageNet weights is kept, there or not.

    Parameters
    ----------
    network : {"DenseNet121", "DenseNet169", "DenseNet201"}
        Nothing is published for the others.
    include_top : bool
        Whether the file has the classifier.
    """
    if network not in PUBLISHED:
        raise ValueError(
            f"network={network!r}: keras.applications has weights for {', '.join(PUBLISHED)} and "
            "no other network."
        )
    top = "" if include_top else "_notop"
    file = f"{network.lower()}_weights_tf_dim_ordering_tf_kernels{top}.h5"
    return Path(keras_home(), "models", file)


def published(
    configuration: Configuration, include_top: bool, classes: int, channels: int, epsilon: float
) -> Path:
    """Return the file of ImageNet weights for a network, fetched if it is not there yet.

    Raises
    ------
    ValueError
        There are none for such a network.
    ConnectionError
        As in :func:`fetch`.
    """
    peers = {CONFIGURATIONS[name]: name for name in PUBLISHED}
    if configuration not in peers:
        how = f"keras.applications has them for {', '.join(PUBLISHED)} and no other network."
    elif include_top and classes != 1000:
        how = f"They have 1000 classes, not {classes}: take them with include_top=False."
    elif channels != 3:
        how = f"They take images of 3 channels, not {channels}: repeat a single channel."
    elif epsilon != KERAS_EPSILON:
        how = f"They were trained with epsilon={KERAS_EPSILON}, not {epsilon}."
    else:
        return fetch(peers[configuration], include_top)
    raise ValueError(f"weights='imagenet': {how}")


def fetch(network: str, include_top: bool = True) -> Path:
    """Return ``keras.applications``' file of ImageNet weights, fetched if it is not there yet.

    Keras keeps such files in its cache (``~/.keras/models``): what ``keras.applications`` has
    fetched before is not fetched again. Only a file with the published hash is returned.

    Parameters
    ----------
    network, include_top
        As in :func:`imagenet_file`.

    Raises
    ------
    ConnectionError
        It cannot be fetched, which is told in seconds; the message says how to do without.
    ValueError
        The file that is there is another one; it is left as it is.
    """
    path = imagenet_file(network, include_top)
    md5 = PUBLISHED[network][0 if include_top else 1]
    by_hand = f"Put {path.name}, whose MD5 is {md5} (no stronger hash is published), there: {path}"
    if path.exists():
        if _md5(path) != md5:
            raise ValueError(
                f"{path} is broken, or another file: its MD5 is {_md5(path)}. Delete it to have it "
                f"fetched again, or: {by_hand}"
            )
        return path
    url = ORIGIN + path.name
    if not connection.answers(*connection.first_host(url)):
        raise ConnectionError(
            f"no answer within {connection.SECONDS} s on the way to {url}. {by_hand}"
        )
    try:
        keras.utils.get_file(path.name, url, cache_subdir="models", file_hash=md5)
    except Exception as error:  # Keras raises nothing more special
        path.unlink(missing_ok=True)
        raise ConnectionError(f"{url} was not fetched: {error} {by_hand}") from error
    return path


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


# What these weights expect


def preprocess(images: Any) -> Any:
    """Turn pixels into what ImageNet weights expect, those of Torch too.

    Pixels are divided by 255, then each channel is standardized by ImageNet's mean and standard
    deviation: ``keras.applications.densenet.preprocess_input``, and torchvision's ``ToTensor`` and
    ``Normalize``.

    Parameters
    ----------
    images : array or tensor
        (batch, height, width, 3) or (height, width, 3), red, green and blue, 0 to 255, of any
        dtype. A tensor of a ``tf.data`` pipeline and a symbolic tensor of a Keras model will do: in
        a model, this is one stock layer.

    Returns
    -------
    array or tensor
        Of the same shape, float32; a NumPy array for a NumPy array.

    Raises
    ------
    ValueError
        Other channels than three, or values that are no pixels: negative, above 255, or, as
        floats, none above 1: these seem to be scaled already. (In a pipeline
        ``tf.errors.InvalidArgumentError`` says so when an image comes; in a Keras model values are
        not looked at.)
    """
    shape = np.shape(images) if isinstance(images, (list, tuple)) else tuple(images.shape)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(
            f"images of shape {shape}: must be (batch, height, width, 3) or (height, width, 3), in "
            "red, green and blue; repeat a single channel three times."
        )
    rescale = keras.layers.Rescaling(
        [1 / (255 * std) for std in IMAGENET_STD],
        [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
        dtype="float32",
    )
    if keras.backend.is_keras_tensor(images):
        return rescale(images)
    if hasattr(images, "graph"):
        return rescale(_pixels_in_graph(images))
    try:
        values = np.asarray(images)
    except TypeError:  # while JAX traces: not known yet
        return rescale(images)
    _require_pixels(values)
    rescaled = rescale(values)
    array = isinstance(images, (np.ndarray, list, tuple))
    return keras.ops.convert_to_numpy(rescaled) if array else rescaled


NO_PIXELS = "must be pixels from 0 to 255, and not scaled before"


def _require_pixels(images: np.ndarray) -> None:
    """Raise a ValueError unless the values may be pixels."""
    if not images.size:
        return
    low, high = images.min(), images.max()
    scaled = np.issubdtype(images.dtype, np.floating) and 0 < high <= 1
    if scaled or not (low >= 0 and high <= 255):  # NaN is refused too
        raise ValueError(f"images: {NO_PIXELS}; these lie between {low} and {high}.")


def _pixels_in_graph(images: Any) -> Any:
    """Return the tensor of a TensorFlow graph, which checks its values when they come."""
    if not images.dtype.is_floating:
        return images
    import tensorflow as tf

    low, high = tf.reduce_min(images), tf.reduce_max(images)
    pixels = (low >= 0) & (high <= 255) & ((high > 1) | (high <= 0))
    check = tf.debugging.Assert(
        pixels | (tf.size(images) == 0), [f"images: {NO_PIXELS}", low, high]
    )
    with tf.control_dependencies([check]):
        return tf.identity(images)


# Torch's weights


def from_torch(model: keras.Model, state: Any, epsilon: float = TORCH_EPSILON) -> None:
    """Give a network of ours the weights of torchvision's or timm's of the same configuration.

    The outputs are then equal to rounding, given `preprocess`'s images, which are Torch's too.
    Moving averages mean the same here and there (Torch's running variance has Bessel's correction,
    and a momentum of 0.1 there is 0.9 here: both matter only to further training).

    Parameters
    ----------
    model : keras.Model
        Such as ``DenseNet121(epsilon=1e-5)``.
    state : mapping or path
        What ``state_dict()`` returns, of arrays or of tensors on the CPU, or the path of a
        ``.safetensors`` file of it. Torch's own files are pickles, which can run any code, and are
        refused. The classifier is left out if the model has none.
    epsilon : float
        Of the Torch network's normalizations, which must be the model's as well.

    Raises
    ------
    ValueError
        The model's epsilon is another one, or arrays are missing, superfluous or of other shapes;
        the message names them all, and nothing has changed.
    TypeError
        `state` is no mapping and no path.
    """
    parts = _parts(model)
    _require_epsilon(model, parts, epsilon, "the Torch network's")
    whose = "the Torch network"
    if isinstance(state, (str, os.PathLike)):
        whose = repr(os.fspath(state))
        state = _safetensors(state)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state={type(state).__name__}: must be a mapping of names to arrays, such as "
            "state_dict() returns, or the path of a .safetensors file."
        )
    found = {
        _today(name): array
        for name, array in state.items()
        if not name.endswith("num_batches_tracked")  # Torch counts them and doesn't read them
    }
    if "features.conv1.weight" in found:
        raise ValueError(
            f"{whose} has a stem of three convolutions, as timm's densenetblur121d and "
            "densenet264d have: it is not the paper's network, and no network here equals it."
        )
    variables = {
        f"{part.torch}.{TORCH[name]}": variable
        for part in parts
        for name, variable in part.variables()
    }
    arrays = {name: _to_keras(np.asarray(array)) for name, array in found.items()}
    _assign(model, variables, arrays, whose)


def to_torch(model: keras.Model, epsilon: float = TORCH_EPSILON) -> dict[str, np.ndarray]:
    """Return the weights of a network of ours under the names that torchvision and timm have.

    ``net.load_state_dict({name: torch.tensor(array) for name, array in to_torch(model).items()})``
    loads them there, and ``safetensors.numpy.save_file(to_torch(model), path)`` writes a file.

    Parameters
    ----------
    model : keras.Model
        Any network of this package.
    epsilon : float
        Of the Torch network's normalizations, which must be the model's as well.

    Raises
    ------
    ValueError
        The model's epsilon is another one.
    """
    parts = _parts(model)
    _require_epsilon(model, parts, epsilon, "the Torch network's")
    return {
        f"{part.torch}.{TORCH[name]}": _to_torch(keras.ops.convert_to_numpy(variable))
        for part in parts
        for name, variable in part.variables()
    }


def _to_keras(array: np.ndarray) -> np.ndarray:
    """Move a kernel's axes, (filters, channels, ...) in Torch, to (..., channels, filters)."""
    return np.moveaxis(array, (1, 0), (-2, -1)) if array.ndim > 1 else array


def _to_torch(array: np.ndarray) -> np.ndarray:
    """Undo `_to_keras`."""
    moved = np.moveaxis(array, (-2, -1), (1, 0)) if array.ndim > 1 else array
    return np.ascontiguousarray(moved)


def _today(name: str) -> str:
    """Return a name of torchvision's first files, ``…denselayer1.norm.1.weight``, as it is now."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", name)


def _safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a ``.safetensors`` file; refuse any other."""
    if not os.path.isfile(path):
        raise ValueError(f"state={os.fspath(path)!r}: there is no such file.")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"state={os.fspath(path)!r}: no .safetensors file ({error}). {TO_SAFETENSORS}"
        ) from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"state={os.fspath(path)!r}: holds a type that NumPy lacks ({error}); save it in "
            "float32."
        ) from error


TO_SAFETENSORS = (
    "A .pth file is a pickle, which can run any code, and is not read here. Where torch is: "
    'safetensors.torch.save_file(torch.load(path, weights_only=True), "weights.safetensors"); '
    'here: densenet_nb.weights.from_torch(model, "weights.safetensors").'
)
"""How the weights of Torch's own files get here."""


def _require_epsilon(
    model: keras.Model, parts: Iterable["Part"], epsilon: float, whose: str
) -> None:
    """Raise a ValueError unless all normalizations have this epsilon."""
    here = {p.layer.epsilon for p in parts if p.kind == "normalization"} - {epsilon}
    if here:
        raise ValueError(
            f"{model.name!r} has normalizations with epsilon={here.pop()}, {whose} is {epsilon}: "
            "they would not be equal, by up to 0.05% where a channel's variance is near zero. "
            f"Build it with epsilon={epsilon}; set_weights carries weights from one to the other."
        )


# keras.applications' weights


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
    parts = _parts(model)
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
                    f"{os.fspath(path)!r}: could not be loaded: {_some(skipped)}.",
                    UserWarning,
                    stacklevel=3,
                )
            variables, found = ({name: each[name] for name in fits} for each in (variables, found))
        _assign(model, variables, found, repr(os.fspath(path)))


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
    parts = _parts(model)
    _require_epsilon(model, parts, KERAS_EPSILON, "that of keras.applications")
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


def _stock_arrays(file: h5py.File, parts: list["Part"]) -> dict[str, h5py.Dataset]:
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


# What they share


class Part(NamedTuple):
    """A layer with weights of a network of ours, and what the other libraries call it."""

    kind: str
    layer: keras.layers.Layer
    keras: str
    torch: str

    def variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """Yield name and variable, in Keras's order."""
        for name in VARIABLES[self.kind]:
            yield name, getattr(self.layer, name)


def _parts(model: keras.Model) -> list[Part]:
    """Return the layers with weights, in the order of ``model.weights``.

    Raises
    ------
    ValueError
        It is no network of this package, such as one with another head.
    """
    found, blocks = [], 0
    for layer in getattr(model, "layers", ()):
        name = layer.name.removeprefix(f"{model.name}_")
        if isinstance(layer, DenseBlock):
            blocks += 1
            found += _of_block(layer, blocks)
        elif isinstance(layer, Transition):
            names = f"pool{blocks + 1}_bn", f"pool{blocks + 1}_conv"
            found += _of_function(layer.function, *names, f"transition{blocks}")
        elif name in ENDS:
            kind, *names = ENDS[name]
            found.append(Part(kind, layer, *names))
        elif layer.weights and not name.endswith("_relu"):  # an activation may have weights
            found.clear()
            break
    if not found:
        raise ValueError(
            f"model={getattr(model, 'name', model)!r}: must be a network of densenet_nb.models "
            "with its own head or none; load the network first, then build on it."
        )
    return found


def _of_block(block: DenseBlock, number: int) -> Iterator[Part]:
    for layer, dense_layer in enumerate(block.dense_layers, start=1):
        name, torch = f"conv{number + 1}_block{layer}", f"denseblock{number}.denselayer{layer}"
        for place, function in enumerate(dense_layer.functions, start=1):
            names = f"{name}_{place - 1}_bn", f"{name}_{place}_conv"
            yield from _of_function(function, *names, torch, str(place))


def _of_function(
    function: CompositeFunction, norm: str, conv: str, torch: str, place: str = ""
) -> Iterator[Part]:
    yield Part("normalization", function.norm, norm, f"features.{torch}.norm{place}")
    yield Part("convolution", function.conv, conv, f"features.{torch}.conv{place}")


ENDS = {
    "stem_conv": ("convolution", "conv1_conv", "features.conv0"),
    "stem_norm": ("normalization", "conv1_bn", "features.norm0"),
    "final_norm": ("normalization", "bn", "features.norm5"),
    "classifier": ("classifier", "predictions", "classifier"),
}
"""Kind, name in keras.applications and name in Torch of what is not in a block or transition."""


def _assign(
    model: keras.Model, variables: Mapping[str, Any], arrays: Mapping[str, Any], whose: str
) -> None:
    """Assign each array to the variable of its name, all of them or none.

    `arrays` may hold a classifier that the model has not.
    """
    classifier = ("classifier.", "predictions/")
    known = variables.keys() | {name for name in arrays if name.startswith(classifier)}
    wrong = {
        "missing": variables.keys() - arrays.keys(),
        "not in this network": arrays.keys() - known,
        "of another shape": {
            f"{name} {tuple(arrays[name].shape)}, here {tuple(variable.shape)}"
            for name, variable in variables.items()
            if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape)
        },
    }
    if any(wrong.values()):
        listed = "; ".join(f"{how}: {_some(names)}" for how, names in wrong.items() if names)
        raise ValueError(
            f"{whose} does not fit {model.name!r}, of which nothing has changed. {listed}."
        )
    values = {name: np.asarray(arrays[name], "float32") for name in variables}
    for name, variable in variables.items():
        variable.assign(values[name])


def _some(names: Iterable[str], most: int = 12) -> str:
    """List names in order, in a length that can be read."""
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


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
