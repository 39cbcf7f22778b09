"""Batch normalization with Keras's meaning, by the engine's kernels.

Weights, freezing, configuration are Keras's.
"""

from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.checks import require_backend
from densenet_nb.engine import formulas
from densenet_nb.engine import statistics as sharing
from densenet_nb.engine.kernels import kernel_batch_norm, kernel_normalize
from densenet_nb.engine.statistics import (
    Statistics,
    moments,
    moments_gradient,
    uses_kernel,
)

if keras.backend.backend() == "tensorflow":
    from densenet_nb.engine import compiled

__all__ = ["BatchNormalization", "Statistics", "moments", "moments_gradient"]

FIXED = {"axis": -1, "center": True, "scale": True, "renorm": False}
"""Keywords of Keras's layer that the kernel's one form leaves no choice of."""


class RunsOnce:
    """A layer that moves averages as it runs, so it may not be made under a ``RematScope``.

    Raises
    ------
    ValueError
        A ``keras.RematScope`` around the construction applies to the layer: its averages would
        move several times a step, and gradients would be wrong.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        scope = self._remat_mode  # taken by Keras from the scope around
        if scope is None or scope.mode in (None, "activations"):
            return
        if scope.mode == "list_of_layers" and self.name not in scope.layer_names:
            return
        raise ValueError(
            f"layer {self.name!r} under keras.RematScope(mode={scope.mode!r}), which runs a layer "
            "twice a step, so that its moving averages move twice. Build the network outside of "
            "it, with memory_efficient=True, which saves more."
        )


@keras.saving.register_keras_serializable("densenet_nb")
class BatchNormalization(RunsOnce, keras.layers.BatchNormalization):
    """Keras's ``BatchNormalization`` over the last axis, fused where TensorFlow has the kernel.

    Weights, moving averages and freezing are those of ``keras.layers.BatchNormalization``, and so
    is the result to rounding: in training (and when the layer is trainable) maps are normalized
    with the batch's mean and biased variance, which also move the moving averages; otherwise with
    the moving averages. Statistics are float32 under mixed precision.

    Inputs and outputs have shape ``(batch, ..., channels)``. Float64, XLA (``jit_compile=True``)
    and other backends take ``keras.ops``.

    Several consumers of the same maps share their statistics: called with `statistics`, those of
    the batch by :func:`moments`, a layer in training takes them instead of computing its own.

    Parameters
    ----------
    **kwargs
        Those of ``keras.layers.BatchNormalization``. `axis`, `center`, `scale` and `renorm` have
        their default only. With `synchronized` the batch is that of all replicas of a
        ``tf.distribute`` strategy together.

    Raises
    ------
    ValueError
        One of those four has another value.
    tf.errors.InvalidArgumentError
        A training batch without a single image reached the layer.

    Reference: Ioffe and Szegedy, arXiv 1502.03167, algorithm 1.
    """

    def __init__(self, **kwargs: Any) -> None:
        for keyword, only in FIXED.items():
            if kwargs.get(keyword, only) != only:
                raise ValueError(
                    f"{keyword}={kwargs[keyword]!r}: this layer has {keyword}={only!r} only; use "
                    "keras.layers.BatchNormalization for others."
                )
        require_backend()
        super().__init__(**kwargs)

    def call(  # noqa: D102
        self, inputs: Any, training: bool | None = None, statistics: Statistics | None = None
    ) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        learned = (self.gamma.value, self.beta.value)
        if not (training and self.trainable):
            normalize = kernel_normalize if self.uses_kernel(inputs) else formulas.normalize
            constants = Statistics(self.moving_mean.value, self.moving_variance.value)
            return normalize(inputs, *learned, constants, epsilon=self.epsilon)
        own = statistics is None and not self.synchronized
        if own and self.uses_kernel(inputs) and compiled.serves(inputs):
            outputs, statistics = compiled.normalize(inputs, *learned, epsilon=self.epsilon)
        elif own and self.uses_kernel(inputs):
            outputs, statistics, _ = kernel_batch_norm(inputs, *learned, epsilon=self.epsilon)
        else:
            statistics = statistics or moments(inputs, self.synchronized)
            outputs = formulas.normalize(inputs, *learned, statistics, epsilon=self.epsilon)
        self.move_averages(inputs, statistics)
        return outputs

    def uses_kernel(self, inputs: Any) -> bool:
        """Whether the fused kernel serves `inputs` and this layer's weights."""
        return uses_kernel(inputs) and self.variable_dtype == "float32"

    def move_averages(self, inputs: Any, statistics: Statistics) -> None:
        """Move the moving averages towards the statistics of a batch of `inputs`."""
        moves = []
        for average, value in (
            (self.moving_mean, statistics.mean),
            (self.moving_variance, statistics.variance),
        ):
            value = ops.cast(value, average.dtype)
            if not (uses_kernel(inputs) or all(inputs.shape)):
                # XLA cannot raise: an empty batch moves nothing.
                value = ops.where(sharing.size(inputs) > 0, value, average.value)
            moves.append(sharing.Move(average, value, self.momentum))
        sharing.move(moves)
