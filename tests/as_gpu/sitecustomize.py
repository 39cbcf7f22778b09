"""With this folder in PYTHONPATH, any processor stands for a GPU: strict notebooks must pass there.

A GPU's tensor cores round what convolutions and matrix products of float32 read to 10 bits of
mantissa unless `tf.config.experimental.enable_tensor_float_32_execution(False)` was called, or
NVIDIA_TF32_OVERRIDE=0 stands in the environment. So do they here. And densenet_nb trains in the
ways of a GPU, whose small functions XLA compiles for a processor as well.

After `tf.config.set_visible_devices([], "GPU")` the processor is one again.
"""

import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys

ROUNDED = {
    "tensorflow.python.ops.gen_nn_ops": {
        "conv2d": ("Conv2D", ("input", "filter")),
        "conv2d_backprop_input": ("Conv2DBackpropInput", ("filter", "out_backprop")),
        "conv2d_backprop_filter": ("Conv2DBackpropFilter", ("input", "out_backprop")),
    },
    "tensorflow.python.ops.gen_math_ops": {
        "mat_mul": ("MatMul", ("a", "b")),
        "batch_mat_mul_v2": ("BatchMatMulV2", ("x", "y")),
    },
}
"""By module: each function, its raw operation's name, and which arguments the hardware rounds."""

visible = True
"""Whether the GPU has not been hidden."""


def rounded(x):
    """Return float32 `x` with 10 bits of mantissa, to nearest; its gradient passes unchanged."""
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    if not visible or x.dtype != tf.float32 or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return x
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        return x
    bits = tf.bitcast(x, tf.int32)
    nearest = tf.bitcast(tf.bitwise.bitwise_and(bits + 0x1000, ~0x1FFF), tf.float32)
    return x + tf.stop_gradient(tf.where(tf.math.is_finite(x), nearest - x, 0.0))


def rounding(function, names):
    """Return `function` with the arguments of these `names` rounded first."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        for name in names:
            bound.arguments[name] = rounded(bound.arguments[name])
        return function(**bound.arguments)

    return call


def round_products(module):
    for function, (raw, names) in ROUNDED[module.__name__].items():
        for attribute in (function, raw):
            setattr(module, attribute, rounding(getattr(module, attribute), names))


def notice_hiding(module):
    hide = module.set_visible_devices

    def set_visible_devices(devices, device_type=None):
        global visible
        hide(devices, device_type)
        if device_type == "GPU":
            visible = bool(devices)

    module.set_visible_devices = set_visible_devices


def go_the_gpus_ways(module):
    module.on_gpu = lambda: visible


CHANGES = dict.fromkeys(ROUNDED, round_products) | {
    "tensorflow.python.framework.config": notice_hiding,
    "densenet_nb.engine.kernels": go_the_gpus_ways,
}


class Changing(importlib.abc.MetaPathFinder):
    """Imports these modules with a change."""

    def find_spec(self, name, path=None, target=None):
        if name not in CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changing())
