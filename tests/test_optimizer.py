"""The authors' rule: equal to NumPy's and Torch's, many variables at once or one by one."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import sgd_against_torch as torch_
import tensorflow as tf
from equality import relative_error

from densenet_nb import models, optimizer, records
from densenet_nb.optimizer import NesterovSGD

RATES = torch_.SETTINGS["rates"]
RULE = {"momentum": torch_.SETTINGS["momentum"], "weight_decay": torch_.SETTINGS["weight_decay"]}


def variable(value, dtype="float64", name="kernel"):
    return keras.Variable(value, dtype=dtype, name=name)


def one_by_one(self, *args):
    """Update as Keras does: each variable by operations of its own."""
    keras.optimizers.Optimizer._distributed_tf_update_step(self, *args)


def train(sgd, weights, gradients, rates=RATES):
    """Return the values of a variable after each step."""
    w, after = variable(weights), []
    for rate, gradient in zip(rates, gradients, strict=True):
        sgd.learning_rate = rate
        sgd.apply([tf.constant(gradient)], [w])
        after.append(w.numpy())
    return np.array(after)


def test_twenty_steps_over_two_drops_are_those_of_the_rule_and_of_torch():
    start, gradients = torch_.start(), torch_.gradients()
    expected = torch_.by_numpy(start, gradients)
    recorded = records.read("sgd_against_torch")
    assert recorded["settings"] == torch_.SETTINGS
    np.testing.assert_allclose([run["weights"] for run in recorded["runs"]], expected, rtol=1e-12)
    # The rate is a float32 variable of Keras's.
    ours = train(NesterovSGD(**RULE), start, gradients)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_keras_s_own_rule_is_another_one():
    """Its velocity holds the old rate after a drop: from there on the two part; before, not."""
    start = np.zeros((1,))
    rates = [0.1] * 3 + [0.01] * 3
    theirs = train(keras.optimizers.SGD(0.1, 0.9, nesterov=True), start, np.ones((6, 1)), rates)
    ours = train(NesterovSGD(weight_decay=None), start, np.ones((6, 1)), rates)
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=1e-6)
    assert (np.abs(theirs - ours) > 0.1 * np.abs(ours))[3:].all()


def test_keras_s_weight_decay_shrinks_ten_times_more_slowly():
    """200 steps without a gradient, rate 0.1, decay 1e-2; an L2 penalty of half of it is ours."""
    left = {}
    for name, sgd, penalty in (
        ("ours", NesterovSGD(0.1, 0.9, 1e-2), 0.0),
        ("keras", keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=1e-2), 0.0),
        ("penalty", keras.optimizers.SGD(0.1, 0.9, nesterov=True), 2 * 5e-3),
    ):
        w = variable(1.0)
        for _ in range(200):
            sgd.apply([penalty * w.value], [w])
        left[name] = float(w)
    assert left["ours"] == pytest.approx(0.122, abs=1e-3)
    assert left["penalty"] == pytest.approx(left["ours"], rel=1e-6)
    assert left["keras"] == pytest.approx(0.819, abs=1e-3)


# Together


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return models.DenseNet((2, 2), 8, input_shape=(16, 16, 3), classes=3)


def gradients_like(variables, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=v.shape), v.dtype) for v in variables]


def made(*dtypes):
    """Return variables of several ranks for each dtype."""
    shapes = {"a": (3, 3, 8, 4), "gamma": (7,), "b": (5, 2), "c": (), "d": (1, 2, 3), "beta": (7,)}
    rng = np.random.default_rng(0)
    return [
        variable(rng.normal(size=shape), dtype, name)
        for dtype in dtypes
        for name, shape in shapes.items()
    ]


def run(kind, variables, call=lambda function: function):
    """Return variables and velocities after four steps; γ does not decay."""
    sgd = kind(0.05, **RULE)
    sgd.exclude_from_weight_decay(var_names=["gamma"])
    sgd.build(variables)
    before = [v.numpy() for v in variables]
    apply = call(lambda gradients: sgd.apply(gradients))
    for seed in range(4):
        apply(gradients_like(variables, seed))
    assert not any(np.array_equal(v, old) for v, old in zip(variables, before, strict=True))
    return [v.numpy() for v in [*variables, *sgd.momentums]]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(optimizer, "on_gpu", lambda: True)


graph_and_eager = pytest.mark.parametrize(
    "call", [tf.function, lambda function: function], ids=["graph", "eager"]
)

OneByOne = type("OneByOne", (NesterovSGD,), {"_distributed_tf_update_step": one_by_one})

DTYPES = {"float32": 1e-6, "float16": 5e-3, "bfloat16": 4e-2, "float64": 1e-14}
"""What four steps' rounding may differ by, relative."""


@pytest.mark.parametrize("group", [1, 100, 2**20])
@graph_and_eager
@pytest.mark.usefixtures("as_on_a_gpu")
def test_together_is_one_by_one_in_every_bit(call, group, monkeypatch):
    """Of several dtypes and ranks, some without decay, in groups."""
    monkeypatch.setattr(optimizer, "GROUP", group)
    results = [run(kind, made(*DTYPES), call) for kind in (NesterovSGD, OneByOne)]
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == expected.dtype
        assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@graph_and_eager
def test_tensorflow_s_kernel_is_the_rule(call, dtype):
    ours, expected = (run(kind, made(dtype), call) for kind in (NesterovSGD, OneByOne))
    assert relative_error(ours, expected) < DTYPES[dtype]


def test_without_a_gpu_a_variable_is_one_operation(monkeypatch):
    monkeypatch.setattr(optimizer, "on_gpu", lambda: False)
    model = network()
    variables, sgd = model.trainable_variables, NesterovSGD(weight_decay=None)
    sgd.build(variables)
    step = tf.function(lambda gradients: sgd.apply(gradients))
    graph = step.get_concrete_function(gradients_like(variables)).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("ResourceApplyMomentum") == len(variables)
    assert arithmetic(graph) <= 1  # the number of the step


def arithmetic(graph):
    kinds = ("AddV2", "Mul", "Sub", "Split", "SplitV", "ConcatV2", "Sum")
    return sum(operation.type in kinds for operation in graph.get_operations())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_operations_do_not_grow_with_the_variables():
    """On a GPU each operation here is a start of a kernel; reading and assigning are none."""
    counts = []
    for layers in (2, 6):
        model = models.DenseNet((layers,), 8, input_shape=(16, 16, 3), classes=3)
        variables, sgd = model.trainable_variables, NesterovSGD()
        sgd.build(variables)
        step = tf.function(lambda gradients, sgd=sgd: sgd.apply(gradients))
        counts.append(arithmetic(step.get_concrete_function(gradients_like(variables)).graph))
    assert counts[0] == counts[1] < 20


def test_xla_gives_the_same_to_rounding():
    compiled = run(NesterovSGD, made("float32"), lambda f: tf.function(f, jit_compile=True))
    for ours, expected in zip(compiled, run(NesterovSGD, made("float32")), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


# What Keras's base class adds


def expected_step(w, g, v, rate=0.1, momentum=0.9, decay=1e-4):
    g = g + decay * w
    v = momentum * v + g
    return w - rate * (g + momentum * v), v


def test_a_variable_without_a_gradient_stays():
    a, b = variable([1.0, 2.0]), variable([3.0])
    sgd = NesterovSGD()
    sgd.build([a, b])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        sgd.apply([tf.constant([1.0, 1.0], tf.float64), None], [a, b])
    np.testing.assert_array_equal(b.numpy(), [3.0])
    np.testing.assert_allclose(a.numpy(), expected_step(np.array([1.0, 2.0]), 1.0, 0.0)[0])


def test_a_sparse_gradient_is_a_gradient_like_any():
    """(Of an embedding; its other rows decay too.)"""
    table = variable(np.arange(6.0).reshape(3, 2))
    gradient = tf.IndexedSlices(tf.ones((1, 2), tf.float64), tf.constant([1]), tf.constant([3, 2]))
    NesterovSGD().apply([gradient], [table])
    dense = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    start = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(table.numpy(), expected_step(start, dense, 0.0)[0])


@pytest.mark.parametrize(
    ("keyword", "limit", "clipped"),
    [("clipnorm", 1.0, [0.6, 0.8]), ("clipvalue", 3.5, [3.0, 3.5]),
     ("global_clipnorm", 1.0, [0.6, 0.8])],
)  # fmt: skip
def test_the_gradient_is_clipped_before_the_decay_is_added(keyword, limit, clipped):
    w = variable([100.0, 200.0])
    sgd = NesterovSGD(weight_decay=0.1, **{keyword: limit})
    sgd.apply([tf.constant([3.0, 4.0], tf.float64)], [w])
    expected, _ = expected_step(np.array([100.0, 200.0]), np.array(clipped), 0.0, decay=0.1)
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)


def test_gradients_are_accumulated():
    """Two halves of a batch make the step of the whole; nothing moves in between."""
    whole, halves = variable([1.0, 2.0]), variable([1.0, 2.0])
    sgd, accumulating = NesterovSGD(), NesterovSGD(gradient_accumulation_steps=2)
    for a, b in (([1.0, 3.0], [3.0, -1.0]), ([0.5, 0.5], [0.25, 0.75])):
        before = halves.numpy()
        accumulating.apply([tf.constant(a, tf.float64)], [halves])
        np.testing.assert_array_equal(halves.numpy(), before)
        accumulating.apply([tf.constant(b, tf.float64)], [halves])
        sgd.apply([tf.constant((np.array(a) + b) / 2)], [whole])
        np.testing.assert_allclose(halves.numpy(), whole.numpy(), rtol=1e-12)


def test_an_average_of_the_weights_is_kept_and_takes_their_place():
    w, average = variable([1.0, 2.0]), np.zeros(2)
    sgd = NesterovSGD(use_ema=True, ema_momentum=0.5)
    for step in range(4):
        sgd.apply([tf.constant([1.0, -1.0], tf.float64)], [w])
        average = w.numpy() if step == 0 else 0.5 * average + 0.5 * w.numpy()
    assert not np.allclose(w.numpy(), average)
    sgd.finalize_variable_values([w])
    np.testing.assert_allclose(w.numpy(), average)


def test_loss_scaling_skips_a_step_that_overflows():
    w = variable([1.0, 2.0], "float32")
    sgd = keras.optimizers.LossScaleOptimizer(NesterovSGD(), initial_scale=4.0)
    sgd.apply([tf.constant([float("inf"), 1.0])], [w])
    np.testing.assert_array_equal(w.numpy(), [1.0, 2.0])
    sgd.apply([tf.constant([2.0, 4.0])], [w])  # of the scaled loss: 2 at half of the first scale
    expected, _ = expected_step(np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)


def test_a_schedule_gives_the_rate_of_each_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([6, 13], [0.1, 0.01, 0.001])
    w, sgd = variable(torch_.start()), NesterovSGD(schedule, **RULE)
    for gradient in torch_.gradients():
        sgd.apply([tf.constant(gradient)], [w])
    expected = torch_.by_numpy(torch_.start(), torch_.gradients())[-1]
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)


def test_constraints_hold_and_what_is_frozen_stays():
    model = network()
    model.get_layer("densenet_block1").trainable = False
    kernel = model.layers[-1].kernel
    kernel.constraint = keras.constraints.MaxNorm(0.01)
    frozen = [w.numpy() for w in model.get_layer("densenet_block1").weights]
    model.compile(NesterovSGD(), "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(np.ones((4, 16, 16, 3)), np.arange(4) % 3)
    assert np.linalg.norm(kernel.numpy(), axis=0).max() < 0.0101
    for weight, old in zip(model.get_layer("densenet_block1").weights, frozen, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_velocities_are_named_after_their_variables():
    model, sgd = network(), NesterovSGD(name="sgd")
    sgd.build(model.trainable_variables)
    assert [v.shape for v in sgd.momentums] == [v.shape for v in model.trainable_variables]
    assert sgd.variables[2].path == "sgd/densenet_stem_conv_kernel_momentum"


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    rng = np.random.default_rng(0)
    batches = [(rng.uniform(size=(4, 16, 16, 3)), np.arange(4) % 3) for _ in range(4)]
    model = network()
    model.compile(NesterovSGD(0.05, **RULE), "sparse_categorical_crossentropy", jit_compile=False)
    for batch in batches[:2]:
        model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert reloaded.optimizer.get_config() == model.optimizer.get_config()
    for batch in batches[2:]:
        for each in (model, reloaded):
            each.train_on_batch(*batch)
    for a, b in zip(model.get_weights(), reloaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0: must lie in"),
        ({"momentum": "0.9"}, "momentum='0.9'"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001: must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"nesterov": True}, "nesterov"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NesterovSGD(**options)
