"""Work in processes and threads, and the devices of this machine; the only file that imports joblib."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker as mp_resource_tracker
from pathlib import Path
from typing import TypeVar

import joblib
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool

from celebahq_builder.errors import RecipeError, WorkspaceError

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD_JOBS = 3
"""Jobs per thread that are computed ahead of a slow reader."""

ORPHAN_CHECK_S = 0.3
"""Interval at which a worker checks that its main process is alive; shorter than the start of a new run."""


def run(function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int) -> Generator[Result, None, None]:
    """Yield the results of a function for each job, in the order of completion; `close` ends the worker processes.

    Args:
        function: importable by name; takes and returns small picklable values.
        jobs: read lazily, two per worker in advance.
        workers: number of processes; 1 runs in this process.

    Raises:
        WorkspaceError: a worker process was killed.
        Exception: any exception of `function`, as soon as it is raised.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    # joblib replaces a worker that stopped after idle time or whose memory grew, and warns in the thread that manages
    # the workers. Where warnings are errors, the thread would end, and this process would wait forever.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    # One thread per worker: the last bits of a convolution depend on how it is split over threads.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        with _interruption_blocked():
            results = pool(joblib.delayed(_owned)(function, os.getpid(), job) for job in jobs)
        try:
            # A chain, because `yield from` would close joblib's own generator before its warnings are ignored.
            yield from itertools.chain(results)
        except BrokenProcessPool as error:
            raise WorkspaceError(
                f"a worker process was killed, most likely because memory ran out ({type(error).__name__}); "
                "run the same command again with a smaller `workers` to resume"
            ) from None
        finally:
            with warnings.catch_warnings():  # about results that nobody reads, if the reader stopped early
                warnings.simplefilter("ignore")
                results.close()


@contextlib.contextmanager
def _interruption_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM while worker processes start, so that they inherit the blocked signals.

    A terminal sends Ctrl-C to all processes, and so do some service managers with SIGTERM. Only the main process
    handles them, and it ends the workers. A signal that arrives while they start is delivered to it afterwards.
    """
    _start_trackers()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_trackers() -> None:
    """Start the resource trackers of multiprocessing and loky before SIGINT is blocked.

    They would otherwise start with the first worker and unblock SIGINT. They must not print warnings at the end of a
    process that is killed.
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


def run_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int, ahead: int | None = None
) -> Iterator[Result]:
    """Yield the results of a function for each job, in order, computed by threads.

    Use it for compiled code that releases the GIL and whose results are too large to send through a pipe.

    Args:
        function: called by several threads at once.
        jobs: read by the thread that iterates.
        workers: number of threads.
        ahead: jobs in progress or finished while the reader works on a result; 0 runs in the thread that iterates.
            None for `AHEAD_JOBS` per thread, or 0 with one worker.

    Raises:
        Exception: any exception of `function`, in place of the result.
    """
    if ahead is None:
        ahead = 0 if workers == 1 else AHEAD_JOBS * workers
    if not ahead:
        yield from map(function, jobs)
        return
    remaining = iter(jobs)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(function, job) for job in itertools.islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, job) for job in itertools.islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _owned(function: Callable[[Job], Result], owner: int, job: Job) -> Result:
    """Run a job; end this worker when the main process `owner` ends."""
    _watch(owner)
    return function(job)


@functools.cache
def _watch(owner: int) -> None:
    """Start a thread that ends this worker when its main process is gone: it would compete with the next run."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process."""
    with contextlib.suppress(OSError, StopIteration):  # of Linux; `getrusage` counts the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Return the number of cores that this process may use: its affinity and the limits of its control group count."""
    count: int = joblib.cpu_count()
    return count


def device_names(wanted: str) -> tuple[str, ...]:
    """Return the device names that a text lists, ``auto`` among them; imports no torch.

    Raises:
        RecipeError: a name is not that of a device.
    """
    names = tuple("cuda:0" if name.strip() == "cuda" else name.strip() for name in wanted.split(","))
    for name in names if wanted != "auto" else ():
        if not re.fullmatch(r"cpu|cuda:[0-9]+", name):
            raise RecipeError(f"`device` {name} is not a device; expected auto, cpu, cuda or cuda:0,cuda:1")
    return names


def devices(wanted: str) -> tuple[str, ...]:
    """Return device names: ``auto`` stands for all CUDA devices, or the CPU if there is none.

    Raises:
        RecipeError: the name is not a device, or the machine does not have it.
    """
    names = device_names(wanted)
    import torch

    count = torch.cuda.device_count()
    if wanted == "auto":
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    for name in names:
        if name != "cpu" and int(name.removeprefix("cuda:")) >= count:
            raise RecipeError(f"`device` {wanted}: torch finds {count} CUDA devices on this machine; use cpu")
    return names


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies in bf16: it has AVX512-BF16 or AMX. False if that cannot be found out."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.2
        found = {name for name, value in torch.cpu.get_capabilities().items() if value}
    else:
        try:
            found = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
        except OSError:
            return False
    return not found.isdisjoint({"avx512_bf16", "amx_bf16"})


def worker_device(names: Sequence[str], token: str) -> str:
    """Return the device of this process among those of a run: the same one for the life of the process.

    The processes of a run on one machine are spread evenly over the devices. A process that replaces one that has ended
    gets its device.

    Args:
        names: of the devices, the same for all processes of the run.
        token: of the run.
    """
    return names[_slot(token) % len(names)] if len(names) > 1 else names[0]


@functools.cache
def _slot(token: str) -> int:
    """Return the smallest number that no other process of this machine holds under a token, and hold it."""
    for number in itertools.count():
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0celebahq-{token}-{number}")  # Linux: a name without a file, which ends with its process
        except OSError as error:
            held.close()
            if error.errno == errno.EADDRINUSE:
                continue
            return os.getpid()  # a system without such names; none of these has several GPUs
        held.detach()  # stays open for as long as the process lives
        return number
    raise AssertionError


def workers_on(names: Sequence[str], worker_bytes: int) -> int:
    """Return the default number of worker processes on devices: one per core, and on GPUs no more than they can hold.

    Args:
        names: see `devices`.
        worker_bytes: memory of a GPU that a worker needs.
    """
    import torch

    gpus = [name for name in names if name != "cpu"]
    # Workers are spread evenly, so the GPU with the least memory counts.
    rooms = [torch.cuda.get_device_properties(name).total_memory // worker_bytes for name in gpus]
    return min([cores(), *(len(names) * max(room, 1) for room in rooms)])
