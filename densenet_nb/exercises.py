"""Checks that tell a reader whether an answer is right, and if not, which misconception it shows.

A check takes the reader's function, prints one line and returns nothing: an exercise not yet
attempted, "Correct", or what the answer seems to assume and where that fails. An error raised in
the reader's function, or by calling it with the exercise's arguments, is not caught: its traceback
says more than a verdict could.
"""

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

__all__: list[str] = []

NOT_ATTEMPTED = "Not attempted yet: replace the three dots, then run this cell again."


class NotAttempted(Exception):  # noqa: N818
    """The answer is still the stub."""


class Misconception(Exception):  # noqa: N818
    """The answer is wrong in a way that has a name."""


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Turn a function that raises :class:`Misconception` into a check that prints a verdict."""

    @functools.wraps(function)
    def verdict(answer: Any) -> None:
        try:
            function(attempt(answer))
        except NotAttempted:
            print(NOT_ATTEMPTED)
        except Misconception as misconception:
            print(f"Not yet. {misconception}")
        else:
            print("Correct.")

    __all__.append(function.__name__)
    return verdict


def attempt(answer: Any) -> Callable:
    """Return the reader's function, which raises :class:`NotAttempted` if it is the stub.

    The stub's first answer is None or ``...``. Later these are answers, and wrong ones: a case
    was forgotten.
    """
    if answer is None or answer is ...:
        raise NotAttempted
    refuse(not callable(answer), f"{shown(answer)} is no function: pass it without calling it.")
    attempted = False

    def function(*arguments: Any) -> Any:
        nonlocal attempted
        found = answer(*arguments)
        if not attempted and (found is None or found is ...):
            raise NotAttempted
        attempted = True
        return found

    return function


def shown(found: Any) -> str:
    """Return what a reader's function returned as part of a line."""
    return textwrap.shorten(repr(found), 60, placeholder=" …")


def refuse(wrong: bool, misconception: str) -> None:
    """Raise :class:`Misconception` with this message if `wrong`."""
    if wrong:
        raise Misconception(misconception)


def expect(right_kind: bool, found: Any, kind: str) -> None:
    """Refuse `found` unless it is of the right kind, and say of which."""
    refuse(not right_kind, f"Your function returned {shown(found)}, where {kind} belongs.")


def number(found: Any) -> Real:
    """Return `found` if it is a number; a scalar of NumPy or TensorFlow is one."""
    if getattr(found, "shape", None) == ():
        found = np.asarray(found).item()
    expect(isinstance(found, Real), found, "a number")
    return found


def compare(found: Any, right: Any, misconceptions: dict[Any, str], otherwise: str) -> None:
    """Refuse `found` unless it equals `right`, with the message of the misconception it matches."""
    if found != right:
        raise Misconception(misconceptions.get(found, otherwise))


@check
def check_dense_layer_weights(answer: Callable[[int, int, bool], int]) -> None:
    """Exercise 3.1: the convolution weights of a dense layer."""
    for c, k in ((544, 32), (64, 32), (100, 12)):
        middle = 4 * k
        right = c * middle + 9 * middle * k
        norms = (2 * c + 2 * middle, 4 * c + 4 * middle)
        found = number(answer(c, k, True))
        misconceptions = {
            4 * c * c + 9 * 4 * c * k: "The 1x1 convolution makes 4 k maps, four growth rates, not "
            "four times its input: that slip costs c / k times as much.",
            c * middle + 9 * c * k: "The 3x3 convolution reads the 4 k maps that the 1x1 "
            "convolution makes, no longer the block's c maps.",
            c * middle + 9 * middle * c: "The 3x3 convolution makes k maps, the growth rate, not "
            "as many as the layer reads: otherwise every layer would double the channels.",
            c * middle: "The bottleneck stands before the 3x3 convolution, not in its place.",
            9 * c * k: "This is the layer without a bottleneck: `bottleneck` is not used.",
            c * middle + middle * k: "The second convolution is 3x3: nine weights for each pair of "
            "an input and an output channel.",
            right + middle + k: "These convolutions have no bias: the batch normalization after "
            "them would subtract it, and the authors' networks have none.",
        } | {
            right + n: "Count the convolutions only: γ, β and the moving statistics of batch "
            "normalization are not convolution weights."
            for n in norms
        }
        compare(
            found,
            right,
            misconceptions,
            f"For c = {c}, k = {k} the convolutions 1x1, c to 4 k, and 3x3, 4 k to k, have "
            f"{right:,} weights, not {found}.",
        )
        compare(
            number(answer(c, k, False)),
            9 * c * k,
            {right: "Without a bottleneck there is one 3x3 convolution, straight from c to k."},
            f"Without a bottleneck, c = {c} and k = {k} need one 3x3 kernel: {9 * c * k:,} "
            "weights.",
        )


@check
def check_break_even(answer: Callable[[int, int, int], float]) -> None:
    """Exercise 3.2: the width from which a bottleneck of any width and kernel size saves."""
    for k, width, size in ((32, 4, 3), (32, 2, 3), (12, 4, 3), (12, 2, 5)):
        right = size**2 * width * k / (size**2 - width)
        found = number(answer(k, width, size))
        refuse(
            math.isclose(found, width * k),
            "At c = width x k the 1x1 convolution neither widens nor narrows. It saves nothing "
            "yet: the kernel after it must first pay for the 1x1 weights.",
        )
        refuse(
            not math.isclose(found, right) and math.isclose(found, 7.2 * k),
            f"7.2 k holds for width 4 and size 3 only, not for width {width} and size {size}.",
        )
        refuse(
            math.isclose(found, size**2 * k / (size**2 - width)),
            "The second convolution reads width x k channels, not k.",
        )
        refuse(
            not math.isclose(found, right) and math.isclose(found, 9 * width * k / (9 - width)),
            f"The 9 is the area of a 3x3 kernel: with size {size} it is {size**2}.",
        )
        refuse(
            not math.isclose(found, right),
            "Set size² c k equal to c width k + size² width k² and solve for c. For "
            f"k = {k}, width = {width}, size = {size} that is {right:.6g}, not {found}.",
        )
    for width in (9, 12):
        try:
            found = answer(32, width, 3)
        except ZeroDivisionError as error:
            found = error
        refuse(
            not isinstance(found, Real) or found != math.inf,
            f"With width {width} and size 3 the 1x1 convolution alone has as many weights as the "
            "3x3 convolution it replaces, or more: it never saves, so return math.inf, not "
            f"{shown(found)}.",
        )


@check
def check_transition(answer: Callable[[Any, float], Any]) -> None:
    """Exercise 4.1: a transition between two dense blocks."""
    import keras

    from densenet_nb import textbook

    m, compression = 35, 0.5  # floor(17.5) = 17; ceil and Python's round give 18

    def maps_after(x: Any) -> Any:
        found = answer(x, compression)
        is_maps = keras.backend.is_keras_tensor(found) and len(found.shape) == 4
        expect(is_maps, found, "a Keras tensor (batch, height, width, channels)")
        return found

    inputs = keras.Input((6, 10, m))
    outputs = maps_after(inputs)
    _, height, width, channels = outputs.shape
    refuse(channels == m, "All channels are kept: the 1x1 convolution makes floor(θ m) of m.")
    refuse(
        channels == 18,
        "θ m = 17.5 became 18: the paper's ⌊θ m⌋ rounds down. (Python's round goes to the even "
        "neighbor, so it would agree for 12.5 and hide the fault.)",
    )
    refuse(channels != 17, f"floor(0.5 x 35) = 17 channels must leave, not {channels}.")
    refuse((height, width) == (6, 10), "The maps keep their size: the 2x2 pooling is missing.")
    refuse((height, width) != (3, 5), f"(6, 10) pixels must become (3, 5), not {height, width}.")

    model = keras.Model(inputs, outputs)
    shapes = [tuple(weight.shape) for weight in model.weights]
    refuse((17,) in shapes and shapes.count((17,)) >= 4, "Batch normalization comes first, on m.")
    refuse((17,) in shapes, "The convolution has no bias.")
    refuse(shapes.count((m,)) != 4, "A transition starts with batch normalization of its m maps.")
    refuse((1, 1, m, 17) not in shapes, "The convolution is 1x1: a kernel of (1, 1, m, ⌊θ m⌋).")
    refuse(len(shapes) != 5, "One batch normalization and one convolution hold all the weights.")

    H = textbook.CompositeFunction()
    x = H.activate(inputs)
    right = keras.Model(inputs, textbook.transition(inputs, compression, H))
    maximum = "Max pooling: the paper's transition averages. It agrees in shapes and weights only."
    misconceptions = {
        maximum: keras.layers.MaxPooling2D(2)(H.convolve(x, 17, 1)),
        maximum + " ": H.convolve(keras.layers.MaxPooling2D(2)(x), 17, 1),
        "A stride of 2 reads one pixel of four and throws three away; averaging reads all four.": (
            H.convolve(x, 17, 1)[:, ::2, ::2]
        ),
        "The pooling came before ReLU, and ReLU does not commute with an average.": H.convolve(
            H.activate(keras.layers.AveragePooling2D(2)(inputs)), 17, 1
        ),
        "The ReLU between batch normalization and convolution is missing.": (
            keras.layers.AveragePooling2D(2)(
                H.convolve(keras.layers.BatchNormalization(epsilon=H.epsilon)(inputs), 17, 1)
            )
        ),
    }
    random = np.random.default_rng(4)
    weights = [random.uniform(0.5, 1.5, shape).astype("float32") for shape in shapes]
    weights = [w - 1 if w.ndim == 4 else w for w in weights]
    maps = random.normal(size=(2, 6, 10, m)).astype("float32")

    def maps_of(network: Any) -> np.ndarray:
        network.set_weights(weights)
        return np.asarray(network(maps, training=False))

    found = maps_of(model)
    if not np.allclose(found, maps_of(right), atol=1e-2):  # rounding, and Keras's other epsilon
        for message, tensor in misconceptions.items():
            refuse(np.allclose(found, maps_of(keras.Model(inputs, tensor)), atol=1e-2), message)
        raise Misconception("Shapes and weights agree, values do not: BN, ReLU, 1x1, average.")
    odd = maps_after(keras.Input((7, 11, m))).shape
    refuse(
        tuple(odd[1:3]) != (3, 5),
        'With padding="same" a half window counts as a pixel: 7 x 11 pixels become 3 x 5 in the '
        "paper's networks, not 4 x 6.",
    )


@check
def check_block_outputs(answer: Callable[[Sequence[int], int, int, float], Any]) -> None:
    """Exercise 4.2: the channels that leave each dense block."""

    def walk(keep: Callable[[int], int]) -> list[int]:
        outputs, channels = [], k0
        for num_layers in blocks:
            outputs.append(channels + num_layers * k)
            channels = keep(outputs[-1])
        return outputs

    for blocks, k, k0, theta in (((6, 12, 24, 16), 32, 64, 0.5), ((3, 3, 3), 7, 14, 0.5)):
        right = walk(lambda m, theta=theta: math.floor(theta * m))
        fresh = [k0, *(math.floor(theta * (k0 + layers * k)) for layers in blocks[:-1])]
        misconceptions = {
            tuple(walk(lambda m: m)): "The count goes on as if nothing had been dropped: after a "
            "transition, floor(θ m) channels enter the next block.",
            (*right[:-1], math.floor(theta * right[-1])): "No transition follows the last block: "
            "batch normalization, ReLU and global pooling do.",
            tuple(
                enter + layers * k for enter, layers in zip(fresh, blocks, strict=True)
            ): "Each transition starts again from the stem's k0: the channels must carry over "
            "from block to block.",
            tuple(
                k0 if index == 0 else math.floor(theta * right[index - 1])
                for index in range(len(blocks))
            ): "These are the channels that enter each block; those that leave are asked.",
            tuple(walk(lambda m, theta=theta: math.ceil(theta * m))): "θ m is rounded up: the "
            "paper's ⌊θ m⌋ rounds down, 17.5 to 17.",
        }
        found = answer(blocks, k, k0, theta)
        expect(
            isinstance(found, (list, tuple, np.ndarray))
            and all(isinstance(c, Real) for c in found),
            found,
            "a list of numbers, one for each block,",
        )
        compare(
            tuple(found),
            tuple(right),
            misconceptions,
            f"For blocks {blocks}, k = {k}, k0 = {k0}, θ = {theta}: {right} leave, not "
            f"{list(found)}.",
        )


@check
def check_channels_read(answer: Callable[[int, int, int], int]) -> None:
    """Exercise 2.1: the channels that a layer of a dense block reads."""
    for k0, k, layer in ((64, 32, 16), (3, 10, 3), (24, 12, 1)):
        right = k0 + (layer - 1) * k
        misconceptions = {
            k0 + layer * k: f"Off by one: that leaves layer {layer}. Layer {layer} reads what "
            f"the {layer - 1} layers before it made; layer 1 reads k0.",
            (layer - 1) * k: "The maps that enter the block are forgotten: add k0.",
            k: "k is what each layer makes; it reads all that stands before it.",
            k0: "Added maps would stay k0; concatenated maps pile up, k from each layer before.",
            k0 + k: f"Only one layer's k maps are counted: layer {layer} reads those of all "
            f"{layer - 1} layers before it.",
            k0 * 2 ** (layer - 1): "A layer adds k maps; it does not double what it reads.",
        }
        compare(
            number(answer(k0, k, layer)),
            right,
            misconceptions,
            f"For k0 = {k0}, k = {k}, layer {layer} reads k0 and {layer - 1} times k: {right} "
            "channels.",
        )


@check
def check_dense_block(answer: Callable[[Any, list[Callable]], Any]) -> None:
    """Exercise 2.2: a dense block, given its composite functions."""

    def functions(k: int) -> list[Callable]:
        """Make three H: fixed 1x1 convolutions, whatever the number of channels read."""

        def function(index: int, x: Any) -> np.ndarray:
            m = np.shape(x)[-1]
            return np.asarray(x) @ np.random.default_rng([index, m]).normal(size=(m, k))

        return [functools.partial(function, index) for index in range(3)]

    def features(read: Callable[[list], Any]) -> list[np.ndarray]:
        """Return x_0 and the maps each layer makes of what it is given to `read`."""
        maps = [x]
        for h in H:
            maps.append(h(read(maps)))
        return maps

    def together(maps: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(maps, axis=-1)

    def maps_after(x: np.ndarray, H: list[Callable]) -> np.ndarray:  # noqa: N803
        found = answer(x.copy(), H)
        refuse(
            isinstance(found, (list, tuple)),
            "This is the list of maps: concatenate it, so that the next layer can read it.",
        )
        maps = np.asarray(found)
        is_maps = np.issubdtype(maps.dtype, np.number) and maps.ndim >= 4
        expect(is_maps, found, "an array (batch, height, width, channels)")
        return maps

    # With k0 = k even a sum or a wrong axis gives a result, and so its misconception a name.
    x, H = np.random.default_rng(2).normal(size=(2, 3, 5, 2)), functions(2)  # noqa: N806
    found = maps_after(x, H)
    refuse(
        found.shape[:-1] != x.shape[:-1],
        "Wrong axis: maps are put side by side along the last axis, the channels; batch, height "
        "and width stay as they are.",
    )
    right = features(together)
    chain = features(lambda maps: maps[-1])
    newest_first = x
    for h in H:
        newest_first = together([h(newest_first), newest_first])
    misconceptions = {
        "The maps are added, as in ResNet: then k0 channels leave. Concatenate them.": sum(
            features(sum)
        ),
        "Nothing is concatenated: this is a plain chain of layers.": chain[-1],
        "Only the last layer's maps are returned: the next part must read all of them.": right[-1],
        "The block's input is forgotten: x_0 is the first of the maps that leave.": together(
            right[1:]
        ),
        "The last layer's maps are missing: they are concatenated too.": together(right[:-1]),
        "Each layer reads only the layer before it; it must read all of them.": together(chain),
        "Each layer reads only x_0; it must read the maps made since as well.": together(
            features(lambda maps: maps[0])
        ),
        "All maps are there, the newest first: the paper has [x_0, x_1, …], and weights that "
        "others trained expect that order.": newest_first,
    }
    for message, wrong in misconceptions.items():
        refuse(found.shape == wrong.shape and np.allclose(found, wrong), message)
    for k0, k in ((2, 2), (3, 2)):
        x, H = np.random.default_rng(3).normal(size=(2, 4, 5, k0)), functions(k)  # noqa: N806
        right, found = together(features(together)), maps_after(x, H)
        refuse(
            found.shape != right.shape or not np.allclose(found, right),
            f"With k0 = {k0} and k = {k} the result is another one: layer l reads x_0 to x_(l-1) "
            f"concatenated, and {k0 + 3 * k} channels leave three layers.",
        )


@check
def check_dense_block_parameters(answer: Callable[[int, int, int], int]) -> None:
    """Exercise 5.1: the trainable parameters of a dense block with bottlenecks."""

    def count(
        reads: Callable[[int], int],
        middle: Callable[[int], int] = lambda c: 4 * k,
        norm: int = 2,
        bias: int = 0,
    ) -> int:
        """Add up the layers; `norm` and `bias` are parameters per channel."""
        total = 0
        for c in map(reads, range(num_layers)):
            m = middle(c)
            total += norm * (c + m) + c * m + 9 * m * k + bias * (m + k)
        return total

    for k0, num_layers, k in ((64, 6, 32), (256, 24, 32), (30, 5, 12)):

        def so_far(index: int, k0: int = k0, k: int = k) -> int:
            return k0 + index * k

        right = count(so_far)
        misconceptions = {
            count(lambda index, k0=k0: k0): "Every layer reads k0 channels here: the input must "
            "grow by k from layer to layer.",
            count(lambda index: so_far(index + 1)): "Off by one: the first layer reads k0 "
            "channels, not k0 + k; the last maps made are read outside the block.",
            count(so_far, norm=4): "Moving means and variances are counted: no gradient trains "
            "them. γ and β are two parameters a channel.",
            count(so_far, norm=0): "γ and β are forgotten: each of the two batch normalizations "
            "has two parameters for each channel that it reads.",
            count(so_far, bias=1): "The convolutions have no bias: the next batch normalization "
            "would subtract it.",
            count(so_far, middle=lambda c: 4 * c): "The bottleneck makes 4 k channels, not four "
            "times its input.",
            sum(2 * c + 9 * c * k for c in map(so_far, range(num_layers))): "This is the block "
            "without bottlenecks: a 1x1 convolution to 4 k channels comes first.",
            sum(2 * c + 4 * c * k + 36 * k**2 for c in map(so_far, range(num_layers))): "The "
            "second batch normalization is missing: it reads the 4 k channels in the middle.",
        }
        compare(
            number(answer(k0, num_layers, k)),
            right,
            misconceptions,
            f"For k0 = {k0}, {num_layers} layers and k = {k} the block has {right:,} trainable "
            "parameters: add 2 c + 4 c k + 8 k + 36 k² over its layers, c = k0, k0 + k, …",
        )


@check
def check_is_dense_block(answer: Callable[[Callable], bool]) -> None:
    """Exercise 11.1: a test that tells dense blocks from others."""

    def together(maps: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(maps, axis=-1)

    def block(read: Callable, returned: Callable = together) -> Callable:
        """Return a block whose layers read `read(maps)` and that returns `returned(maps)`."""

        def function(x: np.ndarray, H: list[Callable]) -> np.ndarray:  # noqa: N803
            maps = [x]
            for h in H:
                maps.append(h(read(maps)))
            return returned(maps)

        return function

    def growing(x: np.ndarray, H: list[Callable]) -> np.ndarray:  # noqa: N803
        for h in H:
            x = together([x, h(x)])
        return x

    def newest_first(x: np.ndarray, H: list[Callable]) -> np.ndarray:  # noqa: N803
        for h in H:
            x = together([h(x), x])
        return x

    def verdict(tested: Callable) -> bool:
        found = answer(tested)
        expect(isinstance(found, (bool, np.bool_)), found, "True or False")
        return bool(found)

    dense = {"keeps a list of maps": block(together), "lets one array grow": growing}
    for what, right in dense.items():
        refuse(
            not verdict(right),
            f"Your test refuses a dense block that {what}. Is it the same function as yours?",
        )
    wrong = {
        "returns the last layer's maps only: compare the shape of what it returns.": block(
            together, lambda maps: maps[-1]
        ),
        "stops after one layer. Give it several functions.": lambda x, H: growing(x, H[:1]),  # noqa: N803
        "reads only the layer before. Every shape is right if H takes any number of channels: "
        "compare values.": block(lambda maps: maps[-1]),
        "gives every layer the same function. Your functions must differ.": lambda x, H: growing(  # noqa: N803
            x, H[:1] * len(H)
        ),
        "puts the newest maps first. Compare the values of every channel in its place, and let H "
        "tell its input's channels apart.": newest_first,
        "lets the third layer miss what the first one made. Give it three functions or more.": (
            block(lambda maps: together(maps[:1] + maps[-1:] if len(maps) > 1 else maps))
        ),
        "activates what enters it, so that x is not handed on as it is. Give it an x with negative "
        "values.": lambda x, H: growing(np.maximum(x, 0), H),  # noqa: N803
    }
    for what, block_to_refuse in wrong.items():
        try:
            passes = verdict(block_to_refuse)
        except Misconception:
            raise
        except Exception:  # noqa: BLE001
            passes = False  # an error is a refusal; in a right block it has been raised above
        refuse(passes, f"Your test lets through a block that {what}")


@check
def check_last_side(answer: Callable[[int], int]) -> None:
    """Exercise 5.2: the side of the last feature map of DenseNet-121."""

    def walk(side: int, steps: Sequence[Callable[[int], int]]) -> int:
        for step in steps:
            side = step(side)
        return side

    def up(n: int) -> int:
        return (n + 1) // 2

    def down(n: int) -> int:
        return n // 2

    four = (
        "The side is halved four times here, not five: twice in the stem (the convolution and the "
        "max pooling have stride 2 each), then in each of the three transitions."
    )
    unpadded = (lambda n: (n - 7) // 2 + 1, lambda n: (n - 3) // 2 + 1)
    for pixels in (224, 221, 220, 299, 65):
        right = walk(pixels, (up, up, down, down, down))
        misconceptions = {
            walk(pixels, (*unpadded, down, down, down)): "The padding of the stem is forgotten: "
            "3 pixels on every side before the 7x7 convolution, 1 before the max pooling.",
            walk(pixels, (up, up, up, up, up)): "Everything is rounded up, as with "
            'padding="same" in the transitions. Their 2x2 windows take whole pairs only: an odd '
            "row is left out.",
            walk(pixels, (down, down, down, down, down)): "Everything is rounded down. The "
            "padded stem rounds up: 221 pixels become 111, then 56.",
            walk(pixels, (up, up, down, down, down, down)): "No transition follows the last "
            "block: there are three.",
            walk(pixels, (up, up, down, down)): four,
            walk(pixels, (up, down, down, down)): four,
            walk(pixels, (up, up)): "This is the side after the stem, in block 1.",
        }
        compare(
            number(answer(pixels)),
            right,
            misconceptions,
            f"{pixels} pixels end as {right}: the stem halves twice and rounds up, the three "
            "transitions halve and round down.",
        )


@check
def check_depth(answer: Callable[[Sequence[int]], int]) -> None:
    """Exercise 0.1: the depth of a DenseNet with bottlenecks."""
    for blocks in ((6, 12, 24, 16), (4, 4)):
        layers, transitions = sum(blocks), len(blocks) - 1
        right = 1 + 2 * layers + transitions + 1
        misconceptions = {
            layers: "These are the dense layers; count convolutions, and what stands around them.",
            1 + layers + transitions + 1: "A dense layer with a bottleneck has two convolutions.",
            1 + 2 * layers + 1: "A transition has a 1x1 convolution too.",
            1 + 2 * layers + transitions + 2: "No transition follows the last block.",
            1 + 2 * layers + transitions: "One of the two ends is missing: the stem's convolution "
            "and the classifier both have weights.",
            2 * layers + transitions: "Both ends are missing: the stem's convolution and the "
            "classifier have weights.",
        }
        found = number(answer(blocks))
        compare(found, right, misconceptions, f"Blocks {blocks} give depth {right}, not {found}.")


@check
def check_dense_slope(answer: Callable[[Sequence[int]], int]) -> None:
    """Exercise 1.1: the derivative of a densely connected chain of numbers."""
    for slopes in ((2, 3, 5), (7,), (1, 1, 1, 1, 1)):
        *earlier, last = slopes
        right = last * math.prod(1 + slope for slope in earlier)
        misconceptions = {
            sum(slopes): "These are the paths through a single H, added up; paths through several "
            "multiply their slopes, and H_L ends them all.",
            math.prod(1 + slope for slope in slopes): "That is ResNet's. Here x_L does not contain "
            "x_(L-1) unchanged: every path ends with H_L.",
            math.prod(slopes): "That is the plain chain's: only the longest of the paths.",
            last: "Only the direct path from x_0 to H_L is counted.",
            1 + right: "No path leads around H_L: x_0 reaches x_L only through it.",
        }
        found = number(answer(slopes))
        compare(found, right, misconceptions, f"Slopes {slopes} give {right}, not {found}.")


@check
def check_connections(answer: Callable[[Sequence[int]], int]) -> None:
    """Exercise 1.2: the direct connections of a network of several dense blocks."""
    for blocks in ((4,), (3, 5), (6, 12, 24, 16)):
        layers = sum(blocks)
        right = sum(n * (n + 1) // 2 for n in blocks)
        misconceptions = {
            layers * (layers + 1) // 2: "That is one block of all the layers. No connection passes "
            "a transition: sum over the blocks.",
            sum(n * (n - 1) // 2 for n in blocks): "What enters a block is a source too: layer 1 "
            "has one connection, not none.",
            layers: "These connections are a chain's, one to each layer; layer l of a block has l.",
            sum(n * n for n in blocks): "Each pair is counted from both ends, or layers read what "
            "comes after them.",
            sum((n + 1) * (n + 2) // 2 for n in blocks): "The concatenation at the end of a block "
            "is counted as one more layer.",
        }
        found = number(answer(blocks))
        compare(found, right, misconceptions, f"Blocks {blocks} have {right}, not {found}.")


@check
def check_kept_maps(answer: Callable[[int, int, int], int]) -> None:
    """Exercise 9.1: the feature maps that a block of the textbook form keeps."""
    for k0, n, k in ((3, 4, 10), (64, 6, 32), (24, 1, 12)):
        concatenated = n * k0 + k * n * (n - 1) // 2
        right = 2 * concatenated + 8 * k * n
        misconceptions = {
            k0 + n * k: "That counts each map once. Each layer's concatenation is a tensor of its "
            "own, with copies of all maps before it.",
            concatenated + 4 * k * n: "Each input is kept twice: batch normalization's gradient "
            "reads it before, ReLU's and the convolution's after.",
            2 * concatenated: "The bottleneck is forgotten: the 4 k maps between the two "
            "convolutions are kept as well.",
            2 * concatenated + 4 * k * n: "The 4 k maps between the convolutions are kept twice "
            "too, before and after their own BN-ReLU.",
            2 * concatenated + 2 * k * n: "The 1x1 convolution makes 4 k maps, not k.",
            2 * (concatenated + n * k) + 8 * k * n: "Off by one: layer l reads what the l - 1 "
            "layers before it made; layer 1 reads k0.",
            right + n * k: "The k new maps are in the next concatenation already; by themselves "
            "no gradient reads them.",
            2 * (k0 + (n - 1) * k) + 8 * k: "That is the last layer alone: add up all of them.",
        }
        found = number(answer(k0, n, k))
        compare(
            found,
            right,
            misconceptions,
            f"For k0 = {k0}, n = {n}, k = {k} the layers keep 2 c + 8 k maps each, together "
            f"{right:,}, not {found}.",
        )


@check
def check_largest_batch(answer: Callable[[Any, int, bool], int]) -> None:
    """Exercise 9.2: the largest batch whose training step fits into a memory."""
    from densenet_nb import cost
    from densenet_nb.configurations import CONFIGURATIONS

    network = CONFIGURATIONS["DenseNet121"]
    trainable, total = cost.parameters(network)
    for memory_efficient, images, share_left in ((True, 40, 0.5), (False, 20, 0)):
        image, other = (
            cost.activation_bytes(network, memory_efficient=form)
            for form in (memory_efficient, not memory_efficient)
        )
        fixed = 4 * (total + 2 * trainable)  # weights, gradients, momenta
        memory = fixed + images * image + int(share_left * image)
        misconceptions = {
            memory // image: "The weights are forgotten: they, their gradients and the momenta "
            "take their bytes first.",
            (memory - 4 * total) // image: "Training has two more arrays as large as the trainable "
            "weights: their gradients and the momenta.",
            (memory - fixed) // other: "`memory_efficient` is not used, or the wrong way round.",
            (memory - fixed) / image: "A batch is a whole number of images: round down.",
            images + 1: "Rounded up, the last image does not fit: round down.",
        }
        if share_left == 0:
            misconceptions[(memory - 12 * total) // image] = (
                "The moving statistics have neither gradients nor momenta: only the trainable "
                "parameters count three times."
            )
        found = number(answer(network, memory, memory_efficient))
        compare(
            found,
            images,
            misconceptions,
            f"{memory:,} bytes hold {fixed:,} for the weights and {images} times {image:,}; you "
            f"return {found}.",
        )
    found = number(answer(network, 2**20, True))
    refuse(
        found != 0,
        f"A MiB does not even hold the weights: no batch fits, so return 0, not {shown(found)}.",
    )
