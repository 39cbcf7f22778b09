"""Torch's SGD with Nesterov momentum and weight decay, step by step, recorded.

``densenet_nb.optimizer.NesterovSGD`` is to follow the rule of the authors' Torch code. Where torch
is installed, seconds::

    python benchmarks/sgd_against_torch.py

writes ``densenet_nb/records/sgd_against_torch.json``: the weights after each step, in float64. The
tests hold the rule as NumPy has it here, and our optimizer, to them.
"""

import argparse
from pathlib import Path

import numpy as np
import recording

SETTINGS = {
    "momentum": 0.9,
    "weight_decay": 1e-2,
    "rates": [0.1] * 7 + [0.01] * 7 + [0.001] * 6,
}
"""Twenty steps that cross two drops of the rate, with a decay that shows."""

SHAPE = (3, 4)


def start() -> np.ndarray:
    """Return the first weights, float64."""
    return np.random.default_rng(0).normal(size=SHAPE)


def gradients() -> np.ndarray:
    """Return the gradient of each step, float64 (steps, ...)."""
    return np.random.default_rng(1).normal(size=(len(SETTINGS["rates"]), *SHAPE))


def by_numpy(weights: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the weights after each step by the rule that ``torch.optim.SGD`` documents."""
    momentum, decay = SETTINGS["momentum"], SETTINGS["weight_decay"]
    velocity, after = np.zeros_like(weights), []
    for rate, gradient in zip(SETTINGS["rates"], gradients, strict=True):
        gradient = gradient + decay * weights
        velocity = momentum * velocity + gradient
        weights = weights - rate * (gradient + momentum * velocity)
        after.append(weights)
    return np.array(after)


def by_torch(weights: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the weights after each step of ``torch.optim.SGD``."""
    import torch

    parameter = torch.nn.Parameter(torch.tensor(weights))
    optimizer = torch.optim.SGD(
        [parameter],
        lr=SETTINGS["rates"][0],
        momentum=SETTINGS["momentum"],
        weight_decay=SETTINGS["weight_decay"],
        nesterov=True,
    )
    after = []
    for rate, gradient in zip(SETTINGS["rates"], gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        after.append(parameter.detach().numpy().copy())
    return np.array(after)


def main() -> None:
    """Compare, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=recording.RESULTS / "sgd_against_torch.json")
    path = parser.parse_args().output
    weights = by_torch(start(), gradients())
    difference = np.max(np.abs(weights - by_numpy(start(), gradients())))
    record = recording.provenance() | {"settings": SETTINGS}
    record["runs"] = [{"weights": after.tolist()} for after in weights]
    recording.save(record, path)
    print(f"largest difference between torch and NumPy: {difference:.1e}; written to {path}")


if __name__ == "__main__":
    main()
