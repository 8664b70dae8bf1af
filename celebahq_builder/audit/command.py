"""The way through an audit: what is in the file, a table of it, and two files."""

from __future__ import annotations

import json
from pathlib import Path

from celebahq_builder.audit import page, table
from celebahq_builder.audit.duplicates import DISTANCE, LIKENESS
from celebahq_builder.audit.findings import Limits
from celebahq_builder.audit.scan import scan
from celebahq_builder.errors import FormatError
from celebahq_builder.formats.contact_sheet import write_new
from celebahq_builder.formats.hdf5 import PyramidFile
from celebahq_builder.formats.level import Level
from celebahq_builder.formats.staging import check_free, check_writable

JSON, PAGE = "audit.json", "index.html"


def audit(
    file: Path, out: Path, *, distance: int = DISTANCE, likeness: float = LIKENESS, threads: int | None = None
) -> list[str]:
    """Look for what is wrong with a data set, and return the table of it in lines of text.

    Writes ``audit.json`` with all that was found and ``index.html`` with the pictures. Nothing is altered, and nothing
    is judged by its looks alone: what is nearly the same, or has a bar, is for people to see on the page.

    Args:
        file: of all levels, this project's or the ProGAN authors' tool's.
        out: folder for both files, neither of which may be there; made where it is not.
        distance: bits of 255 in which the hashes of two pictures that are nearly the same may differ.
        likeness: correlation, from -1 to 1, that such two must have besides.
        threads: that decompress; None for one per core.

    Raises:
        FormatError: the file is not such a one or damaged, or a result is there already.
        DiskFull: no space left.
    """
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file; give a folder for {JSON} and {PAGE} as --out")
    for name in (JSON, PAGE):
        check_free(out / name)
        check_writable(out / name)
    with PyramidFile.with_pictures(file) as pyramid:
        found = scan(file, pyramid, Limits(distance, likeness), threads)
    drawn = page.page(found, Level(file, min(page.SIDE_PX, found.resolution), threads))
    write_new(out / JSON, (json.dumps(found.mapping(), indent=1, ensure_ascii=False) + "\n").encode())
    write_new(out / PAGE, drawn)
    return [*table.lines(found), f"{out / PAGE} shows the pictures, {out / JSON} names them all"]
