"""Recipes and weights are found in a checkout and in an installed package."""

from pathlib import Path

import pytest

from celebahq_builder import config as module
from celebahq_builder.config import bundled

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "file"), [("pretrained", "registry.toml"), ("pipelines", "celebahq-1024.toml")])
def test_checkout(name: str, file: str) -> None:
    assert (bundled(name) / file).is_file()


def test_installed_package_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "celebahq_builder" / "_bundled" / "pipelines"
    inside.mkdir(parents=True)
    (tmp_path / "pretrained").mkdir()
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "celebahq_builder")
    assert bundled("pipelines") == inside
    assert bundled("pretrained") == tmp_path / "pretrained"
