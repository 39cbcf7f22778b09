"""A dense block by TensorFlow's kernels, forward and backward written out: on a processor.

Autodiff of a block, layer by layer, gives the same gradients with twice the operations, and before
the first step it is operations that take time: each is traced, optimized and placed. Here the
statistics of all maps grow beside the maps, the gradient of all maps is one tensor to which each
layer adds its share, and a normalization's gradient goes through the statistics in the kernel's
own pass.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import densenet_nb._startup  # noqa: F401

import tensorflow as tf

from densenet_nb.engine.composite import SAME, Activated, kernel_gradient
from densenet_nb.engine.kernels import kernel_normalize, processor_batch_norm, processor_gradient
from densenet_nb.engine.statistics import Statistics, differentiable_once

__all__ = ["Weights", "dense_block"]


class Weights(NamedTuple):
    """Those of a composite function: (m,), (m,) and (size, size, m, filters)."""

    gamma: tf.Tensor
    beta: tf.Tensor
    kernel: tf.Tensor


class _Run(NamedTuple):
    """A composite function as it ran; what the backward pass makes again is None until then."""

    weights: Weights
    statistics: Statistics
    inputs: tf.Tensor | None = None
    activated: Activated | None = None

    def outputs(self) -> tf.Tensor:
        return tf.nn.conv2d(self.activated.maps, self.weights.kernel, **SAME)


def dense_block(
    x: tf.Tensor,
    layers: Sequence[Sequence[Weights]],
    *,
    activation: Callable,
    epsilon: float,
    memory_efficient: bool,
) -> tuple[tf.Tensor, list[Statistics]]:
    """Return all maps of a dense block in training.

    Kept for the backward pass are the maps, once, and if not `memory_efficient` one tensor for
    each composite function: of a layer's first one what its convolution reads (its input is the
    front of the maps), of the second one its input.

    Parameters
    ----------
    x : tensor
        (batch, height, width, k0), in a dtype that the fused kernel has.
    layers : sequence of sequence of Weights
        Of each dense layer's one or two composite functions.
    activation : callable
        Without weights of its own.
    epsilon : float
        Added to the variances.
    memory_efficient : bool
        Whether nothing but the maps is kept (arXiv 1707.06990).

    Returns
    -------
    maps : tensor
        (batch, height, width, k0 + num_layers k).
    statistics : list of Statistics
        With which the composite functions normalized, in their order; they have no gradient.
    """
    used, growth_rate = [], layers[0][-1].kernel.shape[-1]

    def run(weights: Weights, inputs: tf.Tensor, statistics: Statistics | None = None) -> _Run:
        gamma, beta, _ = weights
        if statistics is None:
            normalized, statistics = processor_batch_norm(inputs, gamma, beta, epsilon=epsilon)
        else:
            normalized = kernel_normalize(inputs, gamma, beta, statistics, epsilon=epsilon)
        return _Run(weights, statistics, inputs, Activated(normalized, activation))

    def forward(layer: Sequence[Weights], maps: tf.Tensor, statistics: Statistics) -> list[_Run]:
        first, *rest = layer
        runs = [run(first, maps, statistics)]
        for weights in rest:
            runs.append(run(weights, runs[-1].outputs()))
        return runs

    def again(kept: list[_Run], front: tf.Tensor, upstream: tf.Tensor) -> list[_Run]:
        """Return a layer's runs, with what was not kept."""
        first, *rest = kept
        if memory_efficient:
            runs = [run(first.weights, front, first.statistics)]
            for each in rest:
                runs.append(run(each.weights, runs[-1].outputs(), each.statistics))
            return runs
        runs = [first._replace(inputs=front)]
        for each in rest:
            with tf.control_dependencies([upstream]):  # not before it is needed
                inputs = tf.identity(each.inputs)
            runs.append(run(each.weights, inputs, each.statistics))
        return runs

    def pull_back(upstream: tf.Tensor, run: _Run) -> tuple[tf.Tensor, list[tf.Tensor]]:
        gamma, _, kernel = run.weights
        dkernel = kernel_gradient(run.activated.maps, kernel, upstream)
        dactivated = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(run.inputs), filter=kernel, out_backprop=upstream, **SAME
        )
        dx, dgamma, dbeta = processor_gradient(
            run.activated.gradient(dactivated), run.inputs, gamma, run.statistics, epsilon=epsilon
        )
        return dx, [dgamma, dbeta, dkernel]

    @tf.custom_gradient
    def function(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        maps, statistics, kept = x, _moments(x), []
        last, ones = tf.constant(-1), tf.ones(growth_rate)  # each constant is an operation
        for layer in tf.nest.pack_sequence_as(layers, weights):
            runs = forward(layer, maps, statistics)
            used.extend(each.statistics for each in runs)
            kept.append(_to_keep(runs, memory_efficient))
            new = runs[-1].outputs()
            maps = tf.concat([maps, new], last)
            statistics = statistics.join(_moments(new, ones))

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            front, dfront, dweights, last = maps, upstream, [], tf.constant(-1)
            doutputs = upstream
            for layer in reversed(kept):
                width = layer[0].weights.gamma.shape[0]
                sizes = tf.constant([width, growth_rate])
                before = doutputs
                dfront, doutputs = tf.split(dfront, sizes, last)
                # Not before it is needed; where memory allows, while the layer after it runs.
                with tf.control_dependencies([doutputs if memory_efficient else before]):
                    front, _ = tf.split(front, sizes, last)
                dlayer = []
                for each in reversed(again(layer, front, doutputs)):
                    doutputs, dfunction = pull_back(doutputs, each)
                    dlayer = dfunction + dlayer
                dfront, dweights = dfront + doutputs, dlayer + dweights
            return differentiable_once([dfront, *dweights])

        return maps, gradient

    tensors = [tf.convert_to_tensor(each) for each in tf.nest.flatten(layers)]
    return function(x, *tensors), used


def _moments(x: tf.Tensor, ones: tf.Tensor | None = None) -> Statistics:
    """Return the statistics by the kernel, in a fifth of the time that two means take."""
    ones = tf.ones(x.shape[-1]) if ones is None else ones
    return processor_batch_norm(x, ones, ones, epsilon=1.0)[1]


def _to_keep(runs: list[_Run], memory_efficient: bool) -> list[_Run]:
    first, *rest = runs
    if memory_efficient:
        return [_Run(each.weights, each.statistics) for each in runs]
    return [first._replace(inputs=None), *(each._replace(activated=None) for each in rest)]
