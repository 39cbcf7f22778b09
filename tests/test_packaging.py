"""pyproject.toml, environment.yml and the locks say the same; no file names a package index.

And what README and CONTRIBUTING say of files is so.
"""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import run_notebook
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from densenet_nb import cost, engine, records
from densenet_nb.configurations import CONFIGURATIONS

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-test.lock", "requirements-gpu.lock")
EXTRAS = {"requirements-test.lock": ["test"], "requirements-gpu.lock": ["test", "gpu"]}
SYSTEMS = [
    {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"},
    {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin"},
    {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"},
]
PYTHONS = ("3.11", "3.12", "3.13")
MARKERS = [
    {**system, "python_version": python, "python_full_version": f"{python}.9", "extra": ""}
    for system in SYSTEMS
    for python in PYTHONS
]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


DENSENET121 = CONFIGURATIONS["DenseNet121"]
PROJECT = tomllib.loads(text("pyproject.toml"))["project"]


def extra(name):
    """Return what the extra `name` requires, those of the extras that it includes among them."""
    wanted = []
    for line in PROJECT["optional-dependencies"][name]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            wanted += sum(map(extra, sorted(requirement.extras)), [])
        else:
            wanted.append(line)
    return wanted


def requirements(lock):
    """Return the requirements in `lock`, as a list of (requirement, hashes)."""
    entries = re.sub(r"\\\n", " ", text(lock)).splitlines()
    return [
        (Requirement(entry.split(" --hash")[0]), re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        for entry in entries
        if entry and not entry.startswith("#")
    ]


def versions(lock, marker):
    """Return the version of each package that `lock` installs where `marker` holds."""
    found = {}
    for requirement, _ in requirements(lock):
        if requirement.marker is None or requirement.marker.evaluate(marker):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{lock} pins {name} twice where {marker}"
            found[name] = pin.version
    return found


@pytest.mark.parametrize(
    "marker", MARKERS, ids=lambda m: f"{m['sys_platform']}-{m['python_version']}"
)
@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_satisfies_every_requirement(lock, marker):
    wanted = sum(map(extra, EXTRAS.get(lock, ())), list(PROJECT["dependencies"]))
    locked = versions(lock, marker)
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} has {version} in {lock}"


def test_each_lock_agrees_with_the_one_it_extends():
    first, second, third = (
        {str(requirement): hashes for requirement, hashes in requirements(lock)} for lock in LOCKS
    )
    assert first.items() <= second.items() <= third.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock):
    entries = requirements(lock)
    assert len(entries) > 100
    assert [str(requirement) for requirement, hashes in entries if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_cuda_is_in_a_lock_of_its_own(lock):
    """(And torch, a peer of the benchmarks, in none.)"""
    for marker in MARKERS:
        heavy = [name for name in versions(lock, marker) if name.startswith(("torch", "nvidia"))]
        assert not [name for name in heavy if name.startswith("torch")]
        asked = lock == "requirements-gpu.lock" and marker["sys_platform"] == "linux"
        assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= {*heavy} if asked else not heavy


@pytest.mark.skipif(shutil.which("make") is None, reason="no make: install it")
@pytest.mark.parametrize(
    ("command", "lock"),
    [
        ("lab", "requirements.lock"),
        ("test", "requirements-test.lock"),
        ("lab GPU=1", "requirements-gpu.lock"),
        ("test GPU=1", "requirements-gpu.lock"),
    ],
)
def test_what_a_command_sets_up(command, lock, tmp_path):
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "GPU"}
    done = subprocess.run(
        ["make", "--dry-run", *command.split()],
        cwd=tmp_path,
        env=environment | {"MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall(r"--requirement (\S+)", done.stdout) == [lock]


def test_environment_yml_equals_pyproject():
    *conda, pip = yaml.safe_load(text("environment.yml"))["dependencies"]
    assert "pip" in conda
    assert pip == {"pip": [*PROJECT["dependencies"], "-e ."]}
    (python,) = (Requirement(line) for line in conda if line != "pip")
    assert python.name == "python"
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])


def test_the_supported_pythons_are_those_tested_here():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported] == list(PYTHONS)
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in text("Makefile")


def test_every_dependency_has_its_reason_beside_it():
    lines = text("pyproject.toml").splitlines()
    everything = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in everything:
        for line in [line for line in lines if f'"{requirement}"' in line]:
            assert re.search(r"#\s+\w.{5,}$", line), f"{requirement}: say why it is there"


@pytest.mark.parametrize(
    "name", [*LOCKS, "pyproject.toml", "environment.yml", "Makefile", ".ci/run", ".gitignore"]
)
def test_no_file_names_a_package_index(name):
    index = r"://|pypi\b|--(extra-)?index-url|--find-links|--trusted-host|conda-forge|channels:"
    assert re.findall(index, text(name).replace("--no-emit-index-url", "")) == []


STUB = """#!/bin/sh
# Stands for Python: notes its arguments, and makes an environment whose Python is itself.
echo "$*" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make: install it")
def test_each_command_sets_up_once_and_leaves_the_others_set_up_alone(tmp_path):
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)
    environment = os.environ | {"LOG": str(log), "MAKEFLAGS": ""}  # the tests may run under make
    for lock in LOCKS * 2:
        command = ["make", f"PYTHON={stub}", f".venv/.{lock}"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    calls = log.read_text().splitlines()
    assert sum(call.startswith("-m venv") for call in calls) == 1
    assert sum("--require-hashes" in call for call in calls) == len(LOCKS)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make: install it")
def test_a_python_without_venv_is_told_what_to_install(tmp_path):
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    stub = tmp_path / "python"  # Debian's without python3-venv: venv is there, ensurepip is not
    stub.write_text('#!/bin/sh\ncase "$*" in *ensurepip*|"-m venv"*) exit 1;; esac\n')
    stub.chmod(0o755)
    command = ["make", f"PYTHON={stub}", ".venv/.requirements.lock"]
    environment = os.environ | {"MAKEFLAGS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{stub} can't make an environment" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()
    assert "apt install python3-venv" in text("README.md")


def test_readme_shows_the_figures_of_the_notebooks():
    shown = run_notebook.readme_figures()
    assert shown
    drawn = {}
    for path in run_notebook.NOTEBOOKS.glob("[0-9]*.ipynb"):
        drawn |= run_notebook.figures(nbformat.read(path, as_version=4))
    for alt, file in shown.items():
        assert file.read_bytes() == drawn[alt], "README's figure is old: run `make notebooks`"


def ratio(candidate, title):
    """Return the median of a measure of the recorded rounds, over that of keras.applications."""
    record = records.read("side_by_side")
    measure = record["settings"]["measures"][title]

    def median(name):
        wanted = {**measure["runs"], "candidate": name}.items()
        return np.median([r[measure["value"]] for r in record["runs"] if wanted <= r.items()])

    return median(candidate) / median("keras.applications")


def test_readme_s_numbers_are_the_record_s():
    readme = " ".join(text("README.md").split())
    for candidate in ("densenet_nb", "densenet_nb, memory-efficient"):
        step, peak = ratio(candidate, "training step"), ratio(candidate, "training, peak memory")
        assert f"{step:.2f} of the time and {peak:.2f} of the memory" in readme
    first = ratio("densenet_nb", "first step of stock fit")
    assert f"through its first step in {first:.2f} of the time" in readme
    stages = [
        {row.name: row.cost for row in cost.table(cost.rows(network))}
        for network in (DENSENET121, replace(DENSENET121, bottleneck=False))
    ]
    more, less = (costs["block1"].multiply_adds for costs in stages)
    assert f"*costs* {(more - less) / 1e6:.0f} million multiply-adds" in readme
    gpu = {
        run["candidate"]: f"{run['images_per_s']:,.0f}"
        for run in records.read("gpu_h200")["runs"]
        if run["precision"] == "float32"
    }
    assert f"{gpu['densenet_nb']} images a second" in readme
    assert f"reached {gpu['keras.applications']} and torchvision {gpu['torchvision']}" in readme
    h100 = records.read("gpu_h100")["runs"]
    half = [run for run in h100 if "bfloat16" in run["precision"] and "note" not in run]
    speed = {run["candidate"]: f"{run['images_per_s']:,.0f}" for run in half}
    peak = {run["candidate"]: f"{run['device_peak_gib']:.1f}" for run in half}
    ours, theirs = "densenet_nb", "torchvision"
    lean = f"{ours}, memory-efficient", f"{theirs}, memory-efficient"
    assert f"{speed[ours]} images a second, memory-efficient {speed[lean[0]]}" in readme
    assert f"torchvision reached {speed[theirs]} and {speed[lean[1]]}" in readme
    assert f"on TensorFlow {speed['keras.applications']}; peak memory" in readme
    assert f"{peak[ours]} and {peak[lean[0]]} GiB, where theirs was {peak[theirs]}" in readme
    assert f"{peak[lean[1]]} and {peak['keras.applications']}." in readme
    depth = CONFIGURATIONS["DenseNet264"].depth
    assert f"DenseNet-264 has {depth} layers" in readme


def test_readme_s_table_is_the_map_of_notebook_00():
    cells = nbformat.read(run_notebook.NOTEBOOKS / "00_start_here.ipynb", as_version=4).cells
    (the_map,) = [cell.source for cell in cells if cell.source.startswith("## The map")]
    links = re.findall(r"notebooks/(\d\d_\w+\.ipynb)\) \|", text("README.md"))
    mapped = re.findall(r"^\| \[.*?\]\((\S+)\) \|", the_map, re.M)
    assert links == ["00_start_here.ipynb", *mapped]
    assert links == sorted(path.name for path in run_notebook.NOTEBOOKS.glob("[0-9]*.ipynb"))
    to_come = re.findall(r"^\| (\d\d) .*\*to come\*", text("README.md"), re.M)
    assert to_come == re.findall(r"^\| \*to come:\* (\d\d)", the_map, re.M)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name):
    for target in re.findall(r"\]\(([^)]+)\)", text(name)):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def imported(path):
    """Yield the modules of the package that a file imports, by name within the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (n.removeprefix("densenet_nb.") for n in names if n.startswith("densenet_nb."))


def test_a_module_imports_only_those_above_it():
    listed = re.search(
        r"imports only those above it: (.+?)\. `engine/`", text("CONTRIBUTING.md"), re.S
    )
    order = re.findall(r"\w+", listed[1])
    room = [f"engine.{name}" for name in re.findall(r"^``(\w+)``$", engine.__doc__, re.M)]
    place = order.index("engine")
    order[place:place] = room
    package = ROOT / "densenet_nb"
    assert {f"engine.{path.stem}" for path in package.glob("engine/[!_]*.py")} == {*room}
    files = {path.stem for path in package.glob("[!_]*.py")} | {
        "engine",
        "probes",
        "records",
        "weights",
    }
    assert files == {*order} - {*room}
    for index, module in enumerate(order):
        path = package / f"{module.replace('.', '/')}.py"
        inside = () if module == "engine" else package.glob(f"{module}/*.py")
        files = [path] if path.exists() else [package / module / "__init__.py", *inside]
        for file in files:
            for name in {*imported(file)} & {*order} - {module.partition(".")[0]}:
                assert name in order[:index], f"{file.name} imports {name}"
