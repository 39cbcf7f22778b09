"""A wrong value is refused before anything is built, naming the value, the rule and the fix."""

import keras
import pytest

from densenet_nb import cost, layers, models
from densenet_nb.configurations import CONFIGURATIONS, Configuration, cifar, imagenet


def small(**options):
    return models.DenseNet((1, 1), 4, **options)


BAD = {
    # growth rate, blocks, filters
    "growth rate 0": (lambda: small_growth(0), "growth_rate=0", "at least 1"),
    "growth rate negative": (lambda: small_growth(-3), "growth_rate=-3", "at least 1"),
    "growth rate a float": (lambda: small_growth(2.5), "growth_rate=2.5", "integer"),
    "growth rate a boolean": (lambda: small_growth(True), "growth_rate=True", "integer"),
    "growth rate a string": (lambda: small_growth("12"), "growth_rate='12'", "integer"),
    "no blocks": (lambda: models.DenseNet(()), "blocks=()", "non-empty sequence"),
    "blocks a number": (lambda: models.DenseNet(4), "blocks=4", "such as (6, 12, 24, 16)"),
    "blocks a string": (lambda: models.DenseNet("121"), "blocks='121'", "such as"),
    "an empty block": (lambda: models.DenseNet((6, 0)), "blocks=0 in (6, 0)", "at least 1"),
    "no stem filters": (lambda: small(stem_filters=0), "stem_filters=0", "at least 1"),
    "no classes": (lambda: small(classes=0), "classes=0", "at least 1"),
    "blocks a float": (lambda: models.DenseNet(6.5), "blocks=6.5", "such as"),
    "θ in the place of a flag": (
        lambda: models.DenseNet((1, 1), 8, 0.25),
        "bottleneck=0.25",
        "True",
    ),
    "a flag that is a word": (lambda: small(imagenet_stem="no"), "imagenet_stem='no'", "True or"),
    "top a number": (lambda: small(include_top=2), "include_top=2", "True or False"),
    "no name": (lambda: small(name=None), "name=None", "non-empty string"),
    "name with a slash": (lambda: small(name="a/b"), "name='a/b'", "without '/'"),
    "name with a space": (lambda: small(name="a b"), "name='a b'", "A to Z"),
    "name that begins with _": (lambda: small(name="_a"), "name='_a'", "not begin with '_'"),
    "name with an accent": (lambda: small(name="réseau"), "name='réseau'", "A to Z"),
    "empty name": (lambda: small(name=""), "name=''", "non-empty"),
    "layer's name": (lambda: layers.DenseBlock(1, 4, name="a b"), "name='a b'", "A to Z"),
    "transition's name": (lambda: layers.Transition(name="_a"), "name='_a'", "not begin with"),
    "activation a class": (
        lambda: small(activation=keras.layers.PReLU),
        "activation=PReLU: a class",
        "PReLU()",
    ),
    "activation a layer's name": (lambda: small(activation="prelu"), "prelu", "activation"),
    "regularizer unknown": (lambda: small(kernel_regularizer="l3"), "l3", "regularizer"),
    "no configuration": (
        lambda: models.from_configuration("DenseNet121"),
        "configuration='DenseNet121'",
        "CONFIGURATIONS[",
    ),
    # depth
    "depth of no split": (lambda: cifar(41, 12, False), "depth=41", "nearest are 40 and 43"),
    "depth of no split with bottlenecks": (lambda: cifar(99, 12), "depth=99", "94 and 100"),
    "depth too small": (lambda: models.DenseNetCIFAR(4), "depth=4", "10 and 16"),
    "depth negative": (lambda: models.DenseNetCIFAR(-2), "depth=-2", "at least 1"),
    # compression
    "θ 0": (lambda: small(compression=0), "compression=0", "(0, 1]"),
    "θ above 1": (lambda: models.DenseNet121(compression=1.5), "compression=1.5", "(0, 1]"),
    "θ not a number": (lambda: small(compression=float("nan")), "compression=nan", "finite"),
    "θ a string": (lambda: small(compression="half"), "compression='half'", "number"),
    "θ that keeps nothing": (lambda: small(compression=0.05), "compression=0.05", "at least 1 / "),
    "θ of a transition": (lambda: layers.Transition(2.0), "compression=2.0", "(0, 1]"),
    "θ that keeps no channel of a layer": (
        lambda: keras.Model(i := keras.Input((8, 8, 4)), layers.Transition(0.1)(i)),
        "compression=0.1",
        "m = 4 channels",
    ),
    # input
    "smaller than the stride": (
        lambda: models.DenseNet121(input_shape=(31, 224, 3)),
        "(31, 224, 3)",
        "at least 32 pixels",
    ),
    "wrong rank": (lambda: small(input_shape=(64, 64)), "(64, 64)", "(height, width, channels)"),
    "batch axis included": (lambda: small(input_shape=(None, 64, 64, 3)), "64, 3)", "batch axis"),
    "shape a number": (
        lambda: small(input_shape=64),
        "input_shape=64",
        "(height, width, channels)",
    ),
    "no channels": (lambda: small(input_shape=(64, 64, 0)), "(64, 64, 0)", "at least 1"),
    "channels unknown": (lambda: small(input_shape=(64, 64, None)), "None", "must be known"),
    "side a float": (lambda: small(input_shape=(64.0, 64, 3)), "64.0", "integer"),
    "tensor not symbolic": (lambda: small(input_tensor=[1.0]), "input_tensor=[1.0]", "keras.Input"),
    "tensor of rank 2": (lambda: small(input_tensor=keras.Input((7,))), "(7,)", "height, width"),
    "tensor smaller than the stride": (
        lambda: small(input_tensor=keras.Input((4, 4, 3))),
        "the shape of input_tensor=(4, 4, 3)",
        "at least 8",
    ),
    "maps of the wrong rank": (
        lambda: layers.DenseBlock(1, 4)(keras.Input((7,))),
        "found ndim=2",
        "expected ndim=4",
    ),
    "tensor and another shape": (
        lambda: small(input_tensor=keras.Input((32, 32, 3)), input_shape=(64, 64, 3)),
        "(64, 64, 3)",
        "give one of them",
    ),
    # weights, pooling, numbers of the composite function
    "imagenet of other classes": (
        lambda: models.DenseNet201(weights="imagenet", classes=10),
        "1000 classes, not 10",
        "include_top=False",
    ),
    "imagenet of a network that has none": (
        lambda: models.DenseNetCIFAR(weights="imagenet"),
        "weights='imagenet'",
        "DenseNet121, DenseNet169, DenseNet201 and no other",
    ),
    "imagenet of 161": (
        lambda: models.DenseNet161(weights="imagenet", include_top=False),
        "weights='imagenet'",
        "and no other network",
    ),
    "imagenet with another growth rate": (
        lambda: models.DenseNet121(weights="imagenet", growth_rate=12),
        "weights='imagenet'",
        "and no other network",
    ),
    "imagenet of gray images": (
        lambda: models.DenseNet169(weights="imagenet", input_shape=(64, 64, 1)),
        "3 channels, not 1",
        "repeat",
    ),
    "imagenet with another epsilon": (
        lambda: models.DenseNet121(weights="imagenet", epsilon=1e-3),
        "epsilon=1.001e-05, not 0.001",
        "trained",
    ),
    "weights unknown": (lambda: small(weights="noisy"), "weights='noisy'", "existing weights file"),
    "weights a folder": (lambda: small(weights="/"), "weights='/'", "existing weights file"),
    "weights an array": (lambda: small(weights=[1, 2]), "weights=[1, 2]", "path"),
    "pooling unknown": (lambda: small(pooling="mean"), "pooling='mean'", '"avg" or "max"'),
    "dropout 1": (lambda: small(dropout_rate=1.0), "dropout_rate=1.0", "[0, 1)"),
    "dropout negative": (lambda: small(dropout_rate=-0.1), "dropout_rate=-0.1", "[0, 1)"),
    "momentum 1": (lambda: small(momentum=1), "momentum=1", "[0, 1)"),
    "epsilon 0": (lambda: small(epsilon=0), "epsilon=0", "above 0"),
    "epsilon infinite": (lambda: small(epsilon=float("inf")), "epsilon=inf", "finite"),
    "activation unknown": (lambda: small(activation="rleu"), "rleu", "activation"),
    "initializer unknown": (lambda: small(kernel_initializer="hee"), "hee", "initializer"),
    "classifier activation unknown": (
        lambda: small(classifier_activation="softmaks"),
        "softmaks",
        "activation",
    ),
    # layers and configurations on their own
    "block of no layers": (lambda: layers.DenseBlock(0, 12), "num_layers=0", "at least 1"),
    "filters 0": (lambda: layers.CompositeFunction(0, 3), "filters=0", "at least 1"),
    "kernel size 0": (lambda: layers.CompositeFunction(4, 0), "kernel_size=0", "at least 1"),
    "layer's growth rate": (lambda: layers.DenseLayer(0), "growth_rate=0", "at least 1"),
    "layer's dropout": (
        lambda: layers.DenseBlock(1, 4, dropout_rate=2),
        "dropout_rate=2",
        "[0, 1)",
    ),
    "configuration": (lambda: Configuration((1,), 0, 8), "growth_rate=0", "at least 1"),
    "imagenet configuration": (lambda: imagenet((1,), 0), "growth_rate=0", "at least 1"),
    "cost of a small image": (
        lambda: cost.multiply_adds(CONFIGURATIONS["DenseNet121"], 31),
        "height=31",
        "at least 32",
    ),
}


def small_growth(growth_rate):
    return models.DenseNet((1, 1), growth_rate)


@pytest.fixture
def nothing_built(monkeypatch):
    """Fail if a layer makes a weight."""

    def built(*args, **kwargs):
        raise AssertionError("a weight was made before the value was refused")

    monkeypatch.setattr(keras.layers.Layer, "add_weight", built)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    call, value, rule = BAD[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the words are checked below)
        call()
    assert value in str(error.value)
    assert rule in str(error.value)


MISSPELT = {
    "DenseNet121": (models.DenseNet121, "growth_rat", "growth_rate"),
    "DenseNet201": (models.DenseNet201, "inputshape", "input_shape"),
    "DenseNet": (lambda **k: models.DenseNet((1,), **k), "droput_rate", "dropout_rate"),
    "DenseNetCIFAR": (models.DenseNetCIFAR, "bottelneck", "bottleneck"),
    "from_configuration": (
        lambda **k: models.from_configuration(CONFIGURATIONS["DenseNet121"], **k),
        "clases",
        "classes",
    ),
    "DenseBlock": (lambda **k: layers.DenseBlock(1, 4, **k), "bottelneck", "bottleneck"),
    "Transition": (lambda **k: layers.Transition(**k), "compresion", "compression"),
}


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("case", MISSPELT)
def test_misspelt_keyword_is_named_with_the_one_meant(case):
    call, misspelt, meant = MISSPELT[case]
    with pytest.raises(TypeError) as error:
        call(**{misspelt: 1})
    assert repr(misspelt) in str(error.value)
    assert f"did you mean {meant!r}?" in str(error.value)


def test_channels_first_is_refused_by_name(nothing_built):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first.*channels_last"):
            models.DenseNet121()
        with pytest.raises(ValueError, match="channels_first.*channels_last"):
            layers.DenseBlock(1, 4)
    finally:
        keras.config.set_image_data_format("channels_last")
