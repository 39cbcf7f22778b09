"""Checks in processes of their own: several share one start of TensorFlow or JAX.

A program is a module of this folder that is no test; its checks are its functions `check_…`. They
are called in their order, and each is reported by its name.
"""

import importlib
import importlib.abc
import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

FOLDER = Path(__file__).parent
CHECK = re.compile(r"^def (check_\w+)\(\):", re.MULTILINE)


def checks(program):
    """Return the names of a program's checks."""
    return CHECK.findall((FOLDER / f"{program}.py").read_text(encoding="utf-8"))


def outcomes(program, cwd=None, missing=(), **environment):
    """Run a program; return for each check what it raised, or "", and what there is on `stderr`.

    Nothing but the report may be printed to stdout.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    call = f"import processes; processes.report({program!r}, {missing!r})"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(FOLDER)!r}); {call}"],
        cwd=cwd,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


def report(program, missing):
    """Call the checks of a program in this process, where packages are `missing`; print them."""
    sys.meta_path.insert(0, Missing(missing))
    module = importlib.import_module(program)
    found = {}
    for name in checks(program):
        try:
            getattr(module, name)()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


class Missing(importlib.abc.MetaPathFinder):
    """Finds nothing, where a package should be as if it were not installed."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
