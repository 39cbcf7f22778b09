"""What recipes for networks of many small layers loop over, where a dense block is one layer.

A recipe that walks ``model.layers`` of ``keras.applications.DenseNet121`` finds 429 layers there
and 17 in ours: the normalizations and convolutions of a block are inside it. These functions find
them, in any Keras model.
"""

import densenet_nb._startup  # noqa: F401

import keras

__all__ = ["convolutions", "freeze_up_to", "normalizations"]


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return all batch normalizations of a model, inside blocks and other models too.

    ``for norm in normalizations(model): norm.trainable = False`` keeps all moving averages, γ and
    β as they are, and normalizes with the averages in training as well.

    Parameters
    ----------
    model : keras.Model
        Any.

    Returns
    -------
    list of keras.layers.BatchNormalization
        In the order of ``model.weights``: from the input on.
    """
    return _inside(model, keras.layers.BatchNormalization)


def convolutions(model: keras.Model) -> list[keras.layers.Conv2D]:
    """Return all convolutions of a model, inside blocks and other models too.

    Parameters and order as in :func:`normalizations`.
    """
    return _inside(model, keras.layers.Conv2D)


def freeze_up_to(model: keras.Model, last: str) -> None:
    """Set ``trainable = False`` for each layer of a model from the input up to `last`, included.

    The rest is left as it is. A frozen block keeps its weights and moving averages, and normalizes
    with these, as Keras's layers do. Compile the model after it.

    Parameters
    ----------
    model : keras.Model
        A functional or sequential one.
    last : str
        Name of a layer of the model, with the model's own name in front or without:
        ``"densenet121_block3"`` or ``"block3"``. The names and those of ``keras.applications``:
        :func:`densenet_nb.models.keras_applications_names`.

    Raises
    ------
    ValueError
        The model has no such layer; nothing is frozen.
    """
    names = [layer.name for layer in model.layers]
    found = next((name for name in (last, f"{model.name}_{last}") if name in names), None)
    if found is None:
        raise ValueError(f"last={last!r}: {model.name!r} has no such layer; it has {names}.")
    for layer in model.layers[: names.index(found) + 1]:
        layer.trainable = False


def _inside(layer: keras.layers.Layer, kind: type) -> list[keras.layers.Layer]:
    """Return the parts of `layer` of one kind, in their order, each once."""
    found = {}
    for part in layer._layers:
        parts = [part] if isinstance(part, kind) else _inside(part, kind)
        found |= {id(each): each for each in parts}
    return list(found.values())
