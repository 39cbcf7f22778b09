"""Where two classes meet in the plane, how long that line is and how much it turns."""

from dataclasses import dataclass

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.probes.step import ends_in_logits

__all__ = ["Boundary", "decision_boundary"]

STRIDE = 4
"""Grid cells between two corners of the polygon whose turning is measured.

The lines' points are off by about the square of a cell: over short steps that would be seen as
turning; over four cells it is a few percent, and what turns back within them is not seen at all.
"""


@dataclass(frozen=True)
class Boundary:
    """The lines on which a classifier's two classes are equally probable.

    Parameters
    ----------
    lines : list of ndarray
        Each (points, 2): x and y along the line; a closed one ends where it begins.
    length : float
        Of all lines together, in the unit of the data.
    turning : float
        By how much their direction turns in all, in radians: 0 of a straight line, 2 π of a circle
        however large, and the more the more they wind. It is the total absolute curvature, of a
        polygon inscribed at steps of four grid cells.
    """

    lines: list[np.ndarray]
    length: float
    turning: float


def decision_boundary(
    model: keras.Model,
    low: tuple[float, float],
    high: tuple[float, float],
    points: int = 201,
) -> Boundary:
    """Find where a classifier of points in the plane changes its mind, and measure that line.

    The difference of the two classes' logits is computed on a grid, in inference mode, and its
    zero line interpolated in each cell.

    Parameters
    ----------
    model : keras.Model
        Takes two numbers a point, (batch, 2) or as an image of one pixel, (batch, 1, 1, 2), and
        ends in a softmax or logits of two classes.
    low, high : tuple of float
        Corners (x, y) of the rectangle looked at.
    points : int
        Along each side of the grid. Boundaries closer together than a cell are not told apart.

    Returns
    -------
    Boundary
        With no lines if one class has the whole rectangle.

    Raises
    ------
    ValueError
        Another kind of model, an empty rectangle, or a grid too coarse to measure turning.
    """
    if points < 2 * STRIDE:
        raise ValueError(f"points={points!r}: must be at least {2 * STRIDE}.")
    if not np.all(np.less(low, high)):
        raise ValueError(f"low={low!r}, high={high!r}: each of low must be below that of high.")
    shape = tuple(model.input_shape[1:])
    if shape not in ((2,), (1, 1, 2)):
        raise ValueError(
            f"model {model.name!r} takes inputs of shape {shape}: must be points in the plane, "
            "(2,), or images of one pixel with two channels, (1, 1, 2)."
        )
    ends_in_logits(model)
    if model.output_shape[-1] != 2:
        raise ValueError(f"model {model.name!r} has {model.output_shape[-1]} classes: must be 2.")
    xs, ys = (np.linspace(start, end, points) for start, end in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)  # (ys, xs, 2)
    margins = _margins(model, grid.reshape(-1, *shape).astype("float32"))
    return _boundary(xs, ys, margins.reshape(points, points))


def _margins(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Return the second class's logit less the first's; of a softmax, as far as its digits go."""
    outputs = np.concatenate(
        [
            keras.ops.convert_to_numpy(model(batch, training=False))
            for batch in np.array_split(inputs, -(-len(inputs) // 4096))
        ]
    ).astype("float64")
    if not ends_in_logits(model):
        outputs = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    return outputs[:, 1] - outputs[:, 0]


def _boundary(xs: np.ndarray, ys: np.ndarray, margins: np.ndarray) -> Boundary:
    from contourpy import contour_generator

    lines = contour_generator(xs, ys, margins).lines(0.0)
    step = STRIDE * max(xs[1] - xs[0], ys[1] - ys[0])
    length = sum(_lengths(line)[-1] for line in lines)
    return Boundary(lines, float(length), float(sum(_turning(line, step) for line in lines)))


def _lengths(line: np.ndarray) -> np.ndarray:
    """Return how far each point is along a line, (points,), from 0 on."""
    return np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))


def _turning(line: np.ndarray, step: float) -> float:
    """Return the sum of the angles of a polygon with corners on a line, about `step` apart."""
    along = _lengths(line)
    sides = int(along[-1] // step)
    closed = np.array_equal(line[0], line[-1])
    if sides < (3 if closed else 2):
        return 2 * np.pi if closed else 0.0  # a closed line turns once around at least
    at = np.linspace(0, along[-1], sides + 1)
    corners = np.stack([np.interp(at, along, values) for values in line.T], axis=-1)
    x, y = np.diff(corners, axis=0).T
    directions = np.arctan2(y, x)
    if closed:
        directions = np.append(directions, directions[0])
    turns = np.diff(directions)
    return np.sum(np.abs((turns + np.pi) % (2 * np.pi) - np.pi))
