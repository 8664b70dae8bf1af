"""From a folder of images to the best of them: list, score what is not scored yet, rank, cut, deliver."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celebahq_builder import parallel
from celebahq_builder.errors import DeliveryError, RecipeError, SourceError
from celebahq_builder.filter import delivery, listing, page, table, worker
from celebahq_builder.filter.catalogue import Catalogue
from celebahq_builder.filter.delivery import Delivery, Mode
from celebahq_builder.filter.listing import Found, Listing
from celebahq_builder.filter.record import Record, Scored, Unscored
from celebahq_builder.filter.selection import Cut, rank
from celebahq_builder.filter.summary import Delivered, Summary
from celebahq_builder.progress import Progress
from celebahq_builder.storage import write_atomic

JOB_IMAGES = 4
"""Images that a worker is given at once: what a kill may cost it."""

PIXELS_MAX = 100_000_000
"""Images of more pixels are not decoded, unless asked for."""

Question = Callable[[str], bool]


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    folder: Path
    cut: Cut = field(default_factory=Cut)
    out: Path | None = None
    """Folder that the kept images are delivered to."""
    mode: Mode | None = None
    """How; a copy unless said otherwise."""
    list_path: Path | None = None
    """CSV file of the kept images."""
    scores: Path | None = None
    """Folder of scores, table and page; by default beside the folder of images, named after it."""
    workers: int = 1
    pixels_max: int = PIXELS_MAX

    def __post_init__(self) -> None:
        if self.out and self.list_path:
            raise RecipeError("give --out DIR2 for the images, or --list FILE.csv for their names, not both")
        if self.mode and not self.out:
            raise RecipeError(f"--{self.mode} needs to know where to: add --out DIR2")


def run(request: Request, agree: Question) -> Summary:
    """Filter a folder of images, going on from what its scores folder holds.

    Args:
        request: what is asked for.
        agree: asked before images are moved; what it is given says how many, from where and where to.

    Raises:
        SourceError: the folder is none, or holds no images.
        WorkspaceError: the scores folder is in use, of another folder, or cannot be used.
        DeliveryError: names are taken where the images or the list are to go; nothing was delivered then.
        DiskFull: no space left.
    """
    places = _Places.of(request)
    catalogue = Catalogue(places.scores)
    with catalogue.held(places.folder):
        interrupted = delivery.read_plan(catalogue.delivery_path)
        if interrupted:
            return _go_on(request, places, catalogue, *interrupted)
        _check_out(places, catalogue)
        found = listing.read(places.folder, _not_input(places, catalogue))
        if not found.images and not found.unusable:
            endings = ", ".join(sorted(found.passed.suffixes)[:8]) or "nothing"
            raise SourceError(
                f"{places.folder} holds no images: looked for {', '.join(listing.SUFFIXES)}; it has {endings}"
            )
        scored, unscored = _scores(request, places, catalogue, found)
        return _deliver(request, places, catalogue, rank(scored), unscored, found, agree)


@dataclass(frozen=True)
class _Places:
    """The folders of a request, absolute and without links, so that they compare."""

    folder: Path
    scores: Path
    out: Path | None
    list_path: Path | None

    @classmethod
    def of(cls, request: Request) -> _Places:
        folder = request.folder.resolve()
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise SourceError(f"{request.folder} {what}; give a folder of images")
        if not folder.name and not request.scores:
            raise RecipeError(f"{folder} has nothing beside it: say where the scores are to be kept, --scores DIR3")
        scores = request.scores or folder.with_name(f"{folder.name}-scores")
        out, list_path = request.out and request.out.resolve(), request.list_path and request.list_path.resolve()
        places = cls(folder, scores.resolve(), out, list_path)
        if folder in (places.scores, out) or places.scores == out:
            raise RecipeError("the folder of images, --out and --scores must be three different folders")
        if list_path and list_path.exists():
            _check_list(list_path)
        return places


def _check_list(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            if table.is_list(file.read(1000)):
                return
    raise DeliveryError(f"--list {path} exists and is no list of this command; give another name")


def _check_out(places: _Places, catalogue: Catalogue) -> None:
    """Make sure that no image is passed over because `--out` happens to be a folder of the user's."""
    out = places.out
    if out is None or not out.is_relative_to(places.folder) or out in catalogue.delivered_to():
        return
    if out.is_dir() and any(out.iterdir()):
        raise DeliveryError(
            f"--out {out} is in the folder of images and not empty: what is in it would not be scored; "
            "give a new folder"
        )


def _not_input(places: _Places, catalogue: Catalogue) -> list[Path]:
    outs = {*catalogue.delivered_to(), *([places.out] if places.out else [])}
    return [places.scores, *(out for out in outs if out != places.folder)]


def _scores(
    request: Request, places: _Places, catalogue: Catalogue, found: Listing
) -> tuple[list[Scored], list[Unscored]]:
    """Score what is not scored yet, and return all images with a score, and all without by path."""
    records = catalogue.known(found.images)
    todo = [image for image in found.images if image.path not in records]
    jobs = _jobs(os.fspath(places.folder), todo, request.pixels_max)
    scored = [one for one in records.values() if isinstance(one, Scored)]
    unscored = [*found.unusable, *(one for one in records.values() if isinstance(one, Unscored))]
    if todo:
        progress = Progress("score", len(found.images), len(records))
        with catalogue.adding() as journal:
            for done in parallel.run(worker.run, jobs, workers=request.workers):
                journal.add(done)
                _sort_into(done, scored, unscored)
                failed = sum(isinstance(one, Unscored) and one.reason is None for one in done)
                rejected = sum(isinstance(one, Unscored) for one in done) - failed
                progress.advance(len(done), rejected=rejected, failed=failed)
        progress.close()
    return scored, sorted(unscored, key=lambda one: one.path)


def _jobs(folder: str, todo: Sequence[Found], pixels_max: int) -> Iterator[worker.Job]:
    paths = iter(image.path for image in todo)
    while some := tuple(itertools.islice(paths, JOB_IMAGES)):
        yield worker.Job(folder, some, pixels_max)


def _sort_into(done: Sequence[Record], scored: list[Scored], unscored: list[Unscored]) -> None:
    for one in done:
        if isinstance(one, Scored):
            scored.append(one)
        else:
            unscored.append(one)


def _deliver(
    request: Request,
    places: _Places,
    catalogue: Catalogue,
    ranked: list[Scored],
    unscored: list[Unscored],
    found: Listing,
    agree: Question,
) -> Summary:
    """Cut the ranking, write down what came of it, and deliver the images kept."""
    kept = ranked[: request.cut.count(ranked)]
    planned, declined = None, False
    if places.out and kept:
        mode = request.mode or Mode.COPY
        planned = delivery.plan(places.folder, places.out, mode, [one.path for one in kept])
        declined = mode is Mode.MOVE and not agree(_question(planned, len(ranked)))
        planned = None if declined else planned
    names = table.listed(kept) if places.list_path else b""
    if places.list_path and places.list_path.exists() and places.list_path.read_bytes() != names:
        raise DeliveryError(
            f"--list {places.list_path} holds another list; nothing is overwritten: delete it or give another name"
        )
    moved = planned is not None and planned.mode is Mode.MOVE
    write_atomic(catalogue.table_path, table.whole(ranked, len(kept), unscored))
    page.write(
        catalogue.page_path,
        page.Contents(
            folder=places.folder,
            cut=request.cut,
            ranked=ranked,
            kept=len(kept),
            unscored=unscored,
            passed=found.passed,
            table=catalogue.table_path,
            kept_in=planned.out if planned and moved else places.folder,
        ),
    )
    if places.list_path and not places.list_path.exists():
        write_atomic(places.list_path, names)
    return Summary(
        ranked=ranked,
        kept=len(kept),
        cut=request.cut.words,
        unscored=unscored,
        passed=found.passed,
        table=catalogue.table_path,
        page=catalogue.page_path,
        list_path=places.list_path,
        delivered=_carry_out(planned, catalogue, request.cut) if planned else None,
        declined=declined,
    )


def _question(planned: Delivery, of: int) -> str:
    count = len(planned.paths)
    return f"Move {count} of {of} images ({planned.bytes_left / 1e6:.1f} MB) from {planned.folder} to {planned.out}?"


def _carry_out(planned: Delivery, catalogue: Catalogue, cut: Cut) -> Delivered:
    """Deliver images, in a way that another process can bring to its end."""
    catalogue.note_delivery(planned.out)
    if planned.mode is Mode.MOVE and not catalogue.delivery_path.exists():
        delivery.write_plan(catalogue.delivery_path, planned, cut.words)
    progress = Progress(planned.mode.value, len(planned.paths), len(planned.paths) - len(planned.left))
    problems = []
    for path, problem in delivery.deliver(planned):
        if problem:
            problems.append((path, problem))
        progress.advance(1, failed=bool(problem))
    progress.close()
    failed = dict(problems)
    gone = [one for one in planned.paths if one not in failed and not os.path.lexists(planned.out / one)]
    if gone:
        raise DeliveryError(
            f"{planned.out / gone[0]} was delivered and is gone again, {len(gone)} of {len(planned.paths)} images in "
            "all: something else deletes them; see to it, and run the same command again"
        )
    catalogue.delivery_path.unlink(missing_ok=True)
    return Delivered(
        mode=planned.mode,
        out=planned.out,
        images=len(planned.paths),
        there=len(planned.paths) - len(planned.left),
        symbolic=delivery.links_are_symbolic(planned) if planned.mode is Mode.LINK else 0,
        problems=tuple(problems),
    )


def _go_on(
    request: Request, places: _Places, catalogue: Catalogue, out: Path, cut: str, paths: tuple[str, ...]
) -> Summary:
    """Bring an interrupted move to its end: what is left in the folder says no longer what was to be moved."""
    if (request.mode, places.out, request.cut.words) != (Mode.MOVE, out, cut):
        raise DeliveryError(
            f"a move of {len(paths)} images to {out} was interrupted; finish it first: celebahq filter "
            f"{places.folder} {cut}{' ' if cut else ''}--out {out} --move; or delete {catalogue.delivery_path} to "
            "leave the images where they are"
        )
    planned = delivery.plan(places.folder, out, Mode.MOVE, paths, began=True)
    return Summary(
        ranked=(),
        kept=len(paths),
        cut=cut,
        unscored=(),
        table=catalogue.table_path,
        page=catalogue.page_path,
        delivered=_carry_out(planned, catalogue, request.cut),
        went_on=True,
    )
