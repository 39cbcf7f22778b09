"""The program that compares one crop with ten, and its record."""

import densenet_nb._startup  # noqa: F401

import numpy as np
import recording
import ten_crop

from densenet_nb import examples, records


def test_one_run_counts_the_answers_of_both_ways():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(40, 28, 28, 1)).astype("float32")
    labels = np.arange(40) % 2
    splits = examples.from_arrays((images[:32], labels[:32]), (images[32:], labels[32:]))
    found = ten_crop.run(splits, seed=3)
    assert found["seed"] == 3
    assert found["of"] == 8
    assert found == ten_crop.run(splits, seed=3)
    assert {0 <= found[name] <= 8 for name in ("one", "ten")} == {True}


def test_the_program_goes_on_with_its_record():
    record = recording.resume(ten_crop.OUTPUT, ten_crop.settings())
    assert record["runs"] == records.read("ten_crop")["runs"]
    assert [run["seed"] for run in record["runs"]] == list(range(20))
