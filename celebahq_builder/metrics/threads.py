"""Arithmetic spread over threads, with the same result for any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from celebahq_builder.parallel import run_threads

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(function: Callable[[Job], Result], jobs: Iterable[Job], device: torch.device) -> Iterator[Result]:
    """Yield the results of a function for some jobs, in their order.

    On a CPU as many threads are at work as torch has, and each job has one: how torch splits a sum over several
    decides its last bits. Elsewhere the jobs come one after the other.

    Args:
        function: of a job; must not depend on the order of jobs.
        jobs: none of which is found out by a calculation of torch's: until the last is done, torch has one thread.
        device: that the function computes on.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    if workers == 1:
        yield from map(function, jobs)
        return
    torch.set_num_threads(1)
    try:
        yield from run_threads(function, jobs, workers=workers)
    finally:
        torch.set_num_threads(workers)
