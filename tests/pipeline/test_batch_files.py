"""Files of a batch: partial files, their names, the order of writing, errors of the disk."""

import errno
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from celebahq_builder.errors import DiskFull, WorkspaceError
from celebahq_builder.outcome import Failed, Kept, from_json, to_json
from celebahq_builder.pipeline import batch
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import publish_batch
from celebahq_builder.run_directory.state import StageCounts
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import HOST
from tests.conftest import PHOTO_STAGES
from tests.disk import failing
from tests.pipeline.one_batch import denoiser_meets, ended, files, is_of, job, photos, run


def test_only_the_main_process_gives_files_their_names(tmp_path: Path) -> None:
    """A worker may outlive its run, while another run works in the directory."""
    result = pickle.loads(pickle.dumps(run_batch(job(tmp_path, run_token="0123abcd"))))
    assert {re.sub(r"-\d+-", "-PID-", path.suffixes[-2]) for path in tmp_path.rglob("*") if path.is_file()} == {
        f".{HOST}-PID-0123abcd"
    }
    assert all(path.suffix == ".partial" for path in tmp_path.rglob("*") if path.is_file())
    publish_batch(Workspace(tmp_path), result)
    assert all(path.suffix in (".png", ".jpg", ".jsonl") for path in tmp_path.rglob("*") if path.is_file())
    for stage in PHOTO_STAGES:
        assert ended(tmp_path, stage) == [from_json(json.loads(json.dumps(to_json(o)))) for o in result.outcomes[stage]]
    assert len(pickle.dumps(result.outcomes)) < 20_000


@pytest.mark.usefixtures("threads")
def test_a_batch_that_ends_with_an_error_leaves_no_image(tmp_path: Path) -> None:
    met_last = photos()[2][1]

    def meet(x: Tensor) -> None:
        if is_of(x, met_last):
            raise MemoryError

    with denoiser_meets(meet), pytest.raises(WorkspaceError, match=r"out of memory at 000011\.jpg"):
        run_batch(job(tmp_path))
    assert not files(tmp_path)


def test_deleted_image_ends_the_run(tmp_path: Path) -> None:
    result = run_batch(job(tmp_path))
    result.files[1][0].unlink()
    with pytest.raises(WorkspaceError, match=r"png cannot be written: its folder or its partial file was deleted"):
        publish_batch(Workspace(tmp_path), result)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.usefixtures("threads")
def test_folder_in_place_of_an_image_ends_the_run(tmp_path: Path) -> None:
    Workspace(tmp_path).stage("align").image_path(0, "000011").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match=r"000011\.png cannot be written: Is a directory; check its folder"):
        run(tmp_path, todo=("align", "score"))
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.usefixtures("threads")
def test_deleted_folder_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process deletes the folder of images between its creation and the first write."""
    images = Workspace(tmp_path).stage("align").image_path(0, "000011").parent
    images.parent.mkdir(parents=True)
    made = Path.mkdir

    def deleted(path: Path, *args: Any, **kwargs: Any) -> None:
        made(path, *args, **kwargs)
        if path == images:
            shutil.rmtree(path)

    monkeypatch.setattr(Path, "mkdir", deleted)
    with pytest.raises(WorkspaceError, match=r"its folder or its partial file was deleted meanwhile; make sure that"):
        run_batch(job(tmp_path, todo=("align", "score")))


@pytest.mark.usefixtures("threads")
def test_file_in_place_of_the_folder_ends_the_run(tmp_path: Path) -> None:
    images = Workspace(tmp_path).stage("align").image_path(0, "000011").parent
    images.parent.mkdir(parents=True)
    images.touch()
    with pytest.raises(WorkspaceError, match=r"\.png cannot be written: File exists; check its folder, then run"):
        run_batch(job(tmp_path, todo=("align", "score")))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("length", "failed"), [(251, 0), (252, 1)])
def test_image_with_too_long_a_name_fails_alone(length: int, failed: int, tmp_path: Path) -> None:
    """File systems allow 255 bytes, of which ".png" takes four."""
    long = tuple((index, replace(photo, id="é" * (length // 2) + "x" * (length % 2))) for index, photo in photos()[2:3])
    result = run(tmp_path, photos=(*photos()[:1], *long), todo=("align", "score"), examples=frozenset())
    assert (result.rejected, result.failed) == (0, failed)
    (last,) = [one for one in ended(tmp_path, "align") if one.photo == "000011.jpg"]
    assert isinstance(last, Failed if failed else Kept)
    assert "File name too long" in getattr(last, "error", "File name too long")


def test_images_are_on_the_disk_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that survives a power failure has all its images, content and names."""
    calls: list[tuple[str, Path]] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        calls.append(("rename", path))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    result = run(tmp_path, todo=("align", "score"), examples=frozenset())
    Workspace(tmp_path).stage("align").complete([], StageCounts(photos=3, batches=1, kept=3, rejected=0))
    align = Workspace(tmp_path).stage("align").root
    images = [("rename", partial) for partial, _ in result.files]
    assert len(images) == 3
    manifests = [path for kind, path in calls if kind == "rename" and ".jsonl." in path.name]
    assert [path.parent.parent.name for path in manifests] == ["align", "score"]
    (mark,) = [path for kind, path in calls if kind == "rename" and ".stage.json." in path.name]
    order = [
        *(("sync", partial) for partial, _ in result.files),
        *images,
        ("sync", align / "images"),
        ("sync", align / "images" / "00000"),
        ("sync", manifests[0]),
        ("rename", manifests[0]),
        ("sync", manifests[1]),
        ("rename", manifests[1]),
        ("sync", tmp_path),
        ("sync", align),
        ("sync", align / "batches"),
        ("sync", mark),
        ("rename", mark),
    ]
    assert calls == order


@pytest.mark.usefixtures("threads")
def test_a_disk_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.EIO, lambda name: name.startswith(".000011.png."))
    with pytest.raises(WorkspaceError, match=r"000011\.png cannot be written: Input/output error; check the disk"):
        run(tmp_path, todo=("align", "score"))
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.usefixtures("threads")
def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith(".000011.png."))
    with pytest.raises(DiskFull):
        run(tmp_path, todo=("align", "score"))
    assert not files(tmp_path)


@pytest.mark.usefixtures("grouped")
def test_a_photo_whose_image_cannot_be_written_ends_there(tmp_path: Path) -> None:
    """It has passed later stages meanwhile, and kept images; nothing of them is left."""
    long = replace(photos()[2][1], id="x" * 252)
    result = run(tmp_path, photos=(photos()[0], (2, long), photos()[3]), examples=frozenset())
    crop = ended(tmp_path, "crop")
    assert [type(one) for one in crop] == [Kept, Failed, Kept]
    assert "(crop, " in getattr(crop[1], "error", "")
    for stage in PHOTO_STAGES[1:]:
        assert [one.photo for one in ended(tmp_path, stage)] == ["000002.jpg", "000012.jpg"]
    assert result.failed == 1
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.usefixtures("grouped")
def test_a_photo_whose_example_cannot_be_written_leaves_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image of the stage is written already."""
    guilty, original = photos()[0][1], batch.write_partial

    def write_partial(path: Path, *arguments: Any) -> Path:
        if path.parent.name == guilty.id:
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return original(path, *arguments)

    monkeypatch.setattr(batch, "write_partial", write_partial)
    result = run_batch(job(tmp_path))
    assert [one.photo for one in result.outcomes["crop"] if isinstance(one, Failed)] == [guilty.file]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {partial for partial, _ in result.files}


@pytest.mark.usefixtures("grouped")
def test_an_interruption_leaves_no_image(tmp_path: Path) -> None:
    def meet(x: Tensor) -> None:
        if is_of(x, photos()[3][1]):
            raise KeyboardInterrupt

    with denoiser_meets(meet), pytest.raises(KeyboardInterrupt):
        run_batch(job(tmp_path))
    assert not files(tmp_path)
