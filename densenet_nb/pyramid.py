"""Feature maps inside a network: by stride, by block, and by either library's names."""

import re
from collections.abc import Mapping, Sequence

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb.configurations import Configuration
from densenet_nb.layers import DenseBlock

__all__ = ["feature_pyramid", "keras_applications_names"]


def keras_applications_names(configuration: Configuration) -> dict[str, str]:
    """Map our layers' names, without the model's prefix, to those of ``keras.applications``.

    With the same weights, the two layers of a pair have equal outputs. (For a network that is not
    there, theirs are the names that it would have.)
    """
    return _both_names(configuration.blocks, configuration.imagenet_stem)


def feature_pyramid(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """Return a model from images to several feature maps of a network, for a decoder or a detector.

    It shares the network's layers, so training it trains the network. ``pyramid(images)["P3"]`` is
    one map, and ``pyramid.output["P3"].shape`` tells its channels before any image is there.

    Parameters
    ----------
    model : keras.Model
        A network of ours or a DenseNet of ``keras.applications``, with its classifier or without;
        with `layers`, any functional or sequential model.
    layers : sequence of str, optional
        Names of the layers whose outputs are wanted; in a DenseNet in our names
        (:func:`keras_applications_names`), with the prefix or without, or in those of
        ``keras.applications``: ``["stem_relu", "block1", "conv3_block12_concat"]``.

    Returns
    -------
    keras.Model
        Its output is a dictionary of maps, (batch, height, width, channels), by the names given.
        By default by level as in KerasHub: ``"P2"`` has stride 2² = 4, then to ``"P5"`` with
        stride 32 for an ImageNet stem and four blocks; ``"P0"`` to ``"P2"`` without that stem and
        with three. Each is what a block has made, all its maps concatenated; the last one after
        the final normalization and ReLU, as in timm's ``features_only``. The stem rounds halves
        of a side up, a transition down, so sides that the largest stride does not divide give
        maps that are no exact multiples.

    Raises
    ------
    ValueError
        The model is no graph of layers, no DenseNet (without `layers`), or has no layer of a name.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"model={model!r}: must be a functional or sequential model, such as DenseNet121() "
            "returns, with its input known."
        )
    known = {layer.name: layer for layer in model.layers} | _layers_of_densenet(model)
    if layers is None:
        names = _levels(model, known)
    elif isinstance(layers, str):
        raise ValueError(f'layers={layers!r}: must be a sequence of names, such as ["{layers}"].')
    else:
        names = {name: name for name in layers}
    for name in names.values():
        if name not in known:
            own = [layer.name for layer in model.layers]
            raise ValueError(f"layers: {model.name!r} has no layer {name!r}; it has {own}.")
    maps = {key: known[name].output for key, name in names.items()}
    return keras.Model(model.input, maps, name=f"{model.name}_pyramid")


def _levels(model: keras.Model, known: Mapping[str, keras.Layer]) -> dict[str, str]:
    """Map the name of each level of a DenseNet's pyramid to the layer, in our names."""
    blocks = [name for name in known if re.fullmatch(r"block\d+", name)]
    if not blocks:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        raise ValueError(
            f"model {model.name!r} has no dense blocks: give the names of its layers, or a network "
            f"inside it by model.get_layer(name); inside it are {inside}."
        )
    first = 2 if "stem_pool" in known else 0  # stride 2² = 4
    ends = [*blocks[:-1], "final_relu"]
    return {f"P{level}": name for level, name in enumerate(ends, start=first)}


def _layers_of_densenet(model: keras.Model) -> dict[str, keras.Layer]:
    """Return the layers of a DenseNet by both libraries' names; of another model none."""
    layers = {layer.name: layer for layer in model.layers}
    theirs = re.findall(r"^conv(\d)_block(\d+)_concat$", "\n".join(layers), re.MULTILINE)
    blocks = [layer.num_layers for layer in model.layers if isinstance(layer, DenseBlock)]
    blocks = blocks or list({stage: int(num_layers) for stage, num_layers in theirs}.values())
    if not blocks:
        return {}
    stems = [name for name in layers if name.endswith("_stem_conv")]
    prefix = stems[0].removesuffix("stem_conv") if stems else ""
    imagenet_stem = bool({"pool1", f"{prefix}stem_pool"} & set(layers))
    found = {}
    for ours, peer in _both_names(blocks, imagenet_stem).items():
        if layer := layers.get(f"{prefix}{ours}") or layers.get(peer):
            found |= {ours: layer, peer: layer}
    return found


def _both_names(blocks: Sequence[int], imagenet_stem: bool) -> dict[str, str]:
    names = {"stem_conv": "conv1_conv"}
    if imagenet_stem:
        names |= {"stem_norm": "conv1_bn", "stem_relu": "conv1_relu", "stem_pool": "pool1"}
    for index, num_layers in enumerate(blocks, start=1):
        if index > 1:
            names[f"transition{index - 1}"] = f"pool{index}_pool"
        names[f"block{index}"] = f"conv{index + 1}_block{num_layers}_concat"
    return names | {
        "final_norm": "bn",
        "final_relu": "relu",
        "pool": "avg_pool",
        "classifier": "predictions",
    }
