"""The imitation of TF32 rounds convolutions and products, unless full precision is asked for."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
x = tf.constant(rng.uniform(size=(2, 8, 8, 4)), "float32")
kernel = tf.constant(rng.normal(size=(3, 3, 4, 5)), "float32")


def results(dtype):
    a, b = tf.cast(x, dtype), tf.cast(kernel, dtype)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        y = tf.nn.conv2d(a, b, 1, "SAME")
        z = tf.matmul(tf.reshape(y, (2, -1)), tf.reshape(y, (2, -1)), transpose_b=True)
    return [y, z, *tape.gradient(z, [a, b])]


def errors():
    pairs = zip(results("float32"), results("float64"), strict=True)
    return [float(tf.norm(tf.cast(a, "float64") - b) / tf.norm(b)) for a, b in pairs]


rounded = errors()
assert all(1e-5 < error < 2e-3 for error in rounded), rounded  # 10 bits: 2^-11 at most, each
tf.config.experimental.enable_tensor_float_32_execution(False)
assert max(errors()) < 1e-6
"""


def test_products_are_rounded_to_ten_bits():
    folder = Path(__file__).parent / "tf32"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
