"""Start Keras and its backend without TensorFlow's log lines; importing this module does it.

TensorFlow's native code writes to file descriptor 2 as it is imported and as it looks for a GPU,
whatever the log level: lines with times and process ids that would differ in every run of a
notebook. They go to a temporary file, and all that are not known noise are printed again.
"""

import contextlib
import os
import re
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


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; at the end print it again, less `NOISE`.

    Where there is no such descriptor (a program without a console), nothing is held back.
    """
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as log:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            for line in log.read().decode(errors="replace").splitlines():
                if not NOISE.fullmatch(line) and sys.stderr is not None:
                    print(line, file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; 3 would hide them too

with quietly():
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
