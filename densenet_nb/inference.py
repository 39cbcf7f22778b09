"""A frozen predictor: the same function as a trained model's, with its normalizations folded away.

At inference a normalization is an affine map of each channel, ``s x + b`` with
``s = γ / √(variance + ε)`` and ``b = β − s mean``. Two identities move it into a convolution:

- after a convolution, ``s (W x) + b = (s W) x + b``: scaled filters and a bias;
- before ReLU and a 1x1 convolution, for s > 0, ``relu(s x + b) = s (max(x, −b/s) + b/s)``: s goes
  into the filters, b into the bias, and a clipping of the raw maps is left. (With s < 0 it is a
  minimum.) A larger convolution pads with zeros, which the clipping would move: there the affine
  map stays.

A third lets a processor's cores work at the same time, although each dense layer waits for the one
before it: a convolution of concatenated maps is the sum of the convolutions of their parts. Only
the part with the newest maps, the small one, has to wait.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
from keras.src.models.functional import (
    Functional,  # what keras.Model(inputs, outputs) returns
    operation_fn,  # and how it tells its layers that they don't train
)

from densenet_nb.engine.kernels import kernel_normalize
from densenet_nb.engine.statistics import Statistics
from densenet_nb.layers import CompositeFunction, DenseBlock, DenseLayer, Transition
from densenet_nb.normalization import BatchNormalization

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,  # TensorFlow Lite's converter has no public name for it
    )

    from densenet_nb import exports

__all__ = ["Predictor", "freeze", "load"]

OUT_OF_REACH = 1e30
"""A clipping threshold that no feature map reaches: the channel counts as constant."""

CANCELLATION = 32
"""How many times a normalized map's spread may cancel in clipping: float32 then keeps 2e-6."""

FRONT = 4
"""How many times the newest maps' channels the rest must have to be convolved apart from them."""


CODE_OF_OTHERS = (
    keras.layers.Lambda,
    keras.layers.TFSMLayer,
    keras.layers.JaxLayer,
    keras.layers.TorchModuleWrapper,
)
"""Keras's layers that run code which is not Keras's."""


def freeze(model: keras.Model) -> "Predictor":
    """Return a predictor that computes ``model(images, training=False)`` and cannot be trained.

    The model's weights are copied as constants, normalizations folded into the convolutions in
    float64, dropout and augmentation gone: training the model further does not change the
    predictor. Results are equal to rounding, 1e-5 relative. The model itself is not touched.

    Folded are our layers, and every ``BatchNormalization`` right after a ``Conv2D``, in functional
    and sequential models, nested ones too. All other layers are kept as they are.

    Parameters
    ----------
    model : keras.Model
        Built, float32, with one input and one output.

    Returns
    -------
    Predictor

    Raises
    ------
    TypeError
        `model` is no Keras model.
    ValueError
        The model cannot be folded: another backend than TensorFlow, not built, subclassed (its
        `call` is code, not a graph of layers), several inputs or outputs, a layer that does not
        compute in float32 (mixed precision among them), a layer that the model itself calls with
        ``training=True``, or a variable that changes with each prediction. The message names it,
        the rule and the fix.
    """
    require_foldable(model)

    signature = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype, name="images")
    apart = _takes_images_apart(model)
    accepted = tf.TensorSpec((None, *signature.shape[1:]), signature.dtype) if apart else signature

    def constants(for_tensorflow: bool) -> Any:
        def forward(images: Any) -> Any:
            return keras.tree.flatten(_Folding(for_tensorflow).run(model, images))[0]

        return convert_variables_to_constants_v2(_traced(forward, accepted))

    module = _module(constants(False), constants(True), signature, accepted, apart)
    return Predictor(module, signature, accepted)


def load(path: str | os.PathLike) -> "Predictor":
    """Load a predictor that `Predictor.save` wrote; it needs neither the model nor its code.

    Parameters
    ----------
    path : path
        The folder. ``tf.saved_model.load(path)`` gives a callable too, without `export`.

    Raises
    ------
    ValueError
        There is no SavedModel, or one that is no predictor.
    """
    _require_tensorflow()
    if not os.path.isdir(path):
        raise ValueError(f"path={os.fspath(path)!r}: there is no folder of a saved predictor.")
    module = tf.saved_model.load(os.fspath(path))
    if not hasattr(module, "forward"):
        raise ValueError(
            f"path={os.fspath(path)!r}: a SavedModel, but not of a predictor; write it with "
            "inference.freeze(model).save(path)."
        )
    return Predictor(module, *(_images(f) for f in (module.forward, module.__call__)))


def _images(function: Any) -> Any:
    """Return the specification of a loaded function's images."""
    (images,), _ = function.concrete_functions[0].structured_input_signature
    return images


class Predictor:
    """What `freeze` and `load` return: call it on images; save it; export it.

    It may be called in a ``tf.function``, also one with ``jit_compile=True``.
    """

    def __init__(self, module: Any, signature: Any, accepted: Any) -> None:
        self._module = module
        self._signature = signature
        self._accepted = accepted

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """(batch, height, width, channels) of the images; None is any size.

        A batch of any size is taken, also where the model's input has a fixed one. Only with code
        of a user's in the model, which may read across images, a fixed size stays fixed.
        """
        return tuple(self._accepted.shape)

    def __call__(self, images: Any) -> Any:
        """Return the model's outputs for images.

        Parameters
        ----------
        images : array or tensor
            (batch, height, width, channels), cast to the model's input dtype. The batch may be
            empty.

        Returns
        -------
        tf.Tensor
            Of the model's output shape, such as (batch, classes); float32.

        Raises
        ------
        ValueError
            The shape of `images` is not the model's.
        """
        return self._module.__call__(self._checked(images))  # an attribute: a SavedModel keeps it

    def _checked(self, images: Any) -> Any:
        images = tf.cast(images, self._accepted.dtype)
        if not self._accepted.shape.is_compatible_with(images.shape):
            raise ValueError(
                f"images have shape {tuple(images.shape)}: must be {self.input_shape}, "
                "(batch, height, width, channels)."
            )
        return images

    def save(self, path: str | os.PathLike) -> None:
        """Write a SavedModel with the signature ``images -> predictions`` into the folder `path`.

        TensorFlow Serving and ``tf.saved_model.load`` read it as well as :func:`load` does. The
        signature is the bare graph, which TensorFlow Lite's converter can quantize, for the model's
        own batch size; it takes no empty batch. Weights are in the file twice, for both.
        """
        tf.saved_model.save(self._module, os.fspath(path), signatures=self._named())

    def _named(self) -> Any:
        """Return the graph, once, with its input and its output named."""
        return tf.function(
            lambda images: {"predictions": self._module.forward(images)},
            input_signature=[self._signature],
        )

    def export(
        self, path: str | os.PathLike, precision: str = "float32", examples: Any = None
    ) -> None:
        """Write a file for ONNX's runtimes (``.onnx``) or TensorFlow Lite, LiteRT (``.tflite``).

        Its input is ``images`` and its output ``predictions``, both as the model has them. Axes of
        any size stay so, and a fixed batch size stays fixed. (ONNX names them: ``batch``,
        ``height``, ``width``, and ``output_height`` and ``output_width`` of a feature map. OpenVINO
        is some per cent faster where it is told them: ``model.reshape([1, 224, 224, 3])``.)

        Parameters
        ----------
        path : path
            The file; its suffix says for which.
        precision : str
            In which it computes. ``"float32"``: to rounding the predictor's answers.
            ``"float16"``, of ONNX only: half the bytes, to about 1e-3. ``"int8"``, of TensorFlow
            Lite only: a quarter of the bytes, to a few per cent.
        examples : array, optional
            For ``"int8"``: (n, height, width, channels), some hundred images such as will come,
            by which the range of each map is found.

        Raises
        ------
        ValueError
            Another suffix; a precision that the format does not have; examples missing, or of
            another shape than the images.
        ImportError
            For ONNX: the extra ``onnx`` is not installed.
        """
        write = exports.writer(path, precision)
        if (precision == "int8") != (examples is not None):
            raise ValueError(
                f"precision={precision!r}, examples "
                f"{'missing' if examples is None else 'given'}: int8 asks for examples, "
                "(n, height, width, channels), and nothing else does."
            )
        if examples is not None:
            examples = self._checked(examples)
        write(self._named(), os.fspath(path), examples)


def require_foldable(model: Any) -> None:
    """Raise unless `freeze` can fold `model`; see there."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model={model!r}: must be a keras.Model, such as DenseNet121() returns.")
    _require_tensorflow()
    if not is_graph(model):
        raise ValueError(
            f"model {model.name!r} is a {type(model).__name__}, a subclass with its own call: "
            "code, not a graph of layers that can be folded. Build it as a functional model: "
            "keras.Model(inputs, outputs)."
        )
    if not model.built:
        raise ValueError(
            f"model {model.name!r} has no weights yet: begin it with keras.Input((height, width, "
            "channels)) or call model.build."
        )
    for what, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if len(tensors) != 1:
            raise ValueError(
                f"model {model.name!r} has {len(tensors)} {what}: a predictor has one; freeze "
                "keras.Model(input, output) for each output."
            )
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model) and not is_graph(layer):
            raise ValueError(
                f"layer {layer.name!r} is a {type(layer).__name__}, a subclass of keras.Model with "
                "its own call: code, not a graph of layers that can be folded. Build it as a "
                "functional model."
            )
        if {layer.compute_dtype, layer.variable_dtype} != {"float32"}:
            raise ValueError(
                f"layer {layer.name!r} has dtype policy {layer.dtype_policy.name!r}: folding keeps "
                "1e-5 in float32 only; build the model with dtype policy float32 and carry the "
                "weights over with set_weights."
            )


def _require_tensorflow() -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"backend {backend!r}: a predictor is a TensorFlow graph. Save the model's weights "
            "and load them with KERAS_BACKEND=tensorflow."
        )


def is_graph(model: keras.Layer) -> bool:
    """Whether the model is its graph of layers, and no code of a subclass."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def through_graph(model: keras.Model, x: Any, called: Callable) -> Any:
    """Run a model's layers on `x`, each as `called` of it does; see :func:`is_graph`."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    x = graph._standardize_inputs(x)  # a nested model's may have another dtype or order
    return graph._run_through_graph(x, operation_fn=called)


def _operations(operation: Any) -> Iterator:
    """Yield an operation and all that it is made of."""
    yield operation
    parts = []
    if isinstance(operation, Functional):
        parts = operation.operations
    elif isinstance(operation, keras.Layer):
        parts = operation._flatten_layers(recursive=False, include_self=False)
    for part in parts:
        yield from _operations(part)


def _takes_images_apart(model: keras.Model) -> bool:
    """Whether no layer can read across images: all are Keras's or ours, over other axes.

    A user's code might (a custom layer, a Lambda, a function of ``keras.ops``).
    """
    return all(
        isinstance(operation, keras.Layer)
        and (is_graph(operation) or _is_known(operation))
        and _is_known(_activation(operation))
        and all(axis == -1 or axis > 0 for axis in _axes(operation))
        for operation in _operations(model)
    )


def _activation(layer: keras.Layer) -> Callable:
    """Return a layer's activation, the identity if it has none."""
    if isinstance(layer, CompositeFunction):
        return layer.activate
    return getattr(layer, "activation", keras.activations.linear)


def _axes(layer: keras.Layer) -> list[int]:
    """Return the axes that a layer works along, as they were given: 0 or below -1 may be images."""
    return keras.tree.flatten([getattr(layer, name, []) for name in ("axis", "axes")])


def _is_known(code: Any) -> bool:
    """Whether Keras or this package wrote a layer or an activation, all of it."""
    package = getattr(code, "__module__", "").partition(".")[0]
    return package in ("keras", "densenet_nb") and not isinstance(code, CODE_OF_OTHERS)


def _traced(forward: Callable, accepted: Any) -> Any:
    """Return the graph of `forward`, without what its output does not need.

    Some of Keras's augmentation layers draw random numbers even where they read none of them.
    """
    everything = tf.compat.v1.wrap_function(forward, [accepted])
    needed = everything.prune(everything.inputs[0], everything.outputs)
    read = {id(outside) for outside, inside in needed.graph.captures if inside.consumers()}
    for variable in everything.graph.variables:
        users = everything.graph.capture(variable.handle).consumers()
        if id(variable.handle) in read and any(user.type.startswith("Assign") for user in users):
            raise ValueError(
                f"variable {variable.name!r} changes with each prediction (a counter, the state of "
                "a random generator): a predictor has constants only; let the layer change it in "
                "training only, or leave the layer out."
            )
    return needed


def _module(bare: Callable, fast: Callable, signature: Any, accepted: Any, apart: bool) -> Any:
    """Return what is saved: ``forward``, the bare graph, and ``__call__``, the fast one in halves.

    The bare graph is what other runtimes are given. Halves of a batch run at the same time: while
    one waits for memory (concatenation, clipping) the other multiplies. A single image is not
    halved, and an empty batch is filled with one: TensorFlow's kernels do not all take an empty
    batch. Where the model may read across images (not `apart`), ``__call__`` is not halved.
    """

    def forward(images: Any) -> Any:
        return bare(images)[0]

    def together(images: Any) -> Any:
        return fast(images)[0]

    def in_halves(images: Any) -> Any:
        middle = tf.shape(images)[0] // 2
        halves = images[:middle], images[middle:]
        return tf.concat([together(half) for half in halves], axis=0)

    def call(images: Any) -> Any:
        count, *size = tf.unstack(tf.shape(images))  # of an image: height, width, channels
        blank = functools.partial(tf.zeros, (1, *size), images.dtype)
        filled = tf.cond(count > 0, lambda: images, blank)
        answers = tf.cond(count > 1, lambda: in_halves(filled), lambda: together(filled))
        return answers[:count]

    module = tf.Module()
    module.forward = tf.function(forward, input_signature=[signature], autograph=False)
    module.__call__ = tf.function(
        call if apart else together, input_signature=[accepted], autograph=False
    )
    return module


class _Convolved(NamedTuple):
    """How a map was made: ``convolution(concatenated parts, kernel) + bias``."""

    conv: keras.layers.Conv2D
    parts: list
    kernel: np.ndarray
    bias: np.ndarray


class _Folding:
    """Runs a model's layers on TensorFlow tensors, each in its folded form where it has one.

    A normalization looks back: if a convolution made its input, that convolution is made again
    with other filters. The first one is then read by nobody, and TensorFlow prunes it.

    `for_tensorflow`, normalizations before a ReLU become a clipping, and the newest maps are
    convolved apart from those that were there before. Other runtimes are faster with a batch
    normalization, which they have kernels for, and with fewer operations.
    """

    def __init__(self, for_tensorflow: bool) -> None:
        self.for_tensorflow = for_tensorflow
        self.convolved: dict[Any, _Convolved] = {}

    def run(self, model: keras.Model, x: Any) -> Any:
        return through_graph(model, x, self.folded)

    def folded(self, operation: Any) -> Callable:
        """Return what computes an operation of the graph: its folded form, or itself."""
        forms = {
            keras.layers.Conv2D: self.convolution,
            keras.layers.BatchNormalization: self.normalization,
            BatchNormalization: self.normalization,
            CompositeFunction: self.composite_function,
            DenseLayer: self.dense_layer,
            DenseBlock: self.dense_block,
            Transition: self.transition,
        }
        form = self.run if isinstance(operation, keras.Model) else forms.get(type(operation))

        def call(*args: Any, training: bool | None = None, **kwargs: Any) -> Any:
            if training and not _trains_unasked(operation):
                raise ValueError(
                    f"layer {operation.name!r} is called with training=True in the model, so it "
                    "would change with each prediction; call it without."
                )
            if form is None or kwargs:
                return operation_fn(operation, training=False)(*args, **kwargs)
            return form(operation, *args)

        return call

    def convolve(
        self, conv: keras.layers.Conv2D, parts: list, kernel: np.ndarray, bias: np.ndarray
    ) -> Any:
        """Convolve maps that come in parts, each by its share of the kernel's channels."""
        *before, newest = (
            conv.convolution_op(part, _constant(share))
            for part, share in _shares(parts, kernel, axis=2)  # (size, size, channels, filters)
        )
        y = sum(before, start=tf.nn.bias_add(newest, _constant(bias)))
        self.convolved[y.ref()] = _Convolved(conv, parts, kernel, bias)
        return y

    def convolution(self, conv: keras.layers.Conv2D, x: Any) -> Any:
        x = tf.cast(x, conv.compute_dtype)
        if conv.activation is not keras.activations.linear or conv.data_format != "channels_last":
            return conv(x)
        bias = np.zeros(conv.filters) if conv.bias is None else _array(conv.bias)
        return self.convolve(conv, [x], _kernel(conv), bias)

    def normalization(self, norm: keras.layers.BatchNormalization, x: Any) -> Any:
        x = tf.cast(x, norm.compute_dtype)
        if norm.axis not in (-1, len(x.shape) - 1):
            return norm(x, training=False)
        scale, offset = _affine(norm)
        if x.ref() not in self.convolved:
            return self.affine(x, scale, offset)
        conv, parts, kernel, bias = self.convolved[x.ref()]
        return self.convolve(conv, parts, kernel * scale, bias * scale + offset)

    def affine(self, x: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
        """Return ``scale x + offset``, for other runtimes as a batch normalization of maps."""
        scale, offset = _constant(scale), _constant(offset)
        if self.for_tensorflow or len(x.shape) != 4:
            return x * scale + offset
        raw = Statistics(mean=tf.zeros_like(scale), variance=tf.ones_like(scale))
        return kernel_normalize(x, scale, offset, raw, epsilon=0.0)

    def composite_function(
        self,
        function: CompositeFunction,
        *maps: Any,
        reader: keras.layers.BatchNormalization | None = None,
        pool: Callable = lambda x: x,
    ) -> Any:
        """Fold a composite function of concatenated maps; `reader` normalizes its output."""
        conv, activation = function.conv, function.activate
        maps = [tf.cast(each, function.compute_dtype) for each in maps]
        kernel, bias = _kernel(conv), np.zeros(conv.filters)
        scale, offset = _affine(function.norm)
        if self.clips(function, maps) and _cancels_safely(offset, kernel, reader):
            floor, ceiling, scale, offset = _clipping(scale, offset)
            limits = np.stack([floor, ceiling])
            shares = _shares(_parts(maps), limits, axis=1)
            parts = [_clip(part, *share) for part, share in shares]
            bias = offset @ kernel[0, 0]
            kernel = kernel * scale[:, None]  # filters are (1, 1, m, filters)
        else:
            parts = [activation(self.normalization(function.norm, _joined(maps)))]
        return self.convolve(conv, [pool(part) for part in parts], kernel, bias)

    def clips(self, function: CompositeFunction, maps: Sequence) -> bool:
        """Whether the second identity applies, and no convolution just before allows the first."""
        relu = function.activate is keras.activations.relu
        fresh = len(maps) > 1 or maps[0].ref() not in self.convolved
        return self.for_tensorflow and relu and function.kernel_size == 1 and fresh

    def dense_layer(self, layer: DenseLayer, *maps: Any) -> Any:
        readers = [*(function.norm for function in layer.functions[1:]), None]
        for function, reader in zip(layer.functions, readers, strict=True):
            maps = (self.composite_function(function, *maps, reader=reader),)
        return maps[0]

    def dense_block(self, block: DenseBlock, x: Any) -> Any:
        x = tf.cast(x, block.compute_dtype)
        maps = [tf.identity(x)]  # read by every layer, so not made again for the first one
        for layer in block.dense_layers:
            maps.append(self.dense_layer(layer, *maps))  # (batch, height, width, k)
        return _joined(maps)  # (batch, height, width, k0 + l k)

    def transition(self, transition: Transition, x: Any) -> Any:
        return self.composite_function(transition.function, x, pool=transition.pool)


def _trains_unasked(layer: keras.Layer) -> bool:
    """Whether ``training=True`` is the layer's own default, as of Keras's augmentation layers."""
    return inspect.signature(layer.call).parameters["training"].default is True


def _joined(maps: Sequence) -> Any:
    return maps[0] if len(maps) == 1 else tf.concat(maps, axis=-1)


def _parts(maps: Sequence) -> list:
    """Join maps to one part, or to two, the newest and the rest, if that has `FRONT` times more."""
    *front, newest = maps
    if sum(part.shape[-1] for part in front) < FRONT * newest.shape[-1]:
        return [_joined(maps)]
    return [_joined(front), newest]


def _shares(parts: list, array: np.ndarray, axis: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield each part with its channels' share of `array`, whose `axis` is all parts' channels."""
    ends = np.cumsum([part.shape[-1] for part in parts[:-1]], dtype=int)
    return zip(parts, np.split(array, ends, axis=axis), strict=True)


def _affine(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Return s and b of the normalization as ``s x + b``, (channels,) each, in float64."""
    scale = 1 / _spread(norm)
    if norm.gamma is not None:
        scale = scale * _array(norm.gamma)
    offset = -scale * _array(norm.moving_mean)
    return scale, offset if norm.beta is None else offset + _array(norm.beta)


def _cancels_safely(
    offset: np.ndarray, kernel: np.ndarray, reader: keras.layers.BatchNormalization | None
) -> bool:
    """Whether clipping loses no digits that `reader`, the next normalization, would show.

    Where ReLU has 0, clipping has ``s x' + b``: their rounding errors, of the size of b, add up in
    the convolution. A map that hardly varies is enlarged by its normalization, and they with it.
    """
    if reader is None:
        return False
    lost = np.linalg.norm(offset[:, None] * kernel[0, 0], axis=0)  # (filters,)
    return bool((lost <= CANCELLATION * _spread(reader)).all())


def _spread(norm: keras.layers.BatchNormalization) -> np.ndarray:
    """Return what a normalization divides by, (channels,), in float64."""
    return np.sqrt(_array(norm.moving_variance) + norm.epsilon)


def _clipping(scale: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return floor, ceiling, s', b' with ``relu(s x + b) = s' x' + b'``, x' being x clipped."""
    constant = np.abs(scale) * OUT_OF_REACH <= np.abs(offset)  # s = 0 among them
    scale = np.where(constant, 0.0, scale)
    threshold = np.where(constant, 0.0, -offset / np.where(constant, 1.0, scale))
    floor = np.where(scale < 0, -np.inf, threshold)
    ceiling = np.where(scale > 0, np.inf, threshold)
    return floor, ceiling, scale, np.where(constant, np.maximum(offset, 0.0), offset)


def _clip(x: Any, floor: np.ndarray, ceiling: np.ndarray) -> Any:
    x = tf.maximum(x, _constant(floor))
    return x if np.isposinf(ceiling).all() else tf.minimum(x, _constant(ceiling))


def _kernel(conv: keras.layers.Conv2D) -> np.ndarray:
    """Return the filters in float64; after ``enable_lora`` they are a sum, not a variable."""
    with tf.init_scope():
        return _array(conv.kernel)


def _array(weight: Any) -> np.ndarray:
    """Return a weight's value in float64, also while a graph is traced."""
    with tf.init_scope():
        return keras.ops.convert_to_numpy(weight).astype("float64")


def _constant(array: np.ndarray) -> Any:
    return tf.constant(array, "float32")
