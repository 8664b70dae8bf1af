"""Processes and devices of a training: a single process, or those that torchrun started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from celebahq_builder import parallel
from celebahq_builder.errors import TrainingError

PATIENCE = timedelta(hours=2)
"""How long processes wait for one another: the first one also measures and writes."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is, and the device it trains on.

    All processes hold the same weights and draw disjoint parts of one batch, whose gradients are summed: so the
    number of processes changes a run's result by no more than rounding.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return which images of a batch are this process's.

        Raises:
            TrainingError: there are fewer images than processes.
        """
        if batch < self.size:
            raise TrainingError(f"a batch of {batch} cannot be shared by {self.size} processes; start at most {batch}")
        return range(self.rank, batch, self.size)

    def sum_gradients(self, net: nn.Module) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        with _connected():
            dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Return whether any process says yes."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        with _connected():
            dist.all_reduce(told, dist.ReduceOp.MAX)
            return bool(told)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over all processes."""
        if self.size > 1:
            with _connected():
                dist.all_reduce(values)
        return values / self.size


def processes() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the process that tells of what all do."""
    return processes() == 1 or os.environ.get("RANK") == "0"


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"another process of this training ended ({reason}); it says why, if it could; the same command goes on "
            "from the last checkpoint"
        ) from None


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did; otherwise be alone.

    All leave together. What connects them then ends with the process (`cli.main` ends it at once): taken down while
    the other side does the same, gloo's threads now and then abort a process that has done its work.

    Args:
        device: as ``--device``; under torchrun the n-th process of a machine takes the n-th CUDA device.

    Raises:
        TrainingError: torchrun started more processes than there are CUDA devices.
    """
    size = processes()
    if size == 1:
        yield World(0, 1, torch.device(parallel.devices(device)[0]))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    names = parallel.devices(device)
    if names != ("cpu",) and local >= len(names):
        raise TrainingError(
            f"torchrun started process {local + 1} on this machine, --device {device} names {len(names)}; "
            f"give --nproc-per-node {len(names)} at most"
        )
    mine = torch.device("cpu" if names == ("cpu",) else names[local])
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=PATIENCE)
    if not is_main_process():
        logging.getLogger("celebahq_builder").setLevel(logging.ERROR)
    try:
        yield World(rank, size, mine)
        with _connected():
            dist.barrier()
    except BaseException:
        dist.destroy_process_group()
        raise


ALONE = World(0, 1, torch.device("cpu"))
"""One process, on the CPU."""
