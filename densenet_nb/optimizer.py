"""The authors' optimizer: stochastic gradient descent with Nesterov momentum, as Torch has it.

Keras's ``SGD`` differs twice. It keeps the learning rate inside its velocity, so that after a drop
of the rate the old steps go on at the old rate; and its ``weight_decay`` passes momentum by, so
that weights shrink ten times more slowly than in the recipe of section 4.2.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import densenet_nb._startup  # noqa: F401

import keras
from keras import ops

from densenet_nb.checks import require_real
from densenet_nb.engine.kernels import on_gpu

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

__all__ = ["NesterovSGD"]

GROUP = 2**20
"""About so many numbers are updated by the same few operations: a bound on the memory beside."""


@keras.saving.register_keras_serializable("densenet_nb")
class NesterovSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent as ``torch.optim.SGD(nesterov=True)`` does it (section 4.2).

    With gradient g of a weight w, momentum μ and weight decay λ, each step is::

        g ← g + λ w
        v ← μ v + g
        w ← w − learning_rate (g + μ v)

    The decay is of every variable, scales and shifts of batch normalization too, as in the
    authors' code; ``exclude_from_weight_decay`` leaves some out. Clipping is of the gradient
    before the decay is added to it. The velocities v are in ``momentums``, one of the shape of
    each variable, as in ``keras.optimizers.SGD``.

    On TensorFlow each variable is updated by one operation, and where there is a GPU many variables
    by the same few, since there the start of a small operation takes longer than the operation.

    Parameters
    ----------
    learning_rate : float, keras.optimizers.schedules.LearningRateSchedule or callable
        It may change at any step.
    momentum : float
        μ in [0, 1).
    weight_decay : float or None
        λ, at least 0.
    **kwargs
        Those of every Keras optimizer: ``clipnorm``, ``clipvalue``, ``global_clipnorm``,
        ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``, ``loss_scale_factor``,
        ``gradient_accumulation_steps``, ``name``.

    Raises
    ------
    ValueError
        `momentum` or `weight_decay` is out of range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        weight_decay: float | None = 1e-4,
        **kwargs: Any,
    ) -> None:
        if not 0 <= require_real("momentum", momentum) < 1:
            raise ValueError(f"momentum={momentum!r}: must lie in [0, 1); the paper has 0.9.")
        if weight_decay is not None and require_real("weight_decay", weight_decay) < 0:
            raise ValueError(
                f"weight_decay={weight_decay!r}: must be at least 0, or None; the paper has 1e-4."
            )
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = float(momentum)

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the velocities, all zero."""
        if self.built:
            return
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its velocity."""
        velocity = self.momentums[self._get_variable_index(variable)]
        moved = self._moved(
            ops.convert_to_tensor(variable),
            ops.cast(gradient, variable.dtype),
            ops.convert_to_tensor(velocity),
            ops.cast(learning_rate, variable.dtype),
            self._decay(variable),
        )
        for old, new in zip((variable, velocity), moved, strict=True):
            self.assign(old, new)

    def _moved(
        self, weight: Any, gradient: Any, velocity: Any, rate: Any, decay: float
    ) -> tuple[Any, Any]:
        """Return the weights and velocities after a step; all of them tensors of one dtype."""
        if decay:
            gradient = gradient + decay * weight
        velocity = self.momentum * velocity + gradient
        return weight - rate * (gradient + self.momentum * velocity), velocity

    def _decay(self, variable: Any) -> float:
        return self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing, where Keras shrinks the weights beside the gradient: ours is part of it."""

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Iterable[tuple[Any, Any]], learning_rate: Any
    ) -> None:
        """Update all variables: what Keras calls on TensorFlow, once for all replicas."""
        # The test that TensorFlow's own control flow makes; XLA merges small operations itself.
        if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)
        elif on_gpu():
            self._update_in_groups(distribution, grads_and_vars, learning_rate)
        else:
            self._update_by_kernel(distribution, grads_and_vars, learning_rate)

    def _update_by_kernel(
        self, distribution: Any, grads_and_vars: Iterable[tuple[Any, Any]], learning_rate: Any
    ) -> None:
        """Update each variable by TensorFlow's operation for this rule."""
        scalars = {}

        def update(variable: Any, gradient: Any, velocity: Any, rate: Any, decay: float) -> None:
            dtype, kind = variable.dtype, (variable.dtype, variable.device)
            if kind not in scalars:
                scalars[kind] = ops.cast(rate, dtype), tf.constant(self.momentum, dtype)
            rate, momentum = scalars[kind]
            gradient = tf.cast(tf.convert_to_tensor(gradient), dtype)
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=rate,
                grad=gradient + decay * variable if decay else gradient,
                momentum=momentum,
                use_nesterov=True,
            )

        for gradient, variable in grads_and_vars:
            velocity = self.momentums[self._get_variable_index(variable)].value
            arguments = (gradient, velocity, learning_rate, self._decay(variable))
            distribution.extended.update(variable, update, args=arguments, group=False)

    def _update_in_groups(
        self, distribution: Any, grads_and_vars: Iterable[tuple[Any, Any]], learning_rate: Any
    ) -> None:
        """Update many variables by the same few operations."""
        groups, seen = defaultdict(list), Counter()
        for gradient, variable in grads_and_vars:
            kind = variable.dtype, self._decay(variable)
            groups[*kind, seen[kind] // GROUP].append((gradient, variable))
            seen[kind] += variable.shape.num_elements()
        for (_, decay, _), pairs in groups.items():
            gradients, variables = zip(*pairs, strict=True)
            velocities = [self.momentums[self._get_variable_index(v)].value for v in variables]
            distribution.extended.update(
                variables[0],
                self._update_together,
                args=(gradients, variables, velocities, learning_rate, decay),
                group=False,
            )

    def _update_together(
        self,
        first: Any,
        gradients: list,
        variables: list,
        velocities: list,
        learning_rate: Any,
        decay: float,
    ) -> None:
        """Update variables of one dtype on one device as one long vector."""
        dtype = first.dtype
        gradients = [tf.cast(tf.convert_to_tensor(g), dtype) for g in gradients]
        long = (tf.concat([_flat(t) for t in ts], 0) for ts in (variables, gradients, velocities))
        moved = self._moved(*long, ops.cast(learning_rate, dtype), decay)
        sizes = [variable.shape.num_elements() for variable in variables]
        for targets, vector in zip((variables, velocities), moved, strict=True):
            for target, part in zip(targets, tf.split(vector, sizes), strict=True):
                target.assign(part if target.shape.rank == 1 else tf.reshape(part, target.shape))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer."""
        return {**super().get_config(), "momentum": self.momentum}


def _flat(tensor: Any) -> Any:
    """Return a tensor's or variable's values as a vector."""
    return tensor if tensor.shape.rank == 1 else tf.reshape(tensor, [-1])
