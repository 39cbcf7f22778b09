"""The rules of the notebooks: what strict nbval does not see, and how a page is written.

Each rule takes a notebook and returns what is wrong with it. Each is shown to find its fault in
a notebook that is otherwise good.
"""

import ast
import contextlib
import copy
import html
import re

import nbformat
import pytest
from matplotlib import pyplot
from run_notebook import METADATA, NOTEBOOKS, long_cells, reading_minutes

from densenet_nb import plots

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MAX_MINUTES = 45
READING_TIME = re.compile(r"\*Reads in about (\d+) minutes?\b")
LEARNED = "## What you have learned"
IGNORE_MARK = "nbval-ignore-output"
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|private|Users)/|[A-Z]:\\Users|site-packages|\.venv|ipykernel_\d"
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def label(cell):
    """Return the first line of a cell, to find it by."""
    return f"cell {cell.source.strip().splitlines()[0]!r}" if cell.source.strip() else "empty cell"


def prose(cell):
    """Return the text of a Markdown cell without headings; of any other cell, nothing."""
    if cell.cell_type != "markdown":
        return ""
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith("#")).strip()


def neighbors(notebook):
    """Yield each code cell with the cells before and after it."""
    nothing = nbformat.v4.new_raw_cell()
    cells = [nothing, *notebook.cells, nothing]
    for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
        if cell.cell_type == "code":
            yield before, cell, after


def pictures(cell):
    """Yield each picture among the outputs of a code cell, with the output that follows it."""
    for output, after in zip(cell.outputs, [*cell.outputs[1:], None], strict=False):
        if any(mime.startswith("image/") for mime in output.get("data", {})):
            yield output, after


def strings(node):
    """Yield every string of a notebook but the pictures."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for item in node:
            yield from strings(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if not key.startswith("image/"):
                yield from strings(value)


def every_cell_ran_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    wanted = list(range(1, len(counts) + 1))
    return [] if counts == wanted else [f"execution counts {counts}: run `make notebooks`"]


def code_is_plain_python(notebook):
    for cell in code_cells(notebook):
        if not cell.source.strip():
            yield "an empty cell"
        try:
            names = {n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)}
        except SyntaxError:  # %magic, !command, name? and the like
            yield f"{label(cell)}: not Python; magics and shell commands pass nbval unseen"
            continue
        if "get_ipython" in names:
            yield f"{label(cell)}: get_ipython runs magics, which pass nbval unseen"
        if cell.source.rstrip().endswith(";"):
            yield f"{label(cell)}: a last `;` hides a value in JupyterLab, but not from nbval"


def nothing_failed_or_warned(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"{label(cell)}: has an error or something on stderr among its outputs"


def reading_time_is_stated(notebook):
    minutes = reading_minutes(notebook)
    stated = READING_TIME.findall(notebook.cells[0].source)
    if stated != [str(minutes)]:
        yield f"the first cell should say '*Reads in about {minutes} minutes', once; says {stated}"
    if minutes > MAX_MINUTES:
        yield f"it reads in {minutes} minutes; {MAX_MINUTES} is the most"


def it_ends_with_what_was_learned(notebook):
    ends = [c.source for c in notebook.cells if c.source.startswith(LEARNED)]
    if len(ends) != 1 or len(re.findall(r"^- ", ends[0], re.MULTILINE)) != 3:
        yield f"one cell near the end begins with {LEARNED!r} and has three items"


def it_runs_alone(notebook):
    """What a copy in another folder could not do: read files beside it, or what is not public."""
    for cell in code_cells(notebook):
        with contextlib.suppress(SyntaxError):  # another rule's
            for node in ast.walk(ast.parse(cell.source)):
                yield from (f"{label(cell)}: {fault}" for fault in needs_the_clone(node))


def needs_the_clone(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        for name in names:
            if any(part.startswith("_") for part in name.split(".")):
                yield f"imports {name}, which is private"
    if isinstance(node, ast.Attribute):
        if node.attr == "path" and getattr(node.value, "id", "") == "sys":
            yield "changes sys.path"
        if node.attr.startswith("_") and getattr(node.value, "id", "") == "densenet_nb":
            yield f"uses densenet_nb.{node.attr}, which is private"
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and re.match(r"\.{1,2}/|(benchmarks|notebooks|docs|tools)/", text):
        yield f"reads {text!r}, a path that is right in one folder only"


def prose_stands_before_code(notebook):
    for before, cell, _ in neighbors(notebook):
        if not prose(before):
            yield f"{label(cell)}: no prose in the cell before it"


def one_cell_may_differ(notebook):
    marks = [
        (tag, cell)
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("nbval") or tag == "raises-exception"
    ]
    for tag, cell in marks:
        if tag != IGNORE_MARK:
            yield f"{label(cell)}: the tag {tag} hides it from nbval"
    if len([tag for tag, _ in marks if tag == IGNORE_MARK]) > 1:
        yield f"more than one cell has the tag {IGNORE_MARK}"
    for cell in code_cells(notebook):
        if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.IGNORECASE):
            yield f"{label(cell)}: a comment for nbval; the only mark is the tag {IGNORE_MARK}"


def figures_have_alt_text(notebook):
    for cell in code_cells(notebook):
        for output, after in pictures(cell):
            alt = output.metadata.get("image/png", {}).get("alt", "").strip()
            paragraph = (after or {}).get("data", {}).get("text/html", "")
            if not alt or f">{html.escape(alt)}</p>" not in paragraph:
                yield f"{label(cell)}: show the figure with densenet_nb.plots.show(figure, alt=...)"


def figures_have_captions(notebook):
    for before, cell, after in neighbors(notebook):
        if any(pictures(cell)) and "figure" not in (prose(before) + prose(after)).lower():
            yield f"{label(cell)}: say beside it what to see in the figure, with the word 'figure'"


def first_code_is_imports(notebook):
    statements = ast.parse(code_cells(notebook)[0].source).body
    if not all(isinstance(s, ast.Import | ast.ImportFrom) for s in statements):
        yield "the first code cell does more than import"
    if not 1 <= len(statements) <= 2:
        yield f"the first code cell has {len(statements)} imports; one or two are allowed"


def saved_text_names_no_machine(notebook):
    for text in strings(notebook):
        if found := MACHINE_PATH.search(text):
            yield f"{found.group()!r} in {text[:80]!r}: names a machine"


def metadata_is_normal(notebook):
    if notebook.metadata != METADATA or notebook.nbformat_minor != 5:
        yield "metadata differ from what `make notebooks` writes"
    for cell in notebook.cells:
        if extra := cell.metadata.keys() - {"tags"}:
            yield f"{label(cell)}: metadata {sorted(extra)}"


def markdown_images_have_alt_text(notebook):
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        tags = re.findall(r"<img\b[^>]*>", cell.source)
        if re.search(r"!\[\s*\]", cell.source) or any("alt=" not in tag for tag in tags):
            yield f"{label(cell)}: an image without alternative text"


def figure(alt="Two lines, one rising.", text="Two lines, one rising."):
    return [
        nbformat.v4.new_output(
            "display_data",
            {"image/png": "/home/AAAA", "text/plain": alt},
            metadata={"image/png": {"alt": alt}},
        ),
        nbformat.v4.new_output("display_data", {"text/html": f"<p>{html.escape(text)}</p>"}),
    ]


def good_notebook():
    """Return a notebook that keeps every rule."""
    printed = [nbformat.v4.new_output("stream", name="stdout", text="23\n")]
    return nbformat.v4.new_notebook(
        metadata=nbformat.from_dict(METADATA),
        cells=[
            nbformat.v4.new_markdown_cell(
                "# Title\n\n*Reads in about 2 minutes.*\n\nImports, then $x / y$."
            ),
            nbformat.v4.new_code_cell("import densenet_nb", execution_count=1),
            nbformat.v4.new_markdown_cell("## Count\n\nThe channels: ![a block](block.png)"),
            nbformat.v4.new_code_cell(
                "print(3 + 10 + 10)",
                execution_count=2,
                outputs=printed,
                metadata={"tags": [IGNORE_MARK]},
            ),
            nbformat.v4.new_markdown_cell("Draw them."),
            nbformat.v4.new_code_cell("draw()", execution_count=3, outputs=figure()),
            nbformat.v4.new_markdown_cell("The figure shows one line rising."),
            nbformat.v4.new_markdown_cell(f"{LEARNED}\n\n- One.\n- Two.\n- Three."),
        ],
    )


def source(index, text):
    return lambda notebook: notebook.cells[index].update(source=text)


def tags(index, *names):
    return lambda notebook: notebook.cells[index].metadata.update(tags=list(names))


def outputs(index, *items):
    return lambda notebook: notebook.cells[index].update(outputs=list(items))


STDERR = nbformat.v4.new_output("stream", name="stderr", text="late")
ERROR = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
HOME = nbformat.v4.new_output("stream", name="stdout", text="saved in /home/ada/x\n")

FAULTS = {
    every_cell_ran_in_order: [
        lambda notebook: notebook.cells[3].update(execution_count=None),
        lambda notebook: notebook.cells[3].update(execution_count=4),
        lambda notebook: notebook.cells[1].update(execution_count=2),
    ],
    code_is_plain_python: [
        source(3, "%time 1"),
        source(3, "%%bash\nls"),
        source(3, "!exit 3"),
        source(3, "files = !ls"),
        source(3, "print?"),
        source(3, "get_ipython().system('ls')"),
        source(3, "plot(x);"),
        source(3, " "),
    ],
    nothing_failed_or_warned: [outputs(3, STDERR), outputs(3, ERROR)],
    reading_time_is_stated: [
        source(0, "# Title\n\n*Reads in about 20 minutes.*"),
        source(0, "# Title\n\nImports."),
        source(2, "word " * 200),  # a minute and a half more
        source(3, "x = 1\n" * 30),
        lambda notebook: notebook.cells[3].update(outputs=figure() * 3),
    ],
    it_ends_with_what_was_learned: [
        lambda notebook: notebook.cells.pop(-1),
        source(-1, f"{LEARNED}\n\n- One.\n- Two."),
        source(2, f"{LEARNED}\n\n- One.\n- Two.\n- Three."),
    ],
    it_runs_alone: [
        source(3, "import sys\nsys.path.append('benchmarks')"),
        source(3, "from densenet_nb._startup import quietly"),
        source(3, "import densenet_nb\ndensenet_nb._startup.quietly"),
        source(3, "open('../densenet_nb/records/side_by_side.json')"),
        source(3, "from pathlib import Path\nPath('benchmarks/results')"),
    ],
    prose_stands_before_code: [
        source(2, "## Only a heading"),
        lambda notebook: notebook.cells.pop(2),
        lambda notebook: notebook.cells.pop(0),
    ],
    one_cell_may_differ: [
        tags(1, IGNORE_MARK),
        tags(3, "nbval-skip"),
        tags(3, "nbval-raises-exception"),
        tags(3, "raises-exception"),
        source(3, "# NBVAL_IGNORE_OUTPUT\nprint(1)"),
        source(3, "#NBVAL_SKIP\nprint(1)"),
        source(3, "# PYTEST_VALIDATE_IGNORE_OUTPUT\nprint(1)"),
    ],
    figures_have_alt_text: [
        outputs(5, *figure(alt=" ")),
        outputs(5, *figure(text="Another text.")),
        outputs(5, figure()[0]),
        outputs(5, nbformat.v4.new_output("display_data", {"image/png": "AAAA"})),
    ],
    figures_have_captions: [source(6, "On with it."), lambda notebook: notebook.cells.pop(6)],
    first_code_is_imports: [
        source(1, "import densenet_nb\nx = 1"),
        source(1, "import keras\nimport numpy\nimport densenet_nb"),
        source(1, "# nothing"),
    ],
    saved_text_names_no_machine: [
        outputs(3, HOME),
        source(3, "open('/home/ada/x')"),
        source(4, r"See C:\Users\ada."),
    ],
    metadata_is_normal: [
        lambda notebook: notebook.metadata.update(widgets={}),
        lambda notebook: notebook.metadata.language_info.update(version="3.11.9"),
        lambda notebook: notebook.cells[3].metadata.update(execution={}),
    ],
    markdown_images_have_alt_text: [
        source(2, "Look: ![](block.png)"),
        source(2, 'Look: <img src="block.png">'),
    ],
}
"""Each rule with the changes to a good notebook that it must object to."""


@pytest.mark.parametrize("rule", FAULTS, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_notebook(path, rule):
    assert list(rule(nbformat.read(path, as_version=4))) == []


@pytest.mark.parametrize("rule", FAULTS, ids=lambda rule: rule.__name__)
def test_the_rule_accepts_a_good_notebook(rule):
    assert list(rule(good_notebook())) == []


@pytest.mark.parametrize(
    ("rule", "fault"),
    [(rule, fault) for rule, faults in FAULTS.items() for fault in faults],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_rule_refuses_a_bad_notebook(rule, fault):
    bad = copy.deepcopy(good_notebook())
    fault(bad)
    assert list(rule(bad)) != []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_notebook_is_valid(path):
    nbformat.validate(nbformat.read(path, as_version=4))


def test_notebooks_are_numbered_as_the_map_says():
    numbers = [path.name[:3] for path in PATHS]
    assert numbers[:1] == ["00_"]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= {f"{n:02}_" for n in range(15)}  # they come in any order


def test_long_cells_are_named():
    notebook = good_notebook()
    assert long_cells(notebook) == []
    source(3, "first()\n" + "x = 1\n" * 15)(notebook)
    assert long_cells(notebook) == ["'first()' has 16 lines"]


def test_reading_time_is_words_lines_and_figures():
    notebook = good_notebook()
    folded = "<details><summary>Hint</summary>\n\n" + "word " * 500 + "\n\n</details>"
    source(2, "word " * 260 + folded)(notebook)  # two minutes
    source(3, "# a comment\n\n" + "x = 1\n" * 20)(notebook)  # two more; one for the figure
    assert reading_minutes(notebook) == 5


def test_show_writes_what_the_rule_asks_for(monkeypatch):
    shown = []

    def display(data, raw, metadata=None):
        assert raw
        shown.append(nbformat.v4.new_output("display_data", data, metadata=metadata or {}))

    monkeypatch.setattr(plots, "display", display)
    drawn, _ = pyplot.subplots()
    assert plots.show(drawn, alt="A & B") is None
    cell = nbformat.v4.new_code_cell("show()", outputs=shown)
    assert len(list(pictures(cell))) == 1
    assert list(figures_have_alt_text(nbformat.v4.new_notebook(cells=[cell]))) == []
    assert not pyplot.fignum_exists(drawn.number)


def test_show_needs_a_text():
    drawn, _ = pyplot.subplots()
    with pytest.raises(ValueError, match="alt=' '"):
        plots.show(drawn, alt=" ")
    pyplot.close(drawn)
