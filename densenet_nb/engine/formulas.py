"""Batch normalization by its formulas: where there is no kernel, and for what XLA compiles.

XLA makes one pass of such operations and of those that stand beside them, and its own form of the
kernel is wrong where the mean is large: see :func:`.statistics.uses_kernel`. Half-precision maps
are computed in float32.
"""

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.engine.statistics import PIXELS, inverse_count, moments


def normalize(x, gamma, beta, statistics, *, epsilon):  # noqa: ANN001, ANN201
    """Return ``γ (x − mean) / √(variance + ε) + β`` in the dtype of `x`.

    The vectors are (channels,).
    """
    dtype = keras.backend.result_type(x.dtype, "float32")
    vectors = (statistics.mean, statistics.variance, beta, gamma)
    mean, variance, offset, scale = (ops.cast(vector, dtype) for vector in vectors)
    outputs = ops.batch_normalization(
        ops.cast(x, dtype), mean, variance, axis=-1, offset=offset, scale=scale, epsilon=epsilon
    )
    return ops.cast(outputs, x.dtype)


def batch_norm(x, gamma, beta, *, epsilon):  # noqa: ANN001, ANN201
    """Normalize with the batch's own statistics; return them too."""
    statistics = moments(x)
    return normalize(x, gamma, beta, statistics, epsilon=epsilon), statistics


def gradient(upstream, x, gamma, statistics, *, epsilon):  # noqa: ANN001, ANN201
    """Return the gradients of `x`, γ and β where `statistics` are those of `x`.

    With x̂ the standardized maps and r = 1 / √(variance + ε) they are
    ∂x = γ r (∂y − mean(∂y) − x̂ mean(∂y x̂)), ∂γ = Σ ∂y x̂ and ∂β = Σ ∂y.
    """
    r = ops.rsqrt(statistics.variance + epsilon)
    upstream = ops.cast(upstream, r.dtype)
    standardized = (ops.cast(x, r.dtype) - statistics.mean) * r
    dgamma, dbeta = ops.sum(upstream * standardized, PIXELS), ops.sum(upstream, PIXELS)
    share = inverse_count(x, r.dtype)
    dx = (gamma * r) * (upstream - dbeta * share - standardized * (dgamma * share))
    return ops.cast(dx, x.dtype), dgamma, dbeta
