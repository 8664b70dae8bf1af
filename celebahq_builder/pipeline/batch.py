"""A batch of photos on its way through the stages, inside a worker process."""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from celebahq_builder.errors import CelebAHQError, WorkspaceError
from celebahq_builder.imaging.image_io import decode_png, encode_jpeg, encode_png
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.outcome import Failed, Kept, Outcome, Rejected, Rejection
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.pipeline import steps
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.recipe import PHOTO_STAGES, BuildRecipe
from celebahq_builder.pipeline.steps import GROUP_PHOTOS, TOGETHER, Steps
from celebahq_builder.pipeline.workspace import StageFolder, Workspace
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import RUN_TOKEN, publish, sha256, sync_folder, write_partial

STAGES = ("region", "denoise", "upscale", "align")
"""Stages whose result is shown."""

SIZE_PX = 768


def image(face: Face) -> bytes:
    """Return the crop as it is after a stage, upright, as a JPEG file of `SIZE_PX` squared.

    All stages are resampled to one geometry, bilinearly, so that their images can be laid side by side; what
    lies outside the photo repeats its outermost pixels.
    """
    return encode_jpeg(warp_quad(face.pixels, face.quad, SIZE_PX, supersampling=1).cpu().numpy(), quality=93)


NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of a file system that cannot hold the name of a photo's image; other images can be written."""


@dataclass(frozen=True)
class BatchJob:
    """What a worker needs to know; small, and picklable."""

    workspace: Path
    number: int
    photos: tuple[tuple[int, Photo], ...]
    """Index in the source, and photo."""
    folder: Path
    """Where the photos lie."""
    recipe: BuildRecipe
    device: str
    start: str | None
    """Kept stage to go on from; None starts from the photos."""
    todo: tuple[str, ...]
    """Kept stages that lack the batch's manifest, in order."""
    examples: frozenset[str]
    """Ids of photos whose way through the stages the report shows."""
    deltas: Path | None = None
    """Where the official deltas lie; None adds none."""
    run_token: str = RUN_TOKEN
    """Token of the main process, for the names of partial files."""


@dataclass(frozen=True)
class BatchResult:
    """What a worker returns for a batch; small, and picklable."""

    number: int
    photos: int
    outcomes: dict[str, tuple[Outcome, ...]]
    """Content of the manifest of each stage in `BatchJob.todo`, in order of the photos."""
    files: tuple[tuple[Path, Path], ...]
    """Partial file and final path of each image, in order of writing."""
    seconds: dict[str, float]
    """Time per stage, in this worker."""
    peak_memory_bytes: int
    """Largest resident memory of this worker so far."""

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
        with _error_of_the_run(path):
            publish(partial, path)
    folders = {path.parent for _, path in result.files}
    for folder in sorted(folders | {folder.parent for folder in folders}):
        sync_folder(folder)
    for name, outcomes in result.outcomes.items():
        workspace.stage(name).write_manifest(result.number, outcomes)


@contextlib.contextmanager
def _error_of_the_run(path: Path) -> Iterator[None]:
    """Raise a WorkspaceError where a file cannot be written for a reason that is not the photo's."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written: {error.strerror}; check its folder, then run the same command again"
        ) from error


def run_batch(job: BatchJob) -> BatchResult:
    """Take a batch through the stages and write the images to keep as partial files, for `publish_batch`.

    No file gets its final name here, because a worker may outlive the run that it belongs to.

    Raises:
        DiskFull: no space left; no image of the batch remains.
        CelebAHQError: an error that every photo would meet: weights that are missing, a damaged manifest, too little
            memory, a device or a disk that failed, a folder that was deleted.
    """
    torch.set_num_threads(1)  # fixed, because how a sum is split decides its last bits
    cv2.setNumThreads(1)
    torch.backends.cudnn.allow_tf32 = False  # it keeps 10 bits of a factor: how windows are batched would show
    return _BatchRun(job).run()


@dataclass
class _PhotoTask:
    """The way of one photo through the stages."""

    photo: Photo
    start: Kept | None
    """The record it is resumed from; None starts from the file."""
    face: Face | None = None
    """The photo as it is after the last stage."""
    ended: bool = False
    """Whether it was rejected or failed."""


class _BatchRun:
    def __init__(self, job: BatchJob) -> None:
        self.job = job
        self.workspace = Workspace(job.workspace)
        self.device = torch.device(job.device)
        self.steps = Steps(job.recipe, job.folder, self.device, job.deltas)
        first = 0 if job.start is None else PHOTO_STAGES.index(job.start) + 1
        self.stages = PHOTO_STAGES[first : PHOTO_STAGES.index(job.todo[-1]) + 1]
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.files: list[tuple[Path, Path]] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self) -> BatchResult:
        try:
            return self._run()
        except BaseException:
            for partial, _ in self.files:
                with contextlib.suppress(OSError):
                    partial.unlink()
            raise

    def _run(self) -> BatchResult:
        entries = self._entries()
        size = GROUP_PHOTOS[self.device.type]
        for first in range(0, len(entries), size):
            self._group([_PhotoTask(photo, start) for photo, start in entries[first : first + size]])
        self._check_later_stages()
        place = {photo.file: i for i, (_, photo) in enumerate(self.job.photos)}
        return BatchResult(
            number=self.job.number,
            photos=len(self.job.photos),
            outcomes={
                name: tuple(sorted(self.outcomes[name], key=lambda one: place[one.photo])) for name in self.job.todo
            },
            files=tuple(self.files),
            seconds=dict(self.seconds),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _check_later_stages(self) -> None:
        """Raise if a photo that a later stage has kept already does not come so far any more.

        It happens where a stage is kept after the fact and the photos have changed, or are gone, in between.
        """
        lost = {one.photo for ended in self.outcomes.values() for one in ended if not isinstance(one, Kept)}
        for name in PHOTO_STAGES[PHOTO_STAGES.index(self.job.todo[-1]) + 1 :]:
            stage = self.workspace.stage(name)
            if lost and stage.manifest_path(self.job.number).exists():
                kept = {one.photo for one in stage.read_manifest(self.job.number) if isinstance(one, Kept)}
                if lost & kept:
                    raise WorkspaceError(
                        f"{min(lost & kept)} was kept by {name} before, but the photo has changed or is gone; "
                        "bring it back, or --redo region"
                    )

    def _entries(self) -> list[tuple[Photo, Kept | None]]:
        """Return the photos that enter, each with the record to resume it from."""
        if self.job.start is None:
            return [(photo, None) for _, photo in self.job.photos]
        by_file = {photo.file: photo for _, photo in self.job.photos}
        kept = [o for o in self.workspace.stage(self.job.start).read_manifest(self.job.number) if isinstance(o, Kept)]
        return [(by_file[o.photo], o) for o in kept]

    def _group(self, ways: Sequence[_PhotoTask]) -> None:
        """Take some photos through the stages, each until it is done, rejected or failed."""
        for way in ways:
            if way.start is not None:
                with self._fate(way, self.stages[0]):
                    way.face = self._resume(way.photo, way.start)
        for stage in self.stages:
            ways = [way for way in ways if not way.ended]
            for way, face in zip(ways, self._together(stage, ways), strict=True):
                with self._fate(way, stage):
                    self._one(way, stage, face)

    def _together(self, stage: str, ways: Sequence[_PhotoTask]) -> Sequence[Face | None]:
        """Return the faces after a stage that takes them all at once; Nones where each has to go alone."""
        faces = [way.face for way in ways if way.face is not None]
        if stage in TOGETHER and len(faces) > 1:
            try:
                with self._clock(stage):
                    return self.steps.take(stage, faces)
            except Exception:  # whose fault it is shows when each goes alone
                pass
        return [None] * len(ways)

    def _one(self, way: _PhotoTask, stage: str, face: Face | None) -> None:
        """Take a photo through a stage, where `face` is not that already, and keep what is to be kept of it."""
        if face is None:
            with self._clock(stage):
                face = self._step(stage, way)
        if way.start is None and way.photo.id in self.job.examples and stage in STAGES:
            self._write(self.workspace.example_path(way.photo.id, stage), image(face))
        if stage in self.job.todo:
            with self._clock(stage):
                self._keep(stage, face)  # last: a photo that is filed as kept can no longer fail here
        way.face = face

    @contextlib.contextmanager
    def _fate(self, way: _PhotoTask, stage: str) -> Iterator[None]:
        """File how a photo ends if what is done with it raises; raise what would befall every photo."""
        photo = way.photo
        try:
            yield
        except Rejection as rejection:
            self._end(way, stage, Rejected(photo.file, rejection.reason, rejection.detail))
        except CelebAHQError:
            raise
        except Exception as error:  # whatever one photo does, the others go on; it is counted and shown
            if common := steps.fatal_error(error, self.device, f"{photo.file} ({stage})"):
                raise common from error
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{stage}, {Path(frame.filename).name}:{frame.lineno}"
            self._end(way, stage, Failed(photo.file, f"{type(error).__name__}: {error} ({where})"))

    @contextlib.contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        """Count what is done as the stage's time; of a group's, all of it once."""
        began = time.perf_counter()
        try:
            yield
            steps.synchronize(self.device)  # else the time, and the errors, would be those of whoever waits first
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def _step(self, stage: str, way: _PhotoTask) -> Face:
        if way.face is None:
            return self.steps.cut(way.photo).noted(**self._identity(way.photo))
        return self.steps.take(stage, [way.face])[0]

    def _identity(self, photo: Photo) -> dict[str, Any]:
        index = next(i for i, other in self.job.photos if other is photo)
        identity: dict[str, Any] = {
            "id": photo.id,
            "index": index,
            "landmarks": list(photo.landmarks),
            "split": photo.split,
            "attributes": list(photo.attributes),
        }
        return identity | ({"official_index": photo.listed.index} if photo.listed else {})

    def _keep(self, stage: str, face: Face) -> None:
        record = dict(face.record)
        if stage != "score":
            folder = self.workspace.stage(stage)
            path = folder.image_path(self.job.number, face.photo.id)
            data = encode_png(face.pixels.cpu().numpy())
            self._write(path, data)
            image = {"path": path.relative_to(folder.root).as_posix(), "bytes": len(data), "sha256": sha256(data)}
            record |= {"state": face.state(), "image": image}
        self.outcomes[stage].append(Kept(face.photo.file, record))

    def _write(self, path: Path, data: bytes) -> None:
        """Write a partial file; an error that is not due to the photo's name ends the run."""
        try:
            partial = write_partial(path, data, self.job.run_token)
        except OSError as error:
            if error.errno in NAME_ERRORS:
                raise
            with _error_of_the_run(path):
                raise
        self.files.append((partial, path))

    def _resume(self, photo: Photo, start: Kept) -> Face:
        assert self.job.start is not None  # a Kept to resume from comes from that stage's manifest
        data = read_image(self.workspace.stage(self.job.start), start)
        return Face.resumed(photo, torch.from_numpy(decode_png(data)).to(self.device), start.record)

    def _end(self, way: _PhotoTask, stage: str, ended: Outcome) -> None:
        """File a reject under the first stage at or after the one that raised it that has a manifest to write."""
        after = PHOTO_STAGES.index(stage)
        name = next(name for name in self.job.todo if PHOTO_STAGES.index(name) >= after)
        self.outcomes[name].append(ended)
        way.ended = True


def read_image(folder: StageFolder, kept: Kept) -> bytes:
    """Return the PNG file that a stage kept of a photo.

    Raises:
        WorkspaceError: it is missing, or not what was written.
    """
    image = kept.record["image"]
    path: Path = folder.root / image["path"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"{path}: {error.strerror}; --redo {folder.name} makes it again") from None
    if sha256(data) != image["sha256"]:
        raise WorkspaceError(f"{path} was altered since it was made; --redo {folder.name} makes it again")
    return data
