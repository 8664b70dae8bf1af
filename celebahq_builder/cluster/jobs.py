"""Jobs on the workers of a Dask cluster.

Scheduler and workers run already. While there are jobs, the main process asks the scheduler every second for its
workers, checks those that are new, and gives each suitable one two jobs, of which it runs one. The jobs of a worker
that is gone are given to another one. Dask would do that, too, but it does not report which job was running when a
worker died, and it gives up a job in the end.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celebahq_builder.cluster.connection import Cluster
from celebahq_builder.cluster.worker import Facts, JobCancelled, check_worker, run_job
from celebahq_builder.errors import ClusterError, first_line
from celebahq_builder.progress import Progress

if TYPE_CHECKING:
    from distributed import Future

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_PER_WORKER = 2
"""Jobs that a worker has at once; it runs one of them."""

KILLS_MAX = 3
"""Workers that may die while they run a job; then its parts are tried one by one."""

POLL_S = 1.0
"""Interval at which the scheduler is asked for its workers."""

ANSWER_S = 30.0
"""Longest time in which a scheduler must answer a call; it may be busy."""

GATHER_S = 10.0
"""Longest time in which a result must arrive; otherwise it is lost, because its worker died after the job."""

LOST = (OSError, TimeoutError, CancelledError)
"""Errors of a result that cannot arrive any more."""


@dataclass(frozen=True)
class Parts(Generic[Job, Result]):
    """Functions that divide a job, in order to find the part that kills its worker."""

    name: Callable[[Job], str]
    """Returns the name of a job or a part for messages, such as "batch 12"."""
    split: Callable[[Job], Sequence[Job]]
    """Returns a job for each part."""
    fail: Callable[[Job, str], Result]
    """Returns the result of a part that has killed its worker; the text is the reason."""
    join: Callable[[Job, Sequence[Result]], Result]
    """Returns the result of a job from those of its parts, which may come in any order."""


def run_jobs(
    target: str,
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    facts: Callable[[], Facts],
    expected: Facts,
    parts: Parts[Job, Result],
    progress: Progress | None = None,
    discard: Callable[[Result], None] | None = None,
) -> Generator[Result, None, None]:
    """Yield the results of a function for each job, in order of completion; `close` ends the jobs.

    Args:
        target: see `Cluster`.
        function: importable by name; takes and returns small picklable values.
        jobs: read lazily, two per worker.
        facts: importable by name; called in each worker before its first job.
        expected: return value of `facts` in a worker that can be used.
        parts: used for a job during which `KILLS_MAX` workers died.
        progress: shows the number of workers.
        discard: importable by name; called in a worker with a result once this process has asked for the next one, or
            has ended: it deletes files that nobody has taken.

    Raises:
        ClusterError: no scheduler answers, it is gone, or none of the first workers can be used.
        RecipeError: `target` or distributed cannot be used.
        Exception: any exception of `function`, as soon as it is raised.
    """
    with Cluster(target) as connected:
        dashboard = connected.dashboard
        log.info("cluster: scheduler %s%s", connected.address, f", dashboard {dashboard}" if dashboard else "")
        running = _Run(connected, function, iter(jobs), facts, expected, parts, discard)
        for result in running.results():
            if progress is not None:
                progress.workers = len(running.workers)
            yield result


# --- One run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A call that is made where its pickle is loaded.

    So the scheduler needs no more than Python, and a worker without this package raises an ImportError. Dask ends a
    worker that cannot import a function, without a message to the client.
    """

    function: Callable[..., object]
    arguments: tuple[object, ...]

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@dataclass(eq=False)
class _Task:
    """A job, or a part of one, that has no result yet."""

    job: object
    whole: _Divided | None = None
    """The job that this is a part of."""
    kills: int = 0
    """Workers that died while they ran it."""


@dataclass(eq=False)
class _Divided:
    """A job whose parts are tried one by one."""

    job: object
    parts: int
    results: list[object] = field(default_factory=list)


@dataclass
class _Run:
    cluster: Cluster
    function: Callable[..., object]
    jobs: Iterator[object]
    facts: Callable[[], Facts]
    expected: Facts
    parts: Parts[Any, Any]
    discard: Callable[..., object] | None = None

    def __post_init__(self) -> None:
        self.has_more = True
        """True until `jobs` is exhausted."""
        self.waiting: deque[_Task] = deque()
        """Tasks that have lost their worker."""
        self.probes: dict[Future, str] = {}
        """Workers that are being checked, by future."""
        self.workers: dict[str, dict[Future, _Task]] = {}
        """Tasks of each worker by future, in the order in which it runs them."""
        self.refused: dict[str, str] = {}
        """Message about each worker that cannot be used."""
        self.reported: set[str] = set()
        """Workers whose message was printed."""
        self.taken: list[Future] = []
        """Futures whose results are ready, or were yielded last."""
        self.ready: deque[object] = deque()
        """Results to be yielded."""
        self.ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        """Futures that have a result or an error, or that were lost."""
        self.finished: set[str] = set()
        """Keys of futures that have, or had, a result."""
        self.numbers = itertools.count()
        self.polled_s = -POLL_S
        self.divided = 0
        """Jobs whose parts are being tried."""
        self.had_worker = self.is_waiting = False

    def results(self) -> Iterator[Any]:
        """Yield the results of all jobs."""
        while self.has_more or self.waiting or any(self.workers.values()):
            if time.monotonic() - self.polled_s >= POLL_S:
                self.poll()
            self.send()
            with contextlib.suppress(queue.Empty):
                self.take(self.ended.get(timeout=0 if self.ready else POLL_S))
            while self.ready:
                yield self.ready.popleft()
            if not self.divided:
                for future in self.taken:  # only now, see `discard` of `run_jobs`
                    future.release()
                self.taken = []

    # --- Workers ---

    def poll(self) -> None:
        """Compare the workers of the scheduler with those known.

        Raises:
            ClusterError: the scheduler does not answer, or no worker can be used.
        """
        threads = self.cluster.ask(lambda: self.cluster.client.nthreads(callback_timeout=ANSWER_S))
        self.polled_s = time.monotonic()
        known = self.workers.keys() | self.refused.keys() | set(self.probes.values())
        for worker in sorted(threads.keys() - known):
            if threads[worker] == 1:
                self.probes[self.submit(worker, check_worker, self.facts)] = worker
            else:
                self.refuse(worker, f"threads: {threads[worker]} there, 1 here; start it with --nthreads 1")
        for worker in sorted(known - threads.keys()):
            self.forget(worker)
        usable = bool(self.workers or self.probes)
        is_hopeless = bool(self.refused) and not self.had_worker and not usable
        new = sorted(self.refused.keys() - self.reported)
        self.reported.update(new)
        for worker in new[:-1] if is_hopeless else new:
            log.warning("warning: %s", self.refused[worker])
        if is_hopeless:
            raise ClusterError(self.refused[new[-1] if new else min(self.refused)])
        if not usable and not self.is_waiting:
            log.info("waiting for workers: dask worker %s --nthreads 1", self.cluster.address)
        self.is_waiting = not usable

    def check_facts(self, worker: str, probe: Future) -> None:
        """Give jobs to a worker from now on if its facts are as expected."""
        if (error := _error_of(probe)) is not None:
            self.refuse(worker, f"it cannot run this program ({first_line(error)}); install the same version there")
            return
        facts: Facts = probe.result(timeout=GATHER_S)
        there = {name: facts.get(name, "unknown") for name in self.expected}
        differences = [
            f"{name}: {there[name]} there, {here} here" for name, here in self.expected.items() if there[name] != here
        ]
        if differences:
            self.refuse(worker, "; ".join(differences))
        else:
            self.workers[worker] = {}
            self.had_worker = True

    def refuse(self, worker: str, why: str) -> None:
        """Give no jobs to a worker."""
        self.refused[worker] = f"worker {worker} gets no work: {why}"

    def forget(self, worker: str) -> None:
        """Take back the jobs of a worker that is gone."""
        self.refused.pop(worker, None)
        for probe in [one for one, where in self.probes.items() if where == worker]:
            del self.probes[probe]
            probe.release()
        tasks = self.workers.pop(worker, {})
        running = next((future for future in tasks if future.key not in self.finished), None)
        if running is not None and not self.has_left(worker):
            tasks[running].kills += 1
            log.warning("warning: worker %s is gone; others repeat its work", worker)
        for future, task in reversed(tasks.items()):
            future.release()
            self.repeat(task)

    def has_left(self, worker: str) -> bool:
        """Return whether a worker that is gone had announced it, as at the end of its ``--lifetime``."""
        events = self.cluster.ask(lambda: self.cluster.client.get_events(worker))
        return any(isinstance(event, Mapping) and event.get("expected") is True for _, event in events)

    # --- Jobs ---

    def submit(self, worker: str, function: Callable[..., object], *arguments: object) -> Future:
        """Return the future of a function that runs on a worker; such functions run in the order of submission."""
        future = self.cluster.client.submit(
            pickle.loads,
            pickle.dumps(_Call(function, arguments)),
            key=f"celebahq-{uuid.uuid4().hex}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            priority=-next(self.numbers),
        )
        future.add_done_callback(self.end)
        return future

    def end(self, future: Future) -> None:
        """Put a future into `ended`; called by a thread of Dask."""
        if future.status == "finished":
            self.finished.add(future.key)
        self.ended.put(future)

    def send(self) -> None:
        """Give jobs to workers that have fewer than two.

        A part of a divided job is alone on its worker, so that it is certain what has killed the worker.
        """
        for _ in range(JOBS_PER_WORKER):
            for worker, tasks in sorted(self.workers.items(), key=lambda one: len(one[1])):
                if len(tasks) >= JOBS_PER_WORKER or any(task.whole for task in tasks.values()):
                    continue
                if self.waiting and self.waiting[0].whole and tasks:
                    return  # until a worker is free
                if self.waiting:
                    task = self.waiting.popleft()
                elif (job := next(self.jobs, None)) is not None:
                    task = _Task(job)
                else:
                    self.has_more = False
                    return
                tasks[self.submit(worker, run_job, self.function, task.job, self.discard)] = task

    def take(self, future: Future) -> None:
        """Take a future that has ended: a check of a worker, or a job."""
        if future in self.probes:
            worker = self.probes.pop(future)
            if not _is_lost(future):
                with contextlib.suppress(*LOST):
                    self.check_facts(worker, future)
            future.release()
            return
        tasks = next((tasks for tasks in self.workers.values() if future in tasks), None)
        if tasks is None:  # its worker is gone, and another one has the job
            return
        task = tasks[future]
        if not _is_lost(future):
            if (error := _error_of(future)) is not None:
                raise error
            with contextlib.suppress(*LOST):
                self.finish(task, future.result(timeout=GATHER_S))
                del tasks[future]
                self.taken.append(future)
                return
        elif _gave_up(future):
            task.kills += 1
        del tasks[future]
        future.release()
        self.repeat(task)

    def finish(self, task: _Task, result: object) -> None:
        """Take the result of a task."""
        if task.whole is None:
            self.ready.append(result)
            return
        task.whole.results.append(result)
        if len(task.whole.results) == task.whole.parts:
            self.divided -= 1
            self.ready.append(self.parts.join(task.whole.job, task.whole.results))

    def repeat(self, task: _Task) -> None:
        """Repeat a task that has lost its worker; divide it, or give it up, if it is the likely cause."""
        if task.whole is not None and task.kills:
            reason = f"{KILLS_MAX} worker processes died with its batch, and one with it alone"
            log.warning("warning: %s: %s", self.parts.name(task.job), reason)
            self.finish(task, self.parts.fail(task.job, reason))
        elif task.kills < KILLS_MAX:
            self.waiting.appendleft(task)
        else:
            found = self.parts.split(task.job)
            name = self.parts.name(task.job)
            log.warning("warning: %s: %d workers died with it; its images are tried one by one", name, task.kills)
            whole = _Divided(task.job, len(found))
            self.divided += 1
            self.waiting.extend(_Task(part, whole) for part in found)


def _is_lost(future: Future) -> bool:
    """Return whether a future has neither a result nor an exception of its function."""
    return future.status not in ("finished", "error") or _gave_up(future) or isinstance(_error_of(future), JobCancelled)


def _gave_up(future: Future) -> bool:
    """Return whether Dask has given up a job because workers died with it."""
    from distributed.scheduler import KilledWorker

    return isinstance(_error_of(future), KilledWorker)


def _error_of(future: Future) -> BaseException | None:
    return future.exception(timeout=GATHER_S) if future.status == "error" else None
