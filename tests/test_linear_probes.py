"""What each layer tells a linear classifier: known by hand, and the same however a net is built."""

import re

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
from keras.src.applications.densenet import DenseNet  # of any depth

from densenet_nb import data, models, probes, textbook
from densenet_nb.configurations import cifar

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    return data.load_arrays("digits", "train[:60]")


@pytest.fixture(scope="module")
def pair():
    """Return a network of ours and the textbook's with equal weights, moving statistics too."""
    keras.utils.set_random_seed(0)
    ours = models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)
    flat = textbook.DenseNet(cifar(16, 4), (8, 8, 1), 10)
    weights = [w + RANDOM.uniform(0, 0.5, w.shape) for w in ours.get_weights()]
    for model in (ours, flat):
        model.set_weights(weights)
    return ours, flat


def through(*weights):
    """Build a 1x1 convolution of one channel for each weight."""
    inputs = keras.Input((2, 2, 1))
    x = inputs
    for index, weight in enumerate(weights):
        layer = keras.layers.Conv2D(1, 1, use_bias=False, name=f"times{index}")
        x = layer(x)
        layer.set_weights([np.full((1, 1, 1, 1), weight)])
    return keras.Model(inputs, x)


def test_a_probe_tells_what_can_be_told_and_nothing_where_nothing_is_left():
    """The second layer multiplies by 0: what remains is the commonest class."""
    labels = np.repeat([0, 1], [20, 12])
    images = np.where(labels, 3.0, 1.0).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 1))
    found = probes.linear_probes(through(-1.0, 0.0), (images, labels), (images, labels))
    assert found == {"times0": 1.0, "times1": 20 / 32}


def test_properties_are_told_exactly_or_no_better_than_by_their_mean():
    random = np.random.default_rng(1)
    images = random.normal(size=(400, 1, 1, 1)).astype("float32") * np.ones((1, 2, 2, 1))
    value = images[:, 0, 0, 0].astype("float64")
    examples = images, np.stack([3 * value + 1, 5 - value], axis=-1)
    found = probes.linear_probes(through(-2.0, 0.0), examples, examples, progress=False)
    assert found["times0"] == pytest.approx(1, abs=1e-4)  # the penalty is 1, of 400 squares
    assert found["times1"] == pytest.approx(0, abs=1e-9)
    single = probes.linear_probes(through(1.0), (images, value), (images, value), progress=False)
    assert single["times0"] == pytest.approx(1, abs=1e-4)


def test_features_are_the_means_of_the_pixels():
    images = RANDOM.normal(size=(5, 2, 2, 1)).astype("float32")
    found = probes.pooled_features(through(2.0, -1.0), images, ["times1", "times0"], batch_size=2)
    assert list(found) == ["times1", "times0"]
    expected = 2 * images.mean(axis=(1, 2))
    np.testing.assert_allclose(found["times0"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["times1"], -expected, rtol=1e-6)


def test_what_is_inside_a_block_equals_the_textbook(pair, digits):
    ours, flat = pair
    names = probes.layer_names(flat)
    inside = probes.layer_names(ours)
    assert inside == [f"densenet_block{b}/concat{layer}" for b in (1, 2, 3) for layer in (1, 2)]
    found, expected = (
        list(probes.pooled_features(model, digits[0]).values()) for model in (ours, flat)
    )
    assert [features.shape[1] for features in expected] == [
        flat.get_layer(n).output.shape[-1] for n in names
    ]
    for mine, right in zip(found, expected, strict=True):
        assert np.linalg.norm(mine - right) < 1e-4 * np.linalg.norm(right)


def test_what_a_dense_layer_made_is_what_its_last_convolution_made(pair, digits):
    ours, flat = pair
    made = [  # the stem, and transitions, are not among them
        layer.name
        for layer in flat.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.filters == 4
    ]
    names = [f"densenet_block{b}/layer{layer}" for b in (1, 2, 3) for layer in (1, 2)]
    found = probes.pooled_features(ours, digits[0], names)
    expected = probes.pooled_features(flat, digits[0], made)
    for mine, right in zip(found.values(), expected.values(), strict=True):
        assert np.linalg.norm(mine - right) < 1e-4 * np.linalg.norm(right)


def test_the_places_of_keras_applications_are_ours():
    blocks = (1, 2, 1, 1)
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 10}
    theirs, ours = DenseNet(blocks, **options), models.DenseNet(blocks, **options)
    ours.set_weights(theirs.get_weights())
    names = probes.layer_names(theirs)
    assert names == [
        f"conv{b + 2}_block{layer + 1}_concat" for b in range(4) for layer in range(blocks[b])
    ]
    images = RANDOM.uniform(size=(4, 32, 32, 3)).astype("float32")
    found, expected = (probes.pooled_features(model, images) for model in (ours, theirs))
    for mine, right in zip(found.values(), expected.values(), strict=True):
        assert np.linalg.norm(mine - right) < 1e-4 * np.linalg.norm(right)


@pytest.mark.parametrize(
    ("network", "kind", "count"),
    [(textbook.ResNet, keras.layers.Add, 3), (textbook.PlainCNN, keras.layers.Conv2D, 4)],
)
def test_other_networks_are_probed_where_maps_are_added_or_else_at_each_convolution(
    network, kind, count, digits
):
    model = network(3, 2, (8, 8, 1), 10)
    names = probes.layer_names(model)
    assert all(isinstance(model.get_layer(name), kind) for name in names)
    found = probes.linear_probes(model, digits, digits)
    assert list(found) == names
    assert len(names) == count
    assert all(0 <= accuracy <= 1 for accuracy in found.values())


def test_weights_and_moving_statistics_stay(pair, digits):
    ours, _ = pair
    before = ours.get_weights()
    probes.linear_probes(ours, digits, digits, ["densenet_block1/layer1"], progress=False)
    for now, then in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["block9"], "'densenet' has no 'block9'; it has ['densenet_input'"),
        (["densenet_block1/layer3"], "has no 'densenet_block1/layer3'"),
        (["densenet_block1/layer0"], "densenet_block1/layer1 to 2"),
        (["densenet_block1/map1"], "has no 'densenet_block1/map1'"),
        (["densenet_transition1/layer1"], "has no 'densenet_transition1/layer1'"),
    ],
)
def test_a_place_that_is_not_there_is_named_with_those_that_are(pair, digits, names, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        probes.pooled_features(pair[0], digits[0], names)


def test_a_layer_of_neither_maps_nor_vectors_is_refused():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Reshape((4, 4), name="flat")(inputs))
    with pytest.raises(ValueError, match="the output of 'flat'"):
        probes.pooled_features(model, np.zeros((1, 4, 4, 1)), ["flat"])
    with pytest.raises(ValueError, match="name the layers to probe"):
        probes.layer_names(model)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ((4, [0, 1, 0]), (4, [0, 1, 0, 1]), r"train has 4 images and labels of shape \(3,\)"),
        ((4, [0, 1, 0, 1]), (4, [[0]] * 4), r"test has 4 images and labels of shape \(4, 1\)"),
        ((4, [2] * 4), (4, [0, 1, 0, 1]), "train has the single class"),
        ((4, [[[0.5]]] * 4), (4, [0.5] * 4), r"train has 4 images and labels of shape \(4, 1, 1\)"),
        ((4, [0, 1, 0, 1]), (0, []), r"images have shape \(0, 2, 2, 1\)"),
    ],
)
def test_examples_that_do_not_fit_are_refused(train, test, words):
    train, test = ((np.ones((n, 2, 2, 1)), np.array(labels)) for n, labels in (train, test))
    with pytest.raises(ValueError, match=words):
        probes.linear_probes(through(1.0), train, test)
