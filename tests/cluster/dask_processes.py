"""A Dask scheduler and workers as processes of this machine, and jobs that they can run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from celebahq_builder.cluster.jobs import Parts
from celebahq_builder.cluster.worker import check_wanted
from tests.pipeline.runs import ROOT, processes_of, wait_for

SEAM = Path(__file__).with_name("worker_seam.py")
"""Loaded by the workers of tests that hold or kill them."""


class Dask:
    """A scheduler and its workers; `close` kills all of their processes.

    Args:
        folder: for their files.
        scheduler: arguments of ``dask scheduler``.
        common: arguments of scheduler and workers.
    """

    def __init__(self, folder: Path, scheduler: Sequence[str] = (), common: Sequence[str] = ()) -> None:
        self.folder, self.common = folder, common
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        listening = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file), "--no-dashboard")
        self.scheduler = self._start("scheduler", *(scheduler or listening), *common)
        wait_for(self._written)
        self.address: str = json.loads(self.file.read_text())["address"]

    def _written(self) -> bool:
        assert self.scheduler.poll() is None, (self.folder / "scheduler-0.log").read_text()
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(self.file.read_text()))
        return False

    def worker(
        self, *arguments: str, environment: dict[str, str] | None = None, cwd: Path = ROOT, threads: int = 1
    ) -> subprocess.Popen[bytes]:
        """Start a worker with its nanny; it registers a moment later."""
        own = ("--host", "127.0.0.1", "--nthreads", str(threads), "--no-dashboard", "--memory-limit", "0")
        where = ("--local-directory", str(self.folder))
        return self._start(
            "worker", self.address, *own, *where, *self.common, *arguments, environment=environment, cwd=cwd
        )

    def _start(
        self, what: str, *arguments: str, environment: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        log: IO[bytes]
        with (self.folder / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", what, *arguments],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Kill scheduler, nannies and workers."""
        for process in self.processes:
            for pid in (process.pid, *processes_of(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def dask(folder: Path, **arguments: Sequence[str]) -> Iterator[Dask]:
    """Start a scheduler; kill it, and all workers, at the end."""
    folder.mkdir(exist_ok=True)
    started = Dask(folder, **arguments)
    try:
        yield started
    finally:
        started.close()


# --- Jobs that need none of the packages of a build, so that a worker starts fast


def facts() -> dict[str, str]:
    return {"colour": os.environ.get("COLOUR", "red")}


def work(job: list[str]) -> list[str]:
    """Return the words of a job; act as some words ask.

    ``kill`` kills the worker, ``fail`` raises an error, ``hold FOLDER`` waits until the folder is gone or nobody waits
    for the result; then it writes the file ``FOLDER.cancelled``.
    """
    for word in job:
        action, _, argument = word.partition(" ")
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "fail":
            raise OSError(5, "a test failed")
        if action == "hold" and Path(argument).exists():
            (Path(argument) / str(os.getpid())).touch()
            try:
                while Path(argument).exists():
                    time.sleep(0.02)
                    check_wanted()
            except BaseException as error:
                Path(f"{argument}.cancelled").write_text(type(error).__name__)
                raise
    return [word.partition(" ")[0] for word in job]


PARTS = Parts[list[str], list[str]](
    name=" + ".join,
    split=lambda job: [[word] for word in job],
    fail=lambda job, reason: [f"failed {job[0]}: {reason}"],
    join=lambda job, results: sorted(word for result in results for word in result),
)
