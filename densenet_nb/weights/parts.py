"""The layers with weights of a network of ours, and what the other libraries call them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.layers import CompositeFunction, DenseBlock, Transition

__all__ = ["VARIABLES", "Part", "assign", "parts_of", "require_epsilon", "some"]

VARIABLES = {
    "convolution": ("kernel",),
    "normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "classifier": ("kernel", "bias"),
}
"""The variables of each kind of layer, in Keras's order."""


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


def parts_of(model: keras.Model) -> list[Part]:
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


def assign(
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
        listed = "; ".join(f"{how}: {some(names)}" for how, names in wrong.items() if names)
        raise ValueError(
            f"{whose} does not fit {model.name!r}, of which nothing has changed. {listed}."
        )
    values = {name: np.asarray(arrays[name], "float32") for name in variables}
    for name, variable in variables.items():
        variable.assign(values[name])


def some(names: Iterable[str], most: int = 12) -> str:
    """List names in order, in a length that can be read."""
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def require_epsilon(model: keras.Model, parts: Iterable[Part], epsilon: float, whose: str) -> None:
    """Raise a ValueError unless all normalizations have this epsilon."""
    here = {p.layer.epsilon for p in parts if p.kind == "normalization"} - {epsilon}
    if here:
        raise ValueError(
            f"{model.name!r} has normalizations with epsilon={here.pop()}, {whose} is {epsilon}: "
            "they would not be equal, by up to 0.05% where a channel's variance is near zero. "
            f"Build it with epsilon={epsilon}; set_weights carries weights from one to the other."
        )
