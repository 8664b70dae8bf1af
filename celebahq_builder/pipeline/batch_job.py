"""A batch of photos as a job: the input of a worker, its result, and the publication of its images and outcomes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.outcome import Failed, Kept, Outcome, Rejected
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import RUN_TOKEN, publish, sync_folder


@dataclass(frozen=True)
class BatchJob:
    """The input of a worker; small, and picklable."""

    workspace: Path
    number: int
    photos: tuple[tuple[int, Photo], ...]
    """Index in the source, and photo."""
    folder: Path
    """Folder of the photos."""
    recipe: BuildRecipe
    device: str
    """Devices as asked for; a worker uses one of them, see `parallel.worker_device`."""
    start: str | None
    """Stage on disk from which the batch resumes; None starts from the photos."""
    todo: tuple[str, ...]
    """Stages to write to disk that lack the batch's manifest, in order."""
    examples: frozenset[str]
    """Ids of the photos that the report shows after each stage."""
    resumed: tuple[tuple[str, Kept], ...] = ()
    """Photos that resume from another stage than the batch, with its name and their outcomes."""
    deltas: Path | None = None
    """Folder of the official deltas; None adds none."""
    run_token: str = RUN_TOKEN
    """Token of the main process, for the names of partial files."""

    def in_order(self, outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
        """Return outcomes of the job's photos in the order of the photos."""
        place = {photo.key: number for number, (_, photo) in enumerate(self.photos)}
        return tuple(sorted(outcomes, key=lambda one: place[one.key]))

    def describe(self) -> str:
        """Return the number of the batch, or the file of a job of one photo, for messages."""
        return self.photos[0][1].file if len(self.photos) == 1 else f"batch {self.number}"

    def split(self) -> list[BatchJob]:
        """Return a job for each photo."""
        jobs = []
        for index, photo in self.photos:
            resumed = tuple((stage, kept) for stage, kept in self.resumed if kept.key == photo.key)
            jobs.append(replace(self, photos=((index, photo),), resumed=resumed))
        return jobs


@dataclass(frozen=True)
class BatchResult:
    """The result of a worker for a batch; small, and picklable."""

    number: int
    photos: int
    outcomes: dict[str, tuple[Outcome, ...]]
    """Content of the manifest of each stage in `BatchJob.todo`, in order of the photos."""
    files: tuple[tuple[Path, Path], ...]
    """Partial file and final path of each image, in order of writing."""
    seconds: dict[str, float]
    """Time of each stage in this worker."""
    peak_memory_bytes: int
    """Largest resident memory of this worker so far."""
    moved: tuple[tuple[Path, Path], ...] = ()
    """Image of an earlier run and its final path."""

    @classmethod
    def of_nothing(cls, job: BatchJob) -> BatchResult:
        """Return the result of a job without photos."""
        return cls(job.number, 0, dict.fromkeys(job.todo, ()), (), {}, 0)

    @classmethod
    def all_failed(cls, job: BatchJob, error: str) -> BatchResult:
        """Return the result of a job whose photos have all failed with an error."""
        failed: tuple[Outcome, ...] = tuple(Failed(photo.file, error, photo.face) for _, photo in job.photos)
        nothing = cls.of_nothing(job)
        return replace(nothing, photos=len(failed), outcomes={**nothing.outcomes, job.todo[0]: failed})

    @classmethod
    def join(cls, job: BatchJob, results: Sequence[BatchResult]) -> BatchResult:
        """Return the result of a job from those of its parts; see `BatchJob.split`."""
        names = {name for result in results for name in result.seconds}
        return cls(
            number=job.number,
            photos=len(job.photos),
            outcomes={
                name: job.in_order(one for result in results for one in result.outcomes[name]) for name in job.todo
            },
            files=tuple(file for result in results for file in result.files),
            seconds={name: sum(result.seconds.get(name, 0.0) for result in results) for name in names},
            peak_memory_bytes=max(result.peak_memory_bytes for result in results),
        )

    @property
    def rejected(self) -> int:
        """Number of photos that a stage rejected."""
        return sum(isinstance(one, Rejected) for outcomes in self.outcomes.values() for one in outcomes)

    @property
    def failed(self) -> int:
        """Number of photos that met an unexpected error."""
        return sum(isinstance(one, Failed) for outcomes in self.outcomes.values() for one in outcomes)


def publish_batch(workspace: Workspace, result: BatchResult) -> None:
    """Give the images of a batch their names, then write its manifests; only for the holder of the lock.

    Raises:
        DiskFull: no space left; the batch lacks a manifest and will be redone.
        WorkspaceError: an image was deleted meanwhile or cannot get its name, or the disk failed.
    """
    for partial, path in result.files:
        with as_workspace_error(path):
            publish(partial, path)
    for earlier, path in result.moved:
        with as_workspace_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            earlier.replace(path)
    folders = {path.parent for _, path in (*result.files, *result.moved)}
    for folder in sorted(folders | {folder.parent for folder in folders}):
        sync_folder(folder)
    for name, outcomes in result.outcomes.items():
        workspace.stage(name).write_manifest(result.number, outcomes)


@contextlib.contextmanager
def as_workspace_error(path: Path) -> Iterator[None]:
    """Turn an OSError into a WorkspaceError: the run ends, not one photo."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written: {error.strerror}; check its folder, then run the same command again"
        ) from error
