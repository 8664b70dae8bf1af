"""The order in which images are drawn for training: endless, seeded, known at every position."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from celebahq_builder.errors import TrainingError


class Draws(NamedTuple):
    """Images that follow one another in an order."""

    numbers: NDArray[np.int64]
    """[n], of the images in their file."""
    mirrored: NDArray[np.bool_]
    """[n], whether each is to be flipped where images are mirrored at random."""

    def share(self, rank: int, world: int) -> Draws:
        """Return those of one process: every `world`-th, from number `rank` on."""
        return Draws(self.numbers[rank::world], self.mirrored[rank::world])


class Order:
    """All images in a random order, then all in another one, and so on: epochs without end.

    The order of an epoch is a permutation that follows from seed and epoch alone (numpy's default generator, seeded
    with both), so any position is reached without drawing what came before it. A minibatch that an epoch has too few
    images left for goes on into the next: nothing is dropped and nothing drawn twice in an epoch, whatever the
    sizes of the minibatches, and they may change from one to the next.

    Args:
        count: of images, at least 1.
        seed: of permutations and mirroring, at least 0.
        shuffled: False for the order of the file in every epoch; mirroring remains random.

    Raises:
        TrainingError: no images, or a negative seed.
    """

    def __init__(self, count: int, seed: int = 0, *, shuffled: bool = True) -> None:
        if count < 1:
            raise TrainingError(f"there are {count} images to draw from; expected at least 1")
        if seed < 0:
            raise TrainingError(f"the seed of the order is {seed}; expected 0 or more")
        self.count, self.seed, self.shuffled = count, seed, shuffled
        self.drawn = 0
        """Images drawn so far, of all epochs and by all processes."""

    @property
    def epoch(self) -> int:
        """How many times all images have been drawn."""
        return self.drawn // self.count

    @property
    def position(self) -> int:
        """Images drawn of the present epoch."""
        return self.drawn % self.count

    def draws(self, start: int, size: int) -> Draws:
        """Return what is drawn after the first `start` images, `size` of them; the position stays where it is."""
        parts: list[Draws] = []
        while size > 0 or not parts:
            epoch, position = divmod(start, self.count)
            numbers, mirrored = _epoch(self.count, self.seed, self.shuffled, epoch)
            stop = min(position + size, self.count)
            parts.append(Draws(numbers[position:stop], mirrored[position:stop]))
            start, size = start + stop - position, size - (stop - position)
        if len(parts) == 1:
            return Draws(parts[0].numbers.copy(), parts[0].mirrored.copy())  # the epoch's own are kept, see below
        return Draws(np.concatenate([p.numbers for p in parts]), np.concatenate([p.mirrored for p in parts]))

    def state_dict(self) -> dict[str, Any]:
        """Return the position and what the order follows from, as plain values for a checkpoint."""
        return {
            "count": self.count,
            "seed": self.seed,
            "shuffled": self.shuffled,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position that `state_dict` returned.

        Raises:
            TrainingError: it is of another order, or no position of one.
        """
        for key in ("count", "seed", "shuffled"):
            if state.get(key) != getattr(self, key):
                raise TrainingError(
                    f"the checkpoint's data order has {key} = {state.get(key)}, this run's has {getattr(self, key)}; "
                    "go on with the data and seed it was begun with, or start over"
                )
        epoch, position = state.get("epoch"), state.get("position")
        if not isinstance(epoch, int) or not isinstance(position, int) or epoch < 0 or not 0 <= position < self.count:
            raise TrainingError(
                f"the checkpoint's data order is at epoch {epoch}, position {position}; "
                f"expected a position from 0 to {self.count - 1}"
            )
        self.drawn = epoch * self.count + position


@lru_cache(maxsize=4)  # the present epoch and the next, for training data and perhaps another set
def _epoch(count: int, seed: int, shuffled: bool, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return numbers and flips of a whole epoch."""
    random = np.random.default_rng((seed, epoch))
    permutation = random.permutation(count)
    mirrored = random.random(count) < 0.5
    return permutation if shuffled else np.arange(count), mirrored
