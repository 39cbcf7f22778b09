"""Backward passes that compute again what they do not keep: memory for a little time.

Layers run here as functions of their weights and state (moving averages, dropout's seed), so that
running one again gives the same maps under the same dropout mask and moves nothing twice. On
TensorFlow and JAX.
"""

from collections.abc import Callable, Sequence
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.engine.backward import after, differentiable_once, within_xla
from densenet_nb.engine.statistics import (
    Statistics,
    collecting_moves,
    moments,
    moments_gradient,
)

if keras.backend.backend() == "jax":
    import jax
elif keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from densenet_nb.engine import composite

__all__ = ["dense_block", "recompute"]


def recompute(layer: keras.layers.Layer, call: Callable, x: Any) -> Any:
    """Return ``call(x)``, keeping nothing but `x` for the backward pass.

    Parameters
    ----------
    layer : keras.layers.Layer
        Whose weights get gradients and whose state moves.
    call : callable
        Maps `x` to one tensor; it reads and moves no variables but those of `layer`.
    x : tensor
        What `call` reads.
    """
    run = _Stateless(layer, call)

    @ops.custom_gradient
    def function(x, weights):  # noqa: ANN001, ANN202
        outputs, state = run(weights, x)

        def gradient(*upstream):  # noqa: ANN002, ANN202
            upstream, *_ = keras.tree.flatten(upstream)  # the new state has no gradient
            return differentiable_once(run.gradients(upstream, weights, after(upstream, x)))

        return (outputs, state), gradient

    outputs, state = function(x, run.weights)
    run.assign(state)
    return outputs


def dense_block(layers: Sequence[keras.layers.Layer], x: Any, synchronized: bool = False) -> Any:
    """Return all maps of a dense block in training, keeping nothing but these maps.

    What the l-th layer read is the front of the maps, so its backward pass cuts it out and runs
    the layer again: what is kept grows linearly with depth (arXiv 1707.06990). The gradient of all
    maps is one tensor, shortened by k maps for each layer that the backward pass leaves behind.

    Parameters
    ----------
    layers : sequence of densenet_nb.layers.DenseLayer
        Built; each reads all maps before it and makes k.
    x : tensor
        (batch, height, width, k0).
    synchronized : bool
        Whether statistics are those of all replicas together.

    Returns
    -------
    tensor
        (batch, height, width, k0 + num_layers k).
    """
    runs = [_Stateless(layer, _on_shared_statistics(layer)) for layer in layers]

    @ops.custom_gradient
    def function(x, weights):  # noqa: ANN001, ANN202
        maps, statistics, states = x, moments(x, synchronized), []
        for run, given in zip(runs, weights, strict=True):
            new, state = run(given, maps, statistics.mean, statistics.variance)
            maps = ops.concatenate([maps, new], axis=-1)
            statistics = statistics.join(moments(new, synchronized))
            states.append(state)
        vectors = (statistics.mean, statistics.variance)

        def gradient(*upstream):  # noqa: ANN002, ANN202
            dfront, *_ = keras.tree.flatten(upstream)  # the new states have no gradient
            front, dstatistics, dweights = maps, [ops.zeros_like(v) for v in vectors], []
            end = maps.shape[-1]
            for run, given in zip(runs[::-1], weights[::-1], strict=True):
                width = end - run.layer.growth_rate  # of what the layer read
                # XLA need not write slices of all maps out; by a chain of fronts it waits in each.
                front = after(dfront, maps if within_xla() else front)
                front, new = front[..., :width], front[..., width:end]
                dfront, dnew = ops.split(dfront, [width], axis=-1)
                mean = vectors[0][width : width + new.shape[-1]]
                dmoments = [d[width:] for d in dstatistics]
                dnew = dnew + moments_gradient(new, mean, *dmoments, synchronized)
                dx, *more, dgiven = run.gradients(dnew, given, front, *(v[:width] for v in vectors))
                dfront = dfront + dx
                dstatistics = [d[:width] + m for d, m in zip(dstatistics, more, strict=True)]
                dweights.insert(0, dgiven)
                end = width
            mean = vectors[0][: front.shape[-1]]
            dx = dfront + moments_gradient(front, mean, *dstatistics, synchronized)
            return differentiable_once((dx, dweights))

        return (maps, states), gradient

    maps, states = function(x, [run.weights for run in runs])
    for run, state in zip(runs, states, strict=True):
        run.assign(state)
    return maps


class _Stateless:
    """A layer in training as a function of its weights, which returns its new state.

    Parameters
    ----------
    layer : keras.layers.Layer
    call : callable
        What to call in its place: it reads and moves no variables but those of `layer`.
    """

    def __init__(self, layer: keras.layers.Layer, call: Callable) -> None:
        self.layer = layer
        self.call = call
        self.weights = [variable.value for variable in layer.trainable_variables]
        # As read now: the backward pass must not see what the forward pass moved.
        self.state = [ops.copy(variable.value) for variable in layer.non_trainable_variables]

    def __call__(self, weights: Sequence[Any], *inputs: Any) -> tuple[Any, list[Any]]:
        layer = self.layer
        variables = [*layer.trainable_variables, *layer.non_trainable_variables]
        values = [*weights, *self.state]
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            outputs = self.call(*inputs)
        return outputs, [scope.get_current_value(v) for v in layer.non_trainable_variables]

    def gradients(self, upstream: Any, weights: Sequence[Any], *inputs: Any) -> tuple[Any, ...]:
        """Run again; return the gradients of each of `inputs` and, last, of `weights`."""

        def outputs(*inputs_and_weights):  # noqa: ANN002, ANN202
            *inputs, weights = inputs_and_weights
            with collecting_moves():  # moved once, in the forward pass
                return self(weights, *inputs)[0]

        sources = (*inputs, list(weights))
        if keras.backend.backend() == "jax":
            return jax.vjp(outputs, *sources)[1](upstream)
        with tf.GradientTape() as tape, composite.keeping_activations():
            tape.watch(sources)
            target = outputs(*sources)
        return tape.gradient(target, sources, upstream, tf.UnconnectedGradients.ZERO)

    def assign(self, state: Sequence[Any]) -> None:
        """Move the layer's state."""
        for variable, value in zip(self.layer.non_trainable_variables, state, strict=True):
            variable.assign(value)


def _on_shared_statistics(layer: keras.layers.Layer) -> Callable:
    def call(x, mean, variance):  # noqa: ANN001, ANN202
        return layer(x, training=True, statistics=Statistics(mean, variance))

    return call
