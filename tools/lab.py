"""Start JupyterLab on a notebook.

usage: python tools/lab.py NOTEBOOK

The access token is kept, and nothing is asked of the network: no update check and no news.
"""

import os
import subprocess
import sys


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
    # The kernel must be the one beside this Python, not a user's of the same name.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    try:
        sys.exit(subprocess.call(command(*sys.argv[1:])))
    except KeyboardInterrupt:  # Jupyter has asked already
        sys.exit(0)
