"""The glossary of notebook 00 keeps its word: each term occurs in the notebooks that it names."""

import re

import nbformat
import pytest
from run_notebook import NOTEBOOKS

PATHS = {path.name[:2]: path for path in NOTEBOOKS.glob("[0-9]*.ipynb")}


def text(number):
    """Return the cells of a notebook in lower case, without emphasis and line ends."""
    cells = nbformat.read(PATHS[number], as_version=4).cells
    return re.sub(r"[\s*]+", " ", " ".join(cell.source for cell in cells)).lower()


def glossary():
    """Yield (English terms, Chinese, meaning, where) of each row."""
    cells = nbformat.read(PATHS["00"], as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.source.startswith("## Glossary")]
    for line in source.splitlines():
        row = [column.strip() for column in line.strip("|").split("|")]
        if len(row) == 4 and row[0] not in ("English", "---"):
            yield row


ROWS = list(glossary()) if "00" in PATHS else []
SHOWN = [
    (row[0], number)
    for row in ROWS
    for number in re.findall(r"\d\d", row[3].split("to come")[0])
    if number in PATHS
]


@pytest.mark.parametrize(("term", "number"), SHOWN)
def test_term_occurs_where_the_glossary_says(term, number):
    word = re.split(r"[,;(]", term)[0].strip().removesuffix(" layer").lower()
    body = text(number) if number != "00" else text(number).split("## glossary")[0]
    assert word in body


def test_glossary_has_the_terms_of_the_chinese_article():
    chinese = " ".join(row[1] for row in ROWS)
    for term in ("稠密块", "增长率", "瓶颈层", "过渡层", "压缩系数", "预激活", "特征重用"):
        assert term in chinese
    for term in ("短路连接", "复合函数", "批归一化", "梯度消失", "特征图", "显存"):
        assert term in chinese
