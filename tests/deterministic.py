"""Checks of a process with op determinism, which is for good (test_processes.py runs them).

What has no deterministic kernel on a GPU is told by the operations of the traced step, where the
engine is made to believe in a GPU.
"""

import itertools
from unittest import mock

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import tensorflow as tf
from equality import nodes_of, plain_and_lean, relative_error, reset_seeds, step

from densenet_nb import finetuning
from densenet_nb.engine import compiled, kernels
from densenet_nb.engine.statistics import uses_kernel

tf.config.experimental.enable_op_determinism()
IMAGES = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")

KINDS = {
    "plain": {},
    "dropout": {"dropout_rate": 0.3, "bottleneck": False},
    "half": {"policy": "mixed_bfloat16"},
    "PReLU": {"activation": keras.layers.PReLU(shared_axes=[1, 2])},
}


def networks(kind="plain"):
    """Both forms; every other normalization is frozen."""
    pair = plain_and_lean((2,), **KINDS[kind])
    for network in pair:
        reset_seeds(network)
        for norm in finetuning.normalizations(network)[::2]:
            norm.trainable = False
    return pair


def on_a_gpu(believed=True):
    """Let the kernels believe in one, or in none; what is compiled there is checked apart."""
    return mock.patch.object(kernels, "on_gpu", return_value=believed)


def graph_of(network):
    """A step of gradient descent, traced."""

    @tf.function(autograph=False)
    def descend():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(IMAGES, training=True)))
        gradients = tape.gradient(loss, network.trainable_variables)
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            variable.assign(variable - 0.5 * tf.cast(gradient, variable.dtype))

    return descend.get_concrete_function()


def trained(network, descend, start):
    network.set_weights(start)
    reset_seeds(network)
    for _ in range(3):
        descend()
    return network.get_weights()


def the_same_twice(network):
    start, descend = network.get_weights(), graph_of(network)
    once, again = (trained(network, descend, start) for _ in range(2))
    assert relative_error(once, start) > 1e-3
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first, second)


def check_the_same_bits_twice():
    for network in itertools.chain(*map(networks, ["plain", "dropout"])):
        the_same_twice(network)


def check_the_same_bits_twice_compiled():
    with mock.patch.object(compiled, "serves", uses_kernel), mock.patch.object(compiled, "STEP", 8):
        for network in plain_and_lean((2,)):
            the_same_twice(network)


def refused(graph):
    """The operations that a GPU refuses under determinism."""
    nodes = nodes_of(graph.graph.as_graph_def())
    normalized = [node for node in nodes if node.op.startswith("FusedBatchNormGrad")]
    return [node.name for node in normalized if not node.attr["is_training"].b]


def check_nothing_is_left_that_a_gpu_refuses():
    with on_a_gpu(False):
        assert refused(graph_of(networks()[0]))
    with on_a_gpu():
        for network in itertools.chain(*map(networks, KINDS)):
            assert not refused(graph_of(network))


def check_the_other_way_is_as_right():
    for kind in ("plain", "PReLU"):
        for network, twin in zip(networks(kind), networks(kind), strict=True):
            expected = step(network, IMAGES)
            with on_a_gpu():
                found = step(twin, IMAGES)
            assert relative_error(found.outputs, expected.outputs) < 1e-5
            assert relative_error(found.gradients, expected.gradients) < 1e-4
