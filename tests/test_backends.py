"""The package in processes of its own: reload in a fresh one, JAX without TensorFlow."""

import subprocess
import sys

import densenet_nb._startup  # noqa: F401

import numpy as np
from equality import RELATIVE_ERROR, relative_error

from densenet_nb import models

IMAGE = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")

LOAD = """
import keras
import densenet_nb
import numpy as np
for load in (densenet_nb.load_model, keras.saving.load_model):
    model = load(path)
    assert type(model.get_layer("densenet_block1")).__module__ == "densenet_nb.layers"
np.save(path + ".outputs.npy", model(np.load(path + ".npy")))
"""

JAX = """
import importlib.abc
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
# Half the time to compile: how fast the result runs is not tested here.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"


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
keras.utils.set_random_seed(0)
configuration = configurations.Configuration((1, 1), 4, 8, imagenet_stem=False)
ours = models.from_configuration(configuration, input_shape=(8, 8, 1), classes=2)
theirs = textbook.DenseNet(configuration, (8, 8, 1), 2)
theirs.set_weights(ours.get_weights())
images = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype("float32")
labels = np.arange(16) % 2
before = ours.get_weights()
for model in (ours, theirs):
    model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
for old, a, b in zip(before, ours.get_weights(), theirs.get_weights(), strict=True):
    assert relative_error(a, b) < 1e-4
    assert not np.array_equal(a, old)
ours.save(path)
loaded = keras.models.load_model(path)
np.testing.assert_array_equal(loaded(images), ours(images))
assert "tensorflow" not in sys.modules
"""

CARRY_ON_JAX = """
import numpy as np, keras
from densenet_nb import models
from keras.src.applications.densenet import DenseNet  # of any depth: ten layers say as much
keras.utils.set_random_seed(0)
options = {"weights": None, "input_shape": (32, 32, 3), "classifier_activation": None}
ours, theirs = models.DenseNet((1, 1, 1, 1), **options), DenseNet([1, 1, 1, 1], **options)
theirs.set_weights(ours.get_weights())
image = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
assert relative_error(ours.predict(image, verbose=0), theirs.predict(image, verbose=0)) < 1e-5
"""


def python(code, path):
    program = f"path = {str(path)!r}\n{code}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_another_process_loads_what_was_saved(tmp_path):
    path = tmp_path / "model.keras"
    model = models.DenseNet((1, 2), 4, input_shape=(32, 32, 3), classes=3, dropout_rate=0.1)
    model.save(path)
    np.save(f"{path}.npy", IMAGE)
    python(LOAD, path)
    assert relative_error(np.load(f"{path}.outputs.npy"), np.array(model(IMAGE))) < 1e-6


def test_jax_without_tensorflow(tmp_path):
    """The same weights train to the same weights as the textbook's; save and load."""
    python(JAX + RELATIVE_ERROR + TRAIN_ON_JAX, tmp_path / "model.keras")


def test_keras_applications_weights_fit_on_jax(tmp_path):
    python(JAX + RELATIVE_ERROR + CARRY_ON_JAX, tmp_path)
