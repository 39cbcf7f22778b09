"""What is so in a fresh process only: loading, JAX, two replicas, deterministic operations.

Each of these programs starts once, for all of its checks.
"""

import pickle

import densenet_nb._startup  # noqa: F401

import numpy as np
import processes
import pytest
from equality import randomize

from densenet_nb import inference, models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network and a predictor in every form in which they are saved, with what they answer."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)

    model = models.DenseNet((1, 2), 4, input_shape=(32, 32, 3), classes=3, dropout_rate=0.1)
    images = rng.uniform(size=(1, 32, 32, 3)).astype("float32")
    model.save(folder / "model.keras")
    (folder / "model.json").write_text(model.to_json())
    (folder / "model.pickle").write_bytes(pickle.dumps(model))
    np.save(folder / "images.npy", images)
    np.save(folder / "outputs.npy", model(images))

    network = models.DenseNet((2, 2), 4, input_shape=(None, None, 3), classes=5)
    randomize(network)
    predictor = inference.freeze(network)
    photographs = rng.uniform(size=(3, 40, 50, 3)).astype("float32")
    predictor.save(folder / "predictor")
    np.save(folder / "photographs.npy", photographs)
    np.save(folder / "predictions.npy", predictor(photographs))
    return folder


@pytest.fixture(scope="module")
def loaded_anew(saved):
    return processes.outcomes("loaded_anew", saved)


@pytest.mark.parametrize("check", processes.checks("loaded_anew"))
def test_loads_where_the_package_is_imported(check, loaded_anew):
    assert not loaded_anew[check], loaded_anew[check]


@pytest.fixture(scope="module")
def unpickled(saved):
    return processes.outcomes("unpickled", saved)


@pytest.mark.parametrize("check", processes.checks("unpickled"))
def test_loads_where_the_package_is_not_imported(check, unpickled):
    assert not unpickled[check], unpickled[check]


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    return processes.outcomes(
        "on_jax",
        tmp_path_factory.mktemp("jax"),
        missing=("tensorflow",),
        KERAS_BACKEND="jax",
        # Half the time to compile: how fast the result runs is not tested.
        XLA_FLAGS="--xla_backend_optimization_level=0",
    )


@pytest.mark.parametrize("check", processes.checks("on_jax"))
def test_on_jax_without_tensorflow(check, on_jax):
    assert not on_jax[check], on_jax[check]


def test_jax_is_quiet(on_jax):
    assert on_jax["stderr"] == ""


@pytest.fixture(scope="module")
def on_jax_beside_tensorflow(tmp_path_factory):
    return processes.outcomes(
        "on_jax_beside_tensorflow",
        KERAS_BACKEND="jax",
        TFDS_DATA_DIR=str(tmp_path_factory.mktemp("data")),
    )


@pytest.mark.parametrize("check", processes.checks("on_jax_beside_tensorflow"))
def test_on_jax_beside_tensorflow(check, on_jax_beside_tensorflow):
    assert not on_jax_beside_tensorflow[check], on_jax_beside_tensorflow[check]


def test_tensorflow_starts_quietly_beside_jax(on_jax_beside_tensorflow):
    assert on_jax_beside_tensorflow["stderr"] == ""


@pytest.fixture(scope="module")
def on_two_replicas():
    return processes.outcomes("on_two_replicas")


@pytest.mark.parametrize("check", processes.checks("on_two_replicas"))
def test_on_two_replicas(check, on_two_replicas):
    assert not on_two_replicas[check], on_two_replicas[check]


@pytest.fixture(scope="module")
def deterministic():
    return processes.outcomes("deterministic")


@pytest.mark.parametrize("check", processes.checks("deterministic"))
def test_deterministic(check, deterministic):
    assert not deterministic[check], deterministic[check]
