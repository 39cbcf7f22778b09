"""ResNet against DenseNet: costs are equal, runs are paired, a stopped program goes on."""

import json

import densenet_nb._startup  # noqa: F401

import numpy as np
import pytest
import recording
import resnet_and_densenet as benchmark
import trainer
from stopping import stop_and_go_on

from densenet_nb import cost, records
from densenet_nb.configurations import Configuration

(CASE, TRIO) = benchmark.SHORT[0]
CASE = CASE | {"steps": 2}
TRIOS = {**benchmark.TRIOS, "short": TRIO}


def shape(name):
    """Return the shape of the images that a trio or a data set has."""
    return (28, 28, 1) if name in ("Fashion-MNIST", "fashion_mnist") else (8, 8, 1)


def counted(network, input_shape):
    """Count the costs of a network without building it."""
    height, width, channels = input_shape
    if network["network"] == "DenseNet-BC":
        k, compression = network["growth_rate"], network["compression"]
        configuration = Configuration(
            network["blocks"], k, 2 * k, compression=compression, imagenet_stem=False
        )
        return {
            "parameters": cost.parameters(configuration, channels, 10).trainable,
            "multiply_adds": cost.multiply_adds(configuration, *input_shape, 10),
        }
    filters = network["width"]
    kernels = [(height * width, cost.Convolution(channels, filters, 3))]
    for stage, blocks in enumerate(network["blocks"]):
        if stage > 0:
            height, width, filters = -(-height // 2), -(-width // 2), 2 * filters
        for _ in range(2 * blocks):
            before = kernels[-1][1].filters
            kernels.append((height * width, cost.Convolution(before, filters, 3)))
    normalized = sum(kernel.channels for _, kernel in kernels[1:]) + filters
    classifier = 10 * filters
    weights = sum(kernel.weights for _, kernel in kernels)
    return {
        "parameters": weights + 2 * normalized + classifier + 10,
        "multiply_adds": sum(pixels * kernel.weights for pixels, kernel in kernels) + classifier,
    }


@pytest.mark.parametrize("size", TRIOS)
def test_the_networks_of_a_trio_cost_the_same_and_are_as_deep(size):
    dense, wide, wider = (counted(network, shape(size)) for network in TRIOS[size])
    assert wide["parameters"] == pytest.approx(dense["parameters"], rel=0.03)
    assert wider["multiply_adds"] == pytest.approx(dense["multiply_adds"], rel=0.03)
    assert len({tuple(network["blocks"]) for network in TRIOS[size]}) == 1


@pytest.mark.parametrize("size", ["short", "small", "Fashion-MNIST"])
def test_costs_recorded_are_those_counted_by_hand(size):
    for network in TRIOS[size]:
        found = benchmark.costs(benchmark.build(network, shape(size)))
        assert found == counted(network, shape(size))


def test_every_case_has_networks_that_differ():
    for _, networks in benchmark.CASES:
        assert len({json.dumps(network) for network in networks}) == len(networks)


# --- training ---------------------------------------------------------------------------------


def test_a_run_depends_on_its_seed_only():
    first = benchmark.run(CASE, TRIO[0], 3, "test", 0.1)
    other = benchmark.run(CASE, TRIO[0], 4, "test", 0.1)
    again = benchmark.run(CASE, TRIO[0], 3, "test", 0.1)
    entropy = first.pop("cross_entropy")
    assert again.pop("cross_entropy") == pytest.approx(entropy, abs=5e-4)  # threads add in turn
    assert abs(other["cross_entropy"] - entropy) > 3e-3
    assert again == first
    assert first["of"] == 360


def test_networks_of_a_seed_see_the_same_batches_and_never_what_they_are_scored_on(monkeypatch):
    seen, scored = [], []

    def note(self, images, labels, order, rate, seed):
        seen.append(order)

    def score(self, images, labels):
        scored.append(images)
        return {"correct": 0, "cross_entropy": 0.0}

    monkeypatch.setattr(trainer.Trainer, "run", note)
    monkeypatch.setattr(trainer.Trainer, "score", score)
    for network in TRIO[:2]:
        found = benchmark.run(CASE, network, 1000, "validation", 0.1)
        assert found["of"] == 1000
    np.testing.assert_array_equal(*seen)
    images = benchmark.load("digits")[0][0]
    trained_on = {image.tobytes() for image in images[np.unique(seen[0])]}
    assert not trained_on & {image.tobytes() for image in scored[0]}


def test_batches_have_every_example_once_an_epoch():
    order = trainer.batches(np.arange(100, 110), 7, 5, np.random.default_rng(0))
    assert order.shape == (7, 5)
    epochs = order[:6].reshape(3, 10)
    assert [sorted(epoch) for epoch in epochs] == [list(range(100, 110))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_rate_falls_at_half_and_at_three_quarters():
    found = list(trainer.rates(0.1, 8))
    assert found == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_a_trained_network_starts_afresh():
    ours = trainer.Trainer(benchmark.build(TRIO[1], (8, 8, 1)), 0.9, 1e-4)
    images, labels = benchmark.load("digits")[0]
    ours.fresh(5)
    fresh = ours.model.get_weights()
    ours.run(images, labels, np.arange(64).reshape(2, 32), 0.1, 6)
    assert not np.array_equal(ours.model.get_weights()[0], fresh[0])
    assert any(np.any(variable) for variable in ours.optimizer.variables[2:])  # momenta
    ours.fresh(5)
    assert not any(np.any(variable) for variable in ours.optimizer.variables)
    for now, before in zip(ours.model.get_weights(), fresh, strict=True):
        np.testing.assert_array_equal(now, before)


# --- the record -------------------------------------------------------------------------------


def made_up(case, network, seed, part, rate):
    """Stand for a run: 0.1 is the best rate of DenseNet-BC, 0.3 of ResNet, which errs twice."""
    best = 0.1 if network["network"] == "DenseNet-BC" else 0.3
    wrong = (20 if network["network"] == "ResNet" else 10) + seed % 2 + 50 * (rate != best)
    about = {"seed": seed, "part": part, "rate": rate, "parameters": 1, "multiply_adds": 1}
    return case | network | about | {"of": 200, "correct": 200 - wrong, "cross_entropy": 0.0}


@pytest.mark.parametrize("stop_after", [0, 1, 7, 122, 125])
def test_a_stopped_program_goes_on_where_it_stopped(stop_after, tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    done = stop_and_go_on(benchmark, made_up, stop_after, path, monkeypatch)
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = [(run["network"], run.get("width"), run["seed"], run["part"]) for run in record["runs"]]
    assert len(rows) == len(done) == 3 * 4 * 10 + 3 * 2
    assert [row[2:] for row in rows[120:]] == [(0, "test")] * 3 + [(1, "test")] * 3
    assert "about 0 min left" in capsys.readouterr().out


def test_the_rate_is_the_best_on_validation_images_and_the_summary_compares_pairs(monkeypatch):
    monkeypatch.setattr(benchmark, "run", made_up)
    record = recording.resume(None, {})
    benchmark.fill(record, CASE, TRIO, 2, None)
    assert [benchmark.chosen_rate(record, CASE, network) for network in TRIO] == [0.1, 0.3, 0.3]
    tests = benchmark.matching(record, {"part": "test"})
    assert [run["rate"] for run in tests] == [0.1, 0.3, 0.3] * 2
    np.testing.assert_allclose(benchmark.errors(record, CASE, TRIO[0]), [5.0, 5.5])
    np.testing.assert_allclose(benchmark.errors(record, CASE, TRIO[1]), [10.0, 10.5])
    lines = benchmark.summary(record, ((CASE, TRIO),)).splitlines()
    assert lines[1].endswith("rate   0.1   2 seeds  +5.25 (0.25)  +0.00 (0.00)")
    assert lines[2].endswith("rate   0.3   2 seeds +10.25 (0.25)  +5.00 (0.00)")


def test_of_equally_good_rates_the_smallest_is_taken():
    runs = [
        made_up(CASE, TRIO[0], 1000, "validation", 0.1) | {"rate": rate}
        for rate in reversed(benchmark.RECIPE["rates"])
    ]
    assert benchmark.chosen_rate({"runs": runs}, CASE, TRIO[0]) == min(benchmark.RECIPE["rates"])


def test_a_data_set_that_is_not_there_is_named_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def load(name):
        if name == "fashion_mnist":
            raise FileNotFoundError("not there")

    monkeypatch.setattr(benchmark, "load", load)
    monkeypatch.setattr(benchmark, "CASES", ((benchmark.FASHION, TRIO), (CASE, TRIO)))
    monkeypatch.setattr(benchmark, "OUTPUT", tmp_path / "record.json")
    monkeypatch.setattr(benchmark, "run", made_up)
    monkeypatch.setattr("sys.argv", ["program", "--seeds", "1"])
    benchmark.main()
    said = capsys.readouterr().out
    assert "fashion_mnist, images 5000, steps 782: left out. not there" in said
    assert "[123/123] digits" in said


def test_what_is_recorded_is_what_the_program_would_do():
    record = records.read(benchmark.OUTPUT.stem)
    assert record["settings"] == {"recipe": benchmark.RECIPE}
    seeds = 1 + max(run["seed"] for run in benchmark.matching(record, {"part": "test"}))
    planned = set()
    for case, networks in benchmark.CASES:
        tested = {"digits": 360, "fashion_mnist": 10_000}[case["data"]]
        scored = {"validation": benchmark.RECIPE["validation_images"], "test": tested}
        rates = {json.dumps(n): benchmark.chosen_rate(record, case, n) for n in networks}
        for network, seed, part, rate in benchmark.plan(case, networks, seeds):
            rate = rate or rates[json.dumps(network)]
            about = {"seed": seed, "part": part, "rate": rate, "of": scored[part]}
            about |= counted(network, shape(case["data"]))
            planned.add(json.dumps(case | network | about, sort_keys=True))
    measured = {"correct", "cross_entropy"}
    done = [
        json.dumps({name: run[name] for name in run.keys() - measured}, sort_keys=True)
        for run in record["runs"]
    ]
    assert len(set(done)) == len(done), "a run is recorded twice"
    assert set(done) <= planned
