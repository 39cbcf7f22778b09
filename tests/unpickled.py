"""Checks where this package was not imported, but TensorFlow (test_processes.py runs them)."""

import pickle
import sys

import numpy as np
import onnxruntime
import tensorflow as tf
from equality import relative_error

IMAGES = np.load("photographs.npy")
EXPECTED = np.load("predictions.npy")


def check_tensorflow_alone_runs_a_saved_predictor():
    saved = tf.saved_model.load("predictor")
    for answers in (saved(IMAGES), saved.signatures["serving_default"](images=IMAGES)):
        answers = answers["predictions"] if isinstance(answers, dict) else answers
        assert relative_error(np.array(answers), EXPECTED) < 1e-6
    assert "densenet_nb" not in sys.modules


def check_a_pickle_needs_no_import():
    with open("model.pickle", "rb") as file:
        model = pickle.load(file)
    assert relative_error(np.array(model(np.load("images.npy"))), np.load("outputs.npy")) < 1e-6


def check_a_predictor_is_loaded():
    from densenet_nb import inference

    predictor = inference.load("predictor")
    assert predictor.input_shape == (None, None, None, 3)
    assert relative_error(np.array(predictor(IMAGES)), EXPECTED) < 1e-6
    predictor.export("loaded.onnx")
    (answers,) = onnxruntime.InferenceSession("loaded.onnx").run(None, {"images": IMAGES})
    assert relative_error(answers, EXPECTED) < 1e-5
