"""Reader of the multi-resolution HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.hdf5 import LEVEL_NAME, PHOTOS, REMEDY, find_levels, level_name
from celebahq_builder.hdf5.chunks import LevelReader, UnreadableImagesError
from celebahq_builder.hdf5.codecs import load_filters
from celebahq_builder.hdf5.untrusted import open_hdf5
from celebahq_builder.image_set import Column, ImagePyramid, Pixels
from celebahq_builder.imaging.pyramid import build_pyramid, is_power_of_two, levels
from celebahq_builder.storage import sha256

BATCH = 32
"""Images that are checked together."""


def open_pyramid(path: Path | str) -> PyramidFile:
    """Open a multi-resolution HDF5 file to read its images and what it knows of them.

    Args:
        path: HDF5 file of this project, or of the ProGAN authors' tool.

    Raises:
        FormatError: as `PyramidFile` does; or no images, or a compression whose package is not installed.

    Examples:
        >>> import h5py, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "faces.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["data2x2"] = np.arange(36, dtype=np.uint8).reshape(3, 3, 2, 2)
        ...     file["data1x1"] = np.array([2, 6, 10, 14, 18, 22, 26, 30, 34], np.uint8).reshape(3, 3, 1, 1)
        ...     file["photos/score"] = [0.5, 0.25, 0.75]
        >>> with open_pyramid(path) as faces:
        ...     batch = faces.images(2)[:2]
        ...     scores = faces.photos["score"]
        ...     problems = list(faces.problems())
        >>> batch.dtype, batch.shape, scores.tolist(), problems
        (dtype('uint8'), (2, 3, 2, 2), [0.5, 0.25, 0.75], [])
    """
    pyramid = PyramidFile(Path(path))
    try:
        if not pyramid.count:
            raise FormatError(f"{path} holds no images; its writer was killed, get or build it again")
        pyramid.load_filters()
    except FormatError:
        pyramid.close()
        raise
    return pyramid


class PyramidFile(ImagePyramid):
    """A multi-resolution HDF5 file, open for reading; a context manager.

    Attributes:
        file: the file, opened by h5py; the other attributes are those of `ImagePyramid`.

    Raises:
        FormatError: no such file, not HDF5 (or truncated), or not all levels from R down to 1 with equal numbers of
            images and channels.
    """

    photos: PhotoColumns

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_hdf5(path)
        self.photos = PhotoColumns(self.file)
        self._levels: dict[int, LevelReader] = {}
        try:
            self.resolutions = self._find_levels()
            self.resolution = self.resolutions[0]
            self.count, self.channels = self._check_levels()
        except FormatError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; the levels that `images` returned stay open."""
        self._levels.clear()
        self.file.close()

    # --- Images and columns --------------------------------------------------------------------------------------

    def images(self, resolution: int | None = None) -> LevelReader:
        """Return the images of a level, to be indexed like an array uint8 [N, C, r, r].

        Args:
            resolution: r; None for the largest level.

        Raises:
            FormatError: no such level, no images, or some that were never written.
        """
        r = self.resolution if resolution is None else resolution
        self.check_resolution(r)
        if r not in self._levels:
            self._levels[r] = LevelReader(self.file, r)
        return self._levels[r]

    def level(self, resolution: int) -> h5py.Dataset:
        """Return h5py's dataset of a level, uint8 [N, C, r, r]."""
        return self.file[level_name(resolution)]

    def column(self, name: str, rows: slice = slice(None)) -> Column | None:
        """Return some rows of a column, or None if there is none of that name.

        Raises:
            FormatError: the column does not have one row per image.
        """
        dataset = self.file.get(f"{PHOTOS}/{name}")
        if not isinstance(dataset, h5py.Dataset):
            return None
        if dataset.shape[:1] != (self.count,):
            has = f"{dataset.shape[0]} rows" if dataset.shape else "no rows"
            raise FormatError(f"{self.path}: {PHOTOS}/{name} has {has}, expected {self.count}, one per image; {REMEDY}")
        return self.photos.rows(name, rows)

    @property
    def identity(self) -> dict[str, object]:
        """Size and time of the file."""
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    # --- Checks --------------------------------------------------------------------------------------------------

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the images, in one line each; nothing for a file that is OK.

        Each image of the largest level must have the SHA-256 recorded for it, and each other level must be the 2x2
        mean of the one above, as `build_pyramid` computes it.

        Raises:
            FormatError: the compression needs a package that is not installed.
        """
        self.load_filters()
        hashes = self.photos.get("sha256")
        if hashes is not None and len(hashes) != self.count:
            yield f"{PHOTOS}/sha256 has {len(hashes)} rows, expected {self.count}"
            hashes = None
        readers: dict[int, LevelReader] = {}
        for r in self.resolutions if self.count else ():
            try:
                readers[r] = self.images(r)
            except FormatError as error:
                yield str(error).removeprefix(f"{self.path}: ")
        unreadable: dict[str, None] = {}  # a damaged chunk may have images of several batches
        for start in range(0, self.count, BATCH):
            batch = range(start, min(start + BATCH, self.count))
            known = len(unreadable)
            stored = {r: _readable(readers[r], batch, unreadable) if r in readers else {} for r in self.resolutions}
            yield from list(unreadable)[known:]
            for index, image in stored[self.resolution].items():
                if hashes is not None and sha256(image.tobytes()) != hashes[index]:
                    yield f"image {index}: its SHA-256 is not the one recorded"
                for r, pixels in zip(self.resolutions, build_pyramid(image), strict=True):
                    if index in stored[r] and not np.array_equal(stored[r][index], pixels):
                        yield f"image {index}: level {r}x{r} is not the mean of the level above"

    def load_filters(self) -> None:
        """Load the filters of all levels; see `codecs.load_filters`."""
        for r in self.resolutions:
            load_filters(self.level(r))

    def _find_levels(self) -> tuple[int, ...]:
        """Return the resolutions of all levels, largest first; each name that starts with "data" must be a level."""
        found = find_levels(self.file)
        for name in self.file:
            side = int(match[1]) if (match := LEVEL_NAME.fullmatch(name)) else 0
            level = is_power_of_two(side) and isinstance(self.file[name], h5py.Dataset)
            if name.startswith("data") and not level:
                raise FormatError(
                    f"{self.path}: {printable(name)} is not a level; expected datasets [N, 3, r, r] named "
                    "data1024x1024, ..., data1x1, r a power of two"
                )
        return tuple(found)

    def _check_levels(self) -> tuple[int, int]:
        """Return the numbers of images and channels, which must be the same at all levels down to 1x1."""
        top, name = self.level(self.resolution), level_name(self.resolution)
        if top.ndim != 4 or top.shape[1] not in (1, 3):
            side = self.resolution
            raise FormatError(f"{self.path}: {name} has shape {list(top.shape)}, expected [N, 3 or 1, {side}, {side}]")
        missing = [level_name(r) for r in levels(self.resolution) if r not in self.resolutions]
        if missing:
            raise FormatError(
                f"{self.path} has {name} but lacks {', '.join(missing)}; expected all levels down to 1x1, write the "
                "file again"
            )
        for r in self.resolutions:
            level, shape = self.level(r), (*top.shape[:2], r, r)
            if level.shape != shape or level.dtype != np.uint8:
                raise FormatError(
                    f"{self.path}: {level_name(r)} is {level.dtype} {list(level.shape)}, expected uint8 {list(shape)} "
                    f"as {name} has {len(top)} images"
                )
        return int(top.shape[0]), int(top.shape[1])


def _readable(level: LevelReader, batch: range, unreadable: dict[str, None]) -> dict[int, Pixels]:
    """Return the images of a batch by index; add a line to `unreadable` for those that cannot be read."""
    try:
        return dict(zip(batch, level.read(batch), strict=True))
    except UnreadableImagesError:
        pass
    found: dict[int, Pixels] = {}
    index = batch.start
    while index < batch.stop:
        try:
            found[index] = level[index]
            index += 1
        except UnreadableImagesError as error:
            unreadable[error.problem] = None
            index = error.last + 1
    return found


class PhotoColumns(Mapping[str, Column]):
    """Columns of the group ``photos`` by name, read when asked for: arrays, or lists of text, of N rows each."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Column:
        """Return a column.

        Raises:
            KeyError: the file has no such column.
            FormatError: the column cannot be read.
        """
        return self.rows(name, slice(None))

    def rows(self, name: str, rows: slice) -> Column:
        """Return some rows of a column; errors are those of ``[]``."""
        group = self._file.get(PHOTOS)
        dataset = group.get(name) if isinstance(group, h5py.Group) else None
        if not isinstance(dataset, h5py.Dataset):
            has = ", ".join(self) or "none"
            raise KeyError(f"{self._file.filename} has no column {name!r} in {PHOTOS}; it has {has}")
        try:
            if h5py.check_string_dtype(dataset.dtype):
                return [str(value) for value in dataset.asstr()[rows]]
            return np.asarray(dataset[rows])
        except (OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{self._file.filename}: {PHOTOS}/{name} cannot be read: {reason}; {REMEDY}") from None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        group = self._file.get(PHOTOS)
        names = group if isinstance(group, h5py.Group) else ()
        return (name for name in names if isinstance(group[name], h5py.Dataset))

    def __len__(self) -> int:
        """Return the number of columns."""
        return sum(1 for _ in self)


def read_text(pyramid: ImagePyramid, name: str) -> list[str] | None:
    """Return a column as text, or None if there is none of that name.

    Raises:
        FormatError: the column does not have one row per image.
    """
    values = pyramid.column(name)
    return None if values is None else [str(value) for value in values]


def read_numbers(pyramid: ImagePyramid, name: str) -> NDArray[np.float64] | None:
    """Return a column as numbers, or None if there is none of that name.

    Raises:
        FormatError: the column does not have one row per image, or holds something else than numbers.
    """
    values = pyramid.column(name)
    try:
        return None if values is None else np.asarray(values, np.float64)
    except ValueError:
        raise FormatError(f"{pyramid.path}: {PHOTOS}/{name} holds no numbers; build the file again") from None


def content_sha256(file: PyramidFile) -> str:
    """Return a SHA-256 that is equal for two files with the same images in the same order.

    It is that of the images' recorded hashes or, where the file has none, of the pixels of the 4x4 level, which are
    read quickly and tell files apart well enough.
    """
    hashes = file.photos.get("sha256")
    if hashes is not None:
        return sha256("\n".join(map(str, hashes)).encode())
    return sha256(file.images(min(4, file.resolution))[:].tobytes())
