"""Some photos of a source: those named, the first of them, or those of the official image list."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from celebahq_builder.errors import SourceError
from celebahq_builder.image_list import Listed
from celebahq_builder.outcome import Reason, Rejected
from celebahq_builder.source.photo import Source


def subset(source: Source, *, limit: int | None = None, ids: Iterable[str] | None = None) -> Source:
    """Return a source of only some photos: those named in `ids` (id or file name), at most `limit` of them.

    With `ids`, what was rejected already stays only where `ids` names it; `limit` counts usable photos alone.

    Raises:
        SourceError: a name in `ids` is neither a photo of the source nor one of its rejects.
    """
    photos, rejected = source.photos, source.rejected
    if ids is not None:
        wanted = set(ids)
        known = {p.id for p in photos} | {p.file for p in photos}
        known |= {r.photo for r in rejected} | {PurePosixPath(r.photo).stem for r in rejected}
        unknown = sorted(wanted - known)
        if unknown:
            raise SourceError(
                f"{len(unknown)} of {len(wanted)} names in --ids are not in the source, first: {unknown[0]}"
            )
        photos = tuple(p for p in photos if p.id in wanted or p.file in wanted)
        rejected = tuple(r for r in rejected if r.photo in wanted or PurePosixPath(r.photo).stem in wanted)
    if limit is not None:
        photos = photos[:limit]
    return Source(source.folder, photos, rejected, source.warnings, source.attribute_names)


def official(source: Source, image_list: Sequence[Listed]) -> Source:
    """Return a source of only the photos of an image list, in its order; all others are left out without a word.

    A photo of the list that the source knows nothing of is rejected as NOT_IN_TABLE.

    Raises:
        SourceError: the source has none of them.
    """
    by_file = {photo.file: photo for photo in source.photos}
    photos = tuple(dataclasses.replace(by_file[row.file], listed=row) for row in image_list if row.file in by_file)
    if not photos:
        raise SourceError(
            f"none of the {len(image_list)} photos of the image list is in the landmark table: the list has "
            f"{image_list[0].file}, ..., the table {next(iter(by_file), 'nothing')}, ...; give CelebA's own"
        )
    files = {row.file for row in image_list}
    rejected = [one for one in source.rejected if one.photo in files]
    known = by_file.keys() | {one.photo for one in rejected}
    for row in image_list:
        if row.file not in known:
            rejected.append(Rejected(row.file, Reason.NOT_IN_TABLE, f"idx {row.index} of the image list"))
    return dataclasses.replace(source, photos=photos, rejected=tuple(rejected))
