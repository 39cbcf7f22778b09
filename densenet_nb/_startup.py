"""Start Keras and its backend without TensorFlow's log lines; importing this module does it.

TensorFlow's native code writes to file descriptor 2 as it is imported and as it looks for a GPU,
whatever the log level: lines with times and process ids that would differ in every run of a
notebook. They are held back meanwhile, and all that are not known noise are printed again.
"""

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

NOISE = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|I\d{4} \S+ +\d+ \S+:\d+\] .*"  # information: processor features, oneDNN, no CUDA drivers
    r"|To enable the following instructions: .* rebuild TensorFlow with .*"
    # An error line for a machine that simply has no GPU: no driver (303), no device (100).
    r"|E\d{4} .*failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE).*"
    # Half precision on a processor without instructions for it: slower, the same answers.
    r"|E\d{4} .*oneDNN supports DT_\w+ only on platforms with AVX-512\..*"
    r"|"
)
"""Whole lines that say nothing a reader must know."""


_END = b"\0end\n"
_HOLDER = f"""
import sys
held = b""
for line in sys.stdin.buffer:
    if line == {_END!r}:
        break
    held += line
try:
    with open(1, "wb") as parent:
        parent.write(held)
except OSError:
    sys.stderr.buffer.write(held)
"""
"""Holds its input back, then returns it; if who started it is dead, writes it to stderr.

TensorFlow ends the process at once where it can't run (`abort`, an illegal instruction), and its
last lines are the only ones that say why: so another process holds them, in memory.
"""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; at the end print it again, less `NOISE`.

    Where there is no such descriptor (a program without a console), or no Python to start a second
    time (a program in one file), nothing is held back.
    """
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    try:
        holder = _start_holder(stderr)
    except OSError:
        os.close(stderr)
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(holder.stdin.fileno(), 2)
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        held, _ = holder.communicate(b"\n" + _END)  # its input may be open in other processes too
        for line in held.decode(errors="replace").splitlines():
            if not NOISE.fullmatch(line) and sys.stderr is not None:
                print(line, file=sys.stderr)


def _start_holder(stderr: int) -> subprocess.Popen:
    """Start the process that holds lines back; raise OSError where that is not possible."""
    if getattr(sys, "frozen", False) or not sys.executable:
        raise OSError("sys.executable is not Python")
    with contextlib.suppress(AttributeError, OSError):
        stderr = sys.stderr.fileno()  # in a notebook the terminal, where 2 is a pipe to ourselves
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C is for this process alone
    )


def gpu_in_reach() -> bool:
    """Whether CUDA would find a GPU: its library and the driver are there, and none is hidden.

    Told without CUDA itself, which once started serves no forked process and reads
    ``CUDA_VISIBLE_DEVICES`` no more.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return False
    if not any(map(os.path.exists, _DRIVERS)):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""What the drivers for servers, for Windows' Linux and for small boards make when they start."""


def miss_gpu() -> None:
    """Let TensorFlow look for a GPU where there is none: it complains the first time, only then.

    Where there is one, importing must not start it.
    """
    import tensorflow as tf

    if tf.test.is_built_with_cuda() and not gpu_in_reach():
        tf.config.list_physical_devices("GPU")


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; 3 would hide them too

try:
    tempfile.gettempdir()
except FileNotFoundError:  # no folder for temporary files: TensorFlow imports absl's tests,
    os.environ.setdefault("TEST_TMPDIR", os.curdir)  # which name one, though nothing is written

with quietly():
    import keras

    if keras.backend.backend() == "tensorflow":
        miss_gpu()
