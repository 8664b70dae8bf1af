"""Order in which images are drawn for training: endless, seeded, known at every position."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import TrainingError


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
    """All images in a random order, then all in another one, and so on: epochs without end.

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
