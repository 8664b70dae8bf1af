"""Scores on a Dask cluster are those of this machine."""

from importlib.metadata import version
from pathlib import Path

import pytest

from celebahq_builder.errors import ClusterError
from celebahq_builder.filter.run import filter_folder
from tests.cluster.dask_processes import dask
from tests.filter.folders import make
from tests.pipeline.runs import ROOT

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


def test_refused_worker(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "version = metadata.version\n"
        "metadata.version = lambda name: '1.0' if name == 'scipy' else version(name)\n"
    )
    photos = make(tmp_path / "photos", 3)
    with dask(tmp_path / "dask") as started:
        started.worker("--no-nanny", environment={"PYTHONPATH": f"{other}:{ROOT}"})
        with pytest.raises(ClusterError, match=rf"gets no work: scipy: 1.0 there, {version('scipy')} here$"):
            filter_folder(photos, scores=tmp_path / "scores", cluster=started.address)
