"""The explanations are what their papers' equations say, on networks of ours and of others."""

import re

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import dtype_policy, peers, randomize, relative_error

from densenet_nb import models, probes, textbook
from densenet_nb.configurations import Configuration

EXPLANATIONS = (
    probes.grad_cam,
    probes.guided_backpropagation,
    lambda *args, **kwargs: probes.integrated_gradients(*args, steps=4, **kwargs),
)
NAMES = ("grad_cam", "guided_backpropagation", "integrated_gradients")

explained = pytest.mark.parametrize("explain", EXPLANATIONS, ids=NAMES)

SMALL = Configuration((1, 1), 4, 8, imagenet_stem=False)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")


def small_network(**options):
    keras.utils.set_random_seed(0)
    model = models.from_configuration(SMALL, input_shape=(8, 8, 1), classes=5, **options)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def small():
    return small_network(name="small")


@pytest.fixture(scope="module")
def networks():
    ours, theirs = peers((1, 1, 1, 1))
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    photographs = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    return ours, theirs, photographs


@explained
def test_ours_and_keras_applications_networks_are_explained_alike(explain, networks):
    """Within 1e-2: the rounding of a map near 0 may turn one ReLU of 1e5, and its share with it."""
    ours, theirs, photographs = networks
    expected = explain(theirs, photographs)
    assert np.ptp(expected) > 0
    assert relative_error(explain(ours, photographs), expected) < 1e-2


def test_grad_cam_at_any_layer_of_ours_and_keras_applications_networks(networks):
    ours, theirs, photographs = networks
    expected = probes.grad_cam(theirs, photographs, layer="pool2_pool")
    assert expected.shape == (2, 8, 8)
    assert np.ptp(expected) > 0
    assert relative_error(probes.grad_cam(ours, photographs, layer="transition1"), expected) < 1e-2


def test_grad_cam_at_the_last_map_is_the_class_activation_map(small, images):
    """α_k = W_kc / pixels, since the score of class c is the mean of Σ W_kc A_k, and a bias."""
    classes = np.array([4, 0, 2])
    features = keras.Model(small.input, small.get_layer("small_final_relu").output)
    maps = np.array(features(images, training=False))
    kernel, _ = small.get_layer("small_classifier").get_weights()
    expected = np.maximum(np.einsum("bhwk,kb->bhw", maps, kernel[:, classes]), 0) / 16
    np.testing.assert_allclose(
        probes.grad_cam(small, images, classes), expected, atol=1e-5 * expected.max()
    )


@tf.custom_gradient
def guided_relu(x):
    return tf.nn.relu(x), lambda upstream: tf.where((x > 0) & (upstream > 0), upstream, 0.0)


def test_guided_backpropagation_is_the_gradient_of_a_network_with_guided_relus(images):
    """The textbook's network with the paper's rule as its activation, by autodiff."""
    model = small_network(memory_efficient=True)
    guided = textbook.DenseNet(SMALL, (8, 8, 1), 5, activation=guided_relu)
    guided.set_weights(model.get_weights())
    guided.layers[-1].activation = keras.activations.linear
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(guided(x, training=False)[:, 3])
    expected = tape.gradient(score, x).numpy()
    assert relative_error(probes.guided_backpropagation(model, images, 3), expected) < 1e-3


ACTIVATIONS = {
    "relu": keras.layers.Activation("relu"),
    "ReLU": keras.layers.ReLU(),
    "bounded": keras.layers.ReLU(6.0),
    "function": keras.ops.relu,
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_form_of_relu_is_guided(kind):
    """y = Σ w relu(x): where w and x are positive (and x below a bound), the gradient is w."""
    inputs = keras.Input((1, 4, 1))
    x = keras.layers.Flatten()(ACTIVATIONS[kind](inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.layers[-1].set_weights([np.array([[1.0], [2.0], [-3.0], [4.0]]), np.zeros(1)])
    image = np.array([1.0, -1.0, 1.0, 7.0]).reshape(1, 1, 4, 1)
    found = probes.guided_backpropagation(model, image).ravel()
    np.testing.assert_allclose(found, [1, 0, 0, 0 if kind == "bounded" else 4])


def score(model, images, classes):
    logits = keras.Model(model.input, model.output)
    return np.array(logits(images, training=False))[np.arange(len(images)), classes]


def test_integrated_gradients_add_up_to_the_change_of_the_score(images):
    """Between x' and x the slope g along the line has some variation V, so the midpoints err by
    at most V / (2 steps): in a piece, g is off its value in the middle by its variation there at
    most, over half of the piece on either side. V is taken from 16 points a piece.
    """
    model, steps = small_network(classifier_activation=None), 128
    classes, baseline = np.array([1, 2, 3]), images[::-1] / 2
    found = probes.integrated_gradients(model, images, classes, baseline, steps).sum((1, 2, 3))
    change = score(model, images, classes) - score(model, baseline, classes)

    line = tf.linspace(0.0, 1.0, 16 * steps + 1)
    for image, start, label, total, right in zip(
        images, baseline, classes, found, change, strict=True
    ):
        with tf.GradientTape() as tape:
            tape.watch(line)
            points = start + line[:, None, None, None] * (image - start)
            reached = model(points, training=False)[:, label]
        slopes = tape.gradient(reached, line).numpy()
        variation = np.abs(np.diff(slopes)).sum()
        rounding = 1e-4 * np.abs(slopes).max()
        assert abs(total - right) < variation / (2 * steps) + rounding
        assert variation / (2 * steps) < 0.5 * np.abs(slopes).max()  # a band that says something


def test_integrated_gradients_of_a_linear_score_are_weight_times_change(images):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    kernel = model.layers[-1].get_weights()[0].reshape(8, 8, 1, 3)
    baseline = np.full((8, 8, 1), 0.5)
    found = probes.integrated_gradients(model, images, 2, baseline, steps=1)
    np.testing.assert_allclose(found, (images - 0.5) * kernel[..., 2], rtol=1e-4, atol=1e-6)


def test_integrated_gradients_run_no_more_points_at_once_than_asked(images):
    sizes = []

    class Watched(keras.layers.Layer):
        def call(self, x):
            tf.numpy_function(lambda count: sizes.append(int(count)), [tf.shape(x)[0]], [])
            return x

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(Watched()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    expected = probes.integrated_gradients(model, images, 1, steps=7, batch_size=100)
    assert 21 in sizes
    sizes.clear()
    found = probes.integrated_gradients(model, images, 1, steps=7, batch_size=4)
    assert max(sizes) == 4
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def nested(small):
    """The small network's function, its trunk in a model in a model, the softmax apart."""
    trunk = keras.Model(small.input, small.layers[-3].output, name="trunk")
    inputs = keras.Input((8, 8, 1))
    inner = keras.Model(inputs, trunk(inputs))
    dense = keras.layers.Dense(5)
    head = [keras.layers.GlobalAveragePooling2D(), dense, keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.Sequential(head)])
    dense.set_weights(small.layers[-1].get_weights())
    return model


@explained
def test_a_model_inside_another_is_explained_as_it_is_alone(explain, small, nested, images):
    expected = explain(small, images, 1)
    assert relative_error(explain(nested, images, 1), expected) < 1e-5


def test_grad_cam_finds_a_layer_in_a_model_inside_another(small, nested, images):
    expected = probes.grad_cam(small, images, 1, "block1")
    for model in (small, nested):
        found = probes.grad_cam(model, images, 1, "small_block1")
        assert relative_error(found, expected) < 1e-5


def test_the_predicted_class_is_explained_and_batches_change_nothing(small, images):
    expected = probes.grad_cam(small, images, np.argmax(small(images), -1))
    assert relative_error(probes.grad_cam(small, images, batch_size=2), expected) < 1e-5


@explained
def test_what_is_explained_is_the_score_before_the_softmax(explain, small, images):
    """With 50 more for a class its probability is 1, and the gradient of that would be 0."""
    classifier = keras.layers.Dense(5, "softmax")
    model = keras.Model(small.input, classifier(small.layers[-2].output))
    kernel, bias = small.layers[-1].get_weights()
    classifier.set_weights([kernel, bias + 50 * np.eye(5)[2]])
    assert relative_error(explain(model, images, 2), explain(small, images, 2)) < 1e-5


def test_nothing_of_the_model_changes(images):
    model = small_network(dropout_rate=0.5)
    model.get_layer("densenet_block1").trainable = False
    before = model.get_weights(), [layer.trainable for layer in model._flatten_layers()]
    maps, *_ = (explain(model, images, 1) for explain in EXPLANATIONS)
    np.testing.assert_array_equal(probes.grad_cam(model, images, 1), maps)  # no dropout
    for old, new in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert [layer.trainable for layer in model._flatten_layers()] == before[1]


@explained
def test_a_network_in_mixed_precision_is_explained_in_float32(explain, small, images):
    """Roundings to 8 bits turn some ReLUs near 0, and their share with them: within a third."""
    with dtype_policy("mixed_bfloat16"):
        mixed = models.from_configuration(SMALL, input_shape=(8, 8, 1), classes=5)
    mixed.set_weights(small.get_weights())
    found = explain(mixed, images, 1)
    assert found.dtype == np.float32
    assert relative_error(found, explain(small, images, 1)) < 1 / 3


def test_without_global_pooling_grad_cam_takes_the_last_map(images):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, name="last")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    found = probes.grad_cam(model, images, 1)
    np.testing.assert_array_equal(found, probes.grad_cam(model, images, 1, "last"))
    assert found.shape == (3, 6, 6)


REFUSED = {
    "one image": ({"images": np.zeros((8, 8, 1))}, "images have shape (8, 8, 1)"),
    "no image": ({"images": np.zeros((0, 8, 8, 1))}, "images have shape (0, 8, 8, 1)"),
    "unknown class": ({"classes": 5}, "classes=5: must be an integer from 0 to 4"),
    "too few classes": ({"classes": [1, 2]}, "or 3 of them"),
    "half a class": ({"classes": 0.5}, "classes=0.5"),
    "no batch": ({"batch_size": 0}, "batch_size=0"),
}


@explained
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(explain, case, small, images):
    arguments, words = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        explain(small, **{"images": images, **arguments})


def test_feature_maps_are_no_classifier(images):
    trunk = models.from_configuration(SMALL, include_top=False, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"outputs of shape \(3, 4, 4, 10\)"):
        probes.guided_backpropagation(trunk, images)


@pytest.mark.parametrize("layer", ["block9", "pool"])
def test_a_layer_without_a_feature_map_is_refused_with_those_that_have_one(layer, small, images):
    with pytest.raises(ValueError, match=f"layer='{layer}': 'small' has 0 .*small_final_relu"):
        probes.grad_cam(small, images, layer=layer)


def test_a_name_of_two_layers_is_refused(images):
    parts = [
        models.from_configuration(SMALL, include_top=False, input_shape=(8, 8, 1), name=name)
        for name in ("first", "second")
    ]
    inputs = keras.Input((8, 8, 1))
    pooled = [keras.layers.GlobalAveragePooling2D()(part(inputs)) for part in parts]
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(pooled)))
    with pytest.raises(ValueError, match="has 2 layers"):
        probes.grad_cam(model, images, layer="block1")


def test_grad_cam_refuses_a_model_that_is_code(images):
    class Own(keras.Model):
        def call(self, x):
            return keras.ops.mean(x, (1, 2))

    with pytest.raises(ValueError, match="is a Own, a subclass with its own call"):
        probes.grad_cam(Own(), images)


def test_a_network_without_relu_is_not_guided(images):
    with pytest.raises(ValueError, match="runs no ReLU"):
        probes.guided_backpropagation(
            models.from_configuration(SMALL, input_shape=(8, 8, 1), activation="softplus"), images
        )


def test_a_score_that_does_not_depend_on_the_images_is_refused(images):
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match="no gradient in"):
        probes.integrated_gradients(model, 100 + 10 * images)


@pytest.mark.parametrize("baseline", [np.zeros((8, 8)), np.zeros((2, 8, 8, 1))])
def test_a_baseline_of_another_shape_is_refused(baseline, small, images):
    with pytest.raises(ValueError, match="baseline has shape"):
        probes.integrated_gradients(small, images, 0, baseline)


@pytest.mark.parametrize("name", NAMES)
def test_another_backend_is_refused(name, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=f"{name} needs TensorFlow as Keras's backend, not jax"):
        getattr(probes, name)(None, None)
