"""Every check refuses at least three wrong answers, each with its own message.

The solutions are those folded into the notebooks, run from there: one source.
"""

import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from densenet_nb import cost, exercises

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)
CHECK = re.compile(r"^exercises\.(\w+)\((\w+)\)$", re.MULTILINE)


def block(read, returned):
    """Return a dense block whose layers read `read(maps)` and that returns `returned(maps)`."""

    def answer(x, composite_functions):
        maps = [x]
        for function in composite_functions:
            maps.append(function(read(maps)))
        return returned(maps)

    return answer


def together(maps, axis=-1):
    return np.concatenate(maps, axis)


def last(maps):
    return maps[-1]


def block_parameters(reads=lambda k0, k, index: k0 + index * k, middle=None, norm=2, bias=0):
    """Return a count of a dense block's parameters, right but for what the arguments change."""

    def answer(k0, num_layers, k):
        total = 0
        for index in range(num_layers):
            c = reads(k0, k, index)
            m = 4 * (c if middle == "input" else k)
            total += norm * (c + m) + c * m + 9 * m * k + bias * (m + k)
        return total

    return answer


def up(n):
    return (n + 1) // 2


def layer_weights(first=lambda c, k: 4 * c * k, second=lambda c, k: 36 * k * k, plain=9):
    """Return a count of a dense layer's weights, right but for what the arguments change."""

    def answer(c, k, bottleneck):
        return first(c, k) + second(c, k) if bottleneck else plain * c * k

    return answer


def break_even(never):
    """Return the break-even width, right but for what is returned if there is none."""

    def answer(k, width, size):
        return size**2 * width * k / (size**2 - width) if width < size**2 else never

    return answer


def transition(*steps, filters=math.floor, pool_padding="valid", **convolution):
    """Return a transition of these Keras layers, in this order."""

    def answer(x, compression):
        from keras import layers

        options = {"kernel_size": 1, "use_bias": False, **convolution}
        make = {
            "norm": layers.BatchNormalization,
            "relu": layers.ReLU,
            "conv": lambda: layers.Conv2D(filters(compression * x.shape[-1]), **options),
            "average": lambda: layers.AveragePooling2D(2, padding=pool_padding),
            "max": lambda: layers.MaxPooling2D(2),
        }
        maps = x
        for step in steps:
            maps = make[step]()(maps)
        return maps

    return answer


H_CONV = ("norm", "relu", "conv")


def channels_leaving(keep=lambda m, theta: math.floor(theta * m), end=lambda leave, theta: leave):
    """Return the channels that leave each block, right but for what the arguments change."""

    def answer(blocks, k, k0, theta):
        leave = []
        for num_layers in blocks:
            leave.append(k0 + num_layers * k)
            k0 = keep(leave[-1], theta)
        return end(leave, theta)

    return answer


def kept_maps(concatenated=2, between=8, extra=lambda k0, n, k: 0):
    """Return a count of the maps that a block keeps, right but for what the arguments change."""

    def answer(k0, n, k):
        reads = n * k0 + k * n * (n - 1) // 2
        return concatenated * reads + between * k * n + extra(k0, n, k)

    return answer


def largest_batch(arrays=lambda weights: weights.total + 2 * weights.trainable, end=int, form=None):
    """Return the largest batch, right but for what the arguments change."""

    def answer(network, memory, memory_efficient):
        chosen = memory_efficient if form is None else form(memory_efficient)
        image = cost.activation_bytes(network, memory_efficient=chosen)
        return end(max(0, (memory - 4 * arrays(cost.parameters(network))) / image))

    return answer


def block_test(layers=3, same=False, wanted=None, agrees=None, make=None, positive=False):
    """Return a test of dense blocks, right but for what the arguments change."""

    def function(seed, x):
        kernel = np.random.default_rng([seed, x.shape[-1]]).normal(size=(x.shape[-1], 2))
        return x @ kernel

    def equal(found, right):
        return found.shape == right.shape and np.allclose(found, right)

    def answer(tested):
        x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
        functions = [partial(make or function, 0 if same else seed) for seed in range(layers)]
        x = abs(x) if positive else x
        right = block(together, wanted or together)(x, functions)
        return (agrees or equal)(tested(x, functions), right)

    return answer


def total(seed, x):
    """Map x to two maps that do not tell its channels apart."""
    return (seed + 1) * np.repeat(x.sum(-1, keepdims=True), 2, axis=-1)


def same_shape(found, right):
    return found.shape == right.shape


def same_sum(found, right):
    return same_shape(found, right) and bool(np.isclose(found.sum(), right.sum()))


# check: [(wrong answer, words of its message), …]
WRONG = {
    "check_dense_layer_weights": [
        (
            layer_weights(lambda c, k: 4 * c * c, lambda c, k: 36 * c * k),
            "not four times its input",
        ),
        (layer_weights(second=lambda c, k: 9 * c * k), "reads the 4 k maps"),
        (layer_weights(second=lambda c, k: 36 * k * c), "makes k maps"),
        (layer_weights(second=lambda c, k: 0), "not in its place"),
        (lambda c, k, bottleneck: 9 * c * k, "`bottleneck` is not used"),
        (layer_weights(second=lambda c, k: 4 * k * k), "nine weights"),
        (layer_weights(second=lambda c, k: 36 * k * k + 5 * k), "no bias"),
        (layer_weights(second=lambda c, k: 36 * k * k + 2 * c + 8 * k), "Count the convolutions"),
        (layer_weights(second=lambda c, k: 36 * k * k + 4 * c + 16 * k), "Count the convolutions"),
        (layer_weights(second=lambda c, k: 1), "106,496 weights, not 69633"),
        (lambda c, k, bottleneck: 4 * c * k + 36 * k * k, "straight from c to k"),
        (layer_weights(plain=1), "156,672 weights"),
        (lambda c, k, bottleneck: 4 * c * k + 36 * k * k if bottleneck else None, "returned None"),
    ],
    "check_break_even": [
        (lambda k, width, size: width * k, "neither widens nor narrows"),
        (lambda k, width, size: 7.2 * k, "width 4 and size 3 only"),
        (lambda k, width, size: size**2 * k / (size**2 - width), "reads width x k channels"),
        (lambda k, width, size: 9 * width * k / (9 - width), "with size 5 it is 25"),
        (lambda k, width, size: 1.0, "solve for c"),
        (
            lambda k, width, size: size**2 * width * k / (size**2 - width),
            "it never saves, so return math.inf, not ZeroDivisionError",
        ),
        (break_even(None), "it never saves, so return math.inf, not None"),
        (break_even("never"), "it never saves, so return math.inf, not 'never'"),
        (break_even(np.array([1, 2])), "it never saves, so return math.inf, not array([1, 2])"),
    ],
    "check_transition": [
        (transition(*H_CONV, "max"), "Max pooling"),
        (transition("norm", "relu", "max", "conv"), "Max pooling"),
        (transition(*H_CONV, strides=2), "A stride of 2"),
        (transition(*H_CONV, "average", filters=lambda m: int(2 * m)), "All channels are kept"),
        (transition(*H_CONV, "average", filters=math.ceil), "rounds down"),
        (transition(*H_CONV, "average", filters=round), "rounds down"),
        (transition(*H_CONV, "average", filters=lambda m: 9), "17 channels must leave, not 9"),
        (transition(*H_CONV), "the 2x2 pooling is missing"),
        (transition(*H_CONV, "average", "average"), "must become (3, 5)"),
        (transition("conv", "norm", "relu", "average"), "Batch normalization comes first"),
        (transition(*H_CONV, "average", use_bias=True), "no bias"),
        (transition("relu", "conv", "average"), "starts with batch normalization"),
        (transition(*H_CONV, "average", kernel_size=3, padding="same"), "The convolution is 1x1"),
        (transition("norm", "average", "relu", "conv"), "before ReLU"),
        (transition("norm", "conv", "average"), "is missing"),
        (transition(*H_CONV, "average", pool_padding="same"), "4 x 6"),
        (lambda x, compression: 17, "returned 17, where a Keras tensor"),
        (lambda x, compression: x[:, 0], "where a Keras tensor"),
        (transition(*H_CONV, "average", "relu"), "Shapes and weights agree"),
    ],
    "check_block_outputs": [
        (channels_leaving(lambda m, theta: m), "as if nothing had been dropped"),
        (
            channels_leaving(end=lambda leave, theta: [*leave[:-1], int(theta * leave[-1])]),
            "No transition follows the last block",
        ),
        (
            lambda blocks, k, k0, theta: [
                (int(theta * (k0 + before * k)) if index else k0) + layers * k
                for index, (before, layers) in enumerate(
                    zip((0, *blocks[:-1]), blocks, strict=True)
                )
            ],
            "starts again from the stem",
        ),
        (
            lambda blocks, k, k0, theta: [
                k0,
                *(int(theta * m) for m in channels_leaving()(blocks, k, k0, theta)[:-1]),
            ],
            "channels that enter",
        ),
        (channels_leaving(lambda m, theta: math.ceil(theta * m)), "rounded up"),
        (channels_leaving(lambda m, theta: round(theta * m)), "rounded up"),
        (lambda blocks, k, k0, theta: [1024], "not [1024]"),
        (lambda blocks, k, k0, theta: 1024.0, "returned 1024.0, where a list of numbers"),
        (lambda blocks, k, k0, theta: {"block1": 256}, "returned {'block1': 256}, where a list"),
        (lambda blocks, k, k0, theta: [[256]], "returned [[256]], where a list of numbers"),
    ],
    "check_depth": [
        (sum, "These are the dense layers"),
        (lambda blocks: sum(blocks) + len(blocks) + 1, "two convolutions"),
        (lambda blocks: 2 * sum(blocks) + 2, "A transition has"),
        (lambda blocks: 2 * sum(blocks) + len(blocks) + 2, "No transition follows"),
        (lambda blocks: 2 * sum(blocks) + len(blocks), "One of the two ends"),
        (lambda blocks: 2 * sum(blocks) + len(blocks) - 1, "Both ends"),
        (lambda blocks: 121, "give depth 19, not 121"),
    ],
    "check_dense_slope": [
        (sum, "added up"),
        (lambda slopes: np.prod([1 + slope for slope in slopes]), "ResNet's"),
        (np.prod, "plain chain's"),
        (lambda slopes: slopes[-1], "direct path"),
        (lambda slopes: 1 + slopes[-1] * np.prod([1 + s for s in slopes[:-1]]), "around H_L"),
        (lambda slopes: 60, "Slopes (7,) give 7, not 60"),
    ],
    "check_connections": [
        (lambda blocks: sum(blocks) * (sum(blocks) + 1) // 2, "passes a transition"),
        (lambda blocks: sum(n * (n - 1) // 2 for n in blocks), "is a source too"),
        (sum, "a chain's"),
        (lambda blocks: sum(n * n for n in blocks), "from both ends"),
        (lambda blocks: sum((n + 1) * (n + 2) // 2 for n in blocks), "one more layer"),
        (lambda blocks: 10, "have 21, not 10"),
    ],
    "check_channels_read": [
        (lambda k0, k, layer: k0 + layer * k, "Off by one"),
        (lambda k0, k, layer: (layer - 1) * k, "forgotten: add k0"),
        (lambda k0, k, layer: k, "what each layer makes"),
        (lambda k0, k, layer: k0, "Added maps would stay k0"),
        (lambda k0, k, layer: k0 + k, "Only one layer's k maps"),
        (lambda k0, k, layer: k0 * 2 ** (layer - 1), "does not double"),
        (lambda k0, k, layer: k0 + (layer - 1) * k + 1, "544 channels"),
        (lambda k0, k, layer: 544, "23 channels"),
    ],
    "check_dense_block": [
        (block(together, list), "the list of maps"),
        (block(together, lambda maps: 23), "returned 23, where an array"),
        (block(together, lambda maps: together(maps).mean(axis=(0, 1, 2))), "where an array"),
        (block(together, lambda maps: {"maps": maps}), "where an array"),
        (block(together, lambda maps: np.full((2, 3, 5, 8), "x")), "where an array"),
        (block(lambda maps: together(maps, 1), lambda maps: together(maps, 1)), "Wrong axis"),
        (block(lambda maps: together(maps, 0), lambda maps: together(maps, 0)), "Wrong axis"),
        (block(sum, sum), "added, as in ResNet"),
        (block(last, last), "Nothing is concatenated"),
        (block(together, last), "Only the last layer's maps"),
        (block(together, lambda maps: together(maps[1:])), "input is forgotten"),
        (block(together, lambda maps: together(maps[:-1])), "last layer's maps are missing"),
        (block(last, together), "only the layer before it"),
        (block(lambda maps: maps[0], together), "only x_0"),
        (
            block(lambda maps: together(maps[::-1]), lambda maps: together(maps[::-1])),
            "the newest first",
        ),
        (block(together, lambda maps: 2 * together(maps)), "the result is another one"),
    ],
    "check_dense_block_parameters": [
        (block_parameters(reads=lambda k0, k, index: k0), "must grow by k"),
        (block_parameters(reads=lambda k0, k, index: k0 + (index + 1) * k), "Off by one"),
        (block_parameters(norm=4), "Moving means"),
        (block_parameters(norm=0), "γ and β are forgotten"),
        (block_parameters(bias=1), "have no bias"),
        (block_parameters(middle="input"), "not four times its input"),
        (
            lambda k0, n, k: sum((2 + 9 * k) * (k0 + index * k) for index in range(n)),
            "without bottlenecks",
        ),
        (
            lambda k0, n, k: block_parameters()(k0, n, k) - 8 * k * n,
            "second batch normalization is missing",
        ),
        (lambda k0, n, k: 335_040, "trainable parameters: add"),
    ],
    "check_kept_maps": [
        (lambda k0, n, k: k0 + n * k, "counts each map once"),
        (kept_maps(concatenated=1, between=4), "Each input is kept twice"),
        (kept_maps(between=0), "bottleneck is forgotten"),
        (kept_maps(between=4), "kept twice too"),
        (kept_maps(between=2), "4 k maps, not k"),
        (kept_maps(extra=lambda k0, n, k: 2 * n * k), "Off by one"),
        (kept_maps(extra=lambda k0, n, k: n * k), "next concatenation already"),
        (lambda k0, n, k: 2 * (k0 + (n - 1) * k) + 8 * k, "last layer alone"),
        (lambda k0, n, k: 464, "2 c + 8 k maps each, together 3,264, not 464"),
    ],
    "check_largest_batch": [
        (largest_batch(lambda weights: 0), "weights are forgotten"),
        (largest_batch(lambda weights: weights.total), "two more arrays"),
        (largest_batch(lambda weights: 3 * weights.total), "moving statistics"),
        (largest_batch(form=lambda given: not given), "the wrong way round"),
        (largest_batch(form=lambda given: False), "is not used"),
        (largest_batch(form=lambda given: True), "is not used"),
        (largest_batch(end=float), "whole number"),
        (largest_batch(end=math.ceil), "Rounded up"),
        (lambda network, memory, memory_efficient: 32, "you return 32"),
        (
            lambda network, memory, memory_efficient: (
                largest_batch()(network, memory, memory_efficient) or -6
            ),
            "return 0, not -6",
        ),
    ],
    "check_is_dense_block": [
        (lambda tested: True, "returns the last layer's maps only"),
        (lambda tested: False, "refuses a dense block that keeps a list"),
        (block_test(wanted=last), "refuses a dense block that keeps a list"),
        (lambda tested: tested.__name__ != "growing", "that lets one array grow"),
        (lambda tested: 1, "returned 1, where True or False"),
        (block_test(agrees=lambda found, right: found.ndim == 4), "returns the last layer's maps"),
        (block_test(layers=1), "stops after one layer"),
        (block_test(agrees=same_shape), "reads only the layer before"),
        (block_test(same=True), "gives every layer the same function"),
        (block_test(agrees=same_sum, make=total), "puts the newest maps first"),
        (block_test(layers=2), "the third layer miss"),
        (block_test(positive=True), "activates what enters"),
    ],
    "check_last_side": [
        (lambda n: n // 32, "padded stem rounds up"),
        (lambda n: -(-n // 32), "Everything is rounded up"),
        (lambda n: (((n - 7) // 2 + 1 - 3) // 2 + 1) // 8, "padding of the stem is forgotten"),
        (lambda n: up(up(n)) // 16, "No transition follows"),
        (lambda n: up(up(n)) // 4, "four times here"),
        (lambda n: up(n) // 8, "four times here"),
        (lambda n: up(up(n)), "after the stem"),
        (lambda n: 8, "224 pixels end as 7"),
    ],
}


def exercises_in(path):
    """Yield (check, argument, solution, stub cell) of each exercise of a notebook."""
    solution = None
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            solution = found.group(1) if (found := SOLUTION.search(source)) else solution
        elif found := CHECK.search(source):
            yield pytest.param(*found.groups(), solution, source, id=f"{path.stem}-{found[1]}")
            solution = None


IN_NOTEBOOKS = [exercise for path in NOTEBOOKS for exercise in exercises_in(path)]


def printed(capsys, name, answer):
    getattr(exercises, name)(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(("name", "argument", "solution", "stub"), IN_NOTEBOOKS)
def test_solution_in_the_notebook_is_correct(name, argument, solution, stub, capsys):
    namespace = {"exercises": exercises}
    exec(compile(solution, f"solution of {name}", "exec"), namespace)
    assert printed(capsys, name, namespace[argument]) == "Correct.\n"


@pytest.mark.parametrize(("name", "argument", "solution", "stub"), IN_NOTEBOOKS)
def test_stub_is_not_an_attempt(name, argument, solution, stub, capsys):
    exec(compile(stub, f"stub of {name}", "exec"), {"exercises": exercises})
    assert capsys.readouterr().out == exercises.NOT_ATTEMPTED + "\n"


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        pytest.param(name, answer, words, id=f"{name}-{index}")
        for name, wrong in WRONG.items()
        for index, (answer, words) in enumerate(wrong)
    ],
)
def test_wrong_answer_is_told_its_misconception(name, answer, words, capsys):
    verdict = printed(capsys, name, answer)
    assert verdict.startswith("Not yet. ")
    assert words in verdict


@pytest.mark.parametrize("name", exercises.__all__)
def test_every_check_refuses_three_answers_with_three_messages(name, capsys):
    verdicts = {printed(capsys, name, answer) for answer, _ in WRONG[name]}
    assert len(verdicts) >= 3


def test_every_check_is_used_in_a_notebook():
    assert {exercise.values[0] for exercise in IN_NOTEBOOKS} == set(exercises.__all__)


OF_NUMBERS = sorted(
    set(exercises.__all__)
    - {"check_transition", "check_block_outputs", "check_dense_block", "check_is_dense_block"}
)


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([7, 8], "[7, 8]"),
        ({"a": 7}, "{'a': 7}"),
        ({7}, "{7}"),
        ("7", "'7'"),
        (1j, "1j"),
        (np.array([7, 8]), "array([7, 8])"),
        (np.zeros((100, 100)), "array([[0., 0., 0."),
    ],
)
def test_what_is_no_number_is_named_in_a_line(name, returned, words, capsys):
    verdict = printed(capsys, name, lambda *arguments: returned)
    assert verdict.startswith(f"Not yet. Your function returned {words}")
    assert verdict.endswith(", where a number belongs.\n")
    assert verdict.count("\n") == 1


@pytest.mark.parametrize("scalar", [np.array, np.float64, np.int32])
def test_a_scalar_of_numpy_is_a_number(scalar, capsys):
    verdict = printed(
        capsys, "check_channels_read", lambda k0, k, layer: scalar(k0 + (layer - 1) * k)
    )
    assert verdict == "Correct.\n"


@pytest.mark.parametrize("name", exercises.__all__)
def test_a_check_is_given_the_function_itself(name, capsys):
    verdict = printed(capsys, name, 121)
    assert verdict == "Not yet. 121 is no function: pass it without calling it.\n"
    assert printed(capsys, name, ...) == exercises.NOT_ATTEMPTED + "\n"


@pytest.mark.parametrize("name", exercises.__all__)
@pytest.mark.parametrize("answer", [lambda: 0, lambda *arguments: arguments.missing])
def test_an_error_in_the_reader_s_function_keeps_its_traceback(name, answer):
    with pytest.raises((TypeError, AttributeError)):
        getattr(exercises, name)(answer)
