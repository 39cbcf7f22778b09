"""Checks that tell a reader whether an answer is right, and if not, which misconception it shows.

A check takes the reader's function, prints one line and returns nothing: an exercise not yet
attempted, "Correct", or what the answer seems to assume and where that fails. An error raised in
the reader's function, or by calling it with the exercise's arguments, is not caught: its traceback
says more than a verdict could.
"""

import functools
import itertools
import math
import textwrap
import time
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
def check_layers_without_bottleneck(
    answer: Callable[[Sequence[int], Sequence[int], int], tuple[Sequence[int], int]],
) -> None:
    """Exercise 3.1: the layers that cost fewer multiply-adds without a bottleneck."""
    from densenet_nb import cost
    from densenet_nb.configurations import CONFIGURATIONS

    for name in ("DenseNet121", "DenseNet161"):
        network = CONFIGURATIONS[name]
        k = network.growth_rate
        rows = [row for row in cost.rows(network) if row.name.startswith("block")]
        inputs = [row.inputs for row in rows]
        pixels = [row.height * row.width for row in rows]
        found = answer(list(inputs), list(pixels), k)
        pair = isinstance(found, (tuple, list)) and len(found) == 2
        expect(pair and np.ndim(found[0]) == 1, found, "a list of layers and a number")
        gains = [36 * k**2 - 5 * c * k for c in inputs]
        right = {layer for layer, gain in enumerate(gains) if gain > 0}
        chosen = set(found[0])
        misconceptions = {
            f"230.4 is 7.2 x 32; here k = {k}.": {
                layer for layer, c in enumerate(inputs) if c < 230.4
            },
            "Counted from 0, the first layer is layer 0.": {layer + 1 for layer in right},
            "At 4 k channels the 1x1 convolution begins to reduce something, but it saves nothing "
            "yet: the 3x3 convolution behind it costs 36 k² first.": {
                layer for layer, c in enumerate(inputs) if c < 4 * k
            },
            "Where the 1x1 convolution keeps the width it costs, too, and so it does for a while "
            "beyond 4 k: the 3x3 convolution behind it costs 36 k².": {
                layer for layer, c in enumerate(inputs) if c <= 4 * k
            },
            "The limit is not the end of block 1: the first layers of block 2 read few channels "
            "as well.": set(range(network.blocks[0])),
            "These are the layers that cost less with their bottleneck.": {*range(len(inputs))}
            - right,
            "Not in every layer: most save multiply-adds by their bottleneck.": {
                *range(len(inputs))
            },
        }
        for message, wrong in misconceptions.items():
            refuse(chosen == wrong != right, message)
        refuse(
            chosen != right,
            f"In {name} {len(right)} layers cost less without a bottleneck; {len(chosen)} are "
            "chosen here, or others. Compare 9 c k with 4 c k + 36 k², layer by layer.",
        )
        saved = sum(gains[layer] * pixels[layer] for layer in right)
        misconceptions = {
            -saved: "What is saved is counted as positive: with the bottleneck less without.",
            sum(gains[layer] for layer in right): "These are weights: each is used at every pixel "
            "of its layer.",
            2 * saved: "These are FLOPs, two for each multiply-add.",
            sum((36 * k**2 + 4 * k * inputs[i]) * pixels[i] for i in right): "A convolution "
            "remains: subtract the 9 c k of the 3x3 convolution that the bottleneck leaves.",
            sum(4 * k * inputs[i] * pixels[i] for i in right): "With the 1x1 convolution the 3x3 "
            "convolution changes as well: it reads c channels, no longer 4 k.",
            sum(gains[layer] * p for layer, p in enumerate(pixels)): "Only the chosen layers lose "
            "their bottleneck.",
        }
        compare(
            number(found[1]),
            saved,
            misconceptions,
            f"The right layers of {name} save {saved:,} multiply-adds, not {found[1]}: add "
            "(4 c k + 36 k² - 9 c k) times the pixels over them.",
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
def check_seconds(answer: Callable[[Callable[[], None]], float]) -> None:
    """Exercise 3.3: how long a call takes once the first is over."""
    calls: list[float] = []

    def function() -> None:
        start = time.perf_counter()
        time.sleep(0.002 if calls else 0.05)  # the first prepares things
        calls.append(time.perf_counter() - start)

    found = number(answer(function))
    refuse(not calls, "The function was never called: a time is measured, not computed.")
    first, *warm = calls
    refuse(
        not warm,
        "The function was called once, and the first call is not typical: call it once before "
        "the clock starts.",
    )
    refuse(
        len(warm) < 3,
        f"{len(warm)} warm calls say little: one of them may have been disturbed. Take more.",
    )
    refuse(
        found > 0.5 * sum(warm),
        "That is the time of all calls, or the first is among them: time single calls, after the "
        "first.",
    )
    refuse(
        found > 1.1 * max(warm),
        "The first call is in the average: it took "
        f"{first / min(warm):.0f} times as long as another. Leave it out.",
    )
    refuse(
        found < min(warm),
        f"No warm call was as short as {found:.2g} s. Is the result in seconds, and is one whole "
        "call between the two looks at the clock?",
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
def check_commutes(answer: Callable[[Callable, Callable], bool]) -> None:
    """Exercise 4.2: whether an operation may change places with a pooling, by trying."""
    import keras

    average, maximum = keras.layers.AveragePooling2D(2), keras.layers.MaxPooling2D(2)
    convolutions = {
        size: keras.layers.Conv2D(
            4,
            size,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(seed=size),
        )
        for size in (1, 3)
    }
    relu, leaky = keras.layers.ReLU(), keras.layers.LeakyReLU(negative_slope=0.5)
    flip = keras.layers.Rescaling(-1.0)
    cases = (
        ("a 1x1 convolution", convolutions[1], "average", average, True),
        ("ReLU", relu, "average", average, False),
        ("ReLU", relu, "max", maximum, True),
        ("a 3x3 convolution", convolutions[3], "average", average, False),
        ("a change of sign", flip, "max", maximum, False),
        ("a leaky ReLU of slope 0.5", leaky, "average", average, False),
    )
    for name, operation, kind, pool, right in cases:
        given: list[np.ndarray] = []
        pooled: list[np.ndarray] = []

        def operate(x: Any, operation: Any = operation, given: list = given) -> Any:
            given.append(np.asarray(x))
            return operation(x)

        def pooling(x: Any, pool: Any = pool, pooled: list = pooled) -> Any:
            pooled.append(np.asarray(x))
            return pool(x)

        found = answer(operate, pooling)
        expect(isinstance(found, (bool, np.bool_)), found, "True or False")
        refuse(
            not given or not pooled,
            "Nothing was tried: give maps to both orders and compare what comes out.",
        )
        refuse(
            len(given) < 2 or len(pooled) < 2,
            "Only one order was tried: compare pool(operation(x)) with operation(pool(x)).",
        )
        maps = max(given, key=np.size)
        refuse(
            found and not right and np.ptp(maps, axis=(1, 2)).max() == 0,
            "Your maps are the same at every pixel. On such maps pooling changes nothing, and "
            "everything commutes with it.",
        )
        refuse(
            found and not right and (maps.min() >= 0 or maps.max() <= 0),
            "Your maps have values of one sign only. There ReLU does nothing, or everything; try "
            "both signs.",
        )
        refuse(
            right and not found and kind == "average",
            f"You found that {name} and average pooling do not commute. They do, to rounding: "
            "float32 sums in another order differ in their last bits. Allow for 1%.",
        )
        refuse(
            found != right,
            f"You found that {name} and {kind} pooling {'do' if found else 'do not'} commute. Do "
            "you compare all values, and the size of their difference with the size of the maps?",
        )


@check
def check_converter(answer: Callable[[list[np.ndarray], int, int], list[np.ndarray]]) -> None:
    """Exercise 2.1: weights of a block that concatenates new maps first, for one of the paper's."""

    def block(x: np.ndarray, weights: list, newest_first: bool = False) -> np.ndarray:
        """Return what leaves a block of BN-ReLU-conv layers with these weights, five a layer."""
        for start in range(0, len(weights), 5):
            gamma, beta, mean, variance, kernel = weights[start : start + 5]
            maps = np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta, 0)
            padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
            new = np.einsum("bhwmij,ijmk->bhwk", windows, kernel)
            x = np.concatenate([new, x] if newest_first else [x, new], axis=-1)
        return x

    def converted(order: Callable[[int], Any], arrays: Sequence[int] = range(5)) -> list:
        """Return the weights with these arrays of each layer put in `order(layer)`."""
        result = list(weights)
        for index, array in enumerate(weights):
            if index % 5 in arrays:
                result[index] = np.take(array, order(index // 5), axis=-2 if array.ndim > 1 else 0)
        return result

    def places(layer: int) -> np.ndarray:
        """Return where the channels of [x_0, x_1, …] stand if the newest come first."""
        made = [np.arange((layer - 1 - i) * k, (layer - i) * k) for i in range(layer)]
        return np.concatenate([np.arange(k0) + layer * k, *made])

    k0, k = 3, 2
    random = np.random.default_rng(21)
    weights: list[np.ndarray] = []
    for m in (k0, k0 + k, k0 + 2 * k):
        weights += [random.uniform(0.5, 1.5, m) for _ in range(4)]
        weights.append(random.normal(size=(3, 3, m, k)))
    found = answer([array.copy() for array in weights], k0, k)
    expect(isinstance(found, (list, tuple)), found, "a list of arrays")
    refuse(
        len(found) != len(weights),
        f"{len(weights)} arrays came in, five for each layer, and {len(found)} went out.",
    )
    for index, (ours, theirs) in enumerate(zip(weights, found, strict=True)):
        refuse(
            np.shape(theirs) != ours.shape,
            f"Array {index} had the shape {ours.shape} and now has {np.shape(theirs)}: channels "
            "change places, and none is added or lost.",
        )

    misconceptions = {
        "These are the weights as they came: from layer 2 on, each kernel would meet the wrong "
        "maps.": weights,
        "The kernels are right, but batch normalization scales and shifts what it reads channel by "
        "channel: its arrays must be put in order too.": converted(places, [4]),
        "γ, β and the kernels are right. The moving mean and variance belong to channels as well."
        "": converted(places, [0, 1, 4]),
        "The channels are all reversed. The *pieces* x_0, x_1, … change places; within a piece the "
        "channels keep their order.": converted(lambda layer: np.arange(k0 + layer * k)[::-1]),
        "This is the permutation the other way around, as if you wanted the newest first."
        "": converted(lambda layer: np.argsort(places(layer))),
        "x_0 comes first now, but the layers after it are still the newest first.": converted(
            lambda layer: np.roll(np.arange(k0 + layer * k), k0)
        ),
    }
    for message, wrong in misconceptions.items():
        refuse(all(map(np.allclose, found, wrong)), message)
    x = random.normal(size=(2, 4, 5, k0))
    theirs = block(x, weights, newest_first=True)[..., places(3)]
    refuse(
        not np.allclose(block(x, list(found)), theirs),
        "Shapes agree, outputs do not. Layer l of the one network reads [x_(l-1), …, x_1, x_0], "
        "and of the other [x_0, x_1, …, x_(l-1)]: say for each channel of the second where it "
        "stands in the first.",
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
def check_misled(answer: Callable[[np.ndarray, int], float]) -> None:
    """Exercise 7.1: how often a few seeds say the opposite of all."""
    for differences, n in (((4, -4, 3, -2, 2), 2), ((2, -3, 1, -2, -4), 3)):
        sign = np.sign(sum(differences))
        signed = [sign * difference for difference in differences]
        every = list(itertools.combinations(signed, n))

        def share(subsets: list, opposite: Callable[[Any], bool]) -> float:
            return float(np.mean([opposite(chosen) for chosen in subsets]))

        def against(chosen: Sequence[float]) -> bool:
            return sum(chosen) < 0

        right = share(every, against)
        misconceptions = {
            "This is the number of subsets; their share is asked for.": right * len(every),
            "This is in percent; a share lies between 0 and 1.": 100 * right,
            "These subsets agree with all seeds; count the others.": 1 - right,
            "The mean of all may be negative, too. Then the subsets with a positive mean have the "
            "other sign.": share(list(itertools.combinations(differences, n)), against),
            "A mean of 0 has no sign, so it does not say the opposite.": share(
                every, lambda chosen: sum(chosen) <= 0
            ),
            "Here a seed may be drawn twice. A subset has each seed once.": share(
                list(itertools.product(signed, repeat=n)), against
            ),
            "Only neighbors were taken together; take every subset of the seeds.": share(
                [signed[i : i + n] for i in range(len(signed) - n + 1)], against
            ),
            "Here the seeds of a subset vote. The rule compares their mean with 0.": share(
                every, lambda chosen: sum(d < 0 for d in chosen) > len(chosen) / 2
            ),
            "These are single seeds, whatever n is.": share([[d] for d in signed], against),
        }
        found = number(answer(np.array(differences, float), n))
        for message, wrong in misconceptions.items():
            refuse(math.isclose(found, wrong) and not math.isclose(found, right), message)
        refuse(
            not math.isclose(found, right),
            f"For {differences} and n = {n} the share is {right:.4f}, not {found:.4f}: of "
            f"{len(every)} subsets, those whose mean has the other sign.",
        )


@check
def check_equal_memory(answer: Callable[[int], int]) -> None:
    """Exercise 7.2: the widest ResNet that keeps no more than a DenseNet in training."""
    from densenet_nb import cost
    from densenet_nb.configurations import Configuration

    # Values that textbook.StagedResNet((2, 2), width, (8, 8, 1), 10) keeps for an image: so many
    # for each channel of its width, and the image and the softmax.
    per_channel, others = 998, 8 * 8 + 10
    for k in (11, 6):
        dense = Configuration((2, 2), k, 2 * k, imagenet_stem=False)
        kept, lean = (
            cost.activation_bytes(dense, 8, 8, 1, 10, memory_efficient=efficient) // 4
            for efficient in (False, True)
        )
        right = (kept - others) // per_channel
        misconceptions = {
            right + 1: "One too wide: it keeps more than the DenseNet. Round down.",
            (lean - others) // per_channel: "That much keeps a DenseNet with "
            "memory_efficient=True. Build the one of stock layers.",
            (2 * kept - others) // per_channel: "The DenseNet's bytes are those of two images here "
            "and the ResNet's those of one: use the same batch for both.",
        }
        if k == 11:  # noqa: PLR2004
            misconceptions |= {
                12: "That is the ResNet with equal parameters. It keeps much less.",
                15: "That is the ResNet with equal multiply-adds. It keeps much less.",
            }
        found = number(answer(k))
        compare(
            found,
            right,
            misconceptions,
            f"For k = {k} the widest ResNet that keeps no more than the DenseNet is {right} "
            f"channels wide, not {found}: measure both with probes.kept_bytes.",
        )


@check
def check_turning(answer: Callable[[np.ndarray], float]) -> None:
    """Exercise 8.1: by how much a closed line turns in all."""
    polygons = {
        "a square": [(0, 0), (2, 0), (2, 2), (0, 2)],
        "an L": [(0, 0), (4, 0), (4, 1), (1, 1), (1, 3), (0, 3)],
        "a triangle run through clockwise": [(0, 0), (0, 3), (4, 0)],
    }
    for name, points in polygons.items():
        corners = np.array(points, float)
        x, y = np.diff(np.vstack([corners, corners[:2]]), axis=0).T
        unwrapped = np.diff(np.arctan2(y, x))
        turns = (unwrapped + np.pi) % (2 * np.pi) - np.pi
        right = np.sum(np.abs(turns))
        misconceptions = {
            "Turns to the left and to the right cancel here; add their absolute values.": abs(
                np.sum(turns)
            ),
            "This is in degrees; the turning is asked for in radians.": np.degrees(right),
            "The line is closed: it turns at the last corner, too, and where it began.": np.sum(
                np.abs(turns[:-2])
            ),
            "A corner is left out: as many corners, as many turns.": np.sum(np.abs(turns[:-1])),
            "From a direction of 170° to one of -170° it is 20°, not 340°: bring each turn between "
            "-π and π.": np.sum(np.abs(unwrapped)),
            "These are the angles between the sides. A line that goes straight on has turned by "
            "0, not by π.": np.sum(np.pi - np.abs(turns)),
        }
        found = number(answer(corners))
        for message, wrong in misconceptions.items():
            refuse(math.isclose(found, wrong) and not math.isclose(found, right), message)
        refuse(
            not math.isclose(found, right, rel_tol=1e-6),
            f"In all, {name} turns by {right:.4f}, not by {found:.4f}.",
        )


@check
def check_filter_direction(answer: Callable[[np.ndarray, np.ndarray], Any]) -> None:
    """Exercise 8.2: a random direction with the norm of the network's filters."""
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 4, 2)) * [1, 10]
    drawn = random.normal(size=kernel.shape)

    def norms(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.sqrt(np.sum(values**2, axis=axes, keepdims=True))

    def scaled(axes: tuple[int, ...]) -> np.ndarray:
        return drawn * norms(kernel, axes) / norms(drawn, axes)

    of_a_filter = (0, 1, 2)
    unit = drawn / norms(drawn, of_a_filter)
    misconceptions = {
        "This is the direction as it was drawn; give each filter's part its filter's norm.": drawn,
        "The whole kernel is normalized at once here. Each filter has a norm of its own: the "
        "second is ten times as long.": scaled((0, 1, 2, 3)),
        "These are norms over the filters, one for each input channel. A filter is what makes "
        "one output channel: the last axis counts them.": scaled((0, 1, 3)),
        "Here each input channel of a filter has its norm; a filter's norm goes over its pixels "
        "and its input channels together.": scaled((0, 1)),
        "Each filter's part has norm 1 here; it should have the norm of the filter.": unit,
        "It is multiplied by the filters' norms, but not divided by its own.": drawn
        * norms(kernel, of_a_filter),
        "The quotient is upside down.": drawn
        * norms(drawn, of_a_filter)
        / norms(kernel, of_a_filter),
    }
    found = np.asarray(answer(kernel, drawn))
    expect(found.shape == kernel.shape, found.shape, f"the shape {kernel.shape}")
    for message, wrong in misconceptions.items():
        refuse(np.allclose(found, wrong), message)
    refuse(
        not np.allclose(found, scaled(of_a_filter)),
        "Each filter's part should be the drawn one times (norm of the filter / its own norm).",
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
def check_without(answer: Callable[[np.ndarray, int, int, int], np.ndarray]) -> None:
    """Exercise 0.2: a classifier's kernel that is blind to what one layer made."""
    k0, k, num_layers, classes = 5, 3, 4, 10
    original = np.random.default_rng(2).uniform(1, 2, (k0 + num_layers * k, classes))

    def zeros(rows: slice, columns: slice = slice(None)) -> np.ndarray:
        kernel = original.copy()
        kernel[rows, columns] = 0
        return kernel

    for layer in (1, 3, 4):
        kernel, start = original.copy(), k0 + (layer - 1) * k
        found = answer(kernel, k0, k, layer)
        refuse(
            not np.array_equal(kernel, original),
            "The kernel that was given is changed: the next layer would be measured without this "
            "one too. Work on a copy.",
        )
        is_kernel = getattr(found, "ndim", 0) == 2
        expect(is_kernel, found, "a kernel (channels, classes)")
        refuse(
            found.shape[0] < original.shape[0],
            "Rows are missing: the classifier still gets a number for every channel. Set them to "
            "0 and leave them in place.",
        )
        rows = slice(start, start + k)
        misconceptions = {
            "Nothing is blinded: the kernel is as it was.": original,
            f"Off by one: that is layer {layer + 1}. Layers are counted from 1.": zeros(
                slice(start + k, start + 2 * k)
            ),
            "The channels that entered the block are forgotten: k0 rows stand before layer 1's."
            "": zeros(slice(start - k0, start - k0 + k)),
            "These are columns, one for each class. Channels are rows.": zeros(slice(None), rows),
            "A layer made k channels: a single row of them is 0.": zeros(slice(start, start + 1)),
            "Later layers are blinded too: stop after k rows.": zeros(slice(start, None)),
            "Only this layer's rows are left. It is the one that should be missing.": (
                original - zeros(rows)
            ),
        }
        right = zeros(rows)
        for message, wrong in misconceptions.items():
            same = found.shape == wrong.shape and np.array_equal(found, wrong)
            refuse(same and not np.array_equal(wrong, right), message)
        refuse(
            not np.array_equal(found, right),
            f"With k0 = {k0} and k = {k}, layer {layer} made the channels {start} to "
            f"{start + k - 1}: exactly these rows are 0, all others as before.",
        )


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
def check_gradient_ratio(answer: Callable[[Any, Any, Any, bool], float]) -> None:
    """Exercise 1.2: ‖∂loss/∂x_0‖ / ‖∂loss/∂x_L‖, measured in training and in inference mode."""
    import keras
    import tensorflow as tf

    from densenet_nb import textbook

    keras.utils.set_random_seed(0)
    plain = textbook.PlainCNN(3, 4, (6, 6, 1), 3)
    convolutions = [layer for layer in plain.layers if isinstance(layer, keras.layers.Conv2D)]
    model = keras.Model(plain.input, [*(c.output for c in convolutions), plain.output])
    images, labels = keras.random.uniform((8, 6, 6, 1)), np.arange(8) % 3

    def ratios(training: bool) -> dict[str, float]:
        """Return first / last: of the gradients of the maps, of the maps, of those of the W."""
        kernels = [convolution.kernel.value for convolution in convolutions[1:]]
        with tf.GradientTape() as tape:
            *x, probabilities = model(images, training=training)
            losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            loss = keras.ops.mean(losses)
        dx, dw = tape.gradient(loss, [x, kernels])
        ends = {"gradient": dx[::3], "maps": x[::3], "next": dx[1::2], "weights": dw[::2]}
        return {name: float(tf.norm(first) / tf.norm(last)) for name, (first, last) in ends.items()}

    in_training = ratios(training=True)  # first: it moves the averages that inference reads
    in_inference = ratios(training=False)
    for training, here, other in (
        (False, in_inference, in_training),
        (True, in_training, in_inference),
    ):
        right = here["gradient"]
        misconceptions = {
            1 / right: "That is last over first: divide the gradient at x_0 by that at x_L.",
            other["gradient"]: f"`training` is not used: {training=} was asked for, and the model "
            "ran in the other mode.",
            right**2: "That is the ratio of the sums of squares: a norm has a square root.",
            here["maps"]: "These are the norms of the maps themselves, not of the gradients.",
            here["weights"]: "That is the gradient with respect to the weights. Differentiate the "
            "loss with respect to x_0 and x_L, the first and the last of the maps.",
            here["next"]: "You began with x_1. The stem's result is x_0, the first output.",
        }
        found = number(answer(model, images, labels, training))
        for wrong, message in misconceptions.items():
            refuse(math.isclose(found, wrong, rel_tol=1e-3), message)
        refuse(
            not math.isclose(found, right, rel_tol=1e-3),  # float32, and a GPU's order of sums
            f"On a small network with {training=} it is {right:.4g}, not {found:.4g}.",
        )


@check
def check_middle_way(answer: Callable[..., Any]) -> None:
    """Exercise 9.1: a dense layer that computes again only what costs no multiply-adds."""
    import densenet_nb._startup  # noqa: F401

    import tensorflow as tf

    def composite(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        x = tf.nn.batch_normalization(x, *tf.nn.moments(x, (0, 1, 2)), beta, gamma, 1e-3)
        return tf.nn.conv2d(tf.nn.relu(x), kernel, 1, "SAME")

    c, k = 24, 12
    shapes = [(c,), (c,), (1, 1, c, 4 * k), (4 * k,), (4 * k,), (3, 3, 4 * k, k)]
    weights = [tf.random.stateless_normal(shape, (1, i)) for i, shape in enumerate(shapes)]
    x = tf.random.stateless_normal((2, 4, 4, c), (2, 2))
    found = answer(tf.recompute_grad, composite, x, *weights)
    expect(tf.is_tensor(found), found, "a tensor of maps")
    right = composite(composite(x, *weights[:3]), *weights[3:])
    refuse(
        found.shape != right.shape or not np.allclose(found, right, rtol=0.05, atol=0.05),
        "Before anything is saved, it must be the same function: two composite functions, the "
        "first with the first three weights and the second with the other three.",
    )
    compare(
        _maps_kept(lambda x: answer(tf.recompute_grad, composite, x, *weights), (4, 4, c)),
        c + 8 * k,
        {
            2 * c + 8 * k: "Nothing is forgotten: all 2 c + 8 k maps are kept, as in the textbook.",
            c: "The whole layer is computed again, and the 1x1 convolution with it. Forget less.",
            2 * c + 4 * k: "This forgets between the two convolutions. Those 4 k maps are the same "
            "in every layer; what grows with depth is in front of the first convolution.",
            c + 4 * k: "Both composite functions forget. That is a good form (our plain one); this "
            "exercise keeps what lies behind the 1x1 convolution.",
        },
        f"The function is right. For c = {c}, k = {k} it should keep c + 8 k = {c + 8 * k} maps.",
    )


def _maps_kept(function: Callable, shape: tuple[int, int, int]) -> float:
    """Count the maps that a function of maps keeps in training; it closes over its weights."""
    import keras

    from densenet_nb import probes

    class Wrapped(keras.layers.Layer):
        def build(self, input_shape: tuple[int | None, ...]) -> None:
            self.scale = self.add_weight(shape=input_shape[-1:])  # whose gradient asks for x's

        def call(self, x: Any) -> Any:
            return function(x * self.scale)

    inputs = keras.Input(shape)
    height, width, _ = shape
    kept = probes.kept_bytes(keras.Model(inputs, Wrapped()(inputs)), batch_size=2)
    images = shape[-1]  # kept for the gradient of the scale
    return kept / (4 * 2 * height * width) - images


@check
def check_kept_by_a_sum(answer: Callable[[str, int], int]) -> None:
    """Exercise 9.2: the maps kept by concatenation, and by a sum of as many weights."""
    k0, k, pixels, images = 4, 8, 8 * 8, 2
    for n in (2, 8):
        width = math.isqrt(4 * k * n)
        reads = n * k0 + k * n * (n - 1) // 2
        right = {"concatenation": 2 * reads, "sum": 2 * n * width}
        misconceptions = {
            "concatenation": {
                k0 + n * k: "That counts each map once; stock layers keep every concatenation.",
                2 * reads + 8 * k * n: "These layers have a bottleneck: pass bottleneck=False.",
                reads + k * (n - 1): "That is our own block; build the one of stock layers, which "
                "keeps each input before and after BN-ReLU.",
            },
            "sum": {
                2 * n * (k0 + n * k): "This sum is as wide as the concatenation is at its end, and "
                "has many times its weights.",
                2 * reads: "That is the concatenation's number: for the sum, build a block that "
                "adds.",
                2
                * n
                * k0: "This sum stays as narrow as what enters the dense block. That is equal "
                "width, not an equal number of weights: 9 W² n must be 9 k (4 + 12 + …).",
                2 * n * k: "This sum has the width k for every n. The dense block's weights grow "
                "with the square of n, so the sum must become wider with depth to have as many.",
            },
        }
        for form in ("concatenation", "sum"):
            found = number(answer(form, n))
            known = misconceptions[form] | {
                right[form] * 4 * images * pixels: "These are bytes: divide by 4, by the images "
                "and by the pixels."
            }
            compare(
                found,
                right[form],
                known,
                f"With n = {n} layers the {form} keeps {right[form]} maps, not {found}.",
            )


@check
def check_carries_old_rate(answer: Callable[[Any], bool]) -> None:
    """Exercise 6.1: whether an optimizer's velocity contains the learning rate."""
    import keras

    from densenet_nb.optimizer import NesterovSGD

    sgd = keras.optimizers.SGD
    carries = "still moves at the old rate after a drop; your experiment does not see it."
    decays = "With decay, {} shrinks its weights, at the rate of the day: nothing old in that."
    cases = (
        (sgd(0.1, 0.9, nesterov=True), True, f"Keras's SGD with Nesterov momentum {carries}"),
        (sgd(0.1, 0.9), True, f"Keras's SGD with plain momentum {carries}"),
        (sgd(0.1), False, "An SGD without momentum remembers nothing."),
        (
            NesterovSGD(0.1, 0.9, None),
            False,
            "NesterovSGD has a velocity, so its weights coast; but at the rate of the day. That "
            "something still moves is not enough: choose the new rate so that it tells.",
        ),
        (sgd(0.1, weight_decay=1e-2), False, decays.format("SGD")),
        (NesterovSGD(0.1, 0.9, 1e-2), False, decays.format("NesterovSGD")),
    )
    for optimizer, right, misconception in cases:
        found = answer(optimizer)
        expect(isinstance(found, (bool, np.bool_)), found, "True or False")
        refuse(
            not int(optimizer.iterations),
            "You did no step with the optimizer. Measure: apply it to a variable of your own.",
        )
        refuse(bool(found) != right, misconception)


@check
def check_to_pixels(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """Exercise 10.1: the pixels of an image that `weights.preprocess` made."""
    from densenet_nb import weights

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype("uint8")
    given = weights.preprocess(pixels)
    found = answer(given.copy())
    kind = f"an array of shape {pixels.shape}"
    expect(isinstance(found, np.ndarray) and found.shape == pixels.shape, found, kind)
    if found.dtype == "uint8" and np.array_equal(found, pixels):
        return
    mean, std = np.array(weights.IMAGENET_MEAN), np.array(weights.IMAGENET_STD)
    whole = found.dtype.kind in "iu"
    right = (
        "astype cuts off what follows the point: 254.9999 became 254. Round first."
        if whole
        else "These are the right values as floats; round them to whole numbers of type uint8."
    )
    wrong = {
        right: pixels,
        "They lie between 0 and 1: multiply by 255.": given * std + mean,
        "Undo the last step first: multiply by the deviation, then add the mean.": 255
        * (given + mean)
        * std,
        "You standardized once more, where it is to be undone.": 255 * (given - mean) / std,
    }
    for misconception, values in wrong.items():
        near = np.allclose(found, values, atol=1 if whole else 0.01, rtol=1e-3)
        refuse(near, misconception)
    refuse(True, "The pixels are others. Undo the three steps of preprocess, the last one first.")


@check
def check_last_block(answer: Callable[[Any], Any]) -> None:
    """Exercise 10.2: train the last block and the classifier, with all normalizations frozen."""
    from densenet_nb import finetuning, models

    network = models.DenseNet((2, 1), 4, input_shape=(16, 16, 3), classes=3)
    network.trainable = False
    found = answer(network)
    expect(found is network, found, "the network that you were given")
    trained = {id(variable) for variable in network.trainable_variables}
    normalizations = finetuning.normalizations(network)
    refuse(
        not trained,
        "Nothing trains. A frozen network hides what its parts say: as long as network.trainable "
        "is False, no layer's own flag counts.",
    )
    refuse(
        any(id(norm.gamma) in trained for norm in normalizations),
        "A normalization trains. block.trainable = True reaches all parts of the block; freeze its "
        "normalizations after it, and the final one.",
    )
    refuse(
        any(norm.trainable for norm in normalizations),
        "A normalization keeps its γ and β, but its moving averages move: its own flag is True.",
    )
    block, classifier = network.get_layer("densenet_block2"), network.layers[-1]
    refuse(id(classifier.kernel) not in trained, "The classifier does not train.")
    wanted = {id(conv.kernel) for conv in finetuning.convolutions(block)}
    refuse(not wanted <= trained, "Convolutions of block 2 do not train.")
    wanted |= {id(variable) for variable in classifier.weights}
    refuse(bool(trained - wanted), "What stands before block 2 trains as well.")


@check
def check_channels_read(answer: Callable[[Sequence[int], int, int, bool], int]) -> None:
    """Exercise 13.1: the channels that a decoder's last dense block reads."""

    def count(encoder: Sequence[int], n: int, k: int, keep: bool, skips: bool = True) -> list[int]:
        x, read = encoder[-1], 0
        for skip in reversed(encoder[:-1]):
            read = x + skip * skips
            x = n * k + keep * read
        return [read, x]

    for encoder, n, k in (((48, 112, 256), 4, 12), ((30, 70, 110, 150), 5, 8)):
        for keep in (True, False):
            right, leaves = count(encoder, n, k, keep)
            other, _ = count(encoder, n, k, not keep)
            backward, _ = count(encoder[::-1], n, k, keep)
            without, _ = count(encoder, n, k, keep, skips=False)
            rule = "keeps its input" if keep else "returns its new maps only"
            compare(
                number(answer(list(encoder), n, k, keep)),
                right,
                {
                    leaves: "These channels leave the last block; count those that enter it.",
                    other: f"Here each block {rule}; you counted by the other rule.",
                    backward: "The list begins with the largest maps; the decoder begins with the "
                    "smallest ones.",
                    without: "The encoder's maps of the same size are read as well: that is what a "
                    "skip connection brings.",
                    encoder[0] + encoder[1]: "What comes from below is not the encoder's map of "
                    "the level below, but what the decoder's block there returned.",
                },
                f"With encoder maps of {encoder} channels, {n} layers a block, k = {k} and blocks "
                f"each of which {rule}, the last block reads {right} channels.",
            )


@check
def check_iou_from_counts(answer: Callable[[np.ndarray], Sequence[float]]) -> None:
    """Exercise 13.2: intersection over union of each class, from a table of counts."""
    for counts in (np.array([[90, 4, 6], [5, 20, 1], [2, 3, 10]]), np.array([[7, 1], [3, 2]])):
        both, truth, said = np.diag(counts), counts.sum(1), counts.sum(0)
        right = both / (truth + said - both)
        misconceptions = {
            "This divides by the true pixels of a class. Who says it everywhere would get 1.": both
            / truth,
            "This divides by the pixels that are said to have the class. Who says it at one pixel "
            "only would get 1.": both / said,
            "The pixels in common are counted twice in this union, as true and as said: subtract "
            "them once.": both / (truth + said),
            "This is Dice's coefficient, twice the intersection over the sum of both. It is never "
            "below the IoU.": 2 * both / (truth + said),
        }
        found = np.asarray(answer(counts.copy()), float)
        expect(found.shape == right.shape, found, "one number for each class")
        for message, wrong in misconceptions.items():
            refuse(np.allclose(found, wrong), message)
        refuse(
            not np.allclose(found, right),
            f"For the counts {counts.tolist()} the IoU of the classes is {right.round(4)}, not "
            f"{found.round(4)}.",
        )
