"""How well a network names images: top-1, top-5, confusion; of one crop, or of ten (Table 3)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from densenet_nb._startup import quietly

import keras
import numpy as np

from densenet_nb.checks import require_positive_integer
from densenet_nb.examples import Examples, center_crop, in_order

with quietly():
    import tensorflow as tf

__all__ = ["Evaluation", "evaluate", "network_size", "predictor", "ten_crops"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network made of labeled images.

    Attributes
    ----------
    top_1, top_5 : float
        Share of the images whose class is the most probable one, or among the five most probable.
    loss : float
        Mean cross-entropy in nats.
    confusion : np.ndarray
        int64 (classes, classes): images of each class (row) by what they were named (column).
    """

    top_1: float
    top_5: float
    loss: float
    confusion: np.ndarray


def evaluate(
    model: keras.Model, examples: Examples, *, ten_crop: bool = False, batch_size: int = 100
) -> Evaluation:
    """Name all examples and compare.

    Parameters
    ----------
    model : keras.Model
        Gives probabilities (batch, classes).
    examples : Examples
        A split, such as ``digits.test``. Images larger than what the network reads are cropped.
    ten_crop : bool
        False: the central crop. True: the mean over ten, as in Table 3 (see :func:`predictor`).
    batch_size : int
        Crops that go through the network together; at least 10 with ten of each image.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        The network reads larger images, or other channels or classes; or its outputs are not
        finite.
    """
    return summarize(*predictor(model, ten_crop=ten_crop, batch_size=batch_size)(examples))


def predictor(
    model: keras.Model, *, ten_crop: bool = False, batch_size: int = 100
) -> Callable[[Examples], tuple[np.ndarray, np.ndarray]]:
    """Return a function that gives a split's probabilities and labels; it is traced once.

    With ten crops the scores before the softmax are averaged, as in the code that the paper's
    authors used for Table 3 (facebookarchive/fb.resnet.torch, ``train.lua``); that is, the
    probabilities are multiplied.

    Parameters as for :func:`evaluate`. The function returns float32 (n, classes) and int64 (n,).
    """
    require_positive_integer("batch_size", batch_size)
    images_at_once = max(1, batch_size // 10) if ten_crop else batch_size

    def probabilities(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        if not ten_crop:
            return tf.cast(model(center_crop(images, size), training=False), tf.float32)
        crops = ten_crops(images, size)  # (b, 10, *size, channels)
        answers = model(tf.reshape(crops, [-1, *crops.shape[2:]]), training=False)
        logarithms = tf.math.log(tf.maximum(tf.cast(answers, tf.float32), np.finfo("f").tiny))
        logarithms = tf.reshape(logarithms, [-1, 10, answers.shape[-1]])
        return tf.nn.softmax(tf.reduce_mean(logarithms, axis=1))

    @functools.cache
    def traced(shape: tuple[int, int, int], size: tuple[int, int]) -> Callable:
        function = tf.function(lambda images: probabilities(images, size), autograph=False)
        return function.get_concrete_function(tf.TensorSpec((None, *shape), tf.float32))

    def predict(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        function = traced(examples.shape, network_size(model, examples))
        batches = [
            (function(images).numpy(), labels.numpy())
            for images, labels in in_order(examples, images_at_once)
        ]
        return tuple(map(np.concatenate, zip(*batches, strict=True)))

    return predict


def ten_crops(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Cut out center and corners, and those of the mirror image.

    Parameters
    ----------
    images : tf.Tensor
        (b, height, width, channels).
    size : pair of int
        Height and width of a crop.

    Returns
    -------
    tf.Tensor
        (b, 10, *size, channels): center, top left, top right, bottom left, bottom right; then
        those of the mirror image.
    """
    height, width = size
    crops = []
    for each in (images, images[:, :, ::-1]):
        top, bottom = each[:, :height], each[:, -height:]
        crops += [
            center_crop(each, size),
            top[:, :, :width],
            top[:, :, -width:],
            bottom[:, :, :width],
            bottom[:, :, -width:],
        ]
    return tf.stack(crops, axis=1)


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Return the evaluation of probabilities (n, classes) with labels (n,)."""
    if not np.isfinite(probabilities).all():
        raise ValueError("the network's outputs are not finite: its weights are NaN or too large")
    count, classes = probabilities.shape
    own = probabilities[np.arange(count), labels]
    rank = (probabilities > own[:, np.newaxis]).sum(axis=1)  # how many classes are before it
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return Evaluation(
        top_1=np.trace(confusion).item() / count,
        top_5=(rank < 5).mean().item(),
        loss=-np.log(np.maximum(own, np.finfo("f").tiny).astype(np.float64)).mean().item(),
        confusion=confusion,
    )


def network_size(model: keras.Model, examples: Examples) -> tuple[int, int]:
    """Return height and width of what the network reads of these images.

    Raises
    ------
    ValueError
        The network reads larger images, or other channels or classes.
    """
    *sides, channels = model.input_shape[1:]
    size = tuple(side or own for side, own in zip(sides, examples.shape[:2], strict=True))
    if channels != examples.shape[2] or any(
        side > own for side, own in zip(size, examples.shape[:2], strict=True)
    ):
        raise ValueError(
            f"{examples.name}: images of shape {examples.shape}, where {model.name!r} reads "
            f"{(*size, channels)}; build it with input_shape={examples.shape}."
        )
    classes = len(examples.classes)
    if model.output_shape != (None, classes):
        raise ValueError(
            f"{examples.name}: {classes} classes, where {model.name!r} has the output "
            f"{model.output_shape[1:]}; build it with classes={classes}."
        )
    return size
