"""The composite function on TensorFlow, by its kernels, keeping nothing but its input.

What autodiff would keep for the backward pass, the normalized and activated maps, is as large as
the input again and costs two cheap passes to compute a second time. Memory that is not asked for
is time saved too: the first step need not fetch it from the system.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import densenet_nb._startup  # noqa: F401

import tensorflow as tf

from densenet_nb.engine.backward import differentiable_once
from densenet_nb.engine.kernels import (
    kernel_batch_norm,
    kernel_normalize,
    normalization_gradient,
    statistics_gradient,
)
from densenet_nb.engine.statistics import Statistics

__all__ = ["composite_function"]

SAME = {"strides": [1, 1, 1, 1], "padding": "SAME"}


_keep = ContextVar("keep", default=False)


@contextlib.contextmanager
def keeping_activations() -> Iterator[None]:
    """Keep what the convolutions read meanwhile: what runs again need not run a third time."""
    token = _keep.set(True)
    try:
        yield
    finally:
        _keep.reset(token)


def composite_function(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    kernel: tf.Tensor,
    statistics: Statistics | None = None,
    *,
    activation: Callable,
    epsilon: float,
) -> tuple[tf.Tensor, Statistics]:
    """Normalize, activate and convolve ("same" padding, stride 1); section 3 of the paper.

    Parameters
    ----------
    x : tensor
        Maps, (batch, height, width, m), in a dtype that the fused kernel has.
    gamma, beta : tensor
        (m,), float32.
    kernel : tensor
        (size, size, m, filters), in the dtype of `x`.
    statistics : Statistics, optional
        To normalize with, float32; gradients reach them. By default the batch's own.
    activation : callable
        Without weights of its own.
    epsilon : float
        Added to the variance.

    Returns
    -------
    outputs : tensor
        (batch, height, width, filters), in the dtype of `x`.
    statistics : Statistics
        Those that were used.

    Raises
    ------
    tf.errors.InvalidArgumentError
        Without `statistics`, the batch is empty.
    """
    own, keep = statistics is None, _keep.get()
    given = () if own else (statistics.mean, statistics.variance)
    used = statistics

    @tf.custom_gradient
    def function(x, gamma, beta, kernel, *given):  # noqa: ANN001, ANN002, ANN202
        nonlocal used  # not returned: TensorFlow would make zeros for its gradient
        if own:
            normalized, used, reserved = kernel_batch_norm(x, gamma, beta, epsilon=epsilon)
        else:
            used, reserved = Statistics(*given), given
            normalized = kernel_normalize(x, gamma, beta, used, epsilon=epsilon)
        activated = Activated(normalized, activation)
        outputs = tf.nn.conv2d(activated.maps, kernel, **SAME)
        kept = activated if keep else None  # without TensorFlow's graph, a closure keeps its names

        # Second derivatives would go back through one of three: x, as it is read again, the
        # kernel's gradient, or that of the normalized maps. (What is kept is only read inside
        # another backward pass, which guards its own results.)
        def gradient(upstream):  # noqa: ANN001, ANN202
            again, read = x, kept
            if read is None:
                with tf.control_dependencies([upstream]):  # not before it is needed
                    again = differentiable_once(x)
                normalized = kernel_normalize(again, gamma, beta, used, epsilon=epsilon)
                read = Activated(normalized, activation)
            dkernel = differentiable_once(kernel_gradient(read.maps, kernel, upstream))
            dactivated = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **SAME
            )
            dx, dgamma, dbeta = normalization_gradient(
                differentiable_once(read.gradient(dactivated)),
                again,
                gamma,
                reserved,
                epsilon=epsilon,
                is_training=own,
            )
            if own:
                return dx, dgamma, dbeta, dkernel
            dstatistics = statistics_gradient(gamma, used.variance, dgamma, dbeta, epsilon=epsilon)
            return dx, dgamma, dbeta, dkernel, *dstatistics

        return outputs, gradient

    outputs = function(x, gamma, beta, kernel, *given)
    return outputs, used


class Activated:
    """Activated maps that can tell, more than once, the gradient of the maps before."""

    def __init__(self, maps: tf.Tensor, activation: Callable) -> None:
        self._before = maps
        with tf.GradientTape(persistent=True) as self._tape:
            self._tape.watch(maps)
            self.maps = activation(maps)

    def gradient(self, upstream: tf.Tensor) -> tf.Tensor:
        zero = tf.UnconnectedGradients.ZERO
        with tf.control_dependencies([upstream]):  # an activation's slope, too, not before
            return self._tape.gradient(self.maps, self._before, upstream, zero)


def kernel_gradient(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Return a convolution's gradient with respect to its kernel.

    Of a 1x1 kernel it is one matrix product over all pixels, which a CPU computes faster than
    TensorFlow's own operation (benchmarks/NOTES.md).
    """
    size, _, channels, filters = kernel.shape
    if size == 1:
        pixels = tf.reshape(x, (-1, channels))
        product = tf.matmul(pixels, tf.reshape(upstream, (-1, filters)), transpose_a=True)
        return tf.reshape(product, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=upstream, **SAME
    )
