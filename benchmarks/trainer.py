"""Training a small network many times: built and traced once, with fresh weights for each seed."""

from collections.abc import Iterator
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import tensorflow as tf


def redraw(model: keras.Model, seed: int) -> None:
    """Give every kernel fresh initial values; what else there is to initialize is constant."""
    keras.utils.set_random_seed(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            initializer = layer.kernel_initializer.clone()  # the old one repeats its values
            layer.kernel.assign(initializer(layer.kernel.shape, layer.kernel.dtype))


def batches(indices: np.ndarray, steps: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of every step, (steps, size), shuffled anew in each epoch."""
    epochs = -(-steps * size // len(indices))
    order = np.concatenate([rng.permutation(indices) for _ in range(epochs)])
    return order[: steps * size].reshape(steps, size)


def rates(rate: float, steps: int) -> Iterator[float]:
    """Yield the learning rate of every step: divided by 10 at 50% and 75% (section 4.2)."""
    for index in range(steps):
        passed = (index >= steps // 2) + (index >= steps * 3 // 4)
        yield rate / 10**passed


class Trainer:
    """A network, traced once, that any number of runs start afresh.

    Parameters
    ----------
    model : keras.Model
        As it is just after it was built; outputs probabilities, (batch, classes).
    nesterov_momentum, weight_decay : float
        Of the optimizer. The decay is of every variable, as in the authors' code.
    """

    def __init__(self, model: keras.Model, nesterov_momentum: float, weight_decay: float) -> None:
        self.model, self.weight_decay = model, weight_decay
        self.built = model.get_weights()
        self.optimizer = keras.optimizers.SGD(momentum=nesterov_momentum, nesterov=True)
        self.optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=False)
    def step(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        """Update the weights on one batch."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            probabilities = self.model(images, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, variables)
        decay = self.weight_decay
        self.optimizer.apply(
            [g + decay * v for g, v in zip(gradients, variables, strict=True)], variables
        )

    def fresh(self, seed: int) -> None:
        """Forget all training and draw the kernels of `seed`."""
        self.model.set_weights(self.built)
        redraw(self.model, seed)
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def run(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        rate: float,
        seed: int,
    ) -> None:
        """Train from fresh weights, on the examples that `order`, (steps, batch), names."""
        self.fresh(seed)
        for batch, now in zip(order, rates(rate, len(order)), strict=True):
            self.optimizer.learning_rate.assign(now)
            self.step(tf.constant(images[batch]), tf.constant(labels[batch]))

    def score(self, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Count the images that are named rightly; the mean cross-entropy is in nats."""
        probabilities = self.model.predict(images, batch_size=500, verbose=0)
        losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        return {
            "correct": int(np.sum(probabilities.argmax(axis=-1) == labels)),
            "cross_entropy": round(float(np.mean(losses)), 4),
        }
