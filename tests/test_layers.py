import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import randomize, relative_error, step
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import layers, textbook

SHAPE = (6, 5, 7)


def model_of(part, shape=SHAPE):
    inputs = keras.Input(shape)
    return keras.Model(inputs, part(inputs))


def parts(bottleneck=True, **options):
    """Each part as ours and as the textbook's, in models with equal weights."""
    H = textbook.CompositeFunction(**options)
    return {
        "composite": (
            layers.CompositeFunction(6, 3, **options),
            lambda x: H(x, 6, 3),
        ),
        "layer": (
            layers.DenseLayer(4, bottleneck, **options),
            lambda x: textbook.dense_layer(x, 4, bottleneck, H),
        ),
        "block": (
            layers.DenseBlock(3, 4, bottleneck, **options),
            lambda x: textbook.dense_block(x, 3, 4, bottleneck, H),
        ),
        "transition": (
            layers.Transition(0.6, **options),
            lambda x: textbook.transition(x, 0.6, H),
        ),
    }


def pair(part, **options):
    ours, theirs = (model_of(make) for make in parts(**options)[part])
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


PARTS = tuple(parts())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_equals_textbook(part, bottleneck, training):
    ours, theirs = pair(part, bottleneck=bottleneck, activation="softplus", momentum=0.7)
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype("float32")
    actual, expected = step(ours, x, training=training), step(theirs, x, training=training)
    assert relative_error(actual.outputs, expected.outputs) < 1e-5
    assert relative_error(actual.weights, expected.weights) < 1e-5
    assert relative_error(actual.gradients, expected.gradients) < 1e-5


@given(
    num_layers=st.integers(1, 4),
    growth_rate=st.integers(1, 5),
    bottleneck=st.booleans(),
    channels=st.integers(1, 6),
    sides=st.tuples(st.integers(2, 6), st.integers(2, 6)),
)
@settings(deadline=None, max_examples=12)
def test_any_block_equals_textbook(num_layers, growth_rate, bottleneck, channels, sides):
    shape = (*sides, channels)
    ours = model_of(layers.DenseBlock(num_layers, growth_rate, bottleneck), shape)
    theirs = model_of(lambda x: textbook.dense_block(x, num_layers, growth_rate, bottleneck), shape)
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    x = np.random.default_rng(1).normal(size=(16, *shape)).astype("float32")
    assert (
        relative_error(np.array(ours(x, training=True)), np.array(theirs(x, training=True))) < 1e-5
    )
    assert ours.output_shape == (None, *sides, channels + num_layers * growth_rate)


@pytest.mark.parametrize("part", PARTS)
def test_gradient_equals_finite_differences(part):
    """In float64, with respect to the maps, through batch statistics and softplus."""
    options = {"activation": "softplus"}
    layer = {
        "composite": lambda: layers.CompositeFunction(2, 3, dtype="float64", **options),
        "layer": lambda: layers.DenseLayer(2, dtype="float64", **options),
        "block": lambda: layers.DenseBlock(2, 2, dtype="float64", **options),
        "transition": lambda: layers.Transition(0.5, dtype="float64", **options),
    }[part]()
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 2, 4, 2))
    weights = rng.normal(size=layer(x).shape)
    theoretical, numerical = tf.test.compute_gradient(
        lambda x: tf.reduce_sum(layer(x, training=True) * weights), [x], delta=1e-6
    )
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-7)


@pytest.mark.parametrize("part", PARTS)
def test_configuration_makes_an_equal_layer(part):
    options = {
        "activation": "silu",
        "dropout_rate": 0.1,
        "momentum": 0.8,
        "epsilon": 1e-4,
        "kernel_initializer": "glorot_uniform",
        "name": "part",
    }
    layer = {
        "composite": lambda: layers.CompositeFunction(2, 3, **options),
        "layer": lambda: layers.DenseLayer(2, bottleneck=False, **options),
        "block": lambda: layers.DenseBlock(2, 3, bottleneck=False, **options),
        "transition": lambda: layers.Transition(0.25, **options),
    }[part]()
    config = layer.get_config()
    twin = type(layer).from_config(config)
    assert twin.get_config() == config
    assert twin.compute_output_shape((None, 8, 8, 8)) == layer.compute_output_shape((None, 8, 8, 8))
    built = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert built.get_config() == config


@pytest.mark.parametrize("part", PARTS)
def test_output_shape_is_what_it_computes(part):
    layer = parts()[part][0]
    assert layer(tf.zeros((2, *SHAPE))).shape == layer.compute_output_shape((2, *SHAPE))


def test_equal_shapes_start_with_different_weights():
    """An unseeded Keras initializer instance would give every layer the same values."""
    for initializer in (layers.HeNormalFanOut, keras.initializers.HeNormal(), "glorot_uniform"):
        block = layers.DenseBlock(2, 4, kernel_initializer=initializer)
        block.build((None, 4, 4, 3))
        first, second = (layer.functions[1].conv.kernel.numpy() for layer in block.dense_layers)
        assert first.shape == second.shape
        assert not np.allclose(first, second)


def test_equal_shapes_start_with_different_weights_in_the_textbook_too():
    initializer = keras.initializers.HeNormal()
    model = textbook.PlainCNN(2, 4, (4, 4, 3), 2, kernel_initializer=initializer)
    kernels = [w.numpy() for w in model.weights if w.name == "kernel" and w.shape == (3, 3, 4, 4)]
    assert len(kernels) == 2
    assert not np.allclose(*kernels)


def test_own_initializers_are_taken():
    """A function, or an instance of a class that nobody registered, as Keras's layers take them."""

    class Ones(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.ones(shape, dtype)

    for initializer in (Ones(), Ones, lambda shape, dtype=None: keras.ops.ones(shape, dtype)):
        block = layers.DenseBlock(1, 4, kernel_initializer=initializer)
        block.build((None, 4, 4, 3))
        assert (block.dense_layers[0].functions[0].conv.kernel.numpy() == 1).all()


@pytest.mark.parametrize("part", PARTS)
def test_frozen_from_the_start(part):
    """`trainable=False` in the constructor, or set before the weights are made."""
    early = {
        "composite": lambda **k: layers.CompositeFunction(2, 3, **k),
        "layer": lambda **k: layers.DenseLayer(2, **k),
        "block": lambda **k: layers.DenseBlock(2, 2, **k),
        "transition": lambda **k: layers.Transition(**k),
    }[part]
    later = early()
    later.trainable = False
    for layer in (early(trainable=False), later):
        layer.build((None, *SHAPE))
        before = layer.get_weights()
        layer(np.random.default_rng(0).normal(size=(4, *SHAPE)).astype("float32"), training=True)
        assert not layer.trainable_weights
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_each_normalization_of_a_block_moves_by_its_own_momentum():
    """A block moves its averages together; its layers, called alone, each their own."""
    together, alone = layers.DenseBlock(3, 2), layers.DenseBlock(3, 2)
    x = keras.random.normal((2, 5, 5, 4), seed=1)
    for block in (together, alone):
        block.build(x.shape)
        for index, layer in enumerate(block.dense_layers):
            for function in layer.functions:
                function.norm.momentum = 0.3 * index
    alone.set_weights(together.get_weights())
    together(x, training=True)
    for layer in alone.dense_layers:
        x = keras.ops.concatenate([x, layer(x, training=True)], axis=-1)
    for moved, expected in zip(together.get_weights(), alone.get_weights(), strict=True):
        assert relative_error(moved, expected) < 1e-5
    assert not np.allclose(together.dense_layers[-1].functions[0].norm.moving_mean, 0)


def test_numpy_numbers_are_as_good_as_pythons():
    block = layers.DenseBlock(np.int64(2), np.int8(40))
    block.build((None, 4, 4, 3))
    assert type(block.get_config()["num_layers"]) is int
    assert block.compute_output_shape((None, 4, 4, 3))[-1] == 83


def test_he_normal_is_the_authors():
    """Variance 2 / (size² filters), untruncated (section 4.2; fb.resnet.torch's rule)."""
    keras.utils.set_random_seed(0)
    kernel = np.array(layers.HeNormalFanOut()((3, 3, 64, 200)))
    assert abs(kernel.var() * 9 * 200 / 2 - 1) < 0.02  # 115,200 draws: sd 0.4%
    assert np.abs(kernel).max() > 3.5 * kernel.std()  # a truncated normal ends at 2


@pytest.mark.parametrize("part", PARTS)
def test_dropout_drops_after_each_convolution(part):
    """At rate ½ about half of the new values are 0; the rest are doubled."""
    keras.utils.set_random_seed(1)
    layer = parts(bottleneck=False, dropout_rate=0.5)[part][0]
    x = np.random.default_rng(3).normal(size=(8, 8, 8, 7)).astype("float32")
    dropped = np.array(layer(x, training=True))
    new = dropped if part != "block" else dropped[..., 7:]
    share = (new == 0).mean()
    # Average pooling takes four values: all dropped with probability 1/16.
    assert abs(share - (1 / 16 if part == "transition" else 1 / 2)) < 0.05
    assert not (np.array(layer(x, training=False)) == 0).any()


def test_transition_with_dropout_keeps_the_papers_order():
    """Dropout between convolution and pooling: the two no longer commute."""
    keras.utils.set_random_seed(2)
    layer = layers.Transition(0.5, dropout_rate=0.5)
    x = np.random.default_rng(4).normal(size=(2, 4, 4, 6)).astype("float32")
    layer(x)
    layer.function.dropout.seed_generator.state.assign(np.array([0, 5], "uint32"))
    outputs = np.array(layer(x, training=True))
    layer.function.dropout.seed_generator.state.assign(np.array([0, 5], "uint32"))
    expected = np.array(layer.pool(layer.function(x, training=True)))
    np.testing.assert_array_equal(outputs, expected)


FREEZING = {
    "whole": lambda block: [block],
    "first layer": lambda block: [block.dense_layers[0]],
    "a norm of the second layer": lambda block: [block.dense_layers[1].functions[0].norm],
    "every norm": lambda block: [f.norm for d in block.dense_layers for f in d.functions],
    "a convolution": lambda block: [block.dense_layers[2].functions[1].conv],
}


@pytest.mark.parametrize("pattern", FREEZING)
def test_freezes_layer_by_layer_as_keras_does(pattern):
    """A frozen normalization reads its moving averages in training too, and leaves them alone."""
    ours, theirs = pair("block", activation="softplus")
    stock = {id(v): layer for layer in theirs.layers for v in layer.variables}
    block = ours.layers[1]
    twins = dict(zip([id(v) for v in ours.variables], theirs.variables, strict=True))
    for frozen in FREEZING[pattern](block):
        frozen.trainable = False
        for variable in frozen.variables:
            stock[id(twins[id(variable)])].trainable = False
    x = np.random.default_rng(6).normal(size=(4, *SHAPE)).astype("float32")
    if not ours.trainable_variables:
        assert not theirs.trainable_variables
        actual, expected = (np.array(m(x, training=True)) for m in (ours, theirs))
        assert relative_error(actual, expected) < 1e-5
    else:
        actual, expected = step(ours, x), step(theirs, x)
        assert relative_error(actual.outputs, expected.outputs) < 1e-5
        assert relative_error(actual.gradients, expected.gradients) < 1e-5
    assert relative_error(ours.get_weights(), theirs.get_weights()) < 1e-5
