"""What notebook 01 builds and measures in view is what its record was made of."""

import densenet_nb._startup  # noqa: F401

import gradient_against_depth as benchmark
import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from run_notebook import NOTEBOOKS

from densenet_nb import data

DEFINED_IN = (
    "define-h",
    "define-wirings",
    "define-network",
    "define-gradients",
    "live",
)
"""Cells of the notebook, by their ids; of the last only the table of networks."""


@pytest.fixture(scope="module")
def notebook():
    """Return the names that the notebook defines."""
    images, labels = data.load_arrays("digits", "train[:16]")
    names = {"np": np, "tf": tf, "images": images, "labels": labels}
    cells = {
        c.id: c.source for c in nbformat.read(NOTEBOOKS / "01_cnn_resnet_densenet.ipynb", 4).cells
    }
    for cell in DEFINED_IN:
        exec(compile(cells[cell].partition("found = {}")[0], cell, "exec"), names)
    return names


def kernels(model):
    return [weight for weight in model.weights if weight.name == "kernel"]


@pytest.mark.parametrize("name", benchmark.NETWORKS)
def test_notebook_and_record_have_the_same_networks_and_the_same_norms(notebook, name):
    keras.utils.set_random_seed(0)
    ours = notebook["network"](L=3, **notebook["variants"][name])
    theirs = benchmark.NETWORKS[name](3)
    for to, of in zip(kernels(theirs), kernels(ours), strict=True):
        to.assign(of)
    images, labels = notebook["images"], notebook["labels"]
    *x, probabilities = ours(images, training=True)
    np.testing.assert_allclose(probabilities, theirs(images, training=True), atol=1e-5)
    W, dW, dx = notebook["gradients"](ours)
    expected = {"gradient": dW, "weight": W, "map_gradient": dx, "map": x}
    found = benchmark.measure(theirs, benchmark.with_maps(theirs), images, labels)
    assert found.keys() == expected.keys()
    for quantity, tensors in expected.items():
        ends = notebook["norms"]([tensors[0], tensors[-1]])
        np.testing.assert_allclose(found[quantity], ends, rtol=1e-3, err_msg=quantity)


def test_the_notebook_has_every_network_of_the_record(notebook):
    assert list(notebook["variants"]) == list(benchmark.NETWORKS)


def test_the_ratios_are_first_over_last_of_each_seed():
    run = {"network": "ResNet", "depth": 5}
    runs = [
        run | {"gradient": [6, 2], "weight": [2, 1], "map_gradient": [3, 6]},
        run | {"gradient": [1, 1], "weight": [1, 4], "map_gradient": [5, 1]},
        run | {"depth": 10, "gradient": [9, 1], "weight": [9, 1], "map_gradient": [9, 1]},
    ]
    found = benchmark.ratios({"runs": runs}, "ResNet", 5)
    assert list(found["weights"]) == [6, 0.25]
    assert list(found["maps"]) == [0.5, 5]
