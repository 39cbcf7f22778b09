"""Digits and photographs are scikit-learn's; every other data set comes only when asked for."""

import gzip
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import fashion_mnist
import nbformat
import numpy as np
import pytest
import run_notebook
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits, load_sample_image
from tensorflow_datasets.image_classification import mnist

from densenet_nb import connection, data

CLOSED = "http://127.0.0.1:9"  # the discard port: a proxy that is not there


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def offline(monkeypatch):
    """No network, on any machine: every request goes to a proxy that refuses connections."""
    for variable in ("http_proxy", "https_proxy", "ftp_proxy"):
        monkeypatch.setenv(variable, CLOSED)
        monkeypatch.setenv(variable.upper(), CLOSED)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def rows(images, labels):
    """Return each image with its label as bytes, sorted: equal if the sets of images are equal."""
    return sorted(x.tobytes() + bytes([y]) for x, y in zip(images, labels, strict=True))


def leftovers(folder):
    """Return the files that a failed preparation left."""
    return [path for path in Path(folder).rglob("*") if path.is_file() or "incomplete" in path.name]


# Digits


def test_digits_are_those_of_scikit_learn_in_the_documented_split(data_dir):
    digits = load_digits()
    by_label = np.argsort(digits.target, kind="stable")
    test = by_label[::5]
    train = np.delete(by_label, np.arange(0, len(by_label), 5))
    parts = data.load_arrays("digits", data_dir=data_dir)
    for (images, labels), indices, size in zip(parts, (train, test), (1437, 360), strict=True):
        assert images.shape == (size, 8, 8, 1)
        assert images.dtype == np.float32
        assert labels.shape == (size,)
        assert labels.dtype == np.int64
        assert images.min() == 0
        assert images.max() == 1
        pixels = (images * 16).astype(np.uint8)  # 1/16 is exact in binary
        assert np.array_equal(pixels, images * 16)
        expected = digits.images[indices].astype(np.uint8)
        assert rows(pixels, labels) == rows(expected, digits.target[indices])


def test_each_digit_has_a_fifth_of_its_images_in_the_test_split(data_dir):
    everything = np.bincount(load_digits().target)
    for split, fraction in (("train", 4 / 5), ("test", 1 / 5)):
        count = np.bincount(data.load_arrays(split=split, data_dir=data_dir)[1], minlength=10)
        assert np.all(np.abs(count - fraction * everything) <= 1)


def test_digits_are_the_same_in_every_preparation(data_dir, tmp_path):
    first = data.load_arrays(data_dir=data_dir)
    second = data.load_arrays(data_dir=tmp_path)
    for (x, y), (again_x, again_y) in zip(first, second, strict=True):
        assert np.array_equal(x, again_x)
        assert np.array_equal(y, again_y)
        assert np.any(np.diff(y[:20]) < 0)  # the order is mixed, so that a slice is a fair sample


@pytest.mark.parametrize("name", ["digits", "digits:1.0.0"])  # TFDS reads a version from its files
def test_tfds_itself_knows_digits(name, data_dir):
    data.load(data_dir=data_dir)
    pair = next(iter(tfds.load(name, split="train", as_supervised=True, data_dir=data_dir)))
    assert pair[0].dtype == tf.uint8
    assert data.load_arrays(name, "test", data_dir=data_dir)[0].max() == 1


def test_info_says_what_a_user_needs(data_dir):
    _, info = data.load(data_dir=data_dir)
    assert info.name == "digits"
    assert {name: part.num_examples for name, part in info.splits.items()} == {
        "train": 1437,
        "test": 360,
    }
    assert info.features["image"].shape == (8, 8, 1)
    assert info.features["label"].names == list("0123456789")
    assert "Alpaydin" in info.citation
    assert "scikit-learn" in info.description


def test_a_second_process_that_prepares_the_same_data_does_no_harm(monkeypatch, tmp_path):
    generate = data.Digits._split_generators

    def overtaken(self, dl_manager):
        monkeypatch.setattr(data.Digits, "_split_generators", generate)
        data.load(data_dir=tmp_path)  # another process begins later and is faster
        return generate(self, dl_manager)

    monkeypatch.setattr(data.Digits, "_split_generators", overtaken)
    assert data.load_arrays(split="test", data_dir=tmp_path)[0].shape == (360, 8, 8, 1)
    assert not [path for path in leftovers(tmp_path) if "incomplete" in path.name]


def test_what_interrupts_a_preparation_is_raised_and_leaves_nothing(monkeypatch, tmp_path):
    def full(self, dl_manager):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(data.Digits, "_split_generators", full)
        with pytest.raises(OSError, match="No space left"):
            data.load(data_dir=tmp_path)
    assert leftovers(tmp_path) == []
    assert data.load(data_dir=tmp_path)[1].splits["test"].num_examples == 360


# Pipelines


@pytest.mark.parametrize(
    ("batch_size", "batch", "last"), [(64, 64, 29), (1437, 1437, 1437), (None, None, None)]
)
def test_pipelines_are_ready_for_fit(batch_size, batch, last, data_dir):
    train, info = data.load(split="train", batch_size=batch_size, data_dir=data_dir)
    batched = [] if batch is None else [None]
    assert train.element_spec == (
        tf.TensorSpec([*batched, 8, 8, 1], tf.float32),
        tf.TensorSpec(batched, tf.int64),
    )
    sizes = [images.shape[0] for images, _ in train] if batch else [1 for _ in train]
    assert sum(sizes) == info.splits["train"].num_examples
    if batch:
        assert sizes[0] == batch
        assert sizes[-1] == last


def labels(dataset):
    return np.concatenate([y for _, y in dataset.as_numpy_iterator()])


def test_train_is_shuffled_anew_in_each_epoch_and_the_same_in_each_run(data_dir):
    def epochs(**arguments):
        dataset, _ = data.load(split="train", data_dir=data_dir, **arguments)
        return labels(dataset), labels(dataset)

    first, second = epochs()
    assert not np.array_equal(first, second)
    for epoch, again in zip((first, second), epochs(), strict=True):
        assert np.array_equal(epoch, again)
    assert not np.array_equal(first, epochs(seed=1)[0])
    stored = data.load_arrays(split="train", data_dir=data_dir)[1]
    for epoch in epochs(seed=None):
        assert np.array_equal(epoch, stored)
    assert np.array_equal(np.sort(first), np.sort(stored))


def test_test_is_never_shuffled(data_dir):
    (_, test), _ = data.load(data_dir=data_dir)
    assert np.array_equal(labels(test), data.load_arrays(split="test", data_dir=data_dir)[1])


def test_splits_are_sliced_in_the_notation_of_tfds(data_dir):
    x, y = data.load_arrays(split="train[:200]", data_dir=data_dir)
    whole_x, whole_y = data.load_arrays(split="train", data_dir=data_dir)
    assert np.array_equal(x, whole_x[:200])
    assert np.array_equal(y, whole_y[:200])
    assert len(data.load_arrays(split="train+test", data_dir=data_dir)[1]) == 1797
    datasets, _ = data.load(split=["train[:10]", "train[10:]", "test"], data_dir=data_dir)
    assert [len(labels(dataset)) for dataset in datasets] == [10, 1427, 360]


# Photographs


@pytest.mark.parametrize("name", ["china", "flower"])
def test_photographs_are_those_of_scikit_learn(name):
    image = data.photograph(name)
    assert image.shape == (427, 640, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, load_sample_image(f"{name}.jpg"))


def test_an_unknown_photograph_is_refused():
    with pytest.raises(ValueError, match="no photograph 'cat': there are china and flower"):
        data.photograph("cat")


# What cannot be loaded

CASES = {
    "misspelt": ({"name": "cifr10"}, ValueError, ["'cifr10'", "'cifar10'"]),
    "like nothing": ({"name": "zzzzzz"}, ValueError, ["'zzzzzz'", "'digits'", "list_builders"]),
    "namespace": ({"name": "huggingface:mnist"}, ValueError, ["'huggingface:mnist'"]),
    "version": ({"name": "digits:9.9.9"}, ValueError, ["9.9.9", "1.0.0"]),
    "no images": ({"name": "imdb_reviews"}, ValueError, ["imdb_reviews", "images"]),
    "boxes": ({"name": "voc"}, ValueError, ["voc", "images with one label"]),
    "sizes": ({"name": "sizes_differ"}, ValueError, ["load('sizes_differ', batch_size=None, data"]),
    "sizes, not fetched": (
        {"name": "cats_vs_dogs", "download": True},
        ValueError,
        ["differ in size", "load('cats_vs_dogs', batch_size=None, data_dir=", "download=True)"],
    ),
    "name": ({"name": 5}, ValueError, ["name=5", "a string"]),
    "split": ({"split": "trian"}, ValueError, ["'trian'", "train"]),
    "empty split": ({"split": "train[:0]"}, ValueError, ["no data"]),
    "batch size": ({"batch_size": 0}, ValueError, ["batch_size=0", "at least 1"]),
    "batch size, string": ({"batch_size": "8"}, ValueError, ["batch_size='8'", "an integer"]),
    "batch size, bool": ({"batch_size": True}, ValueError, ["batch_size=True", "an integer"]),
    "absent": (
        {"name": "fashion_mnist"},
        FileNotFoundError,
        ["load('fashion_mnist', data_dir=", "manual_dir", *fashion_mnist.FILES],
    ),
    "absent, many files": (
        {"name": "mnist_corrupted"},
        FileNotFoundError,
        ["load('mnist_corrupted', data_dir=", "manual_dir"],
    ),
    "absent, by hand only": (
        {"name": "imagenet2012", "batch_size": None},
        FileNotFoundError,
        ["ILSVRC2012_img_train.tar", "load('imagenet2012', batch_size=None, data_dir="],
    ),
    "no network": (
        {"name": "fashion_mnist", "download": True},
        ConnectionError,
        ["http://", "load('fashion_mnist', data_dir=", "manual_dir"],
    ),
    "manual_dir absent": (
        {"name": "fashion_mnist", "manual_dir": "nowhere"},
        FileNotFoundError,
        ["manual_dir='nowhere'"],
    ),
    "manual_dir empty": (
        {"name": "fashion_mnist", "manual_dir": "."},
        FileNotFoundError,
        ["manual_dir lacks", "-ubyte.gz", "download=True"],
    ),
}


class SizesDiffer(tfds.core.GeneratorBasedBuilder):
    """Two images of different sizes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for label, width in enumerate((4, 6)):
            yield label, {"image": np.full((5, width, 3), 255, np.uint8), "label": label}


@pytest.fixture
def sizes_differ(tmp_path):
    SizesDiffer(data_dir=tmp_path).download_and_prepare()


@pytest.mark.usefixtures("offline", "sizes_differ")
@pytest.mark.parametrize(("arguments", "error", "words"), CASES.values(), ids=CASES)
def test_an_error_says_what_and_how_in_seconds_and_leaves_nothing(
    arguments, error, words, tmp_path, monkeypatch, capfd
):
    manual = tmp_path / "manual"
    manual.mkdir()
    monkeypatch.chdir(manual)
    if arguments.get("name", "digits") == "digits":
        data.load(data_dir=tmp_path)
    before = leftovers(tmp_path)
    capfd.readouterr()
    start = time.monotonic()
    with pytest.raises(error) as caught:
        data.load(**arguments, data_dir=tmp_path)
    assert time.monotonic() - start < 15  # 5 s on a machine that does nothing else
    for word in words:
        assert word in str(caught.value)
    assert leftovers(tmp_path) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("given", [True, False])
def test_the_advised_call_fills_the_folder_that_was_given(given, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    where = {"data_dir": tmp_path / "mine"} if given else {}
    with pytest.raises(FileNotFoundError) as caught:
        data.load("eurosat", **where)
    written = f", data_dir={str(tmp_path / 'mine')!r}" if given else ""
    for way in ("download=True", "manual_dir='the folder'"):
        assert f"densenet_nb.data.load('eurosat'{written}, {way})." in str(caught.value)


@pytest.mark.usefixtures("sizes_differ")
def test_arrays_of_images_that_differ_in_size_advise_what_load_has(tmp_path):
    with pytest.raises(
        ValueError, match=r"densenet_nb\.data\.load\('sizes_differ', batch_size=None"
    ):
        data.load_arrays("sizes_differ", "train", data_dir=tmp_path)


@pytest.mark.usefixtures("sizes_differ")
def test_images_that_differ_in_size_come_one_by_one(tmp_path):
    train, _ = data.load("sizes_differ", "train", None, seed=None, data_dir=tmp_path)
    assert sorted(tuple(image.shape) for image, _ in train) == [(5, 4, 3), (5, 6, 3)]
    assert all(image.numpy().min() == 1 for image, _ in train)  # 255, the largest uint8


class Floats(SizesDiffer):
    """Two images of floats, one of which is negative."""

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(2, 3, 1), dtype=np.float32),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _generate_examples(self):
        for label, value in enumerate((-1.5, 300.25)):
            yield label, {"image": np.full((2, 3, 1), value, np.float32), "label": label}


class Tensors(Floats):
    """Images as a bare tensor."""

    def _info(self):
        info = super()._info()
        features = {**info.features, "image": tfds.features.Tensor(shape=(2, 3), dtype=np.float32)}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )


def test_images_of_floats_stay_as_they_are(tmp_path):
    Floats(data_dir=tmp_path).download_and_prepare()
    images, labels = data.load_arrays("floats", "train", data_dir=tmp_path)
    assert images.dtype == np.float32
    assert np.array_equal(images[np.argsort(labels)][:, 0, 0, 0], [-1.5, 300.25])


def test_a_tensor_is_no_image_and_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(ValueError, match="tensors is not a data set of images"):
        data.load("tensors", "train", data_dir=tmp_path, download=True)
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("asked", ["floats", "floats:2.0.0"])
@pytest.mark.parametrize("download", [False, True])
def test_an_older_version_on_disk_is_named(asked, download, tmp_path, monkeypatch):
    Floats(data_dir=tmp_path).download_and_prepare()

    def needs_network(self, dl_manager):
        dl_manager.download("http://example.org/file")

    monkeypatch.setattr(Floats, "VERSION", tfds.core.Version("2.0.0"))
    monkeypatch.setattr(Floats, "_split_generators", needs_network)
    call = f"densenet_nb.data.load('floats:1.0.0', data_dir={str(tmp_path)!r})"
    with pytest.raises((FileNotFoundError, ConnectionError)) as caught:
        data.load(asked, "train", data_dir=tmp_path, download=download)
    assert f"Version 1.0.0 is there: {call}. " in str(caught.value)
    assert len(data.load_arrays("floats:1.0.0", "train", data_dir=tmp_path)[1]) == 2


def test_a_data_dir_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PermissionError, match=r"file is no folder .* data_dir=.* TFDS_DATA_DIR"):
        data.load(data_dir=tmp_path / "file" / "sets")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has other permissions")
def test_a_folder_of_another_users_is_refused(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    read, write = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # the process has threads
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)  # root may write anywhere
            data.load(data_dir=folder / "sets")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    assert message.startswith(f"PermissionError: digits: {folder / 'sets'}")
    assert "data_dir=" in message
    assert "TFDS_DATA_DIR" in message


def test_a_network_that_swallows_packets_is_given_up_in_time(monkeypatch):
    end = threading.Event()

    def swallow(*arguments):
        end.wait(60)
        raise TimeoutError

    monkeypatch.setattr(connection, "SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", swallow)
    start = time.monotonic()
    assert not connection.answers("example.org", 443)
    assert time.monotonic() - start < 10
    end.set()


@pytest.mark.parametrize(
    ("proxy", "no_proxy", "expected"),
    [
        (None, None, ("example.org", 443)),
        ("http://proxy.example:3128", None, ("proxy.example", 3128)),
        ("proxy.example:3128", None, ("proxy.example", 3128)),
        ("http://proxy.example:3128", "example.org", ("example.org", 443)),
    ],
)
def test_the_host_asked_is_the_proxy_where_there_is_one(proxy, no_proxy, expected, monkeypatch):
    for variable, value in (("https_proxy", proxy), ("no_proxy", no_proxy)):
        monkeypatch.delenv(variable.upper(), raising=False)
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert connection.first_host("https://example.org/file.gz") == expected


class Remote(SizesDiffer):
    """A data set that fetches one file."""

    URL = ""

    def _split_generators(self, dl_manager):
        assert dl_manager.download(self.URL).read_text(encoding="utf-8") == "pixels"
        return {"train": self._generate_examples()}


@pytest.fixture
def requests_served(monkeypatch):
    """Serve the file of `Remote` from this machine; give the list of requests."""
    served = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"pixels")

        def log_message(self, *arguments):
            pass

    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(Remote, "URL", f"http://127.0.0.1:{server.server_port}/file")
        threading.Thread(target=server.serve_forever).start()
        yield served
        server.shutdown()


def test_a_file_is_fetched_only_when_asked(requests_served, tmp_path, capfd):
    for arguments in ({}, {"manual_dir": tmp_path}):
        with pytest.raises(
            FileNotFoundError, match=r"load\('remote', batch_size=None, data_dir=.*download=True\)"
        ):
            data.load("remote", "train", None, data_dir=tmp_path, **arguments)
    assert requests_served == []
    for _ in range(2):
        train, _ = data.load("remote", "train", None, data_dir=tmp_path, download=True)
        assert len(list(train)) == 2
    assert requests_served == ["/file"]
    assert capfd.readouterr() == ("", "")


# Files put by hand: Fashion-MNIST, as Debian packages it


@pytest.mark.usefixtures("offline")
def test_a_file_that_is_another_one_is_named(tmp_path):
    for file in fashion_mnist.FILES:
        (tmp_path / file).write_bytes(gzip.compress(b"not the digits"))
    with pytest.raises(ValueError, match="fashion_mnist: a file is broken") as caught:
        data.load("fashion_mnist", data_dir=tmp_path / "data", manual_dir=tmp_path)
    assert any(str(tmp_path / file) in str(caught.value) for file in fashion_mnist.FILES)
    assert leftovers(tmp_path / "data") == []


@pytest.mark.usefixtures("offline")
@pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_from_files_put_by_hand_after_one_was_cut(tmp_path, monkeypatch, capfd):
    """The first images of the whole files: TFDS takes half a minute to write all of them."""
    sizes = {"train": 600, "test": 100}
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", sizes["train"])
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", sizes["test"])
    for file in fashion_mnist.FILES:
        (tmp_path / file).write_bytes(fashion_mnist.original(file))
    broken = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = broken.read_bytes()
    arguments = {"data_dir": tmp_path / "data", "manual_dir": tmp_path}

    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="Replace it with the original") as caught:
        data.load("fashion_mnist", **arguments)
    assert str(broken) in str(caught.value)
    assert leftovers(tmp_path / "data") == []

    broken.write_bytes(whole)
    (train, test), info = data.load("fashion_mnist", **arguments)
    assert {name: split.num_examples for name, split in info.splits.items()} == sizes
    assert train.element_spec[0].shape == test.element_spec[0].shape == (None, 28, 28, 1)
    assert capfd.readouterr() == ("", "")

    for split, prefix, whole in (("train", "train", 60_000), ("test", "t10k", 10_000)):
        images, labels = data.load_arrays("fashion_mnist", split, data_dir=tmp_path / "data")
        pixels = gzip.decompress((tmp_path / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        classes = gzip.decompress((tmp_path / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        expected = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28, 1)
        assert len(expected) == len(classes) == whole
        first = slice(sizes[split])
        pixels = np.rint(images * 255).astype(np.uint8)
        assert rows(pixels, labels) == rows(expected[first], classes[first])


def test_the_benchmarks_hand_over_the_originals_where_debian_s_files_are(tmp_path, monkeypatch):
    for file in fashion_mnist.FILES:
        (tmp_path / file).write_bytes(gzip.compress(file.encode(), mtime=0))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)

    def load_arrays(name, manual_dir):
        return name, {path.name: path.read_bytes() for path in Path(manual_dir).iterdir()}

    monkeypatch.setattr(data, "load_arrays", load_arrays)
    name, files = fashion_mnist.load_arrays()
    assert name == "fashion_mnist"
    assert files.keys() == fashion_mnist.FILES.keys()
    for file, whole in files.items():
        assert gzip.decompress(whole) == file.encode()
        assert struct.unpack("<I", whole[4:8]) == (fashion_mnist.FILES[file],)

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(data, "load_arrays", lambda name: name)
    assert fashion_mnist.load_arrays() == "fashion_mnist"


# A clean machine, a notebook, Windows


def test_a_notebook_on_a_clean_machine_shows_only_its_own_output(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE", "MPLCONFIGDIR", "TFDS_DATA_DIR"):
        folder = tmp_path / variable
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    cells = {
        "from densenet_nb import data": "",
        "(train, test), info = data.load()": "",
        "print(next(iter(train))[0].shape)": "(64, 8, 8, 1)\n",
        "print(sum(len(y) for _, y in test))": "360\n",
        "print(data.load_arrays(split='train[:200]')[0].shape)": "(200, 8, 8, 1)\n",
        "print(data.photograph('china').shape)": "(427, 640, 3)\n",
    }
    twice = [*cells.items()] * 2  # what the first time prepares, the second time finds
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source, _ in twice]
    )
    run_notebook.run(notebook, tmp_path)
    for cell, (_, expected) in zip(notebook.cells, twice, strict=True):
        printed = "".join(output.get("text", str(output)) for output in cell.outputs)
        assert printed == expected, cell.source
    assert (tmp_path / "TFDS_DATA_DIR" / "digits").is_dir()


def test_digits_load_as_on_windows(tmp_path):
    program = (
        "import sys\n"
        "sys.modules['resource'] = sys.modules['fcntl'] = None\n"  # not importable
        "from densenet_nb import data\n"
        "(x, y), _ = data.load_arrays()\n"
        "print(x.shape, data.photograph('flower').shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "always", "-c", program],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "TFDS_DATA_DIR": str(tmp_path)},
    )
    stderr = done.stderr.decode("cp1252")
    assert done.returncode == 0, stderr
    assert done.stdout.decode("cp1252").strip() == "(1437, 8, 8, 1) (427, 640, 3)"
    assert "densenet_nb" not in stderr  # a warning names the file that is at fault
