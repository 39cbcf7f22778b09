import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb.engine import formulas
from densenet_nb.engine.kernels import (
    kernel_batch_norm,
    kernel_normalize,
    normalization_gradient,
    statistics_gradient,
)
from densenet_nb.engine.statistics import uses_kernel
from densenet_nb.normalization import BatchNormalization, Statistics, moments

EPSILON = 1.001e-5
OFFSETS = (0.0, 1e2, 1e3, 1e4, 1e5)


def tolerance(offset):
    """A mean of 1e5 is held to 0.004 in float32: of values with a spread of 3, to 1e-3."""
    return 1e-5 + 1e-7 * offset


def with_kernel(x, gamma, beta, *, epsilon):
    outputs, statistics, _ = kernel_batch_norm(x, gamma, beta, epsilon=epsilon)
    return outputs, statistics.mean, statistics.variance


def with_operations(x, gamma, beta, *, epsilon):
    statistics = Statistics(*keras.ops.moments(x, list(range(len(x.shape) - 1))))
    outputs = formulas.normalize(tf.constant(x), gamma, beta, statistics, epsilon=epsilon)
    return outputs, statistics.mean, statistics.variance


def pair(channels, dtype="float32", **options):
    """Ours and Keras's, with equal weights that are not those of the start."""
    layers = [
        kind(dtype=dtype, **options)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 2, channels) for _ in range(4)]
    for layer in layers:
        layer.build((None, None, None, channels))
        layer.set_weights(weights)
    return layers


def run(layer, x, training):
    x = tf.convert_to_tensor(x)
    cotangent = np.random.default_rng(1).normal(size=x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32") * tf.cast(cotangent, "float32"))
    gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
    return [np.array(tf.cast(v, "float64")) for v in (y, *gradients, *layer.get_weights())]


def test_sizes_that_tracing_does_not_know_are_counted_when_run():
    """How many values a channel has is a number in an eager call, a tensor where `fit` traces."""
    x = tf.constant(np.random.default_rng(3).normal(1.0, 2.0, (3, 4, 5, 6)), "float32")
    ones = tf.ones(6)

    def results(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = moments(x)
            loss = tf.reduce_sum(found.mean + found.variance)
        return *with_kernel(x, ones, ones, epsilon=EPSILON), tape.gradient(loss, x)

    unknown = tf.function(results, input_signature=[tf.TensorSpec((None, None, None, 6))])
    for actual, expected in zip(unknown(x), results(x), strict=True):
        assert relative_error(np.array(actual), np.array(expected)) < 1e-6


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float32", 2e-6), ("float64", 1e-13), ("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)],
)
@pytest.mark.parametrize("training", [True, False])
def test_equals_keras(policy, tolerance, training):
    ours, theirs = pair(5, policy, epsilon=EPSILON, momentum=0.9)
    x = np.random.default_rng(2).normal(2.0, 3.0, (4, 6, 5, 5))
    x = tf.cast(x, keras.DTypePolicy(policy).compute_dtype)
    for actual, expected in zip(run(ours, x, training), run(theirs, x, training), strict=True):
        assert relative_error(actual, expected) < tolerance


def test_statistics_stay_float32_under_mixed_precision():
    ours, _ = pair(3, "mixed_float16")
    assert {weight.dtype for weight in ours.weights} == {"float32"}
    assert ours(tf.ones((2, 4, 4, 3), "float16"), training=True).dtype == tf.float16


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_survives_offsets_compiled_or_not(offset, jit_compile):
    """XLA lowers the kernel to E[x²] − E[x]²; the choice of operations must avoid it."""
    ours, _ = pair(4, epsilon=EPSILON, momentum=0.0)  # the moving averages are the batch's
    x = np.random.default_rng(3).normal(offset, 3.0, (8, 7, 7, 4)).astype("float32")
    gamma, beta, *_ = ours.get_weights()
    vectors = (gamma.astype("float64"), beta.astype("float64"))
    expected = with_operations(x.astype("float64"), *vectors, epsilon=EPSILON)
    outputs = tf.function(lambda x: ours(x, training=True), jit_compile=jit_compile)(x)
    _, _, mean, variance = ours.get_weights()
    for actual, oracle in zip((np.array(outputs), mean, variance), expected, strict=True):
        assert relative_error(actual, np.array(oracle)) < tolerance(offset)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_moments_survive_offsets_compiled_or_not(offset, jit_compile):
    x = np.random.default_rng(3).normal(offset, 3.0, (8, 7, 7, 4)).astype("float32")
    cotangents = np.random.default_rng(4).normal(size=(2, 4))

    @tf.function(jit_compile=jit_compile)
    def float32(x):
        return gradient_of_moments(moments, x, cotangents)

    expected = gradient_of_moments(moments, tf.constant(x.astype("float64")), cotangents)
    for actual, oracle in zip(float32(tf.constant(x)), expected, strict=True):
        assert actual.dtype == tf.float32
        assert relative_error(np.array(actual), np.array(oracle)) < tolerance(offset)


def gradient_of_moments(moments, x, cotangents):
    """Mean, variance, and the gradient of x from cotangents of the two."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        statistics = moments(x)
        pair = [statistics.mean, statistics.variance]
        loss = tf.reduce_sum(tf.stack(pair) * tf.cast(cotangents, x.dtype))
    return *pair, tape.gradient(loss, x)


@pytest.mark.parametrize("offset", OFFSETS)
def test_given_statistics_survive_offsets(offset):
    rng = np.random.default_rng(3)
    x = rng.normal(offset, 3.0, (8, 7, 7, 4)).astype("float32")
    gamma, beta, upstream = rng.normal(size=4), rng.normal(size=4), rng.normal(size=x.shape)
    given = moments(tf.constant(x))  # as float32 holds them
    single = [tf.cast(value, "float32") for value in (gamma, beta)]
    outputs = kernel_normalize(x, *single, given, epsilon=EPSILON)
    double = Statistics(*(tf.cast(value, "float64") for value in (given.mean, given.variance)))
    exact = tf.constant(x.astype("float64"))
    gamma = tf.constant(gamma)
    with tf.GradientTape() as tape:
        tape.watch([exact, gamma])
        oracle = formulas.normalize(exact, gamma, beta, double, epsilon=EPSILON)
    expected = tape.gradient(oracle, [exact, gamma], upstream)
    actual = normalization_gradient(
        upstream.astype("float32"),
        x,
        single[0],
        (given.mean, given.variance),
        epsilon=EPSILON,
        is_training=False,
    )
    for ours, right in zip((outputs, *actual[:2]), (oracle, *expected), strict=True):
        assert relative_error(np.array(ours), np.array(right)) < tolerance(offset)


def test_kernel_is_chosen_where_it_serves():
    assert uses_kernel(tf.zeros((1, 2, 2, 3)))
    assert not uses_kernel(tf.zeros((1, 2, 2, 3), "float64"))
    assert not uses_kernel(tf.zeros((1, 3)))
    chosen = []
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile)
        def outer(x):
            chosen.append(uses_kernel(x))
            return tf.function(lambda x: (chosen.append(uses_kernel(x)), x)[1])(x)

        outer(tf.zeros((1, 2, 2, 3)))
    assert chosen == [True, True, False, False]


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=30)
def test_kernel_equals_operations(shape, scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, scale, shape).astype("float32")
    gamma, beta = rng.normal(size=(2, shape[-1])).astype("float32")
    kernel = with_kernel(x, gamma, beta, epsilon=1e-3)
    plain = with_operations(x, gamma, beta, epsilon=1e-3)
    # Float32 holds the mean, and so each centered value, to some roundings of the largest value.
    rounding = 1e-6 * np.abs(x).max()
    deviation = x.astype("float64").std(axis=(0, 1, 2))
    tolerances = (
        rounding * np.abs(gamma) / np.sqrt(deviation**2 + 1e-3) + 1e-6 * np.abs(beta),
        rounding,
        2 * rounding * deviation + rounding**2,
    )
    for actual, expected, atol in zip(kernel, plain, tolerances, strict=True):
        difference = np.abs(np.array(actual) - np.array(expected))
        assert (difference <= atol + 2e-5 * np.abs(np.array(expected))).all()


SHAPES = st.tuples(*[st.integers(1, 4)] * 4)


@given(shape=SHAPES, seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_gradient_of_moments(shape, seed):
    """Float32, by the formula, against float64 autodiff of Keras's operation."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, shape).astype("float32")
    cotangents = rng.normal(size=(2, shape[-1]))

    def oracle(x):
        return Statistics(*keras.ops.moments(x, [0, 1, 2]))

    actual = gradient_of_moments(moments, tf.constant(x), cotangents)
    expected = gradient_of_moments(oracle, tf.constant(x.astype("float64")), cotangents)
    for ours, right in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5)


@given(shape=SHAPES, seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_gradient_of_given_statistics(shape, seed):
    """The formula in float64, and with the kernel's gradients of γ and β, against autodiff."""
    rng = np.random.default_rng(seed)
    x, upstream = rng.normal(1.0, 2.0, (2, *shape))
    gamma, beta, mean = (tf.constant(v) for v in rng.normal(size=(3, shape[-1])))
    variance = tf.constant(rng.uniform(0.2, 4.0, shape[-1]))
    sources = [gamma, beta, mean, variance]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = formulas.normalize(
            tf.constant(x), gamma, beta, Statistics(mean, variance), epsilon=EPSILON
        )
    *learned, dmean, dvariance = tape.gradient(y, sources, upstream)
    exact = statistics_gradient(gamma, variance, *learned, epsilon=EPSILON)
    for ours, right in zip(exact, (dmean, dvariance), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-12)

    single = [tf.cast(v, "float32") for v in sources]
    _, *learned = normalization_gradient(
        upstream.astype("float32"),
        x.astype("float32"),
        single[0],
        single[2:],
        epsilon=EPSILON,
        is_training=False,
    )
    kernel = statistics_gradient(single[0], single[3], *learned, epsilon=EPSILON)
    for ours, right in zip(kernel, (dmean, dvariance), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-4)


def test_gradient_through_shared_statistics_equals_finite_differences():
    """What a consumer of given statistics sends back to the maps that they are of."""
    rng = np.random.default_rng(4)
    x, weights = rng.normal(size=(2, 2, 2, 3, 2))
    gamma, beta = rng.normal(size=(2, 2))
    theoretical, numerical = tf.test.compute_gradient(
        lambda x: tf.reduce_sum(
            formulas.normalize(x, gamma, beta, moments(x), epsilon=EPSILON) * weights
        ),
        [x],
        delta=1e-5,
    )
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-7)


def test_second_derivatives_are_refused_not_wrong():
    x = tf.random.stateless_normal((2, 3, 3, 2), [0, 1])
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(x)
        inner.watch(x)
        gradient = inner.gradient(tf.reduce_sum(moments(x).variance ** 2), x)
    with pytest.raises(LookupError, match="can't be differentiated again.*textbook.DenseNet"):
        outer.gradient(gradient, x)


def test_one_value_has_variance_zero():
    ours, theirs = pair(3, momentum=0.5)
    x = np.array([[[[1.0, -2.0, 3.0]]]], "float32")
    for actual, expected in zip(run(ours, x, True), run(theirs, x, True), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_gradient_equals_finite_differences():
    """In float64, through the batch's own statistics."""
    layer = BatchNormalization(dtype="float64")
    x = np.random.default_rng(4).normal(size=(2, 2, 3, 2))
    layer.build(x.shape)
    weights = np.random.default_rng(5).normal(size=x.shape)
    theoretical, numerical = tf.test.compute_gradient(
        lambda x: tf.reduce_sum(layer(x, training=True) * weights), [x], delta=1e-5
    )
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-7)


@pytest.mark.parametrize("training", [None, False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_freezes_as_keras_does(trainable, training):
    ours, theirs = pair(4)
    ours.trainable = theirs.trainable = trainable
    x = np.random.default_rng(6).normal(size=(3, 4, 4, 4)).astype("float32")
    assert (
        relative_error(np.array(ours(x, training=training)), np.array(theirs(x, training=training)))
        < 1e-6
    )
    for actual, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_empty_training_batch_is_named():
    ours, _ = pair(3)
    before = ours.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        ours(tf.zeros((0, 4, 4, 3)), training=True)
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert ours(tf.zeros((0, 4, 4, 3)), training=False).shape == (0, 4, 4, 3)


def test_empty_batch_without_the_kernel_moves_nothing():
    ours, _ = pair(3, "float64")
    before = ours.get_weights()
    ours(tf.zeros((0, 4, 4, 3), "float64"), training=True)
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("axis", 1), ("center", False), ("scale", False), ("renorm", True)],
)
def test_what_it_cannot_do_is_refused(keyword, value):
    with pytest.raises(ValueError, match=f"{keyword}={value}.*keras.layers.BatchNormalization"):
        BatchNormalization(**{keyword: value})


def test_bytes_are_taken_as_numbers():
    x = np.random.default_rng(9).integers(0, 255, (2, 4, 4, 3)).astype("uint8")
    ours, theirs = pair(3)
    assert (
        relative_error(np.array(ours(x, training=True)), np.array(theirs(x, training=True))) < 1e-5
    )


def test_configuration_makes_an_equal_layer():
    layer = BatchNormalization(momentum=0.5, epsilon=0.1, gamma_initializer="zeros")
    assert BatchNormalization.from_config(layer.get_config()).get_config() == layer.get_config()
