"""What takes too long for ``make test``; ``make soak`` runs it, before a release."""

import time

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
import training_workers
from test_training import Child, assert_close

from densenet_nb import examples, recipes, training
from densenet_nb.configurations import Configuration

KILLS = 20


def test_killed_at_twenty_random_times(tmp_path):
    """In steps, in saves and before the first step: equal in every bit."""
    rng = np.random.default_rng(0)
    expected = Child(tmp_path / "whole", save_seconds=1000, epochs=20).digests()
    reached = []
    for _ in range(KILLS):
        child = Child(tmp_path / "killed", epochs=20)
        further = child.steps() + rng.integers(1, 20) if rng.uniform() < 0.75 else -1
        child.process.stdout.readline()  # "ready"
        child.wait_for(lambda: child.steps() >= further)  # noqa: B023
        time.sleep(rng.uniform(0, 0.2))
        child.kill()
        reached.append(child.steps())
    assert len(set(reached)) > KILLS / 2, reached
    assert reached[-1] < 250
    assert Child(tmp_path / "killed", epochs=20).digests() == expected


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_is_told_in_time_and_the_job_goes_on(lost, tmp_path):
    """The first, which writes the checkpoints, or the other."""
    workers = training_workers.start(tmp_path / "two", epochs=8)
    while workers[lost].stdout.readline() != "epoch 2\n":
        assert workers[lost].poll() is None
    workers[lost].kill()
    workers[lost].communicate()
    started = time.monotonic()
    _, said = workers[1 - lost].communicate(timeout=120)
    assert time.monotonic() - started < 90  # its own limit is 60
    assert workers[1 - lost].returncode != 0
    assert "another worker is gone" in said
    assert "Start all workers again" in said
    expected = training_workers.trained(tmp_path / "one", epochs=8)
    for worker in training_workers.start(tmp_path / "two", epochs=8):
        assert_close(training_workers.ended(worker).values(), expected.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_digits_are_learned_to_98_percent(seed, tmp_path):
    keras.utils.set_random_seed(seed)
    network = Configuration((4, 4), 12, 24, imagenet_stem=False)
    model = recipes.quick.network(network, input_shape=(8, 8, 1), classes=10)
    digits = examples.from_tfds("digits")
    history = training.train(model, digits, recipes.quick, tmp_path, seed=seed, progress=False)
    assert history["test_accuracy"][-1] >= 0.98


def test_under_xla_a_densenet_learns_as_without(tmp_path):
    """To rounding, which a few steps do not yet blow up."""
    losses = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        recipe = recipes.Recipe(epochs=1, batch_size=64, rate=0.01, dropout_rate=0.0)
        network = Configuration((2, 2), 8, 16, imagenet_stem=False)
        model = recipe.network(network, input_shape=(8, 8, 1), classes=10)
        digits = examples.from_tfds("digits", ("train[:640]", "test"))
        folder = tmp_path / str(jit_compile)
        options = {"jit_compile": jit_compile, "progress": False}
        losses.append(training.train(model, digits, recipe, folder, **options)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
