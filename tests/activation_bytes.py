"""Count the bytes that a training step keeps for its backward pass, on the traced graph."""

import keras
import tensorflow as tf

VIEWS = {"Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient"}
"""Operations that return their first input's values, unchanged and in their order."""

SHAPE_READERS = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
"""Operations that read the shape of their inputs only."""


def activation_bytes(model: keras.Model, image_shape: tuple[int, int, int], batch_size: int) -> int:
    """Count the bytes of forward tensors that the gradients of the weights read.

    A view is the tensor that it shows, and each tensor counts once. Only tensors that grow with
    the batch count: those of two axes and more, the first as long as the batch.
    """
    return sum(size(tensor) for tensor in kept_tensors(model, image_shape, batch_size))


def kept_tensors(
    model: keras.Model, image_shape: tuple[int, int, int], batch_size: int
) -> list[tf.Tensor]:
    """Trace a training step at a fixed batch size and find what its gradients read of it."""
    assert batch_size > 1, "a first axis of 1 does not tell a batch"
    forward = set()

    def step(images, labels):
        outputs = model(images, training=True)
        if len(outputs.shape) == 2:
            outputs = keras.losses.sparse_categorical_crossentropy(labels, outputs)
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
        for tensor in map(seen_through, operation.inputs):
            if tensor.op.name in forward and grows(tensor, batch_size):
                kept[tensor.name] = tensor
    return list(kept.values())


def seen_through(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type in VIEWS:
        tensor = tensor.op.inputs[0]
    return tensor


def grows(tensor: tf.Tensor, batch_size: int) -> bool:
    return (
        tensor.op.type not in ("Const", "ReadVariableOp")
        and tensor.shape.rank is not None
        and tensor.shape.rank >= 2
        and tensor.shape[0] == batch_size
    )


def size(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size
