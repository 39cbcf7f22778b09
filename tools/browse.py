"""Open notebooks in JupyterLab with headless Chromium: run them, or take their pictures.

usage: python tools/browse.py FOLDER NOTEBOOK ...

writes FOLDER/NOTEBOOK.png for each, the whole page as JupyterLab shows its saved outputs. All work
is on copies in a temporary folder. CHROMIUM names the browser if `chromium` is not found.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import nbformat
import shield
from playwright.sync_api import Page, sync_playwright

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

WAIT = 120
"""Seconds that JupyterLab may take to start or to show a notebook."""

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page
    "apputils-extension/notification": {"fetchNews": "false"},  # no question above the notebook
}

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Formulas are set some time after the text is there. Until then their dollars can be seen.
FORMULAS_ARE_SET = r"""() => [...document.querySelectorAll('.jp-RenderedMarkdown')].every(cell => {
    const text = cell.cloneNode(true);
    text.querySelectorAll('code, pre').forEach(node => node.remove());
    return !/\$[^$]+\$/.test(text.textContent);
})"""
IMAGES_ARE_THERE = "() => [...document.images].every(image => image.complete)"

# A cell's prompt is [*] while it waits or runs, [3] after it, [ ] if an error kept it from running.
# If all are [ ], JupyterLab has dropped the run: it does so now and then while a kernel connects.
RUN_STATE = r"""() => {
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.textContent);
    if (prompts.every(text => text.includes('[ ]'))) return 'dropped';
    return prompts.some(text => text.includes('*')) ? '' : 'over';
}"""
ERRORS = """() => [...document.querySelectorAll(
    '[data-mime-type="application/vnd.jupyter.stderr"], mjx-merror'
)].map(node => node.textContent)"""
CELLS_ARE_THERE = """count => document.querySelectorAll('.jp-Notebook .jp-Cell').length >= count
    && [...document.querySelectorAll('.jp-Notebook .jp-MarkdownCell')].every(
        cell => cell.querySelector('.jp-RenderedMarkdown')?.textContent)"""
HEIGHT = "() => document.querySelector('.jp-WindowedPanel-inner').scrollHeight"


def chromium() -> str | None:
    """Return the path of Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path) -> Iterator[tuple[str, str]]:
    """Run JupyterLab on `folder`, started as ``make lab`` does; give its address and its token.

    `home` holds the page's settings; a user's own play no part.
    """
    for name, setting in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting))
    environment = shield.environment() | {
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = lab.command("--no-browser", "--ServerApp.port=0", f"--ServerApp.root_dir={folder}")
    with (home / "log").open("w+") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            end = time.monotonic() + WAIT
            while not (started := list((home / "runtime").glob("jpserver-*.json"))):
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"JupyterLab did not start:\n{log.read()}")
                time.sleep(0.2)
            address = json.loads(started[0].read_text())
            yield address["url"], address["token"]
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def browser(*notebooks: Path, outputs: bool = True) -> Iterator[Callable[[Path], Page]]:
    """Give a function that opens one of `notebooks` in JupyterLab and returns the page.

    Parameters
    ----------
    *notebooks : path
        They are copied; the originals are not touched.
    outputs : bool
        Whether the copies keep their outputs.

    Raises
    ------
    RuntimeError
        There is no Chromium, or JupyterLab did not start.
    """
    if chromium() is None:
        raise RuntimeError("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        folder = scratch / "notebooks"
        folder.mkdir()
        shutil.copytree(BENCHMARKS, scratch / "benchmarks")  # notebooks read the records there
        for path in notebooks:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code" and not outputs:
                    cell.outputs, cell.execution_count = [], None
            nbformat.write(notebook, folder / path.name)
        url, token = stack.enter_context(jupyterlab(folder, scratch))
        driver = stack.enter_context(sync_playwright())
        root = getattr(os, "geteuid", lambda: 1)() == 0
        chrome = driver.chromium.launch(
            executable_path=chromium(), args=FLAGS, chromium_sandbox=not root
        )
        stack.callback(chrome.close)

        def open_notebook(path: Path) -> Page:
            page = chrome.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(1000 * WAIT)
            page.goto(f"{url}lab/tree/{path.name}?token={token}&reset")
            page.wait_for_function(CELLS_ARE_THERE, arg=len(nbformat.read(path, 4).cells))
            page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
            return page

        yield open_notebook


def run_all(page: Page, seconds: float) -> None:
    """Run all cells by JupyterLab's menu; return when they are done or one has failed.

    A run that JupyterLab drops is started again, as a reader would.
    """
    for _ in range(3):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)  # until then a prompt may not show yet that its cell waits
        state = page.wait_for_function(RUN_STATE, timeout=1000 * seconds).json_value()
        if state == "over":
            return
    raise RuntimeError("JupyterLab dropped the run three times")


def errors(page: Page) -> list[str]:
    """Return the text of every error, line on stderr, and formula that could not be set."""
    page.wait_for_function(FORMULAS_ARE_SET)
    return page.evaluate(ERRORS)


def picture(page: Page, path: Path) -> None:
    """Write the whole notebook to `path` (PNG), with its formulas set."""
    page.wait_for_function(FORMULAS_ARE_SET)
    page.wait_for_function(IMAGES_ARE_THERE)
    # The page must be as high as the notebook: what lies below the window is not drawn.
    page.set_viewport_size({"width": 1300, "height": page.evaluate(HEIGHT) + 200})
    page.locator(".jp-WindowedPanel-outer").screenshot(path=path)


def main(folder: Path, notebooks: list[Path]) -> None:
    """Write a picture of each notebook to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with browser(*notebooks) as open_notebook:
        for notebook in notebooks:
            page = open_notebook(notebook)
            picture(page, folder / f"{notebook.stem}.png")
            page.close()
            print(folder / f"{notebook.stem}.png", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
