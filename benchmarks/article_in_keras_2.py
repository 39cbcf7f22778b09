"""What three habits of a program written for TensorFlow 2.6 do in Keras 2, and in Keras 3.

usage: python benchmarks/article_in_keras_2.py [--output FILE]

Needs TensorFlow and, beside the `keras` that comes with it, PyPI's `tf-keras`: Keras 2, still made
for each TensorFlow. Notebook 11 corrects a published program and draws on this record where the
two versions differ: `training` that is not passed on (its change 6), `build` of a model (change
11), layers of one library in a model of the other (change 12). It takes seconds.
"""

import argparse
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import recording

OUTPUT = recording.RESULTS / "article_in_keras_2.json"

SIDE, CHANNELS = 8, 3
IMAGES = np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, CHANNELS)).astype("float32")


def batch_norm_trains(keras: ModuleType) -> dict[str, bool | str]:
    """Return for each use of a model whether its batch normalization was in training mode.

    The model calls ``self.norm(x)`` and so does not pass `training` on. "accepts" has ``call(self,
    x, training=None)``, as the article has, and "lacks" has ``call(self, x)``. A use that
    raises gives the error's name.
    """

    class Accepts(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x: Any, training: bool | None = None) -> Any:
            return self.norm(x)

    class Lacks(Accepts):
        def call(self, x: Any) -> Any:
            return self.norm(x)

    uses = {
        "network(x, training=True)": lambda network: network(IMAGES, training=True),
        "network.fit": lambda network: network.fit(IMAGES, IMAGES, verbose=0),
        "network.call(x, training=True)": lambda network: network.call(IMAGES, training=True),
    }
    found = {}
    for model, (use, run) in product((Accepts, Lacks), uses.items()):
        if model is Lacks and "call" in use:
            continue  # it has no such argument
        network = model()
        network(IMAGES)
        network.compile("sgd", "mse")
        try:
            run(network)
            trains = bool((network.norm.moving_mean.numpy() != 0).any())
        except Exception as error:  # noqa: BLE001
            trains = type(error).__name__
        found[f"{model.__name__.lower()}: {use}"] = trains
    return found


def arrays_after_build(keras: ModuleType) -> dict[str, int]:
    """Return how many arrays a model of models has after ``build``, and after a call on images."""
    network = dense_network(keras, keras)
    network.build((None, SIDE, SIDE, CHANNELS))
    built = len(network.weights)
    network(IMAGES)
    return {"build": built, "a call on images": len(network.weights)}


def dense_network(models: ModuleType, parts: ModuleType) -> Any:
    """Return two dense layers as the article nests them, a model in a sequence in a model.

    The models are of one library, the layers in them of another, or of the same.
    """
    layers = parts.layers

    class DenseLayer(models.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layers.BatchNormalization()
            self.relu = layers.Activation("relu")
            self.conv = layers.Conv2D(4, 3, padding="same")
            self.concatenate = layers.Concatenate()

        def call(self, x: Any, training: bool | None = None) -> Any:
            return self.concatenate([x, self.conv(self.relu(self.norm(x)))])

    class Network(models.Model):
        def __init__(self) -> None:
            super().__init__()
            self.block = models.Sequential([DenseLayer(), DenseLayer()])
            self.end = models.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(10)])

        def call(self, x: Any, training: bool | None = None) -> Any:
            return self.end(self.block(x))

    return Network()


def mixed(models: ModuleType, parts: ModuleType) -> str:
    """Return "runs" if `dense_network` does with these libraries, else the error's name."""
    try:
        dense_network(models, parts)(IMAGES)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return "runs"


def measure(keras: ModuleType) -> dict[str, Any]:
    """Return what changes 6 and 11 are about, in one library."""
    return {
        "keras": keras.__version__,
        "batch_norm_trains": batch_norm_trains(keras),
        "arrays_after": arrays_after_build(keras),
    }


def main() -> None:
    """Measure in both versions and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default {OUTPUT.name}")
    path = parser.parse_args().output
    import keras
    import tf_keras

    record = recording.provenance() | {"settings": {"images": [2, SIDE, SIDE, CHANNELS]}}
    libraries = (tf_keras, keras)
    record["runs"] = [measure(library) for library in libraries]
    for run, models, parts in zip(record["runs"], libraries, libraries[::-1], strict=True):
        run["with_layers_of_the_other"] = mixed(models, parts)
        run["with_its_own_layers"] = mixed(models, models)
        print(run)
    recording.save(record, path)


if __name__ == "__main__":
    main()
