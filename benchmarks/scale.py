"""Time and memory of a build of 202,599 photos, and of a cluster of 100 workers, without the work on images.

``python benchmarks/scale.py [--photos N] [--out DIR] [--keep] [--resolution PX] [--no-cluster]``

The photos are hard links to those of ``tests/sample/celeba``, with their rows in all tables. The figures are those of
child processes that run ``celebahq build``:

- the dry run;
- the time from the start of a build at 64x64 with two workers until its batches are planned, and until the first batch
  is finished; the build is then interrupted;
- the same command with ``--until select`` on a run directory whose align and score have a manifest of each batch, but
  are not marked complete: it reads all manifests, reconciles the photos, selects, and writes summary and report. The
  outcomes are those of a build of the sample, with the identity of each photo; the images are hard links, too;
- jobs that sleep for 20 s on a Dask cluster of 100 workers. They are 4 processes of 25 workers each, because 100 in one
  process wait for its event loop. A job and its result carry the outcomes of 16 photos. The overhead is all time from
  the call of `run_jobs` beyond that of the jobs, so it includes connecting and the checks of all workers.

Peak memory is the largest resident memory of the process itself. Beside other work on the machine, processor time tells
more than the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from table import Row, finish

from celebahq_builder.cluster.connection import Cluster
from celebahq_builder.cluster.jobs import Parts, run_jobs
from celebahq_builder.outcome import Kept, Outcome
from celebahq_builder.pipeline.face import Identity
from celebahq_builder.pipeline.plan import BuildPlan
from celebahq_builder.pipeline.recipe import DEFAULT_RECIPE
from celebahq_builder.pipeline.request import make_request
from celebahq_builder.run_directory.workspace import StageFolder, Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo
from celebahq_builder.storage import write_json

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "sample" / "celeba"
SAMPLE_PHOTOS = 15
PHOTOS = 202_599
DRY_RUN_S, DRY_RUN_MB = 15, 1000
SELECT_S, SELECT_MB = 120, 1500
FIRST_BATCH_PX, FIRST_BATCH_WORKERS = 64, 2
PROCESSES, WORKERS_PER_PROCESS = 4, 25
JOBS, SLEEP_S = 300, 20.0
BATCH_S = 45.0
"""Seconds that one core takes for a batch of 16 photos at 1024x1024."""
OVERHEAD_PERCENT = 5
POLL_S = 0.01


def main() -> None:
    """Make the photos, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--out", type=Path, help="new folder for all files; default: a temporary folder")
    parser.add_argument("--keep", action="store_true", help="do not delete the folder at the end")
    parser.add_argument("--resolution", type=int, default=1024, help="side length of the results in px")
    parser.add_argument("--no-cluster", action="store_true", help="leave out the overhead of a cluster")
    parser.add_argument("--serve", nargs=2, metavar=("ADDRESS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(*options.serve))
        return
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f} running processes", flush=True)
    with new_folder(options.out, keep=options.keep) as folder:
        rows = builds(folder, options.photos, options.resolution)
        if not options.no_cluster:
            rows += cluster_overhead(folder)
        print(f"load after: {os.getloadavg()[0]:.1f} running processes")
        finish(rows)


@contextlib.contextmanager
def new_folder(out: Path | None, *, keep: bool) -> Iterator[Path]:
    """Make the folder of all files; delete it at the end."""
    if out is not None and out.exists():
        sys.exit(f"--out {out} exists; expected the name of a new folder, which is deleted at the end")
    if out is not None:
        out.mkdir(parents=True)
    folder = (out or Path(tempfile.mkdtemp(prefix="scale-"))).resolve()
    try:
        yield folder
    finally:
        if keep:
            print(f"files: {folder}")
        else:
            shutil.rmtree(folder)


# --- Photos -----------------------------------------------------------------------------------------------------


def make_celeba(root: Path, photos: int) -> None:
    """Write a folder in CelebA's layout: hard links to copies of the sample's photos, and its rows again and again."""
    shutil.copytree(SAMPLE / "img_celeba", root / "of_sample")
    (root / "img_celeba").mkdir()
    names = [file_name(index) for index in range(photos)]
    for index, name in enumerate(names):
        os.link(root / "of_sample" / original(index), root / "img_celeba" / name)
    tables = {"Anno/list_landmarks_celeba.txt": 2, "Anno/list_attr_celeba.txt": 2, "Eval/list_eval_partition.txt": 0}
    for table, heading in tables.items():
        lines = (SAMPLE / table).read_text().splitlines()
        head, rows = (
            [str(photos), *lines[1:heading]][:heading],
            dict(line.split(maxsplit=1) for line in lines[heading:]),
        )
        text = [*head, *(f"{name} {rows[original(index)]}" for index, name in enumerate(names))]
        (root / table).parent.mkdir(exist_ok=True)
        (root / table).write_text("\n".join(text) + "\n")


def file_name(index: int) -> str:
    """Return CelebA's name of a photo, by position from 0."""
    return f"{index + 1:06d}.jpg"


def original(index: int) -> str:
    """Return the photo of the sample that a photo is a link to, by position from 0."""
    return file_name(index % SAMPLE_PHOTOS)


# --- Builds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A finished command."""

    seconds: float
    processor_s: float
    """Processor time, with that of its child processes."""
    peak_bytes: int
    """Largest resident memory."""


def builds(folder: Path, photos: int, resolution: int) -> list[Row]:
    """Measure all commands that need no cluster."""
    root, work = folder / "celeba", folder / "run"
    made, _ = timed(f"links to {photos} photos", lambda: make_celeba(root, photos))
    dry = measured(["--celeba-root", root, "--out", work, "--dry-run"], folder / "dry-run.log")
    rows = [
        Row(f"{photos} photos, dry run", dry.seconds, "s", at_most=DRY_RUN_S),
        Row(f"{photos} photos, dry run: processor time", dry.processor_s, "s"),
        Row(f"{photos} photos, dry run: peak memory", dry.peak_bytes / 1e6, "MB", at_most=DRY_RUN_MB),
    ]
    planned, finished = first_batch(root, folder / "first")
    rows += [
        Row(f"start until the batches are planned, {FIRST_BATCH_PX}x{FIRST_BATCH_PX}", planned, "s"),
        Row(f"start until the first batch is finished, {FIRST_BATCH_WORKERS} workers", finished, "s"),
    ]
    sample = folder / "sample-run"
    build = ["--resolution", resolution, "--until", "score"]
    timed(
        "build of the sample",
        lambda: measured(["--celeba-root", SAMPLE, "--out", sample, *build], folder / "sample.log"),
    )
    wrote, _ = timed("manifests", lambda: finish_photo_stages(root, work, sample, resolution))
    build[-1] = "select"
    select = measured(["--celeba-root", root, "--out", work, *build], folder / "select.log")
    summary = json.loads((work / "summary.json").read_text())
    accounted = summary["kept"] + summary["rejected"] + summary["failed"]
    return [
        *rows,
        Row("reconcile, select, report", select.seconds, "s", at_most=SELECT_S),
        Row("reconcile, select, report: processor time", select.processor_s, "s"),
        Row("reconcile, select, report: peak memory", select.peak_bytes / 1e6, "MB", at_most=SELECT_MB),
        Row("  kept + rejected + failed", accounted, "photos", photos, photos),
        Row("  selected", summary["kept"], "photos"),
        Row("making the links / the manifests, not part of a build", made + wrote, "s"),
    ]


def timed(what: str, make: Callable[[], object]) -> tuple[float, object]:
    """Call a function; return the seconds that it took and its result."""
    began = time.perf_counter()
    result = make()
    took = time.perf_counter() - began
    print(f"{what}: {took:.1f} s", file=sys.stderr, flush=True)
    return took, result


def start(arguments: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
    """Start ``celebahq build``, with its output in a file."""
    with log.open("wb") as file:
        command = [sys.executable, ROOT / "build.py", *arguments]
        return subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def measured(arguments: Sequence[object], log: Path) -> Measured:
    """Run ``celebahq build`` to its end; exit where it fails."""
    began, peak_bytes = time.perf_counter(), 0
    process = start(arguments, log)
    before = os.times()
    while process.poll() is None:
        peak_bytes = max(peak_bytes, peak_memory_bytes(process.pid))
        time.sleep(POLL_S)
    took, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    if process.returncode:
        sys.exit(f"celebahq build {' '.join(map(str, arguments))} failed:\n{log.read_text()[-2000:]}")
    return Measured(took, used, peak_bytes)


def peak_memory_bytes(pid: int) -> int:
    """Return the peak memory of a running process; 0 once it has ended."""
    # Not getrusage, which counts what the parent process held.
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return 0


def first_batch(root: Path, work: Path) -> tuple[float, float]:
    """Return the seconds from the start of a build until its batches are planned, and until the first is finished."""
    began, planned = time.perf_counter(), None
    options = ["--resolution", FIRST_BATCH_PX, "--workers", FIRST_BATCH_WORKERS, "--until", "score"]
    log = work.with_suffix(".log")
    process = start(["--celeba-root", root, "--out", work, *options], log)
    try:
        while not any(work.glob("stages/score/batches/*.jsonl")):
            if planned is None and (work / "timings.jsonl").exists():
                planned = time.perf_counter() - began
            if process.poll():
                sys.exit(f"celebahq build failed:\n{log.read_text()[-2000:]}")
            time.sleep(POLL_S)
        finished = time.perf_counter() - began
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)  # a shell may start background jobs without SIGINT
        process.wait()
    return planned or finished, finished


def finish_photo_stages(root: Path, work: Path, sample: Path, resolution: int) -> None:
    """Write the files that a build's photo stages leave before they are marked complete.

    Args:
        root: of the photos.
        work: run directory to write.
        sample: run directory of the sample, whose outcomes are used.
        resolution: side length of the results in px.
    """
    done = Workspace(sample)
    source = read_celeba(root)
    request = make_request(source, work, recipe=DEFAULT_RECIPE, resolution=resolution, until="select")
    plan = BuildPlan(request, request.workspace.read_state())
    size, photos = plan.batch_photos, [*enumerate(source.photos)]
    batches = [(number, photos[number * size : (number + 1) * size]) for number in range(plan.batches)]
    with request.workspace.lock(), ThreadPoolExecutor(16) as threads:  # they wait for the disk
        write_json(request.workspace.run_path, asdict(plan.description()))
        for stage in plan.stored_photo_stages:
            folder, before = request.workspace.stage(stage.name), done.stage(stage.name)
            folder.begin(plan.ingredients[stage.name])
            found = {one.photo: one for _, one in before.outcomes()}
            for _ in threads.map(partial(write_batch, folder, before.root, found), batches):
                pass
    shutil.copytree(done.report_path.parent / "examples", request.workspace.report_path.parent / "examples")


def write_batch(
    folder: StageFolder, images: Path, found: dict[str, Outcome], batch: tuple[int, list[tuple[int, Photo]]]
) -> None:
    """Write a manifest, and link the images that it names.

    Args:
        folder: of the stage.
        images: folder of the sample's stage, whose images are linked.
        found: outcomes of the sample's photos at this stage, by file.
        batch: number, and photos with their positions.
    """
    number, photos = batch
    outcomes = []
    for index, photo in photos:
        one = found.get(original(index))
        if one is None:  # a stage before has rejected it
            continue
        own = outcome_of(one, photo, index)
        if isinstance(own, Kept) and isinstance(image := own.record.get("image"), dict):
            path = folder.image_path(number, photo.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(images / str(image["path"]), path)
            image = {**image, "path": path.relative_to(folder.root).as_posix()}
            own = replace(own, record={**own.record, "image": image})
        outcomes.append(own)
    folder.write_manifest(number, outcomes)


def outcome_of(one: Outcome, photo: Photo, index: int) -> Outcome:
    """Return an outcome as that of another photo."""
    if not isinstance(one, Kept):
        return replace(one, photo=photo.file)
    return Kept(photo.file, {**one.record, "identity": asdict(Identity.of(photo, index))})


# --- Cluster ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SleepJob:
    """A batch that computes nothing."""

    number: int
    content: tuple[Outcome, ...]
    """Outcomes of a batch, which travel with the job and with its result."""


@dataclass(frozen=True)
class SleepResult:
    """Result of a `SleepJob`; times in s since 1970."""

    worker: str
    began_s: float
    ended_s: float
    content: tuple[Outcome, ...]


def sleep(job: SleepJob) -> SleepResult:
    """Sleep in a worker."""
    from distributed import get_worker

    began = time.time()
    time.sleep(SLEEP_S)
    return SleepResult(get_worker().address, began, time.time(), job.content)


def no_facts() -> dict[str, str]:
    """Return nothing: the workers are this machine's."""
    return {}


def cluster_overhead(folder: Path) -> list[Row]:
    """Measure the time between the jobs of a cluster."""
    content = tuple(Workspace(folder / "sample-run").stage("align").read_manifest(0))
    content = (content * 16)[:16]
    parts = Parts[SleepJob, SleepResult](
        name=lambda job: f"job {job.number}",
        split=lambda job: [job],
        fail=lambda job, _: SleepResult("", 0.0, 0.0, job.content),
        join=lambda _, results: results[0],
    )
    count = PROCESSES * WORKERS_PER_PROCESS
    with simulated_workers(folder) as address:
        with Cluster(address) as connected:
            connected.client.wait_for_workers(count, timeout=120)
        jobs = (SleepJob(number, content) for number in range(JOBS))
        began = time.perf_counter()
        results = list(run_jobs(address, sleep, jobs, facts=no_facts, expected={}, parts=parts))
        took = time.perf_counter() - began
    assert len(results) == JOBS
    overhead = took * count / JOBS - SLEEP_S
    times: dict[str, list[SleepResult]] = {}
    for one in sorted(results, key=lambda one: one.began_s):
        times.setdefault(one.worker, []).append(one)
    gaps = [two.began_s - one.ended_s for own in times.values() for one, two in pairwise(own)]
    started = [own[0].began_s for own in times.values()]
    what = f"cluster, {count} workers, {JOBS} jobs of {SLEEP_S:g} s"
    return [
        Row(what, took, "s"),
        Row("  workers that had jobs", len(times), "workers", count),
        Row("  first until last worker has its first job", max(started) - min(started), "s"),
        Row("  between two jobs of a worker, mean", sum(gaps) / len(gaps), "s"),
        Row("  between two jobs of a worker, longest", max(gaps), "s"),
        Row("  overhead per batch, start included", overhead, "s"),
        Row(f"  of {BATCH_S:g} s, a batch's time", overhead / BATCH_S * 100, "%", at_most=OVERHEAD_PERCENT),
    ]


@contextlib.contextmanager
def simulated_workers(folder: Path) -> Iterator[str]:
    """Start a scheduler and workers; yield the address of the scheduler."""
    file, processes = folder / "scheduler.json", []
    listening = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard"]
    with (folder / "dask.log").open("wb") as log, contextlib.ExitStack() as ended:

        def begin(*command: object) -> None:
            process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=log, stderr=log)
            processes.append(process)
            ended.callback(process.wait)
            ended.callback(process.kill)

        begin("-m", "dask", "scheduler", *listening)
        address = ""
        while not address:
            if processes[0].poll() is not None:
                sys.exit(f"dask scheduler failed:\n{(folder / 'dask.log').read_text()[-2000:]}")
            with contextlib.suppress(OSError, ValueError):
                address = json.loads(file.read_text())["address"]
            time.sleep(POLL_S)
        for _ in range(PROCESSES):
            begin(Path(__file__).resolve(), "--serve", address, folder)
        yield address


async def serve(address: str, folder: str) -> None:
    """Run the workers of one process, until it is killed."""
    from distributed import Worker

    async with contextlib.AsyncExitStack() as opened:
        for _ in range(WORKERS_PER_PROCESS):
            own = Worker(address, nthreads=1, memory_limit=0, host="127.0.0.1", dashboard=False, local_directory=folder)
            await opened.enter_async_context(own)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
