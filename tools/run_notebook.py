"""Run notebooks from cold kernels and save their outputs in place, the same bytes for the same run.

usage: python tools/run_notebook.py [NOTEBOOK ...]      (default: all of notebooks/, in order)
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""The whole of a notebook's metadata: no version of Python, so that each gives the same file."""


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Return `notebook` with the outputs of a cold kernel started in `folder`.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell failed.
    """
    # The kernel must be the one beside this Python, not a user's of the same name.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def main(paths: list[str]) -> int:
    """Run and rewrite each notebook; return 1 if a cell of any fails (that file stays as it is)."""
    failed = 0
    for path in map(Path, paths or sorted(map(str, NOTEBOOKS.glob("[0-9]*.ipynb")))):
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        try:
            run(notebook, path.resolve().parent)
        except CellExecutionError as error:
            print(f"{path.name}: a cell failed\n{error}", file=sys.stderr)
            failed = 1
            continue
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
