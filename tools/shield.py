"""Shield this project's notebooks and tests from the settings that a user has made for other work.

Saved outputs are those of stock settings. A style of Matplotlib's, a startup file of IPython's,
half precision in ``keras.json`` or a folder in Jupyter's configuration would change them, or keep
JupyterLab from starting. Here these programs find a folder of this project's instead.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".settings"

DROPPED = (
    "JUPYTER_CONFIG_PATH",
    "JUPYTER_NO_CONFIG",
    "JUPYTER_PATH",
    "KERAS_BACKEND",
    "KERAS_MAX_EPOCHS",
    "KERAS_MAX_STEPS_PER_EPOCH",
    "KERAS_NNX_ENABLED",
    "MATPLOTLIBRC",
    "MPLBACKEND",
    "PYTHONSTARTUP",  # IPython runs it too
)
"""Variables of a user's that count for more than the folders."""


def environment() -> dict[str, str]:
    """Return the environment for a program that is to run with stock settings."""
    folder = FOLDER if _writable(FOLDER) else Path(tempfile.mkdtemp())
    if folder != FOLDER:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    return kept | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter-data" / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel beside this Python, not another of its name
        "KERAS_HOME": str(folder / "keras"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }


def shield() -> None:
    """Give this process, and all that it starts, stock settings: before it imports any of them."""
    shielded = environment()
    for name in os.environ.keys() - shielded.keys():
        del os.environ[name]
    os.environ.update(shielded)


def _writable(folder: Path) -> bool:
    """Make the folder if need be; return whether this user may write there."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError:  # the clone is another user's, or on a file system that is read only
        return False
    return os.access(folder, os.W_OK)
