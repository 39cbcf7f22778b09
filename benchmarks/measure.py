"""One measurement, in a process of its own: prints one line of JSON.

usage: python benchmarks/measure.py WHAT [--candidate NAME] [--batch 32] [--steps 3] …

WHAT is
    training   a training step on a constant batch
    fit        the first step of stock `fit`, the optimizer's slots made in it
    inference  a call on a constant batch
    limit      what the machine's processors can do: multiplication of matrices, copying
    device     which GPU there is, and which of Keras's backends sees it

Times are in seconds. The first call counts on its own (tracing and compiling are in it), the second
warms up. Memory is resident memory above that of the process just before the first call, when
model, optimizer's slots and data are there. On Linux the peak is the kernel's own (VmHWM), started
anew at that moment; elsewhere it is what the process's highest mark ever has grown by; None where
the system does not say.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from candidates import CANDIDATES, Workload, prepare
from recording import cores

GIB = 2**30


def seconds(function: Callable[[], Any]) -> float:
    """Return how long one call of `function` takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def resident(entry: str) -> float | None:
    """Return resident memory in GiB: now (``VmRSS``) or the highest since the mark (``VmHWM``).

    Without Linux's ``/proc`` both are the highest since the process started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith(entry)]
        return int(line.split()[1]) * 1024 / GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB  # macOS counts bytes


def restart_peak() -> None:
    """Let the kernel forget the highest mark so far, where it can."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the mark stays
        Path("/proc/self/clear_refs").write_text("5")


def measure(what: str, workload: Workload, steps: int) -> dict[str, Any]:
    """Measure the first call and `steps` later ones.

    Parameters
    ----------
    what : str
        ``"training"``, ``"fit"`` or ``"inference"``.
    workload : Workload
        The network and its data. With `gpu` the GPU's memory is read instead of the process's.
    steps : int
        How many calls are timed, after one that warms up.

    Returns
    -------
    dict
        ``first_s``; and but for ``fit``: ``step_s``, the median; ``steps_s``, all;
        ``images_per_s``; for training also ``base_gib`` and ``peak_gib``, or ``device_peak_gib``.
    """
    call = prepare(what, workload)
    device_peak = restart_device_peak(workload) if workload.gpu else None
    restart_peak()
    base = resident("VmRSS")
    result: dict[str, Any] = {"first_s": seconds(call)}
    if what == "fit":
        return result
    call()
    times = [seconds(call) for _ in range(steps)]
    step = float(np.median(times))
    result |= {"step_s": step, "steps_s": times, "images_per_s": workload.batch / step}
    if device_peak is not None:
        result["device_peak_gib"] = device_peak()
    elif what == "training" and base is not None:
        result |= {"base_gib": base, "peak_gib": resident("VmHWM") - base}
    return result


def restart_device_peak(workload: Workload) -> Callable[[], float]:
    """Return a function that tells the GPU's peak memory in GiB, the model and its data included.

    TensorFlow and PyTorch start their marks anew here. JAX cannot, but what it needed so far is
    less than what a step needs.
    """
    if CANDIDATES[workload.candidate].engine == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() / GIB
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return lambda: jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / GIB
    import tensorflow as tf

    tf.config.experimental.reset_memory_stats("GPU:0")
    return lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] / GIB


def device() -> dict[str, str | None]:
    """Return the GPU's name, if there is one, and the backend of Keras that can use it."""
    if find_spec("tensorflow") is not None:
        import densenet_nb._startup  # noqa: F401

        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            return {"backend": "tensorflow", "gpu": details.get("device_name", "GPU")}
    if find_spec("jax") is not None:
        import jax

        first = jax.local_devices()[0]
        if first.platform == "gpu":
            return {"backend": "jax", "gpu": first.device_kind}
    return {"backend": "tensorflow", "gpu": None}


def limit(side: int = 4096, mebibytes: int = 512, repeats: int = 5) -> dict[str, float]:
    """Return what all cores together reach at their best of `repeats`.

    Parameters
    ----------
    side : int
        Rows and columns of the float32 matrices that are multiplied.
    mebibytes : int
        Of the array that is copied; far more than the caches hold.
    repeats : int
        How often each is done.

    Returns
    -------
    dict
        ``multiply_adds_per_s`` of the product; ``bytes_per_s``, read and written, of the copy.
    """
    import densenet_nb._startup  # noqa: F401

    import tensorflow as tf

    matrix = tf.random.normal((side, side))
    product = min(seconds(lambda: (matrix @ matrix).numpy()) for _ in range(repeats))
    source = np.ones(mebibytes * 2**20 // 4, "float32")
    target = np.empty_like(source)
    parts = list(zip(np.array_split(target, cores()), np.array_split(source, cores()), strict=True))
    with ThreadPoolExecutor(cores()) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(*part), parts))  # without Python's lock

        best = min(seconds(copy) for _ in range(repeats))
    return {"multiply_adds_per_s": side**3 / product, "bytes_per_s": 2 * source.nbytes / best}


def rounded(result: Any) -> Any:
    """Round what was measured to five digits, for the record."""
    if isinstance(result, dict):
        return {name: rounded(value) for name, value in result.items()}
    if isinstance(result, list):
        return [rounded(value) for value in result]
    return float(f"{result:.5g}") if isinstance(result, float) else result


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["training", "fit", "inference", "limit", "device"])
    parser.add_argument("--candidate", choices=CANDIDATES)
    parser.add_argument("--network", default="DenseNet121", help='or such as "L=40"')
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="how many are timed")
    parser.add_argument("--precision", default="float32", help="Keras's dtype policy")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--gpu", action="store_true", help="run on the GPU, read its memory")
    options = vars(parser.parse_args())
    what, steps = (options.pop(name) for name in ("what", "steps"))
    if what == "limit":
        result = limit()
    elif what == "device":
        result = device()
    elif options["candidate"] is None:
        parser.error(f"{what} needs --candidate")
    else:
        result = measure(what, Workload(**options), steps)
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
