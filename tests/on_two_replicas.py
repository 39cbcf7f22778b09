"""Checks of training on two replicas (test_processes.py runs them).

They are two logical devices of one processor, on which TensorFlow refuses XLA.
"""

import densenet_nb._startup  # noqa: F401

import keras
import numpy as np
import tensorflow as tf
from equality import plain_and_lean, relative_error, reset_seeds

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def networks(strategy=STRATEGY, **options):
    """Both forms, compiled."""
    with strategy.scope():
        pair = plain_and_lean((1, 1), **options)
        for network in pair:
            reset_seeds(network)
            network.compile(
                keras.optimizers.SGD(0.05, momentum=0.9),
                "sparse_categorical_crossentropy",
                jit_compile=False,
            )
    return pair


PLAIN, LEAN = networks()


def fit(network, count, batch_size, drop_remainder=True):
    images = np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(count) % 2))
    before = network.get_weights()
    network.fit(data.batch(batch_size, drop_remainder), epochs=2, verbose=0)
    pairs = zip(before, network.get_weights(), strict=True)
    assert not all(np.array_equal(old, new) for old, new in pairs)


def check_alike(plain, lean):
    for network in (plain, lean):
        fit(network, count=17, batch_size=8)
    for ours, right in zip(lean.get_weights(), plain.get_weights(), strict=True):
        assert relative_error(ours, right) < 1e-4


def check_there_are_two():
    assert STRATEGY.num_replicas_in_sync == 2


def check_memory_efficient_trains_as_plain_does():
    check_alike(PLAIN, LEAN)


def check_memory_efficient_trains_as_plain_does_with_dropout():
    check_alike(*networks(bottleneck=False, dropout_rate=0.3))


def check_synchronized_statistics_are_those_of_one_device():
    alone, _ = networks(tf.distribute.get_strategy())
    plain, lean = networks(synchronized=True)
    for network in (alone, plain, lean):
        fit(network, count=16, batch_size=8)
    for arrays in zip(*(network.get_weights() for network in (alone, plain, lean)), strict=True):
        assert all(relative_error(ours, arrays[0]) < 1e-4 for ours in arrays[1:])


def check_a_last_batch_smaller_than_the_replicas():
    """Nine images in fours: it trains or says drop_remainder; never a NaN.

    Reported as keras#11858 and tensorflow#52986.
    """
    try:
        fit(PLAIN, count=9, batch_size=4, drop_remainder=False)
    except tf.errors.InvalidArgumentError as error:
        assert "drop_remainder=True" in str(error), error  # noqa: PT017  (it may train as well)
    assert all(np.isfinite(weights).all() for weights in PLAIN.get_weights())
