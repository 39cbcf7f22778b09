"""What users of other DenseNets have tripped over; each case was reported somewhere in public."""

import pickle
import re
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import BLOCKS, peers, randomize, relative_error

from densenet_nb import cost, finetuning, layers, models, normalization, textbook
from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet

NETWORKS = ("DenseNet121", "DenseNet169", "DenseNet201")
SHAPE = (64, 64, 3)


def images(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


# keras-applications#22, GaNDLF#149: sizes that are no multiple of 32


@pytest.mark.parametrize(
    ("side", "heights"),
    [(221, (111, 56, 28, 14, 7)), (220, (110, 55, 27, 13, 6)), (224, (112, 56, 28, 14, 7))],
)
@pytest.mark.parametrize("axis", ["height", "width"])
def test_any_size_of_at_least_the_stride(side, heights, axis):
    shape = (side, 64, 3) if axis == "height" else (64, side, 3)
    model = models.DenseNet((1, 1, 1, 1), 4, include_top=False, input_shape=shape, name="net")
    names = ("stem_conv", "block1", "block2", "block3", "block4")
    found = [model.get_layer(f"net_{name}").output.shape for name in names]
    assert tuple(s[1 if axis == "height" else 2] for s in found) == heights


def test_unknown_sizes_take_any_size():
    """One network with None sizes; its outputs are keras.applications' for each size."""
    options = {"include_top": False, "pooling": "avg", "input_shape": (None, None, 3)}
    ours, theirs = peers(**options)
    for sides in ((32, 32), (33, 47), (63, 32)):
        x = images(1, (*sides, 3))
        assert relative_error(np.array(ours(x)), np.array(theirs(x))) < 1e-5, sides


# keras#7568: one or four channels; channels first


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(channels):
    """(The counts of DenseNet-121: test_cost.py.)"""
    model = models.DenseNet((1, 1), 4, input_shape=(64, 64, channels))
    assert model.count_params() == cost.parameters(imagenet((1, 1), 4), channels).total
    assert model(images(1, (64, 64, channels))).shape == (1, 1000)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        for network in (models.DenseNet121, models.DenseNetCIFAR):
            with pytest.raises(ValueError, match="channels_first"):
                network()
    finally:
        keras.config.set_image_data_format("channels_last")


# fused-densenet-tiny#1, keras-applications#119: two networks on one input


def test_two_networks_on_one_input():
    inputs = keras.Input(SHAPE)
    options = {"include_top": False, "pooling": "avg", "input_tensor": inputs}
    first = models.DenseNet((1, 1), 4, **options)
    second = models.DenseNetCIFAR(10, 4, **options)
    twin = models.DenseNet((1, 1), 4, name="twin", **options)
    outputs = keras.layers.Concatenate()([first.output, second.output, twin.output])
    model = keras.Model(inputs, outputs)
    width = first.output_shape[1] + second.output_shape[1]
    assert keras.Model(inputs, outputs[:, :width]).output_shape == (None, width)
    assert model.output_shape == (None, width + twin.output_shape[1])
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names)
    x = images(1)
    expected = np.concatenate([np.array(net(x)) for net in (first, second, twin)], axis=1)
    assert relative_error(np.array(model(x)), expected) < 1e-6


# keras#9522, #4762: a frozen trunk still changes


@pytest.mark.parametrize("jit_compile", [False, True])
def test_frozen_trunk_keeps_every_bit(jit_compile):
    base = models.DenseNet((2, 2), 8, include_top=False, pooling="avg", input_shape=SHAPE)
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    before, head = base.get_weights(), model.layers[-1].get_weights()
    for _ in range(3):
        model.train_on_batch(images(4), np.arange(4) % 2)
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(head[0], model.layers[-1].get_weights()[0])


def test_frozen_block_keeps_every_bit_and_the_rest_moves():
    model = models.DenseNet((2, 2, 2), 8, input_shape=SHAPE, classes=2, name="net")
    block = model.get_layer("net_block2")
    block.trainable = False
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    before = model.get_weights()
    for _ in range(3):
        model.train_on_batch(images(4), np.arange(4) % 2)
    frozen = {id(v) for v in block.variables}
    for variable, old in zip(model.weights, before, strict=True):
        assert np.array_equal(old, variable.numpy()) == (id(variable) in frozen), variable.path


# keras#12400, tensorflow#32544: an image's answer depends on its neighbours


def test_an_images_answer_is_its_own(tmp_path):
    model = models.DenseNet((2, 2), 8, input_shape=SHAPE, classes=3)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    for _ in range(2):
        model.train_on_batch(images(8), np.arange(8) % 3)
    before = model.get_weights()
    a, b = images(2, seed=5)
    together = model.predict(np.stack([a, b]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for network in (model, loaded):
        for alone in (network.predict(a[None], verbose=0), np.array(network(a[None]))):
            assert relative_error(alone[0], together[0]) < 1e-5
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# keras-contrib#158: features by layer index break


def features(network, names):
    return keras.Model(network.input, [network.get_layer(name).output for name in names])


def check_features(configuration, network, theirs):
    table = models.keras_applications_names(configuration)
    ours = features(network, [f"{network.name}_{name}" for name in table])
    expected = features(theirs, table.values())(images(1))
    for key, actual, right in zip(table, ours(images(1)), expected, strict=True):
        assert relative_error(np.array(actual), np.array(right)) < 1e-5, key


def test_features_by_name_equal_keras_applications(tmp_path):
    ours, theirs = peers()
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    ours.save(tmp_path / "net.keras")
    clone = keras.models.clone_model(ours)
    clone.set_weights(ours.get_weights())
    for network in (ours, keras.saving.load_model(tmp_path / "net.keras"), clone):
        check_features(imagenet(BLOCKS), network, theirs)


def test_features_of_121_by_name_equal_keras_applications(densenet121):
    ours, theirs = densenet121
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    check_features(CONFIGURATIONS["DenseNet121"], ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_in_keras_applications(name):
    table = models.keras_applications_names(CONFIGURATIONS[name])
    for names in (("block1", "conv2_block6_concat"), ("transition3", "pool4_pool")):
        assert names in table.items()
    last = CONFIGURATIONS[name].blocks[-1]
    assert table["block4"] == f"conv5_block{last}_concat"


def test_every_documented_name_is_a_layer(densenet121):
    ours, theirs = densenet121
    for name, peer in models.keras_applications_names(CONFIGURATIONS["DenseNet121"]).items():
        expected = theirs.get_layer(peer).output.shape
        assert ours.get_layer(f"densenet121_{name}").output.shape == expected


# --- what other libraries do to a network: save, load, wrap, loop ------------------------------


def small(seed=0, classes=3, **options):
    keras.utils.set_random_seed(seed)
    options = {"input_shape": (16, 16, 3), "classes": classes} | options
    return models.DenseNet((1, 2), 4, **options)


def assert_equal(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(a, b)


# TensorFlow's checkpoints do not look into a Keras layer's lists of layers

PARTS = {
    "network": small,
    "with dropout and slopes": lambda: small(
        dropout_rate=0.2, activation=keras.layers.PReLU(shared_axes=[1, 2])
    ),
    "memory-efficient": lambda: small(memory_efficient=True),
    "composite function": lambda: layers.CompositeFunction(4, 3),
    "dense layer": lambda: layers.DenseLayer(4),
    "block": lambda: layers.DenseBlock(2, 4),
    "transition": lambda: layers.Transition(),
    "textbook": lambda: textbook.DenseNet(cifar(10, 4), (16, 16, 3), 3),
}


@pytest.mark.parametrize("name", PARTS)
def test_tensorflows_checkpoints_hold_every_array(name, tmp_path):
    """Each part that holds parts."""
    saved, fresh = (PARTS[name]() for _ in range(2))
    for part in (saved, fresh):
        if not part.built:
            part.build((None, 8, 8, 3))
    rng = np.random.default_rng(0)
    saved.set_weights([rng.normal(size=w.shape) for w in saved.get_weights()])
    path = tf.train.Checkpoint(model=saved).write(str(tmp_path / "checkpoint"))
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(path)]
    for weight in saved.weights:
        shapes.remove(tuple(weight.shape))  # each array has an entry
    tf.train.Checkpoint(model=fresh).read(path).assert_existing_objects_matched()
    assert_equal(saved.get_weights(), fresh.get_weights())


def test_a_checkpoint_manager_restores_a_training_network(tmp_path):
    nets = [small(seed) for seed in (0, 1)]
    for net in nets:
        net.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
        net.optimizer.build(net.trainable_variables)
    x, y = images(4, (16, 16, 3)), np.arange(4) % 3
    nets[0].train_on_batch(x, y)
    checkpoints = [tf.train.Checkpoint(model=net, optimizer=net.optimizer) for net in nets]
    manager = tf.train.CheckpointManager(checkpoints[0], tmp_path, max_to_keep=1)
    checkpoints[1].restore(manager.save()).assert_existing_objects_matched()
    assert_equal(nets[0].get_weights(), nets[1].get_weights())
    for a, b in zip(nets[0].optimizer.variables, nets[1].optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


# A weights file that is another network's or another library's


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of other networks and libraries, each with words that its refusal has."""
    folder = tmp_path_factory.mktemp("files")
    small().save_weights(folder / "three classes.weights.h5")
    keras.utils.set_random_seed(0)
    models.DenseNet((1, 2), 6, input_shape=(16, 16, 3), classes=10).save_weights(
        folder / "wider.weights.h5"
    )
    flat = textbook.DenseNet(cifar(10, 4), (16, 16, 3), 10)
    flat.save_weights(folder / "flat.weights.h5")
    with zipfile.ZipFile(folder / "torch.pth", "w") as file:
        file.writestr("archive/data.pkl", b"")
    (folder / "old.pth").write_bytes(pickle.dumps({"features.conv0.weight": [0.0]}, 2))
    header = b'{"features.conv0.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "timm.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    return folder


FOREIGN = {
    "three classes.weights.h5": "has 3 classes, this network's 10",
    "wider.weights.h5": "does not fit",
    "flat.weights.h5": "does not fit",
    "torch.pth": "densenet_nb.weights.from_torch(",
    "old.pth": "densenet_nb.weights.from_torch(",
    "timm.safetensors": "densenet_nb.weights.from_torch(",
    "absent.weights.h5": "existing weights file",
}


@pytest.mark.parametrize("file", FOREIGN)
def test_a_file_that_does_not_fit_changes_nothing(file, files, monkeypatch):
    model = small(5, classes=10)
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(FOREIGN[file])) as error:
        model.load_weights(files / file)
    assert str(files / file) in str(error.value)
    assert_equal(before, model.get_weights())
    if FOREIGN[file] != "does not fit":  # which is told only when the network is there

        def built(*args, **kwargs):
            raise AssertionError("a weight was made before the file was refused")

        monkeypatch.setattr(keras.layers.Layer, "add_weight", built)
    with pytest.raises(ValueError, match=re.escape(FOREIGN[file])):
        small(5, classes=10, weights=files / file)


def test_skip_mismatch_keeps_all_but_the_classifier(files):
    model, donor = small(5, classes=10), small()
    donor.load_weights(files / "three classes.weights.h5")
    head = model.layers[-1].get_weights()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.load_weights(files / "three classes.weights.h5", skip_mismatch=True)
    assert any("could not be loaded" in str(warning.message) for warning in said)
    assert_equal(model.get_weights()[:-2], donor.get_weights()[:-2])
    assert_equal(model.layers[-1].get_weights(), head)


# keras#21207: RematScope. (Stock batch normalization moves its averages twice there as well.)


@pytest.mark.parametrize(
    "scope",
    [
        {"mode": "full"},
        {"mode": "larger_than", "output_size_threshold": 16},
        {"mode": "list_of_layers", "layer_names": ["densenet_block1"]},
        {"mode": "list_of_layers", "layer_names": ["densenet_final_norm"]},
    ],
    ids=lambda scope: "-".join(map(str, scope.values())),
)
def test_under_a_remat_scope_a_network_is_refused(scope):
    with (
        keras.RematScope(**scope),
        pytest.raises(ValueError, match="RematScope.*memory_efficient=True"),
    ):
        small()


@pytest.mark.parametrize(
    "scope", [{"mode": "activations"}, {"mode": "list_of_layers", "layer_names": ["another"]}]
)
def test_a_remat_scope_that_spares_our_layers_changes_nothing(scope):
    steps = []
    for within in (scope, {"mode": None}):
        with keras.RematScope(**within):
            model = small()
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        model.train_on_batch(images(4, (16, 16, 3)), np.arange(4) % 3)
        steps.append(model.get_weights())
    assert relative_error(*steps) < 1e-6


# Recipes of fine-tuning tutorials, which loop over model.layers


def moves(model):
    """Return which arrays training may move, by their place: gradients and a pass forward."""
    trainable = {id(variable) for variable in model.trainable_variables}
    before = model.get_weights()
    model(images(2), training=True)
    moved = [not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)]
    model.set_weights(before)
    return [id(w) in trainable or m for w, m in zip(model.weights, moved, strict=True)]


def test_all_normalizations_and_all_convolutions_are_found(densenet121):
    ours, theirs = densenet121
    assert (len(ours.layers), len(theirs.layers)) == (17, 429)  # as finetuning.py says
    for find, kind, variable in (
        (finetuning.normalizations, keras.layers.BatchNormalization, "gamma"),
        (finetuning.convolutions, keras.layers.Conv2D, "kernel"),
    ):
        recipe = [layer for layer in theirs.layers if isinstance(layer, kind)]
        found = find(ours)
        assert len(found) == len(recipe) == {"gamma": 121, "kernel": 120}[variable]
        shapes = [getattr(layer, variable).shape for layer in found]
        assert shapes == [getattr(layer, variable).shape for layer in recipe]
        assert [id(layer) for layer in find(theirs)] == [id(layer) for layer in recipe]
        nested = keras.Sequential([keras.Input(SHAPE), ours])
        assert [id(layer) for layer in find(nested)] == [id(layer) for layer in found]


def thaw(model):
    """Make every part trainable; ``model.trainable = True`` leaves its layers as they are."""
    for layer in model._flatten_layers():
        layer.trainable = True


@pytest.fixture
def thawed(densenet121):
    yield densenet121
    for model in densenet121:
        thaw(model)


def test_recipes_freeze_what_they_freeze_in_keras_applications(thawed):
    """First all normalizations, then all up to the third transition, which they call pool4."""
    ours, theirs = thawed
    for norm in finetuning.normalizations(ours):
        norm.trainable = False
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    moved = moves(ours)
    assert moved == moves(theirs)
    assert sum(moved) == 120 + 2  # convolutions and the classifier
    for model in (ours, theirs):
        thaw(model)
    finetuning.freeze_up_to(ours, "transition3")
    assert theirs.layers[312].name == "pool4_pool"
    for layer in theirs.layers[:313]:
        layer.trainable = False
    moved = moves(ours)
    assert moved == moves(theirs)
    assert 0 < sum(moved) < len(moved)


def test_freezing_up_to_an_unknown_layer_freezes_nothing():
    model = small()
    with pytest.raises(ValueError, match="last='conv9'.*'densenet_block2'"):
        finetuning.freeze_up_to(model, "conv9")
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize("memory_efficient", [False, True])
def test_a_kernel_regularizer_reaches_all_kernels_and_stays(memory_efficient, tmp_path):
    options = {"kernel_regularizer": keras.regularizers.L2(5e-5)}
    model = small(memory_efficient=memory_efficient, **options)
    kernels = [w.value for w in model.weights if w.name == "kernel"]
    assert len(kernels) == 1 + 3 * 2 + 1 + 1  # stem, dense layers, transition, classifier
    model.save(tmp_path / "model.keras")
    for each in (
        model,
        keras.models.clone_model(model),
        keras.saving.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
    ):
        assert len(each.losses) == len(kernels)
    expected = 5e-5 * sum(np.sum(np.square(kernel.numpy())) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    with tf.GradientTape() as tape:
        model(images(2, (16, 16, 3)), training=True)
        penalty = sum(model.losses)
    gradients = tape.gradient(penalty, kernels)
    for gradient, kernel in zip(gradients, kernels, strict=True):
        assert relative_error(gradient.numpy(), 1e-4 * kernel.numpy()) < 1e-5


def test_guided_backpropagation_is_an_activation():
    """In place of swapping ``layer.activation``: build with it, and carry the weights over."""

    @tf.custom_gradient
    def guided_relu(x):
        return tf.nn.relu(x), lambda dy: dy * tf.cast(dy > 0, dy.dtype) * tf.cast(x > 0, dy.dtype)

    guided, theirs = peers(classes=2, activation=guided_relu)
    relus = [layer for layer in theirs.layers if getattr(layer, "activation", None) is not None]
    relus = [layer for layer in relus if layer.activation is keras.activations.relu]
    assert len(relus) == 1 + 2 * sum(BLOCKS) + 3 + 1
    saliency = []
    for layer in relus:
        layer.activation = guided_relu
    for model in (guided, theirs):
        x = tf.constant(images(1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = model(x)[:, 0]
        saliency.append(np.array(tape.gradient(score, x)))
    assert relative_error(*saliency) < 1e-3


# Activations with weights


def test_each_composite_function_has_slopes_of_its_own(tmp_path):
    activation = keras.layers.PReLU(keras.initializers.Constant(0.2), shared_axes=[1, 2])
    model = small(activation=activation)
    slopes = [weight for weight in model.weights if weight.name == "alpha"]
    assert len(slopes) == len({id(slope) for slope in slopes}) == 1 + 3 * 2 + 1 + 1
    flat = textbook.DenseNet(Configuration((1, 2), 4, 8), (16, 16, 3), 3, activation=activation)
    flat.set_weights(model.get_weights())
    x = images(4, (16, 16, 3))
    for training in (False, True):
        assert relative_error(*(np.array(m(x, training=training)) for m in (model, flat))) < 1e-5
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(x, np.arange(4) % 3)
    assert all(np.ptp(slope.numpy()) > 0 for slope in slopes)
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "model.keras"),
        pickle.loads(pickle.dumps(model)),
    ):
        assert_equal(model.get_weights(), copy.get_weights())
        np.testing.assert_array_equal(model(x), copy(x))


# More than 2^31 values in a batch


@pytest.mark.parametrize("memory_efficient", [False, True])
def test_values_are_counted_in_64_bits(memory_efficient):
    """128 images of 1024x1024 make 2^31 values in the stem; seen on the graph, in training."""
    model = small(input_shape=(None, None, 3), memory_efficient=memory_efficient)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function().graph
    counts = [operation for operation in graph.get_operations() if operation.type == "Size"]
    assert counts
    large = [op for op in counts if op.inputs[0].shape.rank == 4]
    assert {op.get_attr("out_type") for op in large} == {tf.int64}


# Forward-mode differentiation


def test_forward_mode_is_refused_by_name():
    model, x = small(), tf.constant(images(2, (16, 16, 3)))
    kernel = model.trainable_variables[0].value
    with (
        pytest.raises((tf.errors.InvalidArgumentError, LookupError), match="ForwardAccumulator"),
        tf.autodiff.ForwardAccumulator(kernel, tf.ones_like(kernel)),
    ):
        model(x, training=True)


# Another backend


@pytest.mark.parametrize("backend", ["torch", "numpy", "openvino"])
def test_other_backends_are_refused_at_construction(backend, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    for build in (
        models.DenseNet121,
        lambda: layers.DenseBlock(1, 4),
        normalization.BatchNormalization,
    ):
        with pytest.raises(ValueError, match=f"KERAS_BACKEND='{backend}'.*TensorFlow and JAX"):
            build()


# `quantize`: a warning for each layer that it passes over, which are all but Dense


@pytest.mark.filterwarnings("ignore:.*__array__ implementation:DeprecationWarning")  # Keras's own
def test_quantize_says_once_what_it_leaves_in_float():
    """(Stock networks warn for every layer. Convolutions in eight bits: test_inference.py.)"""
    model = small()
    x = images(4, (16, 16, 3))
    before = model.predict(x, verbose=0)
    with pytest.warns(UserWarning, match="TensorFlow Lite") as said:
        model.quantize("int8")
    said = [str(each.message) for each in said if each.category is UserWarning]
    assert len(said) == 1
    assert model.layers[-1].kernel.dtype == "int8"
    assert 0 < relative_error(model.predict(x, verbose=0), before) < 0.01
