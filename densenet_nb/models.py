"""DenseNets as Keras models: fast, and equal to the textbook's and to ``keras.applications``'.

``DenseNet121`` and its kin take the keywords of ``keras.applications.DenseNet121`` and, given the
same weights, return the same outputs. Nothing is fetched unless ``weights="imagenet"`` asks for it:
`weights` is None by default.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import layers as stock

from densenet_nb import weights as files
from densenet_nb.checks import (
    require_backend,
    require_boolean,
    require_channels_last,
    require_name,
    require_positive_integer,
)
from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet
from densenet_nb.layers import DenseBlock, HeNormalFanOut, StemPooling, Transition
from densenet_nb.network import DenseNetModel, image_input
from densenet_nb.normalization import BatchNormalization
from densenet_nb.parts import CompositeOptions, activation_layer, fresh
from densenet_nb.pyramid import feature_pyramid, keras_applications_names
from densenet_nb.signatures import names_misspelt_keywords, takes_options_of

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
    synchronized: bool = False,
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
    activation, dropout_rate, momentum, epsilon, synchronized
        Of every composite function; see :class:`densenet_nb.layers.CompositeFunction`.
    kernel_initializer, kernel_regularizer
        Of every convolution; the regularizer is the classifier's as well.
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
        synchronized=synchronized,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
    )
    images = image_input(configuration, input_tensor, input_shape, include_top, name)
    if weights == "imagenet":
        weights = files.published(configuration, include_top, classes, images.shape[-1], epsilon)
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


@takes_options_of(from_configuration)
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


@takes_options_of(from_configuration, classes=10, name="densenet_cifar")
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
    return takes_options_of(from_configuration, name=key.lower())(network)


DenseNet121 = _imagenet_network("DenseNet121")
DenseNet161 = _imagenet_network("DenseNet161")
DenseNet169 = _imagenet_network("DenseNet169")
DenseNet201 = _imagenet_network("DenseNet201")
DenseNet264 = _imagenet_network("DenseNet264")


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
        momentum=composite.momentum,
        epsilon=composite.epsilon,
        synchronized=composite.synchronized,
        name=f"{name}_norm",
    )(x)
    return activation_layer(composite.activation, f"{name}_relu")(x)
