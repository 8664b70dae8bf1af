"""Scores on a Dask cluster are those of this machine."""

from pathlib import Path

import pytest

from celebahq_builder.errors import ClusterError
from celebahq_builder.filter.run import filter_folder
from tests.cluster.dask_processes import dask
from tests.filter.folders import make

pytestmark = pytest.mark.slow


def test_same_scores(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", 11)
    (photos / "damaged.png").write_bytes((photos / "000.png").read_bytes()[:200])
    with dask(tmp_path / "dask") as started:
        started.worker("--no-nanny", cwd=tmp_path / "dask")
        result = filter_folder(photos, keep=4, scores=tmp_path / "cluster", cluster=started.address)
        again = filter_folder(photos, keep=4, scores=tmp_path / "cluster", cluster=started.address)
    local = filter_folder(photos, keep=4, scores=tmp_path / "local", workers=1)
    assert result.ranked == again.ranked == local.ranked
    assert result.unscored == local.unscored
    assert (tmp_path / "cluster" / "scores.csv").read_bytes() == (tmp_path / "local" / "scores.csv").read_bytes()


def test_worker_that_does_not_see_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "here" / "photos", 3)
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there"
    there.mkdir()
    with dask(tmp_path / "dask") as started:
        started.worker("--no-nanny", cwd=there)
        photos = tmp_path / "here" / "photos"
        (there / "sitecustomize.py").touch()
        photos.chmod(0o700)
        with pytest.raises(ClusterError, match="size of"):
            filter_folder(photos, scores=tmp_path / "scores", cluster=started.address)
