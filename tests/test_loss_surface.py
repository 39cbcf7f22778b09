"""The loss around the weights: known by hand, the same for scaled weights, nothing changed."""

from itertools import product

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest

from densenet_nb import data, models, probes, textbook
from densenet_nb.configurations import cifar


@pytest.fixture(scope="module")
def digits():
    return data.load_arrays("digits", "train[:20]")


def linear(activation="softmax"):
    """Build a classifier of one pixel: the logits are the kernel times it, plus the bias."""
    inputs = keras.Input((1, 1, 1))
    dense = keras.layers.Dense(2, activation)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([np.array([[0.5, -2.0]]), np.array([0.25, 1.0])])
    return model


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_a_surface_known_by_hand(activation):
    """A filter is a single number here, so a normalized direction is plus or minus itself."""
    images, labels = np.ones((1, 1, 1, 1)), np.array([1])
    steps, losses = probes.loss_surface(
        linear(activation), images, labels, reach=1.0, points=3, progress=False
    )
    np.testing.assert_array_equal(steps, [-1, 0, 1])
    w, bias = np.array([0.5, -2.0]), np.array([0.25, 1.0])

    def surface(first, second):
        logits = [[w + x * first * w + y * second * w + bias for y in steps] for x in steps]
        return np.log(np.sum(np.exp(logits), axis=-1)) - np.array(logits)[..., 1]

    signs = [np.array(both) for both in product((-1, 1), repeat=2)]
    matches = [np.allclose(losses, surface(a, b), rtol=1e-5) for a, b in product(signs, signs)]
    assert sum(matches) == 1


def test_the_middle_is_the_loss_of_the_network(digits):
    images, labels = digits
    model = models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)
    steps, losses = probes.loss_surface(model, images, labels, reach=0.5, points=3, progress=False)
    np.testing.assert_array_equal(steps, [-0.5, 0, 0.5])
    probabilities = model.predict(images, verbose=0)
    loss = np.mean(-np.log(probabilities[np.arange(len(labels)), labels]))
    assert losses[1, 1] == pytest.approx(loss, rel=1e-4)
    assert len(np.unique(losses.round(6))) == 9


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_weights_scaled_filter_by_filter_have_the_same_surface(digits):
    """Batch normalization undoes the scale, and the direction has it: this is what it is for."""
    keras.utils.set_random_seed(1)
    model = textbook.PlainCNN(2, 4, (8, 8, 1), 10, pre_activation=False, epsilon=1e-9)
    model(digits[0], training=True)
    before = probes.loss_surface(model, *digits, points=3, progress=False)[1]
    scales = np.array([0.25, 2.0, 3.0, 8.0])
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    for convolution, norm in zip(convolutions(model)[1:], norms, strict=True):
        convolution.kernel.assign(convolution.kernel * scales)
        norm.moving_mean.assign(norm.moving_mean * scales)
        norm.moving_variance.assign(norm.moving_variance * scales**2)
    after = probes.loss_surface(model, *digits, points=3, progress=False)[1]
    np.testing.assert_allclose(after, before, rtol=1e-3)
    other = probes.loss_surface(model, *digits, points=3, seed=1, progress=False)[1]
    assert not np.allclose(other, after, rtol=1e-2)


def test_an_interruption_leaves_the_weights_as_they_were(digits, monkeypatch):
    model = models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)
    before = model.get_weights()
    calls = []

    def stopped(images):
        pairs = zip(model.get_weights(), before, strict=True)
        calls.append([not np.array_equal(now, then) for now, then in pairs])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.full((len(images), 10), 0.1)

    monkeypatch.setattr(model, "predict_on_batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        probes.loss_surface(model, *digits, points=3, progress=False)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    moved = {w.path for w, changed in zip(model.weights, calls[0], strict=True) if changed}
    assert moved == {w.path for w in model.weights if w.name == "kernel"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"points": 4}, "points=4: must be odd"),
        ({"points": -1}, "points=-1: must be odd"),
        ({"reach": 0.0}, "reach=0.0: must be above 0"),
        ({"labels": np.array([2])}, "labels have shape"),
        ({"model": linear("sigmoid")}, "activation 'sigmoid'"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    given = {"model": linear(), "images": np.ones((1, 1, 1, 1)), "labels": np.array([1])} | options
    with pytest.raises(ValueError, match=words):
        probes.loss_surface(**given)
