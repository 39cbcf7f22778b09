"""With this folder in PYTHONPATH, Python computes float32 products as a GPU in TF32 does.

A GPU's tensor cores round what convolutions and matrix products read to 10 bits of mantissa unless
`tf.config.experimental.enable_tensor_float_32_execution(False)` was called. So do they here, on
any processor: strict notebooks must pass there too.
"""

import functools
import importlib.abc
import importlib.util
import inspect
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


def rounded(x):
    """Return float32 `x` with 10 bits of mantissa, to nearest; its gradient passes unchanged."""
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    if x.dtype != tf.float32 or not tf.config.experimental.tensor_float_32_execution_enabled():
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


class Rounding(importlib.abc.MetaPathFinder):
    """Imports TensorFlow's modules of operations with their functions replaced."""

    def find_spec(self, name, path=None, target=None):
        if name not in ROUNDED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for function, (raw, names) in ROUNDED[name].items():
                for attribute in (function, raw):
                    setattr(module, attribute, rounding(getattr(module, attribute), names))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Rounding())
