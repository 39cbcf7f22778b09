"""Importing is lazy, and Keras starts quietly, with either backend, without hiding errors."""

import inspect
import os
import signal
import subprocess
import sys
import time

from densenet_nb._startup import NOISE, quietly

import keras
import processes
import pytest
import tensorflow as tf

import densenet_nb
from densenet_nb import _startup

BLOCK_TENSORFLOW = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def python(program, close_stderr=False, **environment):
    """Run `program` in a fresh Python; return what it wrote to stdout and to stderr."""
    variables = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | environment
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=variables,
        preexec_fn=(lambda: os.close(2)) if close_stderr else None,  # noqa: PLW1509
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def importing():
    return processes.outcomes("importing")


@pytest.mark.parametrize("check", processes.checks("importing"))
def test_importing(check, importing):
    assert not importing[check], importing[check]


def test_tensorflow_starts_quietly(importing):
    assert importing["stderr"] == ""


@pytest.mark.parametrize("name", densenet_nb.__all__)
def test_each_public_name_resolves_and_is_listed(name):
    assert getattr(densenet_nb, name) is not None
    assert name in dir(densenet_nb)


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'densenet_nb' has no attribute 'DenseNet120'"):
        densenet_nb.DenseNet120  # noqa: B018
    with pytest.raises(ImportError, match="DenseNet120"):
        from densenet_nb import DenseNet120  # noqa: F401


@pytest.mark.parametrize("before", ["keras", "tensorflow"])
def test_tensorflow_starts_quietly_after(before):
    # What a user's own import prints before ours is not ours to hide: the mark comes after it.
    mark = "import sys; sys.stderr.write('MARK'); sys.stderr.flush()"
    stdout, stderr = python(
        f"import {before}\n{mark}\nimport densenet_nb.models\n"
        "import keras, tensorflow as tf; print(tf.add(1, 1).numpy())\n"
        "print(keras.saving.get_registered_object('densenet_nb>DenseBlock').__name__)"
    )
    assert stderr.split("MARK")[1] == ""
    assert stdout == "2\nDenseBlock\n"


def test_a_real_error_survives(tmp_path):
    # A planted `keras` writes to the descriptor itself, as native code does, and then fails.
    (tmp_path / "keras.py").write_text(
        "import os\n"
        "os.write(2, b'I0000 00:00:1.5     12 port.cc:153] oneDNN is on.\\n')\n"
        "os.write(2, b'E0000 00:00:1.5     12 gpu.cc:1] CUDA_ERROR_ECC: the memory is broken\\n')\n"
        "raise SystemError('no backend')\n",
        encoding="utf-8",
    )
    stdout, stderr = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n    import densenet_nb.models\nexcept SystemError as error:\n    print(error)"
    )
    assert stdout == "no backend\n"
    assert "the memory is broken" in stderr
    assert "oneDNN" not in stderr


@pytest.mark.parametrize("where", ["a program", "a notebook"])
def test_the_last_lines_of_a_tensorflow_that_aborts_reach_the_terminal(where, tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'F0000 00:00:1.5 12 cpu.cc:1] compiled to use AVX instructions')\n"
        "os.abort()\n",
        encoding="utf-8",
    )
    program = "import densenet_nb.models"
    if where == "a notebook":  # its descriptor 2 is a pipe that ends in the process that dies
        program = (
            "import sys\nfrom ipykernel.iostream import IOPubThread, OutStream\n"
            "import zmq, jupyter_client.session as s\n"
            "thread = IOPubThread(zmq.Context().socket(zmq.PUB)); thread.start()\n"
            "sys.stderr = OutStream(s.Session(), thread, 'stderr', watchfd=True)\n"
        ) + program
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"},
    )
    assert done.returncode == -signal.SIGABRT
    assert "compiled to use AVX instructions" in done.stderr


def test_a_program_started_meanwhile_does_not_hold_us_up():
    start = time.monotonic()
    with quietly():
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert time.monotonic() - start < 30
    sleeper.kill()
    sleeper.wait()


def test_a_program_in_one_file_is_not_started_again(monkeypatch, capfd):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", None)
    with quietly():
        os.write(2, b"seen at once\n")
        assert capfd.readouterr().err == "seen at once\n"


@pytest.mark.parametrize(
    ("hidden", "driver", "library", "expected"),
    [
        (None, True, True, True),
        ("0", True, True, True),
        ("-1", True, True, False),
        ("", True, True, False),
        (None, False, True, False),
        (None, True, False, False),  # a container that shows the host's devices
    ],
)
def test_importing_looks_for_a_gpu_only_where_there_is_none(
    hidden, driver, library, expected, tmp_path, monkeypatch
):
    def load(name):
        if not library:
            raise OSError(name)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(_startup, "_DRIVERS", (str(tmp_path if driver else tmp_path / "no"),))
    monkeypatch.setattr(_startup.ctypes, "CDLL", load)
    assert _startup.gpu_in_reach() == expected
    looked = []
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", looked.append)
    _startup.miss_gpu()
    assert looked == ([] if expected else ["GPU"])


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
         1),
        ("I0000 00:00:1795597301.281432    5386 port.cc:153] oneDNN custom operations are on.", 1),
        ("E0000 00:00:1.9  5 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: "
         "Failed call to cuInit: UNKNOWN ERROR (303)", 1),
        ("E0000 00:00:1.9  5 util.cc:131] oneDNN supports DT_HALF only on platforms with AVX-512. "
         "Falling back to the default Eigen-based implementation if present.", 1),
        ("E0000 00:00:1.9  5 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: "
         "Failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", 0),
        ("W0000 00:00:1.9  5 gpu_device.cc:2431] Cannot dlopen some GPU libraries.", 0),
        ("F0000 00:00:1.9  5 cpu_feature_guard.cc:1] compiled to use AVX instructions", 0),
        ("Traceback (most recent call last):", 0),
    ],
)  # fmt: skip
def test_what_counts_as_noise(line, noise):
    assert bool(NOISE.fullmatch(line)) == bool(noise)


def test_quietly_prints_what_is_not_noise_after_it(capfd):
    with quietly():
        os.write(2, b"I0000 00:00:1.9  5 a.cc:1] fine\nsomething broke\n")
        assert capfd.readouterr().err == ""
    sys.stderr.flush()
    assert capfd.readouterr().err == "something broke\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX closes a descriptor before the program starts")
def test_starts_without_a_standard_error():
    assert python("import densenet_nb.models; print('started')", True)[0] == "started\n"


def test_jax_may_be_chosen_in_keras_json(tmp_path):
    """(In the environment: test_processes.py.)"""
    (tmp_path / "keras.json").write_text('{"backend": "jax"}', encoding="utf-8")
    program = (
        "import densenet_nb, keras\n"
        "print(keras.backend.backend())\n"
        "print(*[name for name in sys.modules if name.split('.')[0] == 'tensorflow'])"
    )
    stdout, stderr = python(BLOCK_TENSORFLOW + program, KERAS_HOME=str(tmp_path))
    assert stdout == "jax\n\n"
    assert stderr == ""


def test_load_model_has_the_signature_of_keras():
    def parameters(function):
        return [
            (p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
        ]

    assert parameters(densenet_nb.load_model) == parameters(keras.saving.load_model)
