"""Batches: photos in groups give the results of single photos; errors of one photo, of the device and of the disk."""

import errno
import json
import os
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from celebahq_builder import parallel
from celebahq_builder.errors import DiskFull, WorkspaceError
from celebahq_builder.imaging.quality_score import quality_scores
from celebahq_builder.models.registry import Architecture
from celebahq_builder.outcome import Failed, Kept, Outcome, QualityScore, from_json, to_json
from celebahq_builder.pipeline import batch, photo_context
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult, publish_batch
from celebahq_builder.pipeline.network_stage import cached_network, network
from celebahq_builder.run_directory.state import StageCounts
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import HOST
from tests.conftest import PHOTO_STAGES, SAMPLE, TINY
from tests.disk import failing
from tests.pipeline.faces import crop_of

CPU = torch.device("cpu")
FOLDER = SAMPLE / "img_celeba"
IDS = ("000002", "000014", "000011", "000012")
"""Small photos of the sample. The second is rejected: too little of its crop lies inside it."""
KEPT_FILES = ["000002.jpg", "000011.jpg", "000012.jpg"]
CUTTING = replace(TINY, upscale=replace(TINY.upscale, tile_px=64))
"""The upscaler sees photos in several windows, four of equal shape and more."""


@pytest.fixture(params=[0, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU as well, threads read photos and write images."""
    monkeypatch.setitem(batch.THREADS, "cpu", request.param)


@pytest.fixture
def grouped(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU treats photos as a GPU does: three together, up to four windows at once."""
    monkeypatch.setitem(batch.GROUP_PHOTOS, "cpu", 3)
    monkeypatch.setitem(photo_context.BATCH_WINDOWS, "cpu", 4)


def photos() -> tuple[tuple[int, Photo], ...]:
    listed = {photo.id: photo for photo in read_celeba(SAMPLE).photos}
    return tuple(enumerate(listed[one] for one in IDS))


def run(out: Path, **changes: Any) -> BatchResult:
    """Take the first photos of the sample through all stages as one batch, and publish it."""
    result = run_batch(job(out, **changes))
    publish_batch(Workspace(out), result)
    return result


def job(out: Path, **changes: Any) -> BatchJob:
    whole = BatchJob(
        workspace=out,
        number=0,
        photos=photos(),
        folder=FOLDER,
        recipe=TINY,
        device="cpu",
        start=None,
        todo=PHOTO_STAGES,
        examples=frozenset({"000002", "000012"}),
    )
    return replace(whole, **changes)


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def assert_nearly_same(found: Path, wanted: Path) -> None:
    """The same files and records, but values of an image may differ by one level.

    A convolution adds up its products in an order that depends on the size of the batch, on some CPUs.
    """
    names = sorted(files(wanted))
    assert sorted(files(found)) == names
    for name in names:
        one, other = found / name, wanted / name
        if one.suffix == ".png":
            pixels = [np.asarray(Image.open(path)).astype(int) for path in (one, other)]
            change = np.abs(pixels[0] - pixels[1])
            assert change.max() <= 1, name
            assert change.mean() < 0.001, name
        elif one.suffix == ".jsonl":
            for mine, theirs in zip(one.read_text().splitlines(), other.read_text().splitlines(), strict=True):
                (record, score), (other_record, other_score) = split_record(mine), split_record(theirs)
                assert record == other_record, name
                assert score == pytest.approx(other_score, rel=1e-3), name
        else:
            assert one.read_bytes() == other.read_bytes(), name


def split_record(line: str) -> tuple[dict[str, Any], dict[str, float]]:
    """A line of a manifest, without digests of the image, and its scores."""
    record: dict[str, Any] = json.loads(line)
    for key in ("bytes", "sha256"):
        record.get("image", {}).pop(key, None)
    return record, record.pop("score", {})


def ended(out: Path, stage: str = "score") -> list[Outcome]:
    return Workspace(out).stage(stage).read_manifest(0)


@contextmanager
def met(weights: str, architecture: Architecture, meet: Callable[[Tensor], object]) -> Iterator[None]:
    """Call `meet` with every input of a network, as long as the block lasts."""
    hook = network(weights, CPU, architecture).register_forward_pre_hook(lambda _, inputs: meet(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def denoiser_meets(meet: Callable[[Tensor], object]) -> Any:
    return met(TINY.denoise.weights, "autoencoder", meet)


def is_of(x: Tensor, photo: Photo) -> bool:
    """Return whether the input of a network is this photo; no two have the same shape."""
    face = crop_of(photo, FOLDER, TINY.crop, TINY.resolution)
    return tuple(x.shape[-2:]) == tuple(length + -length % 8 for length in face.pixels.shape[1:])


@pytest.mark.usefixtures("grouped")
def test_groups_give_the_images_of_single_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[int] = []
    with met(TINY.upscale.weights, "srgan", lambda x: windows.append(len(x))):
        together = run(tmp_path / "together", recipe=CUTTING)
        assert max(windows) == 4
        monkeypatch.setitem(batch.GROUP_PHOTOS, "cpu", 1)
        monkeypatch.setitem(photo_context.BATCH_WINDOWS, "cpu", 1)
        windows.clear()
        alone = run(tmp_path / "alone", recipe=CUTTING)
        assert max(windows) == 1
    assert_nearly_same(tmp_path / "together", tmp_path / "alone")
    assert [one.photo for one in ended(tmp_path / "together", "crop")] == [photo.file for _, photo in photos()]
    assert [one.photo for one in ended(tmp_path / "together")] == KEPT_FILES
    for result in (together, alone):
        assert (result.photos, result.rejected, result.failed) == (4, 1, 0)


@pytest.mark.usefixtures("grouped")
def test_a_group_passes_a_stage_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second photo of the first group is rejected before."""
    sizes: list[int] = []

    def scores(images: Tensor) -> list[QualityScore]:
        sizes.append(len(images))
        return quality_scores(images)

    monkeypatch.setattr("celebahq_builder.imaging.quality_score.quality_scores", scores)
    run(tmp_path)
    assert sizes == [2, 1]


@pytest.mark.usefixtures("threads")
def test_threads_read_the_photos_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device does not wait for a photo that is being decoded."""
    reads: list[bool] = []

    def reader(folder: Path) -> Callable[[Photo], bytes]:
        def read(photo: Photo) -> bytes:
            reads.append(threading.current_thread() is threading.main_thread())
            return (folder / photo.file).read_bytes()

        return read

    monkeypatch.setattr(batch, "photo_reader", reader)
    run(tmp_path)
    assert reads == [batch.THREADS["cpu"] == 0] * len(IDS)


@pytest.mark.usefixtures("grouped")
def test_manifests_are_in_photo_order(tmp_path: Path) -> None:
    """A photo rejected by the first stage is recorded before the others of its group reach the kept stage."""
    run(tmp_path, todo=("align", "score"))
    assert [one.photo for one in ended(tmp_path, "align")] == [photo.file for _, photo in photos()]


@pytest.mark.usefixtures("grouped")
def test_groups_resume_from_a_kept_stage(tmp_path: Path) -> None:
    run(tmp_path / "at once", examples=frozenset())
    run(tmp_path / "in steps", todo=PHOTO_STAGES[:1], examples=frozenset())
    run(tmp_path / "in steps", todo=PHOTO_STAGES[1:], start="crop")
    assert files(tmp_path / "in steps") == files(tmp_path / "at once")


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("start", [None, "crop"])
def test_failing_photo_of_a_group_fails_alone(start: str | None, tmp_path: Path) -> None:
    guilty = photos()[2][1]

    def meet(x: Tensor) -> None:
        if is_of(x, guilty):
            raise ValueError(f"no such photo: {len(x)}")

    if start:
        run(tmp_path, todo=("crop",))
    with denoiser_meets(meet):
        result = run(tmp_path, start=start, todo=PHOTO_STAGES[1:] if start else PHOTO_STAGES)
    assert result.failed == 1
    assert [one.photo for one in ended(tmp_path, "denoise")] == KEPT_FILES
    (failure,) = [one for one in ended(tmp_path, "denoise") if not isinstance(one, Kept)]
    assert isinstance(failure, Failed)
    assert failure.photo == guilty.file
    assert failure.error.startswith("ValueError: no such photo: 1 (denoise, test_batch.py:")
    assert [one.photo for one in ended(tmp_path)] == [file for file in KEPT_FILES if file != guilty.file]


NO_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_batches_are_halved_where_memory_is_short(error: Exception, tmp_path: Path) -> None:
    refused: list[int] = []

    def meet(x: Tensor) -> None:
        if len(x) > 1:
            refused.append(len(x))
            raise error

    run(tmp_path / "free", recipe=CUTTING)
    with met(TINY.upscale.weights, "srgan", meet):
        run(tmp_path / "short", recipe=CUTTING)
    assert refused == [4, 2]
    assert_nearly_same(tmp_path / "short", tmp_path / "free")


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_too_little_memory_for_one_window_ends_the_run(error: Exception, tmp_path: Path) -> None:
    def meet(x: Tensor) -> None:
        raise error

    with (
        denoiser_meets(meet),
        pytest.raises(WorkspaceError, match=r"out of memory at 000002\.jpg \(denoise\).*; run .* with fewer `workers`"),
    ):
        run(tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("group", [1, 3])
def test_a_device_that_fails_ends_the_run(group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batch.GROUP_PHOTOS, "cpu", group)
    met_last = photos()[2][1]

    def meet(x: Tensor) -> None:
        if is_of(x, met_last):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    with denoiser_meets(meet), pytest.raises(WorkspaceError, match=r"the device cpu failed at 000011\.jpg \(denoise\)"):
        run(tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.usefixtures("grouped")
def test_time_of_a_group_is_counted_once(tmp_path: Path) -> None:
    began = time.perf_counter()
    times = run(tmp_path).seconds
    assert sum(times.values()) <= time.perf_counter() - began
    assert times.keys() == set(PHOTO_STAGES)
    assert all(seconds > 0 for seconds in times.values())


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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("threads")
def test_unreadable_photo_fails_alone(tmp_path: Path) -> None:
    """Reading /proc/self/mem from its start is an input/output error, as of a bad sector."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for _, photo in photos():
        (folder / photo.file).symlink_to(FOLDER.absolute() / photo.file)
    (folder / "000011.jpg").unlink()
    (folder / "000011.jpg").symlink_to("/proc/self/mem")
    result = run(tmp_path / "run", folder=folder, todo=("align", "score"))
    assert (result.rejected, result.failed) == (1, 1)
    lines = (tmp_path / "run/stages/align/batches/00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["kept", "rejected", "failed", "kept"]
    assert "Input/output error" in json.loads(lines[2])["error"]


def networks_loaded(job: BatchJob) -> tuple[int, int]:
    """Run a batch in a worker process; return the process, and how many networks it has loaded so far."""
    run_batch(job)
    return os.getpid(), cached_network.cache_info().misses


def test_workers_load_networks_once(tmp_path: Path) -> None:
    jobs = [job(tmp_path, number=number, device="cpu,cpu,cpu", run_token="12ab") for number in range(6)]
    found = list(parallel.run(networks_loaded, jobs, workers=2))
    assert len(found) == 6
    assert {loaded for _, loaded in found} == {2}, "the denoiser and the upscaler"
