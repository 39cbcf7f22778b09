"""What all backward passes written here need: not to run early, and not to be differentiated."""

from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

DIFFERENTIATED_AGAIN = (
    "densenet_nb's backward passes on TensorFlow can't be differentiated again, as second "
    "derivatives (gradient penalty, Hessian) ask, and as forward mode "
    "(tf.autodiff.ForwardAccumulator) does even for a first one. Build "
    "densenet_nb.textbook.DenseNet, the same function, and carry the weights over by set_weights."
)


def within_xla() -> bool:
    """Whether XLA compiles what runs now, and all around it; on JAX it always does."""
    if keras.backend.backend() != "tensorflow":
        return True
    # The test that TensorFlow's own control flow makes; there is no public one.
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def after(upstream: Any, x: Any) -> Any:
    """Return `x`, but not before `upstream` is there: to recompute early is to keep."""
    if not within_xla():
        with tf.control_dependencies([upstream]):
            return tf.identity(x)
    # XLA heeds no control dependency, and on a CPU no barrier, when it orders operations: it runs
    # them early and keeps all. A value that is read it must wait for.
    never = ops.sum(ops.reshape(upstream, (-1,))[:1]) > float("inf")
    return ops.where(never, ops.zeros((), x.dtype), x)


def differentiable_once(gradients: Any) -> Any:
    """Return `gradients`, a tensor or a structure of them, and refuse to differentiate them again.

    TensorFlow takes what a custom backward pass reads of its forward pass for constants, so second
    derivatives would be wrong without a word. JAX gets them right.
    """
    if keras.backend.backend() == "jax":
        return gradients
    return keras.tree.map_structure(
        lambda gradient: tf.raw_ops.PreventGradient(input=gradient, message=DIFFERENTIATED_AGAIN),
        gradients,
    )
