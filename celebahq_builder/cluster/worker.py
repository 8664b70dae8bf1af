"""The side of a worker: it runs jobs, ends those that nobody waits for, and discards results that nobody took."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Facts = dict[str, str]
"""Properties of a process and its machine, by name, to be compared with those of another one."""


class JobCancelled(Exception):
    """Raised by `check_wanted` in a job whose result nobody waits for."""


_current = threading.local()
"""Job of a thread, for `check_wanted`."""


def check_wanted() -> None:
    """End the job of a worker if nobody waits for it any more; does nothing outside of a cluster.

    The client may have been interrupted or killed, or the scheduler is gone.

    Raises:
        JobCancelled: nobody does.
    """
    if hasattr(_current, "is_wanted") and not _current.is_wanted():
        raise JobCancelled


def check_worker(facts: Callable[[], Facts]) -> Facts:
    """Return the facts of a worker; a worker without this file raises an ImportError."""
    _discard_results()
    return facts()


_results: dict[str, Callable[[], None]] = {}
"""Function that discards the result of each job of this worker, by key of the job."""


def _discard_results() -> None:
    """Discard the results that no client holds any more: it has used them, or has ended before."""
    from distributed import get_worker

    held = get_worker().state.tasks
    for key in [key for key in _results if key not in held]:
        _results.pop(key)()


def run_job(function: Callable[[Job], Result], job: Job, discard: Callable[[Result], None] | None) -> Result:
    """Run a job in a worker."""
    from distributed import get_worker

    _discard_results()
    worker, key = get_worker(), get_worker().get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        is_connected = worker.status.name in ("running", "paused", "closing_gracefully")
        return is_connected and task is not None and task.state == "executing"

    _current.is_wanted = is_wanted
    try:
        result = function(job)
    finally:
        del _current.is_wanted
    if discard is not None:
        _results[key] = functools.partial(discard, result)
    return result
