"""A batch of photos on its way through the stages, inside one worker process."""

from __future__ import annotations

import time
import traceback
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from celebahq_builder.errors import CelebAHQError, WorkspaceError
from celebahq_builder.imaging.codec import decode_png, encode_png
from celebahq_builder.outcome import Failed, Kept, Outcome, Rejected, Rejection
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.source import Photo
from celebahq_builder.stages import align, denoise, example, region, score, upscale
from celebahq_builder.stages.face import Face
from celebahq_builder.stages.recipe import PHOTO_STAGES, BuildRecipe
from celebahq_builder.workspace import StageFolder, Workspace, sha256, write_atomic


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
    """Kept stages whose manifests are to be written, in order."""
    examples: frozenset[str]
    """Ids of photos whose way through the stages the report shows."""


@dataclass(frozen=True)
class BatchResult:
    """What a worker reports back."""

    number: int
    photos: int
    rejected: int
    failed: int
    seconds: dict[str, float]
    """Time per stage, in this worker."""
    peak_memory_bytes: int
    """Largest resident memory of this worker so far."""


def run_batch(job: BatchJob) -> BatchResult:
    """Take a batch through the stages and write what is to be kept; the manifests last.

    Raises:
        DiskFull: no space left; the batch has no manifest and will be redone.
        CelebAHQError: what no other photo could get past either: weights that are missing, a damaged manifest.
    """
    torch.set_num_threads(1)  # fixed, because how a sum is split decides its last bits
    cv2.setNumThreads(1)
    return _Batch(job).run()


class _Batch:
    def __init__(self, job: BatchJob) -> None:
        self.job = job
        self.workspace = Workspace(job.workspace)
        first = 0 if job.start is None else PHOTO_STAGES.index(job.start) + 1
        self.stages = PHOTO_STAGES[first : PHOTO_STAGES.index(job.todo[-1]) + 1]
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self) -> BatchResult:
        entries = self._entries()
        for photo, start in entries:
            self._one(photo, start)
        self._check_later_stages()
        for name in self.job.todo:
            self.workspace.stage(name).write_manifest(self.job.number, self.outcomes[name])
        ended = [one for outcomes in self.outcomes.values() for one in outcomes]
        rejected = sum(isinstance(one, Rejected) for one in ended)
        failed = sum(isinstance(one, Failed) for one in ended)
        peak = peak_memory_bytes()
        return BatchResult(self.job.number, len(self.job.photos), rejected, failed, dict(self.seconds), peak)

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

    def _one(self, photo: Photo, start: Kept | None) -> None:
        """Take one photo through the stages until it is done, rejected or failed."""
        stage = self.stages[0]
        try:
            face = self._resume(photo, start) if start else None
            for stage in self.stages:
                began = time.perf_counter()
                face = self._step(stage, photo, face)
                if stage in self.job.todo:
                    self._keep(stage, face)
                self.seconds[stage] += time.perf_counter() - began
                if start is None and photo.id in self.job.examples and stage in example.STAGES:
                    write_atomic(self.workspace.example_path(photo.id, stage), example.picture(face))
        except Rejection as rejection:
            self._end(stage, Rejected(photo.file, rejection.reason, rejection.detail))
        except CelebAHQError:
            raise
        except (MemoryError, torch.cuda.OutOfMemoryError) as error:
            raise WorkspaceError(
                f"out of memory at {photo.file} ({stage}); run the same command again with fewer --workers"
            ) from error
        except Exception as error:  # whatever one photo does, the others go on; it is counted and shown
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{stage}, {Path(frame.filename).name}:{frame.lineno}"
            self._end(stage, Failed(photo.file, f"{type(error).__name__}: {error} ({where})"))

    def _step(self, stage: str, photo: Photo, face: Face | None) -> Face:
        recipe = self.job.recipe
        if face is None:
            device = torch.device(self.job.device)
            cut = region.cut(photo, self.job.folder, recipe.region, recipe.resolution, device)
            return cut.noted(**self._identity(photo))
        match stage:
            case "denoise":
                return denoise.apply(face, recipe.denoise)
            case "upscale":
                return upscale.apply(face, recipe.upscale, recipe.resolution)
            case "align":
                return align.apply(face, recipe.align, recipe.resolution)
            case _:
                return score.apply(face)

    def _identity(self, photo: Photo) -> dict[str, Any]:
        index = next(i for i, other in self.job.photos if other is photo)
        return {
            "id": photo.id,
            "index": index,
            "landmarks": list(photo.landmarks),
            "split": photo.split,
            "attributes": list(photo.attributes),
        }

    def _keep(self, stage: str, face: Face) -> None:
        record = dict(face.record)
        if stage != "score":
            folder = self.workspace.stage(stage)
            path = folder.image_path(self.job.number, face.photo.id)
            data = encode_png(face.pixels.cpu().numpy())
            write_atomic(path, data)
            image = {"path": path.relative_to(folder.root).as_posix(), "bytes": len(data), "sha256": sha256(data)}
            record |= {"state": face.state(), "image": image}
        self.outcomes[stage].append(Kept(face.photo.file, record))

    def _resume(self, photo: Photo, start: Kept) -> Face:
        assert self.job.start is not None  # a Kept to resume from comes from that stage's manifest
        data = read_image(self.workspace.stage(self.job.start), start)
        return Face.resumed(photo, torch.from_numpy(decode_png(data)).to(self.job.device), start.record)

    def _end(self, stage: str, ended: Outcome) -> None:
        """File a reject under the first stage at or after the one that raised it that has a manifest to write."""
        after = PHOTO_STAGES.index(stage)
        name = next(name for name in self.job.todo if PHOTO_STAGES.index(name) >= after)
        self.outcomes[name].append(ended)


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
