"""docs/landmarks.md: its Python examples run as they are, and every other snippet says why no test runs it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from tests.conftest import SAMPLE

PAGE = Path(__file__).parents[2] / "docs" / "landmarks.md"

LANDMARKS = {photo.file: photo.landmarks for photo in read_celeba(SAMPLE).photos}


def detect(path: Path) -> list[list[list[float]]]:
    """Return the points of the sample; the second photo has two faces."""
    x, y = LANDMARKS[path.name][0::2], LANDMARKS[path.name][1::2]
    faces = [[[x[i] + shift, y[i]] for i in range(5)] for shift in (0, 7)]
    return faces[: 1 + (path.name == "000002.jpg")]


def detect_68(path: Path) -> list[list[list[float]]]:
    faces = []
    for left, right, nose, *mouth in detect(path):
        faces.append([nose] * 36 + [left] * 6 + [right] * 6 + [mouth[0]] * 6 + [mouth[1]] * 14)
    return faces


def test_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("000001.jpg", "000002.jpg", "000003.jpg"):
        shutil.copy(SAMPLE / "img_celeba" / name, folder)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    for example in (*examples[1:], examples[0]):
        exec(example, {"detect": detect, "detect_68": detect_68})
    assert capsys.readouterr().out == "4 faces, 0 rejected\n"
    assert len(json.loads(Path("points.json").read_text())) == 3
    sources = [read_folder(folder, tmp_path / name) for name in ("landmarks.csv", "points.json")]
    assert [photo.id for photo in sources[0].photos] == ["000001", "000002_0", "000002_1", "000003"]
    for photo, other in zip(sources[0].photos, sources[1].photos, strict=True):
        assert (photo.id, photo.landmarks) == (other.id, pytest.approx(other.landmarks))
    assert sources[0].photos[0].landmarks == LANDMARKS["000001.jpg"]


def test_other_snippets_are_python_and_give_a_reason() -> None:
    sections = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    snippets = {part.partition("\n")[0]: re.findall(r"```text\n(.*?)```", part, re.DOTALL) for part in sections}
    assert sum(map(len, snippets.values())) == 5
    for part in sections:
        for snippet in snippets[part.partition("\n")[0]]:
            compile(snippet, "snippet", "exec")
            assert "No test runs this snippet: " in part
