"""A multi-resolution HDF5 file that is written by several commands, of which all but the last were killed.

None of them writes to what another has left: HDF5 cannot go on with a file that was not closed. The next one begins a
new file with the finished chunks of the old one, as they are, at the speed of the disk, so the bytes of the result are
those of a file that was written in one go. While it does so there is room needed for both.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from celebahq_builder.formats.codecs import Codec
from celebahq_builder.formats.hdf5_journal import Journal, recover
from celebahq_builder.formats.hdf5_writer import UNFINISHED, Columns, PyramidWriter
from celebahq_builder.formats.packing import Packed

log = logging.getLogger(__name__)

JOURNAL = "journal"


class ResumedWriter:
    """A `PyramidWriter` that keeps a journal; made by `resumed_writer`."""

    def __init__(self, writer: PyramidWriter, journal: Journal) -> None:
        self.writer, self.journal = writer, journal

    @property
    def done(self) -> int:
        """Pictures that the file has."""
        return self.writer.done

    def write(self, packed: Packed, columns: Mapping[str, Sequence[str]] | None = None) -> None:
        """Store the pictures that follow; see `PyramidWriter.write`."""
        self.writer.write(packed, columns)
        with self.writer.storing():
            self.journal.add(packed, {name: list(texts) for name, texts in (columns or {}).items()}, self.writer.levels)

    def finish(self, columns: Columns, attributes: Mapping[str, Any]) -> None:
        """Close the file and give it its name; see `PyramidWriter.finish`."""
        self.writer.finish(columns, attributes)


@contextlib.contextmanager
def resumed_writer(
    folder: Path, path: Path, *, count: int, resolution: int, channels: int, codec: Codec
) -> Iterator[ResumedWriter]:
    """Open a writer that has what an earlier one left in the same folder.

    Args:
        folder: for the unfinished file; the caller sees to it that only one process uses it, and that whatever decides
            the pictures is the same each time.
        path: of the file when it is finished.
        count: of the pictures.
        resolution: of the largest level.
        channels: 3, or 1 for grey.
        codec: of all levels.

    Raises:
        DiskFull: no space left; what the folder holds is no worse for it.
    """
    new, left = folder / "new", folder / "left"
    _prepare(new, left)
    size = {"count": count, "resolution": resolution, "channels": channels}
    with PyramidWriter(path, **size, codec=codec, within=new) as writer, Journal(new / JOURNAL) as journal:
        resumed = ResumedWriter(writer, journal)
        if left.exists():
            for packed, texts in recover(left / JOURNAL, left / UNFINISHED, resolution, channels):
                resumed.write(packed, texts)
            log.info("%s: %d of %d pictures are there already", folder, resumed.done, count)
            _delete(left)
        yield resumed


def _prepare(new: Path, left: Path) -> None:
    """Leave what an earlier command has done in `left`, if there is any, and an empty folder for a new file."""
    if left.exists():  # killed before all of it was taken over, so it holds more than the new one
        shutil.rmtree(new, ignore_errors=True)
    elif (new / JOURNAL).exists():
        new.rename(left)
    if left.exists():
        needed, free = (left / UNFINISHED).stat().st_size, shutil.disk_usage(left).free
        if needed > free:
            log.info("%s: begun anew, as %d bytes are too few to go on with %d", left.parent, free, needed)
            _delete(left)
    new.mkdir(parents=True, exist_ok=True)


def _delete(left: Path) -> None:
    """Delete a folder, of which a kill leaves no part under its name."""
    gone = left.with_name("gone")
    shutil.rmtree(gone, ignore_errors=True)
    left.rename(gone)
    shutil.rmtree(gone)
