"""Order in which images are drawn for training, and minibatches in this order, read ahead."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.parallel import run_threads

# --- Order of the images


class Draws(NamedTuple):
    """Consecutive images of an order."""

    numbers: NDArray[np.int64]
    """[n], indices of the images in their file."""
    mirrored: NDArray[np.bool_]
    """[n], True for images to be flipped, if the data set mirrors images at random."""

    def share(self, rank: int, world: int) -> Draws:
        """Return the images of one of `world` processes: every `world`-th, from number `rank` on."""
        return Draws(self.numbers[rank::world], self.mirrored[rank::world])


class Order:
    """Order in which images are drawn: all in a random order, then all in another one, in epochs without end.

    The order of an epoch is a permutation by numpy's default generator, seeded with the seed and the epoch. So any
    position is reached without drawing what comes before it. A minibatch may span two epochs: nothing is dropped, and
    no image is drawn twice in an epoch, whatever the sizes of the minibatches, which may change at any time.

    Args:
        count: number of images, at least 1.
        seed: seed of permutations and mirroring, at least 0.
        shuffled: False for the order of the file in every epoch; mirroring remains random.

    Attributes:
        drawn: images drawn so far, in all epochs and by all processes.

    Raises:
        TrainingError: no images, or a negative seed.

    Example:
        >>> order = Order(4, seed=0)
        >>> order.draws(0, 8).numbers.tolist()
        [2, 0, 1, 3, 3, 0, 2, 1]
        >>> order.drawn = 6
        >>> order.epoch, order.position
        (1, 2)
    """

    def __init__(self, count: int, seed: int = 0, *, shuffled: bool = True) -> None:
        if count < 1:
            raise TrainingError(f"there are {count} images to draw from; expected at least 1")
        if seed < 0:
            raise TrainingError(f"the seed of the order is {seed}; expected 0 or more")
        self.count, self.seed, self.shuffled = count, seed, shuffled
        self.drawn = 0

    @property
    def epoch(self) -> int:
        """Number of times that all images have been drawn."""
        return self.drawn // self.count

    @property
    def position(self) -> int:
        """Number of images drawn in the present epoch."""
        return self.drawn % self.count

    def draws(self, start: int, size: int) -> Draws:
        """Return `size` images that follow the first `start` ones; the order's position does not change."""
        parts: list[Draws] = []
        while size > 0 or not parts:
            epoch, position = divmod(start, self.count)
            numbers, mirrored = _epoch(self.count, self.seed, self.shuffled, epoch)
            stop = min(position + size, self.count)
            parts.append(Draws(numbers[position:stop], mirrored[position:stop]))
            start, size = start + stop - position, size - (stop - position)
        # New arrays, because those of `_epoch` are cached.
        return Draws(np.concatenate([p.numbers for p in parts]), np.concatenate([p.mirrored for p in parts]))

    def minibatches(self, size: int, images: int | None = None) -> Iterator[Draws]:
        """Yield minibatches of `size` images from the present position on; the order's position does not change.

        Args:
            size: images of a minibatch.
            images: stop after so many images, with a smaller last minibatch if need be; None to never stop.
        """
        start = self.drawn
        end = None if images is None else start + images
        while end is None or start < end:
            yield self.draws(start, size if end is None else min(size, end - start))
            start += size

    def state_dict(self) -> dict[str, object]:
        """Return the position, and what the order depends on, as plain values for a checkpoint."""
        return {
            "count": self.count,
            "seed": self.seed,
            "shuffled": self.shuffled,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Return to the position that `state_dict` returned.

        Raises:
            TrainingError: the state of another order, or an impossible position.
        """
        for key in ("count", "seed", "shuffled"):
            if state.get(key) != getattr(self, key):
                raise TrainingError(
                    f"the checkpoint's data order has {key} = {state.get(key)}, this run's has {getattr(self, key)}; "
                    "resume with the data and seed of the checkpoint, or start over"
                )
        epoch, position = state.get("epoch"), state.get("position")
        if not isinstance(epoch, int) or not isinstance(position, int) or epoch < 0 or not 0 <= position < self.count:
            raise TrainingError(
                f"the checkpoint's data order is at epoch {epoch}, position {position}; "
                f"expected a position from 0 to {self.count - 1}"
            )
        self.drawn = epoch * self.count + position


@lru_cache(maxsize=4)  # the present epoch and the next one, for training data and perhaps another set
def _epoch(count: int, seed: int, shuffled: bool, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return indices and flips of a whole epoch."""
    random = np.random.default_rng((seed, epoch))
    permutation = random.permutation(count)
    mirrored = random.random(count) < 0.5
    return permutation if shuffled else np.arange(count), mirrored


# --- Minibatches


def loader(
    dataset: PyramidDataset,
    batch: int,
    order: Order | None = None,
    *,
    images: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    ahead: int = 2,
    context: str | None = None,
    pin: bool = False,
) -> Generator[Batch, None, None]:
    """Return minibatches, from the order's position on.

    The order's position counts the images that were handed out, not those read ahead: a checkpoint that holds
    ``order.state_dict()`` resumes with the very next image. To change the size of the minibatches, or the resolution,
    call again with the same order.

    `world` processes with the same seed and position share a minibatch: rank r gets its images r, r + world, ...; put
    together, they are the minibatch of a single process. So every image comes once per epoch, and all ranks have the
    same number. The last images of an epoch are in one minibatch with the first of the next.

    Args:
        dataset: data set with as many images as the order counts.
        batch: size of a minibatch, of all processes together.
        order: order in which images are drawn; None for a new one with seed 0.
        images: stop after so many images, of all processes together, with a smaller last minibatch if need be; None
            to never stop.
        rank: number of this process, 0 to `world` - 1.
        world: number of processes that train together.
        workers: processes that read; 0 for threads of this process, which are as fast. A level that is kept in memory
            needs neither.
        ahead: minibatches read ahead; per worker, if there are any.
        context: start method of the workers: ``fork``, ``spawn``, ``forkserver``; None for Python's default.
        pin: put minibatches into page-locked memory, for a GPU.

    Raises:
        TrainingError: sizes that the processes cannot share equally, or an order of another number of images. While
            reading: the order's position was changed from outside, or a worker was killed.
        FormatError: while reading: the file is damaged, or was replaced.

    Example:
        >>> import h5py, tempfile
        >>> import numpy as np
        >>> path = f"{tempfile.mkdtemp()}/faces.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["data2x2"] = np.arange(36, dtype=np.uint8).reshape(3, 3, 2, 2)
        >>> dataset = PyramidDataset(path, resolution=2)
        >>> for minibatch in loader(dataset, 2, Order(3, seed=0), images=6):
        ...     print(minibatch.numbers.tolist(), minibatch.pixels.dtype, minibatch.pixels.shape)
        [2, 0] torch.uint8 torch.Size([2, 3, 2, 2])
        [1, 2] torch.uint8 torch.Size([2, 3, 2, 2])
        [0, 1] torch.uint8 torch.Size([2, 3, 2, 2])
    """
    order = order or Order(len(dataset))
    if order.count != len(dataset):
        raise TrainingError(
            f"the order has {order.count} images, {dataset.level.path} has {len(dataset)}; give Order({len(dataset)})"
        )
    if not 0 <= rank < world:
        raise TrainingError(f"process {rank} of {world} does not exist; expected 0 to {world - 1}")
    for what, number in (("minibatch", batch), ("run", world if images is None else images)):
        if number < 1 or number % world:
            raise TrainingError(
                f"a {what} of {number} images cannot be shared equally by {world} processes; "
                f"make it a multiple of {world}"
            )
    draws = (whole.share(rank, world) for whole in order.minibatches(batch, images))
    if workers and not dataset.kept:
        batches = _read_by_processes(dataset, draws, workers, ahead, context, pin)
    else:

        def read(draws: Draws) -> Batch:
            batch = dataset.batch(*draws)
            return batch.pinned() if pin else batch

        batches = run_threads(read, draws, workers=max(ahead, 1), ahead=0 if dataset.kept else ahead)
    return _advance(dataset, order, order.drawn, world, batches)


def _advance(
    dataset: PyramidDataset, order: Order, position: int, world: int, batches: Iterator[Batch]
) -> Generator[Batch, None, None]:
    """Yield minibatches, and advance the order by each."""
    try:
        for batch in batches:
            if order.drawn != position:
                raise TrainingError(
                    f"the order was moved from image {position} to {order.drawn} while a loader was drawing from it; "
                    "close the loader first, then make another"
                )
            order.drawn = position = position + len(batch.numbers) * world
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:  # which one a dead worker causes depends on the moment
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        line = str(error).splitlines()[0] if str(error) else "it closed its connection"
        raise TrainingError(
            f"a process that reads {dataset.level.path} ended: {line}; "
            "if memory or shared memory is scarce, read in threads: 0 workers"
        ) from None


@dataclass
class _Minibatches(Dataset[Batch | FormatError]):
    """Minibatches by their draws; an error is returned, because torch would put a traceback into its message."""

    dataset: PyramidDataset

    def __getitem__(self, draws: Draws) -> Batch | FormatError:
        try:
            return self.dataset.batch(*draws)
        except FormatError as error:
            return error


def _read_by_processes(
    dataset: PyramidDataset, draws: Iterator[Draws], workers: int, ahead: int, context: str | None, pin: bool
) -> Iterator[Batch]:
    batches: DataLoader[Batch | FormatError] = DataLoader(
        _Minibatches(dataset),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        multiprocessing_context=context,
        pin_memory=pin,
        generator=torch.Generator(),  # or the workers' seed would be drawn from the training's generator
        worker_init_fn=_ignore_signals,
    )
    for batch in batches:
        if isinstance(batch, FormatError):
            raise batch
        yield batch


def _ignore_signals(_: int) -> None:
    """Ignore SIGTERM, which a cluster sends to all processes of a job, and the Ctrl-C of a terminal.

    The training process still needs a minibatch for its last step. The worker ends when that process ends or stops it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
