"""What users of other DenseNets have tripped over; each case was reported somewhere in public."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from equality import randomize, relative_error

from densenet_nb import models
from densenet_nb.configurations import CONFIGURATIONS

NETWORKS = ("DenseNet121", "DenseNet169", "DenseNet201")
SHAPE = (64, 64, 3)


def images(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


# keras-applications#22, GaNDLF#149: sizes that are no multiple of 32


@pytest.mark.parametrize(
    ("side", "heights"),
    [(221, (111, 56, 28, 14, 7)), (220, (110, 55, 27, 13, 6)), (224, (112, 56, 28, 14, 7))],
)
@pytest.mark.parametrize("axis", ["height", "width"])
def test_any_size_of_at_least_the_stride(side, heights, axis):
    shape = (side, 64, 3) if axis == "height" else (64, side, 3)
    model = models.DenseNet121(include_top=False, input_shape=shape, name="net")
    names = ("stem_conv", "block1", "block2", "block3", "block4")
    found = [model.get_layer(f"net_{name}").output.shape for name in names]
    assert tuple(s[1 if axis == "height" else 2] for s in found) == heights


@pytest.mark.parametrize("sides", [(32, 32), (33, 47), (63, 32)])
def test_unknown_sizes_take_any_size(sides):
    """One network with None sizes; its outputs are keras.applications' for each size."""
    options = {"include_top": False, "pooling": "avg", "input_shape": (None, None, 3)}
    ours = models.DenseNet121(**options)
    theirs = keras.applications.DenseNet121(weights=None, **options)
    theirs.set_weights(ours.get_weights())
    x = images(1, (*sides, 3))
    assert relative_error(ours.predict_on_batch(x), theirs.predict_on_batch(x)) < 1e-5


# keras#7568: one or four channels; channels first


@pytest.mark.parametrize(
    ("channels", "parameters"), [(1, 8_056_232), (4, 8_065_640), (3, 8_062_504)]
)
def test_any_number_of_channels(channels, parameters):
    model = models.DenseNet121(input_shape=(64, 64, channels))
    assert model.count_params() == parameters
    assert model(images(1, (64, 64, channels))).shape == (1, 1000)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        for network in (models.DenseNet121, models.DenseNetCIFAR):
            with pytest.raises(ValueError, match="channels_first"):
                network()
    finally:
        keras.config.set_image_data_format("channels_last")


# fused-densenet-tiny#1, keras-applications#119: two networks on one input


def test_two_networks_on_one_input():
    inputs = keras.Input(SHAPE)
    options = {"include_top": False, "pooling": "avg", "input_tensor": inputs}
    first = models.DenseNet121(**options)
    second = models.DenseNet169(**options)
    twin = models.DenseNet121(name="twin", **options)
    outputs = keras.layers.Concatenate()([first.output, second.output, twin.output])
    model = keras.Model(inputs, outputs)
    assert keras.Model(inputs, outputs[:, :2688]).output_shape == (None, 2688)
    assert model.output_shape == (None, 2688 + 1024)
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names)
    x = images(1)
    expected = np.concatenate([np.array(net(x)) for net in (first, second, twin)], axis=1)
    assert relative_error(np.array(model(x)), expected) < 1e-6


# keras#9522, #4762: a frozen trunk still changes


@pytest.mark.parametrize("jit_compile", [False, True])
def test_frozen_trunk_keeps_every_bit(jit_compile):
    if jit_compile:  # compiling 121 layers takes minutes
        base = models.DenseNet((2, 2), 8, include_top=False, pooling="avg", input_shape=SHAPE)
    else:
        base = models.DenseNet121(include_top=False, pooling="avg", input_shape=SHAPE)
        assert len(base.get_weights()) == 606 - 2  # all but the classifier's
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    before, head = base.get_weights(), model.layers[-1].get_weights()
    for _ in range(3):
        model.train_on_batch(images(4), np.arange(4) % 2)
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(head[0], model.layers[-1].get_weights()[0])


def test_frozen_block_keeps_every_bit_and_the_rest_moves():
    model = models.DenseNet121(input_shape=SHAPE, classes=2, name="net")
    block = model.get_layer("net_block2")
    block.trainable = False
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    before = model.get_weights()
    for _ in range(3):
        model.train_on_batch(images(4), np.arange(4) % 2)
    frozen = {id(v) for v in block.variables}
    assert len(before) == 606
    for variable, old in zip(model.weights, before, strict=True):
        assert np.array_equal(old, variable.numpy()) == (id(variable) in frozen), variable.path


# keras#12400, tensorflow#32544: an image's answer depends on its neighbours


def test_an_images_answer_is_its_own(tmp_path):
    model = models.DenseNet((2, 2), 8, input_shape=SHAPE, classes=3)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    for _ in range(2):
        model.train_on_batch(images(8), np.arange(8) % 3)
    before = model.get_weights()
    a, b = images(2, seed=5)
    together = model.predict(np.stack([a, b]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for network in (model, loaded):
        alone = network.predict(a[None], verbose=0)
        np.testing.assert_allclose(alone[0], together[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(network(a[None])[0], together[0], rtol=1e-5, atol=1e-6)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# keras#11858, tensorflow#52986: the last batch is smaller than the number of replicas


REPLICAS = """
import numpy as np
import tensorflow as tf

from densenet_nb import models

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = models.DenseNet((1, 1), 4, input_shape=(8, 8, 1), imagenet_stem=False, classes=2)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)


def fit(count, drop_remainder=False):
    images = np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(count) % 2))
    before = model.get_weights()
    model.fit(data.batch(4, drop_remainder), epochs=1, verbose=0)
    assert not all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


fit(8)
fit(9, drop_remainder=True)
try:
    fit(9)
    print("trained")
except tf.errors.InvalidArgumentError as error:
    assert "drop_remainder=True" in str(error), error
    print("refused")
assert all(np.isfinite(weights).all() for weights in model.get_weights())
"""


def test_last_batch_smaller_than_the_replicas():
    """Nine images in fours on two replicas: it trains or says drop_remainder; never a NaN.

    Not with jit_compile: TensorFlow refuses XLA on two logical devices of one processor.
    """
    run = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] in ("trained", "refused")


# keras-contrib#158: features by layer index break


@pytest.mark.parametrize("name", NETWORKS)
def test_features_by_name_equal_keras_applications(name, tmp_path):
    options = {"include_top": False, "input_shape": SHAPE}
    ours = getattr(models, name)(**options)
    theirs = getattr(keras.applications, name)(weights=None, **options)
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    table = models.keras_applications_names(CONFIGURATIONS[name])
    table = {k: v for k, v in table.items() if k not in ("pool", "classifier")}
    for names in (("block1", "conv2_block6_concat"), ("transition3", "pool4_pool")):
        assert names in table.items()
    last = CONFIGURATIONS[name].blocks[-1]
    assert table["block4"] == f"conv5_block{last}_concat"
    features = keras.Model(theirs.input, [theirs.get_layer(n).output for n in table.values()])
    expected = features(images(1))
    networks = [ours]
    if name == "DenseNet121":  # the others have the same layers, only more of them
        ours.save(tmp_path / "net.keras")
        clone = keras.models.clone_model(ours)
        clone.set_weights(ours.get_weights())
        networks += [keras.saving.load_model(tmp_path / "net.keras"), clone]
    for network in networks:
        outputs = [network.get_layer(f"{network.name}_{n}").output for n in table]
        maps = keras.Model(network.input, outputs)(images(1))
        for key, actual, theirs_ in zip(table, maps, expected, strict=True):
            assert relative_error(np.array(actual), np.array(theirs_)) < 1e-5, key


def test_every_documented_name_is_a_layer():
    model = models.DenseNet121(input_shape=SHAPE, name="net")
    names = models.keras_applications_names(CONFIGURATIONS["DenseNet121"])
    theirs = keras.applications.DenseNet121(weights=None, input_shape=SHAPE)
    for ours, peer in names.items():
        assert model.get_layer(f"net_{ours}").output.shape == theirs.get_layer(peer).output.shape


# keras#19263 (which brought `quantize`): a warning for each layer that it passes over


@pytest.mark.filterwarnings("ignore:.*__array__ implementation:DeprecationWarning")  # Keras's own
def test_quantize_of_the_layers_that_keras_can_quantize():
    """Keras quantizes Dense alone; asked for the whole, it warns for every other layer.

    For convolutions in eight bits there is TensorFlow Lite: tests/test_inference.py.
    """
    options = {"input_shape": (32, 32, 3), "classes": 3}
    stock = [keras.layers.Conv2D(4, 3), keras.layers.ReLU(), keras.layers.Flatten()]
    theirs = keras.Sequential([keras.Input((8, 8, 3)), *stock, keras.layers.Dense(2)])
    with pytest.warns(UserWarning, match="does not have a `quantize` method") as warned:
        theirs.quantize("int8")
    assert len(warned) > len(stock)  # the input's layer too

    model = models.DenseNet((2, 2), 8, **options)
    before = model.predict(images(4, (32, 32, 3)), verbose=0)
    model.quantize("int8", filters="classifier")  # in the tests, a warning is an error
    assert model.layers[-1].kernel.dtype == "int8"
    after = model.predict(images(4, (32, 32, 3)), verbose=0)
    assert 0 < relative_error(after, before) < 0.01
