"""How a block is trained on a GPU is tested on the processor: XLA compiles for it as well.

Equality is with `textbook.py`. A block's tensor grows in steps of few channels here, so that small
networks cross several.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import relative_error, step, watch_blocks

from densenet_nb import layers, models, textbook
from densenet_nb.configurations import Configuration
from densenet_nb.engine import compiled
from densenet_nb.engine.statistics import uses_kernel
from densenet_nb.normalization import BatchNormalization

SHAPE = (4, 6, 5, 6)
"""Of images or maps: (batch, height, width, channels)."""
IMAGES = np.random.default_rng(0).normal(size=SHAPE).astype("float32")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(compiled, "serves", uses_kernel)
    monkeypatch.setattr(compiled, "STEP", 8)


@pytest.fixture
def blocks(monkeypatch):
    """The dense blocks that are trained this way."""
    return watch_blocks(monkeypatch, compiled)


def network(builder=models.from_configuration, bottleneck=True, **options):
    configuration = Configuration([2, 1], 3, 6, bottleneck, 0.5, imagenet_stem=False)
    keras.utils.set_random_seed(1)
    if builder is textbook.DenseNet:
        return textbook.DenseNet(configuration, SHAPE[1:], 5, **options)
    return builder(configuration, input_shape=SHAPE[1:], classes=5, **options)


def like_the_textbook(ours, theirs, tolerance=2e-5):
    theirs.set_weights(ours.get_weights())
    found, expected = step(ours, IMAGES), step(theirs, IMAGES)
    assert relative_error(found.outputs, expected.outputs) < tolerance
    assert relative_error(found.gradients, expected.gradients) < tolerance
    assert relative_error(found.weights, expected.weights) < tolerance


@pytest.mark.parametrize("memory_efficient", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_network_is_the_textbooks(bottleneck, memory_efficient, blocks):
    """Softplus: near its kink ReLU's slope hangs on rounding."""
    options = {"bottleneck": bottleneck, "activation": "softplus"}
    ours = network(memory_efficient=memory_efficient, **options)
    like_the_textbook(ours, network(textbook.DenseNet, **options))
    assert blocks == [2, 1]


def block_step(block, x):
    """Return the outputs and gradients of a block in training."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = block(x, training=True)
        loss = tf.reduce_sum(outputs * tf.sin(tf.cast(tf.range(outputs.shape[-1]), outputs.dtype)))
    gradients = tape.gradient(loss, [x, *block.trainable_variables])
    return [np.array(tf.cast(array, "float32")) for array in (outputs, *gradients)]


def test_relu_is_that_of_the_kernels(monkeypatch):
    block = layers.DenseBlock(3, 3)
    found = block_step(block, IMAGES)
    monkeypatch.setattr(compiled, "serves", lambda x: False)
    assert relative_error(found, block_step(block, IMAGES)) < 1e-5


def test_half_precision_is_near_full():
    """Bfloat16 keeps 8 bits: 2^-9 of rounding at each of a dozen operations in a row."""
    full = layers.DenseBlock(1, 3, activation="softplus")
    half = layers.DenseBlock(1, 3, activation="softplus", dtype="mixed_bfloat16")
    expected = block_step(full, IMAGES)
    half.build(SHAPE)
    half.set_weights(full.get_weights())
    assert half(IMAGES, training=True).dtype == tf.bfloat16
    assert 1e-4 < relative_error(block_step(half, IMAGES), expected) < 0.02


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e5])
def test_variance_is_right_at_any_offset(offset):
    """A mean of 1e5 is held to 0.004 in float32."""
    values = np.random.default_rng(4).normal(offset, 3, size=SHAPE).astype("float32")
    layer = BatchNormalization(momentum=0.0)
    outputs = layer(values, training=True).numpy()
    exact = values.astype("float64")
    variance = exact.var((0, 1, 2))
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(variance + layer.epsilon)
    bound = 1e-5 + 1e-7 * offset
    assert relative_error(layer.get_weights()[3], variance) < bound
    assert relative_error(outputs, expected) < bound


def test_last_batch_of_an_epoch_may_be_short(monkeypatch):
    """The number of images is not known when the step is traced."""
    trained, start = [], None
    for serves in (uses_kernel, lambda x: False):
        monkeypatch.setattr(compiled, "serves", serves)
        inputs = keras.Input(SHAPE[1:])
        block = layers.DenseBlock(1, 3, activation="softplus")
        model = keras.Model(inputs, block(inputs))
        start = start or model.get_weights()
        model.set_weights(start)
        model.compile("sgd", "mse", jit_compile=False)
        model.fit(IMAGES, np.zeros((4, 6, 5, 9)), batch_size=3, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert relative_error(*trained) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"dropout_rate": 0.5},
        {"activation": keras.layers.PReLU(shared_axes=[1, 2])},
        {"dtype": "bfloat16"},  # its γ and β are in half precision too
    ],
)
def test_what_is_more_than_plain_goes_another_way(options, blocks):
    layers.DenseBlock(1, 3, **options)(IMAGES, training=True)
    assert blocks == []


def test_frozen_normalization_stays_frozen(blocks):
    ours, theirs = network(activation="softplus"), network(textbook.DenseNet, activation="softplus")
    for model in (ours, theirs):
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    like_the_textbook(ours, theirs)
    assert blocks == []


def test_few_shapes_are_compiled():
    """Of a long block each function once for each step of its tensor, whatever the layer."""
    compiled.parts.cache_clear()
    block = layers.DenseBlock(6, 2, bottleneck=False)
    outputs, *_ = block_step(block, IMAGES[:2, :3, :3, :4])
    part = compiled.parts(block.dense_layers[0].functions[0].activate, 1.001e-5)
    assert outputs.shape == (2, 3, 3, 16)
    for function in (part.apply, part.append, part.pull_back):
        traced = function.__wrapped__.experimental_get_tracing_count()
        assert traced == 2  # 8 and 16 channels for 4 to 14


def test_many_shapes_are_no_warning(caplog, monkeypatch):
    """As of one eager block whose layers are all of another width."""
    monkeypatch.setattr(compiled, "STEP", 1)
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    block_step(layers.DenseBlock(6, 2, bottleneck=False), IMAGES[:2, :3, :3, :4])
    assert "retracing" not in caplog.text


def operations(num_layers):
    """Count a training step's operations, those that cost nothing left out."""
    block = layers.DenseBlock(num_layers, 2)
    block.build((4, 3, 3, 4))

    @tf.function(autograph=False)
    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(block(x, training=True))
        return tape.gradient(loss, block.trainable_variables)

    graph = train.get_concrete_function(tf.TensorSpec((4, 3, 3, 4))).graph
    free = {"Const", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "Placeholder", "Shape"}
    free |= {"PreventGradient", "Reshape"}
    return sum(operation.type not in free for operation in graph.get_operations())


def test_a_layer_has_few_operations():
    """They are what a GPU waits for."""
    assert operations(5) - operations(4) < 30


@pytest.mark.parametrize("memory_efficient", [False, True])
def test_second_derivatives_are_refused_not_wrong(memory_efficient):
    block = layers.DenseBlock(1, 3, memory_efficient=memory_efficient)
    images = tf.constant(IMAGES)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(images)
            loss = tf.reduce_sum(block(images, training=True)[..., 0])
        penalty = tf.reduce_sum(inner.gradient(loss, images) ** 2)
    with pytest.raises(LookupError, match="can't be differentiated again.*textbook.DenseNet"):
        outer.gradient(penalty, block.trainable_variables)


@pytest.mark.parametrize("part", [layers.DenseBlock(1, 2), layers.Transition()])
def test_empty_batch_is_named(part):
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder=True"):
        part(tf.zeros((0, 4, 4, 3)), training=True)


def test_xla_compiles_a_whole_step_only_if_asked(monkeypatch):
    """Keras's default turns it on where TensorFlow sees a GPU."""
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *kind: [gpu])
    ours, theirs = network(), network(textbook.DenseNet)
    for model, expected in ((ours, False), (theirs, True)):
        model.compile("sgd", "mse")
        assert model.jit_compile is expected
    ours.compile("sgd", "mse", jit_compile=True)
    assert ours.jit_compile is True
