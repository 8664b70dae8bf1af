"""Batches of a training, drawn ahead by worker processes."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import torch

from celebahq_builder.errors import CelebAHQError, WorkspaceError

Batch = TypeVar("Batch")

AHEAD_BATCHES = 2
"""Batches that a worker draws ahead of the training."""

EXIT_WAIT_S = 10.0
"""Time within which a worker ends after it has closed its connection."""


def draw_batches(draw_batch: Callable[[int], Batch], steps: range, workers: int) -> Generator[Batch, None, None]:
    """Yield the batches of some steps, drawn in worker processes; `close` ends them.

    Threads would block each other and the training, because of Python's global lock. torch's DataLoader is not used:
    after a worker was killed, its signal handler can raise an error anywhere in the main thread, also in later code.

    Args:
        draw_batch: returns the batch of a step. The workers are forks of this process, so they share its photos.
        steps: in order.
        workers: number of processes; 0 draws each batch when it is needed.

    Raises:
        CelebAHQError: one of `draw_batch`.
        WorkspaceError: a worker process was killed.
        RuntimeError: a worker process ended with another error, which it printed.
    """
    if not workers:
        yield from map(draw_batch, steps)
        return
    started: list[_Worker[Batch]] = []
    try:
        # Only the main process handles signals: the workers inherit that they are blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for _ in range(workers):
                started.append(_Worker(draw_batch))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ahead = AHEAD_BATCHES * workers
        for i, step in enumerate(steps[:ahead]):
            started[i % workers].request(step)
        for i in range(len(steps)):
            worker = started[i % workers]
            batch = worker.receive()
            for step in steps[i + ahead : i + ahead + 1]:
                worker.request(step)
            yield batch
    finally:
        for worker in started:
            worker.end()


class _Worker(Generic[Batch]):
    """A process that draws batches."""

    def __init__(self, draw_batch: Callable[[int], Batch]) -> None:
        # Only the worker keeps the other end of the connection, so each side notices when the other has ended.
        self.connection, other_end = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_serve, args=(draw_batch, other_end), daemon=True)
        with warnings.catch_warnings():
            # The worker uses one thread of torch, and none of OpenCV, so a fork of several threads is safe.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            self.process.start()
        other_end.close()

    def request(self, step: int) -> None:
        """Let the worker draw the batch of a step."""
        try:
            self.connection.send(step)
        except ConnectionError as error:
            raise self._error(error) from None

    def receive(self) -> Batch:
        """Return the batch of the oldest requested step; its tensors are in shared memory."""
        try:
            batch: Batch | CelebAHQError = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._error(error) from None
        if isinstance(batch, CelebAHQError):
            raise batch
        return batch

    def end(self) -> None:
        """End the process."""
        self.process.kill()  # SIGTERM is blocked
        self.process.join()
        self.connection.close()

    def _error(self, error: Exception) -> Exception:
        """Return the error of a worker whose connection failed with `error`."""
        self.process.join(EXIT_WAIT_S)
        code = self.process.exitcode
        if code is None:
            return error
        if code >= 0:
            return RuntimeError(f"a process that prepares batches ended with exit code {code}; see its error")
        return WorkspaceError(
            f"a process that prepares batches was killed by {signal.Signals(-code).name}, most likely because memory "
            "or shared memory ran out; run the same command again with a smaller `workers` to resume"
        )


def _serve(draw_batch: Callable[[int], Batch], connection: Connection) -> None:
    """Send the batch of each step that is requested, or the error that its photos caused."""
    torch.set_num_threads(1)
    try:
        while True:
            step = connection.recv()
            try:
                connection.send(draw_batch(step))
            except CelebAHQError as error:
                connection.send(error)
    except (EOFError, ConnectionError):  # the main process has ended
        return
