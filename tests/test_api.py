"""The public API: every name exists and is documented, importing it is light, and docs/python.md runs."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import celebahq_builder as chq
from tests.conftest import SAMPLE

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_public_name_is_documented() -> None:
    assert chq.__all__ == sorted(chq.__all__)
    assert set(chq.__all__) <= set(dir(chq))
    for name in chq.__all__:
        value = getattr(chq, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            text = str(inspect.getdoc(value))
            assert "Args:" in text or len(inspect.signature(value).parameters) == 0, name


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = chq.nothing


def test_import_is_light() -> None:
    code = "import sys, celebahq_builder; print([m for m in ('torch', 'cv2', 'numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    shutil.copytree(SAMPLE, tmp_path / "celeba")
    monkeypatch.chdir(tmp_path)
    [recipe] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    Path("tiny.toml").write_text(recipe)
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 7
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out
    assert "(4, 3, 64, 64)" in printed
    assert "(8, 3, 16, 16)" in printed
    assert "nothing.h5 does not exist" in printed


def test_files_that_cannot_be_read() -> None:
    with pytest.raises(chq.SourceError, match="nothing.jpg cannot be read: No such file"):
        chq.score("nothing.jpg")
    with pytest.raises(chq.SourceError, match="nothing.jpg cannot be read: No such file"):
        chq.align("nothing.jpg", range(10))
    with pytest.raises(ValueError, match="expected ten numbers, x and y of five points, got 3"):
        chq.align(np.zeros((9, 9, 3), np.uint8), (1, 2, 3))
