"""The heat map of Figure 5: known by hand, and the same of every network with equal weights."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
from keras.src.applications.densenet import DenseNet  # of any depth

from densenet_nb import models, probes, textbook
from densenet_nb.configurations import Configuration, cifar

K0, K = 3, 2
NAN = np.nan


def one_block(bottleneck):
    network = Configuration((2,), K, K0, bottleneck=bottleneck, imagenet_stem=False)
    return textbook.DenseNet(network, (4, 4, 1), 5)


def readers(model):
    """Return the layers that read the block's input or a concatenation, the classifier last."""
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    _, *rest = kernels
    return [layer for layer in rest if layer.kernel.shape[-2] in (K0, K0 + K, K0 + 2 * K)]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_heat_map_known_by_hand(bottleneck):
    """Channels of x_0 have weights of ±1, those of x_1 ±2 and of x_2 ±3, in each reader."""
    model = one_block(bottleneck)
    random = np.random.default_rng(0)
    for layer in readers(model):
        values = np.repeat([1, 2, 3], [K0, K, K])[: layer.kernel.shape[-2], None]
        layer.kernel.assign(values * random.choice([-1, 1], layer.kernel.shape))
    (block,) = probes.feature_reuse(model)
    np.testing.assert_array_equal(block.weights, [[1, 1, 1], [NAN, 2, 2], [NAN, NAN, 3]])
    assert len(block.sources) == len(block.targets) == 3
    assert block.targets[-1] == model.layers[-1].name


def test_gamma_of_the_reader_scales_its_weights():
    model = one_block(bottleneck=False)
    (plain,) = probes.feature_reuse(model)
    (same,) = probes.feature_reuse(model, gamma=True)
    np.testing.assert_allclose(same.weights, plain.weights, rtol=1e-6)  # γ is 1 at first
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    for column, norm in enumerate(norms):
        norm.gamma.assign(np.full(norm.gamma.shape, -2.0 - column))
    (scaled,) = probes.feature_reuse(model, gamma=True)
    np.testing.assert_allclose(scaled.weights, plain.weights * [2, 3, 4], rtol=1e-6)
    np.testing.assert_array_equal(probes.feature_reuse(model)[0].weights, plain.weights)


def networks():
    """Yield pairs of networks of the same architecture: in stock layers, and ours."""
    stock = textbook.DenseNet(cifar(16, 4), (8, 8, 1), 10)
    yield stock, models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 10}
    yield DenseNet((1, 2, 1, 1), **options), models.DenseNet((1, 2, 1, 1), **options)


@pytest.mark.parametrize("gamma", [False, True])
def test_the_map_is_the_same_however_a_network_is_built(gamma):
    random = np.random.default_rng(1)
    for stock, ours in networks():
        weights = [w + random.uniform(0, 1, w.shape) for w in stock.get_weights()]
        for model in (stock, ours):
            model.set_weights(weights)
        expected, found = (probes.feature_reuse(model, gamma) for model in (stock, ours))
        layers = [len(block.sources) - 1 for block in found]
        assert layers in ([2, 2, 2], [1, 2, 1, 1])
        for mine, right in zip(found, expected, strict=True):
            assert len(mine.targets) == len(right.targets) == len(mine.sources)
            np.testing.assert_array_equal(mine.weights, right.weights)
            assert np.isnan(mine.weights[np.tril_indices(len(mine.sources), -1)]).all()
            assert not np.isnan(mine.weights[np.triu_indices(len(mine.sources))]).any()


def test_names_say_who_reads_whom():
    ours = models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)
    first, _, last = probes.feature_reuse(ours)
    layers = ("densenet_block1/layer1", "densenet_block1/layer2")
    assert first.sources == ("densenet_stem_conv", *layers)
    assert first.targets == (*layers, "densenet_transition1")
    assert last.targets[-1] == ours.layers[-1].name


def test_convolutions_in_groups_are_left_out_and_the_others_counted():
    inputs = keras.Input((4, 4, 2))
    both = keras.layers.Concatenate()([inputs, keras.layers.Conv2D(2, 1, name="made")(inputs)])
    grouped = keras.layers.Conv2D(4, 3, groups=2)(both)
    reads = keras.layers.Conv2D(1, 3, name="reads")(both)
    (block,) = probes.feature_reuse(keras.Model(inputs, [grouped, reads]))
    assert block.targets == ("made", "reads")


def test_a_network_without_concatenation_is_refused():
    with pytest.raises(ValueError, match="no convolution or classifier that reads a concat"):
        probes.feature_reuse(textbook.PlainCNN(2, 2, (4, 4, 1), 3))
