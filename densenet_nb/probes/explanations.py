"""Which pixels a classifier's answer hangs on: Grad-CAM, integrated gradients, guided backprop.

Each takes any Keras classifier of images, a network of ours or another, with a model inside another
too, and returns arrays; ``plots.overlay`` draws them. The model runs in inference mode, and nothing
of it changes: neither weights nor moving averages nor what is frozen.

What is explained is the score of a class *before* a last softmax or sigmoid. A probability says
little: where it is near 1 its gradient vanishes, and it rises when the scores of others fall.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
from keras.src.models.functional import operation_fn  # how a model tells its layers their mode

from densenet_nb.checks import (
    require_channels_last,
    require_positive_integer,
    require_tensorflow,
)
from densenet_nb.inference import is_graph, through_graph

if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    import tensorflow as tf

__all__ = ["grad_cam", "guided_backpropagation", "integrated_gradients"]

GLOBAL_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)

ENDS = ("Softmax", "Sigmoid")
"""TensorFlow's operations that make probabilities of scores, which are their input."""

RELUS = ("Relu", "Relu6")
"""TensorFlow's operations, whichever layer or function of Keras runs them."""


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    classes: int | np.ndarray | None = None,
    layer: str | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Map where a feature map speaks for a class: Grad-CAM (arXiv 1610.02391, equations 1 and 2).

    Each channel A_k counts as much as the score y rises with it on average over the pixels,
    α_k = mean of ∂y/∂A_k; the map is ReLU(Σ α_k A_k). With one dense layer on average pooling it
    is Zhou et al.'s class activation map (arXiv 1512.04150) without its negative part, over the
    number of pixels.

    Parameters
    ----------
    model : keras.Model
        Functional or sequential classifier of images, (batch, classes), other models inside it or
        not.
    images : ndarray
        (batch, height, width, channels), as the model takes them.
    classes : int or ndarray of int, optional
        The class to explain, one for all images or (batch,); by default the predicted one.
    layer : str, optional
        Name of the layer whose output is the feature map, also of one in a model inside the model,
        with that model's name in front or without: ``"densenet121_block3"`` or ``"block3"``. By
        default what enters the last global pooling, or without one the last map of four axes.
    batch_size : int
        Images at a time.

    Returns
    -------
    ndarray of float32
        (batch, height, width) of the feature map; 0 and above.

    Raises
    ------
    ValueError
        Images, classes or layer do not fit the model; the message names the value and the rule.
    RuntimeError
        Keras runs on another backend than TensorFlow.
    """
    images, classes = _require_explainable("grad_cam", model, images, classes, batch_size)
    if not is_graph(model):
        raise ValueError(
            f"model {model.name!r} is a {type(model).__name__}, a subclass with its own call: no "
            "layer can be found in its code. Build it as keras.Model(inputs, outputs)."
        )

    def maps(images: "tf.Tensor", classes: "tf.Tensor") -> "tf.Tensor":
        features, outputs = _feature_map(model, images, layer)  # (batch, height, width, m)
        slopes = _slopes(outputs, classes, features)
        slopes, features = (tf.cast(each, tf.float32) for each in (slopes, features))
        weights = tf.reduce_mean(slopes, [1, 2], keepdims=True)  # (batch, 1, 1, m)
        return tf.nn.relu(tf.reduce_sum(weights * features, -1))

    return _in_batches(maps, images, classes, batch_size)


def integrated_gradients(
    model: keras.Model,
    images: np.ndarray,
    classes: int | np.ndarray | None = None,
    baseline: float | np.ndarray = 0.0,
    steps: int = 64,
    batch_size: int = 32,
) -> np.ndarray:
    """Share a score among pixels: integrated gradients (arXiv 1703.01365, equations 1 and 3).

    The gradient is averaged along the straight line from the baseline x' to the image x, and
    multiplied by x − x'. All attributions of an image add up to f(x) − f(x') (completeness), but
    for the error of the sum that stands for the integral: it is taken in the middle of `steps`
    equal pieces. If the difference is large, take more steps.

    Parameters
    ----------
    model, images, classes
        As in :func:`grad_cam`; the model may be of any kind. The class predicted for an image is
        that of all points on its line.
    baseline : float or ndarray
        An image that says nothing, as the model takes it: a number, (height, width, channels) or
        (batch, height, width, channels). 0 is black only where the model's images begin at 0.
    steps : int
        Points on the line.
    batch_size : int
        Points at a time: memory does not grow with `steps`.

    Returns
    -------
    ndarray of float32
        Attributions, of the shape of `images`.

    Raises
    ------
    ValueError, RuntimeError
        As in :func:`grad_cam`, and if the baseline's shape does not fit.
    """
    images, classes = _require_explainable(
        "integrated_gradients", model, images, classes, batch_size
    )
    require_positive_integer("steps", steps)
    difference = images - _require_baseline(baseline, images.shape)
    places = (np.arange(steps, dtype="float32") + 0.5) / steps
    gradients = _compiled(_image_slopes(model), images)
    total = np.zeros_like(images)
    image = np.repeat(np.arange(len(images)), steps)
    back = np.tile(1 - places, len(images))[:, None, None, None]  # share of the way from the image
    for start in range(0, len(image), batch_size):
        which = image[start : start + batch_size]
        points = images[which] - back[start : start + batch_size] * difference[which]
        np.add.at(total, which, gradients(points, classes[which]).numpy())
    return difference * total / steps


def guided_backpropagation(
    model: keras.Model,
    images: np.ndarray,
    classes: int | np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Send a score back to the pixels through what excites it only: guided backpropagation.

    It is the gradient of the score, but for every ReLU on the way, which passes a gradient on only
    where it is positive and the ReLU's output too (Springenberg et al., arXiv 1412.6806, section
    3.4). It draws edges finely and hardly depends on the class (arXiv 1810.03292), so it
    illustrates, and proves nothing.

    Parameters
    ----------
    model, images, classes, batch_size
        As in :func:`grad_cam`; the model may be of any kind. Guided is every ReLU that Keras runs,
        in whichever layer, also those with an upper bound; other activations pass their gradient
        on.

    Returns
    -------
    ndarray of float32
        Of the shape of `images`.

    Raises
    ------
    ValueError, RuntimeError
        As in :func:`grad_cam`, and if the model has no ReLU.
    """
    images, classes = _require_explainable(
        "guided_backpropagation", model, images, classes, batch_size
    )
    return _in_batches(_image_slopes(model, guided=True), images, classes, batch_size)


def _image_slopes(model: keras.Model, guided: bool = False) -> Callable:
    """Return what gives the slopes of the classes' scores in the images, to be traced."""

    def slopes(images: "tf.Tensor", classes: "tf.Tensor") -> "tf.Tensor":
        graph = tf.compat.v1.get_default_graph()
        with graph.gradient_override_map({relu: f"Guided{relu}" for relu in RELUS if guided}):
            outputs = model(images, training=False)
        if guided and not any(operation.type in RELUS for operation in graph.get_operations()):
            raise ValueError(
                f"model {model.name!r} runs no ReLU that could be guided; take the gradient as it "
                "is, or integrated_gradients."
            )
        return _slopes(outputs, classes, images)

    return slopes


def _slopes(outputs: "tf.Tensor", classes: "tf.Tensor", sources: "tf.Tensor") -> "tf.Tensor":
    """Return ∂score/∂sources: in inference mode no image's score reads another image."""
    end = outputs.op
    scores = end.inputs[0] if end.type in ENDS else outputs  # (batch, classes)
    [slopes] = tf.gradients(tf.gather(scores, classes, axis=-1, batch_dims=1), sources)
    if slopes is None:
        raise ValueError(
            f"the class's score has no gradient in {sources.name!r} ({sources.dtype.name}): the "
            "output must depend on it, by operations on floating-point numbers."
        )
    return slopes


def _guided(gradient: Callable) -> Callable:
    """Return the gradient of a kind of ReLU that stops what would lower the score."""

    def guided(operation: "tf.Operation", upstream: "tf.Tensor") -> "tf.Tensor":
        return gradient(gradients=tf.nn.relu(upstream), features=operation.outputs[0])

    return guided


if keras.backend.backend() == "tensorflow":
    for relu in RELUS:
        tf.RegisterGradient(f"Guided{relu}")(_guided(getattr(tf.raw_ops, f"{relu}Grad")))


def _feature_map(
    model: keras.Model, images: "tf.Tensor", layer: str | None
) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Return the feature map of `layer`, or that of the last global pooling, and the outputs."""
    pooled, last, named, names = [], [], [], []

    def called(owner: keras.Model, operation: Any, inputs: Any, outputs: Any) -> None:
        if isinstance(operation, GLOBAL_POOLING):
            pooled.append(inputs)
        if len(getattr(outputs, "shape", ())) == 4:
            last.append(outputs)
            names.append(operation.name)
            if layer in (operation.name, operation.name.removeprefix(f"{owner.name}_")):
                named.append(outputs)

    outputs = _run(model, images, called)
    found = (pooled or last)[-1:] if layer is None else named
    if len(found) != 1:
        raise ValueError(
            f"layer={layer!r}: {model.name!r} has {len(found)} layers of this name with a feature "
            f"map, (batch, height, width, channels); there must be one. It has {names}."
        )
    return found[0], outputs


def _run(model: keras.Model, x: "tf.Tensor", called: Callable) -> "tf.Tensor":
    """Run a model in inference mode, and tell `called` of each layer, in models inside it too."""

    def telling(operation: Any) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            if is_graph(operation):
                outputs = _run(operation, args[0], called)
            else:
                outputs = operation_fn(operation, training=False)(*args, **kwargs)
            called(model, operation, *args[:1], outputs)
            return outputs

        return run

    return keras.tree.flatten(through_graph(model, x, telling))[0]


def _compiled(function: Callable, images: np.ndarray) -> Callable:
    """Trace a function of images and classes for batches of any size."""
    shape = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    return tf.function(function, autograph=False).get_concrete_function(
        shape, tf.TensorSpec((None,), tf.int32)
    )


def _in_batches(
    function: Callable, images: np.ndarray, classes: np.ndarray, batch_size: int
) -> np.ndarray:
    compiled = _compiled(function, images)
    batches = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    return np.concatenate(
        [compiled(tf.constant(images[b]), tf.constant(classes[b])).numpy() for b in batches]
    )


def _require_explainable(
    name: str, model: keras.Model, images: Any, classes: Any, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return images in float32 and a class for each, or raise an error; see :func:`grad_cam`."""
    require_tensorflow(name)
    require_channels_last()
    require_positive_integer("batch_size", batch_size)
    images = np.asarray(images, "float32")
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f"images have shape {images.shape}: must be (batch, height, width, channels), a single "
            "image with images[np.newaxis]."
        )
    asked = images if classes is None else images[:1]
    starts = range(0, len(asked), batch_size)
    outputs = [model(asked[start : start + batch_size], training=False) for start in starts]
    if len(outputs[0].shape) != 2:
        raise ValueError(
            f"model {model.name!r} has outputs of shape {tuple(outputs[0].shape)}: must be a "
            "classifier, (batch, classes); end it in global pooling and a Dense layer."
        )
    count = outputs[0].shape[-1]
    if classes is None:
        return images, np.concatenate([np.argmax(each, -1) for each in outputs]).astype("int32")
    given = np.asarray(classes)
    if given.shape not in ((), (len(images),)) or not np.isin(given, np.arange(count)).all():
        raise ValueError(
            f"classes={classes!r}: must be an integer from 0 to {count - 1}, or {len(images)} of "
            "them, one for each image."
        )
    return images, np.broadcast_to(given, len(images)).astype("int32")


def _require_baseline(baseline: Any, shape: tuple[int, ...]) -> np.ndarray:
    baseline = np.asarray(baseline, "float32")
    if baseline.shape not in ((), shape[1:], shape):
        raise ValueError(
            f"baseline has shape {baseline.shape}: must be a number, an image {shape[1:]}, or one "
            f"for each image, {shape}."
        )
    return baseline
