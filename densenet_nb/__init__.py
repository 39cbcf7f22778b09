"""DenseNet (arXiv 1608.06993) as a small Keras library, with the notebooks that explain it.

Importing the package imports Keras, and TensorFlow with it, without its log lines, and registers
the layers, so that Keras loads saved models of ours. What needs TFDS or Matplotlib (`data`,
`training`, `plots`, `exercises`, …) is imported at its first use.
"""

import logging
import sys
from importlib import import_module
from os import PathLike
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb import (
    configurations,
    cost,
    finetuning,
    inference,
    layers,
    models,
    normalization,
    optimizer,
    paper,
    probes,
    records,
    textbook,
    weights,
)
from densenet_nb.models import (
    DenseNet,
    DenseNet121,
    DenseNet161,
    DenseNet169,
    DenseNet201,
    DenseNet264,
    DenseNetCIFAR,
)

__version__ = "0.1.0"

_LATER = ("data", "evaluation", "examples", "exercises", "plots", "recipes", "training")

__all__ = [
    "DenseNet",
    "DenseNet121",
    "DenseNet161",
    "DenseNet169",
    "DenseNet201",
    "DenseNet264",
    "DenseNetCIFAR",
    "configurations",
    "cost",
    "data",
    "evaluation",
    "examples",
    "exercises",
    "finetuning",
    "inference",
    "layers",
    "load_model",
    "models",
    "normalization",
    "optimizer",
    "paper",
    "plots",
    "probes",
    "recipes",
    "records",
    "textbook",
    "training",
    "weights",
]


def load_model(
    filepath: str | PathLike,
    custom_objects: dict[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> Any:
    """Load a model saved with ``model.save``, whichever of our layers it holds.

    The same as ``keras.saving.load_model``, with our layers registered first.

    Parameters
    ----------
    filepath : str or path
        The ``.keras`` file.
    custom_objects : dict, optional
        Classes and functions of your own, by name.
    compile : bool
        Whether to compile the model as it was when it was saved.
    safe_mode : bool
        Whether to refuse lambdas, which can run any code. Load only files that you trust.

    Returns
    -------
    keras.Model
    """
    return keras.saving.load_model(filepath, custom_objects, compile, safe_mode)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"densenet_nb.{name}")
    module = sys.modules[__name__]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# On a new machine Matplotlib says that it builds its font cache. That line depends on the machine,
# so it must not reach a notebook; every other message of Matplotlib's does.
logging.getLogger("matplotlib.font_manager").addFilter(
    lambda record: "building the font cache" not in record.getMessage()
)
