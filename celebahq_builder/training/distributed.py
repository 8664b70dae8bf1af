"""Processes and devices of a training: one process, or those that torchrun started."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from celebahq_builder import parallel
from celebahq_builder.errors import TrainingError, first_line
from celebahq_builder.training.interruption import TrainingInterrupted

POLL_S = 1.0
"""Time between two polls of a flag. A poll waits for all processes and for the device."""

TIMEOUT = timedelta(hours=2)
"""Longest wait of one process for another: the main process also computes metrics and writes files."""


@dataclass(frozen=True)
class DistributedContext:
    """Rank and device of this process, and the collective operations of all processes.

    All processes hold the same weights and draw disjoint parts of one minibatch, and their gradients are summed. So
    the number of processes changes the result by no more than rounding.
    """

    rank: int
    size: int
    """Number of processes."""
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for rank 0, which validates and writes."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return the indices of the images of a minibatch that belong to this process.

        >>> list(DistributedContext(1, 3, torch.device("cpu")).share(7))
        [1, 4]

        Raises:
            TrainingError: there are fewer images than processes.
        """
        if batch < self.size:
            raise TrainingError(f"a batch of {batch} cannot be shared by {self.size} processes; start at most {batch}")
        return range(self.rank, batch, self.size)

    def copy_to_device(self, values: Tensor) -> Tensor:
        """Return values of the CPU on the device; the host does not wait for the copy."""
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)

    def sum_gradients(self, net: nn.Module) -> None:
        """Replace each gradient of a network by its sum over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        with _report_lost_process():
            dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def maxima(self, *values: float) -> list[float]:
        """Return the largest of each value over all processes."""
        if self.size == 1:
            return [*values]
        maxima = torch.tensor(values, device=self.device)
        with _report_lost_process():
            dist.all_reduce(maxima, dist.ReduceOp.MAX)
            return maxima.tolist()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.maxima(float(flag))[0])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over all processes."""
        if self.size > 1:
            with _report_lost_process():
                dist.all_reduce(values)
        return values / self.size


SINGLE_PROCESS = DistributedContext(0, 1, torch.device("cpu"))
"""One process, on the CPU."""


class PolledFlag:
    """A flag that all processes read about once a second; in a single process, after each step.

    The processes agree on the number of steps between two polls, so all of them poll after the same step.
    """

    def __init__(self, context: DistributedContext) -> None:
        self.context, self.began_s = context, time.monotonic()
        self.steps, self.interval = 0, 1

    def any(self, flag: bool) -> bool:
        """Return whether the flag was set in any process at a poll, false between polls; to be called at each step."""
        if self.context.size == 1:
            return flag
        self.steps += 1
        if self.steps < self.interval:
            return False
        now_s = time.monotonic()
        step_s = (now_s - self.began_s) / self.steps
        self.steps, self.began_s = 0, now_s  # the time for which this poll waits counts for the next steps
        found, step_s = self.context.maxima(float(flag), step_s)
        # Twice the interval at most: the next steps may be slower.
        self.interval = max(1, min(2 * self.interval, int(POLL_S / max(step_s, 1e-6))))
        return bool(found)


def process_count() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process has rank 0, which prints and writes."""
    return process_count() == 1 or os.environ.get("RANK") == "0"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads inside the context; their number changes the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def join_processes(device: str) -> Iterator[DistributedContext]:
    """Connect the processes that torchrun started; without torchrun, yield a context of one process.

    The processes stay connected when the context ends, also after an interruption: gloo's threads sometimes abort a
    process that disconnects while another one does the same. `cli.main` ends such a process at once.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``. Under torchrun, the n-th process of a machine uses its n-th
            CUDA device.

    Raises:
        TrainingError: torchrun started more processes than there are CUDA devices, or another process ended.
    """
    names = parallel.devices(device)
    size = process_count()
    if size == 1:
        yield DistributedContext(0, 1, torch.device(names[0]))
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if names != ("cpu",) and local_rank >= len(names):
        raise TrainingError(
            f"torchrun started at least {local_rank + 1} processes on this machine, but `device` {device} has "
            f"{len(names)} GPUs; start torchrun with at most {len(names)} processes per machine"
        )
    mine = torch.device("cpu" if names == ("cpu",) else names[local_rank])
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=TIMEOUT)
    if not is_main_process():
        logging.getLogger("celebahq_builder").setLevel(logging.ERROR)
    try:
        yield DistributedContext(rank, size, mine)
        with _report_lost_process():
            dist.barrier()
    except TrainingInterrupted:
        raise
    except BaseException:
        dist.destroy_process_group()
        raise


@contextmanager
def _report_lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this training ended ({first_line(error)}); see its message, then run the same command "
            "to resume from the last checkpoint"
        ) from None
