"""Every check refuses at least three wrong answers, each with its own message.

The solutions are those folded into the notebooks, run from there: one source.
"""

import itertools
import json
import math
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from densenet_nb import cost, exercises
from densenet_nb.configurations import Configuration

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


def layers_without_bottleneck(
    fewer=lambda c, k: 5 * c < 36 * k, gain=lambda c, k: 36 * k * k - 5 * c * k, end=None
):
    """Return the choice of layers and what it saves, right but for what the arguments change."""

    def answer(inputs, pixels, k):
        layers = [index for index, c in enumerate(inputs) if fewer(c, k)]
        saved = sum(gain(inputs[index], k) * pixels[index] for index in layers)
        return end(layers, saved) if end else (layers, saved)

    return answer


def seconds(warm_up=1, repeats=5, end=lambda times: sorted(times)[len(times) // 2]):
    """Return the time of a call, right but for what the arguments change."""

    def answer(function):
        times = []
        for _ in range(warm_up + repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return end(times[warm_up:])

    return answer


def mean_and_std():
    from densenet_nb import weights

    return np.array(weights.IMAGENET_MEAN), np.array(weights.IMAGENET_STD)


def to_pixels(scale=255, end=lambda x: np.round(x).astype("uint8")):
    """Return the pixels of a preprocessed image, right but for what the arguments change."""

    def answer(x):
        mean, std = mean_and_std()
        return end(scale * (x * std + mean))

    return answer


def last_block(network=True, block=True, classifier=True, first=False, norms="all"):
    """Train a last block and the classifier, right but for what the arguments change."""

    def answer(model):
        from densenet_nb import finetuning

        model.trainable = True
        if not first:
            finetuning.freeze_up_to(model, "transition1")
        model.get_layer("densenet_block2").trainable = block
        model.layers[-1].trainable = classifier
        for norm in finetuning.normalizations(model):
            if norms == "all":
                norm.trainable = False
            elif norms == "gamma":
                norm.gamma.trainable = norm.beta.trainable = False
        if not network:
            model.trainable = False
        return model

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


MAPS = np.random.default_rng(6).normal(size=(2, 8, 8, 3)).astype("float32")


def commutes(maps=MAPS, same=lambda a, b: np.linalg.norm(a - b) < 0.01 * np.linalg.norm(a)):
    """Return the verdict on an operation and a pooling, tried on `maps`."""

    def answer(operation, pool):
        a, b = np.asarray(pool(operation(maps))), np.asarray(operation(pool(maps)))
        return bool(same(a, b))

    return answer


def kept_by_a_sum(width=lambda n: math.isqrt(32 * n), concatenation=lambda n: 8 * n * n):
    """Return what the two forms keep, right but for what the arguments change."""

    def answer(form, n):
        return concatenation(n) if form == "concatenation" else 2 * n * width(n)

    return answer


def gradient_ratio(
    ends=lambda dx, x, dw: (dx[0], dx[-1]),
    ratio=lambda first, last: first / last,
    training=lambda given: given,
):
    """Return the ratio of two norms in a step, right but for what the arguments change."""

    def answer(model, images, labels, mode):
        import keras
        import tensorflow as tf

        kernels = [w.value for w in model.weights if w.name == "kernel" and len(w.shape) == 4]
        with tf.GradientTape() as tape:
            *x, probabilities = model(images, training=training(mode))
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            loss = keras.ops.mean(losses)
        dx, dw = tape.gradient(loss, [x, kernels])
        first, last = (np.linalg.norm(tensor) for tensor in ends(dx, x, dw))
        return ratio(first, last)

    return answer


def oldest_first(k0, k, layers):
    """Return where [x_0, x_1, …] stand in a tensor that has the newest maps first."""
    pieces = [range(start, start + k) for start in range(0, layers * k, k)]
    return np.array([*range(layers * k, layers * k + k0), *sum(map(list, pieces[::-1]), [])])


def converter(order=oldest_first, arrays=range(5)):
    """Return a converter of newest-first weights, right but for what the arguments change."""

    def answer(weights, k0, k):
        return [
            np.take(array, order(k0, k, index // 5), axis=-2 if array.ndim > 1 else 0)
            if index % 5 in arrays
            else array
            for index, array in enumerate(weights)
        ]

    return answer


def without(rows=lambda start, k: slice(start, start + k), copied=True):
    """Return a function that blinds a kernel, right but for what the arguments change."""

    def answer(kernel, k0, k, layer):
        kernel = kernel.copy() if copied else kernel
        kernel[rows(k0 + (layer - 1) * k, k)] = 0
        return kernel

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


def misled(
    subsets=itertools.combinations,
    opposite=lambda chosen, sign: sign * chosen.mean() < 0,
    end=lambda found: np.mean(found),
):
    """Return the share of subsets that point the other way, right but for the arguments."""

    def answer(differences, n):
        sign = np.sign(differences.mean())
        return end([opposite(np.array(chosen), sign) for chosen in subsets(differences, n)])

    return answer


def equal_memory(kept=lambda maps: maps, lean=False, end=math.floor):
    """Return the width of equal memory, right but for what the arguments change."""

    def answer(k):
        network = Configuration((2, 2), k, 2 * k, imagenet_stem=False)
        count = cost.activation_bytes(network, 8, 8, 1, 10, memory_efficient=lean)
        return end((kept(count / 4) - 74) / 998)

    return answer


def same_shape(found, right):
    return found.shape == right.shape


def same_sum(found, right):
    return same_shape(found, right) and bool(np.isclose(found.sum(), right.sum()))


def turning(
    closed=lambda corners: np.vstack([corners, corners[:2]]),
    wrapped=lambda turns: (turns + np.pi) % (2 * np.pi) - np.pi,
    end=lambda turns: np.sum(np.abs(turns)),
):
    """Return the turning of a closed polygon, right but for what the arguments change."""

    def answer(corners):
        x, y = np.diff(closed(corners), axis=0).T
        return end(wrapped(np.diff(np.arctan2(y, x))))

    return answer


def filter_direction(kernel_axes=(0, 1, 2), drawn_axes=(0, 1, 2), power=1):
    """Return a normalized direction, right but for what the arguments change; no axes: no norm."""

    def norms(values, axes):
        return np.sqrt(np.sum(values**2, axis=axes, keepdims=True)) if axes else 1.0

    def answer(kernel, drawn):
        return drawn * (norms(kernel, kernel_axes) / norms(drawn, drawn_axes)) ** power

    return answer


# check: [(wrong answer, words of its message), …]
def carries_old_rate(decide, rate=0.0, gradient=1.0, start=0.0, steps=1):
    """Return an experiment: `decide` by the last movement, at `rate`, and by the one before."""

    def answer(sgd):
        import keras

        w = keras.Variable([start])
        places = [start]
        for step in range(steps + 1):
            if step == steps:
                sgd.learning_rate = rate
            pull = gradient if step == steps else 1.0
            sgd.apply([keras.ops.convert_to_tensor([pull])], [w])
            places.append(float(w.value[0]))
        *_, first, before, last = places
        return decide(before - first, before - last)

    return answer


def channels_read(order=list, skips=True, keeps=lambda keep: keep, end=lambda read, x: read):
    """Return a count of what a decoder's last block reads, right but for the arguments."""

    def answer(encoder, num_layers, k, keep_input):
        *skipped, x = order(encoder)
        for skip in reversed(skipped):
            read = x + skip * skips
            x = num_layers * k + keeps(keep_input) * read
        return end(read, x)

    return answer


def shares(union):
    """Return an answer that divides by another union."""
    return lambda counts: np.diag(counts) / union(np.diag(counts), counts.sum(1), counts.sum(0))


WRONG = {
    "check_layers_without_bottleneck": [
        (layers_without_bottleneck(lambda c, k: c < 4 * k), "begins to reduce something"),
        (layers_without_bottleneck(lambda c, k: c <= 4 * k), "keeps the width"),
        (lambda inputs, pixels, k: (range(6), 260_112_384), "not the end of block 1"),
        (layers_without_bottleneck(lambda c, k: 5 * c > 36 * k), "cost less with"),
        (layers_without_bottleneck(lambda c, k: c < 230.4), "here k = 48"),
        (layers_without_bottleneck(lambda c, k: True), "Not in every layer"),
        (layers_without_bottleneck(lambda c, k: c < 200), "10 layers cost less"),
        (
            layers_without_bottleneck(end=lambda layers, saved: ([i + 1 for i in layers], saved)),
            "the first layer is layer 0",
        ),
        (layers_without_bottleneck(end=lambda layers, saved: (layers, -saved)), "as positive"),
        (layers_without_bottleneck(end=lambda layers, saved: (layers, 2 * saved)), "FLOPs"),
        (layers_without_bottleneck(end=lambda layers, saved: (layers, 1)), "not 1: add"),
        (layers_without_bottleneck(end=lambda layers, saved: (layers, [saved])), "where a number"),
        (layers_without_bottleneck(end=lambda layers, saved: layers), "a list of layers and a"),
        (layers_without_bottleneck(end=lambda layers, saved: (10, saved)), "a list of layers and"),
        (layers_without_bottleneck(gain=lambda c, k: 4 * c * k + 36 * k * k), "remains"),
        (layers_without_bottleneck(gain=lambda c, k: 4 * c * k), "it reads c channels"),
        (
            lambda inputs, pixels, k: (
                layers_without_bottleneck()(inputs, pixels, k)[0],
                layers_without_bottleneck()(inputs, [1] * len(pixels), k)[1],
            ),
            "These are weights",
        ),
        (
            lambda inputs, pixels, k: (
                layers_without_bottleneck()(inputs, pixels, k)[0],
                layers_without_bottleneck(lambda c, k: True)(inputs, pixels, k)[1],
            ),
            "Only the chosen layers",
        ),
    ],
    "check_seconds": [
        (lambda function: 0.002, "never called"),
        (seconds(0, 1), "called once"),
        (seconds(1, 2), "say little"),
        (seconds(1, 9, sum), "time of all calls"),
        (seconds(0, 10, lambda times: sum(times) / len(times)), "in the average"),
        (seconds(1, 9, lambda times: min(times) / 1000), "Is the result in seconds"),
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
    "check_commutes": [
        (lambda operation, pool: True, "Nothing was tried"),
        (lambda operation, pool: operation(pool(MAPS)) is not None, "Only one order"),
        (commutes(np.ones_like(MAPS)), "the same at every pixel"),
        (commutes(np.abs(MAPS)), "one sign only"),
        (commutes(same=np.array_equal), "in another order"),
        (commutes(same=lambda a, b: np.allclose(a, b, atol=10)), "ReLU and average pooling do "),
        (commutes(same=lambda a, b: a.shape == b.shape), "Do you compare all values"),
        (
            commutes(same=lambda a, b: np.linalg.norm(a - b) < 0.4 * np.linalg.norm(a)),
            "slope 0.5",
        ),
        (lambda operation, pool: np.asarray(pool(operation(MAPS))), "where True or False"),
        (
            lambda operation, pool: np.array_equal(
                pool(operation(np.round(MAPS * 8))), -operation(pool(np.round(MAPS * 8)))
            ),
            "do not commute",
        ),
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
    "check_without": [
        (without(copied=False), "is changed"),
        (without(lambda start, k: slice(start + k, start + 2 * k)), "Off by one"),
        (lambda kernel, k0, k, layer: without()(kernel, 0, k, layer), "k0 rows stand before"),
        (lambda kernel, k0, k, layer: without()(kernel.T, k0, k, layer).T, "Channels are rows"),
        (without(lambda start, k: start), "a single row"),
        (without(lambda start, k: slice(start, None)), "stop after k rows"),
        (lambda *given: given[0] - without()(*given), "Only this layer's rows"),
        (without(lambda start, k: slice(start - 1, start + k)), "made the channels 5 to 7"),
        (without(lambda start, k: slice(0, 0)), "Nothing is blinded"),
        (lambda kernel, k0, k, layer: np.delete(kernel, k0, axis=0), "Rows are missing"),
        (lambda *given: 0, "a kernel (channels, classes) belongs"),
    ],
    "check_dense_slope": [
        (sum, "added up"),
        (lambda slopes: np.prod([1 + slope for slope in slopes]), "ResNet's"),
        (np.prod, "plain chain's"),
        (lambda slopes: slopes[-1], "direct path"),
        (lambda slopes: 1 + slopes[-1] * np.prod([1 + s for s in slopes[:-1]]), "around H_L"),
        (lambda slopes: 60, "Slopes (7,) give 7, not 60"),
    ],
    "check_gradient_ratio": [
        (gradient_ratio(ratio=lambda first, last: last / first), "last over first"),
        (gradient_ratio(training=lambda given: True), "training=False was asked for"),
        (gradient_ratio(training=lambda given: False), "training=True was asked for"),
        (gradient_ratio(ratio=lambda first, last: (first / last) ** 2), "a square root"),
        (gradient_ratio(ends=lambda dx, x, dw: (x[0], x[-1])), "maps themselves"),
        (gradient_ratio(ends=lambda dx, x, dw: (dw[1], dw[-1])), "respect to the weights"),
        (gradient_ratio(ends=lambda dx, x, dw: (dx[1], dx[-1])), "began with x_1"),
        (lambda model, images, labels, training: 1, "On a small network with training=False it is"),
    ],
    "check_converter": [
        (lambda weights, k0, k: weights, "as they came"),
        (converter(arrays=[4]), "batch normalization scales"),
        (converter(arrays=[0, 1, 4]), "The moving mean and variance"),
        (converter(lambda k0, k, n: np.arange(k0 + n * k)[::-1]), "all reversed"),
        (converter(lambda k0, k, n: np.argsort(oldest_first(k0, k, n))), "the other way around"),
        (converter(lambda k0, k, n: np.roll(np.arange(k0 + n * k), k0)), "still the newest first"),
        (converter(lambda k0, k, n: np.arange(k0 + n * k)[1:]), "none is added or lost"),
        (converter(lambda k0, k, n: oldest_first(k0, k, n)[::-1]), "outputs do not"),
        (lambda weights, k0, k: weights[:5], "15 arrays came in"),
        (lambda weights, k0, k: 15, "a list of arrays belongs"),
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
    "check_middle_way": [
        (lambda forgetful, H, x, *w: H(H(x, *w[:3]), *w[3:]), "Nothing is forgotten"),
        (
            lambda forgetful, H, x, *w: forgetful(lambda x, *w: H(H(x, *w[:3]), *w[3:]))(x, *w),
            "The whole layer is computed again",
        ),
        (lambda forgetful, H, x, *w: forgetful(H)(H(x, *w[:3]), *w[3:]), "what grows with depth"),
        (
            lambda forgetful, H, x, *w: forgetful(H)(forgetful(H)(x, *w[:3]), *w[3:]),
            "Both composite functions forget",
        ),
        (lambda forgetful, H, x, *w: forgetful(H)(x, *w[:3]), "must be the same function"),
        (
            lambda forgetful, H, x, *w: 2 * H(forgetful(H)(x, *w[:3]), *w[3:]),
            "must be the same function",
        ),
        (lambda forgetful, H, x, *w: 120, "returned 120, where a tensor of maps belongs"),
        (
            lambda forgetful, H, x, *w: H(
                forgetful(H)(x + 0 * H(x, *w[:3])[..., :24], *w[:3]), *w[3:]
            ),
            "it should keep c + 8 k = 120 maps",
        ),
    ],
    "check_kept_by_a_sum": [
        (kept_by_a_sum(lambda n: 4), "equal width, not an equal number"),
        (kept_by_a_sum(lambda n: 8), "must become wider with depth"),
        (kept_by_a_sum(lambda n: 4 + 8 * n), "as wide as the concatenation is at its end"),
        (lambda form, n: 8 * n * n, "That is the concatenation's number"),
        (kept_by_a_sum(concatenation=lambda n: 4 + 8 * n), "counts each map once"),
        (kept_by_a_sum(concatenation=lambda n: 8 * n * n + 64 * n), "pass bottleneck=False"),
        (kept_by_a_sum(concatenation=lambda n: 4 * n * n + 8 * (n - 1)), "our own block"),
        (kept_by_a_sum(concatenation=lambda n: 512 * 8 * n * n), "These are bytes"),
        (kept_by_a_sum(concatenation=lambda n: 7), "the concatenation keeps 32 maps, not 7"),
    ],
    "check_misled": [
        (misled(end=sum), "the number of subsets"),
        (misled(end=lambda found: 100 * np.mean(found)), "in percent"),
        (misled(opposite=lambda chosen, sign: sign * chosen.mean() >= 0), "agree with all"),
        (misled(opposite=lambda chosen, sign: chosen.mean() < 0), "may be negative, too"),
        (misled(opposite=lambda chosen, sign: sign * chosen.mean() <= 0), "has no sign"),
        (misled(lambda d, n: itertools.product(d, repeat=n)), "drawn twice"),
        (misled(lambda d, n: [d[i : i + n] for i in range(len(d) - n + 1)]), "Only neighbors"),
        (misled(opposite=lambda chosen, sign: np.mean(sign * chosen < 0) > 0.5), "vote"),
        (misled(lambda d, n: d[:, None]), "single seeds"),
        (lambda differences, n: 0.6, "the share is 0.3000, not 0.6000"),
    ],
    "check_equal_memory": [
        (equal_memory(end=math.ceil), "One too wide"),
        (equal_memory(lean=True), "memory_efficient=True"),
        (equal_memory(lambda maps: 2 * maps), "use the same batch"),
        (lambda k: 12, "equal parameters"),
        (lambda k: 15, "equal multiply-adds"),
        (lambda k: 30, "For k = 6 the widest"),
        (lambda k: 20, "30 channels wide, not 20"),
    ],
    "check_turning": [
        (turning(end=lambda turns: np.degrees(np.sum(np.abs(turns)))), "in degrees"),
        (turning(closed=lambda corners: corners), "The line is closed"),
        (turning(closed=lambda c: np.vstack([c, c[:1]])), "A corner is left out"),
        (turning(wrapped=lambda turns: turns), "bring each turn between"),
        (turning(end=lambda turns: abs(np.sum(turns))), "cancel here"),
        (turning(end=lambda turns: np.sum(np.pi - np.abs(turns))), "angles between the sides"),
        (lambda c: (2 if len(c) == 4 else 3) * np.pi, "clockwise turns by 6.2832, not by 9.4248"),
        (lambda corners: 0.0, "a square turns by 6.2832"),
    ],
    "check_filter_direction": [
        (filter_direction((), ()), "as it was drawn"),
        (filter_direction((0, 1, 2, 3), (0, 1, 2, 3)), "The whole kernel"),
        (filter_direction((0, 1, 3), (0, 1, 3)), "one for each input channel"),
        (filter_direction((0, 1), (0, 1)), "Here each input channel"),
        (filter_direction(()), "has norm 1 here"),
        (filter_direction(drawn_axes=()), "not divided by its own"),
        (filter_direction(power=-1), "upside down"),
        (lambda kernel, drawn: drawn[..., 0], "where the shape (3, 3, 4, 2) belongs"),
        (lambda kernel, drawn: 0 * drawn, "times (norm of the filter"),
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
    "check_to_pixels": [
        (to_pixels(end=lambda x: x), "as floats; round"),
        (to_pixels(scale=1), "between 0 and 1"),
        (lambda x: 255 * (x + mean_and_std()[0]) * mean_and_std()[1], "Undo the last step first"),
        (lambda x: 255 * (x - mean_and_std()[0]) / mean_and_std()[1], "standardized once more"),
        (to_pixels(end=lambda x: x.astype("uint8")), "cuts off what follows the point"),
        (lambda x: to_pixels()(x)[..., ::-1], "The pixels are others"),
        (lambda x: 7, "where an array of shape (6, 8, 3)"),
        (lambda x: x[0], "where an array of shape (6, 8, 3)"),
    ],
    "check_last_block": [
        (last_block(network=False), "Nothing trains"),
        (last_block(norms=None), "A normalization trains"),
        (last_block(norms="gamma"), "its moving averages move"),
        (last_block(classifier=False), "The classifier does not train"),
        (last_block(block=False), "Convolutions of block 2 do not train"),
        (last_block(first=True), "before block 2"),
        (lambda network: True, "returned True, where the network"),
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
    "check_carries_old_rate": [
        (lambda sgd: sgd.momentum > 0, "no step"),
        (carries_old_rate(lambda before, moved: False), "Nesterov momentum still moves"),
        (carries_old_rate(lambda before, moved: True), "without momentum remembers nothing"),
        (carries_old_rate(lambda before, moved: moved != 0, rate=0.01), "remembers nothing"),
        (
            carries_old_rate(lambda before, moved: moved != 0, rate=0.01, gradient=0.0),
            "so its weights coast",
        ),
        (
            carries_old_rate(lambda before, moved: moved > 0.05, rate=0.01, start=1000.0),
            "With decay, SGD shrinks",
        ),
        (
            carries_old_rate(lambda before, moved: moved > 0.05, rate=0.01, start=100.0),
            "With decay, NesterovSGD shrinks",
        ),
        (carries_old_rate(lambda before, moved: moved), "where True or False belongs"),
    ],
    "check_channels_read": [
        (channels_read(end=lambda read, x: x), "leave the last block"),
        (channels_read(keeps=lambda keep: True), "each block returns its new maps only; you"),
        (channels_read(keeps=lambda keep: False), "each block keeps its input; you"),
        (channels_read(order=lambda encoder: encoder[::-1]), "begins with the largest maps"),
        (channels_read(skips=False), "are read as well"),
        (lambda encoder, n, k, keep: encoder[0] + encoder[1], "from below"),
        (lambda encoder, n, k, keep: 7, "the last block reads 464 channels"),
    ],
    "check_iou_from_counts": [
        (shares(lambda both, truth, said: truth), "says it everywhere"),
        (shares(lambda both, truth, said: said), "says it at one pixel"),
        (shares(lambda both, truth, said: truth + said), "subtract them once"),
        (shares(lambda both, truth, said: (truth + said) / 2), "Dice"),
        (lambda counts: np.trace(counts) / counts.sum(), "where one number for each class"),
        (lambda counts: np.ones(len(counts)), "For the counts [[90"),
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


def folded(number, name):
    """Return the cells of a notebook by id, and the solution and the measurement of a cell."""
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    return sources, "\n".join(re.findall(r"```python\n(.*?)```", sources[name], re.DOTALL))


def test_the_measurement_of_exercise_0_2_finds_the_layer_that_is_read(capsys):
    import keras

    from densenet_nb import textbook

    network = Configuration((1, 4), 12, 60, imagenet_stem=False)  # 36 channels enter block 2
    model = textbook.DenseNet(network, (8, 8, 1), 10)
    *arrays, kernel, bias = model.get_weights()
    kernel[:] = 0
    kernel[36 + 2 * 12 : 36 + 3 * 12, 7] = 1  # all say 7, because of layer 3 alone
    model.set_weights([*arrays, kernel, bias])
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    namespace = {"keras": keras, "np": np, "model": model, "images": images}
    namespace["labels"] = np.full(5, 7)
    exec(folded("00", "exercise-2")[1], namespace)
    wrong = re.findall(r"(\d+) wrong", capsys.readouterr().out)
    assert wrong == ["0", "0", "5", "0"]


def test_the_measurement_of_exercise_2_1_tells_a_copy_from_a_conversion(capsys):
    sources, answer = folded("02", "exercise-1")
    x0 = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    namespace = {"x0": x0, "np": np, "k0": 3, "k": 10}
    needed = ("imports", "composite", "two-forms", "forms-equal", "equal-code", "wrong-blocks-code")
    for name in needed:
        exec(sources[name], namespace)
    capsys.readouterr()
    exec(answer, namespace)
    copied, converted = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert copied > 0.1
    assert converted < 1e-5


def test_the_measurement_of_exercise_7_1_counts_the_subsets_that_mislead(capsys):
    differences = {"a": np.array([3.0, 1.0, -1.0, 2.0])}
    exec(folded("07", "exercise-misled-text")[1], {"differences": differences})
    assert capsys.readouterr().out == "a: one seed 25%, three seeds 0%\n"


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


OF_ARRAYS = {
    "check_carries_old_rate",
    "check_commutes",
    "check_converter",
    "check_dense_block",
    "check_filter_direction",
    "check_iou_from_counts",
    "check_is_dense_block",
    "check_last_block",
    "check_layers_without_bottleneck",
    "check_middle_way",
    "check_to_pixels",
    "check_transition",
    "check_without",
}
OF_NUMBERS = sorted(set(exercises.__all__) - OF_ARRAYS)


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
        capsys, "check_depth", lambda blocks: scalar(2 * sum(blocks) + len(blocks) + 1)
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
