"""Checks of loading where nothing but the imports came before (test_processes.py runs them)."""

# isort: off
import densenet_nb  # before Keras, where isort puts it in a user's program
import keras
import numpy as np
from equality import relative_error
# isort: on

IMAGES, OUTPUTS = np.load("images.npy"), np.load("outputs.npy")


def check_keras_loads_a_model():
    check_same(keras.saving.load_model("model.keras"))


def check_we_load_a_model():
    check_same(densenet_nb.load_model("model.keras"))


def check_same(model):
    assert type(model.get_layer("densenet_block1")).__module__ == "densenet_nb.layers"
    assert relative_error(np.array(model(IMAGES)), OUTPUTS) < 1e-6


def check_keras_loads_json():
    with open("model.json") as file:
        model = keras.models.model_from_json(file.read())
    model.load_weights("model.keras")
    check_same(model)
