"""The figures draw the numbers that they are given, and their axes are named."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Annotation

from densenet_nb import plots
from densenet_nb.configurations import Configuration, cifar


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(figure):
    """Return the names of the axes of a figure with one plot."""
    (axes,) = figure.axes
    return axes.get_xlabel(), axes.get_ylabel()


def test_feature_maps_draws_each_image_in_its_row():
    photograph = np.zeros((4, 6, 3), np.uint8)
    rows = {"a": [photograph, np.eye(4, 6)], "b": [np.ones((4, 6))]}
    figure = plots.feature_maps(rows)
    drawn = [
        [axis.images[0].get_array() for axis in strip.axes if axis.images]
        for strip in figure.subfigs
    ]
    assert [strip.get_suptitle() for strip in figure.subfigs] == ["a", "b"]
    for images, row in zip(drawn, rows.values(), strict=True):
        assert len(images) == len(row)
        for image, given in zip(images, row, strict=True):
            np.testing.assert_array_equal(image, given)


def test_overlays_draws_each_map_over_the_whole_of_its_image():
    photograph, gray = np.arange(72, dtype=np.uint8).reshape(4, 6, 3), np.eye(5)
    figure = plots.overlays({"a": (photograph, np.eye(2, 3)), "b": (gray, np.ones((3, 3)))})
    (below, above), (gray_below, _) = (axis.images for axis in figure.axes)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    np.testing.assert_array_equal(below.get_array(), photograph.mean(-1))
    np.testing.assert_array_equal(gray_below.get_array(), gray)
    np.testing.assert_array_equal(above.get_array(), np.eye(2, 3))
    assert above.get_extent() == below.get_extent()


def test_dense_layer_bars_draws_a_bar_for_each_layer():
    figure = plots.dense_layer_bars([3, -1, 4, 1, 5], (2, 3), "weights", 2, "limit")
    (axes,) = figure.axes
    bars = [bar for container in axes.containers for bar in container]
    assert [bar.get_height() for bar in bars] == [3, -1, 4, 1, 5]
    assert [bar.get_center()[0] for bar in bars] == pytest.approx([1, 2, 3, 4, 5])
    assert labels(figure) == ("dense layer, counted from the stem", "weights")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(texts) == ["block 1", "block 2", "limit"]


def test_dense_layer_bars_needs_a_value_for_each_layer():
    with pytest.raises(ValueError, match=r"4 values for blocks=\(2, 3\)"):
        plots.dense_layer_bars([1, 2, 3, 4], (2, 3), "weights")


def test_crossing_lines_draws_the_curves_and_the_crossing():
    figure = plots.crossing_lines([0, 1], {"up": [0, 2], "down": [2, 0]}, (0.5, 1), "c", "weights")
    up, down, point, _ = figure.axes[0].lines
    assert list(up.get_ydata()) == [0, 2]
    assert list(down.get_ydata()) == [2, 0]
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([0.5], [1])
    assert labels(figure) == ("c", "weights")


def test_channels_along_rises_in_blocks_and_drops_in_transitions():
    figure = plots.channels_along({"small": cifar(22, 7)})
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [0, 3, 3, 6, 6, 9]
    assert list(line.get_ydata()) == [14, 35, 17, 38, 19, 40]
    assert labels(figure) == ("dense layers passed", "channels of the feature maps")


def test_connections_draws_a_segment_for_each_map_that_a_layer_reads():
    figure = plots.connections(k0=3, growth_rate=10, num_layers=4)
    (axes,) = figure.axes
    segments = [bar for container in axes.containers for bar in container]
    rows = [round(bar.get_center()[1]) for bar in segments]
    widths = [
        sum(bar.get_width() for bar in segments if bar.get_y() < row < bar.get_y() + 1)
        for row in range(5)
    ]
    assert widths == [3, 13, 23, 33, 43]
    assert sum(row < 4 for row in rows) == 4 * 5 // 2
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert (names[0], names[-1]) == ("layer 1 reads", "leaves the block")
    assert axes.get_xlabel() == "channels"


def test_paired_differences_draws_each_seed_and_the_standard_errors():
    values = [1.0, 2.0, 3.0, 6.0]
    figure = plots.paired_differences({"a": values, "b": [0.0, 0.0]}, "difference, in %")
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == values
    (bar,) = axes.containers[0].lines[2]
    ends = bar.get_segments()[0][:, 0]
    error = np.std(values, ddof=1) / 2
    np.testing.assert_allclose(ends, [3 - 3 * error, 3 + 3 * error])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "difference, in %"


def test_paired_differences_of_one_seed_have_no_bar(recwarn):
    figure = plots.paired_differences({"a": [0.5]}, "difference, in %")
    (container,) = figure.axes[0].containers
    mean, _, bars = container.lines
    assert list(mean.get_xdata()) == [0.5]
    assert bars == ()
    assert not recwarn.list


def test_error_against_cost_draws_each_family_against_each_cost():
    families = {
        "a": {"small": [1, 10, 9.0, 0.5], "large": [2, 40, 7.0, 0.25]},
        "b": {"quoted": [3, 20, 8.0, 0]},
    }
    figure = plots.error_against_cost(families, ["parameters", "multiply-adds"], "error (%)")
    drawn = [
        [container.lines[0].get_xydata().tolist() for container in axes.containers]
        for axes in figure.axes
    ]
    assert drawn == [[[[1, 9], [2, 7]], [[3, 8]]], [[[10, 9], [40, 7]], [[20, 8]]]]
    for axes, xlabel in zip(figure.axes, ["parameters", "multiply-adds"], strict=True):
        assert axes.get_xlabel() == xlabel
        assert [text.get_text() for text in axes.texts] == ["small", "large", "quoted"]
        (bars,), no_bars = (container.lines[2] for container in axes.containers)
        assert [s[:, 1].tolist() for s in bars.get_segments()] == [[8.5, 9.5], [6.75, 7.25]]
        assert no_bars == ()
    assert figure.axes[0].get_ylabel() == "error (%)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def labeled(figure):
    """Return the axes of a figure, each of which must have both its labels."""
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    return figure.axes


def test_architecture_stacks_what_each_layer_adds():
    network = Configuration((2, 3), 4, 8, imagenet_stem=False)
    figure = plots.architecture(network, side=8)
    (axes,) = labeled(figure)
    tops = {}
    for bar in axes.patches:
        x = round(bar.get_x() + bar.get_width() / 2)
        tops[x] = max(tops.get(x, 0), bar.get_y() + bar.get_height())
    assert list(tops.values()) == [8, 12, 16, 8, 12, 16, 20]
    assert [text.get_text().split("\n")[2] for text in axes.get_xticklabels()] == [
        "8 × 8 pixels",
        "4 × 4 pixels",
    ]
    (arrow,) = [text for text in axes.texts if isinstance(text, Annotation)]
    assert (arrow.xyann[1], arrow.xy[1]) == (16, 8)
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colors)) == 4  # gray, and the ages: the oldest, the middle, the newest
    assert "transition\n16 → 8" in [text.get_text() for text in axes.texts]


def test_answers_say_what_is_wrong():
    images = np.arange(3.0)[:, None, None, None] * np.ones((3, 2, 2, 1))
    figure = plots.answers(images, np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0, 1]]))
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["0\n90%", "1\n80%", "1, is 0\n100%"]
    assert [axes.images[0].get_array().mean() for axes in figure.axes[:3]] == [0, 1, 2]


def test_learning_curve_draws_the_history():
    history = {"loss": [2, 1], "accuracy": [0.1, 0.9], "val_loss": [3, 2], "val_accuracy": [0, 0.8]}
    figure = plots.learning_curve(history)
    drawn = [line.get_ydata().tolist() for axes in labeled(figure) for line in axes.lines]
    assert drawn == [history[key] for key in ("loss", "val_loss", "accuracy", "val_accuracy")]


@pytest.mark.parametrize(
    ("history", "panels"),
    [
        ({"loss": [2.0, 1.0], "accuracy": [0.5, 0.9]}, 2),
        ({"loss": [2.0, 1.0]}, 1),
    ],
)
def test_learning_curve_draws_only_what_is_there(history, panels):
    figure = plots.learning_curve(history)
    assert len(figure.axes) == panels
    for axis, values in zip(figure.axes, history.values(), strict=True):
        (line,) = axis.lines
        assert list(line.get_ydata()) == values
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["training images"]


def test_learning_curve_draws_where_the_rate_drops():
    figure = plots.learning_curve({"loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 2.0, 1.0]}, [1, 2])
    (axes,) = labeled(figure)
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [1.5, 2.5]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["training images", "test images", "learning rate drops"]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_wirings_draw_every_connection(depth):
    plain, residual, dense = plots.wirings(depth).axes

    def arrows(axes):
        return sum(isinstance(text, Annotation) for text in axes.texts)

    assert arrows(plain) == 2 * depth
    assert arrows(residual) == 3 * depth
    assert arrows(dense) == depth + depth * (depth + 1) // 2


def test_gradient_against_depth_draws_the_median_and_the_live_seed():
    many = {
        "g": {"a": np.array([[1, 2, 3], [4, 5, 6]]), "b": np.array([[7, 8, 9], [1, 2, 3]])},
        "x": {"b": np.array([[1, 1, 1], [200, 200, 200]])},
    }
    live = {"g": {"a": 3.14, "b": 5}, "x": {"b": 1234}}
    figure = plots.gradient_against_depth([5, 10], many, live, ["g (nats)", "x (nats)"])
    first, second = labeled(figure)
    assert (first.get_title(), first.get_ylabel()) == ("g", "g (nats)")
    assert [list(line.get_ydata()) for line in first.lines] == [[2, 5], [3.14], [8, 2], [5]]
    assert [text.get_text() for text in first.texts] == ["b 5", "a 3.1"]
    assert [text.get_text() for text in second.texts] == ["b 1,234"]
    assert first.lines[2].get_color() == second.lines[0].get_color()
    assert len(figure.legends[0].get_texts()) == 3


def test_gradient_by_layer_draws_each_network_and_names_it_beside_its_line():
    panels = {"maps": {"a": np.array([1.0, 2.0, 4.0])}, "weights": {"a": np.array([3.0, 1.0])}}
    figure = plots.gradient_by_layer(panels, ["dx (nats)", "g (nats)"], depth=2)
    maps, weights = labeled(figure)
    assert [list(axes.lines[0].get_xdata()) for axes in (maps, weights)] == [[0, 1, 2], [1, 2]]
    assert list(maps.lines[0].get_ydata()) == [1, 2, 4]
    assert [text.get_text() for text in maps.texts] == ["a 0.25"]
    assert [text.get_text() for text in weights.texts] == ["a 3"]


def test_names_of_lines_do_not_cover_one_another():
    panels = {"maps": {name: np.full(3, 1 + 1e-3 * i) for i, name in enumerate("abcde")}}
    figure = plots.gradient_by_layer(panels, ["dx (nats)"], depth=2)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("log", ["", "y"])
def test_along_draws_mean_spread_and_the_live_seed(log):
    seeds = np.array([[1.0, 10.0], [4.0, 1000.0]])
    names = ("plain", "ResNet", "DenseNet")
    panels = {"a": {name: seeds for name in names}, "b": {name: 2 * seeds for name in names}}
    live = {"b": {name: np.array([np.nan, 7.0]) for name in names}}
    figure = plots.along([1, 2], panels, live, "layer", ["nats", "%"], log=log)
    first, second = figure.axes
    means = {"": [2.5, 505.0], "y": [2.0, 100.0]}[log]  # of logarithms on a logarithmic axis
    np.testing.assert_allclose(first.lines[0].get_ydata(), means)
    heights = first.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(1.15)
    assert heights.max() == pytest.approx(950.5)
    assert [len(axes.lines) for axes in figure.axes] == [3, 6]
    np.testing.assert_array_equal(second.lines[1].get_ydata(), [np.nan, 7.0])
    assert (first.get_ylabel(), second.get_ylabel()) == ("nats", "%")
    assert first.get_yscale() == ("log" if log else "linear")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:3] == list(names)


def test_along_says_nothing_of_a_live_seed_where_there_is_none():
    panels = {"a": {name: np.ones((3, 2)) for name in ("plain", "ResNet", "DenseNet")}}
    (legend,) = plots.along([1, 2], panels, {}, "layer", ["%"]).legends
    assert "live seed" not in [text.get_text() for text in legend.get_texts()]


def test_reuse_draws_shares_of_each_readers_largest_weight():
    figure = plots.reuse({"a": [[2.0], [3.0, 6.0]], "b": [np.array([7.0]), np.array([5.0, 10.0])]})
    for axes in figure.axes[:2]:
        drawn = axes.images[0].get_array().filled(np.nan)
        np.testing.assert_array_equal(drawn, [[1, 0.5], [np.nan, 1]])
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "end"]


def test_boundaries_draws_both_classes_and_every_line():
    points, labels = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), np.array([0, 1, 1])
    line = np.array([[0.0, 0.0], [1.0, 1.0]])
    figure = plots.boundaries({"a": [line], "b": []}, points, labels)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 2]
    np.testing.assert_array_equal(first.lines[2].get_xydata(), line)
    np.testing.assert_array_equal(second.lines[1].get_xydata(), points[1:])


def test_costs_by_stage_stacks_the_stages_of_each_network():
    panels = {
        "parameters (millions)": {"stem": [1, 2], "block1": [3, 4]},
        "multiply-adds (billions)": {"stem": [5, 6], "block1": [7, 8]},
    }
    figure = plots.costs_by_stage(panels, ["a", "b"])
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)
    assert figure.axes[0].get_ylabel() == "network"
    for axes, stages in zip(figure.axes, panels.values(), strict=True):
        pieces = [[bar.get_width() for bar in container] for container in axes.containers]
        assert pieces == list(stages.values())
        assert [bar.get_x() for bar in axes.containers[1]] == stages["stem"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["stem", "block1"]


def test_amounts_draws_a_bar_for_each_thing_in_each_panel():
    panels = {"kept (MiB)": {"a": 3, "b": 1}, "multiply-adds (millions)": {"a": 0, "b": 5}}
    figure = plots.amounts(panels, "kind of map")
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)
    assert figure.axes[0].get_ylabel() == "kind of map"
    for axes, bars in zip(figure.axes, panels.values(), strict=True):
        (drawn,) = axes.containers
        assert [bar.get_width() for bar in drawn] == list(bars.values())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert figure.axes[0].yaxis_inverted()


def test_waffle_draws_as_many_squares_as_are_counted():
    figure = plots.waffle({"few": 2, "many": 35}, "a square is one", columns=10)
    (axes,) = figure.axes
    assert axes.get_title() == "a square is one"
    squares = [[(bar.get_x() + 0.45, bar.get_y()) for bar in drawn] for drawn in axes.containers]
    assert [len(drawn) for drawn in squares] == [2, 35]
    everywhere = sum(squares, [])
    assert np.allclose(everywhere, [(place % 10, place // 10) for place in range(37)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["few: 2", "many: 35"]


def test_kept_against_depth_draws_the_formula_and_the_counts():
    kept = {"textbook": [1, 4, 9], "ours": [1, 2, 3]}
    counted = {"textbook": {16: 1}, "ours": {16: 1, 28: 3}}
    figure = plots.kept_against_depth([16, 22, 28], kept, counted, "kept (MiB)")
    (axes,) = labeled(figure)
    first, found, second, _, _ = axes.lines
    assert [list(first.get_ydata()), list(second.get_ydata())] == [[1, 4, 9], [1, 2, 3]]
    assert found.get_xydata().tolist() == [[16, 1]]
    assert first.get_color() == found.get_color()
    assert axes.get_ylabel() == "kept (MiB)"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["textbook", "ours", "counted on the graph"]


@pytest.mark.parametrize("error", [2e-6, 3e-12])
def test_errors_by_stage_draws_zero_below_the_errors_and_says_so(error):
    figure = plots.errors_by_stage({"good": {"stem": 0, "block1": error}}, band=1e-4)
    line, band = figure.axes[0].lines
    zero, drawn = line.get_ydata()
    assert drawn == error
    assert error / 100 < zero < error / 10
    ticks = dict(zip(figure.axes[0].get_yticks(), figure.axes[0].get_yticklabels(), strict=True))
    assert ticks[zero].get_text() == "0"
    assert set(band.get_ydata()) == {1e-4}
    assert figure.axes[0].get_yscale() == "log"
    assert labels(figure) == ("stage", "relative error of the output")


def test_effect_of_epsilon_draws_the_factor_above_and_every_map_below():
    groups = {"small": np.array([1e-3, 2e-3]), "large": np.array([1.0, 2.0, 4.0, 8.0])}
    figure = plots.effect_of_epsilon(groups, published=1e-5, other=1e-3)
    curve, counts = figure.axes
    v, factor = curve.lines[0].get_data()
    np.testing.assert_allclose(np.interp(1e-3, v, factor), (1.01e-3 / 2e-3) ** 0.5, rtol=0.02)
    assert factor[-1] > 0.999
    for drawn, values in zip(counts.containers, groups.values(), strict=True):
        heights = [bar.get_height() for bar in drawn]
        assert sum(heights) == pytest.approx(100), "a variance lies outside the bins"
        assert max(heights) == pytest.approx(100 / values.size)
    assert [text.get_text() for text in counts.get_legend().get_texts()] == list(groups)
    assert curve.get_xscale() == "log"


def test_side_by_side_draws_ratios_to_the_reference():
    runs = [
        {"what": "limit", "round": 0},
        {"what": "training", "batch": 8, "candidate": "peer", "step_s": 2.0},
        {"what": "training", "batch": 8, "candidate": "peer", "step_s": 4.0},
        {"what": "training", "batch": 8, "candidate": "densenet_nb", "step_s": 1.5},
        {"what": "inference", "batch": 1, "candidate": "peer", "step_s": 0.5},
    ]
    measures = {
        "training step": {"runs": {"what": "training", "batch": 8}, "value": "step_s"},
        "inference, batch 1": {"runs": {"what": "inference", "batch": 1}, "value": "step_s"},
    }
    settings = {"reference": "peer", "measures": measures}
    figure = plots.side_by_side({"settings": settings, "runs": runs})
    training, inference, empty = figure.axes
    drawn = [
        [sorted(line.get_xdata().tolist()) for line in axes.lines if line.get_marker() == "o"]
        for axes in (training, inference)
    ]
    assert drawn == [[pytest.approx([2 / 3, 4 / 3]), [0.5]], [[1.0], []]]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["training step, batch 8", "inference, batch 1", ""]
    assert [label.get_text() for label in training.get_yticklabels()] == ["peer", "densenet_nb"]
    assert figure.get_supxlabel() == "ratio to peer (less is better)"
    assert not empty.axison


def test_cost_against_size_draws_the_median_of_each_size():
    sizes = {"batch": [[1, {"batch": 1}], [4, {"batch": 4}]]}
    runs = [
        {"candidate": "a", "batch": 1, "step_s": 1.0, "peak_gib": 0.5},
        {"candidate": "a", "batch": 1, "step_s": 3.0, "peak_gib": 0.5},
        {"candidate": "a", "batch": 4, "step_s": 8.0, "peak_gib": 2.0},
        {"candidate": "b", "batch": 1, "step_s": 1.0},
    ]
    measures = {"step (s)": "step_s", "memory (GiB)": "peak_gib"}
    settings = {"sweeps": sizes, "measures": measures}
    figure = plots.cost_against_size({"settings": settings, "runs": runs})
    step, memory = figure.axes
    points = [
        {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        for axes in (step, memory)
    ]
    assert points[0] == {"a": [[1, 2], [4, 8]], "b": [[1, 1]]}
    assert points[1] == {"a": [[1, 0.5], [4, 2]], "b": []}
    assert [axes.get_ylabel() for axes in figure.axes] == ["step (s)", "memory (GiB)"]
    assert memory.get_xlabel() == "batch"
