"""Weights come in and go out as a copy: outputs are equal, files hold arrays only, and nothing is
fetched unasked."""

import hashlib
import http.server
import inspect
import re
import threading

import densenet_nb._startup  # noqa: F401

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from equality import BLOCKS, peers, randomize, relative_error
from keras.src.applications import densenet as published
from keras.src.legacy.saving import legacy_h5_format

from densenet_nb import connection, finetuning, models, records, textbook, weights
from densenet_nb.configurations import Configuration, imagenet

SHAPE = (64, 64, 3)
IMAGES = np.random.default_rng(0).uniform(size=(2, *SHAPE)).astype("float32")


def answers(model, images=IMAGES):
    return np.array(model(images))


def emptied(model):
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def networks():
    """A small network of ours and of keras.applications', built once; `theirs` are known."""
    ours, theirs = peers()
    randomize(theirs)
    return ours, theirs, theirs.get_weights()


@pytest.fixture
def pair(networks):
    ours, theirs, known = networks
    theirs.set_weights(known)
    return emptied(ours), theirs


# keras.applications' files


def write_keras_2(model, path, rename=lambda name: name):
    """Write the published files' layout, with names of layers as these have had them."""
    with h5py.File(path, "w") as file:
        names = [rename(layer.name) for layer in model.layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, layer in zip(names, model.layers, strict=True):
            group = file.create_group(name)
            arrays = {f"{name}/{w.name}:0": w.numpy() for w in layer.weights}
            group.attrs["weight_names"] = [array.encode() for array in arrays]
            for array, value in arrays.items():
                group[array] = value


def slashed(name):
    return name.replace("conv1_", "conv1/").replace("predictions", "fc1000")


def save_legacy(model, path):
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def save_whole(model, path):
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file.create_group("model_weights"), model)


WRITERS = {
    "now.weights.h5": lambda model, path: model.save_weights(path),
    "legacy.h5": save_legacy,
    "whole.h5": save_whole,
    "published.h5": lambda model, path: write_keras_2(model, path, slashed),
    "other names.h5": lambda model, path: write_keras_2(model, path, lambda n: f"old_{n}"),
}


@pytest.mark.parametrize("file", WRITERS)
def test_a_file_of_keras_applications_gives_its_outputs(file, pair, tmp_path):
    ours, theirs = pair
    WRITERS[file](theirs, tmp_path / file)
    ours.load_weights(tmp_path / file)
    assert relative_error(answers(ours), answers(theirs)) < 1e-5
    for actual, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_headless_network_takes_a_file_with_a_classifier(pair, tmp_path):
    _, theirs = pair
    path = str(tmp_path / "theirs.weights.h5")
    theirs.save_weights(path)
    trunk = models.DenseNet(BLOCKS, include_top=False, input_shape=SHAPE, weights=path)
    expected = keras.Model(theirs.input, theirs.get_layer("relu").output)
    assert relative_error(answers(trunk), answers(expected)) < 1e-5


def test_more_than_ten_layers_of_a_kind_keep_their_order(tmp_path):
    """Keras 3 numbers them in their names: conv2d_10 stands before conv2d_9 in the alphabet."""
    configuration = Configuration((6,), 4, 8, imagenet_stem=False)
    ours = models.from_configuration(configuration, input_shape=(8, 8, 3), classes=3)
    flat = textbook.DenseNet(configuration, (8, 8, 3), 3)
    rng = np.random.default_rng(5)
    flat.set_weights([rng.uniform(size=w.shape) for w in flat.weights])
    flat.save_weights(tmp_path / "flat.weights.h5")
    ours.load_weights(tmp_path / "flat.weights.h5")
    assert len(finetuning.convolutions(ours)) > 10
    for actual, expected in zip(ours.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_all_that_does_not_fit_is_named_and_nothing_changes(pair, tmp_path):
    _, theirs = pair
    model = models.DenseNet((1, 1, 1), 16, input_shape=SHAPE, classes=7)
    before = model.get_weights()
    write_keras_2(theirs, tmp_path / "theirs.h5")
    with pytest.raises(ValueError, match="does not fit") as error:
        model.load_weights(tmp_path / "theirs.h5")
    message = str(error.value)
    assert "missing: " not in message  # the file has more layers of each kind
    assert re.search(r"not in this network: .*conv5_block1_2_conv/kernel", message)
    assert re.search(r"of another shape: .*conv1_conv/kernel \(7, 7, 3, 64\), here", message)
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_skip_mismatch_takes_what_fits(pair, tmp_path):
    _, theirs = pair
    write_keras_2(theirs, tmp_path / "theirs.h5")
    model = models.DenseNet(BLOCKS, input_shape=SHAPE, classes=7)
    head = model.layers[-1].get_weights()
    with pytest.warns(UserWarning, match="could not be loaded: predictions/bias, predictions/k"):
        model.load_weights(tmp_path / "theirs.h5", skip_mismatch=True)
    for actual, expected in zip(model.get_weights()[:-2], theirs.get_weights(), strict=False):
        np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(model.layers[-1].get_weights(), head, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_broken_file_is_named_and_a_link_out_of_it_is_not_followed(pair, tmp_path):
    ours, theirs = pair
    write_keras_2(theirs, tmp_path / "whole.h5")
    for name, change in {
        "broken.h5": lambda file: file.__delitem__("conv2_block1_1_conv"),
        "linked.h5": lambda file: (
            file.move("conv2_block1_1_conv", "elsewhere")
            or file.__setitem__("conv2_block1_1_conv", h5py.ExternalLink("whole.h5", "/bn"))
        ),
    }.items():
        (tmp_path / name).write_bytes((tmp_path / "whole.h5").read_bytes())
        with h5py.File(tmp_path / name, "r+") as file:
            change(file)
        with pytest.raises(ValueError, match="conv2_block1_1_conv|ExternalLink"):
            ours.load_weights(tmp_path / name)
        assert not any(array.any() for array in ours.get_weights())


def test_keras_applications_load_what_is_written_for_them(pair, tmp_path):
    ours, theirs = pair
    ours.set_weights(theirs.get_weights())
    expected = answers(theirs)
    weights.to_keras_applications(ours, tmp_path / "ours.h5")
    emptied(theirs).load_weights(tmp_path / "ours.h5")
    assert relative_error(answers(theirs), expected) < 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["ours.h5"]


@pytest.mark.parametrize("name", ["ours.weights.h5", "ours.keras"])
def test_a_name_that_keras_would_read_otherwise_is_refused(name, pair, tmp_path):
    with pytest.raises(ValueError, match=re.escape(name)):
        weights.to_keras_applications(pair[0], tmp_path / name)
    assert not list(tmp_path.iterdir())


# ImageNet's weights


def test_names_and_hashes_are_those_that_keras_has():
    calls = re.findall(
        r'"(densenet\w+\.h5)",\s+(\w+),\s+cache_subdir="models",\s+file_hash="(\w+)"',
        inspect.getsource(published),
    )
    expected = [(name, getattr(published, origin), md5) for name, origin, md5 in calls]
    found = [
        (path.name, weights.imagenet.ORIGIN + path.name, md5)
        for top in (0, 1)
        for network, hashes in weights.PUBLISHED.items()
        for path, md5 in [(weights.imagenet_file(network, include_top=not top), hashes[top])]
    ]
    assert found == expected
    assert len(found) == 6


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Stand for Keras's cache, with nothing in it and no way to a network."""
    monkeypatch.setattr(weights.imagenet, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(connection, "answers", lambda *_: False)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def known(monkeypatch, content, include_top=True):
    """Let `content` be what is published for DenseNet-121."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    hashes = (md5, "0" * 32) if include_top else ("0" * 32, md5)
    monkeypatch.setitem(weights.PUBLISHED, "DenseNet121", hashes)


@pytest.mark.parametrize("include_top", [True, False])
def test_imagenet_weights_in_the_cache_give_the_outputs_of_keras(
    include_top, cache, pair, monkeypatch
):
    """Here a small network stands for DenseNet-121, and what is published is drawn at random."""
    _, theirs = pair
    if not include_top:
        theirs = keras.Model(theirs.input, theirs.get_layer("relu").output)
    configuration = imagenet(BLOCKS)
    monkeypatch.setitem(weights.imagenet.CONFIGURATIONS, "DenseNet121", configuration)
    path = weights.imagenet_file("DenseNet121", include_top)
    write_keras_2(theirs, path, slashed)
    known(monkeypatch, path.read_bytes(), include_top)
    ours = models.from_configuration(
        configuration, include_top, "imagenet", input_shape=SHAPE, classifier_activation=None
    )
    assert relative_error(answers(ours), answers(theirs)) < 1e-5


def test_all_arrays_of_121_come_from_a_file_of_the_published_layout(densenet121, tmp_path):
    ours, theirs = densenet121
    rng = np.random.default_rng(4)
    theirs.set_weights([rng.uniform(size=w.shape) for w in theirs.weights])
    write_keras_2(theirs, tmp_path / "published.h5", slashed)
    ours.load_weights(tmp_path / "published.h5")
    for actual, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_without_a_network_the_error_says_what_to_do(cache, monkeypatch):
    def built(*_, **__):
        raise AssertionError("a weight was made before the weights were there")

    monkeypatch.setattr(keras.layers.Layer, "add_weight", built)
    for include_top in (True, False):
        with pytest.raises(ConnectionError) as error:
            models.DenseNet169(weights="imagenet", include_top=include_top)
        for part in (
            weights.imagenet_file("DenseNet169", include_top),
            weights.PUBLISHED["DenseNet169"][0 if include_top else 1],
            "MD5",
            weights.imagenet.ORIGIN,
        ):
            assert str(part) in str(error.value)
    assert not list(cache.iterdir())


def test_another_file_in_the_cache_is_named_and_kept(cache):
    path = weights.imagenet_file("DenseNet201")
    path.write_bytes(b"half of it")
    with pytest.raises(ValueError, match="is broken, or another file: its MD5 is") as error:
        weights.fetch("DenseNet201")
    assert weights.PUBLISHED["DenseNet201"][0] in str(error.value)
    assert path.read_bytes() == b"half of it"


@pytest.fixture
def served(monkeypatch):
    """Serve a content of this machine in the place of the published files; count requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content[0] if content else b"")

        def log_message(self, *_):
            pass

    content, requests = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(weights.imagenet, "ORIGIN", f"http://127.0.0.1:{server.server_port}/")
    yield content, requests
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_into_keras_s_cache(cache, served, monkeypatch):
    content, requests = served
    monkeypatch.setattr(connection, "answers", lambda *_: True)
    content.append(b"arrays")
    known(monkeypatch, b"arrays")
    for _ in range(2):
        assert weights.fetch("DenseNet121").read_bytes() == b"arrays"
    assert requests == ["/densenet121_weights_tf_dim_ordering_tf_kernels.h5"]
    assert [path.name for path in cache.iterdir()] == [requests[0][1:]]


@pytest.mark.parametrize("there", [True, False])
def test_what_is_not_the_published_file_is_not_kept(there, cache, served, monkeypatch):
    content, requests = served
    monkeypatch.setattr(connection, "answers", lambda *_: True)
    content += [b"other arrays"] if there else []
    known(monkeypatch, b"arrays")
    with pytest.raises(ConnectionError, match="was not fetched.*by|was not fetched.*Put dense"):
        weights.fetch("DenseNet121")
    assert len(requests) == 1
    assert not list(cache.iterdir())


def test_nothing_is_published_for_other_networks():
    with pytest.raises(ValueError, match="network='DenseNet264'.*no other network"):
        weights.imagenet_file("DenseNet264")


# Torch's weights, beside a forward pass in NumPy as torchvision's code has it


TINY = Configuration((2, 1), 4, 6)


def torch_state(blocks=(2, 1), k=4, stem=6, classes=5, seed=0):
    """Draw a state as torchvision's DenseNet of that shape has it."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, filters, channels, size):
        spread = np.sqrt(2 / (channels * size * size))
        shape = (filters, channels, size, size)
        state[f"{name}.weight"] = rng.normal(scale=spread, size=shape).astype("float32")

    def norm(name, channels):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -1, 1),
            ("running_mean", -1, 1),
            ("running_var", 1e-3, 2),
        ):
            array = rng.uniform(low, high, channels).astype("float32")
            state[f"{name}.{part}"] = array
        state[f"{name}.num_batches_tracked"] = np.array(7)

    conv("features.conv0", stem, 3, 7)
    norm("features.norm0", stem)
    m = stem
    for b, layers in enumerate(blocks, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{b}.denselayer{layer}"
            norm(f"{name}.norm1", m)
            conv(f"{name}.conv1", 4 * k, m, 1)
            norm(f"{name}.norm2", 4 * k)
            conv(f"{name}.conv2", k, 4 * k, 3)
            m += k
        if b < len(blocks):
            norm(f"features.transition{b}.norm", m)
            conv(f"features.transition{b}.conv", m // 2, m, 1)
            m //= 2
    norm("features.norm5", m)
    state["classifier.weight"] = rng.normal(size=(classes, m)).astype("float32")
    state["classifier.bias"] = rng.normal(size=classes).astype("float32")
    return state


def forward(state, x, blocks=(2, 1)):
    """Compute torchvision's network on (batch, channels, height, width), in float64."""
    state = {name: np.asarray(array, "float64") for name, array in state.items()}

    def windows(x, size, stride, padding, fill=0.0):
        pad = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        x = np.pad(x, pad, constant_values=fill)
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        return view[:, :, ::stride, ::stride]

    def conv(name, x, stride=1, padding=0):
        kernel = state[f"{name}.weight"]
        patches = windows(x, kernel.shape[-1], stride, padding)
        return np.einsum("nchwij,fcij->nfhw", patches, kernel)

    def norm_relu(name, x):
        weight, bias, mean, var = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum(weight * (x - mean) / np.sqrt(var + 1e-5) + bias, 0)

    x = norm_relu("features.norm0", conv("features.conv0", x, stride=2, padding=3))
    x = windows(x, 3, 2, 1, -np.inf).max((-2, -1))
    for b, layers in enumerate(blocks, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{b}.denselayer{layer}"
            new = conv(f"{name}.conv1", norm_relu(f"{name}.norm1", x))
            new = conv(f"{name}.conv2", norm_relu(f"{name}.norm2", new), padding=1)
            x = np.concatenate([x, new], axis=1)
        if b < len(blocks):
            name = f"features.transition{b}"
            x = windows(conv(f"{name}.conv", norm_relu(f"{name}.norm", x)), 2, 2, 0).mean((-2, -1))
    x = norm_relu("features.norm5", x).mean((2, 3))
    return x @ state["classifier.weight"].T + state["classifier.bias"]


def tiny(**options):
    options = {"input_shape": (32, 40, 3), "classes": 5, "epsilon": 1e-5, **options}
    return models.from_configuration(TINY, classifier_activation=None, **options)


@pytest.fixture(scope="module")
def model():
    return tiny()


def test_a_torch_state_gives_the_outputs_of_its_network(model, tmp_path):
    contrast = np.array([0.3, 3])[:, None, None, None]
    images = np.random.default_rng(1).normal(1, contrast, (2, 32, 40, 3)).astype("float32")
    for seed, form in enumerate(("arrays", "file", "old names", "half precision")):
        state = torch_state(seed=seed)
        given = state
        if form == "file":
            given = tmp_path / "torch.safetensors"
            safetensors.numpy.save_file(state, given)
        if form == "old names":
            given = {re.sub(r"(norm|conv)([12]\.)", r"\1.\2", n): a for n, a in state.items()}
            assert "features.denseblock1.denselayer2.norm.1.weight" in given
        if form == "half precision":
            given = state = {n: a.astype("float16") for n, a in state.items()}
        weights.from_torch(model, given)
        expected = forward(state, images.astype("float64").transpose(0, 3, 1, 2))
        assert expected.std(axis=0).mean() > 0.01 * expected.std()  # images have own answers
        assert relative_error(answers(model, images), expected) < 1e-5, form


def test_what_came_from_torch_goes_back(model):
    state = torch_state()
    weights.from_torch(model, state)
    back = weights.to_torch(model)
    tracked = {name: a for name, a in state.items() if not name.endswith("num_batches_tracked")}
    assert back.keys() == tracked.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, tracked[name])
        assert array.flags.c_contiguous  # as safetensors writes them


def test_the_headless_network_leaves_the_classifier_out(model):
    state = torch_state()
    trunk = tiny(include_top=False)
    weights.from_torch(trunk, state)
    weights.from_torch(model, state)
    for actual, expected in zip(trunk.get_weights(), model.get_weights(), strict=False):
        np.testing.assert_array_equal(actual, expected)


def without(state, name):
    return {other: array for other, array in state.items() if other != name}


WRONG = {
    "missing": (
        lambda s: without(s, "features.norm5.bias"),
        "missing: features.norm5.bias",
    ),
    "superfluous": (
        lambda s: s | {"features.denseblock3.denselayer1.norm1.bias": np.zeros(3)},
        "not in this network: features.denseblock3.denselayer1.norm1.bias",
    ),
    "misshapen": (
        lambda s: s | {"features.conv0.weight": np.zeros((6, 1, 7, 7))},
        "of another shape: features.conv0.weight (7, 7, 1, 6), here (7, 7, 3, 6)",
    ),
    "all at once": (
        lambda s: without(s, "classifier.bias") | {"head.bias": np.zeros(3)},
        "missing: classifier.bias; not in this network: head.bias",
    ),
    "another head": (lambda s: torch_state(classes=7), "of another shape: classifier.bias (7,)"),
    "a stem of three convolutions": (
        lambda s: s | {"features.conv1.weight": np.zeros((6, 6, 3, 3))},
        "densenetblur121d",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_does_not_fit_is_named_and_changes_nothing(case, model):
    change, words = WRONG[case]
    weights.from_torch(model, torch_state(seed=3))
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(words)):
        weights.from_torch(model, change(torch_state(seed=4)))
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_epsilon_must_be_the_other_network_s(pair):
    ours, _ = pair  # built with Keras's
    for call in (
        lambda: weights.from_torch(ours, {}),
        lambda: weights.to_torch(ours),
    ):
        with pytest.raises(ValueError, match=re.escape("epsilon=1.001e-05, the Torch network's")):
            call()
    assert weights.to_torch(ours, epsilon=1.001e-5)


def test_what_is_written_for_keras_has_keras_s_epsilon(model, tmp_path):
    with pytest.raises(ValueError, match=re.escape("Build it with epsilon=1.001e-05")):
        weights.to_keras_applications(model, tmp_path / "ours.h5")


@pytest.mark.parametrize("content", [b"\x80\x02}q\x00.", b"PK\x03\x04", b""])
def test_a_pickle_is_refused_with_what_to_do(content, model, tmp_path):
    path = tmp_path / "densenet.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pickle.*weights_only=True.*from_torch\(model"):
        weights.from_torch(model, path)


def test_a_state_that_is_none_is_refused(model, tmp_path):
    with pytest.raises(TypeError, match="state=list: must be a mapping"):
        weights.from_torch(model, [1, 2])
    with pytest.raises(ValueError, match="there is no such file"):
        weights.from_torch(model, tmp_path / "absent.safetensors")


RECORD = "weights_against_torch"
"""What the program of that name in benchmarks/ found with the real torchvision and timm."""


def test_names_and_shapes_are_those_of_torchvision_and_timm(densenet121):
    arrays = weights.to_torch(densenet121[0], epsilon=1.001e-5)
    lines = (f"{name} {arrays[name].shape}\n" for name in sorted(arrays))
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    runs = [run for run in records.read(RECORD)["runs"] if run["network"] == "DenseNet121"]
    assert [run["library"] for run in runs] == ["torchvision", "timm"]
    assert [run["names and shapes"] for run in runs] == [found] * 2


def test_the_real_torchvision_and_timm_gave_equal_answers():
    record = records.read(RECORD)
    compared = [run for run in record["runs"] if "refused" not in run]
    networks = record["settings"]["networks"]
    assert [run["network"] for run in compared] == networks * 2
    for run in compared:
        assert run["equal from a file"]
        assert run["difference"] < 1e-5
        assert run["difference after the way back"] < 1e-6
        assert run["difference"] < run["difference with keras.applications' epsilon"] < 1e-3
    refused = [run["refused"] for run in record["runs"] if "refused" in run]
    assert len(refused) == len(record["settings"]["refused"])
    assert all("a stem of three convolutions" in words for words in refused)


def test_only_networks_of_this_package_are_carried():
    stock = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    trunk = tiny(include_top=False, pooling="avg")
    headed = keras.Sequential([trunk, keras.layers.Dense(2)])
    for other in (stock, headed, None):
        with pytest.raises(ValueError, match="must be a network of densenet_nb.models"):
            weights.to_torch(other)


# What the weights expect


PIXELS = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
EXPECTED = keras.applications.densenet.preprocess_input(PIXELS.astype("float32"))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_preprocess_equals_keras_applications(dtype):
    given = PIXELS.astype(dtype)
    before = given.copy()
    for images, expected in ((given, EXPECTED), (given[0], EXPECTED[0])):
        found = weights.preprocess(images)
        assert isinstance(found, np.ndarray)
        assert found.dtype == "float32"
        assert relative_error(found, expected) < 1e-6
    np.testing.assert_array_equal(given, before)  # Keras's own changes float32 arrays in place
    assert relative_error(np.array(weights.preprocess(tf.constant(given))), EXPECTED) < 1e-6


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocess_in_a_pipeline_and_in_a_model(dtype, tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(PIXELS.astype(dtype)).map(weights.preprocess)
    assert relative_error(np.stack(list(dataset.as_numpy_iterator())), EXPECTED) < 1e-6
    images = keras.Input((8, 8, 3), dtype=dtype)
    model = keras.Model(images, weights.preprocess(images))
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        assert relative_error(np.array(each(PIXELS.astype(dtype))), EXPECTED) < 1e-6


NO_PIXELS = {
    "scaled to one": PIXELS / 255,
    "scaled to minus one": PIXELS / 127.5 - 1,
    "standardized": EXPECTED,
    "above 255": PIXELS * 2.0 + 200,
    "not a number": np.where(PIXELS > 250, np.nan, PIXELS),
}


@pytest.mark.parametrize("case", NO_PIXELS)
def test_what_is_no_pixels_is_refused(case):
    images = NO_PIXELS[case].astype("float32")
    for given in (images, tf.constant(images)):
        with pytest.raises(ValueError, match="must be pixels from 0 to 255.*lie between"):
            weights.preprocess(given)
    dataset = tf.data.Dataset.from_tensors(images).map(weights.preprocess)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be pixels from 0 to 255"):
        next(iter(dataset))


def test_black_images_and_no_images_are_pixels():
    for images in (np.zeros((1, 4, 4, 3), "float32"), np.ones((1, 4, 4, 3), "uint8")):
        assert weights.preprocess(images).shape == images.shape
    empty = np.zeros((0, 4, 4, 3), "float32")
    assert weights.preprocess(empty).shape == empty.shape


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8, 1), (2, 8, 8, 4), (1, 2, 8, 8, 3)])
def test_images_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"images of shape {shape}")):
        weights.preprocess(np.full(shape, 7, "uint8"))
