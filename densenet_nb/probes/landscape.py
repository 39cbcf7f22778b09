"""The loss around the weights that training found (Li et al. 2018, arXiv 1712.09913)."""

import contextlib
from collections.abc import Iterator

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np

from densenet_nb.probes.step import ends_in_logits, require_labels
from densenet_nb.progress import Bar

__all__ = ["loss_surface"]


def loss_surface(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    reach: float = 1.0,
    points: int = 11,
    seed: int = 0,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the loss on a plane of two random directions through the weights.

    Each direction is drawn from the normal distribution and then normalized filter by filter
    (section 4): a filter's part is given the norm of that filter of the network. So a step of 1
    changes each filter by its own length, and networks whose weights are scaled otherwise but
    compute the same can be compared. Biases and what belongs to batch normalization are left
    alone. The loss is computed in inference mode.

    Parameters
    ----------
    model : keras.Model
        Classifier of images that ends in a softmax or in logits. Its weights are exactly the old
        ones afterwards, also if the measurement is interrupted.
    images : ndarray
        (batch, height, width, channels). Fewer of them, or fewer points, take less time.
    labels : ndarray
        The classes as integers, (batch,), or shares that sum to one, (batch, classes).
    reach : float
        The grid goes from -reach to reach along both directions; above 0.
    points : int
        Along each direction; odd, so that the weights themselves are in the middle.
    seed : int
        Of the directions.
    progress : bool
        Whether to show a bar; a step is a point of the grid.

    Returns
    -------
    steps : ndarray of float
        (points,), how far along a direction.
    losses : ndarray of float
        (points, points), the mean cross entropy in nats at steps[i] along the first direction and
        steps[j] along the second.

    Raises
    ------
    ValueError
        The model is no classifier as described, the labels do not fit it, or `reach` or `points`
        is out of range; nothing is run then.
    """
    if not reach > 0:
        raise ValueError(f"reach={reach!r}: must be above 0; 1 is each filter's own length.")
    if points < 1 or points % 2 == 0:
        raise ValueError(f"points={points!r}: must be odd, so that one of them is the network.")
    from_logits = ends_in_logits(model)
    labels = require_labels(labels, len(images), model.output_shape[-1])
    kernels = [w for w in model.weights if w.name == "kernel"]
    random = np.random.default_rng(seed)
    first, second = ([_direction(kernel, random) for kernel in kernels] for _ in range(2))
    steps = np.linspace(-reach, reach, points)
    losses = np.empty((points, points))
    with _kept(kernels) as start, Bar(points**2, shown=progress) as bar:
        for place in np.ndindex(losses.shape):
            x, y = steps[list(place)]
            for kernel, old, a, b in zip(kernels, start, first, second, strict=True):
                kernel.assign(old + x * a + y * b)
            outputs = model.predict_on_batch(images)
            found = keras.losses.categorical_crossentropy(labels, outputs, from_logits)
            losses[place] = np.mean(keras.ops.convert_to_numpy(found))
            bar.advance()
    return steps, losses


def _direction(kernel: keras.Variable, random: np.random.Generator) -> np.ndarray:
    """Draw a direction; a filter is what makes one output channel, so the last axis counts them."""
    weights = keras.ops.convert_to_numpy(kernel)
    drawn = random.standard_normal(weights.shape).astype(weights.dtype)
    axes = tuple(range(weights.ndim - 1))
    norms = [np.sqrt(np.sum(np.square(values), axes)) for values in (weights, drawn)]
    return drawn * (norms[0] / norms[1])


@contextlib.contextmanager
def _kept(variables: list[keras.Variable]) -> Iterator[list[np.ndarray]]:
    """Give the values of variables, and set them again in the end, whatever happens."""
    values = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    try:
        yield values
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
