"""The composite function by kernels: autodiff's gradients, and nothing kept but its input."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import computed_early, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import layers, probes
from densenet_nb.engine.composite import composite_function, keeping_activations, kernel_gradient
from densenet_nb.engine.statistics import Statistics

EPSILON = 1.001e-5

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative; the halves have 11 and 8 bits."""

ACTIVATIONS = {
    "relu": keras.activations.relu,
    "softplus": keras.activations.softplus,
    "silu": keras.activations.silu,
    "linear": keras.activations.linear,
    "a function": lambda x: tf.tanh(x) * x + 1,
}


def arguments(shape=(3, 5, 4), channels=3, filters=2, size=3, dtype="float32", seed=0):
    """x, γ, β, kernel, mean, variance; the last two are not those of x."""
    rng = np.random.default_rng(seed)
    x = tf.cast(rng.normal(1.0, 2.0, (*shape, channels)), dtype)
    kernel = tf.cast(rng.normal(size=(size, size, channels, filters)), dtype)
    gamma, mean = rng.uniform(0.5, 1.5, (2, channels))
    beta, variance = rng.normal(size=channels), rng.uniform(2.0, 6.0, channels)
    vectors = (tf.cast(v, "float32") for v in (gamma, beta, mean, variance))
    gamma, beta, mean, variance = vectors
    return [x, gamma, beta, kernel, mean, variance]


def formula(x, gamma, beta, kernel, mean=None, variance=None, *, activation):
    """The same in elementary operations, for autodiff; float64."""
    if mean is None:
        mean, variance = keras.ops.moments(x, [0, 1, 2])
    normalized = gamma * (x - mean) / tf.sqrt(variance + EPSILON) + beta
    outputs = tf.nn.conv2d(activation(normalized), kernel, 1, "SAME")
    return outputs, Statistics(mean, variance)


def by_kernels(x, gamma, beta, kernel, *given, activation):
    statistics = Statistics(*given) if given else None
    return composite_function(
        x, gamma, beta, kernel, statistics, activation=activation, epsilon=EPSILON
    )


def forward_and_back(function, sources, activation):
    """Outputs, statistics, and a gradient of the outputs for each source; as float64 arrays."""
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs, used = function(*sources, activation=activation)
    upstream = np.random.default_rng(1).normal(size=outputs.shape)
    gradients = tape.gradient(outputs, sources, tf.cast(upstream, outputs.dtype))
    values = [outputs, used.mean, used.variance, *gradients]
    return [tf.cast(value, "float64").numpy() for value in values]


def check(sources, activation, tolerance):
    actual = forward_and_back(by_kernels, sources, activation)
    expected = forward_and_back(formula, [tf.cast(s, "float64") for s in sources], activation)
    for ours, right in zip(actual, expected, strict=True):
        assert np.linalg.norm(ours - right) < tolerance * (np.linalg.norm(right) + right.size**0.5)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_autodiff(activation, given, size, dtype):
    sources = arguments(size=size, dtype=dtype)[: 6 if given else 4]
    # ReLU's kink: a value that rounding moves over it has another gradient.
    if activation == "relu" and dtype != "float32":
        sources[2] += 8.0
    check(sources, ACTIVATIONS[activation], TOLERANCES[dtype])


@pytest.mark.parametrize("given", [False, True])
def test_equals_autodiff_when_it_keeps_what_the_convolution_reads(given):
    with keeping_activations():
        check(arguments()[: 6 if given else 4], ACTIVATIONS["silu"], TOLERANCES["float32"])


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    size=st.sampled_from([1, 2, 3, 5]),
    given=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_equals_autodiff(shape, channels, filters, size, given, seed):
    sources = arguments((shape[0] + 1, *shape[1:]), channels, filters, size, seed=seed)
    if not given:  # of two equal values, float32 has no variance to speak of
        sources[0] += tf.reshape(tf.range(shape[0] + 1.0), (-1, 1, 1, 1))
    check(sources[: 6 if given else 4], keras.activations.softplus, 1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradient_of_the_kernel_equals_autodiff(size):
    x, *_, kernel, _, _ = arguments(size=size)
    upstream = tf.random.stateless_normal((*x.shape[:-1], kernel.shape[-1]), [0, 1])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        outputs = tf.nn.conv2d(x, kernel, 1, "SAME")
    expected = tape.gradient(outputs, kernel, upstream)
    assert relative_error(kernel_gradient(x, kernel, upstream).numpy(), expected.numpy()) < 1e-6


@pytest.mark.parametrize("trainable", [True, False])
def test_layer_equals_its_other_path(trainable):
    """What a layer computes by kernels is what it computes by Keras's operations in float64."""
    options = {"filters": 3, "kernel_size": 3, "activation": "softplus", "momentum": 0.5}
    fast = layers.CompositeFunction(**options)
    exact = layers.CompositeFunction(**options, dtype="float64")
    x = arguments()[0]
    rng = np.random.default_rng(5)
    for layer in (fast, exact):
        layer.build(x.shape)
        layer.norm.trainable = trainable
    exact.set_weights([rng.uniform(0.5, 2.0, w.shape) for w in exact.weights])
    fast.set_weights(exact.get_weights())
    results = []
    for layer, images in ((fast, x), (exact, tf.cast(x, "float64"))):
        sources = [images, *(w.value for w in layer.trainable_variables)]
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
        gradients = tape.gradient(outputs, sources, tf.cast(tf.ones_like(outputs), outputs.dtype))
        results.append([np.array(v) for v in (outputs, *gradients, *layer.get_weights())])
    assert len(results[0]) == 1 + (4 if trainable else 2) + 5
    for ours, right in zip(*results, strict=True):
        assert relative_error(ours, right) < 1e-5


@pytest.mark.parametrize("given", [True, False])
def test_keeps_only_its_input(given):
    inputs = keras.Input((6, 5, 7))
    function = layers.CompositeFunction(4, 3)
    if given:
        function.build((None, 6, 5, 7))
        function.norm.trainable = False
    model = keras.Model(inputs, function(inputs))
    (kept,) = probes.kept_tensors(model, batch_size=2)
    assert kept.op.type == "Placeholder"
    assert kept.shape == (2, 6, 5, 7)


@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_computed_again_before_the_backward_pass(given):
    sources = arguments((7, 5, 4))[: 6 if given else 4]

    def outputs(*sources):
        return by_kernels(*sources, activation=tf.nn.silu)[0]

    assert computed_early(outputs, *sources) == []


def test_empty_batch_is_named():
    x, *rest = arguments((0, 5, 4))
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        by_kernels(x, *rest[:3], activation=tf.nn.relu)
    outputs, _ = by_kernels(x, *rest, activation=tf.nn.relu)  # given statistics ask nothing of it
    assert len(outputs) == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("source", range(4))
def test_second_derivatives_are_refused_not_wrong(source, given, compiled):
    sources = arguments()[: 6 if given else 4]

    def hessian(*sources):
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                outputs, _ = by_kernels(*sources, activation=tf.nn.softplus)
            gradient = inner.gradient(outputs, sources[source])
        return outer.gradient(gradient, sources)

    # In a tf.function TensorFlow wraps the LookupError in an exception of its own.
    with pytest.raises(Exception, match="can't be differentiated again.*textbook.DenseNet"):
        (tf.function(hessian) if compiled else hessian)(*sources)
