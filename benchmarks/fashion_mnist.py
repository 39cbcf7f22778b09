"""Fashion-MNIST without a network: from the Debian package ``dataset-fashion-mnist``.

The package holds the original four files, but for name and time, which it takes out of their gzip
headers. TFDS knows the originals by their SHA-256, so the headers are put back.
"""

import struct
import tempfile
from pathlib import Path

import numpy as np

from densenet_nb import data

FILES = {  # name: time in the original's gzip header
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def original(file: str) -> bytes:
    """Return one of `FILES` as it was before it was packaged."""
    debian = (DEBIAN / file).read_bytes()
    has_name, others, unix = 8, 0, 3
    header = struct.pack("<2sBBIBB", b"\x1f\x8b", 8, has_name, FILES[file], others, unix)
    return header + file.removesuffix(".gz").encode() + b"\0" + debian[10:]


def load_arrays() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the 60,000 training and 10,000 test examples as `data.load_arrays` does.

    Raises
    ------
    FileNotFoundError
        They are neither prepared nor in the package; says how to get them.
    """
    if not DEBIAN.is_dir():
        return data.load_arrays("fashion_mnist")
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            Path(folder, file).write_bytes(original(file))
        return data.load_arrays("fashion_mnist", manual_dir=folder)
