"""Batch normalization by TensorFlow's fused kernel, with Keras's meaning.

Keras's own layer computes the same in five operations on TensorFlow; the kernel does it in one
pass forward and one back. Everything else (weights, freezing, configuration) is Keras's.
"""

from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

__all__ = ["BatchNormalization"]

FIXED = {"axis": -1, "center": True, "scale": True, "renorm": False, "synchronized": False}
"""Keywords of Keras's layer that the kernel's one form leaves no choice of."""

KERNEL_DTYPES = ("float32", "float16", "bfloat16")

EMPTY_BATCH = (
    "Batch normalization got a training batch with no image in it, which has no mean. Usually the "
    "last batch is smaller than the number of replicas: batch with drop_remainder=True."
)


@keras.saving.register_keras_serializable("densenet_nb")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's ``BatchNormalization`` over the last axis, fused where TensorFlow has the kernel.

    Weights, moving averages and freezing are those of ``keras.layers.BatchNormalization``, and so
    is the result to rounding: in training (and when the layer is trainable) maps are normalized
    with the batch's mean and biased variance, which also move the moving averages; otherwise with
    the moving averages. Statistics are float32 under mixed precision.

    Inputs and outputs have shape ``(batch, ..., channels)``. Float64, XLA (``jit_compile=True``)
    and other backends take ``keras.ops``.

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
        super().__init__(**kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: D102
        inputs = ops.cast(inputs, self.compute_dtype)
        fused = uses_kernel(inputs) and self.variable_dtype == "float32"
        normalize = fused_batch_norm if fused else batch_norm
        vectors = (self.gamma, self.beta)
        if not (training and self.trainable):
            vectors += (self.moving_mean, self.moving_variance)
            return normalize(inputs, *vectors, epsilon=self.epsilon)[0]
        outputs, mean, variance = normalize(inputs, *vectors, epsilon=self.epsilon)
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.cast(average, value.dtype)
            moved = old * self.momentum + value * (1.0 - self.momentum)
            # An empty batch has no statistics (under XLA, which cannot raise).
            average.assign(ops.where(ops.size(inputs) > 0, moved, old))
        return outputs


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


def batch_norm(x, gamma, beta, mean=None, variance=None, *, epsilon):  # noqa: ANN001, ANN202
    """Return ``γ (x − mean) / √(variance + ε) + β`` with the mean and biased variance used.

    Without `mean` and `variance` they are the batch's own, over every axis but the last, and
    gradients flow through them. All vectors are (channels,); half-precision `x` is computed in
    float32.
    """
    dtype = x.dtype
    x = ops.cast(x, keras.backend.result_type(dtype, "float32"))
    if mean is None:
        mean, variance = ops.moments(x, axes=list(range(len(x.shape) - 1)))
    outputs = ops.batch_normalization(
        x, mean, variance, axis=-1, offset=beta, scale=gamma, epsilon=epsilon
    )
    return ops.cast(outputs, dtype), mean, variance


def fused_batch_norm(x, gamma, beta, mean=None, variance=None, *, epsilon):  # noqa: ANN001, ANN202
    """Do the same by TensorFlow's kernel; `x` is (batch, height, width, channels).

    The kernel returns the unbiased variance: Bessel's correction n / (n − 1) is undone here.
    """
    if mean is not None:
        outputs, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        )
        return outputs, mean, variance
    n = tf.size(x) // x.shape[-1]
    something = tf.debugging.assert_positive(n, message=EMPTY_BATCH)
    with tf.control_dependencies([something] if something is not None else []):
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
        )
    n = tf.cast(n, variance.dtype)
    # A single value has variance 0, whatever the kernel's n / (n − 1) made of it.
    return outputs, mean, tf.where(n > 1, variance * (n - 1) / n, 0)
