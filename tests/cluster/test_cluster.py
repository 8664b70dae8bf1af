"""Jobs on a Dask cluster: its workers come, go, die and are refused; a job that kills them is divided."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celebahq_builder.cluster import connection
from celebahq_builder.cluster.connection import Cluster
from celebahq_builder.cluster.jobs import run_jobs
from celebahq_builder.errors import ClusterError, RecipeError
from tests.cluster.dask_processes import PARTS, Dask, dask, facts, work
from tests.pipeline.runs import wait_for


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Dask]:
    with dask(tmp_path / "dask") as scheduler:
        yield scheduler


def results(target: str | Path, jobs: list[list[str]]) -> list[list[str]]:
    """Run jobs on a cluster, in workers whose colour is red; return the results, sorted."""
    return sorted(run_jobs(str(target), work, jobs, facts=facts, expected={"colour": "red"}, parts=PARTS))


def test_jobs(started: Dask, caplog: pytest.LogCaptureFixture) -> None:
    """By address and by file; workers may start later than the command."""
    caplog.set_level(logging.INFO)
    jobs = [[str(number)] for number in range(7)]
    threading.Timer(1.5, started.worker, ["--no-nanny"]).start()
    assert results(started.address, jobs) == jobs
    assert f"cluster: scheduler {started.address}" in caplog.text
    assert f"waiting for workers: dask worker {started.address} --nthreads 1" in caplog.text
    assert results(started.file, jobs) == jobs


@pytest.mark.slow
def test_no_job_is_read_early(started: Dask) -> None:
    """Two jobs per worker are in flight: one runs, one waits."""
    started.worker("--no-nanny")
    read = []

    def jobs() -> Iterator[list[str]]:
        for number in range(9):
            read.append(number)
            yield [str(number)]

    running = run_jobs(started.address, work, jobs(), facts=facts, expected={"colour": "red"}, parts=PARTS)
    assert next(running) == ["0"]
    assert len(read) <= 3
    running.close()


@pytest.mark.slow
def test_error_of_a_job(started: Dask) -> None:
    started.worker("--no-nanny")
    with pytest.raises(OSError, match="a test failed"):
        results(started.address, [["fail"]])


@pytest.mark.slow
def test_closed_client_cancels_jobs(started: Dask, tmp_path: Path) -> None:
    """As after Ctrl-C: the worker ends its job, and takes those of the next command at once."""
    started.worker("--no-nanny")
    hold = tmp_path / "hold"
    hold.mkdir()
    jobs = [["1"], [f"hold {hold}"], ["2"]]
    running = run_jobs(started.address, work, jobs, facts=facts, expected={"colour": "red"}, parts=PARTS)
    assert next(running) == ["1"]
    wait_for(lambda: any(hold.iterdir()))
    running.close()
    assert results(started.address, [["3"]]) == [["3"]]
    assert (tmp_path / "hold.cancelled").read_text() == "JobCancelled"


@pytest.mark.slow
def test_killed_worker(started: Dask, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its nanny starts another one, which repeats its jobs."""
    started.worker()
    hold = tmp_path / "hold"
    hold.mkdir()

    def kill() -> None:
        wait_for(lambda: any(hold.iterdir()))
        [held] = hold.iterdir()
        held.unlink()
        hold.rmdir()
        os.kill(int(held.name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert results(started.address, [[f"hold {hold}"], ["1"], ["2"]]) == [["1"], ["2"], ["hold"]]
    killer.join()
    assert caplog.text.count("is gone; others repeat its work") == 1
    assert "one by one" not in caplog.text


@pytest.mark.slow
def test_job_that_kills(started: Dask, caplog: pytest.LogCaptureFixture) -> None:
    """The job behind it in the queue of the same worker is not suspected, although it loses its worker as often."""
    started.worker()
    found = results(started.address, [["a", "kill", "b"], ["c", "d"]])
    reason = "3 worker processes died with its batch, and one with it alone"
    assert found == [["a", "b", f"failed kill: {reason}"], ["c", "d"]]
    assert "a + kill + b: 3 workers died with it; its images are tried one by one" in caplog.text
    assert "c + d" not in caplog.text
    assert caplog.text.count("is gone") == 4


@pytest.mark.slow
def test_worker_that_leaves(started: Dask, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a worker's lifetime is no sign against its job."""
    for lifetime in ("6 s", "7 s", "8 s"):
        started.worker("--no-nanny", "--lifetime", lifetime)
    hold = tmp_path / "hold"
    hold.mkdir()

    def release() -> None:
        wait_for(lambda: all(one.poll() is not None for one in started.processes[1:4]))
        for held in hold.iterdir():
            held.unlink()
        hold.rmdir()
        started.worker("--no-nanny")

    releaser = threading.Thread(target=release)
    releaser.start()
    assert results(started.address, [[f"hold {hold}", "x"]]) == [["hold", "x"]]
    releaser.join()
    assert "warning" not in caplog.text


@pytest.mark.slow
def test_refused_workers(started: Dask, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each; the others do the work. Without others, the command ends with the line."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['celebahq_builder'] = None\n")
    started.worker("--no-nanny", environment={"COLOUR": "blue"})
    with pytest.raises(ClusterError, match=r"^worker tcp://\S+ gets no work: colour: blue there, red here$"):
        results(started.address, [["1"]])
    assert "gets no work" not in caplog.text  # the error is enough
    started.worker("--no-nanny", threads=3)
    started.worker("--no-nanny", environment={"PYTHONPATH": str(tmp_path)})
    started.worker("--no-nanny")
    hold = tmp_path / "hold"
    hold.mkdir()

    def release() -> None:
        wait_for(lambda: caplog.text.count("gets no work") == 3)
        for held in hold.iterdir():
            held.unlink()
        hold.rmdir()

    releaser = threading.Thread(target=release)
    releaser.start()
    while True:
        try:
            assert results(started.address, [[f"hold {hold}"]]) == [["hold"]]
            break
        except ClusterError:  # the suitable worker has not registered yet
            continue
    releaser.join()
    for line in (
        "colour: blue there, red here",
        "threads: 3 there, 1 here; start it with --nthreads 1",
        "it cannot run this program (No module named 'celebahq_builder.cluster'",
    ):
        assert f" gets no work: {line}" in caplog.text


@pytest.mark.slow
def test_killed_scheduler(started: Dask, tmp_path: Path) -> None:
    started.worker("--no-nanny")
    hold = tmp_path / "hold"
    hold.mkdir()

    def kill() -> None:
        wait_for(lambda: any(hold.iterdir()))
        started.scheduler.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ClusterError, match=f"^the scheduler {started.address} is gone; the same command resumes"):
        results(started.address, [[f"hold {hold}"]])
    killer.join()
    wait_for(lambda: (tmp_path / "hold.cancelled").exists())


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that cannot be used is refused in one line, before any work."""
    monkeypatch.setattr(connection, "CONNECT_S", 0.5)
    with pytest.raises(RecipeError, match=r"none.json cannot be read: No such file or directory; dask sch"):
        Cluster(str(tmp_path / "none.json"))
    (tmp_path / "other.json").write_text('{"id": 3}')
    with pytest.raises(RecipeError, match="other.json has no address; expected a file of dask scheduler"):
        Cluster(str(tmp_path / "other.json"))
    with pytest.raises(RecipeError, match="`cluster` is empty; expected the address"):
        Cluster(" ")
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1"):
        with pytest.raises(ClusterError, match=rf"^`cluster` {address}: no scheduler answers \(.+\); expected"):
            Cluster(address)
    monkeypatch.setattr(connection.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"distributed, which is not installed: pip install 'celebahq-builder\[cl"):
        Cluster("tcp://127.0.0.1:8786")
