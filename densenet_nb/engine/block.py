"""A dense block, forward and backward written out: on a processor, and where XLA compiles all.

Autodiff of a block, layer by layer, gives the same gradients with twice the operations, and before
the first step it is operations that take time: each is traced, optimized and placed. Here the
statistics of all maps grow beside the maps, the gradient of all maps is one tensor to which each
layer adds its share, and a normalization's gradient goes through the statistics in the kernel's
own pass.

Within XLA formulas stand for the kernels. What is kept is then XLA's choice: it takes two equal
operations for one, unless the second must wait.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import densenet_nb._startup  # noqa: F401

import tensorflow as tf

from densenet_nb.engine import formulas
from densenet_nb.engine.backward import after, differentiable_once, within_xla
from densenet_nb.engine.composite import SAME, Activated, kernel_gradient
from densenet_nb.engine.kernels import kernel_normalize, processor_batch_norm, processor_gradient
from densenet_nb.engine.statistics import Statistics

__all__ = ["Weights", "dense_block"]


class _Normalization(NamedTuple):
    """With the batch's own statistics, with given ones, and the gradient through them."""

    own: Callable
    given: Callable
    gradient: Callable


KERNELS = _Normalization(processor_batch_norm, kernel_normalize, processor_gradient)
FORMULAS = _Normalization(formulas.batch_norm, formulas.normalize, formulas.gradient)


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


class _Passes(NamedTuple):
    """The passes of one dense layer after another."""

    activation: Callable
    epsilon: float
    normalization: _Normalization
    maps_only: bool
    """Whether nothing but the maps is kept."""

    def run(
        self, weights: Weights, inputs: tf.Tensor, statistics: Statistics | None = None
    ) -> _Run:
        gamma, beta, _ = weights
        if statistics is None:
            normalized, statistics = self.normalization.own(
                inputs, gamma, beta, epsilon=self.epsilon
            )
        else:
            normalized = self.normalization.given(
                inputs, gamma, beta, statistics, epsilon=self.epsilon
            )
        return _Run(weights, statistics, inputs, Activated(normalized, self.activation))

    def moments(self, x: tf.Tensor, ones: tf.Tensor) -> Statistics:
        """Return the statistics, by the kernel in a fifth of the time that two means take."""
        return self.normalization.own(x, ones, ones, epsilon=1.0)[1]

    def forward(
        self, layer: Sequence[Weights], maps: tf.Tensor, statistics: Statistics
    ) -> list[_Run]:
        first, *rest = layer
        runs = [self.run(first, maps, statistics)]
        for weights in rest:
            runs.append(self.run(weights, runs[-1].outputs()))
        return runs

    def keep(self, runs: list[_Run]) -> list[_Run]:
        """Return what is kept of a layer's runs."""
        first, *rest = runs
        if self.maps_only:
            return [_Run(each.weights, each.statistics) for each in runs]
        return [first._replace(inputs=None), *(each._replace(activated=None) for each in rest)]

    def again(self, kept: list[_Run], front: tf.Tensor, upstream: tf.Tensor) -> list[_Run]:
        """Return a layer's runs, with what was not kept; `front` is what the layer read."""
        first, *rest = kept
        if self.maps_only:
            runs = [self.run(first.weights, front, first.statistics)]
        else:
            runs = [first._replace(inputs=front)]
        for each in rest:
            inputs = runs[-1].outputs() if self.maps_only else after(upstream, each.inputs)
            runs.append(self.run(each.weights, inputs, each.statistics))
        return runs

    def pull_back(self, upstream: tf.Tensor, run: _Run) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the gradients of a composite function's input and of its weights."""
        gamma, _, kernel = run.weights
        dkernel = kernel_gradient(run.activated.maps, kernel, upstream)
        dactivated = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(run.inputs), filter=kernel, out_backprop=upstream, **SAME
        )
        dnormalized = run.activated.gradient(dactivated)
        dx, dgamma, dbeta = self.normalization.gradient(
            dnormalized, run.inputs, gamma, run.statistics, epsilon=self.epsilon
        )
        return dx, [dgamma, dbeta, dkernel]


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
    xla = within_xla()
    normalization = FORMULAS if xla else KERNELS
    passes = _Passes(activation, epsilon, normalization, maps_only=memory_efficient or xla)
    used, growth_rate = [], layers[0][-1].kernel.shape[-1]

    @tf.custom_gradient
    def function(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        last, ones = tf.constant(-1), tf.ones(growth_rate)  # each constant is an operation
        maps, statistics, kept = x, passes.moments(x, tf.ones(x.shape[-1])), []
        for layer in tf.nest.pack_sequence_as(layers, weights):
            runs = passes.forward(layer, maps, statistics)
            used.extend(each.statistics for each in runs)
            kept.append(passes.keep(runs))
            new = runs[-1].outputs()
            maps = tf.concat([maps, new], last)
            statistics = statistics.join(passes.moments(new, ones))

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            front, dfront, dweights, last = maps, upstream, [], tf.constant(-1)
            doutputs = upstream
            for layer in reversed(kept):
                width = layer[0].weights.gamma.shape[0]
                sizes = tf.constant([width, growth_rate])
                before = doutputs
                dfront, doutputs = tf.split(dfront, sizes, last)
                if xla:
                    front = after(doutputs, maps) if memory_efficient else maps
                    front = front[..., :width]
                else:  # if memory allows, while the layer after this one runs
                    front = after(doutputs if memory_efficient else before, front)
                    front, _ = tf.split(front, sizes, last)
                dlayer = []
                for run in reversed(passes.again(layer, front, doutputs)):
                    doutputs, dfunction = passes.pull_back(doutputs, run)
                    dlayer = dfunction + dlayer
                dfront, dweights = dfront + doutputs, dlayer + dweights
            return differentiable_once([dfront, *dweights])

        return maps, gradient

    tensors = [tf.convert_to_tensor(each) for each in tf.nest.flatten(layers)]
    return function(x, *tensors), used
