"""The probes measure what they say, and change no weight."""

import re

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest

from densenet_nb import data, models, probes, textbook
from densenet_nb.configurations import cifar


@pytest.fixture(scope="module")
def digits():
    return data.load_arrays("digits", "train[:16]")


def network(**composite):
    keras.utils.set_random_seed(0)
    return textbook.PlainCNN(2, 2, (8, 8, 1), 10, **composite)


def kernels(model):
    return [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_gradient_norms_equal_finite_differences(digits):
    images, labels = digits
    model = network(normalization=False, activation="softplus")  # smooth, and no batch statistics
    before = model.get_weights()
    gradients, weights = probes.gradient_norms(model, images, labels)
    for after, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, old)

    def loss(kernel, value):
        kernel.assign(value)
        predictions = model(images, training=True)
        return np.mean(keras.losses.sparse_categorical_crossentropy(labels, predictions))

    assert len(gradients) == len(weights) == 3
    for kernel, gradient, weight in zip(kernels(model), gradients, weights, strict=True):
        start = keras.ops.convert_to_numpy(kernel).copy()
        steps = 1e-2 * np.eye(start.size, dtype="float32").reshape(-1, *start.shape)
        slopes = [(loss(kernel, start + s) - loss(kernel, start - s)) / 2e-2 for s in steps]
        kernel.assign(start)
        assert gradient == pytest.approx(np.linalg.norm(slopes), rel=1e-2)
        assert weight == pytest.approx(np.linalg.norm(start))


def test_the_product_of_the_norms_does_not_depend_on_the_scale_of_the_weights(digits):
    model = network()
    before = np.prod(probes.gradient_norms(model, *digits), axis=0)
    for kernel in kernels(model):
        kernel.assign(3 * kernel)
    after = np.prod(probes.gradient_norms(model, *digits), axis=0)
    np.testing.assert_allclose(after, before, rtol=1e-2)


def small_network():
    keras.utils.set_random_seed(0)
    return models.from_configuration(cifar(16, 4), input_shape=(8, 8, 1), classes=10)


def test_convolutions_inside_blocks_are_measured_in_the_order_of_the_textbook(digits):
    """Each of stem, two a dense layer, and transitions: as in the flat network of equal weights."""
    ours, flat = small_network(), textbook.DenseNet(cifar(16, 4), (8, 8, 1), 10)
    flat.set_weights(ours.get_weights())
    expected = probes.gradient_norms(flat, *digits)
    assert len(kernels(flat)) == len(expected[0]) == 1 + 3 * 2 * 2 + 2
    for kernel, norm in zip(kernels(flat), expected[1], strict=True):
        assert norm == pytest.approx(np.linalg.norm(kernel))
    for found, right in zip(probes.gradient_norms(ours, *digits), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-3)


def test_convolutions_inside_nested_models_are_measured(digits):
    whole = small_network()
    expected = probes.gradient_norms(whole, *digits)
    trunk = keras.Model(whole.input, whole.layers[-2].output)
    found = probes.gradient_norms(keras.Sequential([trunk, whole.layers[-1]]), *digits)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def ending_in(*last, backbone=None, name="net"):
    """The small network's weights under another end; those that have weights take its head's."""
    whole = backbone or small_network()
    trunk = keras.Model(whole.input, whole.layers[-2].output)
    model = keras.Sequential([trunk, *last], name=name)
    model(np.zeros((1, 8, 8, 1), "float32"))
    head = next(layer for layer in last if isinstance(layer, keras.layers.Dense))
    head.set_weights(whole.layers[-1].get_weights())
    return model


def same_function_other_ends():
    dense = keras.layers.Dense
    yield "logits", ending_in(dense(10))
    yield "softmax layer", ending_in(dense(10), keras.layers.Softmax())
    yield "softmax activation", ending_in(dense(10), keras.layers.Activation("softmax"))
    yield "inside another model", keras.Sequential([keras.Input((8, 8, 1)), ending_in(dense(10))])


@pytest.mark.parametrize("labels", ["classes", "shares"])
def test_however_a_classifier_ends_the_norms_are_the_same(digits, labels):
    images, classes = digits
    given = classes if labels == "classes" else np.eye(10)[classes]
    expected = probes.gradient_norms(small_network(), images, classes)
    for name, model in same_function_other_ends():
        found = probes.gradient_norms(model, images, given)
        np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=name)


REFUSED = {
    "sigmoid": (lambda: ending_in(keras.layers.Dense(10, "sigmoid")), "activation 'sigmoid'"),
    "unknown end": (
        lambda: ending_in(keras.layers.Dense(10), keras.layers.Rescaling(2.0)),
        "(Rescaling)",
    ),
    "feature maps": (
        lambda: models.DenseNetCIFAR(10, 4, include_top=False, input_shape=(8, 8, 1)),
        "(batch, classes)",
    ),
    "two outputs": (
        lambda: keras.Model(i := keras.Input((8, 8, 1)), [keras.layers.Flatten()(i)] * 2),
        "(batch, classes)",
    ),
    "a model's own code": (lambda: type("Own", (keras.Model,), {})(), "(Own)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_end_is_refused_by_name(digits, case):
    model, words = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        probes.gradient_norms(model(), *digits)
    if case in ("sigmoid", "unknown end"):  # kept_tensors takes feature maps
        with pytest.raises(ValueError, match=re.escape(words)):
            probes.kept_tensors(model(), 2)


@pytest.mark.parametrize("labels", [np.full(16, 10), np.zeros(15, int), np.full(16, 0.5), None])
def test_labels_that_do_not_fit_are_refused(digits, labels):
    with pytest.raises(ValueError, match="labels have shape"):
        probes.gradient_norms(small_network(), digits[0], labels)


def test_a_classifier_with_logits_keeps_no_more(digits):
    del digits
    softmax, logits = (
        ending_in(keras.layers.Dense(10, "softmax")),
        ending_in(keras.layers.Dense(10)),
    )
    assert probes.kept_bytes(logits, 4) <= probes.kept_bytes(softmax, 4)


@pytest.mark.parametrize("frozen", ["block2", "transition1", "block2 layer1"])
def test_frozen_parts_of_a_memory_efficient_network_are_measured(digits, frozen):
    plain = small_network()
    lean = models.from_configuration(
        cifar(16, 4), input_shape=(8, 8, 1), classes=10, memory_efficient=True
    )
    lean.set_weights(plain.get_weights())
    for model in (plain, lean):
        part, _, layer = frozen.partition(" ")
        part = model.get_layer(f"densenet_{part}")
        (part.dense_layers[0] if layer else part).trainable = False
    expected = probes.gradient_norms(plain, *digits)
    np.testing.assert_allclose(probes.gradient_norms(lean, *digits), expected, rtol=1e-3)
    assert lean.get_layer("densenet_block2").memory_efficient
    assert lean.get_layer("densenet_transition1").memory_efficient


def test_another_backend_is_refused(digits, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="needs TensorFlow as Keras's backend, not jax"):
        probes.gradient_norms(None, *digits)
