"""A build that is refused changes no file."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.errors import CelebAHQError, FingerprintMismatch, RecipeError, WeightsError, WorkspaceError
from celebahq_builder.pipeline.build import build
from celebahq_builder.pipeline.growth import checked_plan
from celebahq_builder.pipeline.landmark_source import prepare_source
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.pipeline.verify import find_problems
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.folder import read_folder
from celebahq_builder.sources.photo import COLUMNS, PhotoSource
from tests.conftest import NETWORKS, SAMPLE, TINY, build_tiny


def content(out: Path) -> dict[Path, tuple[int, bytes]]:
    """Return time and bytes of all files of a folder; only the time of the lock may change."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {
        path: (0 if path.name == ".celebahq-lock" else path.stat().st_mtime_ns, path.read_bytes()) for path in files
    } | {path: (0, b"") for path in out.rglob("*") if path.is_dir()}


REFUSALS: dict[str, tuple[dict[str, Any], type[CelebAHQError]]] = {
    "unknown stage": ({"until": "sharpen"}, RecipeError),
    "start after redo": ({"redo": "align", "start": "select"}, RecipeError),
    "no such GPU": ({"device": "cuda:99"}, RecipeError),
    "ids of no photo": ({"ids": ["nobody"]}, CelebAHQError),
    "start without the stage before": ({"redo": "align", "start": "align"}, WorkspaceError),
    "another resolution": ({"recipe": replace(TINY, resolution=128)}, FingerprintMismatch),
    "another selection": ({"recipe": replace(TINY, select=SelectSettings(keep=2))}, FingerprintMismatch),
    "another selection, redone too late": (
        {"redo": "pack", "recipe": replace(TINY, select=SelectSettings(keep=2))},
        FingerprintMismatch,
    ),
    "fewer photos": ({"limit": 4}, FingerprintMismatch),
    "fewer photos, redone too late": ({"redo": "pack", "start": "pack", "limit": 4}, FingerprintMismatch),
    "no such weights": (
        {"redo": "crop", "recipe": replace(TINY, denoise=replace(TINY.denoise, weights="nobody"))},
        WeightsError,
    ),
    "weights of another network": (
        {"redo": "crop", "recipe": replace(TINY, denoise=replace(TINY.denoise, weights=f"{NETWORKS}/upscaler"))},
        WeightsError,
    ),
    "another method": ({"recipe": BuildRecipe(method="exact", resolution=64)}, FingerprintMismatch),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_finished_run(kind: str, tiny_copy: Path) -> None:
    options, error = REFUSALS[kind]
    before = content(tiny_copy)
    with pytest.raises(error):
        build_tiny(tiny_copy, **options)
    assert content(tiny_copy) == before
    assert list(find_problems(tiny_copy)) == []


@pytest.mark.parametrize("kind", ["unknown stage", "no such GPU", "ids of no photo", "no such weights"])
def test_new_run(kind: str, tmp_path: Path) -> None:
    options, error = REFUSALS[kind]
    with pytest.raises(error):
        build_tiny(tmp_path / "runs" / "new", **options)
    assert list(tmp_path.iterdir()) == []


def test_start_of_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(WorkspaceError, match="complete there: nothing"):
        build_tiny(tmp_path / "runs" / "new" / "run", start="select")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.run_path.write_text("{"),
        lambda run: run.stage("align").provenance_path.write_text("[]"),
        lambda run: (run.root / ".celebahq-lock").write_text("mine"),
    ],
    ids=["run.json", "plan.json", "lock"],
)
def test_damaged_run(damage: Callable[[Workspace], object], tiny_copy: Path) -> None:
    damage(Workspace(tiny_copy))
    before = content(tiny_copy)
    for redo in (None, "crop"):
        with pytest.raises(WorkspaceError):
            build_tiny(tiny_copy, redo=redo)
        assert content(tiny_copy) == before


def test_landmarks_that_are_checked(yunet: Path, tmp_path: Path) -> None:
    """The check comes before the build. Its log grows, but its result is written for a build that begins."""
    photos, table, out = tmp_path / "photos", tmp_path / "table.csv", tmp_path / "run"
    shutil.copytree(SAMPLE / "img_celeba", photos)

    def write(shift_px: float) -> None:
        rows = [[one.file, *(n + shift_px for n in one.landmarks)] for one in read_celeba(SAMPLE).photos[:2]]
        table.write_text("\n".join(",".join(map(str, row)) for row in (["file", *COLUMNS], *rows)) + "\n")

    def run(**options: Any) -> None:
        options = {"recipe": TINY, "workers": 1, "device": "cpu", **options}

        def accept(source: PhotoSource) -> None:
            checked_plan(make_request(source, out, **options))

        checked = prepare_source(read_folder(photos, table), out, landmark_model=yunet, workers=1, accept=accept)
        build(checked, out, **options)

    write(0)
    run()
    write(99)
    before = content(out)
    with pytest.raises(FingerprintMismatch, match=r"2 photos with other faces or landmarks now \(000001.jpg"):
        run()
    with pytest.raises(FingerprintMismatch, match="supersampling"):
        run(recipe=replace(TINY, align=replace(TINY.align, supersampling=2)))
    after = content(out)
    assert {path.name for path in after if after[path] != before.get(path)} <= {
        "checked.jsonl",
        "checked-refined.jsonl",
    }
    run(redo="photos")
    assert "000001.jpg" in (out / "landmarks" / "doubtful.json").read_text()
