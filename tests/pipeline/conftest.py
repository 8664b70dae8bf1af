"""Fixtures of the tests of builds."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.pipeline import batch, photo_context
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.stages.score import ScoreStage
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import SMALL, TINY, build_tiny
from tests.pipeline.report_page import UNLUCKY, bad_sample


@pytest.fixture(autouse=True)
def small_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples of the report at 96x96; at 768x768 they need a third of the time of a tiny build.

    The fixtures of longer scope, such as `report_run`, build with the full size.
    """
    monkeypatch.setattr(batch, "EXAMPLE_PX", 96)


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """A copy of the sample with small photos, to be changed at will."""
    return Path(shutil.copytree(SMALL, tmp_path / "celeba"))


@pytest.fixture(scope="session")
def report_run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run with photos of many outcomes; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("report")
    root = bad_sample(folder / "celeba")
    run = ScoreStage.run

    def sometimes(stage: ScoreStage, faces: Sequence[Face], *arguments: Any) -> list[Face]:
        if any(face.photo.file == UNLUCKY for face in faces):
            raise RuntimeError("<script>alert('a bug')</script>")
        return run(stage, faces, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreStage, "run", sometimes)
        build_tiny(folder / "run", root, recipe=replace(TINY, select=SelectSettings(keep=8)), limit=None)
    return Workspace(folder / "run")


@pytest.fixture
def report_copy(report_run: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the run, to be changed at will."""
    return Workspace(Path(shutil.copytree(report_run.root, tmp_path / "run")))


@pytest.fixture(params=[0, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU as well, threads read photos and write images."""
    monkeypatch.setitem(batch.THREADS, "cpu", request.param)


@pytest.fixture
def grouped(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU treats photos as a GPU does: three together, up to four windows at once."""
    monkeypatch.setitem(batch.GROUP_PHOTOS, "cpu", 3)
    monkeypatch.setitem(photo_context.BATCH_WINDOWS, "cpu", 4)
