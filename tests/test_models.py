import inspect
import json

import keras
import numpy as np
import pytest
from equality import (
    BLOCKS,
    dtype_policy,
    peers,
    randomize,
    relative_error,
    step,
    with_logits,
    with_softplus,
)
from exact_counts import COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import layers, models, parts, textbook
from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet

SHAPE = (64, 64, 3)  # the last map is 2x2: with four images, 16 values per channel
IMAGES = np.random.default_rng(0).uniform(size=(4, *SHAPE)).astype("float32")
PEERS = ("DenseNet121", "DenseNet169", "DenseNet201")


def counts(model):
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    return trainable, model.count_params()


def classes(configuration):
    return 1000 if configuration.imagenet_stem else 10


@pytest.mark.parametrize("name", ["DenseNet121", "DenseNet-40 (k=12)", "DenseNet-BC-100 (k=12)"])
def test_exact_counts(name):
    """(Of all others as counted by `cost`, whose counts are those of any network that is built.)"""
    configuration = CONFIGURATIONS[name]
    options = {
        "classes": classes(configuration),
        "input_shape": (None, None, 3),
        "kernel_initializer": "zeros",  # half the time to build
    }
    assert counts(models.from_configuration(configuration, **options)) == COUNTS[name]


def test_where_pickles_of_earlier_versions_look():
    assert models.DenseNetModel.__module__ == "densenet_nb.network"
    assert layers.HeNormalFanOut is parts.HeNormalFanOut


def test_textbook_has_the_exact_counts_too():
    """(And of 121, in test_cost.py.)"""
    textbooks = textbook.DenseNet(CONFIGURATIONS["DenseNet-40 (k=12)"], SHAPE, 10)
    assert counts(textbooks) == COUNTS["DenseNet-40 (k=12)"]


@pytest.fixture
def built(monkeypatch):
    """Give the list of what networks would be built of, in the place of building them."""
    calls = []
    monkeypatch.setattr(
        models, "from_configuration", lambda made, **options: calls.append((made, options))
    )
    return calls


@pytest.mark.parametrize("name", ["DenseNet161", "DenseNet264", *PEERS])
def test_a_network_is_that_of_its_name(name, built):
    getattr(models, name)()
    getattr(models, name)(growth_rate=12, compression=1.0)
    paper = CONFIGURATIONS[name]
    assert [made for made, _ in built] == [paper, imagenet(paper.blocks, 12, 1.0)]


@pytest.mark.parametrize("name", PEERS)
def test_keras_applications_have_the_same_blocks(name, monkeypatch):
    """So what holds for 121 and for small networks of any blocks holds for 169 and 201."""
    built = []
    module = inspect.getmodule(getattr(keras.applications, name))
    monkeypatch.setattr(module, "DenseNet", lambda blocks, *_, **__: built.append(blocks))
    getattr(keras.applications, name)(weights=None)
    assert built == [list(CONFIGURATIONS[name].blocks)]


def carried(ours, theirs):
    theirs.set_weights(ours.get_weights())
    return theirs


def test_outputs_and_statistics_of_121(densenet121):
    ours, theirs = densenet121
    randomize(ours)
    carried(ours, theirs)
    for training in (False, True):
        expected = np.array(theirs(IMAGES, training=training))
        assert expected.std(axis=0).mean() > 0.1 * expected.std()  # images have own answers
        assert relative_error(np.array(ours(IMAGES, training=training)), expected) < 1e-5
    moved = [
        relative_error(actual, expected)
        for actual, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True)
    ]
    assert max(moved) < 1e-5


def check_step(ours, theirs, training=True):
    actual, expected = (step(model, IMAGES, training=training) for model in (ours, theirs))
    assert relative_error(actual.outputs, expected.outputs) < 1e-5
    assert relative_error(actual.weights, expected.weights) < 1e-5
    assert relative_error(actual.gradients, expected.gradients) < 1e-5
    for ours_, theirs_ in zip(actual.gradients, expected.gradients, strict=True):
        assert relative_error(ours_, theirs_) < 5e-4


def smooth(network):
    """Ours and theirs with softplus: without ReLU's kinks float32 is exact enough for 1e-5."""
    ours, theirs = peers(network, activation="softplus")
    randomize(ours)
    return ours, carried(ours, with_softplus(theirs))


@pytest.mark.parametrize(
    ("network", "training"), [("DenseNet121", True), (BLOCKS, True), (BLOCKS, False)]
)
def test_gradients_with_softplus(network, training):
    check_step(*smooth(network), training)


def test_gradients_of_the_textbook_with_softplus():
    configuration = imagenet((2, 2, 2, 2), 8)
    ours = models.from_configuration(configuration, input_shape=SHAPE, activation="softplus")
    theirs = textbook.DenseNet(configuration, SHAPE, activation="softplus")
    ours, theirs = with_logits(ours), with_logits(theirs)
    randomize(ours)
    check_step(ours, carried(ours, theirs))


def test_gradients_with_relu():
    """Rounding may move a value over ReLU's kink, in stock float32 too: 1% of the gradient then.

    That is rare in a small network, so it spoils few of nine draws, and their median is exact.
    """
    configuration = imagenet((1, 1, 1, 1), 8)
    ours = with_logits(models.from_configuration(configuration, input_shape=SHAPE))
    with dtype_policy("float64"):
        oracle = with_logits(textbook.DenseNet(configuration, SHAPE))
    errors = []
    for draw in range(9):
        randomize(ours, seed=draw)
        exact = step(carried(ours, oracle), IMAGES.astype("float64")).gradients
        errors.append(relative_error(step(ours, IMAGES).gradients, exact))
    assert np.median(errors) < 1e-5
    assert max(errors) < 0.05


def check_carried_both_ways(ours, theirs):
    for source, target in ((ours, theirs), (theirs, ours)):
        randomize(source, seed=len(source.layers))
        target.set_weights(source.get_weights())
        expected = np.array(theirs(IMAGES[:1]))
        assert relative_error(np.array(ours(IMAGES[:1])), expected) < 1e-5
    assert [w.name for w in ours.weights] == [w.name for w in theirs.weights]


def test_weights_of_121_carry_over_both_ways(densenet121):
    check_carried_both_ways(*densenet121)


@pytest.mark.parametrize("include_top", [True, False])
def test_weights_carry_over_both_ways(include_top):
    check_carried_both_ways(*peers(include_top=include_top))


@pytest.mark.parametrize("name", PEERS)
def test_signature_begins_with_keras_applications(name):
    theirs = inspect.signature(getattr(keras.applications, name)).parameters.values()
    ours = list(inspect.signature(getattr(models, name)).parameters.values())
    for expected, actual in zip(theirs, ours, strict=False):
        assert (actual.name, actual.kind) == (expected.name, expected.kind)
        if actual.name != "weights":  # nothing is fetched unasked
            assert actual.default == expected.default


def test_positional_arguments_are_those_of_keras_applications(built):
    models.DenseNet121(False, None, None, SHAPE, "avg", 10, None, "net")
    ((_, options),) = built
    expected = {
        "include_top": False,
        "input_shape": SHAPE,
        "pooling": "avg",
        "classes": 10,
        "classifier_activation": None,
        "name": "net",
    }
    assert options.items() >= expected.items()


CONFIGURATION = st.builds(
    Configuration,
    blocks=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    growth_rate=st.integers(1, 4),
    stem_filters=st.integers(1, 5),
    bottleneck=st.booleans(),
    compression=st.floats(0.5, 1.0),
    imagenet_stem=st.booleans(),
)


@given(configuration=CONFIGURATION, channels=st.integers(1, 4), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=10)
def test_any_network_equals_the_textbook(configuration, channels, extra):
    side = 2 * configuration.stride + extra
    shape = (side, side, channels)
    ours = models.from_configuration(configuration, input_shape=shape, classes=3)
    theirs = textbook.DenseNet(configuration, shape, classes=3)
    randomize(ours)
    carried(ours, theirs)
    images = np.random.default_rng(2).uniform(size=(4, *shape)).astype("float32")
    for training in (False, True):
        expected = np.array(theirs(images, training=training))
        assert relative_error(np.array(ours(images, training=training)), expected) < 1e-5
    assert relative_error(ours.get_weights(), theirs.get_weights()) < 1e-5


def test_options_reach_every_part():
    options = {
        "activation": "silu",
        "dropout_rate": 0.25,
        "momentum": 0.5,
        "epsilon": 1e-3,
        "kernel_initializer": "zeros",
    }
    model = models.DenseNet((1, 2), 4, input_shape=SHAPE, **options)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.5, 1e-3)
        if isinstance(layer, keras.layers.Activation):
            assert layer.activation is keras.activations.silu
        if isinstance(layer, keras.layers.Dropout):
            assert layer.rate == 0.25
        if isinstance(layer, keras.layers.Conv2D):
            assert not layer.kernel.numpy().any()


def test_cifar_network():
    model = models.DenseNetCIFAR(depth=40, bottleneck=False)
    assert counts(model) == COUNTS["DenseNet-40 (k=12)"]
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    assert model.name == "densenet_cifar"


def test_no_transition_after_the_last_block(densenet121):
    names = [layer.name for layer in densenet121[0].layers]
    assert [n for n in names if "block" in n or "transition" in n] == [
        "densenet121_block1",
        "densenet121_transition1",
        "densenet121_block2",
        "densenet121_transition2",
        "densenet121_block3",
        "densenet121_transition3",
        "densenet121_block4",
    ]


def test_summary_fits_a_screen(densenet121):
    lines = []
    densenet121[0].summary(print_fn=lines.append, line_length=90)
    summary = "\n".join(lines)
    assert "densenet121_block4 (DenseBlock)" in summary
    assert len(summary.splitlines()) < 60


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [(None, (None, None, None, 10)), ("avg", (None, 10)), ("max", (None, 10))],
)
def test_pooling_without_top(pooling, shape):
    model = models.DenseNet((1, 1), 4, include_top=False, pooling=pooling)
    assert model.output_shape == shape


def test_pooling_values():
    raw, avg, mx = (
        models.DenseNet((1,), 4, include_top=False, pooling=p, input_shape=SHAPE)
        for p in (None, "avg", "max")
    )
    for model in (avg, mx):
        model.set_weights(raw.get_weights())
    maps = np.array(raw(IMAGES))
    assert relative_error(np.array(avg(IMAGES)), maps.mean((1, 2))) < 1e-6
    assert relative_error(np.array(mx(IMAGES)), maps.max((1, 2))) < 1e-6


def test_weights_file_is_taken(tmp_path):
    path = tmp_path / "small.weights.h5"
    source = models.DenseNet((1, 1), 4, input_shape=SHAPE)
    source.save_weights(path)
    for name in (path, str(path)):
        loaded = models.DenseNet((1, 1), 4, input_shape=SHAPE, weights=name)
        for ours, theirs in zip(loaded.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_input_tensor_may_come_from_other_layers():
    inputs = keras.Input((32, 32, 1))
    color = keras.layers.Concatenate()([inputs] * 3)
    model = models.DenseNet((1,), 4, input_tensor=color, classes=2)
    assert model.input_shape == (None, 32, 32, 1)
    assert model(np.zeros((1, 32, 32, 1), "float32")).shape == (1, 2)


SMALL_DIGITS = cifar(10, 4)


@pytest.fixture(scope="module")
def digits_like():
    rng = np.random.default_rng(8)
    labels = np.arange(32) % 2
    return (rng.uniform(size=(32, 8, 8, 1)) + labels[:, None, None, None]).astype("float32"), labels


def small(configuration=SMALL_DIGITS, **options):
    return models.from_configuration(configuration, input_shape=(8, 8, 1), classes=2, **options)


@pytest.mark.parametrize(
    "compilation",
    [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=lambda c: next(iter(c)) + str(next(iter(c.values()))),
)
def test_stock_compile_fit_evaluate_predict(compilation, digits_like, tmp_path):
    keras.utils.set_random_seed(0)
    # XLA takes seconds to compile a layer.
    configuration = Configuration((1, 1), 4, 8, bottleneck=False, imagenet_stem=False)
    model = small(configuration, momentum=0.5)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **compilation,
    )
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")
    history = model.fit(*digits_like, batch_size=16, epochs=6, verbose=0, callbacks=[checkpoint])
    assert history.history["loss"][-1] < history.history["loss"][0]
    evaluated = model.evaluate(*digits_like, verbose=0, return_dict=True)
    predicted = model.predict(digits_like[0], verbose=0)
    assert evaluated["accuracy"] == pytest.approx((predicted.argmax(1) == digits_like[1]).mean())
    reloaded = keras.saving.load_model(tmp_path / "best.keras")
    assert relative_error(reloaded.predict(digits_like[0], verbose=0), predicted) < 1e-5


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_pure_half_precision_runs(policy, digits_like):
    images, labels = digits_like
    with dtype_policy(policy):
        model = small()
    assert {w.dtype for w in model.weights} == {policy}
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    assert np.isfinite(float(model.train_on_batch(images, labels)))
    assert model.predict(images, verbose=0).shape == (32, 2)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy, digits_like):
    images, labels = digits_like
    exact = small()
    with dtype_policy(policy):
        model = small()
        twin = keras.models.clone_model(model)
    for network in (model, twin):
        network.set_weights(exact.get_weights())
        # bfloat16 has 8 bits and twenty layers round: a few per cent.
        tolerance = {"mixed_float16": 5e-3, "mixed_bfloat16": 5e-2, "float64": 1e-5}[policy]
        assert (
            relative_error(
                keras.ops.convert_to_numpy(network(images, training=True)).astype("float64"),
                np.array(exact(images, training=True)),
            )
            < tolerance
        )
        exact.set_weights(model.get_weights())
    block = model.get_layer("densenet_block1")
    assert block.compute_dtype == keras.DTypePolicy(policy).compute_dtype
    assert {w.dtype for w in model.weights} == {keras.DTypePolicy(policy).variable_dtype}
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    assert np.isfinite(model.train_on_batch(images, labels))


def as_json(config):
    """Tuples come back from a file as lists."""
    return json.loads(json.dumps(config))


def test_clone_config_and_reload_are_equal(tmp_path):
    model = small(dropout_rate=0.1, activation="silu")
    randomize(model)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(3).uniform(size=(2, 8, 8, 1)).astype("float32")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    rebuilt = keras.Model.from_config(model.get_config())
    for twin in (reloaded, clone, rebuilt):
        twin.set_weights(model.get_weights())
        np.testing.assert_array_equal(twin(images), model(images))
        assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
        assert as_json(twin.get_config()) == as_json(model.get_config())


def frozen_block(model):
    return [model.get_layer(f"{model.name}_block1")]


def frozen_model(model):
    return [model]


@pytest.mark.parametrize("frozen", [frozen_block, frozen_model])
def test_freezing_through_training(frozen):
    """A frozen part keeps its weights and statistics; what follows a frozen block learns."""
    trunk = models.DenseNet((2, 2), 4, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    for part in frozen(trunk):
        part.trainable = False
    fixed = {id(w) for part in frozen(trunk) for w in part.variables}
    model = keras.Sequential([trunk, keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    before = [np.array(w.numpy()) for w in model.weights]
    for _ in range(3):
        model.train_on_batch(IMAGES, np.arange(4) % 2)
    for old, weight in zip(before, model.weights, strict=True):
        assert np.array_equal(old, weight.numpy()) == (id(weight) in fixed), weight.path


@pytest.mark.parametrize("copy", ["reload", "clone", "config"])
@pytest.mark.parametrize("frozen", [frozen_block, frozen_model])
def test_what_is_frozen_stays_frozen_in_a_copy(frozen, copy, tmp_path):
    """Keras tells a reloaded layer in its constructor that it is frozen: so to its parts."""
    trunk = models.DenseNet((2, 2), 4, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    for part in frozen(trunk):
        part.trainable = False
    trunk.save(tmp_path / "trunk.keras")
    twin = {
        "reload": lambda: keras.saving.load_model(tmp_path / "trunk.keras"),
        "clone": lambda: keras.models.clone_model(trunk),
        "config": lambda: keras.Model.from_config(trunk.get_config()),
    }[copy]()
    assert len(twin.trainable_weights) == len(trunk.trainable_weights)
    before = [w.numpy() for part in frozen(twin) for w in part.weights]
    twin(IMAGES, training=True)
    after = [w.numpy() for part in frozen(twin) for w in part.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_frozen_block_before_a_live_transition_equals_keras():
    ours, theirs = smooth(BLOCKS)
    frozen = [ours.get_layer("densenet_block1")]
    frozen += [layer for layer in theirs.layers if layer.name.startswith("conv2_")]
    for layer in frozen:
        layer.trainable = False
    check_step(ours, theirs)


def test_the_pyramid_is_that_of_keras_applications():
    """Each level equals its layer's output there; by default both libraries' networks have them."""
    ours, theirs = peers()
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    found, expected = (models.feature_pyramid(model)(IMAGES) for model in (ours, theirs))
    names = ["conv2_block1_concat", "conv3_block2_concat", "conv4_block1_concat", "relu"]
    layers = keras.Model(theirs.input, [theirs.get_layer(name).output for name in names])
    assert sorted(found) == sorted(expected) == ["P2", "P3", "P4", "P5"]
    for level, right in zip(sorted(found), layers(IMAGES), strict=True):
        np.testing.assert_array_equal(expected[level], right)
        assert found[level].shape[1] == 64 / 2 ** int(level[1])
        assert relative_error(np.array(found[level]), np.array(right)) < 1e-4


def test_maps_by_block_and_by_either_librarys_name_come_in_one_call():
    ours, theirs = peers()
    names = ["stem_relu", "conv3_block2_concat", "block2", "avg_pool"]
    found, expected = (models.feature_pyramid(model, names)(IMAGES) for model in (ours, theirs))
    assert set(found) == set(expected) == set(names)
    for name in names:
        assert relative_error(np.array(found[name]), np.array(expected[name])) < 1e-4
    own = models.feature_pyramid(ours, ["densenet_block2"])(IMAGES)["densenet_block2"]
    np.testing.assert_array_equal(own, found["block2"])


def test_the_pyramid_of_any_size():
    """The stem rounds up, transitions down, as in keras.applications."""
    height, width = 65, 126
    images = np.zeros((1, height, width, 3), "float32")
    sides = {"P2": (-(-height // 4), -(-width // 4))}
    for level in (3, 4, 5):
        sides[f"P{level}"] = tuple(side // 2 for side in sides[f"P{level - 1}"])
    for model in peers(include_top=False, input_shape=(None, None, 3)):
        found = models.feature_pyramid(model)(images)
        assert {level: tuple(maps.shape[1:3]) for level, maps in found.items()} == sides


@pytest.mark.parametrize("name", ["densenet_cifar", "mine"])
def test_without_the_imagenet_stem_the_pyramid_begins_at_stride_1(name):
    model = models.DenseNetCIFAR(10, 4, input_shape=(32, 32, 1), name=name)
    around = keras.Model(model.input, keras.layers.Dense(3)(model.layers[-2].output))
    for network in (model, around):
        output = models.feature_pyramid(network).output
        sizes = {level: maps.shape[1:] for level, maps in output.items()}
        assert sizes == {"P0": (32, 32, 12), "P1": (16, 16, 10), "P2": (8, 8, 9)}


def test_what_is_built_on_the_pyramid_trains_the_network():
    """The gradients of a memory-efficient network are those through keras.applications' layers."""
    options = {"activation": "softplus", "include_top": False, "input_shape": SHAPE}
    _, theirs = peers(**options)
    with_softplus(theirs)
    ours = models.DenseNet(BLOCKS, memory_efficient=True, **options)
    ours.set_weights(theirs.get_weights())
    gradients = []
    for model in (ours, theirs):
        maps = models.feature_pyramid(model).output
        pooled = [keras.layers.GlobalAveragePooling2D()(maps[level]) for level in sorted(maps)]
        head = keras.Model(model.input, keras.layers.Concatenate()(pooled))
        gradients.append(step(head, IMAGES).gradients)
    assert relative_error(*gradients) < 1e-3


NO_PYRAMID = {
    "no DenseNet": (lambda: keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()]), None),
    "no graph": (lambda: type("Own", (keras.Model,), {})(), None),
    "unknown name": (lambda: models.DenseNetCIFAR(10, 4), ["block1", "block4"]),
    "one name": (lambda: models.DenseNetCIFAR(10, 4), "block1"),
}
WORDS = {
    "no DenseNet": "has no dense blocks: give the names of its layers",
    "no graph": "must be a functional or sequential model",
    "unknown name": "has no layer 'block4'; it has .*densenet_cifar_block3",
    "one name": r"must be a sequence of names, such as \[\"block1\"\]",
}


@pytest.mark.parametrize("case", NO_PYRAMID)
def test_what_has_no_pyramid_is_refused_by_name(case):
    model, layers = NO_PYRAMID[case]
    with pytest.raises(ValueError, match=WORDS[case]):
        models.feature_pyramid(model(), layers)


def test_the_optimizers_slots_are_made_before_the_step_is_traced():
    """Made while it is traced, as Keras makes them, each is a condition in a step traced twice."""
    model = models.DenseNetCIFAR(10, 2, input_shape=(8, 8, 3))
    traced, step = [], model.train_step
    model.train_step = lambda data: traced.append(model.optimizer.built) or step(data)
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = np.zeros((4, 8, 8, 3), "float32"), np.zeros(4)
    model.fit(images, labels, verbose=0)
    assert traced == [True]


def test_a_network_with_nothing_to_train_fits_as_keras_s_does():
    model = models.DenseNetCIFAR(10, 2, input_shape=(8, 8, 3))
    model.trainable = False
    before = model.get_weights()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        model.fit(np.zeros((4, 8, 8, 3), "float32"), np.zeros(4), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
