"""What users put around a network, in loops of their own: trains as the textbook's does."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import relative_error

from densenet_nb import finetuning, models, textbook
from densenet_nb.configurations import Configuration
from densenet_nb.optimizer import NesterovSGD

NETWORK = Configuration((1, 1), 4, 8, bottleneck=False, imagenet_stem=False)


def pair():
    """Return our network and the textbook's, with equal weights."""
    keras.utils.set_random_seed(0)
    ours = models.from_configuration(NETWORK, input_shape=(8, 8, 1), classes=3)
    theirs = textbook.DenseNet(NETWORK, (8, 8, 1), 3)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def images(count=20):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    return (rng.normal(size=(count, 8, 8, 1)) + labels[:, None, None, None]).astype(
        "float32"
    ), labels


class OwnStep(keras.Model):
    """A train_step of one's own: images are mixed with those of the batch in reverse."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            answers = self(0.7 * x + 0.3 * x[::-1], training=True)
            loss = 0.7 * self.compute_loss(y=y, y_pred=answers)
            loss += 0.3 * self.compute_loss(y=y[::-1], y_pred=answers)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def own_step(model):
    return OwnStep(model.inputs, model.outputs)


def short_last_batch(x, y):
    """Twenty images in eights: the last batch has four."""
    return (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),)


SGD = {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}

CASES = {
    "class weights": {"fit": {"class_weight": {0: 1.0, 1: 5.0, 2: 0.1}}},
    "sample weights": {"fit": {"sample_weight": np.linspace(0, 2, 20)}},
    "a short last batch": {"data": short_last_batch},
    "gradient accumulation": {"optimizer": {"gradient_accumulation_steps": 2}},
    "averaged weights": {"optimizer": {"use_ema": True, "ema_momentum": 0.5}},
    "a step of one's own": {"wrap": own_step},
    "clipped gradients": {"optimizer": {"global_clipnorm": 0.1}},
}


def trained(model, case, optimizer):
    """Return a model's weights after three epochs of `fit`."""
    model = CASES[case].get("wrap", lambda model: model)(model)
    optimizer = optimizer(**CASES[case].get("optimizer", {}))
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    data = CASES[case].get("data", lambda *data: data)(*images())
    options = {"epochs": 3, "shuffle": False, "verbose": 0} | CASES[case].get("fit", {})
    if len(data) == 2:
        options["batch_size"] = 5
    model.fit(*data, **options)
    return model.get_weights()


@pytest.mark.parametrize("case", CASES)
def test_trains_as_the_textbook_does(case):
    ours, theirs = pair()
    before = ours.get_weights()
    after = trained(ours, case, lambda **options: keras.optimizers.SGD(**SGD, **options))
    expected = trained(theirs, case, lambda **options: keras.optimizers.SGD(**SGD, **options))
    assert relative_error(after, expected) < 1e-4
    assert relative_error(after, before) > 1e-2


@pytest.mark.parametrize("case", ["averaged weights"])
def test_trains_with_the_authors_rule_as_with_keras_s_and_a_penalty(case):
    """At a constant rate the rules are one: L2 of half the decay, on every variable."""
    (ours, _), decay = pair(), 1e-2

    class Penalized(keras.optimizers.SGD):
        """Keras's SGD with the decay in the gradient."""

        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient + decay * variable, variable, learning_rate)

    own = trained(
        pair()[0], case, lambda **options: NesterovSGD(0.05, weight_decay=decay, **options)
    )
    expected = trained(ours, case, lambda **options: Penalized(**SGD, **options))
    assert relative_error(own, expected) < 1e-4


@pytest.fixture(scope="module")
def densenet121():
    return models.DenseNet121(
        input_shape=(32, 32, 3), kernel_regularizer=keras.regularizers.L2(5e-5)
    )


def test_a_penalty_is_on_all_121_kernels(densenet121):
    """(Of 120 convolutions and the classifier; that it survives copies: test_users.py.)"""
    kernels = [w for w in densenet121.trainable_variables if w.name == "kernel"]
    assert len(kernels) == len(densenet121.losses) == 121
    assert len(finetuning.convolutions(densenet121)) == 120
    expected = 5e-5 * sum(np.sum(np.square(kernel.numpy(), dtype="float64")) for kernel in kernels)
    assert float(sum(densenet121.losses)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "share"),
    [
        (lambda: keras.optimizers.SGD(0.1, weight_decay=0.01), 0.001),
        (lambda: keras.optimizers.AdamW(0.1, weight_decay=0.01), 0.001),
        (lambda: NesterovSGD(0.1, 0.9, 0.01), 0.0019),
    ],
    ids=["SGD", "AdamW", "NesterovSGD"],
)
def test_weight_decay_of_an_optimizer_reaches_all_121_kernels(optimizer, share, densenet121):
    """Without a gradient, a step takes off a share of each: rate λ, or rate λ (1 + μ)."""
    variables = densenet121.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer().apply([tf.zeros_like(variable.value) for variable in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        np.testing.assert_allclose(variable.numpy(), (1 - share) * old, rtol=1e-5, atol=1e-9)
        variable.assign(old)


def test_frozen_parts_do_not_decay():
    ours, _ = pair()
    finetuning.freeze_up_to(ours, "block1")
    before = [weight.numpy() for weight in ours.weights]
    ours.compile(NesterovSGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    ours.train_on_batch(*images())
    block = {id(w) for layer in ours.layers[: 1 + [x.name for x in ours.layers].index(
        "densenet_block1")] for w in layer.weights}  # fmt: skip
    for weight, old in zip(ours.weights, before, strict=True):
        assert np.array_equal(weight.numpy(), old) == (id(weight) in block), weight.path
