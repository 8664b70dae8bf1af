"""Batches on a cluster: the comparison of its workers with the main process, and batches that kill their workers.

This file imports torch in workers only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import celebahq_builder
from celebahq_builder import parallel
from celebahq_builder.cluster.jobs import Parts, run_jobs
from celebahq_builder.cluster.worker import Facts
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.models.community import absolute, import_spandrel, is_weight_file, weights_sha256
from celebahq_builder.models.registry import find_entry, locate
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult
from celebahq_builder.pipeline.plan import BuildPlan, versions
from celebahq_builder.progress import Progress
from celebahq_builder.storage import read_file, read_text, sha256


def run_on_cluster(
    target: str, plan: BuildPlan, lock: Path, jobs: Iterable[BatchJob], progress: Progress
) -> Generator[BatchResult, None, None]:
    """Yield the results of batches that the workers of a cluster run, in order of completion; see `run_jobs`.

    Args:
        target: address of the scheduler, or its file.
        plan: of the run.
        lock: file of the lock that this process holds.
        jobs: batches to run.
        progress: shows the number of workers.
    """
    from celebahq_builder.pipeline.batch import run_batch

    request, photos = plan.request, plan.request.source.photos
    folder = request.source.folder.absolute()
    archives = sorted(request.deltas.absolute().glob("deltas*.zip")) if request.deltas else []
    settings = [request.recipe.settings(stage) for stage in request.recipe.photo_stages()]
    needed = Surroundings(
        lock=lock.absolute(),
        files=tuple(folder / photos[place].file for place in sorted({0, len(photos) // 2, len(photos) - 1}))
        + tuple(archives[:1]),
        weights=tuple(absolute(one.weights) for one in settings if hasattr(one, "weights")),
        device=request.device,
    )
    return run_jobs(
        target,
        run_batch,
        map(_with_absolute_paths, jobs),
        facts=functools.partial(worker_facts, needed),
        expected=needed.facts(),
        parts=Parts(name=BatchJob.describe, split=BatchJob.split, fail=BatchResult.all_failed, join=BatchResult.join),
        progress=progress,
        discard=_delete_partial_files,
    )


# --- Comparison of a worker with the main process -----------------------------------------------------------------


@dataclass(frozen=True)
class Surroundings:
    """Files and devices that a job needs; paths are absolute."""

    lock: Path | None = None
    """File of a lock: the worker must see its present content, which proves that it sees the same folder."""
    files: tuple[Path, ...] = ()
    """Files that the worker must see with the same size."""
    weights: tuple[str, ...] = ()
    device: str = "cpu"
    """See `parallel.devices`."""

    def facts(self) -> Facts:
        """Return versions of packages and properties of files in this process; the device is not looked for."""
        facts = {**versions(), "code of celebahq_builder": _code_sha256()}
        facts["python"] = ".".join(facts["python"].split(".")[:2])
        if self.lock is not None:
            facts[f"holder of {self.lock.parent}"] = _or_error(lambda path: read_text(path).splitlines()[-1], self.lock)
        for file in self.files:
            facts[f"size of {file}"] = _or_error(lambda path: f"{path.stat().st_size} bytes", file)
        for name in self.weights:
            facts[f"SHA-256 of the weights {name}"] = _weights_sha256(name)
        return {**facts, "device": self.device}


def worker_facts(needed: Surroundings) -> Facts:
    """Return the facts of a worker, to be compared with those of the main process.

    Raises:
        ImportError: a package is missing.
    """
    importlib.import_module("celebahq_builder.pipeline.batch")

    found = needed.facts()
    try:
        parallel.devices(needed.device)
    except CelebAHQError as error:
        found["device"] = str(error)
    return found


def _or_error(read: Callable[[Path], str], path: Path) -> str:
    try:
        return read(path)
    except (OSError, ValueError, IndexError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _weights_sha256(name: str) -> str:
    """Return the beginning of the hash of a weight file, or the error of reading it."""
    try:
        if is_weight_file(name):
            return f"{weights_sha256(name)[:16]}, spandrel {import_spandrel().__version__}"
        return sha256(read_file(locate(name)[0] / find_entry(name).file))[:16]
    except CelebAHQError as error:
        return str(error)
    except OSError as error:
        return str(error.strerror)


def _code_sha256() -> str:
    """Return the beginning of a hash of this package's files."""
    digest, root = hashlib.sha256(), Path(celebahq_builder.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


# --- Batches ----------------------------------------------------------------------------------------------------


def _with_absolute_paths(job: BatchJob) -> BatchJob:
    """Return a job for a worker with another working directory."""
    deltas = job.deltas.absolute() if job.deltas else None
    return replace(job, workspace=job.workspace.absolute(), folder=job.folder.absolute(), deltas=deltas)


def _delete_partial_files(result: BatchResult) -> None:
    """Delete the files of a batch that were not given their names."""
    for partial, _ in result.files:
        with contextlib.suppress(OSError):
            partial.unlink()
