"""Break the package on purpose, one fault at a time, and see that the tests notice.

usage: python tools/mutants.py [WORD ...]      (default: all; otherwise those described by a word)

Each fault is planted in a copy of the repository, where the tests named beside it run until one
fails. Ends with 1 if a fault is not caught. Takes about ten minutes on two cores, so it is run by
hand, when tests are made shorter or code is rewritten: it says whether they still guard the same.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "build", "pictures", "*.egg-info", "__pycache__")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-rfE"]
PYTEST += ["--hypothesis-profile=unshrunk"]  # minutes less: any example will do


class Fault(NamedTuple):
    """One fault: `old` stands exactly once in `file` of the package, and becomes `new`."""

    what: str
    file: str
    old: str
    new: str
    tests: str
    """Files of tests/, or tests in them, that must notice."""


NORMALIZATION, COMPOSITE, LAYERS = "test_normalization.py", "test_composite.py", "test_layers.py"
BLOCK = "test_block.py"
RECOMPUTATION, MODELS, COST = "test_recomputation.py", "test_models.py", "test_cost.py"
INFERENCE, DATA, STARTUP = "test_inference.py", "test_data.py", "test_startup.py"
WEIGHTS = "test_weights.py"

FAULTS = [
    # Batch normalization
    Fault(
        "Bessel's correction stays in the variance",
        "engine/kernels.py",
        "1 - inverse_count(x, variance.dtype)",
        "1.0",
        NORMALIZATION,
    ),
    Fault(
        "the gradient of the batch's mean is lost",
        "engine/statistics.py",
        "(dmean * share - mean * slope)",
        "(-mean * slope)",
        NORMALIZATION,
    ),
    Fault(
        "the gradient of the batch's variance is halved",
        "engine/statistics.py",
        "dvariance * (2 * share)",
        "dvariance * share",
        NORMALIZATION,
    ),
    Fault(
        "the gradients of synchronized statistics stay on their device",
        "engine/statistics.py",
        "dmean, dvariance = total([dmean, dvariance], synchronized)",
        "",
        "test_processes.py -k replicas",
    ),
    Fault(
        "the gradient of a given variance lacks a factor",
        "engine/kernels.py",
        "-0.5 * scale * r * dgamma",
        "-0.5 * scale * dgamma",
        NORMALIZATION,
    ),
    Fault(
        "the gradient has another epsilon",
        "engine/kernels.py",
        "epsilon=epsilon,\n        is_training=is_training,",
        "epsilon=1e-3,\n        is_training=is_training,",
        f"{NORMALIZATION} {COMPOSITE}",
    ),
    Fault(
        "moving averages keep what they should move by",
        "engine/statistics.py",
        "* (1.0 - momentum)",
        "* momentum",
        NORMALIZATION,
    ),
    Fault(
        "a frozen normalization reads the batch's statistics",
        "normalization.py",
        "if not (training and self.trainable):",
        "if not training:",
        NORMALIZATION,
    ),
    Fault(
        "XLA gets the kernel that it computes wrongly",
        "engine/backward.py",
        "return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())",
        "return False",
        NORMALIZATION,
    ),
    Fault(
        "an empty batch passes",
        "engine/statistics.py",
        "size(x) > 0, data",
        "size(x) >= 0, data",
        NORMALIZATION,
    ),
    Fault(
        "shared statistics are joined in another order than the maps",
        "engine/statistics.py",
        "ops.concatenate([self.mean, new.mean])",
        "ops.concatenate([new.mean, self.mean])",
        LAYERS,
    ),
    # The composite function by kernels
    Fault(
        "the gradient of a 1x1 kernel is transposed",
        "engine/composite.py",
        "return tf.reshape(product, kernel.shape)",
        "return tf.reshape(tf.transpose(product), kernel.shape)",
        COMPOSITE,
    ),
    Fault(
        "the gradient passes the activation unchanged",
        "engine/composite.py",
        "self._tape.gradient(self.maps, self._before, upstream, zero)",
        "upstream",
        COMPOSITE,
    ),
    Fault(
        "given statistics get no gradient",
        "engine/composite.py",
        "dkernel, *dstatistics",
        "dkernel, *(0 * d for d in dstatistics)",
        COMPOSITE,
    ),
    Fault(
        "a second derivative is wrong without a word",
        "engine/backward.py",
        'if keras.backend.backend() == "jax":',
        "if True:",
        COMPOSITE,
    ),
    Fault(
        "the normalized maps are made again before the backward pass",
        "engine/composite.py",
        "tf.control_dependencies([upstream]):  # not",
        "tf.control_dependencies([]):  # not",
        COMPOSITE,
    ),
    # Blocks whose passes are written out
    Fault(
        "the way through the statistics is left out",
        "engine/kernels.py",
        "is_training=True,\n    )\n    return dx, dgamma, dbeta",
        "is_training=False,\n    )\n    return dx, dgamma, dbeta",
        BLOCK,
    ),
    Fault(
        "a layer's share of the gradient takes the place of the others'",
        "engine/block.py",
        "dfront, dweights = dfront + doutputs,",
        "dfront, dweights = doutputs,",
        BLOCK,
    ),
    Fault(
        "the maps are cut before the backward pass",
        "engine/block.py",
        "after(doutputs if memory_efficient else before, front)",
        "front",
        BLOCK,
    ),
    Fault(
        "a layer reads the statistics of the maps that came in",
        "engine/block.py",
        "statistics.join(passes.moments(new, ones))",
        "statistics.join(passes.moments(x[..., :growth_rate], ones))",
        BLOCK,
    ),
    Fault(
        "a GPU's compiled functions warn of many shapes",
        "engine/compiled.py",
        "traced.get_concrete_function(*args)(*args)",
        "traced(*args)",
        "test_compiled.py -k warning",
    ),
    Fault(
        "within XLA the way through the variance is left out",
        "engine/formulas.py",
        " - standardized * (dgamma * share)",
        "",
        BLOCK,
    ),
    Fault(
        "XLA merges the second run with the first",
        "engine/block.py",
        "after(doutputs, maps) if memory_efficient else maps",
        "maps",
        BLOCK,
    ),
    Fault(
        "the decay is lost on the way to TensorFlow's operation",
        "optimizer.py",
        "gradient + decay * variable if decay else gradient",
        "gradient",
        "test_optimizer.py",
    ),
    Fault(
        "slots are made while the step is traced",
        "network.py",
        "self.optimizer.build(self.trainable_variables)",
        "pass",
        f"{MODELS} -k slots",
    ),
    # Layers
    Fault(
        "the newest maps are concatenated first",
        "layers.py",
        "ops.concatenate([x, new]",
        "ops.concatenate([new, x]",
        LAYERS,
    ),
    Fault("He's initialization goes by fan-in", "parts.py", '"fan_out"', '"fan_in"', LAYERS),
    Fault(
        "equal shapes start with equal weights",
        "parts.py",
        "return value.clone()",
        "return value",
        LAYERS,
    ),
    Fault(
        "dropout is forgotten in training",
        "layers.py",
        "return self.dropout(ways.by_kernels(self, x, statistics), training=True)",
        "return ways.by_kernels(self, x, statistics)",
        LAYERS,
    ),
    Fault(
        "a transition pools before its dropout",
        "layers.py",
        "self.function.dropout.rate > 0",
        "self.function.dropout.rate > 1",
        LAYERS,
    ),
    Fault(
        "a frozen layer normalizes with the batch",
        "engine/ways.py",
        "if not norm.trainable:",
        "if False:",
        LAYERS,
    ),
    Fault(
        "a copy forgets that it is frozen",
        "parts.py",
        ", trainable=self.trainable)",
        ")",
        f"{MODELS} -k frozen",
    ),
    Fault(
        "the stem's pooling is padded on one side",
        "layers.py",
        "ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))",
        "ops.pad(x, ((0, 0), (0, 2), (0, 2), (0, 0)))",
        f"{MODELS} -k any_network",
    ),
    # Networks
    Fault(
        "the stem's image is padded unevenly",
        "models.py",
        "stock.ZeroPadding2D(3,",
        "stock.ZeroPadding2D(((2, 4), (2, 4)),",
        f"{MODELS} -k any_network",
    ),
    Fault(
        "the ReLU after the last normalization is missing",
        "models.py",
        "activation_layer(composite.activation,",
        'activation_layer("linear",',
        f"{MODELS} -k any_network",
    ),
    Fault(
        "epsilon is Keras's, not the paper's",
        "models.py",
        "epsilon: float = 1.001e-5",
        "epsilon: float = 1e-3",
        f"{MODELS} -k any_network",
    ),
    Fault(
        "a file of weights is not read",
        "models.py",
        "model.load_weights(weights)",
        "pass",
        f"{MODELS} -k weights_file",
    ),
    # Weights of other libraries
    Fault(
        "Torch's kernels keep their order of filters and channels",
        "weights/torch_networks.py",
        "np.moveaxis(array, (1, 0), (-2, -1)) if",
        "np.moveaxis(array, (0, 1), (-2, -1)) if",
        f"{WEIGHTS} -k torch",
    ),
    Fault(
        "layers of a file come in alphabetical order",
        "weights/keras_files.py",
        "key=lambda name: (len(name), name)",
        "key=lambda name: name",
        f"{WEIGHTS} -k ten_layers",
    ),
    Fault(
        "a file in the cache is taken whatever its hash",
        "weights/imagenet.py",
        "if _md5(path) != md5:",
        "if False:",
        f"{WEIGHTS} -k another_file",
    ),
    Fault(
        "images that are scaled already are prepared again",
        "weights/images.py",
        "if scaled or not (low >= 0 and high <= 255):",
        "if not (low >= 0 and high <= 255):",
        f"{WEIGHTS} -k no_pixels",
    ),
    Fault(
        "arrays are assigned before all are checked",
        "weights/parts.py",
        "    if any(wrong.values()):",
        '    for name in variables.keys() & arrays.keys() - wrong["of another shape"]:\n'
        "        if tuple(arrays[name].shape) == tuple(variables[name].shape):\n"
        "            variables[name].assign(arrays[name])\n"
        "    if any(wrong.values()):",
        f"{WEIGHTS} -k changes_nothing",
    ),
    Fault(
        "compression rounds up",
        "configurations.py",
        "filters = floor(",
        "filters = -floor(-",
        "test_configurations.py",
    ),
    # Memory-efficient training
    Fault(
        "state moves twice",
        "engine/recomputation.py",
        "variable.assign(value)",
        "variable.assign(2 * value - variable.value)",
        RECOMPUTATION,
    ),
    Fault(
        "the second run has another dropout mask",
        "engine/recomputation.py",
        "values = [*weights, *self.state]",
        "values = [*weights, *(v.value for v in layer.non_trainable_variables)]",
        f"{RECOMPUTATION} -k dropout",
    ),
    Fault(
        "a layer's gradient reads the means of the first maps",
        "engine/recomputation.py",
        "vectors[0][width : width + new.shape[-1]]",
        "vectors[0][: new.shape[-1]]",
        f"{RECOMPUTATION} {BLOCK}",
    ),
    Fault(
        "the gradients of shared statistics are not added up",
        "engine/recomputation.py",
        "[d[:width] + m for d, m",
        "[m for d, m",
        f"{RECOMPUTATION} {BLOCK}",
    ),
    Fault(
        "TensorFlow computes again before the backward pass",
        "engine/backward.py",
        "with tf.control_dependencies([upstream]):",
        "with tf.control_dependencies([]):",
        f"{RECOMPUTATION} -k computed_again",
    ),
    Fault(
        "JAX merges the second run with the first",
        "engine/backward.py",
        "return ops.where(never, ops.zeros((), x.dtype), x)",
        "return x",
        "test_processes.py -k merged",
    ),
    # Counting
    Fault(
        "a block is counted without its last layer",
        "cost.py",
        "range(k0, m, k)",
        "range(k0, m - k, k)",
        COST,
    ),
    Fault(
        "the last maps of a memory-efficient network are counted twice",
        "cost.py",
        "kept_memory_efficient=height * width * m)",
        "kept_memory_efficient=2 * height * width * m)",
        f"{COST} -k kept",
    ),
    Fault(
        "the classifier's bias is not counted",
        "cost.py",
        "weights = m * classes + classes",
        "weights = m * classes",
        COST,
    ),
    Fault(
        "the gradient of a sum is measured for that of a mean",
        "probes/step.py",
        "keras.ops.mean(losses)",
        "keras.ops.sum(losses)",
        "test_probes.py",
    ),
    Fault(
        "a layer's probe reads the channels up to the next layer",
        "probes/features.py",
        "later = block.num_layers - int",
        "later = block.num_layers - 1 - int",
        "test_linear_probes.py",
    ),
    Fault(
        "a small weight behind a large scale counts as small",
        "probes/reuse.py",
        "if gamma and reader.gamma is not None",
        "if not gamma and reader.gamma is not None",
        "test_feature_reuse.py",
    ),
    Fault(
        "a boundary's turns to the left and to the right cancel",
        "probes/boundary.py",
        "np.sum(np.abs((turns + np.pi) % (2 * np.pi) - np.pi))",
        "np.abs(np.sum((turns + np.pi) % (2 * np.pi) - np.pi))",
        "test_decision_boundary.py",
    ),
    Fault(
        "a direction is normalized as a whole, not filter by filter",
        "probes/landscape.py",
        "axes = tuple(range(weights.ndim - 1))",
        "axes = None",
        "test_loss_surface.py",
    ),
    # Exercises and data
    Fault(
        "checks of exercises accept wrong answers",
        "exercises.py",
        "if found != right:",
        "if found is None:",
        "test_exercises.py",
    ),
    Fault(
        "digits of the test split are in the training split",
        "data.py",
        "np.setdiff1d(by_label, test)",
        "by_label",
        f"{DATA} -k digits",
    ),
    Fault(
        "every epoch has the same order",
        "data.py",
        "seed=seed)",
        "seed=seed, reshuffle_each_iteration=False)",
        f"{DATA} -k shuffled",
    ),
    Fault(
        "files are fetched unasked",
        "data.py",
        "if not download:",
        "if False:",
        f"{DATA} -k fetched",
    ),
    # Starting
    Fault(
        "a real error at the start is hidden",
        "_startup.py",
        "if not NOISE.fullmatch(line) and",
        "if False and",
        f"{STARTUP} -k real_error",
    ),
    Fault(
        "Keras does not know a layer that it loads",
        "layers.py",
        '@keras.saving.register_keras_serializable("densenet_nb")\nclass DenseBlock',
        "class DenseBlock",
        "test_processes.py -k loads",
    ),
    # Frozen predictors
    Fault(
        "folding leaves epsilon out of the variance",
        "inference.py",
        "_array(norm.moving_variance) + norm.epsilon",
        "_array(norm.moving_variance)",
        INFERENCE,
    ),
    Fault(
        "folding forgets that a negative scale turns the clipping round",
        "inference.py",
        "np.where(scale > 0, np.inf, threshold)",
        "np.full_like(threshold, np.inf)",
        f"{INFERENCE} -k gamma",
    ),
    Fault(
        "a pooling of negative maps forgets its zeros",
        "exports.py",
        '!= ("Pad", "Relu", 1)',
        '[::2] != ("Pad", 1)',
        f"{INFERENCE} -k onnx_of_any_kind",
    ),
    Fault(
        "the halves of a batch change places",
        "inference.py",
        "for half in halves]",
        "for half in halves[::-1]]",
        INFERENCE,
    ),
]


def main() -> int:
    """Plant the faults that the command line names."""
    words = sys.argv[1:]
    chosen = [f for f in FAULTS if not words or any(word in f.what for word in words)]
    if stale := [f"{f.file}: not once: {f.old!r}" for f in chosen if text(f).count(f.old) != 1]:
        print("The code has changed; state these faults anew:", *stale, sep="\n  ")
        return 1
    with ThreadPoolExecutor(max_workers=2) as pool:
        noticed = list(pool.map(report, chosen))
    if failed := run(ROOT, [*filter(None, noticed)]):
        print(f"{failed} fails without a fault, too, so it says nothing of any")
        return 1
    print(f"{len([*filter(None, noticed)])} of {len(chosen)} faults are caught")
    return 0 if all(noticed) else 1


def text(fault: Fault) -> str:
    """Return the file that the fault is planted in."""
    return (ROOT / "densenet_nb" / fault.file).read_text(encoding="utf-8")


def report(fault: Fault) -> str | None:
    """Plant a fault in a copy, run its tests; say and return which noticed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        broken = text(fault).replace(fault.old, fault.new)
        (copy / "densenet_nb" / fault.file).write_text(broken, encoding="utf-8")
        words = fault.tests.split()
        noticed = run(copy, [f"tests/{w}" if w.startswith("test_") else w for w in words])
    seconds = time.monotonic() - start
    print(f"{fault.what}: {noticed or 'NOT CAUGHT'} ({seconds:.0f} s)", flush=True)
    return noticed


def run(folder: Path, tests: list[str]) -> str | None:
    """Run tests in `folder` until one fails; return which, if any."""
    done = subprocess.run(
        [*PYTEST, *tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"^(?:FAILED|ERROR) (tests/\S+::.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(found) != bool(done.returncode):
        raise RuntimeError(f"pytest could not run {tests}:\n{done.stdout}\n{done.stderr}")
    return found and found[1]


if __name__ == "__main__":
    sys.exit(main())
