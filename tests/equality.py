"""What two models must share to be the same function: outputs, gradients, moving statistics.

A program that must not import this package may import this module; so does one without TensorFlow.
"""

import contextlib
from typing import NamedTuple

import keras
import numpy as np
from keras.src.applications.densenet import DenseNet  # of any depth

with contextlib.suppress(ModuleNotFoundError):
    import tensorflow as tf


BLOCKS = (1, 2, 1, 1)
"""Dense layers that say of most things as much as those of DenseNet-121, in a tenth of the time."""


def peers(network=BLOCKS, **options):
    """Build a network of ours and keras.applications', of equal weights; the outputs are logits.

    `network` is the name of a constructor that both have, or the number of layers of each block.
    """
    from densenet_nb import models

    options = {"weights": None, "input_shape": (64, 64, 3), **options}
    if options.get("include_top", True):
        options["classifier_activation"] = None
    keras.utils.set_random_seed(0)
    stock = {name: value for name, value in options.items() if name != "activation"}
    if isinstance(network, str):
        ours, theirs = getattr(models, network), getattr(keras.applications, network)
        ours, theirs = ours(**options), theirs(**stock)
    else:
        ours, theirs = models.DenseNet(network, **options), DenseNet(network, **stock)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def plain_and_lean(blocks, bottleneck=True, policy="float32", seed=0, **options):
    """Build the plain and the memory-efficient network: weights, moving statistics, seeds alike.

    For images of 8 x 8 x 1. Softplus has no kink over which rounding could move a value; momentum
    ½ moves statistics far.
    """
    from densenet_nb import models
    from densenet_nb.configurations import Configuration

    options = {"activation": "softplus", "momentum": 0.5, **options}
    networks = []
    for memory_efficient in (False, True):
        keras.utils.set_random_seed(seed)
        with dtype_policy(policy):
            network = models.from_configuration(
                Configuration(blocks, 4, 8, bottleneck, imagenet_stem=False),
                input_shape=(8, 8, 1),
                classes=2,
                memory_efficient=memory_efficient,
                **options,
            )
        networks.append(network)
    plain, lean = networks
    lean.set_weights(plain.get_weights())
    return plain, lean


def seed_generators(model):
    """Those of the dropouts, in the order of the layers."""
    dropouts = (m for m in model._flatten_layers() if isinstance(m, keras.layers.Dropout))
    return [layer.seed_generator for layer in dropouts if layer.rate > 0]


def reset_seeds(model):
    """Models of one process share a counter of seeds; give both the same."""
    for index, generator in enumerate(seed_generators(model)):
        generator.state.assign(np.array([index, 0], "uint32"))


class Step(NamedTuple):
    """One forward and backward pass, as NumPy arrays."""

    outputs: np.ndarray
    gradients: list[np.ndarray]
    weights: list[np.ndarray]


def step(model, x, cotangent=None, training=True):
    """Run `model` on `x` and back; `weights` are those after the pass, statistics moved."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        outputs = model(x, training=training)
        if cotangent is None:
            cotangent = np.random.default_rng(7).normal(size=outputs.shape)
        loss = tf.reduce_sum(outputs * tf.cast(cotangent, outputs.dtype))
    gradients = tape.gradient(loss, model.trainable_variables)
    return Step(np.array(outputs), [np.array(g) for g in gradients], model.get_weights())


@contextlib.contextmanager
def dtype_policy(name):
    """Build with another dtype policy meanwhile."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def relative_error(actual, expected):
    """‖actual − expected‖ / ‖expected‖, both flattened; arrays or lists of arrays."""
    actual, expected = flat(actual), flat(expected)
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-12)


def flat(arrays):
    if isinstance(arrays, np.ndarray):
        arrays = [arrays]
    return np.concatenate([np.ravel(array).astype("float64") for array in arrays])


def computed_early(function, *sources):
    """Name what the backward pass makes of maps without waiting for the gradient it is given.

    In a graph that could run in the forward pass already, and be kept until then. Maps are told by
    their batch, that of the first source: no other first axis of four may be as long.
    """

    def of_maps(tensors):
        return any(t.shape.rank == 4 and t.shape[0] == sources[0].shape[0] for t in tensors)

    def back(upstream, *sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = function(*sources)
        forward.extend(operation.name for operation in outputs.graph.get_operations())
        return tape.gradient(outputs, sources, upstream)

    forward = []
    traced = tf.function(back).get_concrete_function(function(*sources), *sources)
    waiting, early = {traced.inputs[0].op.name}, []
    for operation in traced.graph.get_operations():  # each after those that it reads
        before = [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
        if any(other.name in waiting for other in before):
            waiting.add(operation.name)
        elif operation.name not in forward and of_maps(operation.inputs):
            early += [operation.name] if of_maps(operation.outputs) else []
    return early


def watch_blocks(monkeypatch, way):
    """Return a list to which each block adds its number of layers as it goes that way of training.

    `way` is the module of :mod:`densenet_nb.engine` whose ``dense_block`` it is.
    """
    asked, make = [], way.dense_block

    def spy(x, layers, **options):
        asked.append(len(layers))
        return make(x, layers, **options)

    monkeypatch.setattr(way, "dense_block", spy)
    return asked


def randomize(model, seed=3):
    """Give normalization weights that show in the result; γ = 1 or a mean of 0 hides faults.

    A spread of 1 in β keeps γ's gradients away from zero: later normalizations undo a mere scale,
    and what is nearly zero cannot be compared relative to itself. Moving averages are those of a
    batch, then off by up to 30%: with quite other ones a deep network's softmax is saturated, and
    says one class whatever comes in.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias"):
            variable.assign(rng.normal(size=variable.shape))
    norms = [n for n in model._flatten_layers() if isinstance(n, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    _, *sides, channels = model.input_shape
    model(rng.uniform(size=(8, *(side or 64 for side in sides), channels)), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for average in (norm.moving_mean, norm.moving_variance):
            average.assign(average * rng.uniform(0.7, 1.3, average.shape))


def with_softplus(model):
    """Replace every ReLU of a model of stock layers by softplus, which has no kink."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.softplus
    return model


def with_logits(model):
    """Take the softmax off, so that outputs are compared and not the exponentials of them."""
    model.layers[-1].activation = keras.activations.linear
    return model


def nodes_of(graph):
    """Return the nodes of a TensorFlow GraphDef, those of its functions too."""
    return [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
