"""What any DenseNet is as a Keras model: its input, how it is compiled, and its files."""

import os
import warnings
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb import weights as files
from densenet_nb.checks import require_image_shape
from densenet_nb.configurations import Configuration

__all__ = ["DenseNetModel", "image_input"]


@keras.saving.register_keras_serializable("densenet_nb")
class DenseNetModel(keras.Model):
    """A functional model that loads a weights file whole or, if it does not fit, not at all.

    It is what the functions of :mod:`densenet_nb.models` return. Its pickles load in a process that
    has not imported this package.
    """

    def _resolve_auto_jit_compile(self) -> bool:
        """Decide for ``compile(jit_compile="auto")``; what is asked for plainly is not asked here.

        Where TensorFlow sees a GPU, Keras would have XLA compile the whole step, for minutes. The
        layers here have what is between their convolutions compiled by themselves. (There is no
        public hook: Keras does not compile a loaded model whose ``compile`` is overridden.)
        """
        return keras.backend.backend() != "tensorflow" and super()._resolve_auto_jit_compile()

    def make_train_function(self, force: bool = False) -> Any:
        """Make the training step as ``keras.Model`` does, the optimizer's slots before it.

        Made while the step is traced, as Keras makes them in the first ``fit``, each slot costs a
        condition in the graph, and the step is traced twice.
        """
        if self.optimizer is not None and not self.optimizer.built and self.trainable_variables:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def load_weights(
        self, filepath: str | os.PathLike, skip_mismatch: bool = False, **kwargs: Any
    ) -> None:
        """Load what ``save_weights`` or ``save`` of the same network wrote, or its peer's file.

        Parameters
        ----------
        filepath : str or path
            The ``.weights.h5`` or ``.keras`` file, or ``keras.applications``' ``.h5``.
        skip_mismatch : bool
            Whether to leave out the layers whose arrays have other shapes, with a warning, such as
            a classifier of another number of classes.
        **kwargs
            Those of ``keras.Model.load_weights``.

        Raises
        ------
        ValueError
            The file does not fit; no array of this network has changed.
        """
        classifier = self.layers[-1]
        known = isinstance(classifier, keras.layers.Dense) and not skip_mismatch
        files.require_loadable(filepath, classifier.units if known else None)
        if files.of_stock_layers(filepath):
            files.load_stock(self, filepath, skip_mismatch)
            return
        before = self.get_weights()
        try:
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        except Exception as error:
            self.set_weights(before)
            raise ValueError(
                f"{os.fspath(filepath)!r} does not fit {self.name!r}, of which nothing has "
                f"changed: {error}"
            ) from error

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantize as ``keras.Model.quantize`` does: its Dense layers only.

        Keras warns for every other layer; here one warning says so for all.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a `quantize` method", UserWarning)
            super().quantize(*args, **kwargs)
        warnings.warn(
            f"{self.name!r}: Keras quantizes Dense layers only, so convolutions stay in "
            f"{self.compute_dtype}. In eight bits they run in TensorFlow Lite: "
            'densenet_nb.inference.freeze(model).export("model.tflite", "int8", examples=images).',
            UserWarning,
            stacklevel=2,
        )


def image_input(
    configuration: Configuration,
    input_tensor: keras.KerasTensor | None,
    input_shape: tuple[int | None, int | None, int] | None,
    include_top: bool,
    name: str,
) -> keras.KerasTensor:
    """Return the input, checked: rank 4, channels known, no side smaller than the stride."""
    if input_tensor is None:
        side = None if not include_top else 224 if configuration.imagenet_stem else 32
        shape = (side, side, 3) if input_shape is None else input_shape
        shape = require_image_shape("input_shape", shape, configuration.stride)
        return keras.Input(shape, name=f"{name}_input")
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor={input_tensor!r}: must be a symbolic Keras tensor, such as "
            "keras.Input((224, 224, 3)) returns."
        )
    shape = tuple(input_tensor.shape)[1:]
    require_image_shape("the shape of input_tensor", shape, configuration.stride)
    if input_shape is not None and input_shape not in (shape, list(shape)):
        raise ValueError(
            f"input_shape={input_shape!r}: input_tensor has {shape!r}; give one of them."
        )
    return input_tensor
