"""The only file that knows how work is spread over processes and devices."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import resource
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker as mp_resource_tracker
from typing import TypeVar

import joblib
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool

from celebahq_builder.errors import RecipeError, WorkspaceError

Job = TypeVar("Job")
Result = TypeVar("Result")

PORTION_JOBS = 4
"""Jobs per worker whose results may wait for the reader at once, where order matters."""

AHEAD_JOBS = 3
"""Jobs per thread that are read and done ahead of a slow reader."""

ORPHAN_CHECK_S = 0.3
"""How often a worker looks whether its owner is still there; less than a new run takes to start."""


def run(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, ordered: bool = False
) -> Generator[Result, None, None]:
    """Yield the results of a function for some jobs, computed by `workers` processes; `close` ends them.

    Args:
        function: importable by name; takes and returns small, picklable values.
        jobs: read lazily, two per worker ahead.
        workers: 1 runs in this process.
        ordered: yield in the order of the jobs, not of their completion.

    Raises:
        WorkspaceError: a worker was killed from outside.
        Exception: whatever `function` raises, as soon as it does.
    """
    if workers == 1:
        yield from map(function, jobs)
    elif ordered:
        # joblib reads on while results wait for a slow reader; portions bound what can pile up.
        for portion in _portions(jobs, workers):
            yield from _pool(function, portion, workers, "generator")
    else:
        yield from _pool(function, jobs, workers, "generator_unordered")


def _portions(jobs: Iterable[Job], workers: int) -> Iterator[list[Job]]:
    iterator = iter(jobs)
    while portion := list(itertools.islice(iterator, PORTION_JOBS * workers)):
        yield portion


def _pool(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, how: str) -> Iterator[Result]:
    # Threads per worker are fixed, not cores by workers: the sums of a convolution depend on how it is split.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=workers, return_as=how, batch_size=1, pre_dispatch="2*n_jobs")
        with _unreached_by_ctrl_c():
            results = pool(joblib.delayed(_owned)(function, os.getpid(), job) for job in jobs)
        try:
            yield from results
        except BrokenProcessPool as error:
            raise WorkspaceError(
                f"a worker process was killed from outside, most likely for want of memory ({type(error).__name__}); "
                "run the same command again with fewer --workers, it goes on from here"
            ) from None
        finally:
            with (
                warnings.catch_warnings()
            ):  # of results that nobody fetched: the reader stopped for a reason of its own
                warnings.simplefilter("ignore")
                results.close()


@contextlib.contextmanager
def _unreached_by_ctrl_c() -> Iterator[None]:
    """Let the processes that are started now never see SIGINT, which a terminal sends to all of them at once.

    Their owner sees it and ends them; each would print a traceback of its own otherwise. What comes while they are
    started is not lost: it is blocked, not ignored, and reaches the owner afterwards.
    """
    _start_trackers()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_trackers() -> None:
    """Start the processes that clean up what a process which ends at once has left in the system.

    Not later, with the first worker, because they unblock SIGINT whether it was blocked or not; and so that they do
    their duty without a warning about it.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        for tracker in (mp_resource_tracker, resource_tracker):
            tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def run_threads(function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int) -> Iterator[Result]:
    """Yield the results of a function for some jobs, in their order, computed by threads of this process.

    For what spends its time in compiled code that lets go of Python's lock, and whose results are too large to be sent
    from one process to another: a pipe takes them in pieces of 64 KB, each of which waits for both sides to wake up.

    Args:
        function: of a job; may be called by several threads at once.
        jobs: read by the reader's thread, and `AHEAD_JOBS` per worker ahead of it at most.
        workers: 1 runs in the reader's thread.

    Raises:
        Exception: whatever `function` raises for a job, in place of its result.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) == AHEAD_JOBS * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _owned(function: Callable[[Job], Result], owner: int, job: Job) -> Result:
    """Do a job for the process `owner`, and not a moment longer than it lives."""
    _watch(owner)
    return function(job)


@functools.cache
def _watch(owner: int) -> None:
    """End this worker when its owner is gone: an orphan would only compete for the machine with the next run."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def devices(wanted: str) -> tuple[str, ...]:
    """Turn ``--device`` into device names: ``auto`` is every CUDA device, or the CPU where there is none.

    Raises:
        RecipeError: a device that torch does not know or this machine does not have.
    """
    import torch

    count = torch.cuda.device_count()
    if wanted == "auto":
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    names = tuple("cuda:0" if name.strip() == "cuda" else name.strip() for name in wanted.split(","))
    for name in names:
        match = re.fullmatch(r"cpu|cuda:(\d+)", name)
        if not match:
            raise RecipeError(f"--device {wanted}: {name} is not a device; give auto, cpu, cuda or cuda:0,cuda:1")
        if match[1] and int(match[1]) >= count:
            raise RecipeError(f"--device {wanted}: torch sees {count} CUDA devices here; give --device cpu")
    return names
