"""Checks on JAX, where TensorFlow is not installed (test_processes.py runs them)."""

import sys

import densenet_nb._startup  # noqa: F401

import jax
import keras
import numpy as np
from equality import peers, plain_and_lean, relative_error, reset_seeds

from densenet_nb import models, textbook
from densenet_nb.configurations import Configuration
from densenet_nb.optimizer import NesterovSGD

IMAGES = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype("float32")
LABELS = np.arange(16) % 2
LOADED = "network.keras"


def fit(model):
    model.compile(keras.optimizers.SGD(0.05, 0.9), "sparse_categorical_crossentropy")
    model.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)


def check_the_backend_is_jax():
    assert keras.backend.backend() == "jax"


def check_the_same_weights_train_to_those_of_the_textbook():
    """And save and load."""
    keras.utils.set_random_seed(0)
    configuration = Configuration((1, 1), 4, 8, imagenet_stem=False)
    ours = models.from_configuration(configuration, input_shape=(8, 8, 1), classes=2)
    theirs = textbook.DenseNet(configuration, (8, 8, 1), 2)
    theirs.set_weights(ours.get_weights())
    before = ours.get_weights()
    for model in (ours, theirs):
        fit(model)
    for old, a, b in zip(before, ours.get_weights(), theirs.get_weights(), strict=True):
        assert relative_error(a, b) < 1e-4
        assert not np.array_equal(a, old)
    ours.save(LOADED)
    np.testing.assert_array_equal(keras.models.load_model(LOADED)(IMAGES), ours(IMAGES))


def check_weights_of_keras_applications_fit():
    ours, theirs = peers((1, 1, 1, 1), input_shape=(32, 32, 3))
    image = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
    assert relative_error(ours.predict(image, verbose=0), theirs.predict(image, verbose=0)) < 1e-5


def check_memory_efficient_trains_as_plain_does():
    """With dropout; without bottlenecks, which would take twice the time to compile."""
    networks = plain_and_lean((1, 1), bottleneck=False, dropout_rate=0.3)
    for network in networks:
        reset_seeds(network)
        fit(network)
    plain, lean = networks
    for ours, right in zip(lean.get_weights(), plain.get_weights(), strict=True):
        assert relative_error(ours, right) < 1e-4
    lean.save(LOADED)
    loaded = keras.saving.load_model(LOADED)
    np.testing.assert_array_equal(loaded(IMAGES), lean(IMAGES))
    assert loaded.get_layer("densenet_block1").memory_efficient


def temporary_bytes(memory_efficient):
    """What a compiled step holds besides weights and images, as JAX's compiler says."""
    model = models.DenseNet(
        (5,),
        12,
        bottleneck=False,
        imagenet_stem=False,
        input_shape=(32, 32, 3),
        classes=2,
        memory_efficient=memory_efficient,
    )
    state = [v.value for v in model.non_trainable_variables]

    def loss(weights, images):
        outputs, moved = model.stateless_call(weights, state, images, training=True)
        return outputs[:, 0].sum(), moved

    images = np.zeros((16, 32, 32, 3), "float32")
    weights = [v.value for v in model.trainable_variables]
    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(weights, images).compile()
    return step.memory_analysis().temp_size_in_bytes


def check_the_recomputation_is_not_merged_away():
    plain, lean = temporary_bytes(False), temporary_bytes(True)
    assert lean < 0.6 * plain, (lean, plain)


def check_nothing_imported_tensorflow():
    assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]


def check_the_optimizer_follows_its_rule():
    """One variable after the other here, under XLA."""
    weights, sgd = keras.Variable([1.0, 2.0]), NesterovSGD(0.1, 0.9, 0.1)
    x, v = np.array([1.0, 2.0]), 0.0
    for _ in range(2):
        sgd.apply([keras.ops.array([1.0, -1.0])], [weights])
        g = np.array([1.0, -1.0]) + 0.1 * x
        v = 0.9 * v + g
        x = x - 0.1 * (g + 0.9 * v)
    np.testing.assert_allclose(weights.numpy(), x, rtol=1e-6)
