"""Labeled images, any of them by its number, and batches as a pure function of seed and step.

So the whole state of the input is one number, the step: training that starts again in the middle
of an epoch gets the same batches, whatever had been read ahead.

``digits = from_tfds("digits")`` has the parts ``digits.train`` and ``digits.test``;
``batches(digits.train, 64, seed=0)`` is what a training loop reads.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_nb._startup import quietly

import numpy as np

from densenet_nb import data
from densenet_nb.checks import require_positive_integer

with quietly():
    import tensorflow as tf

__all__ = [
    "AUGMENTATIONS",
    "Examples",
    "Splits",
    "batches",
    "center_crop",
    "from_arrays",
    "from_folder",
    "from_tfds",
    "in_order",
    "mirror_and_crop",
    "mirror_and_shift",
    "order",
]

SHIFT = 4
"""Pixels by which an image of CIFAR is shifted at most, along either axis (section 4.1)."""

DRAWS = 5
"""Random numbers that an augmentation gets for each image."""

ENOUGH = 10_000
"""Images from which mean and deviation are estimated where all of them are not in memory."""

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


Fetch = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, eq=False)
class Examples:
    """One split: labeled images of one size.

    Attributes
    ----------
    name : str
        For messages.
    count : int
        How many there are.
    classes : tuple of str
        Their names.
    shape : tuple of int
        Height, width and channels of every image.
    fetch : callable
        Gives images in [0, 1], float32 (b, *shape), and labels, int64 (b,), of the indices that an
        integer tensor (b,) has. It is called in graphs of tf.data.
    fingerprint : str
        Equal for equal images and labels in equal order.
    mean, deviation : tuple of float
        What is taken off each channel of a pixel, and what it is then divided by.
    """

    name: str
    count: int
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fetch: Fetch
    fingerprint: str
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return images as a network reads them, (x − mean) / deviation, and labels.

        Parameters
        ----------
        indices : integers (b,)

        Returns
        -------
        images : tf.Tensor
            float32 (b, height, width, channels).
        labels : tf.Tensor
            int64 (b,).
        """
        images, labels = self.fetch(tf.convert_to_tensor(indices))
        return (images - self.mean) / self.deviation, labels


@dataclass(frozen=True, eq=False)
class Splits:
    """What a network is trained on and what it is tested on, which share no example."""

    train: Examples
    test: Examples


# Where they come from


def from_tfds(
    name: str = "digits",
    splits: tuple[str, str] = ("train", "test"),
    *,
    side: int | None = None,
    standardize: bool = True,
    data_dir: str | PathLike | None = None,
    manual_dir: str | PathLike | None = None,
    download: bool = False,
) -> Splits:
    """Take two splits of a data set of TFDS.

    A data set whose images have one size is held in memory, as it is stored (CIFAR: 180 MB). One
    that was prepared as ``array_record`` is read from disk, so it may be of any size.

    Parameters
    ----------
    name, data_dir, manual_dir, download
        As for :func:`densenet_nb.data.load`.
    splits : pair of str
        For training and for testing, in TFDS's notation, such as ``("train[:90%]", "train[90%:]")``
        for a validation of one's own.
    side : int, optional
        For images that differ in size: each is scaled so that its shorter side has so many
        pixels, and its central square taken. A network of 224 pixels trains on 256.
    standardize : bool
        Whether to take off each channel's mean and divide by its standard deviation, those of the
        training split (of 10,000 images spread over it, if it is read from disk). The paper does
        so but for SVHN, which it only divides by 255 (section 4.1).

    Returns
    -------
    Splits

    Raises
    ------
    ValueError
        As `load`; splits that share examples; images that differ in size, without `side` or
        without random access.
    FileNotFoundError, ConnectionError, PermissionError
        As `load`.
    """
    if side is not None:
        require_positive_integer("side", side)
    builder = data.find_builder(name, data_dir)
    builder = data.prepared(name, builder, data_dir, manual_dir, download)
    _require_disjoint(name, splits, [builder.info.splits[split] for split in splits])
    sized = None not in data.image_feature(builder.info).shape
    on_disk = builder.info.file_format.value == "array_record"
    if not (sized or on_disk):
        raise ValueError(
            f"{name}: its images differ in size and are not stored for access by number. Store it "
            f"so, once: tensorflow_datasets.builder({name!r}, file_format='array_record')"
            ".download_and_prepare()"
        )
    if not (sized or side):
        raise ValueError(f"{name}: its images differ in size; give the side to scale them to")
    read = functools.partial(_from_disk, side=side) if on_disk else _from_memory
    parts = [read(builder, split) for split in splits]
    return _standardized(*parts, ENOUGH if on_disk else None) if standardize else Splits(*parts)


def from_arrays(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str] | None = None,
    *,
    standardize: bool = True,
) -> Splits:
    """Take images and labels of one's own that are in memory.

    Parameters
    ----------
    train, test : pair of np.ndarray
        Images (n, height, width, channels): uint8, divided by 255, or floats, taken as they are;
        labels: integers (n,) from 0.
    classes : sequence of str, optional
        Names of the classes; by default their numbers.
    standardize : bool
        As for :func:`from_tfds`; from all images.

    Raises
    ------
    ValueError
        Shapes that do not fit, labels without a class, values that are not finite, or an image
        that is in both parts.
    """
    pairs = [tuple(map(np.asarray, pair)) for pair in (train, test)]
    if classes is None:
        classes = range(1 + max((int(y.max()) for _, y in pairs if y.size), default=0))
    names = tuple(map(str, classes))
    for part, (images, labels) in zip(("train", "test"), pairs, strict=True):
        _require_examples(part, images, labels, len(names))
    if pairs[0][0].shape[1:] != pairs[1][0].shape[1:]:
        raise ValueError(
            f"train has images of shape {pairs[0][0].shape[1:]}, test of {pairs[1][0].shape[1:]}: "
            "all must have one shape."
        )
    _require_distinct(*([hashlib.sha256(x.tobytes()).digest() for x in x] for x, _ in pairs))
    parts = [
        _in_memory(part, images, labels, names, 255 if images.dtype == np.uint8 else 1)
        for part, (images, labels) in zip(("train", "test"), pairs, strict=True)
    ]
    return _standardized(*parts) if standardize else Splits(*parts)


def from_folder(path: str | PathLike, side: int = 256, *, standardize: bool = True) -> Splits:
    """Take a folder of image files, laid out as ``tfds.ImageFolder`` has it.

    ``path/train/cat/any name.jpg``, ``path/test/cat/…``: a folder for each class in both. Files
    are read when they are needed.

    Parameters
    ----------
    path : path
        The folder.
    side : int
        Each image is scaled so that its shorter side has so many pixels, and its central square
        taken. For a network that reads 224 pixels, the paper has 256.
    standardize : bool
        As for :func:`from_tfds`; from at most 10,000 of the training images.

    Raises
    ------
    FileNotFoundError
        A part is not there or has no images.
    ValueError
        A class is in one part only, a file is in both, or (seen while standardizing) no image.
    """
    require_positive_integer("side", side)
    root = Path(path).expanduser()
    files = [_image_files(root / part) for part in ("train", "test")]
    classes = [sorted({file.parent.name for file in found}) for found in files]
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise ValueError(
            f"{root}: train and test must have the same classes; {odd} is in one only."
        )
    digests = [[_digest(file) for file in found] for found in files]
    _require_distinct(*digests, *files)
    parts = [
        _from_files(*each, tuple(classes[0]), side) for each in zip(files, digests, strict=True)
    ]
    if not standardize:
        return Splits(*parts)
    try:
        return _standardized(*parts, ENOUGH)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{_undecodable(files[0])}: no image that can be read.") from error


def _from_memory(builder: Any, split: str) -> Examples:
    """Read a split of TFDS into memory."""
    dataset = builder.as_dataset(split=split, as_supervised=True).batch(2**62)
    images, labels = next(dataset.as_numpy_iterator())
    classes = tuple(builder.info.features[builder.info.supervised_keys[1]].names)
    return _in_memory(
        f"{builder.info.name} {split}", images, labels, classes, data.largest_pixel(builder.info)
    )


def _in_memory(
    name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], largest: float
) -> Examples:
    digest = hashlib.sha256(f"{images.dtype}{images.shape}{classes}".encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels, np.int64))
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels, tf.int64)

    def fetch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.cast(tf.gather(images, indices), tf.float32) / largest
        return chosen, tf.gather(labels, indices)

    shape = tuple(images.shape[1:])
    return Examples(name, len(labels), classes, shape, fetch, digest.hexdigest())


def _from_disk(builder: Any, split: str, side: int | None) -> Examples:
    """Read a split of TFDS by its numbers."""
    source = builder.as_data_source(split=split)
    feature = data.image_feature(builder.info)
    keys = builder.info.supervised_keys
    largest = data.largest_pixel(builder.info)
    shape = feature.shape if side is None else (side, side, feature.shape[-1])

    def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        example = source[int(index)]
        return example[keys[0]], np.int64(example[keys[1]])

    def one(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = tf.numpy_function(read, [index], (feature.np_dtype, tf.int64))
        image.set_shape(feature.shape)
        label.set_shape(())
        image = tf.cast(image, tf.float32) / largest
        return (image if side is None else _square(image, side)), label

    text = f"{builder.info.full_name} {split} {len(source)} {shape}"
    classes = tuple(builder.info.features[keys[1]].names)
    name = f"{builder.info.name} {split}"
    return Examples(name, len(source), classes, shape, _each(one, shape), text)


def _from_files(
    files: list[Path], digests: list[bytes], classes: tuple[str, ...], side: int
) -> Examples:
    """Read image files by their place in a list."""
    root = files[0].parent.parent
    with tf.device("CPU:0"):
        paths = tf.constant([str(file) for file in files])
        labels = tf.constant([classes.index(file.parent.name) for file in files], tf.int64)

    def one(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        file = tf.io.read_file(tf.gather(paths, index))
        image = tf.io.decode_image(file, 3, tf.float32, expand_animations=False)
        image.set_shape((None, None, 3))
        return _square(image, side), tf.gather(labels, index)

    places = [f"{file.parent.name}/{file.name}" for file in files]
    digest = hashlib.sha256(f"{side}{places}{digests}".encode())
    shape = (side, side, 3)
    name = f"{root.parent.name}/{root.name}"
    return Examples(name, len(files), classes, shape, _each(one, shape), digest.hexdigest())


def _each(one: Callable, shape: tuple[int, int, int]) -> Fetch:
    """Return the function of many indices that takes each by a function of one."""
    result = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.int64))
    return lambda indices: tf.map_fn(one, indices, fn_output_signature=result)


def _square(image: tf.Tensor, side: int) -> tf.Tensor:
    """Scale an image in [0, 1] so that its shorter side is `side`; cut out its center."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.cast(tf.round(size * (side / tf.reduce_min(size))), tf.int32)
    image = tf.image.resize(image, size, "bicubic", antialias=True)
    return tf.clip_by_value(center_crop(image[tf.newaxis], (side, side))[0], 0.0, 1.0)


def _standardized(train: Examples, test: Examples, limit: int | None = None) -> Splits:
    """Return the splits with mean and deviation of `train`, from at most `limit` of its images."""
    chosen = np.arange(len(train))
    if limit is not None and len(train) > limit:
        chosen = np.linspace(0, len(train) - 1, limit).astype(np.int64)
    batches = tf.data.Dataset.from_tensor_slices(chosen).batch(64)
    count, total, squares = 0, 0.0, 0.0
    for images, _ in batches.map(train.fetch, tf.data.AUTOTUNE).as_numpy_iterator():
        pixels = images.astype(np.float64)
        count += pixels[..., 0].size
        total = total + pixels.sum((0, 1, 2))
        squares = squares + np.square(pixels).sum((0, 1, 2))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation < 1e-6] = 1  # a channel that never changes keeps its scale
    kept = {"mean": tuple(mean.tolist()), "deviation": tuple(deviation.tolist())}
    return Splits(replace(train, **kept), replace(test, **kept))


# What is refused


def _require_disjoint(name: str, splits: Sequence[str], infos: Sequence[Any]) -> None:
    """Raise a ValueError if two splits of TFDS share examples."""
    files: list[dict[str, list[range]]] = []
    for info in infos:
        parts: dict[str, list[range]] = {}
        for each in info.file_instructions:
            end = each.examples_in_shard if each.take == -1 else each.skip + each.take
            parts.setdefault(each.filename, []).append(range(each.skip, end))
        files.append(parts)
    shared = sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for filename in files[0].keys() & files[1].keys()
        for a in files[0][filename]
        for b in files[1][filename]
    )
    if shared:
        raise ValueError(
            f"{name}: {splits[0]!r} and {splits[1]!r} share {shared} examples; a test on what was "
            "trained on says nothing. Take parts that do not overlap."
        )


def _require_distinct(
    train: list[bytes], test: list[bytes], *names: list[Path] | tuple[range, ...]
) -> None:
    """Raise a ValueError if an image, told by its digest, is in both parts."""
    names = names or (range(len(train)), range(len(test)))
    first = dict(zip(train, names[0], strict=True))
    shared = [
        (first[digest], name)
        for digest, name in zip(test, names[1], strict=True)
        if digest in first
    ]
    if shared:
        one, other = shared[0]
        raise ValueError(
            f"{len(shared)} images are in both parts, such as train's {one} and test's {other}; a "
            "test on what was trained on says nothing. Take them out of one part."
        )


def _require_examples(part: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raise a ValueError unless these are labeled images."""
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"{part}: images of shape {images.shape}; must be (n, height, width, channels)."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{part}: labels of shape {labels.shape} and dtype {labels.dtype}; must be integers "
            f"({len(images)},), one for each image."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{part}: labels from {labels.min()} to {labels.max()}; {classes} classes have the "
            f"labels 0 to {classes - 1}."
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{part}: images of dtype {images.dtype}; must be uint8 or floats.")
    if not np.isfinite(images).all():
        raise ValueError(f"{part}: images with values that are not finite (NaN or infinity).")


def _image_files(folder: Path) -> list[Path]:
    """Return the image files in the folders of `folder`, in order."""
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in IMAGE_FILES)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no images there; {folder}/<class>/<name>{IMAGE_FILES[0]} is what is read."
        )
    return files


def _undecodable(files: list[Path]) -> Path | None:
    """Return the first file that is no image."""
    for file in files:
        try:
            tf.io.decode_image(file.read_bytes(), expand_animations=False)
        except tf.errors.InvalidArgumentError:
            return file
    return None


def _digest(file: Path) -> bytes:
    """Return what tells a file from others: its size and its end."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4096))
        return hashlib.sha256(f"{size} ".encode() + stream.read()).digest()


# Batches


def order(seed: int, epoch: tf.Tensor, count: int) -> tf.Tensor:
    """Return the order in which an epoch sees `count` examples: a permutation, int64 (count,)."""
    return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), [seed, epoch])


def batches(
    examples: Examples,
    batch_size: int,
    seed: int,
    steps: range,
    *,
    augmentation: str | None = None,
    size: tuple[int, int] | None = None,
    pieces: int = 1,
    take: range = range(1),
) -> tf.data.Dataset:
    """Return the batches of `steps`, each a function of `seed` and its step alone.

    They follow one another without a gap through epochs in which each example is seen once, in a
    new order. So all have one size, and one may hold the end of an epoch and the beginning of the
    next.

    Parameters
    ----------
    examples : Examples
        What is drawn from.
    batch_size : int
        Examples in a step.
    seed : int
        Of the order and of the augmentation, at least 0.
    steps : range
        Which steps: ``range(1000, 2000)`` are the second thousand of the same run.
    augmentation : {None, "shift", "crop"}
        A key of `AUGMENTATIONS`.
    size : pair of int, optional
        Height and width that the network reads; by default those of the images. Larger images are
        cropped.
    pieces, take : int, range
        For several devices: each batch is cut into `pieces` equal pieces, and only those in `take`
        are yielded, one after the other.

    Returns
    -------
    tf.data.Dataset
        Of images, float32 (batch_size / pieces, *size, channels), and labels, int64.
    """
    size = tuple(examples.shape[:2] if size is None else size)
    augment, piece_size = AUGMENTATIONS[augmentation], batch_size // pieces

    epoch, skipped = divmod(steps.start * batch_size, len(examples))
    chosen = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(
        lambda epoch: tf.data.Dataset.from_tensor_slices(order(seed, epoch, len(examples)))
    )
    chosen = chosen.skip(skipped).batch(batch_size).take(len(steps)).enumerate(steps.start)

    def cut(step: tf.Tensor, chosen: tf.Tensor) -> tf.data.Dataset:
        parts = tf.gather(tf.reshape(chosen, (pieces, piece_size)), list(take))
        return tf.data.Dataset.from_tensor_slices((tf.fill([len(take)], step), list(take), parts))

    def read(step: tf.Tensor, piece: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = examples.batch(chosen)
        draws = tf.random.stateless_uniform((pieces, piece_size, DRAWS), tf.stack([seed, step]))
        return augment(images, draws[piece], size), labels

    cut_up = chosen.flat_map(cut).map(read, tf.data.AUTOTUNE, deterministic=True)
    return cut_up.prefetch(tf.data.AUTOTUNE)


def in_order(
    examples: Examples, batch_size: int, size: tuple[int, int] | None = None
) -> tf.data.Dataset:
    """Return all examples once, in their order; the last batch may be smaller.

    Parameters as for :func:`batches`; without `size` the images are whole.
    """

    def read(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = examples.batch(chosen)
        return (images if size is None else center_crop(images, size)), labels

    chosen = tf.data.Dataset.range(len(examples)).batch(batch_size)
    return chosen.map(read, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


# Augmentation: functions of images (b, height, width, channels), of numbers drawn from [0, 1),
# (b, DRAWS), and of the height and width to return


def center_crop(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Cut out the center: (b, height, width, channels) to (b, *size, channels)."""
    top, left = ((tf.shape(images)[1 + i] - size[i]) // 2 for i in (0, 1))
    return tf.slice(images, [0, top, left, 0], [-1, *size, -1])


def mirror_and_shift(images: tf.Tensor, draws: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Mirror half of the images and shift each by up to 4 pixels, "+" in Table 2 (section 4.1).

    What comes in at the edges is 0, the mean, and shifts are integers from −4 to 4, all equally
    probable.
    """
    shift = tf.floor(draws[:, 1:3] * (2 * SHIFT + 1)) - SHIFT  # (b, 2)
    mirror = draws[:, 0] < 0.5
    # Output pixel (x, y) is input pixel (a x + b, y + c): as the operation takes it, (b, 8).
    zero, one = tf.zeros_like(draws[:, 0]), tf.ones_like(draws[:, 0])
    width = tf.cast(tf.shape(images)[2], tf.float32)
    a = tf.where(mirror, -one, one)
    b = tf.where(mirror, width - 1 + shift[:, 1], shift[:, 1])
    shifted = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, zero, b, zero, one, shift[:, 0], zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
    )
    return center_crop(shifted, size)


def mirror_and_crop(images: tf.Tensor, draws: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Cut out 8% to 100% of each image, scale it to `size`, and mirror half of them.

    The sides have a ratio between 3:4 and 4:3: what is done for ImageNet in the code that the
    paper's authors used, without its changes of color (section 4.2 names fb.resnet.torch). A side
    longer than the image's is cut to it.
    """
    height, width = (tf.cast(tf.shape(images)[i], tf.float32) for i in (1, 2))
    length = tf.sqrt((0.08 + 0.92 * draws[:, 1]) * height * width)
    ratio = tf.exp((2 * draws[:, 2] - 1) * 0.5 * np.log(4 / 3).astype(np.float32))
    tall = tf.minimum(length * ratio, height) / height
    wide = tf.minimum(length / ratio, width) / width
    top, left = draws[:, 3] * (1 - tall), draws[:, 4] * (1 - wide)
    boxes = tf.stack([top, left, top + tall, left + wide], axis=1)  # (b, 4), in [0, 1]
    crops = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), size)
    return _mirror(crops, draws)


def _mirror(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    flip = draws[:, 0] < 0.5
    return tf.where(flip[:, tf.newaxis, tf.newaxis, tf.newaxis], images[:, :, ::-1], images)


AUGMENTATIONS: dict[str | None, Callable] = {
    None: lambda images, draws, size: center_crop(images, size),
    "shift": mirror_and_shift,
    "crop": mirror_and_crop,
}
"""How training images are changed, anew in each epoch."""
