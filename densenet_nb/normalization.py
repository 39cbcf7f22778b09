"""Batch normalization by TensorFlow's fused kernel, with Keras's meaning.

Keras's own layer computes the same in five operations on TensorFlow; the kernel does it in one
pass forward and one back. Everything else (weights, freezing, configuration) is Keras's.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

__all__ = ["BatchNormalization", "Statistics", "moments", "moments_gradient"]

FIXED = {"axis": -1, "center": True, "scale": True, "renorm": False, "synchronized": False}
"""Keywords of Keras's layer that the kernel's one form leaves no choice of."""

KERNEL_DTYPES = ("float32", "float16", "bfloat16")

EMPTY_BATCH = (
    "Batch normalization got a training batch with no image in it, which has no mean. Usually the "
    "last batch is smaller than the number of replicas: batch with drop_remainder=True."
)

DIFFERENTIATED_AGAIN = (
    "densenet_nb's backward passes on TensorFlow can't be differentiated again, as second "
    "derivatives (gradient penalty, Hessian) ask, and as forward mode "
    "(tf.autodiff.ForwardAccumulator) does even for a first one. Build "
    "densenet_nb.textbook.DenseNet, the same function, and carry the weights over by set_weights."
)

BACKENDS = ("tensorflow", "jax")
"""Keras's backends on which the backward passes here are written and tested."""


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance of a batch's feature maps, (channels,) each.

    No tuple: Keras would cast the tensors of a tuple to a layer's half precision.
    """

    mean: Any
    variance: Any

    def join(self, new: "Statistics") -> "Statistics":
        """Append the statistics of new maps."""
        return Statistics(
            ops.concatenate([self.mean, new.mean]), ops.concatenate([self.variance, new.variance])
        )


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
        Those of ``keras.layers.BatchNormalization``. `axis`, `center`, `scale`, `renorm` and
        `synchronized` have their default only.

    Raises
    ------
    ValueError
        One of those five has another value.
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
            normalize = kernel_normalize if self.uses_kernel(inputs) else ops_normalize
            constants = Statistics(self.moving_mean.value, self.moving_variance.value)
            return normalize(inputs, *learned, constants, epsilon=self.epsilon)
        from densenet_nb import compiled
        if statistics is None and self.uses_kernel(inputs) and compiled.wanted(inputs):
            outputs, statistics = compiled.normalize_by_own(inputs, *learned, activation=compiled.identity, epsilon=self.epsilon)
        elif statistics is None and self.uses_kernel(inputs):
            outputs, statistics, _ = kernel_batch_norm(inputs, *learned, epsilon=self.epsilon)
        else:
            statistics = statistics or moments(inputs)
            outputs = ops_normalize(inputs, *learned, statistics, epsilon=self.epsilon)
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
                value = ops.where(_size(inputs) > 0, value, average.value)
            moves.append(_Move(average, value, self.momentum))
        collected = _collected.get()
        if collected is None:
            _move(moves)
        else:
            collected.extend(moves)


class _Move(NamedTuple):
    """A moving average, (channels,), what it moves towards, and how much of the old is kept."""

    average: keras.Variable
    value: Any
    momentum: float


_collected: ContextVar[list[_Move] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting_moves() -> Iterator[list[_Move]]:
    """Move no averages meanwhile; yield the list of the moves."""
    token = _collected.set([])
    try:
        yield _collected.get()
    finally:
        _collected.reset(token)


@contextlib.contextmanager
def moving_together() -> Iterator[None]:
    """Move all averages at the end, as one long vector: a few operations, not five for each."""
    with collecting_moves() as moves:
        yield
    _move(moves)


def _move(moves: list[_Move]) -> None:
    """Move averages by ``old + (value − old) (1 − momentum)``."""
    groups: dict[float, list[_Move]] = {}
    for each in moves:
        groups.setdefault(each.momentum, []).append(each)
    for momentum, group in groups.items():
        averages, values, _ = zip(*group, strict=True)
        old = ops.concatenate([average.value for average in averages])
        moved = old + (ops.concatenate(values) - old) * (1.0 - momentum)
        ends = np.cumsum([average.shape[0] for average in averages[:-1]])
        for average, part in zip(averages, ops.split(moved, ends.tolist()), strict=True):
            average.assign(part)


def require_backend() -> None:
    """Raise a ValueError unless Keras runs on a backend that this library trains on."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(
            f"KERAS_BACKEND={backend!r}: densenet_nb's layers run on TensorFlow and JAX; set "
            "KERAS_BACKEND=tensorflow or jax before Keras is imported. On others build "
            "keras.applications.DenseNet121, whose weights carry over by set_weights."
        )


def require_channels_last() -> None:
    """Raise a ValueError if Keras is set to channels first: rows would pass for channels."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"image_data_format={keras.config.image_data_format()!r}: the last axis is normalized, "
            "so images must be (batch, height, width, channels); call "
            'keras.config.set_image_data_format("channels_last").'
        )


def uses_kernel(x: object) -> bool:
    """Whether the fused kernel serves `x`.

    XLA lowers the kernel to E[x²] − E[x]², which is 2% wrong at a mean of 100 and NaN from 1e3
    (tensorflow#118701), so code that XLA compiles takes Keras's operations. The kernel has no
    float64 form.
    """
    return (
        keras.backend.backend() == "tensorflow"
        and len(x.shape) == 4
        and keras.backend.standardize_dtype(x.dtype) in KERNEL_DTYPES
        # The test that TensorFlow's own control flow makes; there is no public one.
        and not control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )


def moments(x: Any) -> Statistics:
    """Compute the batch's mean and biased variance of each feature map.

    Parameters
    ----------
    x : tensor
        Feature maps, (batch, ..., channels); half precision is computed in float32.

    Returns
    -------
    Statistics
        Float32, or float64 of float64.
    """
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    axes = list(range(len(x.shape) - 1))
    return Statistics(*(_kernel_moments if uses_kernel(x) else ops.moments)(x, axes))


def _kernel_moments(x, axes):  # noqa: ANN001, ANN202
    """Return the moments, with their gradient in a quarter of autodiff's operations."""

    @tf.custom_gradient
    def function(x):  # noqa: ANN001, ANN202
        mean = tf.reduce_mean(x, axes)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes)

        def gradient(*upstream):  # noqa: ANN002, ANN202
            return differentiable_once(moments_gradient(x, mean, *upstream))

        return (mean, variance), gradient

    return function(x)


def moments_gradient(x: Any, mean: Any, dmean: Any, dvariance: Any) -> Any:
    """Return the gradient of `x` from those of its mean m and variance v, over n values each.

    ∂x = (∂m + 2 (x − m) ∂v) / n, in the dtype of `x`.
    """
    share = _share(x, mean.dtype)
    slope = dvariance * (2 * share)
    return ops.cast(ops.cast(x, mean.dtype) * slope + (dmean * share - mean * slope), x.dtype)


def _share(x: Any, dtype: str) -> Any:
    """Return 1/n of the n values of each channel: a number, if the shape of `x` is known."""
    if all(x.shape[:-1]):
        return 1 / math.prod(x.shape[:-1])
    return x.shape[-1] / ops.cast(_size(x), dtype)


def _size(x: Any) -> Any:
    """Count the values of `x`, of which there may be more than 32 bits hold."""
    return tf.size(x, tf.int64) if keras.backend.backend() == "tensorflow" else ops.size(x)


def ops_normalize(x, gamma, beta, statistics, *, epsilon):  # noqa: ANN001, ANN202
    """Return ``γ (x − mean) / √(variance + ε) + β`` in the dtype of `x`, by Keras's operations.

    The vectors are (channels,); half-precision `x` is computed in float32.
    """
    dtype = keras.backend.result_type(x.dtype, "float32")
    vectors = (statistics.mean, statistics.variance, beta, gamma)
    mean, variance, offset, scale = (ops.cast(vector, dtype) for vector in vectors)
    outputs = ops.batch_normalization(
        ops.cast(x, dtype), mean, variance, axis=-1, offset=offset, scale=scale, epsilon=epsilon
    )
    return ops.cast(outputs, x.dtype)


def kernel_normalize(x, gamma, beta, statistics, *, epsilon):  # noqa: ANN001, ANN202
    """Do the same by TensorFlow's kernel; `x` is (batch, height, width, channels).

    The kernel's gradient ends at the statistics: see :func:`statistics_gradient`.
    """
    outputs, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=statistics.mean,
        variance=statistics.variance,
        epsilon=epsilon,
        is_training=False,
    )
    return outputs


def kernel_batch_norm(x, gamma, beta, *, epsilon):  # noqa: ANN001, ANN202
    """Normalize with the batch's own statistics; return them too, and what the gradient reads.

    The kernel returns the unbiased variance: Bessel's correction n / (n − 1) is undone here.
    """
    x = require_images(x)
    outputs, mean, variance, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    # A single value has variance 0, whatever the kernel's n / (n − 1) made of it.
    variance = tf.math.multiply_no_nan(variance, 1 - _share(x, variance.dtype))
    return outputs, Statistics(mean, variance), reserved


def normalization_gradient(upstream, x, gamma, reserved, *, epsilon, is_training):  # noqa: ANN001, ANN202
    """Return the gradients of `x`, γ and β by the kernel.

    `reserved` is what :func:`kernel_batch_norm` returned (`is_training`), or the mean and variance
    that were given; these count as constants.
    """
    first, second, *third = reserved
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=upstream,
        x=x,
        scale=gamma,
        reserve_space_1=first,
        reserve_space_2=second,
        reserve_space_3=third[0] if third else [],
        epsilon=epsilon,
        is_training=is_training,
    )
    return dx, dgamma, dbeta


def statistics_gradient(gamma, variance, dgamma, dbeta, *, epsilon):  # noqa: ANN001, ANN202
    """Return the gradients of a given mean and variance, which follow from those of γ and β.

    With r = 1 / √(variance + ε) they are −γ r ∂β and −½ γ r² ∂γ: the mean enters through the
    offset β − γ r mean, the variance through the scale γ r, whose slope is −½ γ r³.
    """
    r = tf.math.rsqrt(variance + epsilon)
    scale = gamma * r
    return -scale * dbeta, -0.5 * scale * r * dgamma


def differentiable_once(gradients: Any) -> Any:
    """Return `gradients`, a tensor or a structure of them, and refuse to differentiate them again.

    TensorFlow takes what a custom backward pass reads of its forward pass for constants, so second
    derivatives would be wrong without a word. JAX gets them right.
    """
    if keras.backend.backend() == "jax":
        return gradients
    return keras.tree.map_structure(
        lambda gradient: tf.raw_ops.PreventGradient(input=gradient, message=DIFFERENTIATED_AGAIN),
        gradients,
    )


def require_images(x: Any) -> Any:
    """Return `x`, or fail at run time if the batch is empty (without XLA, which cannot raise)."""
    if not uses_kernel(x) or all(x.shape):
        return x
    refuse = tf.raw_ops.Assert(condition=_size(x) > 0, data=[EMPTY_BATCH])
    with tf.control_dependencies([refuse]):
        return tf.identity(x)
