"""The images of a run directory: its HDF5 file or, before it is written, the images of the finished batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, WorkspaceError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.image_set import Column, ImagePyramid, Pixels
from celebahq_builder.imaging.image_io import decode_png
from celebahq_builder.imaging.pyramid import build_pyramid, levels
from celebahq_builder.parallel import cores, run_threads
from celebahq_builder.pipeline.face import ImageRecord
from celebahq_builder.pipeline.results import photo_statuses, read_records
from celebahq_builder.pipeline.stage import record_types
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.pipeline.stages.pack import photo_columns
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.storage import sha256


def open_images(path: Path) -> ImagePyramid:
    """Open an HDF5 file, or the images of a run directory as far as it is done.

    Raises:
        FormatError: see `find_images` and `open_pyramid`.
        WorkspaceError: see `find_images`.
    """
    found = find_images(path)
    return found if isinstance(found, RunImages) else open_pyramid(found)


def find_images(path: Path) -> Path | RunImages:
    """Return the path of an HDF5 file: as given, or that of a run directory; the run's images if it has no file yet.

    Raises:
        FormatError: no image of the run is done.
        WorkspaceError: a folder that is no run directory, or files of the run were changed or are corrupt.
    """
    try:
        if not path.is_dir():
            return path
    except OSError:  # a path that cannot exist, such as a name that is too long
        return path
    workspace = Workspace(path)
    hdf5 = _hdf5_path(workspace)
    return hdf5 if hdf5.exists() and workspace.is_packed() else RunImages(workspace)


def find_hdf5(path: Path) -> Path:
    """Return a path as given, or for a run directory that of its HDF5 file.

    Raises:
        FormatError: the run has no HDF5 file yet.
    """
    if not (path / "run.json").is_file():
        return path
    workspace = Workspace(path)
    hdf5 = _hdf5_path(workspace)
    if not (hdf5.exists() and workspace.is_packed()):
        raise FormatError(
            f"{path} has no {hdf5.name} of all its photos yet: finish its build, or export what is done as images "
            "(celebahq export)"
        )
    return hdf5


def _hdf5_path(workspace: Workspace) -> Path:
    """Return the path of the HDF5 file that a run makes; also checks what its `RunDescription` does not."""
    run = workspace.run()
    try:
        levels(run.resolution)
        load_stages(run.method)
    except (KeyError, ValueError) as error:
        raise WorkspaceError(f"{workspace.run_path} was changed or is corrupt ({error}); build again") from None
    return workspace.hdf5_path(run.resolution)


class RunImages(ImagePyramid):
    """The images that are done in a run directory, read from its PNG files.

    They are those of all photos that are neither rejected nor failed so far, in the order of the source. A run that
    continues does not change the object. It has the columns that are known before the HDF5 file is written.

    Raises:
        FormatError: no image is done.
        WorkspaceError: files of the run were changed or are corrupt.
    """

    channels = 3

    def __init__(self, workspace: Workspace) -> None:
        run = workspace.run()
        self.path, self.resolution = workspace.root, run.resolution
        self.resolutions = levels(run.resolution)
        self._folder = workspace.stage(run.image_stage)
        scores = {one.key: one.score for one in photo_statuses(workspace) if one.end is None}
        records = read_records(self._folder, record_types(load_stages(run.method)), scores)
        photos = sorted(
            (one for one in records if {ImageRecord, CropRecord} <= one.parts.keys()),
            key=lambda one: one.identity.index,
        )
        self._images = [(one[ImageRecord].path, one[ImageRecord].sha256) for one in photos]
        self.count = len(photos)
        if not photos:
            done = f"{len(self._folder.batches())} of {run.batches} batches are done"
            raise FormatError(
                f"{workspace.root} has no images yet: {done}; celebahq status prints the state of the run"
            )
        self.photos = {
            name: column if isinstance(column, np.ndarray) else list(column)
            for name, column in photo_columns(photos, ()).items()
        }
        known = [scores[one.key] for one in photos]
        if any(score is not None for score in known):
            self.photos = {**self.photos, "score": np.array(known, np.float64)}

    @property
    def identity(self) -> dict[str, object]:
        """Number and hash of the images."""
        return {"images": self.count, "sha256": sha256("\n".join(digest for _, digest in self._images).encode())}

    def close(self) -> None:
        """Do nothing: no file is open."""

    def column(self, name: str, rows: slice = slice(None)) -> Column | None:
        """Return some rows of a column, or None if there is none of that name."""
        column = self.photos.get(name)
        return None if column is None else column[rows]

    def images(self, resolution: int | None = None) -> RunLevel:
        """Return the images of a level; None for the largest."""
        r = self.resolution if resolution is None else resolution
        self.check_resolution(r)
        return RunLevel(self, r)

    def read_image(self, number: int) -> Pixels:
        """Return an image, uint8 [3, R, R].

        Raises:
            WorkspaceError: its file was changed or deleted.
        """
        path, digest = self._images[number]
        pixels = decode_png(self._folder.read_image(path, digest))
        if pixels.shape != (3, self.resolution, self.resolution):
            size = "x".join(map(str, pixels.shape[:0:-1]))
            raise WorkspaceError(
                f"{self._folder.root / path} has {size} px, expected {self.resolution}x{self.resolution}; build again"
            )
        return pixels


@dataclass(frozen=True)
class RunLevel:
    """The images of one level of a run, as an `image_set.LevelImages`."""

    run: RunImages
    resolution: int

    def __getitem__(self, number: int) -> Pixels:
        """Return an image, uint8 [3, r, r], as the HDF5 file will have it."""
        pixels = self.run.read_image(number)
        level = self.run.resolutions.index(self.resolution)
        return build_pyramid(pixels)[level] if level else pixels

    def read(self, indices: Sequence[int] | NDArray[np.int64], *, parallel: bool = True) -> Pixels:
        """Return images uint8 [n, 3, r, r] by their numbers; without threads if `parallel` is False."""
        workers = cores() if parallel else 1
        return np.stack(list(run_threads(self.__getitem__, map(int, indices), workers=workers)))
