"""Filter run: list a folder, score what has no valid score yet, rank, select, deliver, report."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from celebahq_builder import parallel
from celebahq_builder.cluster.connection import check_target
from celebahq_builder.cluster.jobs import Parts, run_jobs
from celebahq_builder.errors import DeliveryError, RecipeError, SourceError, printable
from celebahq_builder.filter.deliver import DeliveryMode, deliver, innermost_existing, plan_delivery
from celebahq_builder.filter.listing import SUFFIXES, ImageListing, scan_folder
from celebahq_builder.filter.report import FilterResult, write_page
from celebahq_builder.filter.store import (
    ImageScore,
    ScoreRecord,
    ScoreStore,
    UnscoredImage,
    is_kept_csv,
    kept_csv,
    table_csv,
)
from celebahq_builder.limits import MAX_IMAGE_PIXELS
from celebahq_builder.pipeline.cluster_batches import Surroundings, worker_facts
from celebahq_builder.progress import Progress
from celebahq_builder.storage import delete_partial_of, write_atomic

StrPath = str | os.PathLike[str]

BATCH_IMAGES = 4
"""Images that a worker gets at once; a kill costs at most this many scores per worker."""


@dataclass(frozen=True)
class Selection:
    """The number of images to keep, given by one of the fields; without any, all images are kept.

    Raises:
        RecipeError: more than one field is given, or a value is out of range.
    """

    keep: int | None = None
    """Number of images, at least 1."""
    min_score: float | None = None
    """Lowest score, in [0, 1]."""
    top_percent: float | None = None
    """Share of the images that have a score, in (0, 100], rounded down, but at least one image."""

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "min_score", "top_percent") if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(f"`{name}`" for name in given)
            raise RecipeError(f"{names} both determine how many images are kept; give only one of them")
        if self.keep is not None and self.keep < 1:
            raise RecipeError(f"`keep` must be at least 1, got {self.keep}")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise RecipeError(f"`min_score` must be from 0 to 1, got {self.min_score}")
        if self.top_percent is not None and not 0 < self.top_percent <= 100:
            raise RecipeError(f"`top_percent` must be above 0 and at most 100, got {self.top_percent}")

    @property
    def description(self) -> str:
        """The selection in words, such as "best 10 %"; empty if all images are kept."""
        if self.keep is not None:
            return f"best {self.keep}"
        if self.min_score is not None:
            return f"scores of {self.min_score:g} or more"
        return "" if self.top_percent is None else f"best {self.top_percent:g} %"

    def count(self, ranked: Sequence[ImageScore]) -> int:
        """Return how many of these images, best first, are kept."""
        if self.keep is not None:
            return min(self.keep, len(ranked))
        if self.min_score is not None:
            return sum(image.score >= self.min_score for image in ranked)
        if self.top_percent is not None:
            share = Fraction(str(self.top_percent)) / 100  # exact: 0.29 * 100 as floats would be rounded down to 28
            return min(max(int(len(ranked) * share), 1), len(ranked))
        return len(ranked)


def rank(images: Iterable[ImageScore]) -> list[ImageScore]:
    """Return images best first; those of equal scores by path."""
    return sorted(images, key=lambda image: (-image.score, image.path))


def filter_folder(
    folder: StrPath,
    *,
    keep: int | None = None,
    min_score: float | None = None,
    top_percent: float | None = None,
    out: StrPath | None = None,
    mode: Literal["copy", "link"] | None = None,
    prune: bool = False,
    list_path: StrPath | None = None,
    scores: StrPath | None = None,
    workers: int | None = None,
    pixels_max: int = MAX_IMAGE_PIXELS,
    cluster: StrPath | None = None,
) -> FilterResult:
    """Score the images below a folder and keep the best; scores of an earlier call are used again.

    Args:
        folder: searched at any depth.
        keep: number of images to keep. At most one of `keep`, `min_score` and `top_percent` may be given; without
            any, all images are kept.
        min_score: keep the images of at least this score, in [0, 1].
        top_percent: keep this share of the images that have a score, in (0, 100].
        out: folder that the kept images are delivered to.
        mode: ``copy`` (the default) or ``link``.
        prune: remove the files from `out` that an earlier call put there and that are not kept now, unless they
            were changed since.
        list_path: CSV file for the kept images, instead of `out`.
        scores: folder for the scores, the table and the page; by default in the current folder, named as `folder` with
            ``-scores`` appended.
        workers: processes; by default one per core. The result does not depend on it.
        pixels_max: images of more pixels are not decoded.
        cluster: address of a Dask scheduler, or its scheduler.json, whose workers compute the scores. They must see the
            images under the same paths.

    Raises:
        RecipeError: arguments that contradict each other or are out of range.
        ClusterError: no scheduler answers, or its workers cannot be used.
        SourceError: `folder` is not a folder, or holds no images.
        WorkspaceError: the scores folder is in use, belongs to another folder, or cannot be used.
        DeliveryError: names are taken in `out`, `list_path` is another file, or `out` holds images of an earlier call
            and `prune` is false. Nothing was delivered then.
        DiskFull: no space left.
    """
    selection = Selection(keep, min_score, top_percent)
    if out and list_path:
        raise RecipeError("give `out` for the images, or `list_path` for their names, not both")
    if mode not in (None, *DeliveryMode):
        raise RecipeError(f"`mode` {mode} is unknown; expected {' or '.join(DeliveryMode)}")
    for what in (f"to {mode} images" if mode else "", "`prune`" if prune else ""):
        if what and not out:
            raise RecipeError(f"{what} needs a destination: add `out`")
    if cluster is not None:
        check_target(os.fspath(cluster))
    folder, target, kept_list, scores_folder = _resolve(folder, out, list_path, scores)
    store = ScoreStore(scores_folder)
    with store.hold(folder):
        listing = _list_images(folder, target, store)
        where = workers or parallel.cores() if cluster is None else os.fspath(cluster)
        scored, unscored = _score_images(folder, listing, store, where, pixels_max)

        # Select, and check that everything can be written before anything is
        ranked = rank(scored)
        kept = ranked[: selection.count(ranked)]
        delivery = None
        if target:
            paths = [image.path for image in kept]
            delivery = plan_delivery(folder, target, DeliveryMode(mode or "copy"), paths, prune=prune)
        kept_rows = kept_csv(kept)
        if kept_list and kept_list.exists() and kept_list.read_bytes() != kept_rows:
            raise DeliveryError(
                f"`list_path` {kept_list} holds another list and is not overwritten; choose another name"
            )

        # Write and deliver
        result = FilterResult(
            folder=folder,
            ranked=ranked,
            kept=len(kept),
            selection=selection.description,
            unscored=unscored,
            table_path=store.table_path,
            page_path=store.page_path,
            skipped=listing.skipped,
            list_path=kept_list,
        )
        write_atomic(store.table_path, table_csv(ranked, len(kept), unscored))
        write_page(result)
        if kept_list:
            delete_partial_of(kept_list)
            if not kept_list.exists():
                write_atomic(kept_list, kept_rows)
        if delivery is None:
            return result
        if delivery.paths:
            store.add_destination(delivery.out)
        count = len(delivery.paths)
        progress = Progress(delivery.mode.value, count, count - len(delivery.remaining), "image")
        return replace(result, delivery=deliver(delivery, progress))


def _resolve(
    given: StrPath, out: StrPath | None, list_path: StrPath | None, scores: StrPath | None
) -> tuple[Path, Path | None, Path | None, Path]:
    """Return the paths of a run, absolute and without symbolic links, so that they can be compared."""
    folder = Path(os.path.realpath(given))  # unlike `resolve`, no error for a link to itself
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise SourceError(f"{given} {problem}; give a folder of images")
    if not scores and (not folder.name or Path.cwd().is_relative_to(folder)):
        raise RecipeError(f"the current folder is in {folder}, the folder of images; give a folder for the `scores`")
    store = Path(os.path.realpath(scores or f"{folder.name}-scores"))
    target, kept_list = (None if path is None else Path(os.path.realpath(path)) for path in (out, list_path))
    if folder in (store, target) or store == target:
        raise RecipeError("the folder of images, `out` and `scores` must be three different folders")
    if target and not (found := innermost_existing(target)).is_dir():
        raise DeliveryError(f"`out` {out}: {found} is a file; expected a folder, or a name that is free")
    if kept_list and kept_list.exists():
        head = b""  # of a folder, a named pipe or a device
        if kept_list.is_file():
            with kept_list.open("rb") as file:
                head = file.read(1000)
        if not is_kept_csv(head):
            raise DeliveryError(
                f"`list_path` {list_path} exists and is not a list of this command; choose another name"
            )
    return folder, target, kept_list, store


def _list_images(folder: Path, target: Path | None, store: ScoreStore) -> ImageListing:
    """Return the images of a folder, without those that this command or an earlier one delivers into it."""
    earlier = store.destinations()
    is_inside = target is not None and target.is_relative_to(folder) and target not in earlier
    if target and is_inside and target.is_dir() and any(target.iterdir()):
        raise DeliveryError(
            f"`out` {target} is in the folder of images and not empty: its images would not be scored; give a new "
            "folder"
        )
    exclude = {store.root, *earlier, *([target] if target else [])}
    listing = scan_folder(folder, exclude - {folder})
    if not listing.images and not listing.unusable:
        found = ", ".join(map(printable, sorted(listing.skipped.suffixes)[:8])) or "nothing"
        raise SourceError(f"{folder} holds no images: looked for {', '.join(SUFFIXES)}; it has {found}")
    return listing


def _score_images(
    folder: Path, listing: ImageListing, store: ScoreStore, where: int | str, pixels_max: int
) -> tuple[list[ImageScore], list[UnscoredImage]]:
    """Score the images that have no valid record, in processes (their number) or on a cluster (its address).

    Returns all images with a score, and those without one, sorted by path.
    """
    valid = store.valid_records(listing.images)
    todo = [path for path in listing.images if path not in valid]
    batches = ((os.fspath(folder), todo[i : i + BATCH_IMAGES], pixels_max) for i in range(0, len(todo), BATCH_IMAGES))
    done: list[ScoreRecord] = [*listing.unusable, *valid.values()]
    if todo:
        progress = Progress("score", len(listing.images), len(valid), "image")
        if isinstance(where, int):
            scoring = parallel.run(_score_batch, batches, workers=where)
        else:
            scoring = _score_on_cluster(where, folder, todo[:BATCH_IMAGES], batches, progress)
        with store.append() as add, closing(scoring) as scores:
            for batch in scores:
                add(batch)
                done += batch
                failed = sum(isinstance(record, UnscoredImage) and record.reason is None for record in batch)
                rejected = sum(isinstance(record, UnscoredImage) for record in batch) - failed
                progress.advance(len(batch), rejected=rejected, failed=failed)
        progress.close()
    scored = [record for record in done if isinstance(record, ImageScore)]
    unscored = [record for record in done if isinstance(record, UnscoredImage)]
    return scored, sorted(unscored, key=lambda record: record.path)


_Batch = tuple[str, list[str], int]
"""Folder, paths in it, and largest number of pixels: the arguments of `score.score_files`."""


def _score_on_cluster(
    target: str, folder: Path, samples: Sequence[str], batches: Iterable[_Batch], progress: Progress
) -> Generator[list[ScoreRecord], None, None]:
    """Yield the records of batches that the workers of a cluster score; they must see the samples."""
    needed = Surroundings(files=tuple(folder / path for path in samples))
    parts = Parts[_Batch, list[ScoreRecord]](
        name=lambda batch: batch[1][0] if len(batch[1]) == 1 else f"the batch from {batch[1][0]} on",
        split=lambda batch: [(batch[0], [path], batch[2]) for path in batch[1]],
        fail=lambda batch, reason: [UnscoredImage(path, None, reason) for path in batch[1]],
        join=lambda _, results: [record for records in results for record in records],
    )
    facts = functools.partial(worker_facts, needed)
    return run_jobs(target, _score_batch, batches, facts=facts, expected=needed.facts(), parts=parts, progress=progress)


def _score_batch(batch: _Batch) -> list[ScoreRecord]:
    """Score a batch in a worker, the only process that imports torch."""
    from celebahq_builder.filter.scoring import score_files

    return score_files(*batch)
