"""What happens inside a network, measured in one training step that leaves its weights alone."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

__all__ = ["gradient_norms"]


def gradient_norms(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure ‖∂loss/∂W‖ and ‖W‖ of each convolution, in order from the input, in training mode.

    Convolutions inside other layers and models are among them. The order is that of
    ``model.weights``: from the input on, if layers with parts make them in the order of use.

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

    Raises
    ------
    RuntimeError
        Keras runs on another backend than TensorFlow, whose gradient tape measures here.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"gradient_norms needs TensorFlow as Keras's backend, not {keras.backend.backend()}: "
            "set KERAS_BACKEND=tensorflow before Keras is imported."
        )
    import tensorflow as tf

    kernels = [w.value for w in model.weights if w.name == "kernel" and len(w.shape) == 4]
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
        loss = keras.ops.mean(losses)
    gradients = tape.gradient(loss, kernels)
    norm = np.linalg.norm
    return np.array([norm(g) for g in gradients]), np.array([norm(w) for w in kernels])
