"""A batch of photos on its way through the photo stages, inside a worker process."""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

import torch

from celebahq_builder.cluster.worker import check_wanted
from celebahq_builder.device_errors import EqualFailures, fatal_error, synchronize
from celebahq_builder.errors import CelebAHQError, WorkspaceError
from celebahq_builder.imaging.image_io import decode_png, encode_jpeg, encode_png
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.outcome import Failed, Kept, Outcome, Rejected, Rejection
from celebahq_builder.parallel import devices, peak_memory_bytes, worker_device
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult, as_workspace_error
from celebahq_builder.pipeline.face import Face, ImageRecord, PhotoRecord
from celebahq_builder.pipeline.photo_context import deterministic, photo_context, photo_reader
from celebahq_builder.pipeline.stage import AnyPhotoStage, record_types
from celebahq_builder.pipeline.stages.crop import quad_corners
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import sha256, write_partial

P = ParamSpec("P")
T = TypeVar("T")

GROUP_PHOTOS = {"cpu": 1, "cuda": 4}
"""Photos that pass the stages together, by kind of device. No result depends on it.

One photo keeps a CPU core busy; two would only take twice the memory. A GPU works on the windows of a group while
threads decode the next group and encode the one before, so a batch of 16 photos has to have several.
"""

THREADS = {"cpu": 0, "cuda": 4}
"""Threads of a worker that decode photos ahead and encode images, by kind of device; 0 for none.

Encoding an image of 1024x1024 takes 38 ms of a core, and one photo takes about 10 ms of a GPU.
"""

IMAGES_AHEAD = 2
"""Images per thread that are encoded or wait for it; bounds the memory."""

EXAMPLE_PX = 768
"""Side length of the images of example photos."""

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of a file system that cannot hold the name of one photo's image; other images can be written."""


def run_batch(job: BatchJob) -> BatchResult:
    """Take a batch through the stages and write the images to keep as partial files, for `publish_batch`.

    No file gets its final name here, because a worker may outlive the run that it belongs to.

    Raises:
        DiskFull: no space left; no image of the batch remains.
        CelebAHQError: an error that every photo would have: missing weights, a corrupt manifest, too little memory, a
            device or a disk that failed, a deleted folder.
        JobCancelled: the batch is one of a cluster, and nobody waits for it; no image of it remains.
    """
    with deterministic():
        return _BatchRun(job).run()


def example_image(face: Face) -> bytes:
    """Return the crop as it is after a stage, upright, as a JPEG file of `EXAMPLE_PX` squared.

    All stages are resampled to one geometry, bilinearly, so that their images can be compared side by side. Outside
    of the photo, its outermost pixels are repeated.
    """
    return encode_jpeg(warp_quad(face.pixels, face.quad, EXAMPLE_PX, supersampling=1).cpu().numpy(), quality=93)


@dataclass
class _PhotoTask:
    """The way of one photo through the stages."""

    face: Face
    """The photo after the last stage that it passed."""
    resumed: tuple[str, Kept] | None = None
    """Stage and outcome from which it resumes; None starts from the photo's file."""
    first: int = 0
    """Index of the first stage that it has to pass."""
    ended: bool = False
    """True if it was rejected or failed."""
    entering: Future[Face] | None = None
    """The face with which it enters, computed ahead."""
    passed_stages: list[_Passed] = field(default_factory=list)
    """Stages whose outcomes are not recorded yet, in order."""


_File: TypeAlias = tuple[Path, Future[ImageRecord | None]]
"""Final path of a file, and its record once the partial file is written; None for an example's."""


@dataclass(frozen=True)
class _Passed:
    """A stage that a photo has passed."""

    stage: str
    record: PhotoRecord
    files: tuple[_File, ...]


class _BatchRun:
    def __init__(self, job: BatchJob) -> None:
        self.job = job
        self.workspace = Workspace(job.workspace)
        device = worker_device(devices(job.device), job.run_token)
        self.context = photo_context(job.recipe.resolution, device, photo_reader(job.folder), job.deltas)
        stages = job.recipe.photo_stages()
        self.types = record_types(stages)
        self.names = [stage.name for stage in stages]
        self.stages = stages[: self.names.index(job.todo[-1]) + 1]
        """The stages up to the last one that is to do."""
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.files: list[tuple[Path, Path]] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.equal_failures = EqualFailures()
        self.partials: dict[Path, Path] = {}
        threads = THREADS[self.context.device.type]
        self.pool = ThreadPoolExecutor(threads) if threads else None
        self.images_ahead = threads * IMAGES_AHEAD
        self.encoding: deque[Future[ImageRecord | None]] = deque()

    def run(self) -> BatchResult:
        try:
            try:
                self._run_groups(self._tasks())
                self._check_later_stages()
            finally:
                if self.pool:
                    self.pool.shutdown(cancel_futures=True)
        except BaseException:
            self._delete_partials()
            raise
        self._delete_partials(keep={path for _, path in self.files})
        return BatchResult(
            number=self.job.number,
            photos=len(self.job.photos),
            outcomes={name: self.job.in_order(self.outcomes[name]) for name in self.job.todo},
            files=tuple(self.files),
            seconds=dict(self.seconds),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _delete_partials(self, keep: Collection[Path] = ()) -> None:
        """Delete the partial files of all paths but those to keep; a photo that failed may have left some."""
        for path, partial in self.partials.items():
            if path not in keep:
                with contextlib.suppress(OSError):
                    partial.unlink()

    def _tasks(self) -> list[_PhotoTask]:
        """Return a task for each photo that no stage has rejected yet."""
        tasks = {photo.key: _PhotoTask(Face.unread(photo, index)) for index, photo in self.job.photos}
        resumed = list(self.job.resumed)
        if self.job.start is not None:
            manifest = self.workspace.stage(self.job.start).read_manifest(self.job.number)
            kept = [one for one in manifest if isinstance(one, Kept) and one.key in tasks]
            tasks = {one.key: tasks[one.key] for one in kept}
            resumed = [(self.job.start, one) for one in kept] + resumed
        for stage, one in resumed:
            if task := tasks.get(one.key):
                task.resumed, task.first = (stage, one), self.names.index(stage) + 1
        return list(tasks.values())

    # --- Groups of photos, from top to bottom ---

    def _run_groups(self, tasks: Sequence[_PhotoTask]) -> None:
        """Take all photos through the stages, group by group.

        Threads read the photos of the next group and write the images of the group before, while the device works.
        """
        size = GROUP_PHOTOS[self.context.device.type]
        groups = [tasks[first : first + size] for first in range(0, len(tasks), size)]
        self._read_ahead(groups[0] if groups else ())
        for group, following in pairwise([*groups, []]):
            self._read_ahead(following)
            self._run_group(group)
            check_wanted()
        for task in tasks:
            self._record_passed(task)

    def _read_ahead(self, tasks: Sequence[_PhotoTask]) -> None:
        """Let the threads, if there are any, read the photos of a group, or the images from which they resume."""
        for task in tasks if self.pool else ():
            if task.resumed or self.stages[0].reads_photo:
                task.entering = self._submit(self._read, task)

    def _read(self, task: _PhotoTask) -> Face:
        """Return the face with which a photo enters, on the CPU."""
        if task.resumed is None:
            stage, context = self.stages[0], replace(self.context, device=torch.device("cpu"))
            return stage.run([task.face], self.job.recipe.settings(stage), context)[0]
        name, kept = task.resumed
        record = PhotoRecord.from_kept(kept, self.types)
        image = record[ImageRecord]
        data = self.workspace.stage(name).read_image(image.path, image.sha256)
        return Face.resumed(task.face.photo, torch.from_numpy(decode_png(data)), record)

    def _run_group(self, tasks: Sequence[_PhotoTask]) -> None:
        """Take some photos through the stages, until each is done, rejected or failed."""
        for task in tasks:
            if task.resumed:
                with self._record_failure(task, self.names[task.first]):
                    task.face = self._entered(task)
        for number, stage in enumerate(self.stages):
            ready = [task for task in tasks if not task.ended and number >= task.first]
            for task, face in zip(ready, self._run_grouped(stage, ready), strict=True):
                with self._record_failure(task, stage.name):
                    self._finish_stage(task, stage, face or self._run_alone(stage, task))
                    self.equal_failures.reset(stage.name)

    def _run_grouped(self, stage: AnyPhotoStage, tasks: Sequence[_PhotoTask]) -> Sequence[Face | None]:
        """Return the faces after a stage that takes them together; Nones where each has to pass it alone."""
        if stage.grouped and len(tasks) > 1:
            with contextlib.suppress(Exception):  # alone, each face shows whether it caused the error
                return self._run_stage(stage, [task.face for task in tasks])
        return [None] * len(tasks)

    def _run_alone(self, stage: AnyPhotoStage, task: _PhotoTask) -> Face:
        """Return the face after a stage, which a thread may have run ahead."""
        if task.entering is None:
            return self._run_stage(stage, [task.face])[0]
        with self._clock(stage.name, synchronized=False):  # the copy to the device waits
            return self._entered(task)

    def _run_stage(self, stage: AnyPhotoStage, faces: list[Face]) -> list[Face]:
        with self._clock(stage.name):
            return stage.run(faces, self.job.recipe.settings(stage), self.context)

    def _entered(self, task: _PhotoTask) -> Face:
        """Return the face with which a photo enters, on the device."""
        entering, task.entering = task.entering, None
        face = entering.result() if entering else self._read(task)
        return replace(face, pixels=face.pixels.to(self.context.device))

    # --- Images and outcomes of a photo ---

    def _finish_stage(self, task: _PhotoTask, stage: AnyPhotoStage, face: Face) -> None:
        """Encode and write what is to be kept of a face after a stage; the outcome is recorded once that is done."""
        files = []
        if task.resumed is None and face.photo.id in self.job.examples and stage.example_title:
            files.append(self._save_example(stage, face))
        if stage.name in self.job.todo:
            with self._clock(stage.name, synchronized=False):
                if stage.saves_image:
                    files.append(self._save_image(stage, face))
        task.face = face
        if files or stage.name in self.job.todo:
            task.passed_stages.append(_Passed(stage.name, face.record, tuple(files)))
        if self.pool is None:
            self._record_passed(task)

    def _save_example(self, stage: AnyPhotoStage, face: Face) -> _File:
        """Write the example of a face after a stage; return its path and the file to come."""
        path, data = self.workspace.example_path(face.photo.id, stage.name), example_image(face)
        return path, self._submit(self._write, path, data)

    def _save_image(self, stage: AnyPhotoStage, face: Face) -> _File:
        """Encode and write the image of a face; return its path and the record to come."""
        folder = self.workspace.stage(stage.name)
        path = folder.image_path(self.job.number, face.photo.id)
        name = path.relative_to(folder.root).as_posix()
        pixels, quad, border, margin = face.pixels.cpu().numpy(), quad_corners(face.quad), face.border, face.margin

        def save() -> ImageRecord | None:
            data = encode_png(pixels)
            self._write(path, data)
            return ImageRecord(name, len(data), sha256(data), quad, border, margin)

        while len(self.encoding) > self.images_ahead:
            wait([self.encoding.popleft()])
        future = self._submit(save)
        self.encoding.append(future)
        return path, future

    def _record_passed(self, task: _PhotoTask) -> None:
        """Record the outcomes of the stages that a photo has passed, after its images are written."""
        unrecorded, task.passed_stages = task.passed_stages, []
        for passed in unrecorded:
            if task.ended:
                break
            with self._record_failure(task, passed.stage), self._clock(passed.stage, synchronized=False):
                record = passed.record
                for path, future in passed.files:
                    image = future.result()
                    self.files.append((self.partials[path], path))
                    record = record.with_part(image) if image else record
                if passed.stage in self.job.todo:  # last: a photo that is recorded as kept can no longer fail here
                    self.outcomes[passed.stage].append(record.kept(self.types))

    def _submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread do some work; without threads, do it here."""
        if self.pool:
            return self.pool.submit(work, *args, **kwargs)
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    # --- Errors, time, files ---

    @contextlib.contextmanager
    def _record_failure(self, task: _PhotoTask, stage: str) -> Iterator[None]:
        """Record the rejection or the failure of a photo; raise errors that every photo would have."""
        photo = task.face.photo
        try:
            yield
        except Rejection as rejection:
            self._record_passed(task)
            self._end(task, stage, Rejected(photo.file, rejection.reason, rejection.detail, photo.face))
        except CelebAHQError:
            raise
        except Exception as error:  # one photo cannot end the run: its error is counted and reported
            if fatal := fatal_error(error, self.context.device, f"{photo.file} ({stage})"):
                raise fatal from error
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{stage}, {Path(frame.filename).name}:{frame.lineno}"
            message = f"{type(error).__name__}: {error} ({where})"
            if fatal := self.equal_failures.add(stage, message):
                raise fatal from error
            self._record_passed(task)
            self._end(task, stage, Failed(photo.file, message, photo.face))

    def _end(self, task: _PhotoTask, stage: str, ended: Outcome) -> None:
        """Record the end of a photo under the first stage, from the one that raised, that has a manifest to write.

        A photo whose image could not be written has ended already when a later stage of it fails.
        """
        if task.ended:
            return
        after = self.names[self.names.index(stage) :]
        self.outcomes[next(name for name in self.job.todo if name in after)].append(ended)
        task.ended = True

    def _check_later_stages(self) -> None:
        """Raise if a photo that a later stage has kept before is rejected or failed now.

        It happens where the images of a stage are kept afterwards, and photos have changed or vanished in between.
        """
        lost = {one.key for ended in self.outcomes.values() for one in ended if not isinstance(one, Kept)}
        for name in self.names[len(self.stages) :] if lost else ():
            stage = self.workspace.stage(name)
            if stage.manifest_path(self.job.number).exists():
                kept = {one.key for one in stage.read_manifest(self.job.number) if isinstance(one, Kept)}
                if lost & kept:
                    raise WorkspaceError(
                        f"{min(lost & kept)[0]} was kept by {name} before, but the photo has changed or is gone; "
                        f"bring it back, or `redo` {self.names[0]}"
                    )

    @contextlib.contextmanager
    def _clock(self, stage: str, synchronized: bool = True) -> Iterator[None]:
        """Add the time of a block to a stage, apart from that of threads; the time of a group is counted once."""
        began = time.perf_counter()
        try:
            yield
            if synchronized:
                synchronize(self.context.device)  # otherwise time and errors would appear in a later stage
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def _write(self, path: Path, data: bytes) -> None:
        """Write a partial file; an error that is not due to the photo's name ends the run. Threads call it."""
        try:
            partial = write_partial(path, data, self.job.run_token)
        except OSError as error:
            if error.errno in NAME_ERRORS:
                raise
            with as_workspace_error(path):
                raise
        self.partials[path] = partial
