"""What happens inside a network: measured in one training step, or counted on its graph.

Nothing here changes a weight.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.checks import require_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["ends_in_logits", "gradient_norms", "kept_bytes", "kept_tensors", "require_labels"]

VIEWS = {"Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient"}
"""Operations that return their first input's values, unchanged and in their order."""

SHAPE_READERS = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
"""Operations that read the shape of their inputs only."""


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
        Classifier of images, (batch, classes), that ends in a softmax or in logits. It is run as
        in a training step, so batch normalization updates its moving statistics; the weights stay.
        A frozen part of it that is memory-efficient keeps its maps meanwhile.
    images : ndarray
        (batch, height, width, channels).
    labels : ndarray
        The classes as integers, (batch,), or shares that sum to one, (batch, classes); the loss is
        the mean cross entropy.

    Returns
    -------
    gradients, weights : ndarray of float
        (convolutions,) each; Euclidean norms.

    Raises
    ------
    ValueError
        The model's output is no softmax and no logits, (batch, classes), or the labels do not fit
        it.
    RuntimeError
        Keras runs on another backend than TensorFlow, whose gradient tape measures here.
    """
    require_tensorflow("gradient_norms")
    import tensorflow as tf

    from_logits = ends_in_logits(model)
    labels = require_labels(labels, len(images), model.output_shape[-1])
    kernels = [kernel.value for kernel in _kernels(model)]
    with _frozen_parts_keep_all(model), tf.GradientTape() as tape:
        tape.watch(kernels)
        outputs = model(images, training=True)
        losses = keras.losses.categorical_crossentropy(labels, outputs, from_logits)
        loss = keras.ops.mean(losses)
    gradients = tape.gradient(loss, kernels)
    norm = np.linalg.norm
    return np.array([norm(g) for g in gradients]), np.array([norm(w) for w in kernels])


def kept_bytes(
    model: keras.Model, batch_size: int, image_shape: tuple[int, int, int] | None = None
) -> int:
    """Count the bytes that a training step keeps for its backward pass.

    Parameters and errors as in :func:`kept_tensors`, of which this is the size. In closed form:
    :func:`densenet_nb.cost.activation_bytes`.
    """
    tensors = kept_tensors(model, batch_size, image_shape)
    return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)


def kept_tensors(
    model: keras.Model, batch_size: int, image_shape: tuple[int, int, int] | None = None
) -> "list[tf.Tensor]":
    """Find what a training step keeps for its backward pass, on the step's graph.

    The step is traced, not run: these are the forward pass's tensors that the gradients of the
    weights read, whatever the memory that TensorFlow then takes. A view is the tensor that it
    shows, and each tensor counts once. Only tensors that grow with the batch count: those of two
    axes and more, the first as long as the batch.

    Parameters
    ----------
    model : keras.Model
        Takes images. The loss is the cross-entropy of a classifier's softmax or logits, (batch,
        classes), or the sum of feature maps.
    batch_size : int
        Images in the step; at least 2, since a first axis of 1 does not tell a batch.
    image_shape : tuple of int, optional
        (height, width, channels), for a model that leaves them open.

    Returns
    -------
    list of tf.Tensor
        Symbolic, of the traced graph; ``tensor.op.name`` says which layer made it.

    Raises
    ------
    ValueError
        The batch has a single image, a side of the image is unknown, or a classifier ends in
        another activation.
    RuntimeError
        Keras runs on another backend than TensorFlow.
    """
    require_tensorflow("kept_tensors")
    import tensorflow as tf

    image_shape = tuple(model.input_shape[1:] if image_shape is None else image_shape)
    if None in image_shape:
        raise ValueError(f"image_shape={image_shape!r}: the model leaves it open; give numbers.")
    if batch_size < 2:
        raise ValueError(f"batch_size={batch_size!r}: must be at least 2, to tell a batch's axis.")
    maps = len(getattr(model, "outputs", None) or []) == 1 and len(model.output_shape) > 2
    from_logits = None if maps else ends_in_logits(model)
    forward = set()

    def step(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        outputs = model(images, training=True)
        if not maps:
            outputs = keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits)
        loss = tf.reduce_sum(outputs)
        graph = tf.compat.v1.get_default_graph()
        forward.update(operation.name for operation in graph.get_operations())
        return tf.gradients(loss, [weight.value for weight in model.trainable_variables])

    graph = (
        tf.function(step)
        .get_concrete_function(
            tf.TensorSpec((batch_size, *image_shape), model.compute_dtype),
            tf.TensorSpec((batch_size,), tf.int32),
        )
        .graph
    )
    kept = {}
    for operation in graph.get_operations():
        if operation.name in forward or operation.type in SHAPE_READERS:
            continue
        for tensor in map(_seen_through, operation.inputs):
            if tensor.op.name in forward and _grows(tensor, batch_size):
                kept[tensor.name] = tensor
    return list(kept.values())


def ends_in_logits(model: keras.Model) -> bool:
    """Return whether a classifier ends in logits (True) or in a softmax (False), or refuse it."""
    outputs = getattr(model, "outputs", None) or []
    shapes = [output.shape for output in outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has outputs of shapes {shapes}: the "
            "loss is that of a functional or sequential classifier, with one (batch, classes)."
        )
    last = outputs[0]._keras_history.operation
    while isinstance(last, keras.Model):
        last = last.outputs[0]._keras_history.operation
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax:
        return False
    if activation is keras.activations.linear:
        return True
    raise ValueError(
        f"model {model.name!r} ends in {last.name!r} ({type(last).__name__}) with activation "
        f"{getattr(activation, '__name__', activation)!r}: the loss is the cross entropy of a "
        "softmax or of logits; end the model in a layer whose activation is softmax or linear."
    )


def _kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [w for w in layer.weights if w.name == "kernel" and len(w.shape) == 4]


def require_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    """Return `labels` as shares, (count, classes), or raise a ValueError if they are no labels."""
    labels = np.asarray(labels)
    if labels.shape == (count, classes):
        return labels.astype("float32")
    if labels.shape == (count,) and np.isin(labels, np.arange(classes)).all():
        return np.eye(classes, dtype="float32")[labels.astype(int)]
    raise ValueError(
        f"labels have shape {labels.shape}: must be ({count},) classes, integers from 0 to "
        f"{classes - 1}, or shares of them, ({count}, {classes})."
    )


@contextlib.contextmanager
def _frozen_parts_keep_all(model: keras.Model) -> Iterator[None]:
    """Let no frozen part of a model recompute: it would give its kernels no gradient."""
    parts = [
        part
        for part in model._flatten_layers()
        if getattr(part, "memory_efficient", False)
        and not all(kernel.trainable for kernel in _kernels(part))
    ]
    for part in parts:
        part.memory_efficient = False
    try:
        yield
    finally:
        for part in parts:
            part.memory_efficient = True


def _seen_through(tensor: "tf.Tensor") -> "tf.Tensor":
    """Return the tensor that a view shows."""
    while tensor.op.type in VIEWS or tensor.op.type == "IdentityN":
        # IdentityN ends a custom gradient's forward pass: its k-th output is its k-th input.
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _grows(tensor: "tf.Tensor", batch_size: int) -> bool:
    return (
        tensor.op.type not in ("Const", "ReadVariableOp")
        and tensor.shape.rank is not None
        and tensor.shape.rank >= 2
        and tensor.shape[0] == batch_size
    )
