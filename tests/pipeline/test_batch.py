"""Batches: photos in groups give the results of single photos; errors of one photo and of the device."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from celebahq_builder import parallel
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.imaging.quality_score import quality_scores
from celebahq_builder.outcome import Failed, Kept, QualityScore
from celebahq_builder.pipeline import batch, photo_context
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchJob
from celebahq_builder.pipeline.network_stage import cached_network
from celebahq_builder.sources.photo import Photo
from tests.conftest import PHOTO_STAGES, TINY
from tests.pipeline.one_batch import (
    CUTTING,
    FOLDER,
    IDS,
    KEPT_FILES,
    denoiser_meets,
    ended,
    files,
    is_of,
    job,
    met,
    photos,
    run,
)


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
