"""Photos that go through the stages together end as they do alone, and one that fails fails alone."""

import errno
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from celebahq_builder.errors import DiskFull, WorkspaceError
from celebahq_builder.models.registry import Architecture
from celebahq_builder.outcome import Failed, Kept, Outcome
from celebahq_builder.pipeline import steps
from celebahq_builder.pipeline.batch import BatchJob, BatchResult, run_batch
from celebahq_builder.pipeline.networks import network
from celebahq_builder.pipeline.recipe import PHOTO_STAGES
from celebahq_builder.pipeline.stages import crop, upscale
from celebahq_builder.pipeline.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo
from tests.conftest import SAMPLE, TINY
from tests.disk import failing

CPU = torch.device("cpu")
FOLDER = SAMPLE / "img_celeba"
IDS = ("000002", "000014", "000011", "000012")
"""Small photos of the sample. The second is rejected: too little of its crop lies inside it."""
KEPT_FILES = ["000002.jpg", "000011.jpg", "000012.jpg"]
CUTTING = replace(TINY, upscale=upscale.UpscaleSettings(when="always", tile_px=64))
"""The upscaler sees photos in several windows, four of equal shape and more."""


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU treats photos as a GPU does: three together, up to four windows at once."""
    monkeypatch.setitem(steps.GROUP_PHOTOS, "cpu", 3)
    monkeypatch.setitem(steps.BATCH_WINDOWS, "cpu", 4)


def photos() -> tuple[tuple[int, Photo], ...]:
    listed = {photo.id: photo for photo in read_celeba(SAMPLE).photos}
    return tuple(enumerate(listed[one] for one in IDS))


def run(out: Path, **changes: Any) -> BatchResult:
    """Take the first photos of the sample through all stages as one batch."""
    job = BatchJob(
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
    return run_batch(replace(job, **changes))


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def ended(out: Path, stage: str = "score") -> list[Outcome]:
    return Workspace(out).stage(stage).read_manifest(0)


@contextmanager
def met(weights: str, architecture: Architecture, meet: Callable[[Tensor], object]) -> Iterator[None]:
    """While this lasts, `meet` is called with all that a network is given."""
    hook = network(weights, CPU, architecture).register_forward_pre_hook(lambda _, inputs: meet(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def denoiser_meets(meet: Callable[[Tensor], object]) -> Any:
    return met("denoiser", "autoencoder", meet)


def is_of(x: Tensor, photo: Photo) -> bool:
    """Whether a network that sees whole photos is given this one; no two are of one shape."""
    face = crop.cut(photo, FOLDER, TINY.region, TINY.resolution, CPU)
    return tuple(x.shape[-2:]) == tuple(length + -length % 8 for length in face.pixels.shape[1:])


@pytest.mark.usefixtures("grouped")
def test_groups_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[int] = []
    with met("upscaler-gan", "srgan", lambda x: windows.append(len(x))):
        together = run(tmp_path / "together", recipe=CUTTING)
        assert max(windows) == 4
        monkeypatch.setitem(steps.GROUP_PHOTOS, "cpu", 1)
        monkeypatch.setitem(steps.BATCH_WINDOWS, "cpu", 1)
        windows.clear()
        alone = run(tmp_path / "alone", recipe=CUTTING)
        assert max(windows) == 1
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    assert [one.photo for one in ended(tmp_path / "together", "region")] == [photo.file for _, photo in photos()]
    assert [one.photo for one in ended(tmp_path / "together")] == KEPT_FILES
    assert replace(together, seconds={}, peak_memory_bytes=0) == replace(alone, seconds={}, peak_memory_bytes=0)
    assert (together.photos, together.rejected, together.failed) == (4, 1, 0)


@pytest.mark.usefixtures("grouped")
def test_order_is_that_of_the_photos_whatever_is_kept(tmp_path: Path) -> None:
    """A photo rejected by the first stage is filed before the others of its group have come to the stage kept."""
    run(tmp_path, todo=("align", "score"))
    assert [one.photo for one in ended(tmp_path, "align")] == [photo.file for _, photo in photos()]


@pytest.mark.usefixtures("grouped")
def test_groups_go_on_from_a_kept_stage(tmp_path: Path) -> None:
    run(tmp_path / "at once", examples=frozenset())
    run(tmp_path / "in steps", todo=PHOTO_STAGES[:1], examples=frozenset())
    run(tmp_path / "in steps", todo=PHOTO_STAGES[1:], start="region")
    assert files(tmp_path / "in steps") == files(tmp_path / "at once")


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("start", [None, "region"])
def test_a_photo_that_fails_in_a_group_fails_alone(start: str | None, tmp_path: Path) -> None:
    guilty = photos()[2][1]

    def meet(x: Tensor) -> None:
        if is_of(x, guilty):
            raise ValueError(f"no such photo, please: {len(x)}")

    if start:
        run(tmp_path, todo=("region",))
    with denoiser_meets(meet):
        result = run(tmp_path, start=start, todo=PHOTO_STAGES[1:] if start else PHOTO_STAGES)
    assert result.failed == 1
    assert [one.photo for one in ended(tmp_path, "denoise")] == KEPT_FILES
    (failure,) = [one for one in ended(tmp_path, "denoise") if not isinstance(one, Kept)]
    assert isinstance(failure, Failed)
    assert failure.photo == guilty.file
    assert failure.error.startswith("ValueError: no such photo, please: 1 (denoise, test_batch.py:")
    assert [one.photo for one in ended(tmp_path)] == [file for file in KEPT_FILES if file != guilty.file]


@pytest.mark.usefixtures("grouped")
def test_a_network_without_room_gets_smaller_batches(tmp_path: Path) -> None:
    refused: list[int] = []

    def meet(x: Tensor) -> None:
        if len(x) > 1:
            refused.append(len(x))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    run(tmp_path / "free", recipe=CUTTING)
    with met("upscaler-gan", "srgan", meet):
        run(tmp_path / "short", recipe=CUTTING)
    assert refused == [4, 2]
    assert files(tmp_path / "short") == files(tmp_path / "free")


@pytest.mark.usefixtures("grouped")
def test_no_room_for_one_window_ends_the_run(tmp_path: Path) -> None:
    def meet(x: Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with (
        denoiser_meets(meet),
        pytest.raises(WorkspaceError, match=r"out of memory at 000002\.jpg \(denoise\); run .* with fewer --workers"),
    ):
        run(tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("group", [1, 3])
def test_a_device_that_fails_ends_the_run(group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.GROUP_PHOTOS, "cpu", group)
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


def test_a_disk_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.EIO, lambda name: name.startswith("000011.png."))
    with pytest.raises(WorkspaceError, match=r"000011\.png cannot be written: Input/output error; see to the disk"):
        run(tmp_path, todo=("align", "score"))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith("000011.png."))
    with pytest.raises(DiskFull):
        run(tmp_path, todo=("align", "score"))


def test_a_source_that_cannot_be_read_is_one_photos_failure(tmp_path: Path) -> None:
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
