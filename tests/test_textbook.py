"""The ResNet with stages is that of He et al.; the textbook's DenseNets are tested with ours."""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest

from densenet_nb import textbook
from densenet_nb.cost import Convolution


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("layers", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_a_resnet_for_cifar_has_the_parameters_of_he_et_als_table_6(layers, millions):
    n = (layers - 2) // 6
    kernels = [Convolution(3, 16, 3)]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        kernels += [Convolution(before, width, 3), *[Convolution(width, width, 3)] * (2 * n - 1)]
    counted = sum(kernel.weights for kernel in kernels) + 64 * 10 + 10
    counted += sum(2 * kernel.channels for kernel in kernels[1:]) + 2 * 64  # γ and β
    assert round(counted / 1e6, 2 if millions < 1 else 1) == millions
    if layers <= 32:  # the others take long to build
        model = textbook.StagedResNet((n, n, n), 16, (32, 32, 3), 10)
        assert trainable(model) == counted
        convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
        assert len(convolutions) + 1 == layers  # and the classifier


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(("stride", "filters"), [(1, 3), (2, 6), (2, 3)])
def test_a_residual_block_adds_what_its_input_keeps(side, stride, filters):
    """The last convolution made zero, every second pixel and zeros for new channels are left."""
    inputs = keras.Input((side, side, 3))
    model = keras.Model(inputs, textbook.residual_block(inputs, filters, stride))
    *_, last = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    last.kernel.assign(np.zeros(last.kernel.shape))
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype("float32")
    expected = np.zeros((2, -(-side // stride), -(-side // stride), filters), "float32")
    expected[..., :3] = images[:, ::stride, ::stride]
    np.testing.assert_array_equal(model.predict_on_batch(images), expected)


@pytest.mark.parametrize("side", [7, 8])
def test_the_strided_convolution_sees_the_pixels_around_those_that_the_shortcut_keeps(side):
    """A kernel that copies its middle pixel gives what the shortcut gives."""
    inputs = keras.Input((side, side, 1))
    outputs = textbook.BN_RELU_CONV.convolve(inputs, 1, 3, stride=2)
    model = keras.Model(inputs, outputs)
    middle = np.zeros((3, 3, 1, 1))
    middle[1, 1] = 1
    model.layers[-1].kernel.assign(middle)
    images = np.random.default_rng(0).normal(size=(2, side, side, 1)).astype("float32")
    np.testing.assert_array_equal(model.predict_on_batch(images), images[:, ::2, ::2])


def test_a_staged_resnet_is_pre_activation_only():
    with pytest.raises(TypeError, match="pre_activation"):
        textbook.StagedResNet((1, 1), 2, (8, 8, 1), 10, pre_activation=False)
