"""A frozen predictor is the model's function: folded, saved, exported, or refused by name."""

import re
import sys
import warnings
from collections import Counter

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from equality import nodes_of, randomize, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.applications.densenet import DenseNet  # of any depth
from tensorflow.core.protobuf import saved_model_pb2

from densenet_nb import inference, layers, models
from densenet_nb.configurations import Configuration, cifar
from densenet_nb.normalization import BatchNormalization


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


def error(predictor, model, x):
    return relative_error(np.array(predictor(x)), np.array(model(x, training=False)))


def small(blocks=(2, 2), **options):
    options = {"input_shape": (None, None, 3), "classes": 5, **options}
    if options.get("include_top", True):
        options.setdefault("classifier_activation", None)
    keras.utils.set_random_seed(0)
    model = models.DenseNet(blocks, 4, **options)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def predictor(model):
    return inference.freeze(model)


def after(head, shape=(12, 12, 3), **options):
    """A convolution and a dense block after `head`, a layer or a function of the images."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, **options)
    x = keras.layers.Conv2D(4, 3)(head(inputs))
    return keras.Model(inputs, layers.DenseBlock(1, 2)(x))


CONFIGURATION = st.builds(
    Configuration,
    blocks=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    growth_rate=st.integers(1, 4),
    stem_filters=st.integers(1, 5),
    bottleneck=st.booleans(),
    compression=st.floats(0.5, 1.0),
    imagenet_stem=st.booleans(),
)


@given(
    configuration=CONFIGURATION,
    activation=st.sampled_from(["relu", "silu"]),
    batch=st.integers(1, 3),
)
@settings(deadline=None, max_examples=8)
def test_any_network_frozen_is_the_same(configuration, activation, batch):
    side = 2 * configuration.stride + 1
    network = models.from_configuration(
        configuration,
        input_shape=(side, side, 2),
        classes=3,
        classifier_activation=None,
        activation=activation,
    )
    randomize(network)
    predictor = inference.freeze(network)
    assert predictor.input_shape == (None, side, side, 2)
    assert error(predictor, network, images(batch, side, side, 2)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"dropout_rate": 0.5},
        {"epsilon": 1e-3},
        {"activation": "gelu"},
        {"classifier_activation": "softmax"},
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
    ],
    ids=str,
)
def test_every_option(options):
    network = small(**options)
    assert error(inference.freeze(network), network, images(3, 45, 38, 3)) < 1e-5


def test_ours_and_keras_applications():
    """Stock layers fold as well; (2, 2, 2, 2) has the parts of 121 in a fifth of the time."""
    options = {"input_shape": (64, 64, 3), "classes": 10}
    ours = models.DenseNet((2, 2, 2, 2), **options)
    theirs = DenseNet([2, 2, 2, 2], weights=None, **options)
    randomize(ours)
    theirs.set_weights(ours.get_weights())
    x = images(2, 64, 64, 3)
    for network in (ours, theirs):
        assert error(inference.freeze(network), theirs, x) < 1e-5


def operations(function):
    """The operations of the graph and of the functions that it calls."""
    graph = function.get_concrete_function().graph.as_graph_def()
    return re.findall(r'^\s*op: "(\w+)"', str(graph), re.MULTILINE)


def test_nothing_is_left_to_read_and_little_to_normalize(predictor):
    fast, bare = map(operations, (predictor._module.__call__, predictor._module.forward))
    for names in (fast, bare):
        assert not {"ReadVariableOp", "VarHandleOp", "Rsqrt"} & set(names)
        # Two blocks of two bottlenecks, a transition and the stem.
        assert names.count("Conv2D") == 2 * 2 * 2 + 1 + 1
    # The transition's normalization and the last stay affine; those before bottlenecks are a
    # clipping, or, as other runtimes have it, a batch normalization each.
    assert (fast.count("Mul"), fast.count("FusedBatchNormV3")) == (2, 0)
    assert (bare.count("Mul"), bare.count("FusedBatchNormV3")) == (0, 2 * 2 + 1 + 1)


def test_only_the_newest_maps_have_to_wait():
    """Where the maps before them are four times as many, a convolution of their own reads those."""
    network = small((4,))
    predictor = inference.freeze(network)
    # The stem and two to a dense layer; one more where 8 + 2 x 4 channels are beside 4 new.
    assert operations(predictor._module.__call__).count("Conv2D") == 1 + 2 * 4 + 1
    assert operations(predictor._module.forward).count("Conv2D") == 1 + 2 * 4  # as converters read
    assert error(predictor, network, images(2, 40, 40, 3)) < 1e-5


@pytest.mark.parametrize("gamma", [0.0, 1e-38, -1.0, "mixed"])
def test_any_gamma(gamma):
    """γ = 0 makes a channel constant; γ < 0 turns the clipping round."""
    network = small()
    for layer in network._flatten_layers():
        if isinstance(layer, BatchNormalization):
            value = layer.gamma.numpy()
            value[::2] = gamma if gamma != "mixed" else -value[::2]
            layer.gamma.assign(value)
    assert error(inference.freeze(network), network, images(2, 40, 40, 3)) < 1e-5


def test_large_means():
    """Maps far from zero: rounding grows with the mean, in the model itself too."""
    network = small(input_shape=(40, 40, 3))
    assert error(inference.freeze(network), network, 1000 * images(2, 40, 40, 3)) < 1e-5


def composed():
    """Layers of ours and of Keras's between them, a nested model, a layer called twice."""
    inputs = keras.Input((16, 16, 3), name="photo")
    x = keras.layers.Rescaling(2.0, offset=-1.0)(inputs)
    x = keras.layers.Conv2D(6, 3, strides=2, groups=3, padding="same")(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    x = layers.DenseBlock(2, 4)(x)
    x = keras.layers.SpatialDropout2D(0.5)(keras.layers.LeakyReLU()(x))
    x = layers.Transition(0.5)(x)
    twice = layers.DenseLayer(7)
    x = keras.ops.concatenate([twice(x), keras.ops.sin(twice(x))], axis=-1)
    nested = keras.Sequential(
        [
            keras.layers.DepthwiseConv2D(3),
            keras.layers.BatchNormalization(),
            layers.CompositeFunction(5, 1),
            BatchNormalization(),
            keras.layers.BatchNormalization(axis=1),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
        ]
    )
    return keras.Model(inputs, keras.layers.Dense(3)(nested(x)))


def test_layers_that_users_compose():
    network = composed()
    randomize(network)
    assert error(inference.freeze(network), network, images(4, 16, 16, 3)) < 1e-5


def test_a_convolution_that_others_read_as_well():
    inputs = keras.Input((8, 8, 3))
    raw = keras.layers.Conv2D(4, 3)(inputs)
    outputs = keras.layers.Concatenate()([raw, BatchNormalization()(raw)])
    network = keras.Model(inputs, outputs)
    randomize(network)
    assert error(inference.freeze(network), network, images(2, 8, 8, 3)) < 1e-5


# Augmentation and noise: nothing of them is left


AUGMENTATION = {
    "RandomBrightness": (0.2,),
    "RandomColorDegeneration": (0.2,),
    "RandomContrast": (0.2,),
    "RandomCrop": (12, 12),
    "RandomHue": (0.2,),
    "RandomPosterization": (4,),
    "RandomRotation": (0.2,),
    "RandomSaturation": (0.2,),
    "RandomSharpness": (0.2,),
    "RandomShear": (0.1, 0.1),
    "RandomTranslation": (0.1, 0.1),
    "RandomZoom": (0.2,),
    "Dropout": (0.5,),
    "SpatialDropout2D": (0.5,),
    "AlphaDropout": (0.5,),
    "GaussianDropout": (0.5,),
    "GaussianNoise": (0.5,),
    "AugMix": (),
    "CutMix": (),
    "MixUp": (),
    "RandAugment": (),
}


def augmentation():
    """Every layer of Keras's that is random in training, those with a name `Random…` unasked."""
    found = [name for name in dir(keras.layers) if name.startswith("Random")]
    assert len(found) >= 20
    for name in sorted({*found, *AUGMENTATION}):
        yield getattr(keras.layers, name)(*AUGMENTATION.get(name, ()))


class Augmenting(keras.layers.Layer):
    """A user's layer with random ones inside, which its `call` does not tell about training."""

    def __init__(self):
        super().__init__()
        self.flip, self.dropout = keras.layers.RandomFlip(), keras.layers.Dropout(0.5)

    def call(self, x):
        return self.dropout(self.flip(x))


def chained(x):
    for layer in augmentation():
        x = layer(x)
    return x


@pytest.mark.parametrize(
    "head",
    [chained, lambda x: keras.Sequential([*augmentation()])(x), lambda x: Augmenting()(x)],
    ids=["in the model", "in a nested model", "in a layer"],
)
def test_no_random_operation_is_left(head, tmp_path):
    network = after(head)
    predictor = inference.freeze(network)
    assert error(predictor, network, images(3, 12, 12, 3)) < 1e-5
    predictor.save(tmp_path)
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    (graph,) = (meta.graph_def for meta in saved.meta_graphs)
    names = {node.op for node in nodes_of(graph)}
    assert "Conv2D" in names
    assert not [name for name in names if re.search("Random|Seed|Assign|ReadVariable", name)]


# What a user's code, or a layer of Keras's, may do with the batch


ACROSS_IMAGES = {
    "a Lambda": keras.layers.Lambda(lambda x: x - tf.reduce_mean(x, 0)),
    "an operation": lambda x: x - keras.ops.mean(x, axis=0),
    "axis 0": keras.layers.Softmax(axis=0),
    "axis -4": keras.layers.Softmax(axis=-4),
    "an activation": keras.layers.Activation(lambda x: x / tf.reduce_max(x)),
    "an activation of ours": layers.CompositeFunction(
        4, 3, activation=lambda x: x / tf.reduce_max(x)
    ),
    "a nested model": keras.Sequential([keras.layers.Softmax(axis=0)]),
    "more images out than in": lambda x: keras.ops.reshape(x, (-1, 6, 6, 3)),
}


@pytest.mark.parametrize("head", ACROSS_IMAGES)
def test_what_reads_across_images_still_does(head):
    network = after(ACROSS_IMAGES[head])
    assert error(inference.freeze(network), network, images(3, 12, 12, 3)) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int32"])
def test_any_input_dtype(dtype):
    x = (255 * images(3, 12, 12, 3)).astype(dtype)
    inputs = keras.Input((12, 12, 3), dtype=dtype)
    nested = keras.Model(inputs, layers.DenseBlock(2, 2)(inputs))
    scaled = after(keras.layers.Rescaling(1 / 255), dtype=dtype)
    for network in (nested, scaled, after(lambda x: nested(255 * x))):
        assert error(inference.freeze(network), network, x) < 1e-5


def test_arguments_by_name_masks_and_adapters():
    """What the folded forms do not know is left to Keras."""
    inputs = keras.Input((7, 3))
    masked = keras.layers.BatchNormalization()(keras.layers.Masking()(inputs))
    series = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(masked))
    x = images(3, 7, 3)
    x[:, 4:] = 0
    series.set_weights([weight + 0.5 for weight in series.get_weights()])
    assert error(inference.freeze(series), series, x) < 1e-5

    first, second = (keras.Input((12, 12, 3), name=name) for name in "za")
    nested = keras.Model({"z": first, "a": second}, first - 2 * second)
    network = after(lambda x: nested(inputs={"a": x, "z": 3 * x}))
    network.layers[-2].enable_lora(2)
    network.layers[-2].lora_kernel_b.assign_add(np.ones((2, 4)))
    assert error(inference.freeze(network), network, images(3, 12, 12, 3)) < 1e-5


# The batch: of a fixed size, empty, with an image that is not a number


def fixed(batch_size, **options):
    inputs = keras.Input((12, 12, 3), batch_size=batch_size)
    options = {"imagenet_stem": False, "classifier_activation": None, "classes": 5, **options}
    return models.DenseNet((2,), 4, input_tensor=inputs, **options)


@pytest.mark.parametrize("batch_size", [8, 1])
def test_fixed_batch_size(batch_size, tmp_path):
    """Keras's models answer batches of other sizes as well."""
    network = fixed(batch_size)
    predictor = inference.freeze(network)
    predictor.save(tmp_path / "saved")
    for each in (predictor, inference.load(tmp_path / "saved")):
        assert each.input_shape == (None, 12, 12, 3)
        for count in (batch_size, 3):
            assert error(each, network, images(count, 12, 12, 3)) < 1e-5
    each.export(tmp_path / "fixed.onnx")  # files keep the size
    session = onnxruntime.InferenceSession(tmp_path / "fixed.onnx")
    assert [session.get_inputs()[0].shape[0], session.get_outputs()[0].shape[0]] == 2 * [batch_size]
    serving = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    assert serving.structured_input_signature[1]["images"].shape[0] == batch_size
    x = images(batch_size, 12, 12, 3)
    for answers in (session.run(None, {"images": x})[0], serving(images=x)["predictions"]):
        assert relative_error(np.array(answers), np.array(network(x, training=False))) < 1e-5


def test_fixed_batch_size_that_the_model_relies_on(tmp_path):
    inputs = keras.Input((12, 12, 3), batch_size=4)
    network = keras.Model(inputs, keras.ops.reshape(layers.DenseBlock(1, 2)(inputs), (4, -1)))
    inference.freeze(network).save(tmp_path)
    predictor, x = inference.load(tmp_path), images(4, 12, 12, 3)
    assert error(predictor, network, x) < 1e-5
    with pytest.raises(ValueError, match=r"must be \(4, 12, 12, 3\)"):
        predictor(x[:2])


@pytest.mark.parametrize("include_top", [True, False])
def test_empty_batch(include_top, tmp_path):
    predictor = inference.freeze(small(include_top=include_top))
    shape = (0, 5) if include_top else (0, 5, 6, 16)
    empty = np.zeros((0, 40, 48, 3), "float32")
    predictor.save(tmp_path / "saved")
    for answers in (
        predictor,
        inference.load(tmp_path / "saved"),
        tf.saved_model.load(str(tmp_path / "saved")),
        tf.function(predictor, input_signature=[tf.TensorSpec((None, None, None, 3))]),
        tf.function(predictor, jit_compile=True),
    ):
        assert answers(empty).shape == shape
    predictor.export(tmp_path / "any.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "any.onnx")
    assert session.run(None, {"images": empty})[0].shape == shape


@pytest.mark.parametrize("blocks", [(2,), (2, 2)], ids=str)
def test_not_a_number_stays_in_its_image(blocks):
    """The answer is no number where the model's is none, and other images' answers are theirs.

    A traced graph of TensorFlow's takes ReLU of NaN for 0 where it joins ReLU to a convolution:
    `predict` of such a model answers NaN with numbers. The predictor does not.
    """
    network = small(blocks, input_shape=(12, 12, 3), imagenet_stem=False)
    predictor = inference.freeze(network)
    for count, bad in ((1, 0), (3, 0), (3, 2), (8, 4)):
        x = images(count, 12, 12, 3)
        x[bad, 5, 5, 1] = np.nan
        actual, expected = np.array(predictor(x)), np.array(network(x, training=False))
        assert np.isnan(expected[bad]).all()
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
        if count > 1:
            assert relative_error(np.nan_to_num(actual), np.nan_to_num(expected)) < 1e-5


# TensorFlow Lite


def lite_answers(path, x):
    """What the interpreter answers, image by image."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # to be another package's
        run = tf.lite.Interpreter(str(path)).get_signature_runner()
    (images,), (predictions,) = run.get_input_details(), run.get_output_details()
    return np.concatenate([run(**{images: image[None]})[predictions] for image in x])


@pytest.mark.parametrize("shape", [(None, None, 3), (40, 41, 3)], ids=str)
@pytest.mark.parametrize("options", [{}, {"include_top": False}], ids=["classes", "maps"])
def test_tensorflow_lite(shape, options, tmp_path):
    network, path = small(input_shape=shape, **options), tmp_path / "model.tflite"
    inference.freeze(network).export(path)
    for size in ((40, 41), (64, 33)) if shape[0] is None else (shape[:2],):
        x = images(2, *size, 3)
        assert relative_error(lite_answers(path, x), np.array(network(x, training=False))) < 1e-5


def test_int8_of_tensorflow_lite_is_no_larger_and_as_good(tmp_path):
    """Keras's own model is quantized likewise; eight bits leave an error of a few percent."""
    network, x = small((2, 2), input_shape=(32, 32, 3)), images(8, 32, 32, 3)
    ours, theirs = tmp_path / "ours.tflite", tmp_path / "theirs.tflite"
    inference.freeze(network).export(ours, "int8", examples=x)
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        theirs.write_bytes(converter.convert())
    expected = np.array(network(x, training=False))
    errors = [relative_error(lite_answers(path, x), expected) for path in (ours, theirs)]
    assert ours.stat().st_size <= theirs.stat().st_size
    assert max(errors) < 0.05  # both are 0.03


def test_int8_of_a_fixed_batch(tmp_path):
    predictor, path, x = inference.freeze(fixed(4)), tmp_path / "four.tflite", images(6, 12, 12, 3)
    with pytest.raises(ValueError, match="examples: 3 images; int8 needs 4 at least"):
        predictor.export(path, "int8", examples=x[:3])
    assert not path.exists()
    predictor.export(path, "int8", examples=x)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        run = tf.lite.Interpreter(str(path)).get_signature_runner()
    found = run(images=x[:4])["predictions"]
    assert relative_error(found, np.array(predictor(x[:4]))) < 0.05


def test_training_the_model_further_changes_no_prediction():
    network = small(input_shape=(40, 40, 3))
    predictor, x = inference.freeze(network), images(4, 40, 40, 3)
    before, nodes = np.array(predictor(x)), [len(layer._inbound_nodes) for layer in network.layers]
    network.compile("sgd", "mse", jit_compile=False)
    network.train_on_batch(x, np.ones((4, 5)))
    np.testing.assert_array_equal(predictor(x), before)
    assert error(predictor, network, x) > 1e-3  # the model did change
    assert nodes == [len(layer._inbound_nodes) for layer in network.layers]  # left as it was


def test_image_alone_or_among_others(predictor):
    x = images(5, 40, 40, 3)
    alone = np.concatenate([predictor(x[i : i + 1]) for i in range(5)])
    assert relative_error(np.array(predictor(x)), alone) < 1e-5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_under_tf_function(model, predictor, jit_compile):
    x = images(3, 40, 40, 3)
    wrapped = tf.function(lambda x: predictor(x), jit_compile=jit_compile)
    assert error(wrapped, model, x) < 1e-5


def test_integers_are_cast(model, predictor):
    x = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), "uint8")
    assert error(predictor, model, x) < 1e-5


@pytest.mark.parametrize("shape", [(40, 40, 3), (1, 40, 40, 4), (1, 3)], ids=str)
def test_wrong_shape(predictor, shape):
    with pytest.raises(ValueError, match=r"must be \(None, None, None, 3\)"):
        predictor(np.zeros(shape))


def axes(value):
    dims = value.type.tensor_type.shape.dim
    return value.name, [dim.dim_param or dim.dim_value for dim in dims]


def onnx_answers(path, x):
    return onnxruntime.InferenceSession(path).run(None, {"images": x})[0]


KINDS = {
    "no bottlenecks": {"bottleneck": False},
    "small images": {"imagenet_stem": False},
    "average": {"include_top": False, "pooling": "avg"},
    "maximum": {"include_top": False, "pooling": "max"},
    "softmax": {"classifier_activation": "softmax"},
    "silu": {"activation": "silu"},  # below zero, so the stem's zeros count
    "PReLU": {"activation": keras.layers.PReLU(shared_axes=[1, 2])},
}


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_of_any_kind(kind, tmp_path, capfd):
    network, path = small(**KINDS[kind]), tmp_path / "model.onnx"
    inference.freeze(network).export(path)
    for shape in ((1, 40, 40, 3), (3, 41, 33, 3)):
        x = images(*shape)
        assert relative_error(onnx_answers(path, x), np.array(network(x, training=False))) < 1e-5
    assert "Removing initializer" not in capfd.readouterr().err  # ONNX Runtime warns


def padded(x, *sizes):
    return keras.layers.ZeroPadding2D(sizes or 1)(x)


def read_by_others(x):
    x = padded(keras.layers.ReLU()(x))
    return keras.layers.Concatenate()([keras.layers.MaxPooling2D(3, 1, "same")(x), x])


PADDED = {
    "below zero": lambda x: keras.layers.MaxPooling2D(3)(padded(x)),
    "read by others": read_by_others,
    "twice": lambda x: keras.layers.MaxPooling2D(3, 1, "same")(padded(keras.layers.ReLU()(x))),
    "wider than the window": lambda x: keras.layers.MaxPooling2D(2)(
        padded(keras.layers.ReLU()(x), 3, 3)
    ),
    "on one side": lambda x: keras.layers.MaxPooling2D(3, 2)(
        padded(keras.layers.ReLU()(x), (0, 2), (1, 0))
    ),
}


@pytest.mark.parametrize("case", PADDED)
def test_onnx_of_padded_pooling(case, tmp_path):
    """Pooling may pad by itself only where zeros change nothing."""
    inputs = keras.Input((None, None, 3))
    network, path = keras.Model(inputs, PADDED[case](inputs)), tmp_path / "model.onnx"
    inference.freeze(network).export(path)
    x = images(2, 9, 10, 3) - 0.8
    x[:, -3:] -= 1  # nothing but zeros are the greatest there
    np.testing.assert_array_equal(onnx_answers(path, x), np.array(network(x)))


def test_onnx_is_made_for_its_runtimes(predictor, tmp_path):
    """Nothing is between convolutions but what ONNX Runtime has in their layout."""
    predictor.export(tmp_path / "model.onnx")
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert nodes == {
        "Transpose": 1,  # of the images
        "Conv": 2 * 2 * 2 + 1 + 1,
        "BatchNormalization": 2 * 2 + 1 + 1,
        "Relu": 1 + 2 * 2 * 2 + 1 + 1,
        "Concat": 2 * 2,
        "MaxPool": 1,
        "AveragePool": 1,
        "GlobalAveragePool": 1,
        "Squeeze": 1,
        "MatMul": 1,
        "Add": 1,
    }


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_onnx_in_float16(dtype, tmp_path):
    """Eleven bits in each weight and map, between images and predictions as they were."""
    inputs = keras.Input((None, None, 3), dtype=dtype)
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    options = {"classes": 5, "classifier_activation": None}
    network = models.DenseNet((2, 2), 4, input_tensor=scaled, **options)
    randomize(network)
    predictor = inference.freeze(network)
    predictor.export(tmp_path / "half.onnx", "float16")
    graph = onnx.load(tmp_path / "half.onnx").graph
    kinds = {weight.data_type for weight in graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    for shape in ((1, 40, 40, 3), (3, 41, 33, 3), (0, 40, 40, 3)):
        x = (255 * images(*shape)).astype(dtype)
        found, expected = onnx_answers(tmp_path / "half.onnx", x), np.array(predictor(x))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert len(x) == 0 or 1e-5 < relative_error(found, expected) < 1e-2


def test_onnx_in_float16_holds_weights_that_are_too_large(tmp_path):
    network = small()
    network.layers[-1].kernel.assign(1e6 * network.layers[-1].kernel)
    network.layers[-1].bias.assign(0 * network.layers[-1].bias)
    inference.freeze(network).export(tmp_path / "half.onnx", "float16")
    assert np.isfinite(onnx_answers(tmp_path / "half.onnx", images(1, 40, 40, 3))).all()


NOT_EXPORTED = {
    "suffix": (("model.pb",), r"'model.pb': must end with .onnx or .tflite"),
    "precision": (("m.onnx", "int8"), r"precision='int8': a .onnx file.* in float32 or float16"),
    "no such": (("m.tflite", "half"), r"precision='half': a .tflite file.* in float32 or int8"),
    "no examples": (("m.tflite", "int8"), "precision='int8', examples missing"),
    "examples": (("m.onnx", "float16", np.ones((1, 9, 9, 3))), "examples given"),
    "shape": (("m.tflite", "int8", np.ones((9, 9, 3))), r"\(9, 9, 3\): must be \(None, None"),
}


@pytest.mark.parametrize("case", NOT_EXPORTED)
def test_what_cannot_be_exported(case, predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = NOT_EXPORTED[case]
    with pytest.raises(ValueError, match=message):
        predictor.export(*arguments)
    assert not [*tmp_path.iterdir()]


def test_onnx_of_any_size(model, predictor, tmp_path):
    predictor.export(tmp_path / "any.onnx")
    graph = onnx.load(tmp_path / "any.onnx").graph
    assert axes(graph.input[0]) == ("images", ["batch", "height", "width", 3])
    assert axes(graph.output[0]) == ("predictions", ["batch", 5])
    session = onnxruntime.InferenceSession(tmp_path / "any.onnx")
    for shape in ((1, 40, 40, 3), (3, 64, 41, 3)):
        x = images(*shape)
        actual = session.run(["predictions"], {"images": x})[0]
        assert relative_error(actual, np.array(model(x, training=False))) < 1e-5


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_onnx_of_a_feature_map_and_of_one_size(activation, tmp_path):
    options = {"include_top": False, "activation": activation}
    for shape, sides in (
        ((None, None, 1), ["output_height", "output_width"]),
        ((16, 20, 1), [4, 5]),
    ):
        network = models.from_configuration(cifar(10, 4), input_shape=shape, **options)
        randomize(network)
        inference.freeze(network).export(str(tmp_path / "map.onnx"))
        graph = onnx.load(tmp_path / "map.onnx").graph
        name, (batch, *rest) = axes(graph.output[0])
        assert (name, batch, rest[:2]) == ("predictions", "batch", sides)
        session = onnxruntime.InferenceSession(tmp_path / "map.onnx")
        x = images(2, 16, 20, 1)
        actual = session.run(None, {"images": x})[0]
        assert relative_error(actual, np.array(network(x, training=False))) < 1e-5


def test_export_without_the_extra(predictor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"pip install densenet_nb\[onnx\]"):
        predictor.export(tmp_path / "model.onnx")


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = layers.DenseBlock(1, 2)

    def call(self, x):
        return self.block(x)


def around(layer):
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, layer(inputs))


def two_outputs():
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, [inputs + 1, inputs + 2], name="pair")


def always_training():
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, BatchNormalization(name="live")(inputs, training=True))


class Counting(keras.layers.Layer):
    """Another answer each time, in a variable of its own."""

    def build(self, _):
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x * self.count


class Noisy(keras.layers.Layer):
    """Random in prediction too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(0, name="generator")

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)


REFUSED = {
    "statistics of the batch": (always_training, ValueError, "'live' is called with training=True"),
    "random for ever": (
        lambda: around(lambda x: keras.layers.Dropout(0.5, name="mc")(x, training=True)),
        ValueError,
        "'mc' is called with training=True",
    ),
    "random by itself": (
        lambda: around(Noisy(name="noisy")),
        ValueError,
        "variable 'generator/seed_generator_state:0' changes",
    ),
    "a counter": (
        lambda: around(Counting(name="counting")),
        ValueError,
        "variable 'counting/count:0' changes",
    ),
    "no model": (lambda: layers.DenseBlock(1, 2), TypeError, "must be a keras.Model"),
    "subclassed": (lambda: Subclassed(name="own"), ValueError, "'own' is a Subclassed"),
    "nested": (lambda: around(Subclassed(name="in")), ValueError, "layer 'in' is a Subclassed"),
    "not built": (
        lambda: keras.Sequential([layers.DenseBlock(1, 2)], name="bare"),
        ValueError,
        "'bare' has no weights yet",
    ),
    "two outputs": (two_outputs, ValueError, "'pair' has 2 outputs"),
    "mixed precision": (
        lambda: around(layers.DenseBlock(1, 2, dtype="mixed_bfloat16", name="half")),
        ValueError,
        "'half' has dtype policy 'mixed_bfloat16'",
    ),
    "float64": (
        lambda: around(layers.DenseBlock(1, 2, dtype="float64", name="double")),
        ValueError,
        "'double' has dtype policy 'float64'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_is_refused_by_name(case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        inference.freeze(make())


def test_loading_what_is_no_predictor(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        inference.load(tmp_path / "absent")
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="not of a predictor"):
        inference.load(tmp_path / "other")
