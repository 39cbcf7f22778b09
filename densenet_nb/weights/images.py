"""The images that ImageNet's weights expect, Keras's and Torch's alike."""

from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, of pixels between 0 and 1."""


def preprocess(images: Any) -> Any:
    """Turn pixels into what ImageNet weights expect, those of Torch too.

    Pixels are divided by 255, then each channel is standardized by ImageNet's mean and standard
    deviation: ``keras.applications.densenet.preprocess_input``, and torchvision's ``ToTensor`` and
    ``Normalize``.

    Parameters
    ----------
    images : array or tensor
        (batch, height, width, 3) or (height, width, 3), red, green and blue, 0 to 255, of any
        dtype. A tensor of a ``tf.data`` pipeline and a symbolic tensor of a Keras model will do: in
        a model, this is one stock layer.

    Returns
    -------
    array or tensor
        Of the same shape, float32; a NumPy array for a NumPy array.

    Raises
    ------
    ValueError
        Other channels than three, or values that are no pixels: negative, above 255, or, as
        floats, none above 1: these seem to be scaled already. (In a pipeline
        ``tf.errors.InvalidArgumentError`` says so when an image comes; in a Keras model values are
        not looked at.)
    """
    shape = np.shape(images) if isinstance(images, (list, tuple)) else tuple(images.shape)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(
            f"images of shape {shape}: must be (batch, height, width, 3) or (height, width, 3), in "
            "red, green and blue; repeat a single channel three times."
        )
    rescale = keras.layers.Rescaling(
        [1 / (255 * std) for std in IMAGENET_STD],
        [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
        dtype="float32",
    )
    if keras.backend.is_keras_tensor(images):
        return rescale(images)
    if hasattr(images, "graph"):
        return rescale(_pixels_in_graph(images))
    try:
        values = np.asarray(images)
    except TypeError:  # while JAX traces: not known yet
        return rescale(images)
    _require_pixels(values)
    rescaled = rescale(values)
    array = isinstance(images, (np.ndarray, list, tuple))
    return keras.ops.convert_to_numpy(rescaled) if array else rescaled


NO_PIXELS = "must be pixels from 0 to 255, and not scaled before"


def _require_pixels(images: np.ndarray) -> None:
    """Raise a ValueError unless the values may be pixels."""
    if not images.size:
        return
    low, high = images.min(), images.max()
    scaled = np.issubdtype(images.dtype, np.floating) and 0 < high <= 1
    if scaled or not (low >= 0 and high <= 255):  # NaN is refused too
        raise ValueError(f"images: {NO_PIXELS}; these lie between {low} and {high}.")


def _pixels_in_graph(images: Any) -> Any:
    """Return the tensor of a TensorFlow graph, which checks its values when they come."""
    if not images.dtype.is_floating:
        return images
    import tensorflow as tf

    low, high = tf.reduce_min(images), tf.reduce_max(images)
    pixels = (low >= 0) & (high <= 255) & ((high > 1) | (high <= 0))
    check = tf.debugging.Assert(
        pixels | (tf.size(images) == 0), [f"images: {NO_PIXELS}", low, high]
    )
    with tf.control_dependencies([check]):
        return tf.identity(images)
