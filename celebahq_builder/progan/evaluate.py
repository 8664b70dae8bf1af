"""`celebahq evaluate`: a data set, a generator, or all snapshots of a run, against a reference."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation import table
from celebahq_builder.evaluation.evaluate import evaluate as scores
from celebahq_builder.evaluation.protocol import METRICS, Protocol, check, too_small
from celebahq_builder.evaluation.reference import Reference
from celebahq_builder.evaluation.result import Result
from celebahq_builder.evaluation.source import Source, check_resolution, kind_of, open_set
from celebahq_builder.formats.contact_sheet import write_new
from celebahq_builder.formats.staging import check_free, check_writable
from celebahq_builder.progan.generator_source import GeneratorSource
from celebahq_builder.progan.snapshots import Snapshot, is_run, snapshots
from celebahq_builder.report import evaluation_page

log = logging.getLogger(__name__)

JSON, PAGE = "evaluation.json", "index.html"


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, against what."""

    source: Path
    """HDF5 file, folder, zip, generator.safetensors, or folder of a run."""
    protocol: Protocol
    against: Path | None = None
    """The same; of a run its generator.safetensors."""
    resolution: int | None = None
    """Level of HDF5 files; of a run, only the snapshots of this resolution."""
    json_path: Path | None = None
    """File for all that was found."""
    out: Path | None = None
    """Folder for a page, and the same file as evaluation.json."""

    @property
    def files(self) -> dict[Path, str]:
        """What is to be written, and the option that asks for it."""
        files = {} if self.out is None else {self.out / JSON: "--out", self.out / PAGE: "--out"}
        if self.json_path is not None and self.json_path.resolve() not in (path.resolve() for path in files):
            files[self.json_path] = "--json"
        return files


def evaluate(request: Request) -> Iterator[str]:
    """Evaluate what is asked for: yield the numbers in lines of text, and then what was written.

    Raises:
        CelebAHQError: what `results` raises; or a file that is to be written is there already.
    """
    if request.out is not None and request.out.exists() and not request.out.is_dir():
        raise FormatError(f"{request.out} is a file; give a folder for {JSON} and {PAGE} as --out")
    if request.out and request.json_path and request.json_path.resolve() == (request.out / PAGE).resolve():
        raise FormatError(f"--json {request.json_path} is where --out puts its page; choose another --json")
    for path, option in request.files.items():
        check_free(path, option)
        check_writable(path, option)
    found = list(results(request))
    of_run = is_run(request.source)
    yield from table.snapshot_lines(found) if of_run else table.lines(found[0])
    values = found[0].to_json()
    if of_run:
        each = [one.to_json() for one in found]
        values = {"format": values["format"], "run": str(request.source), "snapshots": each}
    for path in request.files:
        if path.name == PAGE and path.parent == request.out:
            write_new(path, evaluation_page.page(request.source, found))
        else:
            write_new(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
        yield f"written: {path}"


def results(request: Request) -> Iterator[Result]:
    """Yield the result of a source, or those of all snapshots of a run, the earliest first.

    Raises:
        FormatError: source, reference and protocol do not fit together, or cannot be read.
        WeightsError: a generator or the Inception network cannot be used.
        TrainingError: a checkpoint cannot be read.
    """
    if is_run(request.source):
        yield from _of_run(request)
        return
    source = open_source(request.source, request.resolution, request.protocol)
    yield scores(source, _reference(request, source.resolution, source.where), request.protocol)


def open_source(path: Path, resolution: int | None, protocol: Protocol) -> Source:
    """Open a data set or a generator.

    Raises:
        FormatError: nothing there, of no known format, damaged, or not of that resolution.
        WeightsError: a generator that cannot be used.
    """
    if is_generator(path):
        generator = GeneratorSource.of_file(path, protocol.seed, protocol.device)
        check_resolution(generator.where, generator.resolution, resolution)
        return generator
    return open_set(path, resolution)


def is_generator(path: Path) -> bool:
    """Whether a path is that of a generator, or of a run that has one."""
    return path.suffix == ".safetensors" or (path / "generator.safetensors").is_file()


def _of_run(request: Request) -> Iterator[Result]:
    found = snapshots(request.source)
    chosen = [one for one in found if request.resolution in (None, one.resolution)]
    if not chosen:
        has = ", ".join(map(str, sorted({one.resolution for one in found})))
        raise FormatError(
            f"{request.source} has no snapshot of {request.resolution}x{request.resolution}; it has those of {has} px"
        )
    usable = [metric for metric in request.protocol.metrics if not too_small(metric, chosen[-1].resolution)]
    if not usable:
        r = chosen[-1].resolution
        raise FormatError(
            f"the snapshots of {request.source} are {r}x{r} at most, too small for "
            f"{', '.join(request.protocol.metrics)}; train on"
        )
    for snapshot in {one.resolution: one for one in chosen}.values():  # what is amiss is told before hours of work
        expected = _reference(request, snapshot.resolution, snapshot.where)
        check(snapshot, expected.source if expected else None, _fitting(request.protocol, snapshot.resolution))
    reference: Reference | None = None
    for snapshot in chosen:
        r = snapshot.resolution
        log.info("%s: %g kimg, %dx%d", request.source, snapshot.kimg, r, r)
        if reference is None or reference.source.resolution != r:
            reference = _reference(request, r, snapshot.where)
        result = _of_snapshot(snapshot, reference, request.protocol)
        log.info("%s: %g kimg: %s", request.source, snapshot.kimg, table.in_short(result))  # should a later one fail
        yield result


def _of_snapshot(snapshot: Snapshot, reference: Reference | None, protocol: Protocol) -> Result:
    """Return the scores of a snapshot: those that its resolution allows."""
    source = GeneratorSource.of_snapshot(snapshot, protocol.seed, protocol.device)
    r = snapshot.resolution
    left_out = {
        metric: f"needs {METRICS[metric].least_px}x{METRICS[metric].least_px} or more, this is {r}x{r}"
        for metric in protocol.metrics
        if too_small(metric, r)
    }
    result = scores(source, reference, _fitting(protocol, r))
    return dataclasses.replace(result, left_out=left_out)


def _fitting(protocol: Protocol, resolution: int) -> Protocol:
    """Return a protocol without the metrics that pictures are too small for."""
    fitting = tuple(metric for metric in protocol.metrics if not too_small(metric, resolution))
    return dataclasses.replace(protocol, metrics=fitting)


def _reference(request: Request, resolution: int, beside: str) -> Reference | None:
    """Open the reference at the resolution of the source: of an HDF5 file that level; what else there is has but one.

    Args:
        request: names the reference, or none.
        resolution: of the source.
        beside: how messages name the source.
    """
    path, protocol = request.against, request.protocol
    if path is None:
        return None
    if is_generator(path) or kind_of(path) != "hdf5":
        source = open_source(path, None, protocol)
    else:
        try:
            source = open_set(path, resolution)
        except FormatError as error:
            raise FormatError(f"{beside} has pictures of {resolution}x{resolution}: {error}") from None
    if source.resolution != resolution:
        raise FormatError(
            f"{beside} has pictures of {resolution}x{resolution}, {path} of {source.resolution}x{source.resolution}; "
            "only pictures of one size can be compared: of an HDF5 file or a run, --resolution takes those of another"
        )
    return Reference(source, protocol.seed)
