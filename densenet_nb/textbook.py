"""The networks exactly as the formulas read, in stock Keras layers: derived here, checked against.

Feature maps are ``(batch, height, width, channels)``. H is the composite function of section 3;
the three networks differ in what they do with it: ``x = H(x)``, ``x = x + H(x)`` and
``x = concatenate([x, H(x)])``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import layers, ops

from densenet_nb.configurations import Configuration, transition_filters
from densenet_nb.parts import HeNormalFanOut, activation_layer, fresh

__all__ = [
    "BN_RELU_CONV",
    "CompositeFunction",
    "DenseNet",
    "PlainCNN",
    "ResNet",
    "StagedResNet",
    "dense_block",
    "dense_layer",
    "residual_block",
    "transition",
]


@dataclass(frozen=True)
class CompositeFunction:
    """H(x): BN, ReLU, convolution; or convolution, BN, ReLU if not `pre_activation`.

    The fields say how every H of a network is made: `normalization` False leaves batch
    normalization out, `dropout_rate` in [0, 1) drops values after each convolution in training.
    """

    activation: str | Callable = "relu"
    normalization: bool = True
    pre_activation: bool = True
    dropout_rate: float = 0.0
    momentum: float = 0.99
    epsilon: float = 1.001e-5
    kernel_initializer: Any = HeNormalFanOut

    def __call__(self, x: keras.KerasTensor, filters: int, size: int) -> keras.KerasTensor:
        """Map (batch, height, width, m) to (batch, height, width, filters) by size x size."""
        if self.pre_activation:
            return self.convolve(self.activate(x), filters, size)
        return self.activate(self.convolve(x, filters, size))

    def activate(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """BN, ReLU."""
        if self.normalization:
            x = layers.BatchNormalization(momentum=self.momentum, epsilon=self.epsilon)(x)
        return activation_layer(self.activation)(x)

    def convolve(
        self, x: keras.KerasTensor, filters: int, size: int, stride: int = 1
    ) -> keras.KerasTensor:
        """Convolve at every `stride`-th pixel; a bias before BN would do nothing."""
        padding = "same"
        if stride > 1:  # "same" would pad an even side after its end only, and so shift the maps
            x, padding = layers.ZeroPadding2D(size // 2)(x), "valid"
        x = layers.Conv2D(
            filters,
            size,
            stride,
            padding,
            use_bias=not self.normalization,
            kernel_initializer=fresh(self.kernel_initializer),
        )(x)
        return layers.Dropout(self.dropout_rate)(x) if self.dropout_rate else x


BN_RELU_CONV = CompositeFunction()
"""The paper's H, with this library's usual numbers."""


def dense_layer(
    x: keras.KerasTensor,
    growth_rate: int,
    bottleneck: bool = True,
    H: CompositeFunction = BN_RELU_CONV,
) -> keras.KerasTensor:
    """Map the m channels so far to k = `growth_rate` new ones: H, or two with a bottleneck."""
    if bottleneck:
        x = H(x, 4 * growth_rate, 1)  # (batch, height, width, 4 k)
    return H(x, growth_rate, 3)  # (batch, height, width, k)


def dense_block(
    x: keras.KerasTensor,
    num_layers: int,
    growth_rate: int,
    bottleneck: bool = True,
    H: CompositeFunction = BN_RELU_CONV,
) -> keras.KerasTensor:
    """x_l = H_l([x_0, x_1, …, x_(l-1)]) (equation 2), and all of them concatenated at the end."""
    features = [x]
    for _ in range(num_layers):
        new = dense_layer(x, growth_rate, bottleneck, H)  # (batch, height, width, k)
        features.append(new)
        x = layers.Concatenate()(features)  # (batch, height, width, k0 + l k)
    return x


def transition(
    x: keras.KerasTensor,
    compression: float = 0.5,
    H: CompositeFunction = BN_RELU_CONV,
) -> keras.KerasTensor:
    """H with a 1x1 convolution to floor(θ m) channels, then 2x2 average pooling (section 3)."""
    filters = transition_filters(x.shape[-1], compression)  # floor(θ m)
    x = H(x, filters, 1)  # (batch, height, width, floor(θ m))
    return layers.AveragePooling2D(2)(x)  # (batch, height // 2, width // 2, floor(θ m))


def DenseNet(
    configuration: Configuration,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    classes: int = 1000,
    include_top: bool = True,
    **composite: Any,
) -> keras.Model:
    """Dense blocks with transitions between them; none after the last (Table 1).

    Parameters
    ----------
    configuration : Configuration
        Blocks, growth rate, bottleneck, compression, stem.
    input_shape : tuple of int
        (height, width, channels) of the images.
    classes : int
        Width of the softmax output, (batch, classes). Without `include_top` the output is the
        last feature map after its BN-ReLU, (batch, height, width, channels).
    **composite
        Fields of :class:`CompositeFunction`.
    """
    H = CompositeFunction(**composite)
    inputs = layers.Input(input_shape)
    x = _stem(inputs, configuration, H)
    for index, num_layers in enumerate(configuration.blocks):
        if index > 0:
            x = transition(x, configuration.compression, H)
        x = dense_block(x, num_layers, configuration.growth_rate, configuration.bottleneck, H)
    return _model(inputs, x, classes if include_top else None, H)


def PlainCNN(
    depth: int, width: int, input_shape: tuple[int, int, int], classes: int, **composite: Any
) -> keras.Model:
    """Stack `depth` composite functions of `width` channels: x_l = H_l(x_(l-1)) (section 3)."""
    H = CompositeFunction(**composite)
    inputs = layers.Input(input_shape)
    x = H.convolve(inputs, width, 3)
    for _ in range(depth):
        x = H(x, width, 3)  # (batch, height, width, width)
    return _model(inputs, x, classes, H)


def ResNet(
    depth: int, width: int, input_shape: tuple[int, int, int], classes: int, **composite: Any
) -> keras.Model:
    """Add each layer's input to its output: x_l = H_l(x_(l-1)) + x_(l-1) (equation 1)."""
    H = CompositeFunction(**composite)
    inputs = layers.Input(input_shape)
    x = H.convolve(inputs, width, 3)
    for _ in range(depth):
        x = layers.Add()([H(x, width, 3), x])  # (batch, height, width, width)
    return _model(inputs, x, classes, H)


def residual_block(
    x: keras.KerasTensor,
    filters: int,
    stride: int = 1,
    H: CompositeFunction = BN_RELU_CONV,
) -> keras.KerasTensor:
    """Add H(H(x)) to x, pre-activation; the first H has the stride (arXiv 1603.05027, figure 1b).

    x is given the other summand's shape without weights: every `stride`-th pixel, and zeros for
    new channels (option A of arXiv 1512.03385, section 4.1).
    """
    change = H.convolve(H.activate(x), filters, 3, stride)
    change = H(change, filters, 3)  # (batch, ceil(height / stride), ceil(width / stride), filters)
    if stride > 1:
        x = x[:, ::stride, ::stride]
    if new := filters - x.shape[-1]:
        x = ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, new)])
    return layers.Add()([change, x])


def StagedResNet(
    blocks: Sequence[int],
    width: int,
    input_shape: tuple[int, int, int],
    classes: int,
    **composite: Any,
) -> keras.Model:
    """Residual blocks of two convolutions, in stages of ever smaller and more feature maps.

    He et al.'s ResNets for CIFAR have three stages of n blocks and `width` 16, thus 6 n + 2
    layers (arXiv 1512.03385, section 4.2). Here, as in `DenseNet`, the activation comes before
    the convolution (arXiv 1603.05027).

    Parameters
    ----------
    blocks : sequence of int
        Residual blocks in each stage. Each stage but the first begins at half the height and
        width, and with twice the channels.
    width : int
        Channels in the first stage.
    input_shape : tuple of int
        (height, width, channels) of the images.
    classes : int
        Width of the softmax output, (batch, classes).
    **composite
        Fields of :class:`CompositeFunction` but `pre_activation`.
    """
    H = CompositeFunction(**composite, pre_activation=True)
    inputs = layers.Input(input_shape)
    x = H.convolve(inputs, width, 3)
    for stage, num_blocks in enumerate(blocks):
        for index in range(num_blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            x = residual_block(x, width * 2**stage, stride, H)
    return _model(inputs, x, classes, H)


def _stem(
    x: keras.KerasTensor,
    configuration: Configuration,
    H: CompositeFunction,
) -> keras.KerasTensor:
    """Make the k0 channels that enter the first block."""
    if not configuration.imagenet_stem:
        x = layers.Conv2D(
            configuration.stem_filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer=H.kernel_initializer,
        )(x)  # (batch, height, width, k0)
        return x if H.pre_activation else H.activate(x)
    x = layers.ZeroPadding2D(3)(x)
    x = layers.Conv2D(
        configuration.stem_filters,
        7,
        strides=2,
        use_bias=False,
        kernel_initializer=H.kernel_initializer,
    )(x)  # (batch, ceil(height / 2), ceil(width / 2), k0)
    x = layers.ZeroPadding2D(1)(H.activate(x))
    return layers.MaxPooling2D(3, strides=2)(x)


def _model(
    inputs: keras.KerasTensor,
    x: keras.KerasTensor,
    classes: int | None,
    H: CompositeFunction,
) -> keras.Model:
    """End with BN-ReLU, global average pooling and a softmax over `classes` if there are any."""
    if H.pre_activation:
        x = H.activate(x)
    if classes is not None:
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, x)
