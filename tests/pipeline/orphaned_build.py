"""A build whose two workers stop while they write, and outlive it if it is killed."""

import functools
import os
import signal
from pathlib import Path

from celebahq_builder.pipeline import batch, photo_stages
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult
from tests.conftest import build_tiny


def build(out: Path) -> None:
    """Build the first photos of the sample; each worker stops itself after it has written its first image."""
    photo_stages.run_batch = run_batch
    build_tiny(out, workers=2)


def run_batch(job: BatchJob) -> BatchResult:
    """Run a batch; report in the folder around the run directory when the worker stops and when a batch ends."""
    _become_an_orphan_that_stops(job.workspace.parent)
    result = batch.run_batch(job)
    (job.workspace.parent / f"ended-{job.number}").write_text(str(result.failed))
    return result


@functools.cache
def _become_an_orphan_that_stops(folder: Path) -> None:
    owner, write = os.getppid(), batch.write_partial
    os.getppid = lambda: owner  # else the worker would end itself when its owner is gone

    def write_and_stop(path: Path, data: bytes, token: str) -> Path:
        partial = write(path, data, token)
        batch.write_partial = write
        (folder / f"stopped-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        return partial

    batch.write_partial = write_and_stop
