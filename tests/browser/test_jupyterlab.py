"""A reader opens a notebook in JupyterLab, runs all cells, and sees no error."""

import re

import browse
import nbformat
import pytest
from run_notebook import METADATA, NOTEBOOKS

GATE = ("03_",)
"""What every run of the tests opens, the quickest; `--all-notebooks` opens the others too."""

needs_chromium = pytest.mark.skipif(
    browse.chromium() is None, reason="no Chromium: install it, or name one in CHROMIUM"
)


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all-notebooks")
        paths = sorted(NOTEBOOKS.glob("*.ipynb"))
        chosen = [path for path in paths if everything or path.name.startswith(GATE)]
        metafunc.parametrize("path", chosen, ids=lambda path: path.name)


@needs_chromium
def test_a_notebook_runs_in_jupyterlab(path):
    requests = []
    with browse.browser(path, outputs=False) as open_notebook:
        page = open_notebook(path)
        page.on("request", lambda request: requests.append(request.url))
        browse.run_all(page, seconds=240)
        assert browse.errors(page) == []
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        pictures = page.locator(".jp-OutputArea-output img").count()
        descriptions = page.locator(".jp-OutputArea-output p[style*=absolute]").count()
    assert prompts == [f"[{n}]:" for n in range(1, len(prompts) + 1)]
    assert pictures == descriptions
    here = re.compile(r"(https?|ws)://(localhost|127\.0\.0\.1):\d+/|data:|blob:")
    assert [url for url in requests if not here.match(url)] == []


@needs_chromium
def test_errors_and_bad_formulas_are_seen(tmp_path):
    path = tmp_path / "bad.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell(r"A formula: $\frac{1}$"),
        nbformat.v4.new_code_cell("import sys; print('late', file=sys.stderr)"),
        nbformat.v4.new_code_cell("1 / 0"),
        nbformat.v4.new_code_cell("print('not reached')"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(METADATA))
    nbformat.write(notebook, path)
    with browse.browser(path) as open_notebook:
        page = open_notebook(path)
        browse.run_all(page, seconds=60)
        errors = "\n".join(browse.errors(page))
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
        browse.picture(page, tmp_path / "bad.png")
    assert "ZeroDivisionError" in errors
    assert "late" in errors
    assert prompts[-1] == "[ ]:"
    assert (tmp_path / "bad.png").stat().st_size > 1000
