"""The only file that knows how work is spread over processes and devices."""

from __future__ import annotations

import functools
import os
import re
import resource
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from celebahq_builder.errors import RecipeError, WorkspaceError

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD_JOBS = 3
"""Jobs per worker that are read and done ahead of a slow reader, where order matters."""

ONE_THREAD = {
    f"{library}_{what}": "1"
    for what, libraries in {
        "NUM_THREADS": ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR"),
        "MAXIMUM_THREADS": ("VECLIB",),
    }.items()
    for library in libraries
}
"""Environment of a worker: threads per worker are fixed, for the sums of a convolution depend on how it is split."""

ORPHAN_CHECK_S = 0.3
"""How often a worker looks whether its owner is still there; less than a new run takes to start."""


def run(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, ordered: bool = False
) -> Iterator[Result]:
    """Yield the results of a function for some jobs, computed by `workers` processes.

    Args:
        function: importable by name; takes and returns small, picklable values.
        jobs: read lazily, two per worker ahead.
        workers: 1 runs in this process.
        ordered: yield in the order of the jobs, not of their completion; reads `AHEAD_JOBS` per worker ahead, in the
            thread of the reader.

    Raises:
        WorkspaceError: a worker was killed from outside.
        Exception: whatever `function` raises, as soon as it does.
    """
    if workers == 1:
        yield from map(function, jobs)
    elif ordered:
        yield from _in_order(function, jobs, workers)
    else:
        yield from _as_they_come(function, jobs, workers)


def _in_order(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    # joblib reads on while results wait for a slow reader; here a job is read only when a result is taken.
    pool = ProcessPoolExecutor(workers, env=ONE_THREAD)
    waiting: deque[Future[Result]] = deque()
    ended = False
    try:
        for job in jobs:
            waiting.append(pool.submit(_owned, function, os.getpid(), job))
            if len(waiting) == AHEAD_JOBS * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        ended = True
    except BrokenProcessPool as error:
        raise _killed(error) from None
    finally:
        pool.shutdown(wait=True, kill_workers=not ended)


def _as_they_come(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        results = pool(joblib.delayed(_owned)(function, os.getpid(), job) for job in jobs)
        try:
            yield from results
        except BrokenProcessPool as error:
            raise _killed(error) from None
        finally:
            with (
                warnings.catch_warnings()
            ):  # of results that nobody fetched: the reader stopped for a reason of its own
                warnings.simplefilter("ignore")
                results.close()


def _killed(error: BrokenProcessPool) -> WorkspaceError:
    return WorkspaceError(
        f"a worker process was killed from outside, most likely for want of memory ({type(error).__name__}); "
        "run the same command again with fewer --workers, it goes on from here"
    )


def _owned(function: Callable[[Job], Result], owner: int, job: Job) -> Result:
    """Do a job for the process `owner`, and not a moment longer than it lives."""
    _watch(owner)
    return function(job)


@functools.cache
def _watch(owner: int) -> None:
    """End this worker when its owner is gone: an orphan would write into a directory that nobody holds."""

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
