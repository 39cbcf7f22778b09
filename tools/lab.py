"""Start JupyterLab on a notebook.

usage: python tools/lab.py NOTEBOOK

The access token is kept, and nothing is asked of the network: no update check and no news.
The server and the notebooks have stock settings; the page keeps the reader's theme and shortcuts.
"""

import os
import subprocess
import sys
from pathlib import Path

import shield
from jupyter_core.paths import jupyter_config_dir


def command(*arguments: str) -> list[str]:
    """Return the command that starts JupyterLab, with further `arguments`."""
    root = getattr(os, "geteuid", lambda: 1)() == 0  # Windows has no such user
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        *(["--allow-root"] if root else []),  # Jupyter refuses root unless told
        *arguments,
    ]


if __name__ == "__main__":
    page = Path(jupyter_config_dir()) / "lab" / "user-settings"
    shield.shield()
    if os.access(page, os.W_OK):
        os.environ.setdefault("JUPYTERLAB_SETTINGS_DIR", str(page))
    try:
        sys.exit(subprocess.call(command(*sys.argv[1:])))
    except KeyboardInterrupt:  # Jupyter has asked already
        sys.exit(0)
