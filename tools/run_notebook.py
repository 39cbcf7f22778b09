"""Run notebooks from cold kernels and save their outputs in place, the same bytes for the same run.

usage: python tools/run_notebook.py [NOTEBOOK ...]      (default: all of notebooks/, in order)

A figure that README shows is a notebook's with the same words; it is saved anew as well.
"""

import base64
import re
import sys
import time
from pathlib import Path

import nbformat
import shield
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"

LONG = 15
"""Lines of a code cell beyond which it is worth asking whether it holds a single thought."""

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


def figures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """Return the PNG of each figure of a notebook by the words that describe it."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return {
        output.metadata["image/png"]["alt"]: base64.b64decode(output.data["image/png"])
        for output in outputs
        if "image/png" in output.get("data", {})
    }


def reading_minutes(notebook: nbformat.NotebookNode) -> int:
    """Return how long a notebook takes to read: its words / 130 + lines of code / 10 + figures.

    Words are those of the Markdown outside folded details; lines are neither blank nor comments.
    """
    words = lines = drawn = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += len(
                re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL).split()
            )
        elif cell.cell_type == "code":
            code = [line.strip() for line in cell.source.splitlines()]
            lines += sum(1 for line in code if line and not line.startswith("#"))
            drawn += sum("image/png" in output.get("data", {}) for output in cell.outputs)
    return round(words / 130 + lines / 10 + drawn)


def long_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the first line and the length of each code cell that is long for a single thought."""
    code = [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
    counted = [(source.partition("\n")[0], source.count("\n") + 1) for source in code]
    return [f"{first!r} has {lines} lines" for first, lines in counted if lines > LONG]


def readme_figures() -> dict[str, Path]:
    """Return the files of README's figures by the words that describe them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    images = re.findall(r"!\[([^]]+)\]\(([^)]+\.png)\)", readme)
    return {" ".join(alt.split()): ROOT / path for alt, path in images}


def main(paths: list[str]) -> int:
    """Run and rewrite each notebook; return 1 if a cell of any fails (that file stays as it is)."""
    shield.shield()
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
        drawn = figures(notebook)
        for alt, file in readme_figures().items():
            if alt in drawn:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(drawn[alt])
        seconds, minutes = time.perf_counter() - start, reading_minutes(notebook)
        print(f"{path.name}: ran in {seconds:.1f} s, reads in {minutes} minutes", flush=True)
        for cell in long_cells(notebook):
            print(f"  a long cell: {cell}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
