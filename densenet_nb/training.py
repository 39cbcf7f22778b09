"""Training as in the paper, that can be stopped at any moment and goes on as if it had not been.

::

    digits = examples.from_tfds("digits")
    model = recipes.quick.network(configuration, input_shape=(8, 8, 1), classes=10)
    history = train(model, digits, recipes.quick, "digits-run")
"""

import dataclasses
import hashlib
import json
import math
import shutil
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from densenet_nb._startup import quietly

import keras
import numpy as np

from densenet_nb import evaluation, finetuning, history
from densenet_nb.examples import Splits, batches
from densenet_nb.layers import HeNormalFanOut
from densenet_nb.progress import Bar
from densenet_nb.recipes import Recipe

with quietly():
    import tensorflow as tf

__all__ = ["train"]


def train(
    model: keras.Model,
    data: Splits,
    recipe: Recipe,
    folder: str | PathLike,
    *,
    seed: int = 0,
    jit_compile: bool = False,
    save_seconds: float = 60.0,
    any_network: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, np.ndarray]:
    """Train a classifier; called again after any end, it goes on from the last checkpoint.

    Whatever ends the process (Ctrl-C, SIGTERM, ``kill -9``, a full disk), the same call continues,
    from at most `save_seconds` before. On the same hardware, after
    ``tf.config.experimental.enable_op_determinism()``, weights, moving averages, optimizer and
    history then equal those of an uninterrupted run in every bit, with dropout and augmentation.

    In `folder` are ``checkpoints/``, of which ``tf.train.Checkpoint(model=model)`` reads the
    weights, ``history.csv``, and ``tensorboard/``.

    Parameters
    ----------
    model : keras.Model
        As ``recipe.network`` builds it, with probabilities (batch, classes) for output. Built in
        the scope of a ``tf.distribute.MirroredStrategy`` or ``MultiWorkerMirroredStrategy``, it is
        trained on all of its devices: each normalizes with the statistics of its own share of the
        batch, and the averages kept are the first device's. So the losses are near those of one
        device; they are the same where normalization is frozen, and in a network built with
        ``synchronized=True``, which costs two exchanges between the devices for each
        normalization. Several machines need `folder` on a
        disk that all of them reach; TensorFlow notices a machine that ended at once, one that is
        silent after the strategy's ``CommunicationOptions(timeout_seconds=…)``.
    data : Splits
        Such as ``examples.from_tfds("digits")``. The test images are named after each epoch.
    recipe : Recipe
        What a run is; another one in the same folder is refused.
    folder : path
        Made if it is not there.
    seed : int
        Of the order of the images and of their augmentation, at least 0. (Initial weights and
        dropout are the model's: ``keras.utils.set_random_seed`` before it is built.)
    jit_compile : bool
        Whether XLA compiles the step; on one device only.
    save_seconds : float
        Between two checkpoints. There is one at the beginning and at the end too, and at Ctrl-C
        and SIGTERM, which take effect after the step (a second Ctrl-C at once).
    any_network : bool
        Whether a network that was not built as the recipe says is trained all the same.
    progress : bool
        Whether to show a bar, in a terminal or a notebook.
    on_epoch : callable, optional
        Gets the row of the history after each epoch. It may raise: the same call then goes on, from
        the last checkpoint.

    Returns
    -------
    dict of np.ndarray
        The history, (epochs,) each: epoch, step, rate; loss and accuracy over the epoch's training
        images as they were when trained on; test_loss and test_accuracy after it. The loss is the
        mean cross-entropy in nats.

    Raises
    ------
    ValueError
        The model does not fit the data or the recipe; the folder holds another run; the batch can't
        be shared equally by the devices. Nothing has been done then.
    FloatingPointError
        The loss, or a weight, is not finite. The model has the last good weights.
    OSError
        A checkpoint can't be written; or none in the folder can be read.
    KeyboardInterrupt, SystemExit
        After Ctrl-C and SIGTERM, when a checkpoint has been written.
    RuntimeError
        Another worker is gone.
    """
    run = _Run(model, data, recipe, Path(folder).expanduser(), seed, jit_compile, any_network)
    run.resume()
    run.go_on(save_seconds, progress, on_epoch)
    return history.arrays(run.state.rows)


LAG = 8
"""Steps that may be under way on a device before their losses are looked at."""


DAMAGED = (tf.errors.OpError, IndexError, RuntimeError, json.JSONDecodeError)
"""What TensorFlow raises, and what JSON does, when a checkpoint is not as it was written."""


class _State(tf.train.experimental.PythonState):
    """What a run has done so far, as it stands in its checkpoints: JSON."""

    KEY = "state/.ATTRIBUTES/py_state"
    FIELDS = ("identity", "step", "rows", "loss", "correct", "seen")

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = identity
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.start_epoch()

    def start_epoch(self) -> None:
        self.loss = self.correct = 0.0  # sums over the `seen` images of this epoch
        self.seen = 0

    def serialize(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.FIELDS})

    def deserialize(self, string_value: str) -> None:
        for name, value in json.loads(string_value).items():
            setattr(self, name, value)


class _Run:
    """One run: the model, what else its checkpoints hold, and the folder."""

    def __init__(
        self,
        model: keras.Model,
        data: Splits,
        recipe: Recipe,
        folder: Path,
        seed: int,
        jit_compile: bool,
        any_network: bool,
    ) -> None:
        self.model, self.data, self.recipe, self.folder = model, data, recipe, folder
        self.seed, self.jit_compile = seed, jit_compile
        self.size = evaluation.network_size(model, data.train)
        evaluation.network_size(model, data.test)
        if not any_network:
            _require_built(model, recipe)
        self.strategy = model.distribute_strategy
        self.replicas = self.strategy.num_replicas_in_sync
        self._require_shares()
        self.steps = recipe.steps(len(data.train))
        with self.strategy.scope():
            self.optimizer = recipe.optimizer(self.steps)
            if model.compute_dtype == "float16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(model.trainable_variables)
        self.state = _State(_identity(model, data, recipe, seed))
        self.checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=[variable.value for variable in self.optimizer.variables],
            # Keras saves the states of dropout's generators nowhere.
            seeds=[v.value for v in model.variables if v.name == "seed_generator_state"],
            state=self.state,
        )
        self.good: str | None = None  # the last checkpoint that this process read or wrote
        self.writes = self.strategy.extended.should_checkpoint
        _ = self.checkpoint.save_counter  # made now, on all machines
        self.several_machines = self.strategy.cluster_resolver is not None
        self.step = self._traced_step()
        self.predict = evaluation.predictor(model)

    def _require_shares(self) -> None:
        if self.recipe.batch_size > len(self.data.train):
            raise ValueError(
                f"batch_size={self.recipe.batch_size}: there are {len(self.data.train)} training "
                "images; take a smaller batch."
            )
        if self.recipe.batch_size % self.replicas:
            raise ValueError(
                f"batch_size={self.recipe.batch_size}: {self.replicas} devices can't share it "
                "equally; take a multiple."
            )
        if self.jit_compile and self.replicas > 1:
            raise ValueError(
                f"jit_compile=True: XLA compiles the step of one device, not of {self.replicas}."
            )

    # The beginning

    def resume(self) -> None:
        """Take the last good checkpoint, if there is one; else write the first."""
        folder = self.folder / "checkpoints"
        try:
            self.manager = self._manager(folder)
        except ValueError:  # the list of checkpoints is no list
            (folder / "checkpoint").unlink()
            self.manager = self._manager(folder)
        for leftover in folder.glob("*_temp*"):  # of a process that was killed while it saved
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        paths = self.manager.checkpoints or sorted(
            (str(index.with_suffix("")) for index in folder.glob("ckpt-*.index")), key=_step_of
        )
        damaged: list[str] = []
        for path in reversed(paths):
            try:
                self._restore(path)
                break
            except DAMAGED as error:
                damaged.append(f"{path} ({_first_line(error)})")
        else:
            if damaged:
                raise OSError(
                    f"{self.folder}: no checkpoint can be read: {'; '.join(damaged)}. Bring back a "
                    "copy, or take another folder to begin anew."
                )
            self.save()
        if damaged:
            warnings.warn(
                f"damaged checkpoint, the one before it is used: {'; '.join(damaged)}", stacklevel=3
            )

    def _manager(self, folder: Path) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(self.checkpoint, str(folder), max_to_keep=3)

    def _restore(self, path: str) -> None:
        """Take over a checkpoint of the same run; raise a ValueError if it is another's."""
        found = json.loads(tf.train.load_checkpoint(path).get_tensor(_State.KEY))
        own = json.loads(self.state.serialize())["identity"]
        names = sorted(own.keys() | found["identity"].keys())
        differences = [
            f"{name} is {found['identity'].get(name)!r} there, {own.get(name)!r} here"
            for name in names
            if found["identity"].get(name) != own.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.folder} holds another run: {'; '.join(differences)}. Take another folder, "
                "or go on with what was begun there."
            )
        self.checkpoint.restore(path).assert_existing_objects_matched()
        self.good = path

    # The steps

    def go_on(
        self,
        save_seconds: float,
        progress: bool,
        on_epoch: Callable[[dict[str, float]], None] | None,
    ) -> None:
        """Take all steps that are left."""
        state, self.waited = self.state, 0.0
        if self.writes:
            history.write(self.folder, state.rows)
        bar = Bar(self.steps, state.step, progress and self.writes)
        started = saved = time.monotonic()
        pending: deque = deque()
        with _delayed_signals() as signals, self._naming_lost_workers(), bar:
            for batch in self._batches():
                pending.append((state.step, self.step(*batch)))
                state.step += 1
                ends = state.step == self._end_of(len(state.rows) + 1)
                due = signals or time.monotonic() - saved > save_seconds
                while pending and (ends or due or len(pending) > LAG):
                    self._count(*pending.popleft())
                bar.advance(self._summary(time.monotonic() - started))
                if ends:
                    self._end_epoch()
                if due or state.step == self.steps:
                    self.save()
                    saved = time.monotonic()
                if signals:
                    break
                if ends and on_epoch is not None:
                    on_epoch(dict(state.rows[-1]))

    def _batches(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yield the batches of the steps that are left, and measure how long each is waited for."""

        def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            share = self.replicas // context.num_input_pipelines
            first = context.input_pipeline_id * share
            return batches(
                self.data.train,
                self.recipe.batch_size,
                self.seed,
                range(self.state.step, self.steps),
                augmentation=self.recipe.augmentation,
                size=self.size,
                pieces=self.replicas,
                take=range(first, first + share),
            )

        if self.replicas > 1:
            iterator = iter(self.strategy.distribute_datasets_from_function(dataset))
        else:
            iterator = iter(dataset(tf.distribute.InputContext()))
        for _ in range(self.state.step, self.steps):
            asked = time.monotonic()
            batch = next(iterator)
            self.waited += time.monotonic() - asked
            yield batch

    def _traced_step(self) -> Callable[[Any, Any], tuple[tf.Tensor, tf.Tensor]]:
        """Return the function that makes a step; it gives the summed losses and right answers."""
        model, optimizer, strategy = self.model, self.optimizer, self.strategy

        def of_replica(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                probabilities = model(images, training=True)
                losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
                loss = tf.reduce_sum(losses) / self.recipe.batch_size
                # Gradients are summed over the replicas.
                loss = loss + sum(model.losses) / self.replicas
                scaled = optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            right = tf.argmax(probabilities, axis=-1) == labels
            return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.int32))

        def step(images: Any, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
            sums = strategy.run(of_replica, args=(images, labels))
            return tuple(strategy.reduce("SUM", each, axis=None) for each in sums)

        return tf.function(step, jit_compile=self.jit_compile, autograph=False)

    def _count(self, step: int, sums: tuple[tf.Tensor, tf.Tensor]) -> None:
        """Add up what a step returned."""
        loss, correct = (each.numpy().item() for each in sums)
        if not math.isfinite(loss):
            self._stop_diverged(f"the loss of step {step} is {loss}")
        self.state.loss += loss
        self.state.correct += correct
        self.state.seen += self.recipe.batch_size

    def _end_epoch(self) -> None:
        """Add a row to the history."""
        state = self.state
        if not _finite(self.model):
            self._stop_diverged(f"a weight is not finite after {state.step} steps")
        test = evaluation.summarize(*self.predict(self.data.test))
        state.rows.append(
            {
                "epoch": len(state.rows) + 1,
                "step": state.step,
                "rate": self._rate(state.step - 1),
                "loss": state.loss / state.seen,
                "accuracy": state.correct / state.seen,
                "test_loss": test.loss,
                "test_accuracy": test.top_1,
            }
        )
        state.start_epoch()
        if self.writes:
            history.write(self.folder, state.rows)

    def _rate(self, step: int) -> float:
        return self.recipe.rate_of(step, self.steps)

    def _end_of(self, epoch: int) -> int:
        """Return the step after which `epoch`, counted from 1, has ended."""
        return math.ceil(epoch * len(self.data.train) / self.recipe.batch_size)

    def _summary(self, seconds: float) -> str:
        """Say how the run goes, behind the bar."""
        state = self.state
        text = f"epoch {len(state.rows) + 1} of {self.recipe.epochs}"
        if state.seen:
            text += f", loss {state.loss / state.seen:.3f}, {state.correct / state.seen:.1%} right"
        if state.rows:
            text += f", test {state.rows[-1]['test_accuracy']:.1%}"
        return f"{text}, {self.waited / seconds:.0%} waiting for images"

    # What must not get lost

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        if not self.writes:
            return
        if not _finite(self.model):
            self._stop_diverged(f"a weight is not finite after {self.state.step} steps")
        try:
            self.good = self.manager.save(checkpoint_number=self.state.step)
        except (tf.errors.OpError, OSError) as error:
            raise OSError(
                f"{self.folder}: the checkpoint of step {self.state.step} can't be written: "
                f"{_first_line(error)}. "
                + (f"{self.good} is whole: m" if self.good else "M")
                + "ake room, and the same call goes on."
            ) from error

    def _stop_diverged(self, why: str) -> None:
        """Give the model its last good weights, and raise."""
        last = self.good or tf.train.latest_checkpoint(self.folder / "checkpoints")
        self.checkpoint.restore(last)
        raise FloatingPointError(
            f"{why}, in epoch {len(self.state.rows) + 1}, at a learning rate of "
            f"{self._rate(self.state.step):g}. The model has the weights of {last} again. Take a "
            "lower rate, and another folder."
        )

    @contextmanager
    def _naming_lost_workers(self) -> Iterator[None]:
        """Say what to do when a collective operation fails because another machine is gone."""
        try:
            yield
        except tf.errors.OpError as error:
            own = (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError)
            if not self.several_machines or isinstance(error, own):
                raise
            raise RuntimeError(
                f"another worker is gone (after {self.state.step} steps; {_first_line(error)}). "
                "Start all workers again with the same call: they go on from the last checkpoint "
                f"in {self.folder}."
            ) from error


@contextmanager
def _delayed_signals() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM wait; yield the list of those that came; raise at the end."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are another thread's
        return

    def note(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + signal.SIGTERM)


def _finite(model: keras.Model) -> bool:
    return all(bool(tf.reduce_all(tf.math.is_finite(weight.value))) for weight in model.weights)


def _require_built(model: keras.Model, recipe: Recipe) -> None:
    """Raise a ValueError that names how a model was built otherwise than the recipe says."""
    layers = list(model._flatten_layers())
    norms = finetuning.normalizations(model)
    kernels = {type(layer.kernel_initializer).__name__ for layer in finetuning.convolutions(model)}
    found = {
        "momentum": {norm.momentum for norm in norms},
        "epsilon": {norm.epsilon for norm in norms},
        "dropout_rate": {x.rate for x in layers if isinstance(x, keras.layers.Dropout)},
        "kernel_initializer": kernels,
    }
    wanted = recipe.of_network() | {"kernel_initializer": HeNormalFanOut.__name__}
    differences = [
        f"{name} is {sorted(found[name])} there, {wanted[name]!r} in the recipe"
        for name in found
        if found[name] - {wanted[name]}
    ]
    if differences:
        raise ValueError(
            f"{model.name!r} is not built as the recipe says: {'; '.join(differences)}. Build it "
            "with recipe.network(configuration, ...), or train it as it is: any_network=True."
        )


def _identity(model: keras.Model, data: Splits, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what must be the same when a run goes on."""
    arrays = [model.dtype_policy.name, *((tuple(v.shape), v.dtype) for v in model.variables)]
    return {
        **{f"recipe.{name}": value for name, value in dataclasses.asdict(recipe).items()},
        "training images": f"{data.train.name} ({data.train.fingerprint[:16]})",
        "test images": f"{data.test.name} ({data.test.fingerprint[:16]})",
        "mean and deviation": [data.train.mean, data.train.deviation],
        "network": f"{model.count_params():,} parameters "
        f"({hashlib.sha256(str(arrays).encode()).hexdigest()[:16]})",
        "seed": seed,
    }


def _step_of(path: str) -> int:
    return int(path.rpartition("-")[2])


def _first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message that says something."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Graph execution error", "Detected at"))]
    return f"{type(error).__name__}: {(said or lines or [''])[0]}"
