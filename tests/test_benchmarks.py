"""The benchmarks measure in processes of their own, record each measurement, and go on from there.

No time is asserted: the numbers here are made up, but for one real measurement of a small network.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import densenet_nb._startup  # noqa: F401

import article_in_keras_2
import candidates
import cost_against_size
import keras
import measure
import pytest
import recording
import schedule
import side_by_side
import tensorflow as tf

from densenet_nb import cost, records
from densenet_nb.configurations import CONFIGURATIONS

BENCHMARKS = Path(recording.__file__).parent
FAST = candidates.KERAS_APPLICATIONS
OURS = candidates.OURS

SETTINGS = side_by_side.settings(32)
NAMES = [FAST, OURS, candidates.OURS_MEMORY_EFFICIENT, candidates.OURS_FROZEN]


def made_up(options):
    """Stand for a measurement: ours takes half of everything, ever more in every round."""
    if options["what"] == "limit":
        return {"multiply_adds_per_s": 1e9, "bytes_per_s": 2**30}
    scale = 1.0 if options["candidate"] == FAST else 0.5
    return {"first_s": 10 * scale, "step_s": 4 * scale, "peak_gib": 2 * scale}


@pytest.fixture
def record():
    found = recording.resume(None, SETTINGS)
    cases = side_by_side.cases(SETTINGS, NAMES)
    failures = schedule.run(
        found, cases, 3, None, lambda case: side_by_side.options(SETTINGS, case), made_up
    )
    assert failures == []
    return found


# --- schedule ---------------------------------------------------------------------------------


def test_flags_are_what_the_worker_reads():
    options = {"what": "training", "candidate": "a b", "batch": 8, "jit": True, "gpu": False}
    line = schedule.flags(options)
    assert line == ["training", "--candidate", "a b", "--batch", "8", "--jit"]


def test_all_cases_of_a_round_come_before_the_next():
    cases = [{"candidate": name} for name in "ab"]
    plan = schedule.missing([], cases, 2)
    assert [(entry["round"], entry["candidate"]) for entry in plan] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_stopped_benchmark_goes_on_where_it_stopped(tmp_path, stop_after, capsys):
    path, cases = tmp_path / "record.json", [{"candidate": name} for name in "abc"]
    measured = []

    def until_stopped(options):
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        measured.append(options["candidate"])
        return {"step_s": 1.0}

    def benchmark(measure):
        record = recording.resume(path, {"network": "x"})
        schedule.run(record, cases, 2, path, lambda case: case, measure)
        return record

    with pytest.raises(SystemExit, match="same command goes on"):
        benchmark(until_stopped)
    assert path.exists() == (stop_after > 0)
    record = benchmark(lambda options: measured.append(options["candidate"]) or {"step_s": 2.0})
    assert measured == list("abcabc")
    assert [run["step_s"] for run in record["runs"]] == [1.0] * stop_after + [2.0] * (
        6 - stop_after
    )
    assert json.loads(path.read_text(encoding="utf-8")) == record
    assert "about 0 min left" in capsys.readouterr().out


def test_a_record_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "record.json"
    recording.save(recording.resume(path, SETTINGS), path)
    with pytest.raises(SystemExit, match="recorded with"):
        recording.resume(path, side_by_side.settings(8))


def test_a_record_names_each_commit_that_added_to_it(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    for commit in ("one", "one", "two"):
        monkeypatch.setattr(recording, "provenance", lambda commit=commit: {"commit": commit})
        recording.save(recording.resume(path, SETTINGS), path)
    assert json.loads(path.read_text(encoding="utf-8"))["commit"] == "one, two"


def test_a_case_that_fails_is_told_and_the_others_go_on():
    def measure(options):
        if options["candidate"] == "b":
            raise schedule.Failed("ended with 1: out of memory")
        return {"step_s": 1.0}

    record = recording.resume(None, {})
    cases = [{"candidate": name} for name in "abc"]
    failures = schedule.run(record, cases, 2, None, lambda case: case, measure)
    assert failures == ["b: ended with 1: out of memory"]
    assert [run["candidate"] for run in record["runs"]] == list("acac")


def test_the_time_left_is_that_of_the_same_cases():
    runs = [{"candidate": "a", "round": 0, "wall_s": 10}, {"candidate": "b", "wall_s": 30}]
    left = [{"candidate": name, "round": 1} for name in "abc"]
    assert schedule.seconds_left(runs, left) == 10 + 30 + 20


def test_a_worker_that_fails_says_why():
    with pytest.raises(schedule.Failed, match="invalid choice: 'nothing'"):
        schedule.measure({"what": "nothing"})


# --- the table --------------------------------------------------------------------------------


def test_every_candidate_is_measured_in_what_it_can_do():
    cases = side_by_side.cases(SETTINGS, list(candidates.CANDIDATES))
    assert cases[0] == side_by_side.MACHINE
    measured = {
        name: {case["what"] for case in cases[1:] if case["candidate"] == name}
        for name in candidates.CANDIDATES
    }
    assert measured == {
        name: set(candidate.measured) for name, candidate in candidates.CANDIDATES.items()
    }
    batches = [case["batch"] for case in cases if case["what"] == "inference"]
    assert {1, 8} == set(batches)
    assert len(cases) == len({json.dumps(case) for case in cases})


def test_every_candidate_has_the_functions_that_it_is_measured_by():
    for candidate in candidates.CANDIDATES.values():
        for what in candidate.measured:
            assert callable(getattr(candidates, f"{candidate.engine}_{what}"))


def test_the_short_form_has_no_stock_fit_and_few_steps():
    settings = side_by_side.short(side_by_side.settings(8))
    cases = side_by_side.cases(settings, NAMES)
    assert {case["what"] for case in cases} == {"limit", "training", "inference"}
    steps = {side_by_side.options(settings, case).get("steps") for case in cases}
    assert steps == {None, 1, 5}


def test_a_peer_that_is_not_installed_is_named_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(candidates, "find_spec", lambda name: None if "torch" in name else name)
    names = side_by_side.candidates(gpu=False)
    exports = [candidates.OURS_IN_ONNX_RUNTIME, candidates.OURS_IN_OPENVINO]
    assert [FAST, "keras-hub", *NAMES[1:], *exports] == names
    said = capsys.readouterr().out
    for name in ("torchvision", "torchvision, memory-efficient", "ONNX Runtime", "OpenVINO"):
        assert f"{name}: left out, not installed: torch, torchvision" in said


def test_the_table_has_medians_spread_and_ratios(record):
    for run, step in zip(
        schedule.matching(record["runs"], {"candidate": OURS, "what": "training", "batch": 32}),
        (1.0, 3.0, 1.5),
        strict=True,
    ):
        run["step_s"] = step
    header, reference, ours, *_ = side_by_side.table(record, "training step").splitlines()
    assert header.split()[-6:] == ["median", "min", "max", "ratio", "/", "floor"]
    assert "training step, batch 32, in s" in header
    assert reference.split()[1:5] == ["4", "4", "4", "1.00"]
    assert ours.split()[1:5] == ["1.5", "1", "3", "0.38"]


def test_the_floor_is_the_multiply_adds_at_the_measured_rate(record):
    network = CONFIGURATIONS["DenseNet121"]
    forward = cost.multiply_adds(network)
    stem = 7 * 7 * 3 * 64 * 112 * 112
    training = 32 * (3 * forward - stem) / 1e9
    assert side_by_side.floor(record, "training step") == pytest.approx(training)
    assert side_by_side.floor(record, "inference, batch 8") == pytest.approx(8 * forward / 1e9)
    assert side_by_side.floor(record, "training, peak memory") is None
    assert f"{training:.2f} s" in side_by_side.limits(record)
    line = side_by_side.table(record, "training step").splitlines()[1]
    assert line.split()[-1] == f"{4 / training:.2f}"


def test_the_summary_names_the_machine_the_versions_and_every_measure(record):
    text = side_by_side.summary(record)
    assert record["machine"] in text
    assert f"tensorflow {record['versions']['tensorflow']}" in text
    for title in SETTINGS["measures"]:
        assert f"\n{title}" in text
    assert text.count(f"  {OURS} ") == len(SETTINGS["measures"])


def test_the_table_does_without_its_reference(record):
    record["runs"] = [run for run in record["runs"] if run.get("candidate") != FAST]
    assert side_by_side.table(record, "training step").splitlines()[1].split()[1:4] == ["2"] * 3


@pytest.mark.parametrize(("backend", "forms"), [("tensorflow", {False, True}), ("jax", {True})])
def test_on_a_gpu_precisions_and_xla_are_compared(backend, forms):
    settings = side_by_side.gpu_settings("a GPU", backend, 32)
    cases = side_by_side.cases(settings, side_by_side.candidates(gpu=True))
    steps = [case for case in cases if case["what"] == "training"]
    assert {case["jit"] for case in steps} == forms
    assert {case["precision"] for case in steps} == {"float32", "mixed_bfloat16"}
    assert set(NAMES[:3]) <= {case["candidate"] for case in steps}
    assert (len(cases) > len(steps)) is (backend == "tensorflow")  # the first step of stock fit
    line = schedule.flags(side_by_side.options(settings, steps[-1]))
    assert {"--gpu", "--jit", "--precision", "--steps"} <= set(line)


def test_on_a_gpu_torchvision_is_measured_without_xla():
    settings = side_by_side.gpu_settings("a GPU", "tensorflow", 32)
    cases = side_by_side.cases(settings, ["torchvision", candidates.TORCHVISION_MEMORY_EFFICIENT])
    assert len(cases) == 4  # two precisions each
    assert {case["jit"] for case in cases} == {False}


def test_a_gpu_that_jax_alone_can_use(monkeypatch):
    card = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # not installed
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: [card]))
    monkeypatch.setattr(measure, "find_spec", lambda name: name if name == "jax" else None)
    assert measure.device() == {"backend": "jax", "gpu": "NVIDIA H100"}


def test_the_program_starts_without_tensorflow():
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"  # as if it were not installed
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import side_by_side, keras; print(keras.backend.backend())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "jax\n", done.stderr


def test_a_gpu_s_table_has_images_per_second_and_device_memory():
    settings = side_by_side.gpu_settings("a GPU", "tensorflow", 32)
    record = recording.resume(None, settings)
    schedule.run(
        record,
        side_by_side.cases(settings, NAMES[:2]),
        2,
        None,
        lambda case: side_by_side.options(settings, case),
        lambda options: {"images_per_s": 50.0, "device_peak_gib": 3.0, "first_s": 9.0},
    )
    text = side_by_side.summary(record)
    assert text.startswith("a GPU\n")
    assert "images per second, float32, XLA, batch 32, in 1/s" in text
    assert "peak device memory, mixed_bfloat16, batch 32, in GiB" in text


def test_a_gpu_is_named_and_its_memory_read(monkeypatch):
    marks = []
    config = tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["a device"])
    details = {"device_name": "NVIDIA H100"}
    monkeypatch.setattr(config.experimental, "get_device_details", lambda device: details)
    monkeypatch.setattr(config.experimental, "reset_memory_stats", marks.append)
    memory = {"current": 0, "peak": 3 * 2**30}
    monkeypatch.setattr(config.experimental, "get_memory_info", lambda device: memory)
    assert measure.device() == {"backend": "tensorflow", "gpu": "NVIDIA H100"}
    peak = measure.restart_device_peak(candidates.Workload(OURS))
    assert marks == ["GPU:0"]
    assert peak() == 3.0


# --- cost against size ------------------------------------------------------------------------


def test_a_size_that_does_not_fit_is_named_and_left_out(capsys):
    every = cost_against_size.cases(cost_against_size.SETTINGS, None)
    some = cost_against_size.cases(cost_against_size.SETTINGS, 10.0)
    assert len(every) == 3 * 11  # DenseNet-121 at batch 8 is in two sweeps
    assert [case for case in every if case not in some] == [
        case for case in every if case["batch"] == 64
    ]
    assert "batch 64: left out, needs 13.1 GiB of 10.0 GiB free" in capsys.readouterr().out


def test_the_tables_have_a_cell_for_each_size():
    settings = cost_against_size.SETTINGS
    record = recording.resume(None, settings)
    cases = [case for case in cost_against_size.cases(settings, None) if case["batch"] != 1]
    schedule.run(
        record, cases, 1, None, lambda case: case, lambda case: {"step_s": 1.5, "peak_gib": 0.25}
    )
    text = cost_against_size.summary(record)
    assert text.count("1.5") == text.count("0.25") == 3 * 11
    assert text.count("–") == 2 * 3
    for label in settings["sweeps"]:
        assert label in text


def test_the_short_form_has_the_smallest_sizes():
    sweeps = cost_against_size.short(cost_against_size.SETTINGS)["sweeps"].values()
    assert [[x for x, _ in sweep] for sweep in sweeps] == [[121, 169], [1, 8], [16, 40]]


def test_peaks_are_of_growing_batches_and_have_no_times(monkeypatch):
    settings = cost_against_size.peaks(cost_against_size.SETTINGS)
    assert len(cost_against_size.cases(settings, None)) == 3 * 4
    assert list(settings["measures"].values()) == ["peak_gib"]
    measured = {"first_s": 3.0, "step_s": 1.0, "base_gib": 0.5, "peak_gib": 2.0}
    monkeypatch.setattr(schedule, "measure", lambda options, environment: measured)
    assert cost_against_size.peak_alone({}) == {"base_gib": 0.5, "peak_gib": 2.0}


# --- what is really measured ------------------------------------------------------------------


def test_a_small_network_is_really_measured():
    options = {"network": "L=16", "side": 8, "batch": 2, "steps": 2}
    found = schedule.measure({"what": "training", "candidate": OURS, **options})
    assert set(found) == {
        "first_s",
        "step_s",
        "steps_s",
        "images_per_s",
        *(("base_gib", "peak_gib") if measure.resident("VmRSS") is not None else ()),
    }
    assert len(found["steps_s"]) == 2
    assert all(value > 0 for value in found["steps_s"])
    assert found["images_per_s"] == pytest.approx(2 / found["step_s"], rel=1e-3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel is not Linux")
def test_the_peak_is_that_since_the_mark_and_counts_touched_memory():
    program = (
        "import measure, numpy as np\n"
        "np.ones(2**26)\n"  # 0.5 GiB, freed at once: before the mark
        "measure.restart_peak()\n"
        "base = measure.resident('VmRSS')\n"
        "np.ones(2**25)\n"  # 0.25 GiB
        "print(measure.resident('VmHWM') - base)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(0.25, abs=0.02)  # other allocations: a few MiB


def test_the_limit_is_counted_in_multiply_adds_and_bytes(monkeypatch):
    monkeypatch.setattr(measure, "seconds", lambda function: (function(), 2.0)[1])
    limit = measure.limit(side=8, mebibytes=1, repeats=1)
    assert limit == {"multiply_adds_per_s": 8**3 / 2, "bytes_per_s": 2 * 2**20 / 2}


def test_the_worker_refuses_a_measurement_of_nobody():
    with pytest.raises(schedule.Failed, match="training needs --candidate"):
        schedule.measure({"what": "training"})


@pytest.mark.parametrize(
    ("value", "written"), [(1.23456789, 1.2346), ({"a": [0.1234567]}, {"a": [0.12346]}), (3, 3)]
)
def test_five_digits_are_recorded(value, written):
    assert measure.rounded(value) == written


def test_a_record_names_the_machine_and_the_versions():
    found = recording.provenance()
    assert {"python", "tensorflow", "keras"} <= set(found["versions"])
    assert "cores used" in found["machine"]
    free = recording.free_gib()
    assert free is None or (free > 0 and math.isfinite(free))


def test_networks_have_their_depth_and_classes():
    assert candidates.configuration("L=40").depth == 40
    assert candidates.configuration("L=40").growth_rate == 12
    assert (candidates.classes("L=40"), candidates.classes("DenseNet121")) == (10, 1000)


# --- the article in two versions of Keras -----------------------------------------------------


def test_what_was_recorded_of_keras_3_is_what_it_does():
    recorded = records.read("article_in_keras_2")["runs"][1]
    with pytest.warns(UserWarning, match="does not have a `build"):
        found = article_in_keras_2.measure(keras)
    assert recorded.items() >= (found | {"keras": recorded["keras"]}).items()
    assert article_in_keras_2.mixed(keras, keras) == recorded["with_its_own_layers"]
