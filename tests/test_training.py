"""Training goes on after any end as if there had been none; what would go wrong is refused."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_run
import training_workers
from equality import relative_error
from training_run import small

from densenet_nb import examples, history, progress, training
from densenet_nb.recipes import Recipe
from densenet_nb.training import train

PROGRAM = Path(training_run.__file__)
RECIPE = Recipe(epochs=4, batch_size=16, augmentation="shift", dropout_rate=0.5)


@pytest.fixture(scope="module")
def data():
    return training_run.data()


def run(folder, data, model=None, recipe=RECIPE, **options):
    """Train the small network; return the model and the history."""
    model = model or small()
    options = {"any_network": True, "progress": False} | options
    return model, train(model, data, recipe, folder, **options)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was not interrupted: digests of all that it left."""
    folder = tmp_path_factory.mktemp("whole")
    return training_run.digests(*run(folder, data), folder)


class Stop(Exception):
    pass


def stop_after(epoch):
    def hook(row):
        if row["epoch"] == epoch:
            raise Stop

    return hook


def stopped(folder, data, epoch=2, **options):
    """Leave a run in `folder` that stopped after an epoch, with a checkpoint of every step."""
    with pytest.raises(Stop):
        run(folder, data, on_epoch=stop_after(epoch), save_seconds=0, **options)
    return folder


def goes_on_to(whole, folder, data):
    """Assert that the same call, with other initial weights, ends as the uninterrupted run did."""
    assert training_run.digests(*run(folder, data, small(seed=1)), folder) == whole


def latest(folder):
    return tf.train.latest_checkpoint(folder / "checkpoints")


# Killed


class Child:
    """A real training process."""

    def __init__(self, folder, save_seconds=0.0, epochs=4):
        self.checkpoints = folder / "checkpoints"
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, folder, str(save_seconds), str(epochs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def names(self):
        return os.listdir(self.checkpoints) if self.checkpoints.exists() else []

    def saving(self):
        """Whether files of an unfinished save are there."""
        names = self.names()
        return any("temp" in name for name in names) or any(
            f"{name.partition('.')[0]}.index" not in names for name in names if ".data" in name
        )

    def steps(self):
        numbers = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in self.names()]
        return max((int(number[1]) for number in numbers if number), default=-1)

    def wait_for(self, condition):
        end = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end

    def kill(self):
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL

    def kill_when(self, condition):
        """Kill it while `condition` holds: a save may be over a moment after it was seen."""
        self.wait_for(lambda: condition() and self.stopped(condition))
        self.kill()

    def stopped(self, condition):
        """Stop it, and let it go on if `condition` no longer holds."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(0.01)  # until each of its threads has stopped
        if not condition():
            self.process.send_signal(signal.SIGCONT)
            return False
        return True

    def digests(self):
        printed, said = self.process.communicate()
        assert self.process.returncode == 0, said
        return dict(line.split() for line in printed.splitlines() if " " in line)


def test_killed_in_a_step_in_a_save_and_twice_in_a_row(tmp_path):
    """With SIGKILL; dropout and augmentation on; equal in every bit to a run that was not."""
    undisturbed = Child(tmp_path / "whole", save_seconds=1000)
    folder = tmp_path / "killed"
    child = Child(folder)
    child.kill_when(lambda: child.steps() >= 5 and not child.saving())
    first = child.steps()
    child = Child(folder)
    child.kill_when(lambda: child.steps() > first + 3 and child.saving())
    second = child.steps()
    assert child.saving()
    child = Child(folder)
    child.kill_when(lambda: child.steps() > second)
    assert child.steps() < 50
    assert Child(folder).digests() == undisturbed.digests()


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_goes_on_after_an_exception_in_any_epoch(epoch, data, whole, tmp_path):
    goes_on_to(whole, stopped(tmp_path, data, epoch), data)


def test_goes_on_from_the_middle_of_an_epoch_and_from_the_first_step(data, whole, tmp_path):
    """Checkpoints are written when they are due: here at the first step only."""
    with pytest.raises(Stop):
        run(tmp_path, data, on_epoch=stop_after(2))
    assert latest(tmp_path).endswith("ckpt-0")
    goes_on_to(whole, tmp_path, data)


def test_a_run_that_ended_is_not_run_again(data, whole, tmp_path):
    run(tmp_path, data)
    steps = []
    before = Path(latest(tmp_path) + ".index").stat().st_mtime_ns
    model, again = run(tmp_path, data, small(seed=1), on_epoch=steps.append)
    assert not steps
    assert Path(latest(tmp_path) + ".index").stat().st_mtime_ns == before
    assert training_run.digests(model, again, tmp_path) == whole


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_ctrl_c_and_sigterm_save_and_stop_after_the_step(number, error, data, whole, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(error):
        run(tmp_path, data, on_epoch=lambda row: signal.raise_signal(number))
    assert signal.getsignal(number) is before
    assert latest(tmp_path).endswith("ckpt-14")  # the epoch ended with step 13
    goes_on_to(whole, tmp_path, data)


def test_a_second_ctrl_c_stops_at_once(data, whole, tmp_path):
    def twice(row):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, data, on_epoch=twice)
    assert latest(tmp_path).endswith("ckpt-0")
    goes_on_to(whole, tmp_path, data)


def test_another_thread_trains_too(data, whole, tmp_path):
    """(Signals are the main thread's.)"""
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, data)))
    thread.start()
    thread.join()
    assert training_run.digests(*results[0], tmp_path) == whole


# Damaged, full, another run


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tree(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


DAMAGES = {
    "a bit of the weights": lambda path: flip(Path(f"{path}.data-00000-of-00001")),
    "a bit of the index": lambda path: flip(Path(f"{path}.index")),
    "cut short": lambda path: os.truncate(f"{path}.data-00000-of-00001", 100),
    "no weights": lambda path: Path(f"{path}.data-00000-of-00001").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, data, whole, tmp_path):
    last = latest(stopped(tmp_path, data))
    DAMAGES[damage](last)
    with pytest.warns(UserWarning, match=re.escape(last)):
        goes_on_to(whole, tmp_path, data)


def test_without_any_good_checkpoint_nothing_is_overwritten(data, tmp_path):
    stopped(tmp_path, data)
    for path in (tmp_path / "checkpoints").glob("*.data*"):
        flip(path)
    before = tree(tmp_path)
    with pytest.raises(OSError, match="no checkpoint can be read"):
        run(tmp_path, data)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [None, b"", b"\x00nonsense"])
def test_checkpoints_are_found_without_the_list_of_them(content, data, whole, tmp_path, capfd):
    listed = stopped(tmp_path, data) / "checkpoints" / "checkpoint"
    listed.unlink()
    if content is not None:
        listed.write_bytes(content)
    goes_on_to(whole, tmp_path, data)


def test_a_full_disk_stops_the_run_and_loses_nothing(data, whole, tmp_path):
    """Here the limit of a file's size, which a save meets in the same way."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(row):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    try:
        with pytest.raises(OSError, match=r"step 14 can't be written.*ckpt-13 is whole: make room"):
            run(tmp_path, data, save_seconds=0, on_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    goes_on_to(whole, tmp_path, data)


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file", data, on_epoch=lambda row: pytest.fail("it trained"))


@pytest.mark.parametrize("what", ["recipe", "data", "seed", "network"])
def test_another_run_in_the_folder_is_refused_and_the_difference_named(what, data, tmp_path):
    stopped(tmp_path, data, epoch=1)
    before = tree(tmp_path)
    options = {
        "recipe": {"recipe": dataclasses.replace(RECIPE, epochs=5, rate=0.2)},
        "data": {"data": dataclasses.replace(data, train=data.test)},
        "seed": {"seed": 3},
        "network": flat((8, 8, 1), 2),
    }[what]
    said = {
        "recipe": r"recipe\.epochs is 4 there, 5 here; recipe\.rate is 0\.1 there, 0\.2 here",
        "data": r"training images is 'train \(\w+\)' there, 'test",
        "seed": "seed is 0 there, 3 here",
        "network": r"network is '386 parameters .* there, '130 parameters",
    }[what]
    with pytest.raises(ValueError, match=said):
        run(tmp_path, **({"data": data} | options))
    assert tree(tmp_path) == before


# A loss that is not a number


def test_a_loss_that_is_no_number_stops_the_run_with_the_last_good_weights(data, tmp_path):
    model = small()

    def poison(row):
        kernel = model.layers[-1].kernel
        kernel.assign(np.full(kernel.shape, np.inf))

    with pytest.raises(FloatingPointError, match=r"loss of step 13 is nan, in epoch 2.*ckpt-13"):
        run(tmp_path, data, model, save_seconds=0, on_epoch=poison)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    reader = tf.train.load_checkpoint(latest(tmp_path))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("model")]
    assert all(np.isfinite(reader.get_tensor(n)).all() for n in names if "layer" in n)


def test_a_weight_that_is_no_number_is_not_saved(data, tmp_path):
    """A moving average: it is no part of the loss in training."""
    model = small()

    def poison(row):
        model.layers[1].moving_mean.assign(np.full((64,), np.nan))

    with pytest.raises(FloatingPointError, match="weight is not finite after 14 steps"):
        run(tmp_path, data, model, save_seconds=0, on_epoch=poison)
    assert np.isfinite(model.layers[1].moving_mean.numpy()).all()


def test_a_rate_far_too_high_is_told_as_such(data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"learning rate of 1e\+37.*ckpt-0"):
        run(tmp_path, data, recipe=dataclasses.replace(RECIPE, rate=1e37))


# What is learned, and what is told of it


def test_history_is_arrays_csv_and_tensorboard(data, tmp_path):
    model, arrays = run(tmp_path, data)
    assert list(arrays) == list(history.COLUMNS)
    np.testing.assert_array_equal(arrays["epoch"], [1, 2, 3, 4])
    np.testing.assert_array_equal(arrays["step"], [13, 25, 38, 50])  # 200 images in sixteens
    np.testing.assert_allclose(arrays["rate"], [0.1, 0.1, 0.01, 0.001])
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, values in arrays.items():
        np.testing.assert_array_equal([float(row[name]) for row in rows], values)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert "tfevents" in path.name
    first, *events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    assert first.file_version == "brain.Event:2"
    assert [event.step for event in events] == arrays["step"].tolist()
    losses = {v.tag: v.simple_value for v in events[-1].summary.value}
    assert losses["test_loss"] == pytest.approx(arrays["test_loss"][-1], rel=1e-6)
    loss, accuracy = _evaluated(model, data.test)
    assert arrays["test_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert arrays["test_accuracy"][-1] == accuracy


def _evaluated(model, part):
    images, labels = part.batch(np.arange(len(part)))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.evaluate(images, labels, verbose=0)


def test_steps_are_those_of_a_loop_in_numpy(data, tmp_path):
    """A linear softmax classifier, whose gradients are known; over two drops of the rate."""
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(2, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])
    recipe = Recipe(epochs=2, batch_size=20, rate=0.05, augmentation="shift", weight_decay=0.01)
    weights = [array.astype(np.float64) for array in model.get_weights()]
    velocities, losses = [0.0, 0.0], []
    batches = examples.batches(data.train, 20, 7, range(20), augmentation="shift")
    for step, (images, labels) in enumerate(batches.as_numpy_iterator()):
        x = images.reshape(20, 64).astype(np.float64)
        scores = x @ weights[0] + weights[1]
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(20), labels]).mean())
        error = (p - np.eye(2)[labels]) / 20
        rate = 0.05 * (1 if step < 10 else 0.1 if step < 15 else 0.01)
        for i, gradient in enumerate((x.T @ error, error.sum(0))):
            g = gradient + 0.01 * weights[i]
            velocities[i] = 0.9 * velocities[i] + g
            weights[i] = weights[i] - rate * (g + 0.9 * velocities[i])
    _, arrays = run(tmp_path, data, model, recipe, seed=7)
    np.testing.assert_allclose(arrays["loss"], np.reshape(losses, (2, 10)).mean(1), rtol=1e-4)
    for ours, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def test_penalties_of_the_network_are_part_of_the_loss(data, tmp_path):
    """An L2 penalty of half the decay is the decay of the kernels."""
    results = []
    for penalty, decay in ((None, 0.01), (keras.regularizers.L2(0.005), 0.0)):
        keras.utils.set_random_seed(0)
        options = {"use_bias": False, "kernel_regularizer": penalty, "activation": "softmax"}
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, **options)]
        )
        recipe = dataclasses.replace(RECIPE, weight_decay=decay, rate=0.01)
        _, arrays = run(tmp_path / str(decay), data, model, recipe)
        results.append((model.get_weights()[0], arrays["loss"]))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_checkpoints_hold_the_model_for_tensorflows_own_reader(data, tmp_path):
    model, _ = run(tmp_path, data)
    fresh = small(seed=1)
    tf.train.Checkpoint(model=fresh).restore(latest(tmp_path)).expect_partial()
    for ours, theirs in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_xla_compiles_the_step(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    plain, compiled = (
        run(tmp_path / str(jit), data, recipe=recipe, jit_compile=jit)[1]["loss"]
        for jit in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=0.2)  # other dropout masks


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_and_goes_on(precision, data, tmp_path):
    """One argument; weights, statistics and the softmax stay float32; float16 scales the loss."""
    recipe = Recipe(epochs=2, batch_size=16)
    models = [training_run.built(recipe, precision=precision) for _ in range(2)]
    assert keras.config.dtype_policy().name == "float32"
    assert {weight.dtype for weight in models[0].weights} == {"float32"}
    assert models[0](np.zeros((1, 8, 8, 1))).dtype == tf.float32
    assert models[0].get_layer("densenet_block1").compute_dtype == precision.removeprefix("mixed_")
    with pytest.raises(Stop):
        train(models[0], data, recipe, tmp_path, save_seconds=0, progress=False,
              on_epoch=stop_after(1))  # fmt: skip
    arrays = train(models[1], data, recipe, tmp_path, progress=False)
    assert arrays["loss"][1] < arrays["loss"][0] < np.log(2)
    names = tf.train.load_checkpoint(latest(tmp_path)).get_variable_to_shape_map()
    optimizer = [n for n in names if n.startswith("optimizer")]
    beside = len(optimizer) - len(models[1].trainable_variables) - 1  # velocities, steps
    assert (beside > 0) == (precision == "mixed_float16")


# Several devices


REPLICAS = """
import sys
sys.path.insert(0, {tests!r})
import densenet_nb._startup
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.experimental.enable_op_determinism()
import numpy as np
import training_run
import training_workers
from densenet_nb import training

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
data = training_run.data()


def trained(name, built, on_epoch=None):
    with strategy.scope():
        model = built()
    options = {{"any_network": True, "progress": False, "on_epoch": on_epoch}}
    history = training.train(model, data, recipe, {folder!r} + name, **options)
    return [*history.values(), *model.get_weights()]


def stop(row):
    raise KeyboardInterrupt


recipe = training_workers.RECIPE
np.savez({folder!r} + "synchronized.npz", *trained("synchronized", training_workers.built))
whole = trained("whole", training_run.small)
try:
    trained("stopped", training_run.small, stop)
except KeyboardInterrupt:
    pass
for a, b in zip(whole, trained("stopped", training_run.small), strict=True):
    np.testing.assert_array_equal(a, b)
"""


def assert_close(arrays, others):
    for a, b in zip(arrays, others, strict=True):
        assert relative_error(np.array(a), np.array(b)) < 1e-4


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Return what one process on one device learns."""
    return list(training_workers.trained(tmp_path_factory.mktemp("one")).values())


def test_two_replicas_train_as_one_and_go_on_in_every_bit(one_device, tmp_path):
    """As one where statistics are synchronized; stopped, as themselves, with dropout."""
    program = REPLICAS.format(tests=str(PROGRAM.parent), folder=f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "synchronized.npz") as arrays:
        found = list(arrays.values())
    count = len(history.COLUMNS)
    weights = np.concatenate([np.ravel(array) for array in found[count:]])
    assert_close([*found[:count], weights], one_device)


def test_two_machines_train_as_one(one_device, tmp_path):
    """Two processes on the loopback device, each with half of each batch."""
    for worker in training_workers.start(tmp_path):
        assert_close(training_workers.ended(worker).values(), one_device)
    assert (tmp_path / "history.csv").exists()


# What is refused before anything is done


def test_a_network_that_was_not_built_by_the_recipe_is_refused_by_name(data, tmp_path):
    recipe = Recipe(epochs=1)
    model = training_run.built(dataclasses.replace(recipe, dropout_rate=0.1, norm_momentum=0.99))
    with pytest.raises(
        ValueError, match=r"momentum is \[0\.99\] there, 0\.9 in the recipe.*dropout"
    ):
        train(model, data, recipe, tmp_path)
    assert not list(tmp_path.iterdir())
    own = training_run.built(recipe)
    training._require_built(own, recipe)
    he = recipe.of_network() | {"kernel_initializer": "he_normal"}
    other = training_run.models_with(he)
    with pytest.raises(ValueError, match="kernel_initializer is .*HeNormal.*HeNormalFanOut"):
        train(other, data, recipe, tmp_path)


def flat(shape, classes):
    layers = [keras.layers.Flatten(), keras.layers.Dense(classes)]
    return {"model": keras.Sequential([keras.Input(shape), *layers])}


BAD = {
    "batch": (
        {"recipe": dataclasses.replace(RECIPE, batch_size=201)},
        "batch_size=201.*200 training",
    ),
    "channels": (flat((8, 8, 3), 2), r"images of shape \(8, 8, 1\).*reads \(8, 8, 3\)"),
    "classes": (flat((8, 8, 1), 3), r"2 classes.*output \(3,\)"),
    "larger": (flat((9, 8, 1), 2), r"reads \(9, 8, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case, data, tmp_path):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data, **options)
    assert not list(tmp_path.iterdir())


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_with_the_time_left(data, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(tmp_path, data, progress=True)
    last = terminal.getvalue().split("\r")[-1]
    assert re.search(r"50/50 \[.*<.*, epoch 4 of 4, loss [\d.]+, [\d.]+% right.*waiting", last)


def test_where_output_goes_to_a_file_nothing_is_shown(data, tmp_path, capfd):
    run(tmp_path, data, progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_notebook_shows_a_bar_that_ends_as_it_began(monkeypatch):
    """So what is saved, by those who apply the changes and those who do not, has no times."""
    import IPython.display

    shown = []

    class Handle:
        def update(self, value):
            shown.append(repr(value))

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(
        IPython.display, "display", lambda value, display_id: shown.append(repr(value)) or Handle()
    )
    with contextlib.suppress(Stop), progress.Bar(4) as bar:
        for _ in range(3):
            bar.advance("loss 1.0")
        raise Stop
    assert shown[0] == shown[-1] == "4 steps"
    assert re.fullmatch(r"█{22}░{8} 3 of 4 steps, 0:00:00 left, loss 1.0", shown[-2])
