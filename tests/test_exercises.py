"""Every check refuses at least three wrong answers, each with its own message.

The solutions are those folded into the notebooks, run from there: one source.
"""

import json
import re
from pathlib import Path

import pytest

from densenet_nb import exercises

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)
CHECK = re.compile(r"^exercises\.(\w+)\((\w+)\)$", re.MULTILINE)

# check: [(wrong answer, words of its message), …]
WRONG = {}


def exercises_in(path):
    """Yield (check, argument, solution, stub cell) of each exercise of a notebook."""
    solution = None
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            solution = found.group(1) if (found := SOLUTION.search(source)) else solution
        elif found := CHECK.search(source):
            yield pytest.param(*found.groups(), solution, source, id=f"{path.stem}-{found[1]}")
            solution = None


IN_NOTEBOOKS = [exercise for path in NOTEBOOKS for exercise in exercises_in(path)]


def printed(capsys, name, answer):
    getattr(exercises, name)(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(("name", "argument", "solution", "stub"), IN_NOTEBOOKS)
def test_solution_in_the_notebook_is_correct(name, argument, solution, stub, capsys):
    namespace = {"exercises": exercises}
    exec(compile(solution, f"solution of {name}", "exec"), namespace)
    assert printed(capsys, name, namespace[argument]) == "Correct.\n"


@pytest.mark.parametrize(("name", "argument", "solution", "stub"), IN_NOTEBOOKS)
def test_stub_is_not_an_attempt(name, argument, solution, stub, capsys):
    exec(compile(stub, f"stub of {name}", "exec"), {"exercises": exercises})
    assert capsys.readouterr().out == exercises.NOT_ATTEMPTED + "\n"


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        pytest.param(name, answer, words, id=f"{name}-{index}")
        for name, wrong in WRONG.items()
        for index, (answer, words) in enumerate(wrong)
    ],
)
def test_wrong_answer_is_told_its_misconception(name, answer, words, capsys):
    verdict = printed(capsys, name, answer)
    assert verdict.startswith("Not yet. ")
    assert words in verdict


@pytest.mark.parametrize("name", exercises.__all__)
def test_every_check_refuses_three_answers_with_three_messages(name, capsys):
    verdicts = {printed(capsys, name, answer) for answer, _ in WRONG[name]}
    assert len(verdicts) >= 3


def test_every_check_is_used_in_a_notebook():
    assert {exercise.values[0] for exercise in IN_NOTEBOOKS} == set(exercises.__all__)
