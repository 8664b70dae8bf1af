"""Batches of a training, drawn ahead by worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from celebahq_builder.errors import CelebAHQError, WorkspaceError
from celebahq_builder.models.weight_file import first_line

Batch = TypeVar("Batch")


class _Steps(Dataset[object], Generic[Batch]):
    """The batches of a training, by step."""

    def __init__(self, draw_batch: Callable[[int], Batch]) -> None:
        self.draw_batch = draw_batch

    def __getitem__(self, step: int) -> Batch | CelebAHQError:
        """Return the batch of a step, or the error that its photos caused."""
        try:
            return self.draw_batch(step)
        except CelebAHQError as error:  # the loader would raise it with the worker's traceback as its message
            return error


def draw_batches(
    draw_batch: Callable[[int], Batch], steps: range, workers: int, *, pinned: bool
) -> Generator[Batch, None, None]:
    """Yield the batches of some steps, drawn in worker processes; `close` ends them.

    Threads would hold each other up, and the thread of the training, by Python's global lock.

    Args:
        draw_batch: returns the batch of a step. The workers are forks of this process, so they share its photos.
        steps: in order.
        workers: number of processes; 0 draws each batch when it is needed.
        pinned: put the tensors of a batch into pinned memory, from which copies to a GPU are asynchronous.

    Raises:
        CelebAHQError: one of `draw_batch`.
        RuntimeError: a worker process was killed; see `killed_worker_as_error`.
    """
    earlier = multiprocessing.active_children()
    # Only the main process handles signals: the workers inherit that they are blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM} if workers else ())
    try:
        with warnings.catch_warnings():
            # The workers use one thread of torch each, and none of OpenCV, so a fork of several threads is safe; and
            # the user may start more workers than the machine has cores.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = DataLoader(
                _Steps(draw_batch),
                batch_size=None,
                sampler=steps,
                num_workers=workers,
                collate_fn=_unchanged,
                pin_memory=pinned,
                multiprocessing_context="fork" if workers else None,
                generator=torch.Generator(),  # torch's own one belongs to the training
            )
            batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    processes = [one for one in multiprocessing.active_children() if one not in earlier]
    try:
        for batch in batches:
            if isinstance(batch, CelebAHQError):
                raise batch
            yield batch
    finally:
        del batches  # ends the workers, also where a traceback refers to this frame
        for process in processes:
            process.kill()  # it may wait for a lock that a killed worker held, and SIGTERM is blocked


@contextlib.contextmanager
def killed_worker_as_error() -> Iterator[None]:
    """Raise a WorkspaceError if a process that draws batches was killed.

    The loader's handler of SIGCHLD raises a RuntimeError wherever the main thread is, mostly in a training step.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkspaceError(
            f"a process that prepares batches was killed, most likely because memory or shared memory ran out "
            f"({first_line(error)}); run the same command again with a smaller `workers` to resume"
        ) from None


def _unchanged(batch: Batch) -> Batch:
    return batch
