"""A real training process for the tests to kill: ``training_run.py FOLDER SAVE_SECONDS EPOCHS``.

Dropout and augmentation are on. It prints a line when it begins to train, and at the end digests
of all that must be equal in every bit: weights and moving averages, optimizer, dropout's
generators, history.
"""

import dataclasses
import hashlib
import sys
from pathlib import Path

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import tensorflow as tf

from densenet_nb import examples, models, recipes, training
from densenet_nb.configurations import Configuration

RECIPE = recipes.Recipe(epochs=4, batch_size=16, augmentation="shift")  # dropout 0.2
NETWORK = Configuration((1, 1), 4, 8, imagenet_stem=False)
COUNT = 200


def data():
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT + 40) % 2
    images = rng.uniform(size=(COUNT + 40, 8, 8, 1)).astype("float32") + labels[:, None, None, None]
    return examples.from_arrays((images[40:], labels[40:]), (images[:40], labels[:40]))


def built(recipe=RECIPE, **options):
    keras.utils.set_random_seed(0)
    return recipe.network(NETWORK, input_shape=(8, 8, 1), classes=2, **options)


def small(seed=0):
    """Return a network that is traced at once; dropout and moving averages are in it."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )


def models_with(options):
    """Return the network with options of `from_configuration` instead of a recipe's."""
    return models.from_configuration(NETWORK, input_shape=(8, 8, 1), classes=2, **options)


def digest(arrays):
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def digests(model, history, folder):
    """Return SHA-256 of all that a run leaves; the optimizer's is of what its checkpoint has."""
    last = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder / "checkpoints"))
    saved = sorted(key for key in last.get_variable_to_dtype_map() if key.startswith("optimizer"))
    return {
        "variables": digest(variable.numpy() for variable in model.variables),
        "optimizer": digest(last.get_tensor(key) for key in saved),
        "history": digest(history.values()),
        "csv": digest([np.frombuffer((folder / "history.csv").read_bytes(), np.uint8)]),
    }


def main(folder, save_seconds, epochs):
    tf.config.experimental.enable_op_determinism()
    model, splits = built(), data()
    print("ready", flush=True)
    recipe = dataclasses.replace(RECIPE, epochs=epochs)
    options = {"save_seconds": save_seconds, "progress": False}
    history = training.train(model, splits, recipe, folder, **options)
    for name, value in digests(model, history, folder).items():
        print(name, value, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
