"""A build deletes only its own files in the run directory, and nothing behind a link."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.hdf5.labels import labels_path
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import HOST, RUN_TOKEN
from tests.conftest import build_tiny

PARTIAL_KINDS = ("own", "dead", "live", "other host")


@functools.cache
def partial_name(kind: str) -> str:
    """Return the name of a partial file of this run, or of a process that is dead, alive or on another host."""
    with subprocess.Popen(["true"]) as ended:
        pass
    host, pid, token = {
        "own": (HOST, os.getppid(), RUN_TOKEN),
        "dead": (HOST, ended.pid, "0123abcd"),
        "live": (HOST, os.getppid(), "0123abcd"),
        "other host": (f"{HOST[:-1]}x", ended.pid, "0123abcd"),
    }[kind]
    return f".000001.png.{host}-{pid}-{token}.partial"


def test_sweep_deletes_partial_files_of_this_run_and_of_dead_processes(tmp_path: Path) -> None:
    images = tmp_path / "stages" / "align" / "images" / "00000"
    files = {kind: images / partial_name(kind) for kind in PARTIAL_KINDS}
    files |= {f"{kind} at the top": tmp_path / partial_name(kind) for kind in PARTIAL_KINDS}
    files |= {f"{kind} elsewhere": tmp_path / "downloads" / partial_name(kind) for kind in PARTIAL_KINDS}
    theirs = [tmp_path / "movie.partial", tmp_path / "movie.7.partial", images / f"folder{partial_name('dead')}"]
    theirs.append(tmp_path / "stages" / partial_name("dead") / "a.png")
    for path in (*files.values(), *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Workspace(tmp_path).sweep()
    assert all(path.exists() for path in theirs)
    assert {kind for kind, path in files.items() if not path.exists()} == {
        "own",
        "dead",
        "own at the top",
        "dead at the top",
    }


def test_discard_killed_after_the_manifests(tiny_copy: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is deleted last still says what it depends on, so a resumed run is refused or right."""
    unlinked: list[str] = []
    unlink = Path.unlink

    def counted(path: Path, missing_ok: bool = False) -> None:
        unlinked.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", counted)
    Workspace(tiny_copy).stage("align").discard()
    assert unlinked[:4] == ["stage.json", "00000.jsonl", "00001.jsonl", "plan.json"]
    assert len(unlinked) > 4
    assert all(name.endswith(".png") for name in unlinked[4:])


def test_discarded_stage_keeps_partial_files_of_live_processes(tmp_path: Path) -> None:
    stage = Workspace(tmp_path).stage("align")
    image = stage.image_path(0, "000001")
    for path in (image, stage.manifest_path(0), stage.provenance_path, stage.mark_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for kind in PARTIAL_KINDS:
        image.with_name(partial_name(kind)).touch()
    stage.discard()
    left = [path for path in stage.root.rglob("*") if not path.is_dir()]
    assert sorted(left) == sorted(image.with_name(partial_name(kind)) for kind in ("live", "other host"))
    for path in left:
        path.unlink()
    stage.discard()
    assert not stage.root.exists()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files of a folder but the lock, by relative paths."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.name != ".celebahq-lock"}


def test_a_redo_keeps_files_of_others(tiny_copy: Path) -> None:
    theirs = [tiny_copy / "stages/align" / name for name in ("mine.png", "images/00000/mine.txt", "more/a.png")]
    theirs.append(tiny_copy / "report/examples/000001/mine.txt")
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    build_tiny(tiny_copy, redo="align")
    assert {path.read_text() for path in theirs} == {"mine"}
    Workspace(tiny_copy).stage("align").discard()
    assert set((tiny_copy / "stages/align").rglob("*.*")) == set(theirs[:3])


@pytest.mark.parametrize("link", ["crop", "align", "align/images", "align/images/00000", "align/batches"])
def test_a_redo_deletes_nothing_behind_a_link(link: str, tiny_copy: Path, tmp_path: Path) -> None:
    folder, elsewhere = tiny_copy / "stages" / link, tmp_path / "elsewhere"
    if folder.exists():
        folder.rename(elsewhere)
    elsewhere.mkdir(exist_ok=True)
    folder.symlink_to(elsewhere)
    before = contents(tiny_copy), contents(elsewhere)
    with pytest.raises(WorkspaceError, match=rf"/{link} is a link, which is not deleted through; put the folder in"):
        build_tiny(tiny_copy, redo="crop")
    assert (contents(tiny_copy), contents(elsewhere)) == before


def test_examples_behind_a_link_stay(tiny_copy: Path, tmp_path: Path) -> None:
    examples, elsewhere = tiny_copy / "report" / "examples", tmp_path / "elsewhere"
    examples.rename(elsewhere)
    examples.symlink_to(elsewhere)
    (elsewhere / "000009").mkdir()
    (elsewhere / "000009" / "align.jpg").touch()
    build_tiny(tiny_copy, redo="align")
    assert (elsewhere / "000009" / "align.jpg").exists()


def test_labels_of_others_beside_the_data_set(tiny_copy: Path) -> None:
    """A data set that is made again, by a redo or with more photos, takes no labels away that are not of the run."""
    labels = labels_path(Workspace(tiny_copy).hdf5_path(64))
    labels.write_bytes(b"mine")
    build_tiny(tiny_copy)  # nothing to do
    before = contents(tiny_copy)
    for asked in ({"redo": "pack"}, {"limit": 7}, {"limit": 7, "until": "score"}, {"redo": "photos", "limit": 4}):
        with pytest.raises(WorkspaceError, match=r"-labels\.npy was not written by this run.*; move it, then run"):
            build_tiny(tiny_copy, **asked)
    Workspace(tiny_copy).hdf5_path(64).unlink()
    with pytest.raises(WorkspaceError, match="was not written by this run"):
        build_tiny(tiny_copy)
    assert contents(tiny_copy).items() < before.items()


@pytest.mark.parametrize("name", ["selection.csv", "report/index.html", "stages/align/mine", "run.json"])
def test_folder_with_files_of_others(name: str, tmp_path: Path) -> None:
    """A run neither replaces nor deletes files that have the names of its own files."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("[1]")
    for redo in (None, "crop"):
        with pytest.raises(WorkspaceError, match=rf"holds {name.split('/')[0]} and is not a run directory of this"):
            build_tiny(tmp_path, redo=redo)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / name: "[1]"}
