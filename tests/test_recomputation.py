"""``memory_efficient=True`` is the plain network: the same numbers, fewer of them kept.

On JAX and on two replicas: test_processes.py.
"""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import (
    computed_early,
    dtype_policy,
    plain_and_lean,
    randomize,
    relative_error,
    reset_seeds,
    seed_generators,
    step,
)
from test_layers import FREEZING

from densenet_nb import layers, models
from densenet_nb.configurations import cifar, imagenet

SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).uniform(size=(16, *SHAPE)).astype("float32")
LABELS = np.arange(16) % 2


def pair(blocks=(2, 1), **options):
    """The plain and the memory-efficient network, with statistics that show in the result."""
    plain, lean = plain_and_lean(blocks, **options)
    randomize(plain)
    lean.set_weights(plain.get_weights())
    return plain, lean


def seed_states(model):
    """Where each dropout stands in its random numbers, in the order of the layers."""
    return [generator.state.numpy() for generator in seed_generators(model)]


def forward_and_back(model):
    """Return a function of the images that gives the outputs, and the gradients of all sources."""
    weights = [variable.value for variable in model.trainable_variables]

    def run(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, "float64")[:, 0])
        return [outputs, *tape.gradient(loss, [images, *weights])]

    return run


def check_equal(plain, lean, tolerance=1e-5, wrap=lambda run: run, steps=1):
    """Compare outputs, gradients with respect to images and weights, and the weights after."""
    images = tf.cast(IMAGES, plain.compute_dtype)
    runs = [(model, wrap(forward_and_back(model))) for model in (lean, plain)]
    for _ in range(steps):
        actual, expected = (
            [tf.cast(v, "float64").numpy() for v in (*run(images), *model.weights)]
            for model, run in runs
        )
        assert len(actual) == 2 + len(plain.trainable_weights) + len(plain.weights)
        groups = (slice(1), slice(1, 2), slice(2, 2 + len(plain.trainable_weights)), slice(-1))
        for group in groups:
            if not expected[group]:  # a frozen network has no gradients of weights
                continue
            assert relative_error(actual[group], expected[group]) < tolerance
        for ours, right in zip(actual, expected, strict=True):
            assert relative_error(ours, right) < 100 * tolerance


SMALL = {"blocks": (1, 1), "bottleneck": False}
"""For XLA, which takes seconds to compile a layer."""

RUNS = {
    "eager": lambda run: run,
    "tf.function": tf.function,
    "XLA": tf.function(jit_compile=True),
}

# Softmax over logits of a dozen half-precision layers; float16 has 11 bits, bfloat16 8.
POLICIES = {"float32": 1e-5, "float64": 1e-12, "mixed_float16": 1e-2, "mixed_bfloat16": 8e-2}


@pytest.mark.parametrize(
    ("policy", "wrap"),
    [
        *((policy, wrap) for policy in POLICIES for wrap in ("eager", "tf.function")),
        *((policy, "XLA") for policy in ("float32", "mixed_bfloat16")),  # 10 s each
    ],
)
def test_equals_plain(policy, wrap):
    network = SMALL if wrap == "XLA" else {}
    check_equal(*pair(policy=policy, **network), POLICIES[policy], RUNS[wrap])


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_equals_plain_with_other_parts(bottleneck, activation):
    plain, lean = pair(bottleneck=bottleneck, activation=activation, policy="float64")
    check_equal(plain, lean, 1e-12)
    plain, lean = pair(bottleneck=bottleneck, activation=activation)
    # In float32 rounding may move a value over ReLU's kink.
    check_equal(plain, lean, 1e-5 if activation != "relu" else 1e-3)


def test_equals_plain_with_the_imagenet_stem():
    networks = []
    for memory_efficient in (False, True):
        networks.append(
            models.from_configuration(
                imagenet((2, 2), 4),
                input_shape=(37, 34, 3),
                classes=3,
                activation="softplus",
                memory_efficient=memory_efficient,
            )
        )
    plain, lean = networks
    randomize(plain)
    lean.set_weights(plain.get_weights())
    images = np.random.default_rng(1).uniform(size=(4, 37, 34, 3)).astype("float32")
    actual, expected = step(lean, images), step(plain, images)
    for ours, right in zip(actual, expected, strict=True):
        assert relative_error(ours, right) < 1e-5


def check_seeds_moved(start, plain, lean):
    """Once a step, not once more as the second run draws the same."""
    for before, after, expected in zip(start, seed_states(lean), seed_states(plain), strict=True):
        np.testing.assert_array_equal(after, expected)
        assert not np.array_equal(after, before)


@pytest.mark.parametrize(
    ("policy", "wrap"), [("float32", "eager"), ("float32", "tf.function"), ("float64", "eager")]
)
def test_dropout_masks_are_those_of_plain(policy, wrap):
    """The same values are dropped, in the recomputation too. (Compiled by XLA: in `fit`, below.)"""
    plain, lean = pair(dropout_rate=0.4, policy=policy)
    reset_seeds(plain), reset_seeds(lean)
    start = seed_states(plain)
    check_equal(plain, lean, POLICIES[policy], RUNS[wrap], steps=2)
    check_seeds_moved(start, plain, lean)


@pytest.mark.parametrize(
    ("dropout_rate", "compilation"),
    [
        (0.0, {"jit_compile": False}),
        (0.3, {"jit_compile": False}),
        (0.3, {"run_eagerly": True}),
        (0.3, {"jit_compile": True}),
    ],
    ids=["graph", "graph and dropout", "eager and dropout", "XLA and dropout"],
)
def test_fit_learns_the_same_weights(dropout_rate, compilation):
    network = SMALL if compilation.get("jit_compile") else {}
    networks = pair(dropout_rate=dropout_rate, **network)
    before = networks[0].get_weights()
    for network in networks:
        reset_seeds(network)
    start = seed_states(networks[0])
    for network in networks:
        network.compile(
            keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
            "sparse_categorical_crossentropy",
            **compilation,
        )
        network.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
    plain, lean = (network.get_weights() for network in networks)
    for old, ours, right in zip(before, lean, plain, strict=True):
        assert relative_error(ours, right) < 2e-4
        assert not np.array_equal(ours, old)
    check_seeds_moved(start, *networks)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fit_in_mixed_precision(policy):
    """Float16's scaled loss reaches the weights alike."""
    networks = pair(policy=policy)
    for network in networks:
        network.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        network.fit(IMAGES, LABELS, batch_size=8, epochs=1, shuffle=False, verbose=0)
    plain, lean = (network.get_weights() for network in networks)
    assert relative_error(lean, plain) < POLICIES[policy]


def test_inference_is_the_same():
    plain, lean = pair(dropout_rate=0.4)
    np.testing.assert_array_equal(lean(IMAGES), plain(IMAGES))
    np.testing.assert_array_equal(lean.predict(IMAGES, verbose=0), plain.predict(IMAGES, verbose=0))


@pytest.mark.parametrize("policy", ["float32", "float64"])
@pytest.mark.parametrize("pattern", FREEZING)
def test_freezes_layer_by_layer_as_plain_does(pattern, policy):
    plain, lean = pair(blocks=(3, 1), policy=policy)
    for network in (plain, lean):
        for frozen in FREEZING[pattern](network.get_layer("densenet_block1")):
            frozen.trainable = False
    assert len(lean.trainable_weights) < len(lean.weights)
    check_equal(plain, lean, POLICIES[policy])


def frozen_transition(network):
    return [network.get_layer("densenet_transition1")]


def frozen_norm_of_a_transition(network):
    return [network.get_layer("densenet_transition1").function.norm]


def frozen_first_blocks(network):
    return [network.get_layer(f"densenet_{n}") for n in ("stem_conv", "block1", "transition1")]


@pytest.mark.parametrize(
    "parts", [frozen_transition, frozen_norm_of_a_transition, frozen_first_blocks]
)
def test_freezes_parts_as_plain_does(parts):
    plain, lean = pair()
    for network in (plain, lean):
        for part in parts(network):
            part.trainable = False
    check_equal(plain, lean)


def test_wholly_frozen_network_still_has_a_gradient_of_the_image():
    plain, lean = pair()
    plain.trainable = lean.trainable = False
    before = lean.get_weights()
    check_equal(plain, lean)
    for old, new in zip(before, lean.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_files_go_both_ways(tmp_path):
    for source, target in (pair(), pair()[::-1]):
        path = tmp_path / "network.weights.h5"
        target.set_weights([0 * w for w in target.get_weights()])
        source.save_weights(path)
        target.load_weights(path)
        np.testing.assert_array_equal(target(IMAGES), source(IMAGES))


def reloaded(network, path):
    network.save(path)
    return keras.saving.load_model(path)


def cloned(network, path):
    twin = keras.models.clone_model(network)
    twin.set_weights(network.get_weights())
    return twin


@pytest.mark.parametrize("copy", [reloaded, cloned])
def test_a_copy_is_memory_efficient_and_trains_alike(copy, tmp_path):
    plain, lean = pair()
    twin = copy(lean, tmp_path / "network.keras")
    for name in ("block1", "transition1"):
        config = twin.get_layer(f"densenet_{name}").get_config()
        assert config["memory_efficient"] is True
        assert config == lean.get_layer(f"densenet_{name}").get_config()
    check_equal(plain, twin)


def test_plain_is_the_default():
    for layer in (layers.DenseBlock(1, 2), layers.Transition()):
        assert layer.get_config()["memory_efficient"] is False
        config = {k: v for k, v in layer.get_config().items() if k != "memory_efficient"}
        assert not type(layer).from_config(config).memory_efficient  # a file of an older version


def test_a_part_trains_on_its_own():
    """Outside our networks, eagerly, without a functional model around it."""
    x = tf.random.stateless_normal((4, 6, 6, 3), [0, 1])
    results = []
    for memory_efficient in (False, True):
        keras.utils.set_random_seed(0)
        block = layers.DenseBlock(2, 4, memory_efficient=memory_efficient, activation="softplus")
        transition = layers.Transition(memory_efficient=memory_efficient, activation="softplus")
        for _ in range(2):  # the second time with moved statistics, and weights that are there
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = transition(block(x, training=True), training=True)
                loss = tf.reduce_sum(outputs**2)
            weights = [*block.trainable_weights, *transition.trainable_weights]
            gradients = tape.gradient(loss, [x, *(w.value for w in weights)])
        state = [*block.get_weights(), *transition.get_weights()]
        results.append([np.array(v) for v in (outputs, *gradients, *state)])
    for ours, right in zip(*results, strict=True):
        assert relative_error(ours, right) < 1e-5


def prelu():
    """A slope for each map: each composite function has weights of its own."""
    return keras.layers.PReLU(
        alpha_initializer=keras.initializers.Constant(0.3), shared_axes=[1, 2]
    )


def with_activation(activation, memory_efficient, depth=10):
    keras.utils.set_random_seed(0)
    return models.from_configuration(
        cifar(depth, 4),
        input_shape=SHAPE,
        classes=2,
        activation=activation,
        memory_efficient=memory_efficient,
    )


def test_activations_with_weights_train_alike():
    exact = []
    for memory_efficient in (False, True):
        with dtype_policy("float64"):
            network = with_activation(prelu(), memory_efficient)
        network.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False
        )
        for _ in range(3):
            network.train_on_batch(IMAGES, LABELS)
        exact.append({w.path: w.numpy() for w in network.weights})
    slopes = [[v for k, v in weights.items() if "alpha" in k] for weights in exact]
    assert len(slopes[0]) == 3 * 2 + 2 + 1  # composite functions, transitions, the last one
    assert all(np.abs(slope - 0.3).max() > 1e-4 for slope in slopes[0])
    for right, ours in zip(*(weights.values() for weights in exact), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-12)


def test_layers_without_weights_may_be_activations():
    plain, lean = (
        with_activation(keras.layers.LeakyReLU(0.5), memory_efficient)
        for memory_efficient in (False, True)
    )
    lean.set_weights(plain.get_weights())
    check_equal(plain, lean, 1e-3)


@pytest.mark.parametrize(
    "part",
    [
        layers.DenseBlock(2, 3, memory_efficient=True),
        layers.Transition(memory_efficient=True),
        layers.StemPooling(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_nothing_is_computed_again_before_the_backward_pass(part):
    x = tf.random.stateless_normal((7, 6, 6, 4), [0, 1])
    part.build(x.shape)
    assert computed_early(lambda x: part(x, training=True), x) == []


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_memory_efficient_must_be_a_truth_value(value):
    for make in (
        lambda: layers.DenseBlock(1, 2, memory_efficient=value),
        lambda: layers.Transition(memory_efficient=value),
        lambda: models.DenseNetCIFAR(10, 2, memory_efficient=value),
    ):
        with pytest.raises(ValueError, match="memory_efficient="):
            make()


@pytest.mark.parametrize("memory_efficient", [False, True])
def test_second_derivatives_are_refused_not_wrong(memory_efficient):
    plain, lean = pair()
    network = lean if memory_efficient else plain
    images = tf.constant(IMAGES)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(images)
            loss = tf.reduce_sum(network(images, training=True)[:, 0])
        penalty = tf.reduce_sum(inner.gradient(loss, images) ** 2)
    with pytest.raises(LookupError, match="can't be differentiated again.*textbook.DenseNet"):
        outer.gradient(penalty, network.trainable_variables)


def test_empty_batch_is_named():
    _, lean = pair()
    before = lean.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        lean(tf.zeros((0, *SHAPE)), training=True)
    for old, new in zip(before, lean.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
