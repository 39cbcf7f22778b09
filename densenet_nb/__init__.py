"""DenseNet (arXiv 1608.06993) as a small Keras library, with the notebooks that explain it.

Importing the package imports neither TensorFlow nor Keras; the first use of a name that needs
them does, quietly. Keras loads saved models only if it knows their layers, and it imports no
package by itself: using any name below that needs Keras, or `load_model`, registers them.
"""

import logging
import sys
from importlib import import_module
from os import PathLike
from typing import Any

__version__ = "0.1.0"

_LIGHT = ("configurations", "records", "cost", "data", "plots", "exercises")
_KERAS = ("normalization", "layers", "models", "textbook", "probes", "inference")
_MODELS = (
    "DenseNet",
    "DenseNet121",
    "DenseNet161",
    "DenseNet169",
    "DenseNet201",
    "DenseNet264",
    "DenseNetCIFAR",
)

__all__ = [*_LIGHT, *_KERAS, *_MODELS, "load_model"]


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
    import_module("densenet_nb.models")
    import keras

    return keras.saving.load_model(filepath, custom_objects, compile, safe_mode)


def __getattr__(name: str) -> Any:
    if name in _KERAS:
        import_module("densenet_nb.models")  # registers every layer
        return import_module(f"densenet_nb.{name}")
    if name in _MODELS:
        return getattr(import_module("densenet_nb.models"), name)
    if name in _LIGHT:
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

if "keras" in sys.modules:  # nothing to wait for: register the layers at once
    import_module("densenet_nb.models")
