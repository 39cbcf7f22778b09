"""Recipes: how a network is trained, as data (section 4.2).

``paper_cifar``, ``paper_svhn``, ``paper_imagenet`` and ``quick``; any other is
``dataclasses.replace(paper_cifar, epochs=40)``.
"""

import dataclasses
import math
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras

from densenet_nb import models
from densenet_nb.checks import require_positive_integer, require_real
from densenet_nb.configurations import Configuration
from densenet_nb.examples import AUGMENTATIONS
from densenet_nb.layers import HeNormalFanOut
from densenet_nb.optimizer import NesterovSGD

__all__ = ["Recipe", "paper_cifar", "paper_imagenet", "paper_svhn", "quick"]

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained (section 4.2). The defaults are the paper's for CIFAR without "+".

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images in a step, of all devices together.
    rate : float
        The learning rate at first.
    drops : tuple of float
        Shares of the steps after which the rate is divided by 10, rising, in (0, 1).
    momentum : float
        Nesterov's, of the optimizer.
    weight_decay : float
        Of every variable; see :class:`densenet_nb.optimizer.NesterovSGD`.
    augmentation : {None, "shift", "crop"}
        A key of :data:`densenet_nb.examples.AUGMENTATIONS`.
    dropout_rate : float
        Of the network. The paper has 0.2 where there is no augmentation.
    norm_momentum, norm_epsilon : float
        Of the network's batch normalizations; Torch's defaults, which the authors' code has.

    Raises
    ------
    ValueError
        A value out of range; the message names it.
    """

    epochs: int = 300
    batch_size: int = 64
    rate: float = 0.1
    drops: tuple[float, ...] = (0.5, 0.75)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augmentation: str | None = None
    dropout_rate: float = 0.2
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_positive_integer("epochs", self.epochs)
        require_positive_integer("batch_size", self.batch_size)
        if require_real("rate", self.rate) <= 0:
            raise ValueError(f"rate={self.rate!r}: must be above 0; the paper has 0.1.")
        shares = [0, *(require_real("drops", share) for share in self.drops), 1]
        if any(one >= other for one, other in zip(shares, shares[1:], strict=False)):
            raise ValueError(f"drops={self.drops!r}: must rise, between 0 and 1, as (0.5, 0.75).")
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"augmentation={self.augmentation!r}: must be one of {list(AUGMENTATIONS)}."
            )
        object.__setattr__(self, "drops", tuple(self.drops))

    def network(
        self, configuration: Configuration, *, precision: str = "float32", **options: Any
    ) -> keras.Model:
        """Build a network as the recipe wants it: momentum, epsilon, dropout, initial values.

        Parameters
        ----------
        configuration : Configuration
            Such as ``configurations.cifar(100, 12)``.
        precision : {"float32", "mixed_float16", "mixed_bfloat16"}
            Of the computations; weights, statistics and the softmax are float32 always.
        **options
            Others of :func:`densenet_nb.models.from_configuration`: ``input_shape``, ``classes``,
            ``memory_efficient``, ….

        Returns
        -------
        keras.Model
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}.")
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            model = models.from_configuration(configuration, **self.of_network(), **options)
        finally:
            keras.config.set_dtype_policy(before)
        if options.get("include_top", True):
            model.layers[-1].dtype_policy = "float32"
        return model

    def of_network(self) -> dict[str, Any]:
        """Return those options of a network that belong to the recipe."""
        return {
            "momentum": self.norm_momentum,
            "epsilon": self.norm_epsilon,
            "dropout_rate": self.dropout_rate,
            "kernel_initializer": HeNormalFanOut,
        }

    def steps(self, count: int) -> int:
        """Return the steps of all epochs over `count` images."""
        return math.ceil(self.epochs * count / self.batch_size)

    def rate_of(self, step: int, steps: int) -> float:
        """Return the learning rate of one of `steps` steps, counted from 0."""
        return self.rate / 10 ** sum(step >= share * steps for share in self.drops)

    def schedule(self, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
        """Return the same for Keras's optimizers: a number, if the rate never drops."""
        if not self.drops:
            return self.rate
        # Keras's boundary is the last step with the old rate.
        boundaries = [math.ceil(share * steps) - 1 for share in self.drops]
        rates = [self.rate / 10**passed for passed in range(len(self.drops) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """Return the optimizer of a run of `steps` steps, for any loop or ``compile``."""
        return NesterovSGD(self.schedule(steps), self.momentum, self.weight_decay)


paper_cifar = Recipe(augmentation="shift", dropout_rate=0.0)
"""CIFAR-10+ and CIFAR-100+; without "+": ``replace(…, augmentation=None, dropout_rate=0.2)``."""

paper_svhn = Recipe(epochs=40)
"""For images that are only divided by 255: ``from_tfds("svhn_cropped", standardize=False)``."""

paper_imagenet = Recipe(
    epochs=90, batch_size=256, drops=(1 / 3, 2 / 3), augmentation="crop", dropout_rate=0.0
)

quick = Recipe(epochs=12, batch_size=32, dropout_rate=0.0)
"""For the embedded digits: half a minute on two cores."""
