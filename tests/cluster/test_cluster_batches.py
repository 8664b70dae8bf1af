"""A batch on a cluster: its paths, and its photos one by one."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from celebahq_builder.cluster.worker import JobCancelled, check_wanted
from celebahq_builder.outcome import Failed
from celebahq_builder.pipeline import batch, cluster_batches
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchResult
from tests.pipeline.test_batch import IDS, job


def test_photos_one_by_one(tmp_path: Path) -> None:
    """Their results, in any order, make the result of the batch; one of them is rejected."""
    whole = job(tmp_path)
    expected = run_batch(whole)
    parts = whole.split()
    assert [part.photos for part in parts] == [(one,) for one in whole.photos]
    joined = BatchResult.join(whole, [run_batch(part) for part in reversed(parts)])
    assert joined.outcomes == expected.outcomes
    assert (joined.number, joined.photos, joined.rejected) == (0, len(IDS), 1)
    assert sorted(path for _, path in joined.files) == sorted(path for _, path in expected.files)
    assert joined.seconds.keys() == expected.seconds.keys()


def test_photos_that_resume(tmp_path: Path) -> None:
    """Each part has the earlier result of its photo only."""
    whole = job(tmp_path)
    kept = [one for one in run_batch(whole).outcomes["align"] if one.photo != "000014.jpg"]
    resumed = tuple(("align", one) for one in kept)
    parts = replace(whole, resumed=resumed).split()
    assert [[one.photo for _, one in part.resumed] for part in parts] == [
        *(["000002.jpg"], [], ["000011.jpg"], ["000012.jpg"])
    ]


def test_photo_that_failed(tmp_path: Path) -> None:
    """It has its place among the others, under the first stage."""
    whole = job(tmp_path)
    parts = whole.split()
    results = [run_batch(part) for part in parts[1:]]
    joined = BatchResult.join(whole, [*results, BatchResult.all_failed(parts[0], "died")])
    first, *others = whole.todo
    assert joined.outcomes[first][0] == Failed("000002.jpg", "died")
    assert [len(joined.outcomes[name]) for name in others] == [len(results) - 1] * len(others)
    assert (joined.photos, joined.failed, joined.rejected) == (4, 1, 1)


def test_paths_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = job(Path("run"), folder=Path("photos"), deltas=Path("deltas"))
    sent = cluster_batches._with_absolute_paths(given)
    assert (sent.workspace, sent.folder, sent.deltas) == tuple(tmp_path / name for name in ("run", "photos", "deltas"))
    assert len(pickle.dumps(sent)) < 10_000


def test_cancelled_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after a photo, and leaves no file."""
    calls = []

    def cancelled() -> None:
        calls.append(len(list(tmp_path.rglob("*.partial"))))
        if len(calls) == 3:
            raise JobCancelled

    check_wanted()  # not in a cluster
    monkeypatch.setattr(batch, "check_wanted", cancelled)
    with pytest.raises(JobCancelled):
        run_batch(job(tmp_path))
    assert calls[0] > 0
    assert not list(tmp_path.rglob("*.partial"))
