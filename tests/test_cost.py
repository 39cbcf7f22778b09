import ast
import inspect
from itertools import pairwise

import densenet_nb._startup  # noqa: F401

import candidates
import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import dtype_policy
from exact_counts import COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import checks, configurations, cost, layers, models, probes, records, textbook
from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet

pytestmark = pytest.mark.usefixtures("on_a_processor")

SMALL = {
    "imagenet stem": (imagenet((2, 3), growth_rate=4), (37, 40, 3)),
    "one channel": (imagenet((1, 2, 1), growth_rate=3), (33, 32, 1)),
    "four channels": (cifar(16, growth_rate=4), (9, 7, 4)),
    "no bottleneck": (cifar(10, growth_rate=5, bottleneck=False), (8, 8, 3)),
    "one block": (Configuration((3,), 2, 5, imagenet_stem=False), (1, 3, 3)),
    "uneven compression": (Configuration((1, 1), 3, 4, compression=0.3), (21, 20, 3)),
}


@st.composite
def networks(draw):
    """Draw a small configuration and an image shape that it takes."""
    configuration = Configuration(
        blocks=draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        growth_rate=draw(st.integers(1, 5)),
        stem_filters=draw(st.integers(4, 9)),
        bottleneck=draw(st.booleans()),
        compression=draw(st.floats(0.5, 1)),
        imagenet_stem=draw(st.booleans()),
    )
    sides = st.integers(configuration.stride, configuration.stride + 17)
    return configuration, (draw(sides), draw(sides), draw(st.integers(1, 4)))


@pytest.fixture(scope="module")
def densenet121():
    return textbook.DenseNet(CONFIGURATIONS["DenseNet121"], (None, None, 3))


@pytest.mark.parametrize("key", COUNTS)
def test_parameters_of_the_paper_s_networks(key):
    configuration = CONFIGURATIONS[key]
    classes = 1000 if configuration.imagenet_stem else 10
    assert cost.parameters(configuration, classes=classes) == COUNTS[key]


def test_every_configuration_is_counted():
    assert COUNTS.keys() == CONFIGURATIONS.keys()


@pytest.mark.parametrize(("channels", "count"), [(1, 8_056_232), (4, 8_065_640)])
def test_parameters_of_other_images(channels, count):
    assert cost.parameters(CONFIGURATIONS["DenseNet121"], channels).total == count


def test_parameters_of_a_built_densenet121(densenet121):
    assert built_parameters(densenet121) == COUNTS["DenseNet121"]


CASES = [*((key, True) for key in SMALL), ("imagenet stem", False), ("no bottleneck", False)]


@pytest.mark.parametrize(("key", "include_top"), CASES)
def test_everything_equals_the_built_networks(key, include_top):
    check_against_built_networks(*SMALL[key], include_top)


@settings(deadline=None, max_examples=4)
@given(networks(), st.booleans())
def test_everything_equals_any_built_network(network, include_top):
    check_against_built_networks(*network, include_top)


def check_against_built_networks(configuration, shape, include_top):
    top = {"classes": 7, "include_top": include_top}
    stock = textbook.DenseNet(configuration, shape, **top)
    model = models.from_configuration(configuration, input_shape=shape, name="net", **top)
    expected = cost.parameters(configuration, shape[2], **top)
    assert built_parameters(stock) == expected
    assert built_parameters(model) == expected

    rows = cost.table(cost.rows(configuration, *shape, **top))
    for row in rows:
        maps = (
            (row.channels,) if row.name == "classifier" else (row.height, row.width, row.channels)
        )
        assert model.get_layer(f"net_{row.name}").output.shape == (None, *maps)
    for row, after in pairwise(rows):
        assert row.channels == after.inputs

    check_float_operations(configuration, stock, shape, top)
    count = cost.multiply_adds(configuration, *shape, **top)
    saved = saved_by_pooling_first(rows)
    assert sum(matrix_operations(model, shape).values()) == 2 * (count - saved)

    traced = probes.kept_bytes(stock, batch_size=3)
    assert traced == cost.activation_bytes(configuration, *shape, **top, batch_size=3)
    kept_plain = cost.total_cost(cost.rows(configuration, *shape, **top)).kept_plain
    assert probes.kept_bytes(model, batch_size=3) == 3 * 4 * kept_plain


@pytest.mark.parametrize(("key", "include_top"), CASES)
def test_kept_bytes_of_memory_efficient_networks(key, include_top):
    check_kept_by_memory_efficient(*SMALL[key], include_top)


@settings(deadline=None, max_examples=3)
@given(networks(), st.booleans())
def test_kept_bytes_of_any_memory_efficient_network(network, include_top):
    check_kept_by_memory_efficient(*network, include_top)


def check_kept_by_memory_efficient(configuration, shape, include_top):
    top = {"classes": 7, "include_top": include_top}
    model = models.from_configuration(
        configuration, input_shape=shape, memory_efficient=True, **top
    )
    assert probes.kept_bytes(model, batch_size=3) == cost.activation_bytes(
        configuration, *shape, **top, batch_size=3, memory_efficient=True
    )


@pytest.mark.parametrize(
    ("configuration", "shape"),
    [
        (imagenet((2, 3, 4, 2)), (64, 75, 3)),
        (cifar(19, 12, bottleneck=False), (8, 8, 3)),
        (cifar(22, 12), (9, 8, 3)),
    ],
    ids=["DenseNet", "DenseNet-19", "DenseNet-BC-22"],
)
def test_kept_bytes_of_networks_as_wide_as_the_papers(configuration, shape):
    check_kept_by_memory_efficient(configuration, shape, include_top=True)


def built_parameters(model):
    return sum(weight.value.shape.num_elements() for weight in model.trainable_weights), (
        model.count_params()
    )


def saved_by_pooling_first(rows):
    """Return the multiply-adds that transitions are spared whose convolution reads pooled maps."""
    return sum(
        cost.Convolution(row.channels, after.channels, 1).weights
        * (row.height * row.width - after.height * after.width)
        for row, after in pairwise(rows)
        if after.name.startswith("transition")
    )


def check_float_operations(configuration, model, shape, top):
    rows = list(cost.rows(configuration, *shape, **top))
    classifier = cost.total_cost(row for row in rows if row.name == "classifier").multiply_adds
    expected = {"Conv2D": 2 * (cost.total_cost(rows).multiply_adds - classifier)}
    if classifier:
        expected["MatMul"] = 2 * classifier
    assert matrix_operations(model, shape) == expected


def matrix_operations(model, shape):
    """Return the float operations, by type, that TensorFlow's profiler counts for one image.

    Two a multiply-add. What goes pixel by pixel is checked to be nothing else, and left out.
    """
    graph = (
        tf.function(lambda images: model(images, training=False))
        .get_concrete_function(tf.TensorSpec((1, *shape)))
        .graph
    )
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    node = tf.compat.v1.profiler.profile(
        graph,
        cmd="op",
        options=options(options.float_operation()).with_empty_output().build(),
    )
    counts = {}
    while node.children:
        (node,) = node.children
        counts[node.name] = node.float_ops
    elementwise = {"Mul", "AddV2", "Sub", "Rsqrt", "Softmax", "BiasAdd"}
    pooling = {"MaxPool", "AvgPool", "Mean"}
    return {name: counts[name] for name in counts.keys() - elementwise - pooling}


def test_costs_of_a_textbook_as_wide_as_the_papers():
    configuration, shape = imagenet((2, 3, 4, 2)), (75, 64, 3)
    model = textbook.DenseNet(configuration, shape)
    check_float_operations(configuration, model, shape, {"classes": 1000, "include_top": True})
    traced = probes.kept_bytes(model, batch_size=2)
    assert traced == cost.activation_bytes(configuration, *shape, batch_size=2)


def test_activation_bytes_of_other_item_sizes():
    configuration, shape = SMALL["imagenet stem"]
    with dtype_policy("float64"):
        model = textbook.DenseNet(configuration, shape, classes=7)
        traced = probes.kept_bytes(model, batch_size=5)
    expected = cost.activation_bytes(configuration, *shape, classes=7, batch_size=5, itemsize=8)
    assert traced == expected


def test_kept_maps_of_a_block_grow_with_the_square_of_its_layers():
    k0, k, pixels = 16, 12, 32 * 32
    kept = [
        sum(row.cost.kept for row in cost.rows(block, 32, 32) if row.name == "block1")
        for block in (Configuration((n,), k, k0, imagenet_stem=False) for n in range(1, 20))
    ]
    expected = [pixels * (2 * n * k0 + n * (n - 1) * k + 8 * n * k) for n in range(1, 20)]
    assert kept == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 1}, "batch_size=1: must be at least 2"),
        ({"batch_size": 2}, "image_shape=.None, None, 3.: the model leaves it open"),
    ],
)
def test_kept_bytes_of_what_cannot_be_traced(options, named, densenet121):
    shape = {"image_shape": (32, 32, 3)} if options["batch_size"] < 2 else {}
    with pytest.raises(ValueError, match=named):
        probes.kept_bytes(densenet121, **options, **shape)


def slopes(x, y):
    """Divided differences of first order: constant if y is linear in x."""
    return [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True))]


@pytest.mark.parametrize(("bottleneck", "each"), [(True, 6), (False, 3)])
def test_kept_by_a_block_is_linear_in_depth_and_the_textbooks_quadratic(bottleneck, each):
    """L = 16 … 100 at growth rate 12: counted from the configurations."""
    depths = (16, 40, 70, 100)
    k, pixels = 12, 32 * 32
    counts = [(depth - 4) // each for depth in depths]
    blocks = [
        cost.table(cost.rows(cifar(depth, k, bottleneck, compression=0.5), 32, 32))[1].cost
        for depth in depths
    ]
    lean = slopes(counts, [block.kept_memory_efficient for block in blocks])
    assert set(lean) == {pixels * k}
    # Of n² k, the slope between n and n' is (n + n') k; what is linear in n adds a constant.
    textbooks = slopes(counts, [block.kept for block in blocks])
    rest = {
        slope - pixels * k * (before + after)
        for slope, (before, after) in zip(textbooks, pairwise(counts), strict=True)
    }
    assert len(rest) == 1


@pytest.mark.parametrize(("bottleneck", "each"), [(True, 6), (False, 3)])
def test_kept_by_a_built_block_is_linear_in_depth(bottleneck, each):
    """The same on the graphs, of narrow blocks, up to L = 28."""
    k0, k, sides, batch_size = 5, 2, (3, 4), 2
    counts = [(depth - 4) // each for depth in (10, 16, 28)]
    kept = []
    for n in counts:
        inputs = keras.Input((*sides, k0))
        block = layers.DenseBlock(n, k, bottleneck, memory_efficient=True)
        kept.append(probes.kept_bytes(keras.Model(inputs, block(inputs)), batch_size))
    assert kept == [4 * batch_size * 3 * 4 * (k0 + n * k) for n in counts]
    assert len(set(slopes(counts, kept))) == 1


@pytest.mark.parametrize(
    ("side", "heights"), [(221, (111, 56, 28, 14, 7)), (220, (110, 55, 27, 13, 6))]
)
def test_sizes_round_down(side, heights):
    rows = cost.table(cost.rows(CONFIGURATIONS["DenseNet121"], side, 224))
    maps = [row.height for row in rows if row.name == "stem_conv" or row.name.startswith("block")]
    assert tuple(maps) == heights


def test_table_has_the_lines_of_table_1():
    rows = cost.table(cost.rows(CONFIGURATIONS["DenseNet121"]))
    assert [(row.name, row.height, row.channels) for row in rows] == [
        ("stem_conv", 112, 64),
        ("stem_pool", 56, 64),
        ("block1", 56, 256),
        ("transition1", 28, 128),
        ("block2", 28, 512),
        ("transition2", 14, 256),
        ("block3", 14, 1024),
        ("transition3", 7, 512),
        ("block4", 7, 1024),
        ("final_norm", 7, 1024),
        ("classifier", 1, 1000),
    ]
    assert cost.total_cost(rows) == cost.total_cost(cost.rows(CONFIGURATIONS["DenseNet121"]))


OURS = {"densenet_nb": False, "densenet_nb, memory-efficient": True}


def largest_peaks():
    """Return the highest peak that was recorded for each network, batch and form, in GiB."""
    found = {}
    for name in ("cost_against_size", "peak_memory", "side_by_side"):
        for run in records.read(name)["runs"]:
            if run.get("candidate") in OURS and "peak_gib" in run:
                network = run.get("network", "DenseNet121"), run.get("side", 224)
                case = *network, run["batch"], OURS[run["candidate"]]
                found[case] = max(run["peak_gib"], found.get(case, 0.0))
    return found


@pytest.mark.parametrize(
    ("network", "side", "batch", "memory_efficient", "found"),
    [(*case, found) for case, found in largest_peaks().items()],
)
def test_peak_is_never_below_what_was_recorded_and_at_most_15_percent_above(
    network, side, batch, memory_efficient, found
):
    """Runs of one size differ by up to 15% among themselves; the highest is the peak."""
    predicted = cost.peak(
        candidates.configuration(network),
        side,
        side,
        classes=candidates.classes(network),
        batch_size=batch,
        memory_efficient=memory_efficient,
    )
    assert found <= predicted.step / 2**30 <= 1.15 * found


def test_peaks_were_recorded_for_both_forms_and_several_batches():
    batches = {
        (run["candidate"], run["batch"])
        for run in records.read("peak_memory")["runs"]
        if run["candidate"] in OURS
    }
    assert batches == {(candidate, batch) for candidate in OURS for batch in (1, 8, 32, 64)}


def test_peak_by_hand():
    """The widest moment of a memory-efficient DenseNet-121 is block 1's last layer: 256 maps."""
    stem = 230 * 230 * 3 + 2 * 112 * 112 * 64
    values = stem + (1 + cost.WORKING_MAPS) * 256 * 56 * 56
    found = cost.peak(CONFIGURATIONS["DenseNet121"], batch_size=3, memory_efficient=True)
    assert found.maps == int(3 * 4 * values * (1 + cost.ALLOCATOR_GAPS[True]))
    assert found.gradients == 4 * 7_978_856
    assert found.weights == 4 * (8_062_504 + 7_978_856)
    assert found.program == int((4 + 120 * 1.35) * 2**20)
    assert found.step == found.gradients + found.maps + found.program


def weights(channels, growth_rate, bottleneck):
    return sum(layer.weights for layer in cost.dense_layer(channels, growth_rate, bottleneck))


def test_bottleneck_by_hand():
    assert weights(544, 32, bottleneck=False) == 9 * 544 * 32 == 156_672
    assert weights(544, 32, bottleneck=True) == 544 * 128 + 9 * 128 * 32 == 106_496


@given(st.integers(1, 2000), st.integers(1, 100))
def test_bottleneck_saves_weights_above_7_2_k_channels(channels, growth_rate):
    with_bottleneck, without = (weights(channels, growth_rate, b) for b in (True, False))
    assert (with_bottleneck < without) == (5 * channels > 36 * growth_rate)


@given(st.integers(1, 2000), st.integers(1, 100))
def test_break_even_of_all_parameters_is_1_6_channels_further(channels, growth_rate):
    with_bottleneck, without = (
        sum(
            cost.composite_function(convolution, 1, 1).trainable
            for convolution in cost.dense_layer(channels, growth_rate, bottleneck)
        )
        for bottleneck in (True, False)
    )
    assert (with_bottleneck < without) == (10 * channels > 72 * growth_rate + 16)


def test_transition_by_hand():
    assert cost.transition(257).filters == 128
    assert cost.transition(256).multiply_adds(56, 56) == 56 * 56 * 256 * 128


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda c: cost.rows(c, 31, 224), "height=31: must be at least 32"),
        (lambda c: cost.multiply_adds(c, 224, 31), "width=31: must be at least 32"),
        (lambda c: cost.multiply_adds(c, 224.0), "height=224.0"),
        (lambda c: cost.parameters(c, channels=0), "channels=0"),
        (lambda c: cost.parameters(c, classes=0), "classes=0"),
        (lambda c: cost.activation_bytes(c, batch_size=0), "batch_size=0"),
        (lambda c: cost.activation_bytes(c, itemsize=0), "itemsize=0"),
        (lambda c: cost.peak(c, batch_size=0), "batch_size=0"),
        (lambda c: cost.peak(c, 31), "height=31: must be at least 32"),
        (lambda c: cost.transition(64, 1.5), "compression=1.5"),
        (lambda c: cost.dense_layer(0, 32), "channels=0"),
        (lambda c: cost.dense_layer(64, 0), "growth_rate=0"),
    ],
)
def test_bad_numbers_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(CONFIGURATIONS["DenseNet121"])


@pytest.mark.parametrize("module", [cost, configurations, checks])
def test_counting_needs_neither_keras_nor_tensorflow(module):
    """(What checks Keras's own settings imports it then.)"""
    within = ("densenet_nb.checks", "densenet_nb.configurations")
    tree = ast.parse(inspect.getsource(module))
    for node in tree.body if module is checks else ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.partition(".")[0] not in ("keras", "tensorflow")
            assert name in within or not name.startswith("densenet_nb")


def test_numpy_numbers_do_not_overflow():
    configuration = CONFIGURATIONS["DenseNet121"]
    side = np.int32(224)
    counted = cost.multiply_adds(configuration, side, side, np.int32(3), np.int32(1000))
    assert counted == cost.multiply_adds(configuration)
    assert type(counted) is int
    assert type(cost.activation_bytes(configuration, batch_size=np.int32(64))) is int
