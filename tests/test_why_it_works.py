"""Why it works: networks of equal size, runs in pairs, measurements that are all there."""

import json

import densenet_nb._startup  # noqa: F401

import numpy as np
import pytest
import resnet_and_densenet
import trainer
import why_it_works as benchmark
from stopping import stop_and_go_on

from densenet_nb import records

DIGITS, MOONS = benchmark.SHORT
MEASURED = {
    "correct",
    "cross_entropy",
    "at_start",
    "at_end",
    "probes",
    "low_level",
    "reuse",
    "reuse_with_gamma",
    "losses",
    "length",
    "turning",
}


@pytest.mark.parametrize("size", benchmark.SIZES)
def test_the_three_wirings_have_as_many_parameters(size):
    name, depth = size.split()
    plain, residual, dense = (
        resnet_and_densenet.costs(benchmark.network(name, int(depth), wiring))["parameters"]
        for wiring in benchmark.WIRINGS
    )
    assert plain == residual
    assert plain == pytest.approx(dense, rel=0.03)


@pytest.mark.parametrize("wiring", ["plain", "DenseNet"])
def test_a_run_measures_every_layer(wiring):
    found = benchmark.run(DIGITS, wiring, 3, "test", 0.1)
    depth = DIGITS["depth"]
    assert found["of"] == 360
    for what in ("at_start", "at_end"):
        assert len(found[what]) == depth
        assert min(found[what]) > 0
    assert len(found["probes"]) == len(found["low_level"]) == depth + 1
    assert np.shape(found["losses"]) == (5, 5)
    if wiring == "DenseNet":
        assert [len(column) for column in found["reuse"]] == list(range(1, depth + 2))
        assert [len(column) for column in found["reuse_with_gamma"]] == [1, 2, 3]
    else:
        assert not {"reuse", "reuse_with_gamma"} & found.keys()


def test_a_run_depends_on_its_seed_only():
    first = benchmark.run(MOONS, "ResNet", 3, "test", 0.1)
    again = benchmark.run(MOONS, "ResNet", 3, "test", 0.1)
    other = benchmark.run(MOONS, "ResNet", 4, "test", 0.1)
    assert again["length"] == pytest.approx(first["length"], abs=0.05)
    assert again["cross_entropy"] == pytest.approx(first["cross_entropy"], abs=1e-3)
    assert abs(other["cross_entropy"] - first["cross_entropy"]) > 1e-2
    assert {"length", "turning"} <= first.keys()


def test_wirings_of_a_seed_see_the_same_batches_and_never_what_they_are_scored_on(monkeypatch):
    seen, scored = [], []

    def note(self, images, labels, order, rate, seed):
        seen.append(order)

    def score(self, images, labels):
        scored.append(images)
        return {"correct": 0, "cross_entropy": 0.0}

    monkeypatch.setattr(trainer.Trainer, "run", note)
    monkeypatch.setattr(trainer.Trainer, "score", score)
    for wiring in ("plain", "DenseNet"):
        found = benchmark.run(DIGITS, wiring, 1000, "validation", 0.1)
        assert found["of"] == benchmark.RECIPE["held_out_images"]
        assert not MEASURED & found.keys() - {"correct", "cross_entropy"}
    np.testing.assert_array_equal(*seen)
    images = benchmark.load("digits")[0][0]
    trained_on = {image.tobytes() for image in images[np.unique(seen[0])]}
    assert not trained_on & {image.tobytes() for image in scored[0]}


def test_low_level_properties_are_brightness_and_edges():
    image = np.zeros((3, 4, 4, 1))
    image[0, :, 2:] = 1.0  # one vertical edge of height 4, and none across
    image[1, 2:] = 1.0  # one horizontal edge
    found = benchmark.properties(image)
    assert found.shape == (3, 3)
    assert found[0, 0] == found[1, 0] > 0
    assert found[0, 1] == found[1, 2] > 0
    assert found[0, 2] == found[1, 1] == 0
    np.testing.assert_array_equal(found[2], 0)


# --- the record -------------------------------------------------------------------------------


def made_up(which, wiring, seed, part, rate):
    """Stand for a run: 0.3 is the best rate of DenseNet, 0.1 and 0.3 are as good for the others."""
    best = (0.3,) if wiring == "DenseNet" else (0.1, 0.3)
    about = {"wiring": wiring, "seed": seed, "part": part, "rate": rate}
    return which | about | {"of": 10, "correct": 9 if rate in best else 5}


@pytest.mark.parametrize("stop_after", [0, 5, 19, 25])
def test_a_stopped_program_goes_on_where_it_stopped(stop_after, tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    done = stop_and_go_on(benchmark, made_up, stop_after, path, monkeypatch)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert len(record["runs"]) == len(done) == 2 * 3 * 3 + 2 * 2 * 3
    tests = [run for run in record["runs"] if run["part"] == "test"]
    assert [run["seed"] for run in tests] == [0] * 6 + [1] * 6
    assert {run["rate"] for run in tests if run["wiring"] == "DenseNet"} == {0.3}
    assert {run["rate"] for run in tests if run["wiring"] != "DenseNet"} == {0.1}
    assert "about 0 min left" in capsys.readouterr().out


def test_what_is_recorded_is_what_the_program_would_do():
    record = records.read(benchmark.OUTPUT.stem)
    assert record["settings"] == {"recipe": benchmark.RECIPE, "sizes": benchmark.SIZES}
    done, planned = set(), set()
    for cases in benchmark.GROUPS:
        tests = [run["seed"] for run in record["runs"] if run["part"] == "test"]
        for which, wiring, seed, part, rate in benchmark.plan(cases, 1 + max(tests)):
            rate = rate or benchmark.chosen_rate(record, which, wiring)
            about = {"wiring": wiring, "seed": seed, "part": part, "rate": rate}
            planned.add(json.dumps(which | about, sort_keys=True))
    for run in record["runs"]:
        about = run.keys() - MEASURED - {"of", "parameters", "multiply_adds"}
        cell = json.dumps({name: run[name] for name in about}, sort_keys=True)
        assert cell not in done, "a run is recorded twice"
        done.add(cell)
    assert done <= planned
