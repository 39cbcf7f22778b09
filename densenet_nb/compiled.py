"""What stands between the convolutions, compiled by XLA for a GPU: a kernel or two for each step.

TensorFlow's own operations read and write the maps once for every multiplication, and its fused
batch normalization wants channels first on a GPU, with a transposition before and after. Here the
convolutions are left to cuDNN and cuBLAS, and what is between two of them is one small function
that XLA compiles once for each shape, so that equal layers share it.

Vectors are (channels,) in float32, maps (batch, height, width, channels) in any floating dtype;
all arithmetic is in float32.
"""

import functools
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import densenet_nb._startup  # noqa: F401

import tensorflow as tf

from densenet_nb.normalization import Statistics, differentiable_once

def identity(x):
    return x


AXES = [0, 1, 2]
SAME = {"strides": [1, 1, 1, 1], "padding": "SAME"}


def _share(x: tf.Tensor) -> tf.Tensor:
    """Return 1/n of the n values of each channel."""
    return 1.0 / tf.cast(tf.size(x[..., 0], tf.int64), tf.float32)


def _moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and the biased variance, in two passes: exact at any offset."""
    x = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(x, AXES)
    return mean, tf.reduce_mean(tf.math.square(x - mean), AXES)


def _moments_gradient(
    x: tf.Tensor, mean: tf.Tensor, dmean: tf.Tensor, dvariance: tf.Tensor
) -> tf.Tensor:
    """Return ∂x = (∂m + 2 (x − m) ∂v) / n."""
    share = _share(x)
    return (tf.cast(x, tf.float32) - mean) * (2 * share * dvariance) + share * dmean


@functools.lru_cache(maxsize=64)
def parts(activation: Callable, epsilon: float, pooled: bool = False) -> SimpleNamespace:
    """Return the compiled functions for an activation and an epsilon.

    ``pooled`` averages 2x2 pixels after the activation, as a transition does.
    """
    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)

    def activate(x, scale, offset):  # noqa: ANN001, ANN202
        """Return act(x scale + offset), which is what normalization comes to."""
        outputs = activation(x * scale + offset)
        return _pool(outputs) if pooled else outputs

    def affine(gamma, beta, mean, variance):  # noqa: ANN001, ANN202
        scale = gamma * tf.math.rsqrt(variance + epsilon)
        return scale, beta - mean * scale

    @compiled
    def normalize(x, gamma, beta, mean, variance):  # noqa: ANN001, ANN202
        scale, offset = affine(gamma, beta, mean, variance)
        return tf.cast(activate(tf.cast(x, tf.float32), scale, offset), x.dtype)

    @compiled
    def moments(x):  # noqa: ANN001, ANN202
        return _moments(x)

    @compiled
    def normalize_by_own(x, gamma, beta):  # noqa: ANN001, ANN202
        mean, variance = _moments(x)
        scale, offset = affine(gamma, beta, mean, variance)
        outputs = tf.cast(activate(tf.cast(x, tf.float32), scale, offset), x.dtype)
        return outputs, mean, variance

    def pull_back(upstream, x, gamma, beta, mean, variance):  # noqa: ANN001, ANN202
        """Return the gradients of x, at given statistics, and of γ, β, mean and variance.

        Of act(x̂ γ + β) with x̂ = (x − mean) r, r = 1/√(variance + ε): those of the mean and the
        variance are −γ r ∂β and −½ γ r² ∂γ.
        """
        x = tf.cast(x, tf.float32)
        r = tf.math.rsqrt(variance + epsilon)
        scale, offset = affine(gamma, beta, mean, variance)
        before = x * scale + offset
        with tf.GradientTape() as tape:
            tape.watch(before)
            outputs = activation(before)
            outputs = _pool(outputs) if pooled else outputs
        dbefore = tape.gradient(outputs, before, tf.cast(upstream, tf.float32))
        dbeta = tf.reduce_sum(dbefore, AXES)
        dgamma = tf.reduce_sum(dbefore * (x - mean), AXES) * r
        return dbefore * scale, dgamma, dbeta, -scale * dbeta, -0.5 * scale * r * dgamma

    @compiled
    def gradient_by_own(upstream, x, gamma, beta, mean, variance):  # noqa: ANN001, ANN202
        dx, dgamma, dbeta, *dstatistics = pull_back(upstream, x, gamma, beta, mean, variance)
        return tf.cast(dx + _moments_gradient(x, mean, *dstatistics), x.dtype), dgamma, dbeta

    @compiled
    def gradient_by_given(upstream, x, gamma, beta, statistics, dmaps, dstatistics):  # noqa: ANN001, ANN202
        """Add to the gradients of all maps, of which `x` are the first, and of their statistics."""
        dx, dgamma, dbeta, *more = pull_back(upstream, x, gamma, beta, *statistics)
        width = x.shape[-1]
        dfront = tf.cast(tf.cast(dmaps[..., :width], tf.float32) + dx, x.dtype)
        return dfront, [d[:width] + m for d, m in zip(dstatistics, more, strict=True)], dgamma, dbeta

    @compiled
    def gradient_of_new(dmaps, new, mean, dstatistics):  # noqa: ANN001, ANN202
        """Return the gradient of the newest maps, which the last of `dmaps` are."""
        width = dmaps.shape[-1] - new.shape[-1]
        dnew = _moments_gradient(new, mean, *(d[width:] for d in dstatistics))
        return tf.cast(tf.cast(dmaps[..., width:], tf.float32) + dnew, new.dtype)

    return SimpleNamespace(
        normalize=normalize,
        moments=moments,
        normalize_by_own=normalize_by_own,
        gradient_by_own=gradient_by_own,
        gradient_by_given=gradient_by_given,
        gradient_of_new=gradient_of_new,
    )


def _pool(x: tf.Tensor) -> tf.Tensor:
    """Average 2x2 pixels; an odd last row or column is left out."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = tf.reshape(x[:, : 2 * height, : 2 * width], (-1, height, 2, width, 2, x.shape[-1]))
    return tf.reduce_mean(x, [2, 4])


FORCE = os.environ.get("DNB_COMPILED")


def wanted(x) -> bool:
    from densenet_nb.normalization import uses_kernel
    if not uses_kernel(x): return False
    if FORCE is not None: return FORCE == "1"
    return bool(tf.config.list_logical_devices("GPU"))


def serves(block, x) -> bool:
    fs = [f for l in block.dense_layers for f in l.functions]
    return wanted(x) and all(f.norm.trainable and f.dropout.rate == 0 and not hasattr(f.activate, "weights") for f in fs)


def normalize_by_own(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    activation: Callable,
    epsilon: float,
    pooled: bool = False,
) -> tuple[tf.Tensor, Statistics]:
    """Normalize with the batch's own statistics, activate, and pool if `pooled`."""
    part = parts(activation, epsilon, pooled)
    used = None

    @tf.custom_gradient
    def function(x, gamma, beta):  # noqa: ANN001, ANN202
        nonlocal used
        outputs, mean, variance = part.normalize_by_own(x, gamma, beta)
        used = Statistics(mean, variance)

        def gradient(upstream):  # noqa: ANN001, ANN202
            return differentiable_once(
                part.gradient_by_own(upstream, x, gamma, beta, mean, variance)
            )

        return outputs, gradient

    return function(x, gamma, beta), used


def dense_block(
    layers: Sequence[Any], x: tf.Tensor, keep_bottlenecks: bool
) -> tuple[tf.Tensor, list[tuple[Any, Statistics]]]:
    """Return all maps of a dense block in training, and the statistics by which each norm moved."""
    functions = [function for layer in layers for function in layer.functions]
    weights = [
        (f.norm.gamma.value, f.norm.beta.value, tf.cast(f.conv.kernel.value, x.dtype))
        for f in functions
    ]
    steps = len(layers[0].functions)
    part = parts(functions[0].activate, functions[0].norm.epsilon)
    used = []

    @tf.custom_gradient
    def function(x, *flat):  # noqa: ANN001, ANN002, ANN202
        given = [flat[3 * i : 3 * i + 3] for i in range(len(functions))]
        maps, statistics = x, part.moments(x)
        kept = []
        for index in range(len(layers)):
            (gamma, beta, kernel), *rest = given[steps * index : steps * (index + 1)]
            used.append(Statistics(*statistics))
            new = convolve(part.normalize(maps, gamma, beta, *statistics), kernel)
            own = None
            for gamma, beta, kernel in rest:
                between = new
                activated, *own = part.normalize_by_own(between, gamma, beta)
                new = convolve(activated, kernel)
                used.append(Statistics(*own))
            kept.append((own, between if rest and keep_bottlenecks else None))
            maps = tf.concat([maps, new], -1)
            statistics = [
                tf.concat(pair, 0) for pair in zip(statistics, part.moments(new), strict=True)
            ]

        def gradient(upstream):  # noqa: ANN001, ANN202
            front, dmaps = maps, upstream
            dstatistics = [tf.zeros_like(vector) for vector in statistics]
            dweights = []
            for index in range(len(layers))[::-1]:
                (gamma, beta, kernel), *rest = given[steps * index : steps * (index + 1)]
                own, between = kept[index]
                width = gamma.shape[0]
                with tf.control_dependencies([dmaps]):
                    front, new = tf.split(front, [width, front.shape[-1] - width], -1)
                vectors = [vector[:width] for vector in statistics]
                dnew = part.gradient_of_new(
                    dmaps, new, statistics[0][width : width + new.shape[-1]], dstatistics
                )
                activated = part.normalize(front, gamma, beta, *vectors)
                below = []
                for gamma2, beta2, kernel2 in rest:
                    if between is None:
                        between = convolve(activated, kernel)
                    inner = part.normalize(between, gamma2, beta2, *own)
                    dkernel = kernel_gradient(inner, kernel2, dnew)
                    dinner = input_gradient(between, kernel2, dnew)
                    dnew, dgamma, dbeta = part.gradient_by_own(
                        dinner, between, gamma2, beta2, *own
                    )
                    below = [dgamma, dbeta, dkernel]
                dkernel = kernel_gradient(activated, kernel, dnew)
                dactivated = input_gradient(front, kernel, dnew)
                dmaps, dstatistics, dgamma, dbeta = part.gradient_by_given(
                    dactivated, front, gamma, beta, vectors, dmaps, dstatistics
                )
                dweights = [dgamma, dbeta, dkernel, *below, *dweights]
            dx = part.gradient_of_new(dmaps, front, statistics[0][: front.shape[-1]], dstatistics)
            return differentiable_once([dx, *dweights])

        return maps, gradient

    maps = function(x, *(value for triple in weights for value in triple))
    return maps, list(zip((f.norm for f in functions), used, strict=True))


def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(x, kernel, **SAME)


def input_gradient(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    size, _, channels, filters = kernel.shape
    if size == 1:
        pixels = tf.reshape(upstream, (-1, filters))
        return tf.reshape(tf.matmul(pixels, kernel[0, 0], transpose_b=True), tf.shape(x))
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **SAME
    )


def kernel_gradient(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    size, _, channels, filters = kernel.shape
    if size == 1:
        pixels = tf.reshape(x, (-1, channels))
        product = tf.matmul(pixels, tf.reshape(upstream, (-1, filters)), transpose_a=True)
        return tf.reshape(product, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=upstream, **SAME
    )
