"""Checks on JAX, where TensorFlow is installed as well (test_processes.py runs them)."""

import keras
import pytest

from densenet_nb import data, inference


def check_data_start_tensorflow():
    """It reads the files. What it writes to stderr as it starts is looked at afterwards."""
    assert data.load_arrays()[0][0].shape == (1437, 8, 8, 1)
    assert keras.backend.backend() == "jax"


def check_a_predictor_is_refused():
    with pytest.raises(ValueError, match="backend 'jax': a predictor is a TensorFlow graph"):
        inference.freeze(keras.Sequential())
