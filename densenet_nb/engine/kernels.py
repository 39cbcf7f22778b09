"""Batch normalization by TensorFlow's fused kernel: one pass forward and one back.

Keras's own layer computes the same in five operations on TensorFlow.
"""

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb.engine import formulas
from densenet_nb.engine.statistics import PIXELS, Statistics, inverse_count, require_images

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled  # not public


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def must_repeat() -> bool:
    """Whether bits must repeat on a GPU, where the kernel's gradient at given statistics can't."""
    return is_op_determinism_enabled() and on_gpu()


def kernel_normalize(x, gamma, beta, statistics, *, epsilon):  # noqa: ANN001, ANN201
    """Do as :func:`.formulas.normalize` by the kernel; `x` is (batch, height, width, channels).

    The kernel's gradient ends at the statistics: see :func:`statistics_gradient`.
    """
    if must_repeat():
        return formulas.normalize(x, gamma, beta, statistics, epsilon=epsilon)
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


def kernel_batch_norm(x, gamma, beta, *, epsilon):  # noqa: ANN001, ANN201
    """Normalize with the batch's own statistics; return them too, and what the gradient reads.

    The kernel returns the unbiased variance: Bessel's correction n / (n − 1) is undone here.
    """
    x = require_images(x)
    outputs, mean, variance, *reserved = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    # A single value has variance 0, whatever the kernel's n / (n − 1) made of it.
    variance = tf.math.multiply_no_nan(variance, 1 - inverse_count(x, variance.dtype))
    return outputs, Statistics(mean, variance), reserved


def normalization_gradient(upstream, x, gamma, reserved, *, epsilon, is_training):  # noqa: ANN001, ANN201
    """Return the gradients of `x`, γ and β by the kernel.

    `reserved` is what :func:`kernel_batch_norm` returned (`is_training`), or the mean and variance
    that were given; these count as constants.
    """
    first, second, *third = reserved
    if not is_training and must_repeat():
        r = tf.math.rsqrt(second + epsilon)
        upstream = tf.cast(upstream, r.dtype)
        standardized = (tf.cast(x, r.dtype) - first) * r
        dx = tf.cast(upstream * (gamma * r), x.dtype)
        return dx, tf.reduce_sum(upstream * standardized, PIXELS), tf.reduce_sum(upstream, PIXELS)
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


def processor_batch_norm(x, gamma, beta, *, epsilon):  # noqa: ANN001, ANN201
    """Do as :func:`kernel_batch_norm`, where there is no GPU, for a batch with an image in it.

    The kernel reserves for its gradient the biased variance there (on a GPU its inverted root).
    """
    none = tf.constant([], tf.float32)
    outputs, _, _, mean, variance, _ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon, is_training=True
    )
    return outputs, Statistics(mean, variance)


def processor_gradient(upstream, x, gamma, statistics, *, epsilon):  # noqa: ANN001, ANN201
    """Return the gradients of `x`, γ and β where `statistics` are those of `x`, without a GPU."""
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=upstream,
        x=x,
        scale=gamma,
        reserve_space_1=statistics.mean,
        reserve_space_2=statistics.variance,
        reserve_space_3=statistics.variance,  # read on a GPU only
        epsilon=epsilon,
        is_training=True,
    )
    return dx, dgamma, dbeta


def statistics_gradient(gamma, variance, dgamma, dbeta, *, epsilon):  # noqa: ANN001, ANN201
    """Return the gradients of a given mean and variance, which follow from those of γ and β.

    With r = 1 / √(variance + ε) they are −γ r ∂β and −½ γ r² ∂γ: the mean enters through the
    offset β − γ r mean, the variance through the scale γ r, whose slope is −½ γ r³.
    """
    r = tf.math.rsqrt(variance + epsilon)
    scale = gamma * r
    return -scale * dbeta, -0.5 * scale * r * dgamma
