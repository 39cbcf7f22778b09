"""What stands between two convolutions, compiled by XLA: how a block is trained on a GPU.

TensorFlow's own operations read and write the maps once for every multiplication, and its fused
batch normalization puts channels first on a GPU, with a transposition before and after. So the
convolutions are left to cuDNN and cuBLAS here, and what is between them is a few small functions,
each of which XLA compiles once for each shape that comes. To have few shapes, the maps of a block
stand in a tensor whose channels are rounded up to a multiple of `STEP`: the weights of the channels
that are not there yet are zeros.

Statistics are float32 tensors (2, channels), a mean above a variance, and so are the two vectors
of a normalization, γ above β, and all their gradients. Maps have any floating dtype; what is
computed of them is computed in float32.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import densenet_nb._startup  # noqa: F401

import tensorflow as tf

from densenet_nb.engine import formulas
from densenet_nb.engine.backward import differentiable_once
from densenet_nb.engine.block import Weights
from densenet_nb.engine.composite import SAME, kernel_gradient
from densenet_nb.engine.kernels import on_gpu
from densenet_nb.engine.statistics import Statistics, moments, require_images, uses_kernel

__all__ = ["dense_block", "normalize", "serves"]

STEP = 128
"""Channels by which the tensor of a block's maps grows: 4 layers of DenseNet-121."""


def serves(x: tf.Tensor) -> bool:
    """Whether `x` is normalized here: on TensorFlow with a GPU, but for what XLA compiles whole."""
    return uses_kernel(x) and on_gpu()


def _compiled(function: Callable) -> Callable:
    """Compile for each shape that comes: many are no mistake, of which TensorFlow would warn."""
    traced = tf.function(function, jit_compile=True, autograph=False)

    def call(*args: Any) -> Any:
        return traced.get_concrete_function(*args)(*args)

    return functools.update_wrapper(call, traced, updated=())


class Parts(NamedTuple):
    """The compiled functions for one activation and one ε."""

    moments: Callable
    apply: Callable
    apply_own: Callable
    append: Callable
    pull_back_own: Callable
    pull_back: Callable


@functools.lru_cache(maxsize=64)
def parts(activation: Callable, epsilon: float, pooled: bool = False) -> Parts:
    """Return the compiled functions; if `pooled`, 2x2 pixels are averaged after the activation."""

    def after(x: tf.Tensor) -> tf.Tensor:
        return _pool(activation(x)) if pooled else activation(x)

    def normalized(x: tf.Tensor, vectors: tf.Tensor, statistics: tf.Tensor) -> tf.Tensor:
        used = Statistics(*tf.unstack(statistics))
        return formulas.normalize(x, *tf.unstack(vectors), used, epsilon=epsilon)

    def applied(x: tf.Tensor, vectors: tf.Tensor, statistics: tf.Tensor) -> tf.Tensor:
        return tf.cast(after(normalized(tf.cast(x, tf.float32), vectors, statistics)), x.dtype)

    def gradients(
        upstream: tf.Tensor, x: tf.Tensor, vectors: tf.Tensor, statistics: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return those of `x`, of which `statistics` are, in float32, and of the vectors."""
        x = tf.cast(x, tf.float32)
        before = normalized(x, vectors, statistics)
        with tf.GradientTape() as tape:
            tape.watch(before)
            outputs = after(before)
        dbefore = tape.gradient(outputs, before, tf.cast(upstream, tf.float32))
        used = Statistics(*tf.unstack(statistics))
        dx, *dvectors = formulas.gradient(dbefore, x, vectors[0], used, epsilon=epsilon)
        return dx, tf.stack(dvectors)

    @_compiled
    def apply(x: tf.Tensor, vectors: tf.Tensor, statistics: tf.Tensor) -> tf.Tensor:
        """Normalize with given statistics and activate."""
        return applied(x, vectors, statistics)

    @_compiled
    def apply_own(x: tf.Tensor, vectors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Normalize with the batch's own statistics and activate; return the statistics too."""
        statistics = _moments(x)
        return applied(x, vectors, statistics), statistics

    @_compiled
    def pull_back_own(
        upstream: tf.Tensor, x: tf.Tensor, vectors: tf.Tensor, statistics: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the gradients of the maps and the vectors that :func:`apply_own` took."""
        dx, dvectors = gradients(upstream, x, vectors, statistics)
        return tf.cast(dx, x.dtype), dvectors

    @_compiled
    def append(
        maps: tf.Tensor, statistics: tf.Tensor, new: tf.Tensor, start: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Put new maps at the channel `start`, and their statistics at the same place."""
        return _put(maps, new, start), _put(statistics, _moments(new), start)

    @_compiled
    def pull_back(
        upstream: tf.Tensor,
        maps: tf.Tensor,
        vectors: tf.Tensor,
        statistics: tf.Tensor,
        dmaps: tf.Tensor,
        start: tf.Tensor,
        count: int,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Add what `apply` gives back to the gradient of all maps.

        Returned with it: the gradients of the vectors, and of the `count` maps at the channel
        `start`, which the layer before made.
        """
        dx, dvectors = gradients(upstream, maps, vectors, statistics)
        dmaps = tf.cast(tf.cast(dmaps, tf.float32) + dx, maps.dtype)
        return dmaps, dvectors, _take(dmaps, start, count)

    return Parts(_compiled(_moments), apply, apply_own, append, pull_back_own, pull_back)


def _moments(x: tf.Tensor) -> tf.Tensor:
    """Return the batch's statistics."""
    statistics = moments(x)
    return tf.stack([statistics.mean, statistics.variance])


def _take(whole: tf.Tensor, start: tf.Tensor, count: int) -> tf.Tensor:
    """Return `count` channels; `start` is a value, no part of the compiled shape."""
    return tf.gather(whole, tf.cast(start, tf.int32) + tf.range(count), axis=-1)


def _put(whole: tf.Tensor, part: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Return `whole` with the channels from `start` on replaced by those of `part`."""
    last = part.shape[-1] - 1
    place = tf.range(whole.shape[-1]) - tf.cast(start, tf.int32)
    moved = tf.gather(part, tf.clip_by_value(place, 0, last), axis=-1)
    return tf.where((place >= 0) & (place <= last), moved, whole)


def _pool(x: tf.Tensor) -> tf.Tensor:
    """Average 2x2 pixels; an odd last row or column is left out, as Keras's pooling does."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * height, : 2 * width]
    return tf.reduce_mean(tf.reshape(x, (-1, height, 2, width, 2, x.shape[-1])), [2, 4])


def normalize(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    activation: Callable = tf.identity,
    epsilon: float,
    pooled: bool = False,
) -> tuple[tf.Tensor, Statistics]:
    """Normalize with the batch's own statistics and activate, keeping nothing but `x`.

    Parameters
    ----------
    x : tensor
        Maps, (batch, height, width, m).
    gamma, beta : tensor
        (m,), float32.
    activation : callable
        Without weights of its own.
    epsilon : float
        Added to the variance.
    pooled : bool
        Whether 2x2 pixels are averaged after the activation; height and width must be known then.

    Returns
    -------
    outputs : tensor
        In the dtype of `x`.
    statistics : Statistics
        Of the batch; they have no gradient.
    """
    part = parts(activation, epsilon, pooled)
    used = None

    @tf.custom_gradient
    def function(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        nonlocal used  # not returned: TensorFlow would make zeros for its gradient
        vectors = tf.stack([gamma, beta])
        outputs, used = part.apply_own(x, vectors)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            dx, dvectors = part.pull_back_own(upstream, x, vectors, used)
            return differentiable_once([dx, *tf.unstack(dvectors)])

        return outputs, gradient

    outputs = function(require_images(x), gamma, beta)
    return outputs, Statistics(*tf.unstack(used))


class _Kept(NamedTuple):
    """What a composite function's forward pass leaves for the backward pass."""

    vectors: tf.Tensor
    kernel: tf.Tensor
    statistics: tf.Tensor | None = None  # of a bottleneck's output; those of the maps are a part
    inputs: tf.Tensor | None = None


def dense_block(
    x: tf.Tensor,
    layers: Sequence[Sequence[Weights]],
    *,
    activation: Callable,
    epsilon: float,
    memory_efficient: bool,
) -> tuple[tf.Tensor, list[Statistics]]:
    """Return all maps of a dense block in training, as :func:`.block.dense_block` does.

    Kept for the backward pass are the maps, once, and the outputs of the bottlenecks, if not
    `memory_efficient`. `x` is in any dtype that TensorFlow convolves.
    """
    part, used = parts(activation, epsilon), []
    widths = [first.gamma.shape[0] for first, *_ in layers]
    growth_rate = layers[0][-1].kernel.shape[-1]
    total = widths[-1] + growth_rate

    @tf.custom_gradient
    def function(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        maps, statistics = _widen(x), _widen(part.moments(x))
        kept = []
        for width, (first, *rest) in zip(
            widths, tf.nest.pack_sequence_as(layers, weights), strict=True
        ):
            vectors, kernel = _widen(tf.stack(first[:2])), _widen(first.kernel, axis=2)
            outputs = _convolve(part.apply(maps, vectors, statistics), kernel)
            used.append(Statistics(*tf.unstack(statistics[:, :width])))
            kept.append([_Kept(vectors, kernel)])
            for second in rest:
                vectors, inputs = tf.stack(second[:2]), outputs
                activated, own = part.apply_own(inputs, vectors)
                outputs = _convolve(activated, second.kernel)
                used.append(Statistics(*tf.unstack(own)))
                inputs = None if memory_efficient else inputs
                kept[-1].append(_Kept(vectors, second.kernel, own, inputs))
            whole = _rounded(width + growth_rate)
            maps, statistics = _widen(maps, whole), _widen(statistics, whole)
            maps, statistics = part.append(maps, statistics, outputs, _at(width))

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            dmaps, dnew, dweights = _widen(upstream), upstream[..., widths[-1] :], []
            front = maps, statistics
            for index in reversed(range(len(layers))):
                width, layer = widths[index], kept[index]
                whole = _rounded(width)
                with tf.control_dependencies([dnew]):  # computed again not before it is needed
                    front = tuple(_cut(each, whole) for each in front)
                dmaps = _cut(dmaps, whole)
                activated = part.apply(front[0], layer[0].vectors, front[1])
                doutputs, dlayer = dnew, []
                for second in layer[1:]:
                    inputs = second.inputs
                    if inputs is None:
                        inputs = _convolve(activated, layer[0].kernel)
                    inner = part.apply(inputs, second.vectors, second.statistics)
                    dkernel = kernel_gradient(inner, second.kernel, doutputs)
                    dinner = _input_gradient(inner, second.kernel, doutputs)
                    doutputs, dvectors = part.pull_back_own(
                        dinner, inputs, second.vectors, second.statistics
                    )
                    dlayer = [*tf.unstack(dvectors), dkernel]
                dkernel = kernel_gradient(activated, layer[0].kernel, doutputs)
                dactivated = _input_gradient(activated, layer[0].kernel, doutputs)
                dmaps, dvectors, dnew = part.pull_back(
                    dactivated,
                    front[0],
                    layer[0].vectors,
                    front[1],
                    dmaps,
                    _at(max(width - growth_rate, 0)),
                    growth_rate,
                )
                dvectors = tf.unstack(dvectors[:, :width])
                dweights = [*dvectors, dkernel[:, :, :width], *dlayer, *dweights]
            return differentiable_once([dmaps[..., : widths[0]], *dweights])

        return maps[..., :total], gradient

    return function(x, *tf.nest.flatten(layers)), used


def _rounded(channels: int) -> int:
    """Round up to a multiple of `STEP`."""
    return -(-channels // STEP) * STEP


def _widen(x: tf.Tensor, channels: int | None = None, axis: int = -1) -> tf.Tensor:
    """Append zeros up to so many channels, by default to the next multiple of `STEP`."""
    lacking = (channels or _rounded(x.shape[axis])) - x.shape[axis]
    if not lacking:
        return x
    paddings = [[0, 0] for _ in x.shape]
    paddings[axis][1] = lacking
    return tf.pad(x, paddings)


def _cut(x: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the first channels."""
    return tf.identity(x) if x.shape[-1] == channels else x[..., :channels]


def _at(channel: int) -> tf.Tensor:
    """Return a channel's number for a compiled function; TensorFlow keeps integers off the GPU."""
    return tf.constant(channel, tf.float32)


def _convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(x, kernel, **SAME)


def _input_gradient(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Return a convolution's gradient with respect to its input, of the shape of `x`."""
    size, _, _, filters = kernel.shape
    if size == 1:  # one matrix product over all pixels
        product = tf.matmul(tf.reshape(upstream, (-1, filters)), kernel[0, 0], transpose_b=True)
        return tf.reshape(product, tf.shape(x))
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, **SAME
    )
