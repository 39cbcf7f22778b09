"""What happens inside a network: measured in one training step, nothing is changed."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import tensorflow as tf

__all__ = ["gradient_norms"]


def gradient_norms(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure ‖∂loss/∂W‖ and ‖W‖ of each convolution, in order from the input, in training mode.

    Their product is how much the loss changes for a relative change of W, to first order. It stays
    the same if W is scaled and the next layer undoes it (batch normalization, or a ReLU layer with
    the inverse scale), so it compares layers whatever the scale that they were initialized with.

    Parameters
    ----------
    model : keras.Model
        Classifier of images with softmax output, (batch, classes). It is run as in a training
        step, so batch normalization updates its moving statistics; the weights stay.
    images : ndarray
        (batch, height, width, channels).
    labels : ndarray of int
        (batch,), the classes; the loss is the mean cross entropy.

    Returns
    -------
    gradients, weights : ndarray of float
        (convolutions,) each; Euclidean norms.
    """
    kernels = [
        layer.kernel.value for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
        loss = keras.ops.mean(losses)
    gradients = tape.gradient(loss, kernels)
    norm = np.linalg.norm
    return np.array([norm(g) for g in gradients]), np.array([norm(w) for w in kernels])
