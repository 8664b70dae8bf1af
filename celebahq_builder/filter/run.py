"""Filter run: list a folder, score what has no valid score yet, rank, select, deliver, report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import DeliveryError, RecipeError, SourceError, printable
from celebahq_builder.filter import records
from celebahq_builder.filter.deliver import (
    DeliveryMode,
    Selection,
    deliver,
    innermost_existing,
    plan_delivery,
    rank,
)
from celebahq_builder.filter.listing import SUFFIXES, ImageListing, list_images
from celebahq_builder.filter.records import ImageScore, ScoreRecord, UnscoredImage
from celebahq_builder.filter.report import FilterResult, write_page
from celebahq_builder.filter.store import ScoreStore
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.progress import Progress
from celebahq_builder.storage import write_atomic

StrPath = str | os.PathLike[str]

BATCH_IMAGES = 4
"""Images that a worker gets at once; a kill costs at most this many scores per worker."""


def filter_folder(
    folder: StrPath,
    *,
    keep: int | None = None,
    min_score: float | None = None,
    top_percent: float | None = None,
    out: StrPath | None = None,
    mode: DeliveryMode | None = None,
    prune: bool = False,
    list_path: StrPath | None = None,
    scores: StrPath | None = None,
    workers: int | None = None,
    pixels_max: int = MAX_IMAGE_PIXELS,
) -> FilterResult:
    """Score the images below a folder and keep the best; scores of an earlier call are used again.

    Args:
        folder: searched at any depth.
        keep: number of images to keep. At most one of `keep`, `min_score` and `top_percent` may be given; without
            any, all images are kept.
        min_score: keep the images of at least this score, in [0, 1].
        top_percent: keep this share of the images that have a score, in (0, 100].
        out: folder that the kept images are delivered to.
        mode: copy (the default) or link.
        prune: remove the files from `out` that an earlier call put there and that are not kept now, unless they
            were changed since.
        list_path: CSV file for the kept images, instead of `out`.
        scores: folder for the scores, the table and the page; by default beside `folder`, with ``-scores`` appended.
        workers: processes; by default one per core. The result does not depend on it.
        pixels_max: images of more pixels are not decoded.

    Raises:
        RecipeError: arguments that contradict each other.
        SourceError: `folder` is not a folder, or holds no images.
        WorkspaceError: the scores folder is in use, belongs to another folder, or cannot be used.
        DeliveryError: names are taken in `out`, `list_path` is another file, or `out` holds images of an earlier call
            and `prune` is false. Nothing was delivered then.
        DiskFull: no space left.
    """
    selection = Selection(keep, min_score, top_percent)
    _check_arguments(out, mode, prune, list_path)
    places = _Places.resolve(Path(folder), _path(out), _path(list_path), _path(scores))
    store = ScoreStore(places.scores)
    with store.hold(places.folder):
        # List and score
        _check_out(places, store)
        exclude = {places.scores, *store.destinations(), *([places.out] if places.out else [])}
        listing = list_images(places.folder, exclude - {places.folder})
        if not listing.images and not listing.unusable:
            found = ", ".join(map(printable, sorted(listing.skipped.suffixes)[:8])) or "nothing"
            raise SourceError(f"{places.folder} holds no images: looked for {', '.join(SUFFIXES)}; it has {found}")
        scored, unscored = _score_images(places.folder, listing, store, workers or os.cpu_count() or 1, pixels_max)

        # Select, and check that everything can be written before anything is
        ranked = rank(scored)
        kept = ranked[: selection.count(ranked)]
        delivery = None
        if places.out:
            paths = [image.path for image in kept]
            delivery = plan_delivery(places.folder, places.out, mode or DeliveryMode.COPY, paths, prune=prune)
        kept_csv = records.kept_csv(kept)
        if places.list_path and places.list_path.exists() and places.list_path.read_bytes() != kept_csv:
            raise DeliveryError(
                f"`list_path` {places.list_path} holds another list and is not overwritten; choose another name"
            )

        # Write and deliver
        result = FilterResult(
            folder=places.folder,
            ranked=ranked,
            kept=len(kept),
            selection=selection.description,
            unscored=unscored,
            table_path=store.table_path,
            page_path=store.page_path,
            skipped=listing.skipped,
            list_path=places.list_path,
        )
        write_atomic(store.table_path, records.table_csv(ranked, len(kept), unscored))
        write_page(result)
        if places.list_path and not places.list_path.exists():
            write_atomic(places.list_path, kept_csv)
        if delivery is None:
            return result
        if delivery.paths:
            store.add_destination(delivery.out)
        count = len(delivery.paths)
        progress = Progress(delivery.mode.value, count, count - len(delivery.left), "image")
        return replace(result, delivery=deliver(delivery, progress))


def _check_arguments(out: StrPath | None, mode: DeliveryMode | None, prune: bool, list_path: StrPath | None) -> None:
    if out and list_path:
        raise RecipeError("give `out` for the images, or `list_path` for their names, not both")
    for what in (f"to {mode} images" if mode else "", "`prune`" if prune else ""):
        if what and not out:
            raise RecipeError(f"{what} needs a destination: add `out`")


@dataclass(frozen=True)
class _Places:
    """The paths of a run, absolute and without symbolic links, so that they can be compared."""

    folder: Path
    scores: Path
    out: Path | None
    list_path: Path | None

    @classmethod
    def resolve(cls, folder: Path, out: Path | None, list_path: Path | None, scores: Path | None) -> _Places:
        given, folder = folder, folder.resolve()
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise SourceError(f"{given} {problem}; give a folder of images")
        if not folder.name and not scores:
            raise RecipeError(f"{folder} has no parent folder for the scores; add `scores`")
        scores = (scores or folder.with_name(f"{folder.name}-scores")).resolve()
        places = cls(folder, scores, out and out.resolve(), list_path and list_path.resolve())
        if folder in (places.scores, places.out) or places.scores == places.out:
            raise RecipeError("the folder of images, `out` and `scores` must be three different folders")
        if places.out and not (found := innermost_existing(places.out)).is_dir():
            raise DeliveryError(f"`out` {out}: {found} is a file; expected a folder, or a name that is free")
        if places.list_path and places.list_path.exists() and not records.is_kept_csv(_head(places.list_path)):
            raise DeliveryError(
                f"`list_path` {list_path} exists and is not a list of this command; choose another name"
            )
        return places


def _path(given: StrPath | None) -> Path | None:
    return None if given is None else Path(given)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; none of a folder, a named pipe or a device."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(1000)


def _check_out(places: _Places, store: ScoreStore) -> None:
    """Make sure that no image is skipped because it lies in a folder that is given as the destination."""
    out = places.out
    if out is None or not out.is_relative_to(places.folder) or out in store.destinations():
        return
    if out.is_dir() and any(out.iterdir()):
        raise DeliveryError(
            f"`out` {out} is in the folder of images and not empty: its images would not be scored; give a new folder"
        )


def _score_images(
    folder: Path, listing: ImageListing, store: ScoreStore, workers: int, pixels_max: int
) -> tuple[list[ImageScore], list[UnscoredImage]]:
    """Return all images with a score, and those without one by path; score those that have no valid record."""
    valid = store.valid_records(listing.images)
    todo = [image.path for image in listing.images if image.path not in valid]
    done: list[ScoreRecord] = [*listing.unusable, *valid.values()]
    if todo:
        progress = Progress("score", len(listing.images), len(valid), "image")
        with store.append() as add:
            for batch in parallel.run(_score_batch, _batches(folder, todo, pixels_max), workers=workers):
                add(batch)
                done += batch
                failed = sum(isinstance(record, UnscoredImage) and record.reason is None for record in batch)
                rejected = sum(isinstance(record, UnscoredImage) for record in batch) - failed
                progress.advance(len(batch), rejected=rejected, failed=failed)
        progress.close()
    scored = [record for record in done if isinstance(record, ImageScore)]
    unscored = [record for record in done if isinstance(record, UnscoredImage)]
    return scored, sorted(unscored, key=lambda record: record.path)


def _batches(folder: Path, paths: Sequence[str], pixels_max: int) -> Iterator[tuple[str, tuple[str, ...], int]]:
    remaining = iter(paths)
    while batch := tuple(itertools.islice(remaining, BATCH_IMAGES)):
        yield os.fspath(folder), batch, pixels_max


def _score_batch(batch: tuple[str, tuple[str, ...], int]) -> list[ScoreRecord]:
    """Score a batch in a worker, the only process that imports torch."""
    from celebahq_builder.filter import score

    return score.score_files(*batch)
