"""Records are found wherever the package is, and say where they come from."""

import pytest

from densenet_nb import records


@pytest.mark.parametrize("name", records.names())
def test_each_record_says_where_it_comes_from(name):
    record = records.read(name)
    assert record["runs"]
    assert record["command"].startswith("python")
    assert record["commit"]
    assert record["date"] >= "2026"
    assert record.get("machine") or record.get("gpu")


def test_an_unknown_record_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match="name='nothing'.*gradient_against_depth, "):
        records.read("nothing")
