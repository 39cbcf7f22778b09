"""The package in processes of its own: reload in a fresh one, JAX without TensorFlow."""

import subprocess
import sys

import pytest

SAVE = """
import numpy as np, keras, densenet_nb
model = densenet_nb.DenseNet((1, 2), 4, input_shape=(32, 32, 3), classes=3, dropout_rate=0.1)
model.save(path)
np.save(path + ".npy", model.predict(np.ones((1, 32, 32, 3), "float32"), verbose=0))
"""

CHECK = """
expected = np.load(path + ".npy")
np.testing.assert_allclose(model.predict(np.ones((1, 32, 32, 3), "float32"), verbose=0), expected,
                           rtol=1e-5, atol=1e-7)
assert type(model.get_layer("densenet_block1")).__module__ == "densenet_nb.layers"
"""

LOADERS = {
    "our load_model": "import densenet_nb; model = densenet_nb.load_model(path)",
    "any name": "import densenet_nb, keras; densenet_nb.DenseNet121; "
    "model = keras.models.load_model(path)",
    "a module": "import densenet_nb.layers, keras; model = keras.models.load_model(path)",
    "Keras first": "import keras, densenet_nb; model = keras.models.load_model(path)",
}

JAX = """
import importlib.abc
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"


class NoTensorFlow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


sys.meta_path.insert(0, NoTensorFlow())
"""

TRAIN_ON_JAX = """
import numpy as np, keras
from densenet_nb import models, textbook, configurations
assert keras.backend.backend() == "jax"
configuration = configurations.cifar(10, 4)
ours = models.from_configuration(configuration, input_shape=(8, 8, 1), classes=2)
theirs = textbook.DenseNet(configuration, (8, 8, 1), 2)
theirs.set_weights(ours.get_weights())
images = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype("float32")
labels = np.arange(16) % 2
for model in (ours, theirs):
    model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
ours.save(path)
loaded = keras.models.load_model(path)
np.testing.assert_array_equal(loaded(images), ours(images))
assert "tensorflow" not in sys.modules
"""


def python(code, path, *flags, **env):
    run = subprocess.run(
        [sys.executable, *flags, "-c", f"path = {str(path)!r}\n{code}"],
        capture_output=True,
        text=True,
        env=env or None,
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    python(SAVE, path)
    return path


@pytest.mark.parametrize("loader", LOADERS)
def test_a_fresh_process_loads_what_another_saved(loader, saved):
    python(f"{LOADERS[loader]}\nimport numpy as np\n{CHECK}", saved)


def test_jax_without_tensorflow(tmp_path):
    """The same weights train to the same weights as the textbook's; save and load."""
    python(JAX + TRAIN_ON_JAX, tmp_path / "model.keras")


def test_keras_applications_weights_fit_on_jax(tmp_path):
    code = """
import numpy as np, keras, densenet_nb
options = {"weights": None, "input_shape": (32, 32, 3)}
ours, theirs = densenet_nb.DenseNet121(**options), keras.applications.DenseNet121(**options)
theirs.set_weights(ours.get_weights())
image = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
np.testing.assert_allclose(ours.predict(image, verbose=0), theirs.predict(image, verbose=0),
                           rtol=1e-4, atol=1e-7)
"""
    python(JAX + code, tmp_path)
