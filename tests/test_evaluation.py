"""Top-1, top-5, confusion, ten crops: each equal to a computation by hand."""

import dataclasses

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from densenet_nb import evaluation, examples, models


def split(count=23, shape=(9, 11, 3), classes=7, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count + 2, *shape)).astype("float32")
    labels = rng.integers(0, classes, count + 2)
    parts = (images[:2], labels[:2]), (images[2:], labels[2:])
    return examples.from_arrays(*parts, range(classes), standardize=False).test


@pytest.fixture(scope="module")
def part():
    return split()


@pytest.fixture(scope="module")
def network():
    """A network for crops of 6 x 8 whose answers depend on what is where, and differ clearly."""
    keras.utils.set_random_seed(1)
    scale = keras.initializers.RandomNormal(stddev=0.5)
    dense = keras.layers.Dense(7, activation="softmax", kernel_initializer=scale)
    return keras.Sequential([keras.Input((6, 8, 3)), keras.layers.Flatten(), dense])


def arrays(part):
    return tuple(np.array(array) for array in part.batch(np.arange(len(part))))


def by_hand(images):
    """Cut ten crops of 6 x 8 out of 9 x 11."""
    corners = [(1, 1), (0, 0), (0, 3), (3, 0), (3, 3)]
    return np.stack(
        [
            each[:, top : top + 6, left : left + 8]
            for each in (images, images[:, :, ::-1])
            for top, left in corners
        ],
        axis=1,
    )


def test_ten_crops_are_center_and_corners_mirrored(part):
    images, _ = arrays(part)
    np.testing.assert_array_equal(
        evaluation.ten_crops(tf.constant(images), (6, 8)), by_hand(images)
    )


@pytest.mark.parametrize("batch_size", [1, 25, 1000])
def test_ten_crops_average_the_scores_before_the_softmax(batch_size, part, network):
    images, labels = arrays(part)
    scores = np.log([network(crops).numpy() for crops in by_hand(images)])
    mean = np.exp(scores.mean(axis=1))
    expected = mean / mean.sum(axis=1, keepdims=True)
    predict = evaluation.predictor(network, ten_crop=True, batch_size=batch_size)
    found, own = predict(part)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(own, labels)
    result = evaluation.evaluate(network, part, ten_crop=True, batch_size=batch_size)
    assert result.top_1 == np.mean(expected.argmax(1) == labels)


def test_a_single_crop_is_the_center(part, network):
    images, labels = arrays(part)
    expected = network.predict(images[:, 1:7, 1:9], verbose=0)
    found, _ = evaluation.predictor(network, batch_size=10)(part)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    network.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = network.evaluate(images[:, 1:7, 1:9], labels, verbose=0)
    result = evaluation.evaluate(network, part)
    assert (result.loss, result.top_1) == pytest.approx((loss, accuracy), rel=1e-5)


def test_ten_crops_of_an_image_go_through_the_network_together(part):
    """So they can't be slower than ten passes of one: three passes for 23 images, not 230."""
    passes = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            tf.numpy_function(lambda size: passes.append(int(size)), [tf.shape(x)[0]], [])
            return tf.reduce_mean(x, (1, 2))

    layers = [keras.Input((6, 8, 3)), Counting(), keras.layers.Dense(7, activation="softmax")]
    model = keras.Sequential(layers)
    passes.clear()
    evaluation.evaluate(model, part, ten_crop=True, batch_size=100)
    assert passes == [100, 100, 30]


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 30))
def test_summary_is_that_of_sorting(seed, classes, count):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count).astype("float32")
    labels = rng.integers(0, classes, count)
    result = evaluation.summarize(probabilities, labels)
    best = np.argsort(-probabilities, axis=1)
    assert result.top_1 == pytest.approx(np.mean(best[:, 0] == labels))
    assert result.top_5 == pytest.approx(np.mean((best[:, :5] == labels[:, None]).any(1)))
    assert result.loss == pytest.approx(
        -np.log(probabilities[np.arange(count), labels].astype(float)).mean(), rel=1e-5
    )
    for true in range(classes):
        for named in range(classes):
            expected = np.sum((labels == true) & (best[:, 0] == named))
            assert result.confusion[true, named] == expected


def test_a_right_answer_of_probability_zero_is_no_infinite_loss():
    result = evaluation.summarize(np.array([[1, 0]], "float32"), np.array([1]))
    assert result.loss == pytest.approx(-np.log(np.finfo("float32").tiny))


def test_outputs_that_are_not_finite_are_no_accuracy():
    with pytest.raises(ValueError, match="not finite"):
        evaluation.summarize(np.full((2, 3), np.nan, "float32"), np.array([0, 1]))


def test_a_densenet_of_any_size_takes_whole_images(part):
    """One without a size of its own; each image's answer is its own."""
    model = models.DenseNet((1, 1), 4, imagenet_stem=False, input_shape=(None, None, 3), classes=7)
    images, _ = arrays(part)
    found, _ = evaluation.predictor(model, batch_size=10)(part)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (5, 8, 3)}, r"images of shape \(5, 8, 3\).*reads \(6, 8, 3\)"),
        ({"shape": (9, 11, 1)}, r"reads \(6, 8, 3\)"),
        ({"classes": ("a", "b")}, r"2 classes.*output \(7,\).*classes=2"),
    ],
)
def test_a_network_for_other_images_is_refused(change, message, part, network):
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(network, dataclasses.replace(part, **change))


def test_a_batch_of_nothing_is_refused(part, network):
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluation.evaluate(network, part, batch_size=0)
