"""What stands for a GPU: products are rounded and its ways taken, unless asked otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDING = """
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


WAYS = """
import densenet_nb._startup
import numpy as np
import tensorflow as tf

from densenet_nb import layers, optimizer
from densenet_nb.engine import compiled

x = tf.zeros((1, 2, 2, 3))
assert compiled.serves(x) and optimizer.on_gpu()
if hide:
    tf.config.set_visible_devices([], "GPU")
went = []
way = compiled.dense_block
compiled.dense_block = lambda *args, **options: went.append(way(*args, **options)) or went[0]
layers.DenseBlock(1, 2)(x, training=True)
assert len(went) == (not hide)
assert compiled.serves(x) == optimizer.on_gpu() == (not hide)
"""


def run(program):
    folder, root = Path(__file__).parent / "as_gpu", Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{root}", "NVIDIA_TF32_OVERRIDE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_products_are_rounded_to_ten_bits():
    run(ROUNDING)


@pytest.mark.parametrize("hide", [False, True])
def test_blocks_go_a_gpus_way_until_it_is_hidden(hide):
    run(f"hide = {hide}" + WAYS)
