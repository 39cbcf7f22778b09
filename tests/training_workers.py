"""Two training processes on 127.0.0.1, as two machines.

``python training_workers.py FOLDER EPOCHS`` is one; TF_CONFIG says which. Their statistics are
synchronized, so the losses are those of one machine.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import densenet_nb._startup  # noqa: F401

import numpy as np
import tensorflow as tf
import training_run

from densenet_nb import recipes, training

RECIPE = recipes.Recipe(epochs=2, batch_size=16, augmentation="shift", dropout_rate=0.0)


def start(folder, epochs=RECIPE.epochs):
    """Start two workers; return the processes."""
    with socket.socket() as a, socket.socket() as b:
        for each in (a, b):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (a, b)]
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        workers.append(
            subprocess.Popen(
                [sys.executable, __file__, folder, str(epochs)],
                env=os.environ | {"TF_CONFIG": config},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return workers


def ended(worker):
    """Return the history that a worker printed at its end."""
    printed, said = worker.communicate(timeout=300)
    assert worker.returncode == 0, said
    return json.loads(printed.splitlines()[-1])


def built():
    """Build a network that trains as on one device; softplus has no kink to round over."""
    return training_run.built(RECIPE, synchronized=True, activation="softplus")


def trained(folder, epochs=RECIPE.epochs):
    """Train; return history and weights, as lists."""
    recipe = dataclasses.replace(RECIPE, epochs=epochs)
    model = built()
    arrays = training.train(
        model,
        training_run.data(),
        recipe,
        folder,
        save_seconds=0,
        progress=False,
        on_epoch=lambda row: print(f"epoch {row['epoch']}", flush=True),
    )
    weights = np.concatenate([np.ravel(array) for array in model.get_weights()])
    return {name: values.tolist() for name, values in (arrays | {"weights": weights}).items()}


if __name__ == "__main__":
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(timeout_seconds=60)
    )
    with strategy.scope():  # only the model must be built in it
        print(json.dumps(trained(sys.argv[1], int(sys.argv[2]))), flush=True)
