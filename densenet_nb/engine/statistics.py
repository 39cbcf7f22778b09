"""Statistics of a batch's maps, which all readers of the maps share, and the averages they move."""

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

from densenet_nb.engine.backward import differentiable_once, within_xla

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

__all__ = ["Statistics", "moments", "moments_gradient"]

PIXELS = [0, 1, 2]
"""The axes of maps over which statistics are taken."""

KERNEL_DTYPES = ("float32", "float16", "bfloat16")

EMPTY_BATCH = (
    "Batch normalization got a training batch with no image in it, which has no mean. Usually the "
    "last batch is smaller than the number of replicas: batch with drop_remainder=True."
)


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


def moments(x: Any, synchronized: bool = False) -> Statistics:
    """Compute the batch's mean and biased variance of each feature map.

    Parameters
    ----------
    x : tensor
        Feature maps, (batch, ..., channels); half precision is computed in float32.
    synchronized : bool
        Whether the batch is that of all replicas of a ``tf.distribute`` strategy together.

    Returns
    -------
    Statistics
        Float32, or float64 of float64.
    """
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    axes = list(range(len(x.shape) - 1))
    if synchronized or uses_kernel(x):
        return Statistics(*_moments(x, axes, synchronized))
    return Statistics(*ops.moments(x, axes))


def _moments(x, axes, synchronized):  # noqa: ANN001, ANN202
    """Return the moments, with their gradient in a quarter of autodiff's operations."""

    def average(values):  # noqa: ANN001, ANN202
        if synchronized:
            share = inverse_count(values, values.dtype, synchronized)
            return total(tf.reduce_sum(values, axes) * share, synchronized)
        return tf.reduce_mean(values, axes)

    @tf.custom_gradient
    def function(x):  # noqa: ANN001, ANN202
        mean = average(x)
        variance = average(tf.math.squared_difference(x, mean))

        def gradient(*upstream):  # noqa: ANN002, ANN202
            return differentiable_once(moments_gradient(x, mean, *upstream, synchronized))

        return (mean, variance), gradient

    return function(x)


def total(values: Any, synchronized: bool) -> Any:
    """Return the sums of `values`, a tensor or a structure of them, over the replicas, if asked.

    Their gradients are summed by the same function: each replica's loss depends on all sums.
    """
    context = tf.distribute.get_replica_context() if synchronized else None
    return context.all_reduce("SUM", values) if context else values


def moments_gradient(
    x: Any, mean: Any, dmean: Any, dvariance: Any, synchronized: bool = False
) -> Any:
    """Return the gradient of `x` from those of its mean m and variance v, over n values each.

    ∂x = (∂m + 2 (x − m) ∂v) / n, in the dtype of `x`; if synchronized, the sums of the replicas'
    gradients count, and the values of all.
    """
    share = inverse_count(x, mean.dtype, synchronized)
    dmean, dvariance = total([dmean, dvariance], synchronized)
    slope = dvariance * (2 * share)
    return ops.cast(ops.cast(x, mean.dtype) * slope + (dmean * share - mean * slope), x.dtype)


def inverse_count(x: Any, dtype: str, synchronized: bool = False) -> Any:
    """Return 1/n of the n values of each channel: a number, if the shape of `x` is known."""
    if all(x.shape[:-1]) and not synchronized:
        return 1 / math.prod(x.shape[:-1])
    return x.shape[-1] / total(ops.cast(size(x), dtype), synchronized)


def size(x: Any) -> Any:
    """Count the values of `x`, of which there may be more than 32 bits hold."""
    return tf.size(x, tf.int64) if keras.backend.backend() == "tensorflow" else ops.size(x)


class Move(NamedTuple):
    """A moving average, (channels,), what it moves towards, and how much of the old is kept."""

    average: keras.Variable
    value: Any
    momentum: float


_collected: ContextVar[list[Move] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting_moves() -> Iterator[list[Move]]:
    """Move no averages meanwhile; yield the list of the moves."""
    token = _collected.set([])
    try:
        yield _collected.get()
    finally:
        _collected.reset(token)


@contextlib.contextmanager
def moving_together() -> Iterator[None]:
    """Move all averages at the end, as one long vector: a few operations, not five for each.

    Within XLA each moves by itself.
    """
    with collecting_moves() as moves:
        yield
    _together(moves)


def move(moves: list[Move]) -> None:
    """Move averages now, or at the end of :func:`moving_together`."""
    collected = _collected.get()
    if collected is None:
        _together(moves)
    else:
        collected.extend(moves)


def _together(moves: list[Move]) -> None:
    if within_xla():  # it compiles equal operations once, but each part of a vector on its own
        for average, value, momentum in moves:
            average.assign(_moved(average.value, value, momentum))
        return
    groups: dict[float, list[Move]] = {}
    for each in moves:
        groups.setdefault(each.momentum, []).append(each)
    for momentum, group in groups.items():
        averages, values, _ = zip(*group, strict=True)
        old = ops.concatenate([average.value for average in averages])
        moved = _moved(old, ops.concatenate(values), momentum)
        ends = np.cumsum([average.shape[0] for average in averages[:-1]])
        for average, part in zip(averages, ops.split(moved, ends.tolist()), strict=True):
            average.assign(part)


def _moved(old: Any, value: Any, momentum: float) -> Any:
    return old + (value - old) * (1.0 - momentum)


def uses_kernel(x: object) -> bool:
    """Whether the fused kernel serves `x`.

    XLA lowers the kernel to E[x²] − E[x]², which is 2% wrong at a mean of 100 and NaN from 1e3
    (tensorflow#118701), so code that XLA compiles takes Keras's operations. The kernel has no
    float64 form.
    """
    return has_kernel(x) and not within_xla()


def has_kernel(x: object) -> bool:
    """Whether `x` are maps on TensorFlow, in a dtype of the fused kernel."""
    return (
        keras.backend.backend() == "tensorflow"
        and len(x.shape) == 4
        and keras.backend.standardize_dtype(x.dtype) in KERNEL_DTYPES
    )


def require_images(x: Any) -> Any:
    """Return `x`, or fail at run time if the batch is empty (without XLA, which cannot raise)."""
    if not uses_kernel(x) or all(x.shape):
        return x
    refuse = tf.raw_ops.Assert(condition=size(x) > 0, data=[EMPTY_BATCH])
    with tf.control_dependencies([refuse]):
        return tf.identity(x)
