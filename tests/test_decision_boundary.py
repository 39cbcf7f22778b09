"""The boundary between two classes: lines whose length and turning are known."""

import re

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import pytest
from keras import ops

from densenet_nb import probes


def classifier(function, activation=None, shape=(2,), units=2):
    """Build a network whose second class has the logit ``function(x, y)`` more than the first."""
    inputs = keras.Input(shape)
    points = keras.layers.Reshape((2,))(inputs)
    margin = function(points[:, :1], points[:, 1:])
    logits = keras.layers.Dense(units, activation)
    model = keras.Model(inputs, logits(margin))
    logits.set_weights([np.eye(1, units, 1), np.zeros(units)])
    return model


def circle(radius):
    return lambda x, y: x**2 + y**2 - radius**2


def wave(x, y):
    return y - ops.sin(2 * np.pi * x)


# Over a period the direction goes from +a to -a and back, where tan(a) = 2 π: 4 a in all. The
# length of a period is the complete elliptic integral 4 sqrt(1 + c²) E(c² / (1 + c²)) / c, c = 2 π.
PERIOD, TURNING = 4.18832, 4 * np.arctan(2 * np.pi)

KNOWN = {
    "a straight line": (lambda x, y: x - 2 * y, 4 * 1.25**0.5, 0.0),
    "two lines": (lambda x, y: x**2 - 1, 8.0, 0.0),
    "a circle": (circle(1.5), 3 * np.pi, 2 * np.pi),
    "a small circle": (circle(0.5), np.pi, 2 * np.pi),
    "two circles": (lambda x, y: circle(0.5)(ops.abs(x) - 1, y), 2 * np.pi, 4 * np.pi),
    "a corner": (lambda x, y: ops.minimum(x, y), 4.0, np.pi / 2),
    "four periods of a wave": (wave, 4 * PERIOD, 4 * TURNING),
    "nothing": (lambda x, y: x + 3, 0.0, 0.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_length_and_turning_are_those_known(name):
    function, length, turning = KNOWN[name]
    found = probes.decision_boundary(classifier(function), (-2, -2), (2, 2))
    assert found.length == pytest.approx(length, rel=0.01)
    # A polygon turns at most as much as the line that it is inscribed in; off by a cell's square.
    assert found.turning == pytest.approx(turning, rel=0.05, abs=0.01)
    for line in found.lines:
        assert line.shape[1] == 2
        x, y = line.T
        assert np.max(np.abs(function(x, y))) < 0.05


@pytest.mark.parametrize("radius", [0.4, 0.7, 1.9])
def test_turning_does_not_depend_on_size_and_length_does(radius):
    found = probes.decision_boundary(classifier(circle(radius)), (-2, -2), (2, 2), points=301)
    assert found.length == pytest.approx(2 * np.pi * radius, rel=2e-3)
    assert found.turning == pytest.approx(2 * np.pi, rel=2e-3)


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("shape", [(2,), (1, 1, 2)])
def test_however_points_come_in_and_classes_go_out_the_line_is_the_same(activation, shape):
    right = probes.decision_boundary(classifier(wave), (-1, -2), (1, 2))
    model = classifier(wave, activation, shape)
    found = probes.decision_boundary(model, (-1, -2), (1, 2))
    assert found.length == pytest.approx(right.length, rel=1e-3)
    assert found.turning == pytest.approx(right.turning, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"points": 7}, "points=7: must be at least 8"),
        ({"low": (0, 3)}, "low=(0, 3), high=(2, 2): each of low"),
        ({"model": classifier(circle(1), shape=(2, 1))}, "inputs of shape (2, 1)"),
        ({"model": classifier(circle(1), units=3)}, "has 3 classes: must be 2"),
        ({"model": classifier(circle(1), "sigmoid")}, "activation 'sigmoid'"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    given = {"model": classifier(circle(1)), "low": (-2, -2), "high": (2, 2)} | options
    with pytest.raises(ValueError, match=re.escape(words)):
        probes.decision_boundary(**given)
