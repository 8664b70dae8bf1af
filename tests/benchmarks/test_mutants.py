"""The mutants are programs, differ from the source, and cover the kinds of faults."""

import ast
from pathlib import Path

import pytest

from benchmarks import mutants as tool
from benchmarks.mutants import ROOT, mutants

SOURCE = b'''
"""Documentation with 1 < 2."""
def f(a: int, b: int = 3, *, c: bool = True) -> int:
    """Return 4."""
    check(b, a)
    if a < b and c:
        raise ValueError("5")
    print(a, b)
    return a + b
'''


def test_kinds() -> None:
    found = mutants(SOURCE)
    made = {(one.kind, one.applied(SOURCE).decode().splitlines()[one.line - 1].strip()) for one in found}
    head = "def f(a: int, b: int = {}, *, c: bool = {}) -> int:"
    assert made == {
        ("constant", head.format(4, True)),
        ("constant", head.format(2, True)),
        ("constant", head.format(3, False)),
        ("dropped", "pass"),
        ("arguments", "(check(a, b))"),
        ("condition", "if (not (a < b and c)):"),
        ("and/or", "if (a < b or c):"),
        ("comparison", "if (a <= b) and c:"),
        ("arithmetic", "return (a - b)"),
    }
    assert [one.line for one in found if one.kind == "dropped"] == [5, 7]


@pytest.mark.parametrize("file", ["celebahq_builder/config.py", "celebahq_builder/image_set.py"])
def test_all_mutants_of_a_file_are_other_programs(file: str) -> None:
    source = (ROOT / file).read_bytes()
    found = mutants(source)
    assert len(found) > 5
    before = ast.dump(ast.parse(source))
    for one in found:
        assert ast.dump(ast.parse(one.applied(source))) != before


def test_tests_of_a_file() -> None:
    chosen = tool.tests_of(Path("celebahq_builder/storage/files.py"), ROOT)
    assert chosen[0] == "celebahq_builder/storage/files.py"
    assert chosen[-1] == "tests/storage"
    assert len(chosen) > 2
