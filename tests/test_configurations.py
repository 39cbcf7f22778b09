import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet


def test_channels_of_densenet121():
    configuration = CONFIGURATIONS["DenseNet121"]
    assert configuration.block_inputs == (64, 128, 256, 512)
    assert configuration.block_outputs == (256, 512, 1024, 1024)
    assert configuration.stride == 32


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_depth_is_the_number_in_the_name(name):
    digits = name.split(" ")[0].replace("-BC", "").removeprefix("DenseNet").removeprefix("-")
    # Table 1's blocks for 264 hold 265 layers by the count that gives 121, 161, 169 and 201.
    assert CONFIGURATIONS[name].depth == (265 if name == "DenseNet264" else int(digits))


def test_compression_rounds_down():
    configuration = Configuration((1, 1), growth_rate=1, stem_filters=2, compression=0.5)
    assert configuration.block_outputs == (3, 2)
    assert configuration.block_inputs == (2, 1)


@given(n=st.integers(1, 60), growth_rate=st.integers(1, 64), bottleneck=st.booleans())
def test_cifar_depth_is_what_was_asked(n, growth_rate, bottleneck):
    depth = (6 if bottleneck else 3) * n + 4
    configuration = cifar(depth, growth_rate, bottleneck)
    assert configuration.depth == depth
    assert configuration.blocks == (n, n, n)
    assert configuration.stem_filters == (2 * growth_rate if bottleneck else 16)
    assert configuration.compression == (0.5 if bottleneck else 1.0)


@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    growth_rate=st.integers(1, 48),
    compression=st.floats(0.5, 1),
)
def test_each_layer_adds_the_growth_rate(blocks, growth_rate, compression):
    configuration = imagenet(blocks, growth_rate, compression)
    assert configuration.block_inputs[0] == 2 * growth_rate
    inputs, outputs = configuration.block_inputs, configuration.block_outputs
    for k0, m, layers in zip(inputs, outputs, blocks, strict=True):
        assert m - k0 == layers * growth_rate
    for m, k0 in zip(outputs, inputs[1:], strict=False):
        assert k0 <= compression * m < k0 + 1
