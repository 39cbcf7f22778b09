"""Batches are functions of seed and step; augmentation equals NumPy's; splits do not leak."""

import dataclasses
import re
from collections import Counter

import densenet_nb._startup  # noqa: F401

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_nb import data, examples


def numbered(count=100, seed=0):
    """Return splits whose label is the number of the image."""
    images = np.random.default_rng(seed).uniform(size=(count + 10, 6, 8, 3)).astype("float32")
    numbers = np.arange(count)
    return examples.from_arrays((images[10:], numbers), (images[:10], np.arange(10)))


@pytest.fixture(scope="module")
def splits():
    return numbered()


def drawn(part, batch_size, seed, steps, **options):
    batches = examples.batches(part, batch_size, seed, steps, **options)
    return [(images, labels) for images, labels in batches.as_numpy_iterator()]


def assert_equal(batches, others):
    for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


# Batches


def blank(numbers):
    return tf.zeros((len(numbers), 1, 1, 3)), numbers


@settings(max_examples=25)
@given(
    count=st.integers(2, 40),
    batch_size=st.integers(1, 50),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_each_example_is_seen_once_in_each_epoch(count, batch_size, epochs, seed):
    """Told by its number, for any size of the batch; every batch is whole."""
    steps = -(-epochs * count // batch_size)
    part = dataclasses.replace(SPLITS.train, count=count, fetch=blank)
    batches = drawn(part, batch_size, seed, range(steps), size=(1, 1))
    seen = np.concatenate([labels for _, labels in batches])
    assert len(seen) == steps * batch_size
    for epoch in range(epochs):
        assert Counter(seen[epoch * count : (epoch + 1) * count].tolist()) == Counter(range(count))


SPLITS = numbered(4)


def test_orders_differ_from_epoch_to_epoch_and_from_seed_to_seed(splits):
    orders = [
        np.concatenate([labels for _, labels in drawn(splits.train, 50, seed, range(4))]).tolist()
        for seed in (0, 1)
    ]
    epochs = [tuple(each[i : i + 100]) for each in orders for i in (0, 100)]
    assert len(set(epochs)) == 4
    assert tuple(range(100)) not in epochs


@pytest.mark.parametrize("augmentation", examples.AUGMENTATIONS)
@pytest.mark.parametrize("start", [1, 5, 13])
def test_a_run_that_begins_later_has_the_same_batches(start, augmentation, splits):
    options = {"augmentation": augmentation, "size": (6, 6)}
    whole = drawn(splits.train, 16, 7, range(15), **options)
    assert_equal(drawn(splits.train, 16, 7, range(start, 15), **options), whole[start:])


def test_pieces_are_the_batch_whoever_takes_them(splits):
    """Four devices, two on each of two machines: augmentation is that of the whole batch."""
    options = {"augmentation": "shift"}
    whole = drawn(splits.train, 16, 7, range(9), **options)
    machines = [
        drawn(splits.train, 16, 7, range(9), pieces=4, take=range(first, first + 2), **options)
        for first in (0, 2)
    ]
    for step, (images, labels) in enumerate(whole):
        parts = [piece for machine in machines for piece in machine[2 * step : 2 * step + 2]]
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), labels)


def test_shapes_are_known_before_the_first_batch(splits):
    """XLA asks for them."""
    for augmentation in examples.AUGMENTATIONS:
        batches = examples.batches(
            splits.train, 16, 0, range(3), augmentation=augmentation, size=(4, 6)
        )
        images, labels = batches.element_spec
        assert images.shape == (16, 4, 6, 3)
        assert labels.shape == (16,)
        assert (images.dtype, labels.dtype) == (tf.float32, tf.int64)


def test_in_order_gives_every_example_once(splits):
    batches = list(examples.in_order(splits.train, 30).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [30, 30, 30, 10]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), np.arange(100))
    cropped = next(examples.in_order(splits.train, 30, (2, 4)).as_numpy_iterator())[0]
    np.testing.assert_array_equal(cropped, batches[0][0][:, 2:4, 2:6])


# Augmentation


def shifted(image, draws):
    """Mirror and shift one image by hand."""
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    top, left = (int(draw * 9) for draw in draws[1:3])
    moved = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return moved[:, ::-1] if draws[0] < 0.5 else moved


@given(seed=st.integers(0, 1000), height=st.integers(1, 12), width=st.integers(1, 12))
def test_mirror_and_shift_is_what_numpy_does(seed, height, width):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(5, height, width, 2)).astype("float32")
    draws = rng.uniform(size=(5, examples.DRAWS)).astype("float32")
    found = examples.mirror_and_shift(tf.constant(images), tf.constant(draws), (height, width))
    expected = [shifted(*pair) for pair in zip(images, draws, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_all_shifts_and_mirrors_are_drawn_alike():
    """81 shifts, mirrored or not: of 16,200 images 100 each, give or take five deviations."""
    image = np.zeros((1, 9, 9, 1), "float32")
    image[0, 4, 3] = 1  # left of the center, so that its mirror image is told from a shift
    image[0, 4, 4] = 2
    part = dataclasses.replace(
        SPLITS.train,
        count=4,
        shape=(9, 9, 1),
        mean=(0.0,),
        deviation=(1.0,),
        fetch=lambda numbers: (tf.tile(tf.constant(image), (len(numbers), 1, 1, 1)), numbers),
    )
    ((images, _),) = drawn(part, 16_200, 3, range(1), augmentation="shift")
    kinds = Counter(image.tobytes() for image in images)
    assert len(kinds) > 150  # at the edges a few look alike
    centers = Counter(zip(*np.nonzero(images[..., 0] == 2)[1:], strict=True))
    assert len(centers) == 81
    assert max(abs(count - 200) for count in centers.values()) < 5 * np.sqrt(200)
    mirrored = np.sum(images[:, :, 1:, 0][images[:, :, :-1, 0] == 2])
    assert abs(mirrored - 7200) < 5 * np.sqrt(16_200 / 4)  # a ninth lost it at the right edge


def test_crops_are_of_the_promised_sizes():
    """Seen on images whose values are their coordinates."""
    rows, columns = np.meshgrid(np.arange(40.0), np.arange(60.0), indexing="ij")
    image = np.stack([rows, columns], axis=-1).astype("float32")
    images = np.repeat(image[None], 2000, axis=0)
    draws = np.random.default_rng(0).uniform(size=(2000, examples.DRAWS)).astype("float32")
    crops = examples.mirror_and_crop(tf.constant(images), tf.constant(draws), (12, 12)).numpy()
    tall = crops[:, -1, 0, 0] - crops[:, 0, 0, 0]
    wide = crops[:, 0, -1, 1] - crops[:, 0, 0, 1]
    assert crops.min() >= 0
    assert crops[..., 0].max() <= 39.001
    assert crops[..., 1].max() <= 59.001
    assert (tall > 0).all()
    assert abs(np.mean(wide < 0) - 0.5) < 5 * 0.5 / np.sqrt(2000)
    area = tall / 39 * np.abs(wide) / 59
    assert 0.07 < area.min() < 0.1
    assert 0.85 < area.max() <= 1.001
    assert abs(np.mean(area < 0.54) - 0.5) < 0.1  # uniform, but for the sides that were cut
    ratio = (tall / 39 * 40) / (np.abs(wide) / 59 * 60)
    whole = (tall < 38.9) & (np.abs(wide) < 58.9)
    assert 0.74 < ratio[whole].min() < 0.8
    assert 1.25 < ratio[whole].max() < 1.35


# Where they come from


def test_digits_are_those_of_load_standardized():
    digits = examples.from_tfds("digits")
    (x_train, y_train), (x_test, y_test) = data.load_arrays("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    mean, deviation = x_train.mean(dtype="float64"), x_train.std(dtype="float64")
    assert digits.train.mean == pytest.approx([mean])
    for part, x, y in ((digits.train, x_train, y_train), (digits.test, x_test, y_test)):
        images, labels = part.batch(np.arange(len(part)))
        np.testing.assert_array_equal(labels, y)
        np.testing.assert_allclose(images, (x - mean) / deviation, atol=1e-5)
    assert digits.train.classes == tuple("0123456789")
    raw = examples.from_tfds("digits", standardize=False)
    np.testing.assert_array_equal(raw.test.batch(np.arange(360))[0], x_test)


def test_each_channel_is_standardized_by_the_training_images_alone():
    rng = np.random.default_rng(0)
    train = (rng.integers(0, 256, (90, 4, 4, 3)) // [1, 2, 4]).astype("uint8")
    test = np.full((5, 4, 4, 3), 255, "uint8") - np.arange(5, dtype="uint8")[:, None, None, None]
    both = examples.from_arrays((train, np.arange(90) % 2), (test, np.arange(5) % 2))
    images, _ = both.train.batch(np.arange(90))
    np.testing.assert_allclose(np.mean(images, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(images, (0, 1, 2)), 1, atol=1e-5)
    expected = (1 - np.mean(train / 255, (0, 1, 2))) / np.std(train / 255, (0, 1, 2))
    np.testing.assert_allclose(both.test.batch([0])[0][0, 0, 0], expected, rtol=1e-5)


def test_a_channel_that_never_changes_is_left_in_scale():
    images = np.random.default_rng(0).uniform(size=(12, 4, 4, 2)).astype("float32")
    images[..., 1] = 0.5
    both = examples.from_arrays((images[:8], np.zeros(8, int)), (images[8:], np.zeros(4, int)))
    assert both.train.deviation[1] == 1
    np.testing.assert_allclose(both.train.batch([0, 1])[0][..., 1], 0, atol=1e-6)


def test_fingerprints_tell_data_apart():
    assert numbered().train.fingerprint == numbered().train.fingerprint
    assert numbered().train.fingerprint != numbered(seed=1).train.fingerprint
    images = np.random.default_rng(0).uniform(size=(8, 2, 2, 1))
    prints = {
        examples.from_arrays((images[:4], y), (images[4:], y), names).train.fingerprint
        for y in (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        for names in (None, ("cat", "dog"))
    }
    assert len(prints) == 4


def test_a_data_set_on_disk_is_read_by_number(tmp_path):
    """Stored as array_record: the same examples, whole or scaled, as from memory."""
    builder = tfds.builder("digits", data_dir=tmp_path / "random", file_format="array_record")
    builder.download_and_prepare()
    memory = examples.from_tfds("digits", data_dir=tmp_path / "memory")
    disk = examples.from_tfds("digits", data_dir=tmp_path / "random")
    np.testing.assert_allclose(disk.train.mean, memory.train.mean, rtol=1e-6)

    def contents(part):
        images, labels = (np.array(array) for array in part.batch(np.arange(len(part))))
        rows = np.concatenate([labels[:, None], images.reshape(len(labels), -1)], axis=1)
        return rows[np.lexsort(rows.round(3).T)]

    np.testing.assert_allclose(contents(disk.train), contents(memory.train), atol=1e-5)
    scaled = examples.from_tfds("digits", data_dir=tmp_path / "random", side=16)
    ((images, labels),) = drawn(scaled.train, 8, 0, range(1))
    assert images.shape == (8, 16, 16, 1)
    assert labels.dtype == np.int64


def pictures(root, count=4, classes=("cat", "dog"), seed=0):
    """Write a folder of images that differ in size and kind."""
    rng = np.random.default_rng(seed)
    for part in ("train", "test"):
        for label in classes:
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                size = (20 + 3 * number, 30 - number)
                image = tf.constant(rng.integers(0, 256, (*size, 3)), tf.uint8)
                encode, kind = (
                    (tf.io.encode_png, "png") if number % 2 else (tf.io.encode_jpeg, "JPG")
                )
                (folder / f"{number}.{kind}").write_bytes(encode(image).numpy())
    return root


def test_a_folder_of_images_is_what_tfds_finds_there(tmp_path):
    root = pictures(tmp_path)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    both = examples.from_folder(root, 16, standardize=False)
    folder = tfds.ImageFolder(str(root))
    assert both.train.classes == tuple(folder.info.features["label"].names)
    assert len(both.train) == folder.info.splits["train"].num_examples == 8
    expected = {}
    for example in folder.as_dataset(split="train", shuffle_files=False).as_numpy_iterator():
        expected.setdefault(int(example["label"]), []).append(example["image"])
    images, labels = (np.array(a) for a in both.train.batch(np.arange(8)))
    assert images.shape == (8, 16, 16, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(labels, [0] * 4 + [1] * 4)
    scaled = [examples._square(tf.constant(x / 255, tf.float32), 16) for x in expected[0]]
    for image in images[:4]:  # (TFDS has them in an order of its own.)
        assert min(np.abs(image - other).max() for other in scaled) < 0.02
    assert both.train.fingerprint != examples.from_folder(root, 15).train.fingerprint


@given(height=st.integers(5, 60), width=st.integers(5, 60), side=st.integers(1, 40))
def test_the_square_is_the_center_scaled(height, width, side):
    """Seen on an image whose values are its coordinates; a third of a pixel is allowed."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows / height, columns / width, 0 * rows], axis=-1).astype("float32")
    square = examples._square(tf.constant(image), side).numpy()
    assert square.shape == (side, side, 3)
    shorter = min(height, width)
    for axis, size in ((0, height), (1, width)):
        center = square[..., axis].mean() * size
        # Rounding of the longer side and of the crop's place: each up to one scaled pixel.
        assert abs(center - (size - 1) / 2) < 1 + 1.5 * shorter / side


# What is refused


@pytest.mark.parametrize(
    ("splits_", "shared"),
    [
        (("train", "train"), 1437),
        (("train[:100]", "train[50:]"), 50),
        (("train+test", "test[:10%]"), 36),
    ],
)
def test_splits_that_share_examples_are_refused(splits_, shared):
    with pytest.raises(ValueError, match=f"share {shared} examples"):
        examples.from_tfds("digits", splits_)


def test_parts_of_one_split_that_share_nothing_are_taken():
    both = examples.from_tfds("digits", ("train[:90%]", "train[90%:]"))
    assert len(both.train) + len(both.test) == 1437


def test_an_image_in_both_parts_is_refused(tmp_path):
    images = np.random.default_rng(0).uniform(size=(8, 2, 2, 1))
    zeros = np.zeros(5, int)
    with pytest.raises(ValueError, match="1 images are in both parts.*train's 4 and test's 0"):
        examples.from_arrays((images[:5], zeros), (images[4:], zeros[:4]))
    root = pictures(tmp_path)
    copied = root / "test" / "dog" / "copied.png"
    copied.write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=f"cat/1.png.*{copied}"):
        examples.from_folder(root, 16)


def arrays(shape=(4, 2, 2, 1), labels=(0, 1, 0, 1), dtype="float32", value=None):
    images = np.random.default_rng(1).uniform(size=shape).astype(dtype)
    if value is not None:
        images.flat[0] = value
    return images, np.array(labels)


BAD = {
    "rank": (arrays((4, 2, 2)), r"images of shape \(4, 2, 2\)"),
    "nothing": (arrays((0, 2, 2, 1), ()), r"images of shape \(0, 2, 2, 1\)"),
    "labels": (arrays(labels=(0, 1)), r"labels of shape \(2,\)"),
    "kind of label": (arrays(labels=(0.0, 1.0, 0.0, 1.0)), "dtype float64; must be integers"),
    "negative": (arrays(labels=(-1, 0, 0, 0)), "labels from -1 to 0"),
    "class": (arrays(labels=(0, 7, 0, 1)), "labels from 0 to 7; 2 classes"),
    "dtype": (arrays(dtype="int32"), "dtype int32; must be uint8 or floats"),
    "nan": (arrays(value=np.nan), "not finite"),
    "size": (arrays((4, 3, 2, 1)), r"\(3, 2, 1\), test of \(2, 2, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    train, message = BAD[case]
    test = np.zeros((1, 2, 2, 1), "float32"), np.array([0])
    with pytest.raises(ValueError, match=message):
        examples.from_arrays(train, test, ("a", "b"))


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "train"))):
        examples.from_folder(tmp_path)
    root = pictures(tmp_path)
    with pytest.raises(ValueError, match="side=0"):
        examples.from_folder(root, 0)
    (root / "train" / "owl").mkdir()
    (root / "train" / "owl" / "1.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    with pytest.raises(ValueError, match="'owl'"):
        examples.from_folder(root)


def test_a_file_that_is_no_image_is_named(tmp_path):
    root = pictures(tmp_path)
    (root / "train" / "cat" / "9.jpg").write_text("broken")
    with pytest.raises(ValueError, match=re.escape(f"{root}/train/cat/9.jpg")):
        examples.from_folder(root, 16)


def test_images_that_differ_in_size_need_random_access_and_a_side(monkeypatch, tmp_path):
    sized = data.image_feature

    def unsized(info):
        feature = sized(info)
        return type("Feature", (), {"shape": (None, None, 1), "np_dtype": feature.np_dtype})

    monkeypatch.setattr(data, "image_feature", unsized)
    with pytest.raises(ValueError, match="file_format='array_record'"):
        examples.from_tfds("digits")
    tfds.builder("digits", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(ValueError, match="give the side"):
        examples.from_tfds("digits", data_dir=tmp_path)
