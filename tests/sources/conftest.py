"""Fixtures of the tests of sources."""

from pathlib import Path

import pytest

from tests.sources.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "celeba")
