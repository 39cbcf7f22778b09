"""A user's own settings change nothing here, and pytest's options do what they say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import browse
import nbformat
import pytest
import shield
from run_notebook import METADATA

ROOT = Path(__file__).resolve().parent.parent

STOCK = {
    "import os, keras": "",
    "print(keras.config.backend(), keras.config.floatx(), keras.config.image_data_format())": (
        "tensorflow float32 channels_last\n"
    ),
}
FIGURE = {
    "from matplotlib import pyplot": "",
    "print(pyplot.rcParams['figure.facecolor'], pyplot.rcParams['figure.figsize'])": (
        "white [6.4, 4.8]\n"
    ),
    "figure, _ = pyplot.subplots()\npyplot.close()\n"
    "display(figure, metadata={'image/png': {'alt': 'nothing'}})": {
        "text/plain": "<Figure size 640x480 with 1 Axes>"
    },
}

PLANTED = {
    ".jupyter/jupyter_server_config.py": "c.ServerApp.root_dir = '/nowhere'\n",
    ".jupyter/jupyter_lab_config.json": '{"LabApp": {"app_dir": "/nowhere"}}',
    ".ipython/profile_default/startup/mine.py": "print('my startup file')\n",
    ".ipython/profile_default/ipython_kernel_config.py": (
        "c.InlineBackend.figure_formats = {'svg'}\n"
    ),
    ".config/matplotlib/matplotlibrc": "figure.facecolor: red\nfigure.figsize: 3, 3\n",
    ".keras/keras.json": (
        '{"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}'
    ),
    ".local/share/jupyter/kernels/python3/kernel.json": (
        '{"argv": ["false"], "display_name": "mine", "language": "python"}'
    ),
    "startup.py": "print('my PYTHONSTARTUP')\n",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Make a home directory full of settings, and point every variable there."""
    folder = tmp_path / "home"
    for name, text in PLANTED.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in list(os.environ):
        if name.startswith(("IPYTHON", "JUPYTER", "KERAS", "MPL", "TF_CPP", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / ".local/share/jupyter"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("MATPLOTLIBRC", str(folder / ".config/matplotlib/matplotlibrc"))
    monkeypatch.setenv("MPLBACKEND", "pdf")
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "startup.py"))
    return folder


@pytest.fixture
def project(tmp_path):
    """Make a copy of what configures this project's tests, with no test in it."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml", ".gitignore", ".gitattributes"):
        shutil.copy(ROOT / name, folder)
    (folder / "README.md").write_text("")
    (folder / "notebooks").mkdir()
    return folder


def write(path, cells):
    """Write a notebook of these cells, each with what it prints or shows."""
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(METADATA))
    for count, (source, output) in enumerate(cells.items(), 1):
        cell = nbformat.v4.new_code_cell(source, execution_count=count)
        if isinstance(output, dict):
            data = output | {"image/png": ""}
            alt = {"image/png": {"alt": "nothing"}}
            cell.outputs = [nbformat.v4.new_output("display_data", data, metadata=alt)]
        elif output:
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
        notebook.cells.append(cell)
    nbformat.write(notebook, path)


def run(*command, cwd, **environment):
    """Run Python with these arguments; return the exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def pytest_(project, *options, cwd=None, **environment):
    return run("-m", "pytest", "-q", *options, cwd=cwd or project, **environment)


# A user's own settings


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("start", ["the root", "elsewhere"])
def test_strict_notebooks_pass_beside_a_users_settings(start, project, tmp_path):
    path = project / "notebooks" / "figure.ipynb"
    if start == "the root":  # Keras takes seconds to start: once is enough
        write(path, FIGURE | STOCK)
        status, printed = pytest_(project, "--nbval", "notebooks/")
    else:
        write(path, FIGURE)
        status, printed = pytest_(project, "--nbval", path, cwd=tmp_path)
    assert status == 0, printed


@pytest.mark.usefixtures("home")
def test_a_notebook_is_regenerated_with_stock_settings(project):
    path = project / "notebooks" / "figure.ipynb"
    write(path, FIGURE)
    status, printed = run("tools/run_notebook.py", path, cwd=project)
    assert status == 0, printed
    outputs = [cell.outputs for cell in nbformat.read(path, as_version=4).cells]
    assert outputs[1][-1].text == list(FIGURE.values())[1]
    assert outputs[2][0].data["image/png"]
    assert "image/svg+xml" not in outputs[2][0].data


def test_jupyterlab_starts_beside_a_users_settings_and_keeps_their_theme(home, project):
    theme = home / ".jupyter/lab/user-settings"
    theme.mkdir(parents=True)
    log = project / "log"
    with log.open("w+") as file:
        server = subprocess.Popen(
            [sys.executable, "tools/lab.py", "--no-browser", "--ServerApp.port=0"],
            cwd=project,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + browse.WAIT
            while not (found := re.search(r"http://\S+token=\w+", log.read_text())):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            with urllib.request.urlopen(found[0]) as page:
                assert json.dumps(str(theme)) in page.read().decode()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def test_a_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(shield, "FOLDER", tmp_path / "file" / "settings")
    environment = shield.environment()
    assert not environment["KERAS_HOME"].startswith(str(tmp_path))
    assert Path(environment["KERAS_HOME"]).parent.is_dir()


# Options of pytest


def test_what_failed_is_run_again(project, tmp_path):
    """Of a notebook all of it: a cell alone would lack what those before it made."""
    good, bad = project / "notebooks" / "a.ipynb", project / "notebooks" / "b.ipynb"
    write(good, {"print(1)": "1\n"})
    write(bad, {"x = 1": "", "print(x + 1)": "3\n"})
    options = ("--nbval", "-rA", "-p", "no:xdist", "notebooks/")
    status, printed = pytest_(project, "--sw", *options)
    assert status != 0
    assert "FAILED notebooks/b.ipynb::Cell 1" in printed
    write(bad, {"x = 1": "", "print(x + 1)": "2\n"})
    for option in ("--lf", "--sw"):
        again = shutil.copytree(project, tmp_path / option)
        status, printed = pytest_(again, option, *options)
        assert status == 0, printed
        cells = re.findall(r"PASSED notebooks/(\w\.ipynb::Cell \d)", printed)
        assert cells == ["b.ipynb::Cell 0", "b.ipynb::Cell 1"]


def test_nbval_may_be_the_only_plugin(project):
    write(project / "notebooks" / "a.ipynb", {"print(1)": "1\n"})
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    status, printed = pytest_(project, "-p", "nbval", "--nbval", "notebooks/", **alone)
    assert status == 0, printed
    assert "1 passed" in printed
    status, printed = pytest_(project, "notebooks/", **alone)
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED, printed


# Line ends


def test_a_clone_with_line_ends_of_windows_is_the_same(tmp_path):
    def git(*command, cwd=tmp_path):
        done = subprocess.run(
            ["git", "-c", "core.autocrlf=true", *command],
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    shutil.copy(ROOT / ".gitattributes", tmp_path)
    for name in (".ci/run", "requirements.lock", "notebooks/00_start_here.ipynb", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "figure.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "all")
    git("clone", "--quiet", "-c", "core.autocrlf=true", ".", "clone")
    clone = tmp_path / "clone"
    names = git("ls-files", cwd=clone).split()
    assert len(names) == 6
    for name in names:
        assert (clone / name).read_bytes() == (tmp_path / name).read_bytes(), name
    (clone / "Makefile").touch()
    assert git("status", "--porcelain", cwd=clone) == ""
