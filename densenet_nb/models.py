"""DenseNets as Keras models: fast, and equal to the textbook's and to ``keras.applications``'.

``DenseNet121`` and its kin take the keywords of ``keras.applications.DenseNet121`` and, given the
same weights, return the same outputs. Nothing is fetched unless ``weights="imagenet"`` asks for it:
`weights` is None by default.
"""

import functools
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import layers as stock

from densenet_nb import weights as files
from densenet_nb.configurations import (
    CONFIGURATIONS,
    Configuration,
    cifar,
    imagenet,
    require_boolean,
    require_known_keywords,
    require_name,
    require_positive_integer,
)
from densenet_nb.layers import (
    CompositeOptions,
    DenseBlock,
    HeNormalFanOut,
    StemPooling,
    Transition,
    activation_layer,
    fresh,
)
from densenet_nb.normalization import (
    BatchNormalization,
    require_backend,
    require_channels_last,
)

__all__ = [
    "DenseNet",
    "DenseNet121",
    "DenseNet161",
    "DenseNet169",
    "DenseNet201",
    "DenseNet264",
    "DenseNetCIFAR",
    "feature_pyramid",
    "from_configuration",
    "keras_applications_names",
]


@keras.saving.register_keras_serializable("densenet_nb")
class DenseNetModel(keras.Model):
    """A functional model that loads a weights file whole or, if it does not fit, not at all.

    It is what the functions of this module return. Its pickles load in a process that has not
    imported this package.
    """

    def _resolve_auto_jit_compile(self) -> bool:
        """Decide for ``compile(jit_compile="auto")``; what is asked for plainly is not asked here.

        Where TensorFlow sees a GPU, Keras would have XLA compile the whole step, for minutes. The
        layers here have what is between their convolutions compiled by themselves. (There is no
        public hook: Keras does not compile a loaded model whose ``compile`` is overridden.)
        """
        return keras.backend.backend() != "tensorflow" and super()._resolve_auto_jit_compile()

    def load_weights(
        self, filepath: str | os.PathLike, skip_mismatch: bool = False, **kwargs: Any
    ) -> None:
        """Load what ``save_weights`` or ``save`` of the same network wrote, or its peer's file.

        Parameters
        ----------
        filepath : str or path
            The ``.weights.h5`` or ``.keras`` file, or ``keras.applications``' ``.h5``.
        skip_mismatch : bool
            Whether to leave out the layers whose arrays have other shapes, with a warning, such as
            a classifier of another number of classes.
        **kwargs
            Those of ``keras.Model.load_weights``.

        Raises
        ------
        ValueError
            The file does not fit; no array of this network has changed.
        """
        classifier = self.layers[-1]
        known = isinstance(classifier, stock.Dense) and not skip_mismatch
        files.require_loadable(filepath, classifier.units if known else None)
        if files.of_stock_layers(filepath):
            files.load_stock(self, filepath, skip_mismatch)
            return
        before = self.get_weights()
        try:
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        except Exception as error:
            self.set_weights(before)
            raise ValueError(
                f"{os.fspath(filepath)!r} does not fit {self.name!r}, of which nothing has "
                f"changed: {error}"
            ) from error

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantize as ``keras.Model.quantize`` does: its Dense layers only.

        Keras warns for every other layer; here one warning says so for all.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a `quantize` method", UserWarning)
            super().quantize(*args, **kwargs)
        warnings.warn(
            f"{self.name!r}: Keras quantizes Dense layers only, so convolutions stay in "
            f"{self.compute_dtype}. In eight bits they run in TensorFlow Lite, converted from what "
            "densenet_nb.inference.freeze(model).save writes.",
            UserWarning,
            stacklevel=2,
        )


def names_misspelt_keywords(function: Callable) -> Callable:
    """Make an unknown keyword's error name the one that was probably meant."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        require_known_keywords(kwargs, known, function.__name__)
        return function(*args, **kwargs)

    return checked


@names_misspelt_keywords
def from_configuration(
    configuration: Configuration,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "densenet",
    *,
    activation: str | Callable = "relu",
    dropout_rate: float = 0.0,
    momentum: float = 0.99,
    epsilon: float = 1.001e-5,
    kernel_initializer: Any = HeNormalFanOut,
    kernel_regularizer: Any = None,
    memory_efficient: bool = False,
) -> keras.Model:
    """Build the network of a configuration.

    Layers are named ``{name}_stem_conv``, ``{name}_block1``, ``{name}_transition1``, … (the keys
    of :func:`keras_applications_names`), so networks of different names can share an input, and
    :func:`feature_pyramid` gives their maps to a decoder. Dense layers are inside their block:
    ``block.dense_layers[0].functions[0].norm`` is the first normalization.

    Parameters
    ----------
    configuration : Configuration
        Blocks, growth rate, bottleneck, compression, stem.
    include_top : bool
        Whether global average pooling and the classifier end the network.
    weights : {None, "imagenet"} or path
        None: random. "imagenet": those of ``keras.applications``, fetched into Keras's cache if
        they are not there (:func:`densenet_nb.weights.fetch`); they expect what
        :func:`densenet_nb.weights.preprocess` makes of pixels. Or a weights file that
        ``save_weights`` of the same network wrote, ours or ``keras.applications``', loaded whole
        or not at all (:class:`DenseNetModel`).
    input_tensor : KerasTensor, optional
        Images, (batch, height, width, channels), instead of a new input.
    input_shape : tuple of int, optional
        (height, width, channels) of the images; height and width may be None (any size of at
        least the network's stride). By default (224, 224, 3) with an ImageNet stem and
        (32, 32, 3) without, and sizes of None without `include_top`.
    pooling : {None, "avg", "max"}
        Without `include_top`: how the last feature map, (batch, height, width, channels), becomes
        (batch, channels), if at all.
    classes : int
        Width of the output, (batch, classes).
    classifier_activation : str, callable or None
        Of the classifier; None gives logits.
    name : str
        Name of the model and prefix of its layers' names.
    activation, dropout_rate, momentum, epsilon, kernel_initializer, kernel_regularizer
        Of every composite function; see :class:`densenet_nb.layers.CompositeFunction`. The
        regularizer is the stem's and the classifier's as well.
    memory_efficient : bool
        Train in a fraction of the memory and a little more time, by computing again in the
        backward pass what is cheap (arXiv 1707.06990): the same function, weights and files.

    Raises
    ------
    ValueError
        A value out of range; the message names the value, the rule and the fix, and nothing has
        been built.
    ConnectionError
        ImageNet's weights cannot be fetched; nothing has been built.
    TypeError
        An unknown keyword.
    """
    if not isinstance(configuration, Configuration):
        raise ValueError(
            f"configuration={configuration!r}: must be a Configuration, such as "
            'CONFIGURATIONS["DenseNet121"].'
        )
    require_backend()
    require_channels_last()
    require_boolean("include_top", include_top)
    classes = require_positive_integer("classes", classes)
    require_name(name)
    require_boolean("memory_efficient", memory_efficient)
    classifier_activation = keras.activations.get(classifier_activation)
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'pooling={pooling!r}: must be None, "avg" or "max".')
    composite = CompositeOptions(
        activation=activation,
        dropout_rate=dropout_rate,
        momentum=momentum,
        epsilon=epsilon,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )
    images = _images(configuration, input_tensor, input_shape, include_top, name)
    if weights == "imagenet":
        _require_imagenet(configuration, include_top, classes, images.shape[-1], epsilon)
        weights = files.fetch(PEERS[configuration], include_top)
    elif weights is not None:
        files.require_loadable(weights, classes if include_top else None)
    x = _stem(images, configuration, composite, name)
    for index, num_layers in enumerate(configuration.blocks, start=1):
        if index > 1:
            transition = f"{name}_transition{index - 1}"
            x = Transition(
                configuration.compression, memory_efficient, **vars(composite), name=transition
            )(x)
        x = DenseBlock(
            num_layers,
            configuration.growth_rate,
            configuration.bottleneck,
            memory_efficient,
            **vars(composite),
            name=f"{name}_block{index}",
        )(x)
    x = _normalize_activate(x, composite, f"{name}_final")
    if include_top or pooling == "avg":
        x = stock.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    elif pooling == "max":
        x = stock.GlobalMaxPooling2D(name=f"{name}_pool")(x)
    if include_top:
        x = stock.Dense(
            classes,
            classifier_activation,
            kernel_regularizer=composite.kernel_regularizer,
            name=f"{name}_classifier",
        )(x)

    sources = keras.utils.get_source_inputs(images)
    model = DenseNetModel(sources[0] if len(sources) == 1 else sources, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


def takes_options(**defaults: Any) -> Callable[[Callable], Callable[..., keras.Model]]:
    """Give a function the options of :func:`from_configuration`, with other `defaults`.

    The options stand in the function's signature, so help and completion show them.
    """
    _, *options = inspect.signature(from_configuration).parameters.values()

    def decorate(function: Callable) -> Callable[..., keras.Model]:
        *own, _ = inspect.signature(function).parameters.values()
        options_here = (
            option.replace(default=defaults.get(option.name, option.default)) for option in options
        )
        signature = inspect.Signature(
            sorted([*own, *options_here], key=lambda parameter: parameter.kind),
            return_annotation=keras.Model,
        )

        @functools.wraps(function)
        def network(*args: Any, **kwargs: Any) -> keras.Model:
            arguments = signature.bind(*args, **kwargs)
            arguments.apply_defaults()
            return function(**arguments.arguments)

        network.__signature__ = signature
        return names_misspelt_keywords(network)

    return decorate


@takes_options()
def DenseNet(
    blocks: Sequence[int],
    growth_rate: int = 32,
    bottleneck: bool = True,
    compression: float = 0.5,
    stem_filters: int | None = None,
    imagenet_stem: bool = True,
    **options: Any,
) -> keras.Model:
    """Build a DenseNet of any shape.

    Parameters
    ----------
    blocks : sequence of int
        Dense layers in each dense block.
    growth_rate : int
        k, the channels that each dense layer adds.
    bottleneck : bool
        DenseNet-B: a 1x1 convolution to 4 k channels before each 3x3 convolution.
    compression : float
        θ in (0, 1]: a transition keeps floor(θ m) of m channels.
    stem_filters : int, optional
        k0, the channels that enter the first block; 2 k by default.
    imagenet_stem : bool
        True: 7x7 convolution and 3x3 max pooling, each with stride 2. False: one 3x3 convolution.
    **options
        Those of :func:`from_configuration`, which also says what is raised.
    """
    require_positive_integer("growth_rate", growth_rate)
    stem_filters = 2 * growth_rate if stem_filters is None else stem_filters
    configuration = Configuration(
        blocks, growth_rate, stem_filters, bottleneck, compression, imagenet_stem
    )
    return from_configuration(configuration, **options)


@takes_options(classes=10, name="densenet_cifar")
def DenseNetCIFAR(
    depth: int = 100,
    growth_rate: int = 12,
    bottleneck: bool = True,
    compression: float | None = None,
    **options: Any,
) -> keras.Model:
    """Build a network for 32x32 images: three equal dense blocks (section 3; Table 2).

    Parameters
    ----------
    depth : int
        L: 6 n + 4 with bottlenecks, 3 n + 4 without, for n dense layers a block.
    growth_rate : int
        k.
    bottleneck : bool
        DenseNet-B; the stem has 2 k filters with it and 16 without.
    compression : float, optional
        θ; by default 0.5 with bottlenecks (DenseNet-BC) and 1 without.
    **options
        Those of :func:`from_configuration`; `classes` is 10 by default.
    """
    return from_configuration(cifar(depth, growth_rate, bottleneck, compression), **options)


def _imagenet_network(key: str) -> Callable[..., keras.Model]:
    """Make the function that builds one of the table's networks by keras.applications' keywords."""
    paper = CONFIGURATIONS[key]

    def network(
        *,
        growth_rate: int = paper.growth_rate,
        compression: float = paper.compression,
        **options: Any,
    ) -> keras.Model:
        return from_configuration(imagenet(paper.blocks, growth_rate, compression), **options)

    network.__name__ = network.__qualname__ = key
    network.__doc__ = f"""Build {key}: blocks {paper.blocks}, k = {paper.growth_rate}.

    A drop-in for ``keras.applications``' function of the same name where there is one: the same
    keywords, weights and outputs, but `weights` is None by default, not "imagenet". Beyond its
    keywords: `growth_rate`, `compression` and those of :func:`from_configuration`, which
    explains them all.

    A dense block is one layer here, so recipes that loop over ``model.layers`` read otherwise:

    ==================================== ==========================================================
    the recipe you know                  how it reads here
    ==================================== ==========================================================
    each ``BatchNormalization``          ``finetuning.normalizations(model)``
    each ``Conv2D``                      ``finetuning.convolutions(model)``
    freeze ``model.layers[:313]``        ``finetuning.freeze_up_to(model, "transition3")``
    set each layer's regularizer         ``{key}(kernel_regularizer=keras.regularizers.L2(5e-5))``
    swap each layer's ``activation``     ``{key}(activation=guided_relu)``, then ``set_weights``
    whatever needs a flat list           ``textbook.DenseNet(configuration)``, then ``set_weights``
    ==================================== ==========================================================
    """
    return takes_options(name=key.lower())(network)


DenseNet121 = _imagenet_network("DenseNet121")
DenseNet161 = _imagenet_network("DenseNet161")
DenseNet169 = _imagenet_network("DenseNet169")
DenseNet201 = _imagenet_network("DenseNet201")
DenseNet264 = _imagenet_network("DenseNet264")


def keras_applications_names(configuration: Configuration) -> dict[str, str]:
    """Map our layers' names, without the model's prefix, to those of ``keras.applications``.

    With the same weights, the two layers of a pair have equal outputs. (For a network that is not
    there, theirs are the names that it would have.)
    """
    return _both_names(configuration.blocks, configuration.imagenet_stem)


def feature_pyramid(model: keras.Model, layers: Sequence[str] | None = None) -> keras.Model:
    """Return a model from images to several feature maps of a network, for a decoder or a detector.

    It shares the network's layers, so training it trains the network. ``pyramid(images)["P3"]`` is
    one map, and ``pyramid.output["P3"].shape`` tells its channels before any image is there.

    Parameters
    ----------
    model : keras.Model
        A network of ours or a DenseNet of ``keras.applications``, with its classifier or without;
        with `layers`, any functional or sequential model.
    layers : sequence of str, optional
        Names of the layers whose outputs are wanted; in a DenseNet in our names
        (:func:`keras_applications_names`), with the prefix or without, or in those of
        ``keras.applications``: ``["stem_relu", "block1", "conv3_block12_concat"]``.

    Returns
    -------
    keras.Model
        Its output is a dictionary of maps, (batch, height, width, channels), by the names given.
        By default by level as in KerasHub: ``"P2"`` has stride 2² = 4, then to ``"P5"`` with
        stride 32 for an ImageNet stem and four blocks; ``"P0"`` to ``"P2"`` without that stem and
        with three. Each is what a block has made, all its maps concatenated; the last one after
        the final normalization and ReLU, as in timm's ``features_only``. The stem rounds halves
        of a side up, a transition down, so sides that the largest stride does not divide give
        maps that are no exact multiples.

    Raises
    ------
    ValueError
        The model is no graph of layers, no DenseNet (without `layers`), or has no layer of a name.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"model={model!r}: must be a functional or sequential model, such as DenseNet121() "
            "returns, with its input known."
        )
    known = {layer.name: layer for layer in model.layers} | _layers_of_densenet(model)
    if layers is None:
        names = _levels(model, known)
    elif isinstance(layers, str):
        raise ValueError(f'layers={layers!r}: must be a sequence of names, such as ["{layers}"].')
    else:
        names = {name: name for name in layers}
    for name in names.values():
        if name not in known:
            own = [layer.name for layer in model.layers]
            raise ValueError(f"layers: {model.name!r} has no layer {name!r}; it has {own}.")
    maps = {key: known[name].output for key, name in names.items()}
    return keras.Model(model.input, maps, name=f"{model.name}_pyramid")


def _levels(model: keras.Model, known: Mapping[str, stock.Layer]) -> dict[str, str]:
    """Map the name of each level of a DenseNet's pyramid to the layer, in our names."""
    blocks = [name for name in known if re.fullmatch(r"block\d+", name)]
    if not blocks:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        raise ValueError(
            f"model {model.name!r} has no dense blocks: give the names of its layers, or a network "
            f"inside it by model.get_layer(name); inside it are {inside}."
        )
    first = 2 if "stem_pool" in known else 0  # stride 2² = 4
    ends = [*blocks[:-1], "final_relu"]
    return {f"P{level}": name for level, name in enumerate(ends, start=first)}


def _layers_of_densenet(model: keras.Model) -> dict[str, stock.Layer]:
    """Return the layers of a DenseNet by both libraries' names; of another model none."""
    layers = {layer.name: layer for layer in model.layers}
    theirs = re.findall(r"^conv(\d)_block(\d+)_concat$", "\n".join(layers), re.MULTILINE)
    blocks = [layer.num_layers for layer in model.layers if isinstance(layer, DenseBlock)]
    blocks = blocks or list({stage: int(num_layers) for stage, num_layers in theirs}.values())
    if not blocks:
        return {}
    stems = [name for name in layers if name.endswith("_stem_conv")]
    prefix = stems[0].removesuffix("stem_conv") if stems else ""
    imagenet_stem = bool({"pool1", f"{prefix}stem_pool"} & set(layers))
    found = {}
    for ours, peer in _both_names(blocks, imagenet_stem).items():
        if layer := layers.get(f"{prefix}{ours}") or layers.get(peer):
            found |= {ours: layer, peer: layer}
    return found


def _both_names(blocks: Sequence[int], imagenet_stem: bool) -> dict[str, str]:
    names = {"stem_conv": "conv1_conv"}
    if imagenet_stem:
        names |= {"stem_norm": "conv1_bn", "stem_relu": "conv1_relu", "stem_pool": "pool1"}
    for index, num_layers in enumerate(blocks, start=1):
        if index > 1:
            names[f"transition{index - 1}"] = f"pool{index}_pool"
        names[f"block{index}"] = f"conv{index + 1}_block{num_layers}_concat"
    return names | {
        "final_norm": "bn",
        "final_relu": "relu",
        "pool": "avg_pool",
        "classifier": "predictions",
    }


def _stem(
    x: keras.KerasTensor, configuration: Configuration, composite: CompositeOptions, name: str
) -> keras.KerasTensor:
    """Make the k0 channels that enter the first dense block."""
    convolution = {
        "filters": configuration.stem_filters,
        "use_bias": False,
        "kernel_initializer": fresh(composite.kernel_initializer),
        "kernel_regularizer": composite.kernel_regularizer,
        "name": f"{name}_stem_conv",
    }
    if not configuration.imagenet_stem:
        return stock.Conv2D(kernel_size=3, padding="same", **convolution)(x)
    x = stock.ZeroPadding2D(3, name=f"{name}_stem_conv_pad")(x)
    x = stock.Conv2D(kernel_size=7, strides=2, **convolution)(x)
    x = _normalize_activate(x, composite, f"{name}_stem")
    return StemPooling(name=f"{name}_stem_pool")(x)


def _normalize_activate(
    x: keras.KerasTensor, composite: CompositeOptions, name: str
) -> keras.KerasTensor:
    x = BatchNormalization(
        momentum=composite.momentum, epsilon=composite.epsilon, name=f"{name}_norm"
    )(x)
    return activation_layer(composite.activation, f"{name}_relu")(x)


def _images(
    configuration: Configuration,
    input_tensor: keras.KerasTensor | None,
    input_shape: tuple[int | None, int | None, int] | None,
    include_top: bool,
    name: str,
) -> keras.KerasTensor:
    """Return the input, checked: rank 4, channels known, no side smaller than the stride."""
    if input_tensor is None:
        side = None if not include_top else 224 if configuration.imagenet_stem else 32
        shape = (side, side, 3) if input_shape is None else input_shape
        shape = _require_image_shape("input_shape", shape, configuration.stride)
        return stock.Input(shape, name=f"{name}_input")
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor={input_tensor!r}: must be a symbolic Keras tensor, such as "
            "keras.Input((224, 224, 3)) returns."
        )
    shape = tuple(input_tensor.shape)[1:]
    _require_image_shape("the shape of input_tensor", shape, configuration.stride)
    if input_shape is not None and input_shape not in (shape, list(shape)):
        raise ValueError(
            f"input_shape={input_shape!r}: input_tensor has {shape!r}; give one of them."
        )
    return input_tensor


def _require_image_shape(name: str, shape: Any, stride: int) -> tuple[int | None, ...]:
    """Return `shape` as a tuple of ints and None, or raise a ValueError."""
    rule = f"must be (height, width, channels), each side at least {stride} pixels or None"
    if not isinstance(shape, Iterable) or len(tuple(shape)) != 3:
        raise ValueError(f"{name}={shape!r}: {rule}; leave the batch axis out.")
    shape = tuple(shape)
    if shape[-1] is None:
        raise ValueError(f"{name}={shape!r}: {rule}; the number of channels must be known.")
    shape = tuple(
        None if size is None else require_positive_integer(name, size, f" in {shape!r}")
        for size in shape
    )
    if any(side is not None and side < stride for side in shape[:2]):
        raise ValueError(
            f"{name}={shape!r}: {rule}, the network's stride; enlarge the images or take a "
            "network of fewer blocks or without the ImageNet stem."
        )
    return shape


PEERS = {CONFIGURATIONS[name]: name for name in files.PUBLISHED}
"""The networks that ``keras.applications`` has too."""


def _require_imagenet(
    configuration: Configuration, include_top: bool, classes: int, channels: int, epsilon: float
) -> None:
    """Raise a ValueError unless ImageNet's weights belong to such a network."""
    if configuration not in PEERS:
        how = f"keras.applications has them for {', '.join(PEERS.values())} and no other network."
    elif include_top and classes != 1000:
        how = f"They have 1000 classes, not {classes}: take them with include_top=False."
    elif channels != 3:
        how = f"They take images of 3 channels, not {channels}: repeat a single channel."
    elif epsilon != files.KERAS_EPSILON:
        how = f"They were trained with epsilon={files.KERAS_EPSILON}, not {epsilon}."
    else:
        return
    raise ValueError(f"weights='imagenet': {how}")
