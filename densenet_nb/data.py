"""Data sets through TensorFlow Datasets (TFDS), which keeps them on disk and documents them.

`digits` is made from the copy inside scikit-learn and needs no network. Any other data set of
TFDS has the same two functions: `load` for pipelines, `load_arrays` for arrays. Nothing is
fetched unless ``download=True`` asks for it.
"""

import contextlib
import difflib
import functools
import io
import os
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_nb._startup import miss_gpu, quietly

import numpy as np

from densenet_nb import connection
from densenet_nb.checks import require_positive_integer

with quietly():  # Keras may run on another backend, and then TensorFlow starts here
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.utils.version import list_all_versions

    miss_gpu()

__all__ = ["Digits", "load", "load_arrays", "photograph"]

_PHOTOGRAPHS = ("china", "flower")
_SHUFFLE_BUFFER = 10_000  # TFDS has already put the examples on disk in a random order

# A bar shows times, which differ in every run of a notebook; where ipywidgets is missing it also
# warns. Off from here on; `tfds.enable_progress_bar()` turns them on again.
tfds.disable_progress_bar()


class Digits(tfds.core.GeneratorBasedBuilder):
    """The handwritten digits inside scikit-learn as a TFDS data set: 1,437 + 360 images.

    Images are (8, 8, 1) uint8 with scikit-learn's own values, 0 (paper) to 16 (ink); labels are 0
    to 9. The split is fixed: of the images ordered by label (and as in scikit-learn within a
    label) every fifth, beginning with the first, is in ``test``. So each digit has a fifth of its
    images there, give or take one. The same 13 people wrote both parts.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Ordered by label, every fifth image is in the test split."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "1,797 handwritten digits of 13 people, 8x8 pixels with values 0 to 16: the test "
                "set of UCI's Optical Recognition of Handwritten Digits, from the copy inside "
                "scikit-learn. Ordered by label, every fifth image is in the test split."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=(
                "@misc{alpaydin1998digits,\n"
                "  author = {Alpaydin, E. and Kaynak, C.},\n"
                "  title = {Optical Recognition of Handwritten Digits},\n"
                "  year = {1998},\n"
                "  howpublished = {UCI Machine Learning Repository},\n"
                "  doi = {10.24432/C50P49}\n"
                "}"
            ),
            metadata=tfds.core.MetadataDict(max_pixel=16),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        by_label = np.argsort(digits.target, kind="stable")
        test = by_label[::5]
        train = np.setdiff1d(by_label, test)
        return {
            "train": self._generate_examples(digits, train),
            "test": self._generate_examples(digits, test),
        }

    def _generate_examples(
        self, digits: Any, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices.tolist():
            image = digits.images[index].astype(np.uint8)[:, :, np.newaxis]  # (8, 8, 1)
            yield index, {"image": image, "label": digits.target[index]}


def load(
    name: str = "digits",
    split: str | Sequence[str] = ("train", "test"),
    batch_size: int | None = 64,
    *,
    seed: int | None = 0,
    data_dir: str | PathLike | None = None,
    manual_dir: str | PathLike | None = None,
    download: bool = False,
) -> tuple[Any, tfds.core.DatasetInfo]:
    """Load a data set as pipelines ready for ``model.fit``, with TFDS's info.

    ``(train, test), info = load("digits")``

    Parameters
    ----------
    name : str
        The data set: ``"digits"``, or any image classification data set of TFDS, as
        ``"cifar10"`` or with configuration and version ``"imagenette/320px-v2:1.0.0"``.
    split : str or sequence of str
        Parts of it, in TFDS's notation: ``"train"``, ``"train[:200]"``, ``"train+test"``.
    batch_size : int or None
        Images in a batch (the last batch may be smaller). None gives single images, which may
        then differ in size.
    seed : int or None
        Fixes the order in which a split that begins with "train" is shuffled, anew in each epoch.
        None keeps the order on disk, as the other splits do always.
    data_dir : path, optional
        Where prepared data sets are kept. Default: TFDS's own, that is the environment variable
        ``TFDS_DATA_DIR`` (as it was at the first import) or ``~/tensorflow_datasets``.
    manual_dir : path, optional
        Folder with the original files, put there by hand under their original names. Their
        SHA-256 is checked if TFDS knows it, and the data set is prepared from them.
    download : bool
        Whether what is neither prepared nor in `manual_dir` may be fetched.

    Returns
    -------
    datasets : tf.data.Dataset, or tuple of them for a sequence of splits
        Pairs (images, labels): float32 (batch, height, width, channels) in [0, 1] (what the data
        set stores as floats stays as it is), and int64 (batch,). Without a batch size both lack
        the first axis.
    info : tfds.core.DatasetInfo
        Description, citation, features and the sizes of the splits.

    Raises
    ------
    ValueError
        Unknown name or split; not a data set of labeled images; a batch of images that differ in
        size; a batch size that is no integer of at least 1; a file that is broken or another one.
    FileNotFoundError
        The data set is not on this machine and `download` is false, or `manual_dir` lacks a file.
    ConnectionError
        `download` is true and the network does not answer.
    PermissionError
        The data set is not prepared yet, and its folder can't be written.
    """
    if batch_size is not None:
        require_positive_integer("batch_size", batch_size)
    sources = {"data_dir": data_dir, "manual_dir": manual_dir, "download": download}
    builder = find_builder(name, data_dir)
    shape = image_feature(builder.info).shape
    if batch_size is not None and None in shape:
        raise ValueError(
            f"{name}: its images differ in size (shape {shape}), so no array holds several as they "
            f"are; take them one by one with {_call(name, builder, **sources)}, resize them, then "
            "batch"
        )

    builder = prepared(name, builder, **sources)
    largest = largest_pixel(builder.info)

    def pipeline(part: str) -> tf.data.Dataset:
        dataset = builder.as_dataset(split=part, as_supervised=True)
        if seed is not None and part.startswith("train"):
            dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=seed)
        if batch_size is not None:
            dataset = dataset.batch(batch_size)
        dataset = dataset.map(
            lambda x, y: (tf.cast(x, tf.float32) / largest, y), num_parallel_calls=tf.data.AUTOTUNE
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    datasets = pipeline(split) if isinstance(split, str) else tuple(map(pipeline, split))
    return datasets, builder.info


def load_arrays(
    name: str = "digits",
    split: str | Sequence[str] = ("train", "test"),
    *,
    data_dir: str | PathLike | None = None,
    manual_dir: str | PathLike | None = None,
    download: bool = False,
) -> Any:
    """Load a data set as NumPy arrays, in the order on disk, which is random and always the same.

    ``(x_train, y_train), (x_test, y_test) = load_arrays("digits")``, as ``keras.datasets`` gives
    them, and ``x, y = load_arrays("digits", "train[:200]")``.

    Parameters
    ----------
    name, split, data_dir, manual_dir, download
        As for `load`. The whole of each split must fit in memory, as float32.

    Returns
    -------
    (images, labels), or tuple of such pairs for a sequence of splits
        float32 (n, height, width, channels), scaled as `load` does, and int64 (n,).

    Raises
    ------
    ValueError, FileNotFoundError, ConnectionError, PermissionError
        As `load`.
    """
    one_batch = np.iinfo(np.int64).max
    sources = {"data_dir": data_dir, "manual_dir": manual_dir, "download": download}
    pipelines, _ = load(name, split, one_batch, seed=None, **sources)

    def arrays(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
        return next(dataset.as_numpy_iterator())

    return arrays(pipelines) if isinstance(split, str) else tuple(map(arrays, pipelines))


def photograph(name: str) -> np.ndarray:
    """Return one of the two photographs that scikit-learn carries.

    Parameters
    ----------
    name : {"china", "flower"}
        A Chinese temple, or a dahlia.

    Returns
    -------
    np.ndarray
        uint8 (427, 640, 3), red, green and blue from 0 to 255.

    Raises
    ------
    ValueError
        Another name.
    """
    from sklearn.datasets import load_sample_image

    if name not in _PHOTOGRAPHS:
        raise ValueError(f"no photograph {name!r}: there are {' and '.join(_PHOTOGRAPHS)}")
    return load_sample_image(f"{name}.jpg")


def image_feature(info: tfds.core.DatasetInfo) -> tfds.features.Image:
    """Return the feature that is the network's input, if the data set is labeled images."""
    keys = info.supervised_keys or ()
    kinds = tuple(type(info.features[key]) for key in keys if key in info.features)
    if kinds != (tfds.features.Image, tfds.features.ClassLabel):
        raise ValueError(
            f"{info.name} is not a data set of images with one label each (TFDS gives "
            f"supervised_keys={info.supervised_keys}); take it from tensorflow_datasets itself"
        )
    return info.features[keys[0]]


def largest_pixel(info: tfds.core.DatasetInfo) -> float:
    """Return what stored pixels are divided by: integers become [0, 1], floats stay as they are."""
    dtype = image_feature(info).np_dtype
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (info.metadata or {}).get("max_pixel", largest)


def find_builder(name: str, data_dir: str | PathLike | None) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set of labeled images, on disk or not."""
    if not isinstance(name, str):
        raise ValueError(f"name={name!r}: must be a string, such as 'digits'")
    # Names with a namespace ("huggingface:…") are not among these: they fetch code as they load.
    known = tfds.list_builders(with_community_datasets=False)
    family = name.partition("/")[0].partition(":")[0]
    if family not in known:
        close = " or ".join(map(repr, difflib.get_close_matches(family, known))) or "'digits'"
        raise ValueError(
            f"no data set {name!r}: did you mean {close}? tensorflow_datasets.list_builders() "
            "lists them all"
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except AssertionError as error:  # an unknown version
        raise ValueError(str(error)) from error
    image_feature(builder.info)  # refuses what is no labeled images
    return builder


def prepared(
    name: str,
    builder: tfds.core.DatasetBuilder,
    data_dir: str | PathLike | None,
    manual_dir: str | PathLike | None,
    download: bool,
) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set on disk, preparing it first if that is possible."""
    if builder.data_path.exists():
        return builder
    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        raise FileNotFoundError(f"manual_dir={str(manual_dir)!r} is not a folder")
    ways = _ways(name, builder, data_dir)
    if not download and manual_dir is None and not isinstance(builder, Digits):
        raise FileNotFoundError(
            f"{name} is not on this machine (there is no {builder.data_path}), and nothing is "
            f"fetched unasked. {ways}"
        )
    _require_writable(name, builder.data_path)
    _prepare(name, builder, manual_dir, download, ways)
    return tfds.builder(name, data_dir=data_dir)  # reads what is now on disk


def _require_writable(name: str, folder: PathLike) -> None:
    """Refuse a folder that this user can't make or fill, before anything is fetched."""
    existing = os.fspath(folder)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if not (os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)):
        raise PermissionError(
            f"{name}: {folder} can't be made, since {existing} is no folder that you may write "
            "to. Name another one: data_dir='a folder of yours', or the environment variable "
            "TFDS_DATA_DIR before Python starts"
        )


def _prepare(
    name: str,
    builder: tfds.core.DatasetBuilder,
    manual_dir: str | PathLike | None,
    download: bool,
    ways: str,
) -> None:
    """Write the data set to disk, whole or not at all, without printing anything."""
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    guarded = _guarded_downloads(name, builder, download, ways)
    try:
        with guarded, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        raise ValueError(
            f"{name}: a file is broken, or not the one that TFDS knows. Replace it with the "
            f"original and load again.\n{error}"
        ) from error
    except OSError:
        if not builder.data_path.exists():  # else another process was faster: take its work
            raise


@contextlib.contextmanager
def _guarded_downloads(
    name: str, builder: tfds.core.DatasetBuilder, download: bool, ways: str
) -> Iterator[None]:
    """Let `builder` fetch files only if asked, and only from hosts that answer in seconds.

    The errors end in `ways`, what a person can do.

    TFDS alone fetches whatever is missing, and without a network retries for 204 s. It has no
    setting for either, so its download manager is given this check on its way to the network.
    """
    make = builder._make_download_manager
    answers = functools.cache(connection.answers)

    def make_guarded(**arguments: Any) -> tfds.download.DownloadManager:
        manager = make(**arguments)
        fetch = manager._download

        def guarded(resource: tfds.download.Resource) -> Any:
            if not download:
                raise FileNotFoundError(
                    f"{name}: manual_dir lacks the file of {resource.url}. {ways}"
                )
            if not answers(*connection.first_host(resource.url)):
                raise ConnectionError(
                    f"{name}: no answer within {connection.SECONDS} s on the way to "
                    f"{resource.url}. {ways}"
                )
            return fetch(resource)

        manager._download = guarded
        return manager

    builder._make_download_manager = make_guarded
    try:
        yield
    finally:
        del builder._make_download_manager


def _ways(name: str, builder: tfds.core.DatasetBuilder, data_dir: str | PathLike | None) -> str:
    """Say how a person gets the data set onto this machine."""
    there = list_all_versions(builder.data_path.parent)  # of the same name and configuration
    if there:
        older = _call(f"{name.partition(':')[0]}:{there[-1]}", builder, data_dir=data_dir)
        return f"Version {there[-1]} is there: {older}. {_others(name, builder, data_dir)}"
    return _others(name, builder, data_dir)


def _others(name: str, builder: tfds.core.DatasetBuilder, data_dir: str | PathLike | None) -> str:
    """Say how a person gets the version that was asked for."""
    files = sorted({info.filename for info in (builder.url_infos or {}).values() if info.filename})
    listed = ", ".join(files) if 0 < len(files) <= 8 else "its original files"
    by_hand = (
        f"put {listed} into a folder and call "
        f"{_call(name, builder, data_dir=data_dir, manual_dir='the folder')}."
    )
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # these cannot be fetched by a program
        return f"By hand: {by_hand} {builder.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()}"
    fetched = _call(name, builder, data_dir=data_dir, download=True)
    return f"With a network: {fetched}. Without: {by_hand}"


def _call(name: str, builder: tfds.core.DatasetBuilder, **sources: Any) -> str:
    """Write out a call of `load` that works, with those of its arguments that are given."""
    written = [repr(name)]
    if None in image_feature(builder.info).shape:
        written.append("batch_size=None")
    for key, value in sources.items():
        if value is True:
            written.append(f"{key}=True")
        elif value:
            written.append(f"{key}={str(value)!r}")
    return f"densenet_nb.data.load({', '.join(written)})"
