"""What each layer's features tell: pooled, and read by a linear classifier.

A dense block is one layer here. Its output holds the maps of all its layers side by side, as they
were made, so what is inside needs no second run: it is a range of channels of that output.
"""

import re
from collections.abc import Mapping, Sequence

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.layers import DenseBlock
from densenet_nb.progress import Bar

__all__ = ["layer_names", "linear_probes", "pooled_features"]

INSIDE = re.compile(r"(?P<block>.+)/(?P<what>layer|concat)(?P<number>\d+)")
"""How the inside of a block is named: what one of its layers made, or all maps up to it."""


def layer_names(model: keras.Model) -> list[str]:
    """Name the places of a network that are worth a probe, in order from the input.

    Where maps come together: each concatenation of a DenseNet (``"densenet_block1/concat3"`` in
    a block of ours, ``"conv2_block3_concat"`` in one of ``keras.applications``), each addition of a
    ResNet. Of a network without either, each convolution.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential model of images. What lies inside another model in it has no
        place here: ask for the names of that one.

    Returns
    -------
    list of str
        Those that :func:`pooled_features` and :func:`linear_probes` take if none are given.

    Raises
    ------
    ValueError
        The model has none of these.
    """
    merging = (DenseBlock, keras.layers.Concatenate, keras.layers.Add)
    merges = any(isinstance(layer, merging) for layer in model.layers)
    kind = merging if merges else keras.layers.Conv2D
    names = []
    for layer in model.layers:
        if isinstance(layer, DenseBlock):
            names += [f"{layer.name}/concat{index}" for index in range(1, layer.num_layers + 1)]
        elif isinstance(layer, kind):
            names.append(layer.name)
    if not names:
        raise ValueError(
            f"model {model.name!r} has no dense block, concatenation, addition or convolution "
            f"among its layers {[layer.name for layer in model.layers]}: name the layers to probe."
        )
    return names


def pooled_features(
    model: keras.Model,
    images: np.ndarray,
    layers: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Compute what each layer makes of images, each feature map averaged over its pixels.

    The model runs once, in inference mode.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential model of images, channels last.
    images : ndarray
        (count, height, width, channels).
    layers : sequence of str, optional
        Names of layers of the model; by default those of :func:`layer_names`. Inside a block of
        ours, ``"densenet_block1/layer3"`` are the k maps that its third layer made and
        ``"densenet_block1/concat3"`` all maps from the block's input up to these, which is what
        the fourth layer reads.
    batch_size : int
        Images computed at a time.

    Returns
    -------
    dict of str to ndarray
        For each layer, in the given order, (count, channels) in float32. A layer that makes vectors
        gives them as they are.

    Raises
    ------
    ValueError
        No such layer, a layer whose output is neither maps nor vectors, or no images.
    """
    if len(images) == 0:
        raise ValueError(f"images have shape {np.shape(images)}: give at least one.")
    places = {name: _find(model, name) for name in (layers or layer_names(model))}
    outputs = {layer.name: layer.output for layer, _ in places.values()}
    network = keras.Model(model.input, outputs)
    batches = [
        {name: _pool(maps) for name, maps in network(batch, training=False).items()}
        for batch in np.array_split(images, -(-len(images) // batch_size))
    ]
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in outputs}
    return {name: whole[layer.name][:, channels] for name, (layer, channels) in places.items()}


def linear_probes(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    layers: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Measure how well each layer's features tell what is asked, by a linear model.

    For each layer, features are averaged over the pixels and standardized with the mean and the
    standard deviation of the training images. Then a linear model of scikit-learn is fitted to
    them, with its usual penalty: ``LogisticRegression`` for classes (arXiv 1610.01644), ``Ridge``
    for real numbers. The network is not trained. Fewer images or layers take less time.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential model of images; its classifier is not used.
    train, test : (ndarray, ndarray)
        Images, (count, height, width, channels), and what to tell of them: classes as integers,
        (count,), two or more of them, or properties in floating point, (count,) or
        (count, properties). The probe is fitted on the first and scored on the second.
    layers : sequence of str, optional
        As in :func:`pooled_features`.
    progress : bool
        Whether to show a bar; a step is a layer.

    Returns
    -------
    dict of str to float
        For each layer the share of test images whose class is told rightly, in [0, 1]; of
        properties R², the mean over them: 1 if told exactly, 0 if no better than by their mean.

    Raises
    ------
    ValueError
        As :func:`pooled_features`; or labels that do not fit the images or one another.
    """
    properties = np.issubdtype(np.asarray(train[1]).dtype, np.floating)
    for name, (images, labels) in (("train", train), ("test", test)):
        shape = np.shape(labels)
        if shape[:1] != (len(images),) or len(shape) > 1 + properties:
            raise ValueError(
                f"{name} has {len(images)} images and labels of shape {shape}: give the class of "
                "each image as an integer, (count,), or properties as floats, (count, properties)."
            )
    if not properties and len(np.unique(train[1])) < 2:
        raise ValueError(f"train has the single class {np.unique(train[1])}: give two or more.")
    fitted, scored = (pooled_features(model, images, layers) for images, _ in (train, test))
    return _scores(fitted, train[1], scored, test[1], properties, progress)


def _scores(
    fitted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    scored: Mapping[str, np.ndarray],
    right: np.ndarray,
    properties: bool,
    progress: bool,
) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = {}
    with Bar(len(fitted), shown=progress) as bar:
        for name, features in fitted.items():
            linear = Ridge() if properties else LogisticRegression(max_iter=10_000)
            probe = make_pipeline(StandardScaler(), linear)
            probe.fit(features, labels)
            found[name] = float(probe.score(scored[name], right))
            bar.advance(f"{name}: {found[name]:.3f}")
    return found


def _find(model: keras.Model, name: str) -> tuple[keras.layers.Layer, slice]:
    """Return the layer that makes what `name` names, and the range of its channels."""
    layers = {layer.name: layer for layer in model.layers}
    if name in layers:
        layer = layers[name]
        rank = len(getattr(layer.output, "shape", ()))
        if rank not in (2, 4):
            raise ValueError(
                f"layers: the output of {name!r} is {layer.output}: must be maps, (batch, height, "
                "width, channels), or vectors, (batch, channels)."
            )
        return layer, slice(None)
    inside = INSIDE.fullmatch(name)
    block = layers.get(inside["block"]) if inside else None
    if isinstance(block, DenseBlock) and 1 <= int(inside["number"]) <= block.num_layers:
        later = block.num_layers - int(inside["number"])  # layers of the block
        end = block.output.shape[-1] - later * block.growth_rate
        return block, slice(0 if inside["what"] == "concat" else end - block.growth_rate, end)
    places = [
        f"{layer.name}/layer1 to {layer.num_layers}" if isinstance(layer, DenseBlock) else name
        for name, layer in layers.items()
    ]
    raise ValueError(f"layers: {model.name!r} has no {name!r}; it has {places}.")


def _pool(maps: "keras.KerasTensor") -> np.ndarray:
    axes = tuple(range(1, len(maps.shape) - 1))  # none of a vector
    maps = keras.ops.cast(maps, "float32")  # sums of half-precision pixels would overflow
    return keras.ops.convert_to_numpy(keras.ops.mean(maps, axes) if axes else maps)
