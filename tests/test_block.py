"""How a block is trained on a processor: textbook's gradients, in few operations, little kept."""

import re
from unittest import mock

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import computed_early, dtype_policy, relative_error, watch_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import layers, models, probes, textbook
from densenet_nb.configurations import Configuration
from densenet_nb.engine import block, ways
from densenet_nb.engine.block import Weights, dense_block
from densenet_nb.engine.kernels import kernel_batch_norm, processor_batch_norm

pytestmark = pytest.mark.usefixtures("on_a_processor")

EPSILON = 1.001e-5

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Relative; the halves have 11 and 8 bits."""

modes = pytest.mark.parametrize("memory_efficient", [False, True])
within_xla = pytest.mark.parametrize("within_xla", [False, True], ids=["kernels", "formulas"])


@pytest.fixture
def blocks(monkeypatch):
    """The dense blocks that are trained this way."""
    return watch_blocks(monkeypatch, block)


def weights(k0=3, k=2, num_layers=3, bottleneck=True, dtype="float32", seed=0):
    """Return those of a block's layers."""
    rng = np.random.default_rng(seed)

    def function(m, filters, size):
        scale = (size * size * m) ** -0.5
        kernel = tf.cast(rng.normal(0, scale, (size, size, m, filters)), dtype)
        gamma, beta = rng.uniform(0.5, 1.5, m), rng.normal(size=m)
        return Weights(tf.cast(gamma, "float32"), tf.cast(beta, "float32"), kernel)

    made = []
    for width in range(k0, k0 + num_layers * k, k):
        shapes = [(width, 4 * k, 1), (4 * k, k, 3)] if bottleneck else [(width, k, 3)]
        made.append([function(*shape) for shape in shapes])
    return made


def maps(shape=(3, 5, 4), k0=3, dtype="float32", offset=0.0, seed=0):
    return tf.cast(np.random.default_rng(seed).normal(offset, 2.0, (*shape, k0)), dtype)


def formula(x, layers, *, activation, epsilon, memory_efficient):
    """The block in elementary operations, for autodiff; float64."""
    used = []
    for functions in layers:
        outputs = x
        for gamma, beta, kernel in functions:
            mean, variance = keras.ops.moments(outputs, [0, 1, 2])
            used.append((mean, variance))
            normalized = gamma * (outputs - mean) / tf.sqrt(variance + epsilon) + beta
            outputs = tf.nn.conv2d(activation(normalized), kernel, 1, "SAME")
        x = tf.concat([x, outputs], -1)
    return x, used


def forward_and_back(function, x, layers, activation, memory_efficient):
    """The maps, all statistics, and a gradient of the maps for each source; as float64 arrays."""
    sources = [x, *tf.nest.flatten(layers)]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs, used = function(
            x, layers, activation=activation, epsilon=EPSILON, memory_efficient=memory_efficient
        )
    upstream = np.random.default_rng(1).normal(size=outputs.shape)
    gradients = tape.gradient(outputs, sources, tf.cast(upstream, outputs.dtype))
    if function is dense_block:
        used = [(each.mean, each.variance) for each in used]
    return [tf.cast(v, "float64").numpy() for v in (outputs, *tf.nest.flatten(used), *gradients)]


def check(x, layers, activation, tolerance, memory_efficient, within_xla=False):
    """With XLA's formulas, if asked, but uncompiled."""
    exact = tf.nest.map_structure(lambda tensor: tf.cast(tensor, "float64"), (x, layers))
    with mock.patch.object(block, "within_xla", return_value=within_xla):
        actual = forward_and_back(dense_block, x, layers, activation, memory_efficient)
    expected = forward_and_back(formula, *exact, activation, memory_efficient)
    for ours, right in zip(actual, expected, strict=True):
        assert np.linalg.norm(ours - right) < tolerance * (np.linalg.norm(right) + right.size**0.5)


@modes
@within_xla
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize(
    "activation", [tf.nn.softplus, tf.nn.silu, tf.identity, lambda x: tf.tanh(x) * x + 1]
)
def test_equals_autodiff(activation, bottleneck, dtype, memory_efficient, within_xla):
    layers = weights(bottleneck=bottleneck, dtype=dtype)
    check(maps(dtype=dtype), layers, activation, TOLERANCES[dtype], memory_efficient, within_xla)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*(st.integers(1, 6) for _ in range(3))).filter(lambda s: np.prod(s) > 3),
    k0=st.integers(1, 6),
    k=st.integers(1, 4),
    num_layers=st.integers(1, 4),
    bottleneck=st.booleans(),
    mode=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_any_block_equals_autodiff(shape, k0, k, num_layers, bottleneck, mode, seed):
    """With four values and more a channel: of two the standardized ones hang on rounding."""
    x, layers = maps(shape, k0, seed=seed), weights(k0, k, num_layers, bottleneck, seed=seed)
    check(x, layers, tf.nn.softplus, 5e-5, *mode)


@modes
@within_xla
@pytest.mark.parametrize("offset", [1e2, 1e3])
def test_equals_autodiff_at_an_offset(offset, memory_efficient, within_xla):
    """Of which float32 takes 1e-7 from maps of a deviation of 2."""
    x, layers = maps(offset=offset), weights()
    check(x, layers, tf.nn.softplus, 1e-5 + 1e-7 * offset, memory_efficient, within_xla)


@modes
@pytest.mark.parametrize(
    "compilation",
    [{"jit_compile": False}, {"run_eagerly": True}, {"jit_compile": True}],
    ids=["graph", "eager", "XLA"],
)
def test_network_is_the_textbooks(memory_efficient, compilation, blocks):
    """After three steps of training, weights and moving averages."""
    configuration = Configuration([2, 1], 3, 6, compression=0.5, imagenet_stem=False)
    images = np.random.default_rng(0).normal(size=(4, 6, 5, 3)).astype("float32")
    trained, start = [], None
    for build in (
        lambda: textbook.DenseNet(configuration, (6, 5, 3), 5, activation="softplus"),
        lambda: models.from_configuration(
            configuration,
            input_shape=(6, 5, 3),
            classes=5,
            activation="softplus",
            memory_efficient=memory_efficient,
        ),
    ):
        keras.utils.set_random_seed(0)
        model = build()
        start = start or model.get_weights()
        model.set_weights(start)
        model.compile("sgd", "sparse_categorical_crossentropy", **compilation)
        for _ in range(3):
            model.train_on_batch(images, np.arange(4))
        trained.append(model.get_weights())
    assert relative_error(*reversed(trained)) < 1e-5
    assert set(blocks) == {2, 1}


@modes
def test_mixed_precision_is_near_full(memory_efficient, blocks):
    """Bfloat16 keeps 8 bits: 2^-9 of rounding at each of a dozen operations in a row."""
    images, found, start = maps(k0=4), [], None
    for policy in ("float32", "mixed_bfloat16"):
        with dtype_policy(policy):
            made = layers.DenseBlock(2, 3, memory_efficient=memory_efficient, activation="softplus")
        made.build(images.shape)
        start = start or made.get_weights()
        made.set_weights(start)
        with tf.GradientTape() as tape:
            outputs = tf.cast(made(images, training=True), "float32")
            loss = tf.reduce_sum(outputs * tf.sin(tf.range(10, dtype="float32")))
        found.append([np.array(g) for g in tape.gradient(loss, made.trainable_variables)])
    assert 1e-4 < relative_error(*reversed(found)) < 0.04
    assert blocks == [2, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"dropout_rate": 0.5},
        {"activation": keras.layers.PReLU(shared_axes=[1, 2])},
        {"dtype": "bfloat16"},  # its γ and β are in half precision too
        {"dtype": "float64"},
        {"synchronized": True},
    ],
)
def test_what_is_more_than_plain_goes_another_way(options, blocks):
    layers.DenseBlock(1, 3, **options)(maps(), training=True)
    assert blocks == []


def test_frozen_normalization_goes_another_way(blocks):
    made = layers.DenseBlock(2, 3)
    made.build((None, 5, 4, 3))
    made.dense_layers[1].functions[0].norm.trainable = False
    made(maps(), training=True)
    assert blocks == []


@modes
@pytest.mark.parametrize("bottleneck", [False, True])
def test_layer_by_layer_it_is_the_same(bottleneck, memory_efficient, monkeypatch):
    """As where there is dropout, whose masks hide faults."""
    x, found = maps(), []
    made = layers.DenseBlock(3, 2, bottleneck, memory_efficient, activation="softplus")
    made.build(x.shape)
    start = made.get_weights()
    for written_out in (ways.written_out, lambda *_: False):
        monkeypatch.setattr(ways, "written_out", written_out)
        made.set_weights(start)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(made(x, training=True) * tf.sin(tf.range(9.0)))
        gradients = tape.gradient(loss, [x, *made.trainable_variables])
        found.append([np.array(array) for array in (loss, *gradients, *made.get_weights())])
    for ours, right in zip(*found, strict=True):
        assert relative_error(ours, right) < 1e-5


@modes
@pytest.mark.parametrize("bottleneck", [False, True])
def test_keeps_the_maps_once_and_a_tensor_for_each_convolution(bottleneck, memory_efficient):
    """Input of 7 maps, 3 layers of 2: what convolutions read is counted in maps."""
    inputs = keras.Input((6, 5, 7))
    made = layers.DenseBlock(3, 2, bottleneck, memory_efficient)
    model = keras.Model(inputs, made(inputs))
    kept = sorted(tensor.shape[-1] for tensor in probes.kept_tensors(model, batch_size=2))
    of_convolutions = [7, 9, 11] + (3 * [8] if bottleneck else [])
    assert kept == sorted([13] if memory_efficient else [13, *of_convolutions])


@modes
def test_nothing_is_computed_again_before_the_backward_pass(memory_efficient):
    made = layers.DenseBlock(3, 2, memory_efficient=memory_efficient, activation="silu")
    x = maps((7, 6, 6))
    made.build(x.shape)
    assert computed_early(lambda x: made(x, training=True), x) == []


def test_within_xla_only_the_memory_efficient_block_convolves_again():
    """The bottleneck's outputs, once for each layer."""
    x, found = maps((3, 6, 6)), []
    for memory_efficient in (False, True):
        made = layers.DenseBlock(2, 2, memory_efficient=memory_efficient)
        made.build(x.shape)

        @tf.function(jit_compile=True)
        def back(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(made(x, training=True) ** 2)  # noqa: B023
            return tape.gradient(loss, made.trainable_variables)  # noqa: B023

        compiled = back.experimental_get_compiler_ir(x)("optimized_hlo")
        found.append(len(re.findall(r" (?:convolution|dot)\(", compiled)))
    plain, lean = found
    assert lean == plain + 2


@modes
def test_two_gradients_by_one_tape(memory_efficient):
    made, x = layers.DenseBlock(2, 2, memory_efficient=memory_efficient), maps()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = made(x, training=True)
    first, second = (tape.gradient(outputs, x).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


@modes
@pytest.mark.parametrize("source", range(4))
def test_second_derivatives_are_refused_not_wrong(source, memory_efficient):
    x, layers = maps(), weights(num_layers=1)
    sources = [x, *layers[0][0]]
    with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
            inner.watch(sources)
            outputs, _ = dense_block(
                x,
                layers,
                activation=tf.nn.softplus,
                epsilon=EPSILON,
                memory_efficient=memory_efficient,
            )
        gradient = inner.gradient(outputs, sources[source])
    with pytest.raises(LookupError, match="can't be differentiated again.*textbook.DenseNet"):
        outer.gradient(gradient, sources)


@modes
def test_empty_batch_is_named(memory_efficient):
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        layers.DenseBlock(1, 2, memory_efficient=memory_efficient)(maps((0, 4, 4)), training=True)


@pytest.mark.parametrize("values", [1, 2, 5])
def test_reserved_variance_is_the_biased_one(values):
    """TensorFlow's documentation leaves open which; a single value has none."""
    x = maps((values, 1, 1))
    vectors = tf.ones(3), tf.zeros(3)
    _, found = processor_batch_norm(x, *vectors, epsilon=EPSILON)
    _, expected, _ = kernel_batch_norm(x, *vectors, epsilon=EPSILON)
    np.testing.assert_allclose(found.variance, x.numpy().var((0, 1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5, atol=1e-7)


def operations(num_layers, memory_efficient=False, stock=False):
    """Count a training step's operations, the variables' own left out."""
    inputs = keras.Input((3, 3, 4))
    if stock:
        configuration = Configuration([num_layers], 2, 4, imagenet_stem=False)
        made = textbook.DenseNet(configuration, (3, 3, 4), include_top=False)
    else:
        made = layers.DenseBlock(num_layers, 2, memory_efficient=memory_efficient)
        made = keras.Model(inputs, made(inputs))

    @tf.function(autograph=False)
    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(made(x, training=True))
        return tape.gradient(loss, made.trainable_variables)

    graph = train.get_concrete_function(tf.TensorSpec((4, 3, 3, 4))).graph
    free = {"ReadVariableOp", "Placeholder"}
    return sum(operation.type not in free for operation in graph.get_operations())


@modes
def test_a_layer_has_half_the_operations_of_stock_layers(memory_efficient):
    """Each takes time before the first step, and in small networks in every step."""
    ours = operations(5, memory_efficient) - operations(4, memory_efficient)
    assert ours < 0.5 * (operations(5, stock=True) - operations(4, stock=True))
