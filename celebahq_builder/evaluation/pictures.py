"""One side of an evaluation: the pictures of a source that are looked at, in the order they are looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.evaluation.source import Numbers, Source
from celebahq_builder.metrics.batches import Batches

MEMORY_BYTES = 2**30
"""Pictures that fit are kept, so that they are read, decoded or generated once; all others again in every pass."""

BATCH_BYTES = 8 * 2**20
"""Of pictures that are handed on together."""

BATCH_PICTURES = 512


class Pictures:
    """The pictures of a source, in the order in which an evaluation takes them.

    Of a data set they are a random permutation of all, so that any first n are drawn at random without replacement,
    and what lies between n and 2n is disjoint from them; pictures that lie beside each other in the data set do not
    meet in pairs or splits. A generator's are those of its seed, from number 0 on.

    Args:
        source: of the pictures.
        seed: of the permutation.
        memory_bytes: budget for keeping pictures.
        batch_bytes: of pictures handed on together; decides no number.
    """

    def __init__(
        self, source: Source, seed: int, *, memory_bytes: int = MEMORY_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.source, self.seed = source, seed
        self.memory_bytes = memory_bytes
        self.picture_bytes = source.channels * source.resolution**2
        self.at_once = min(BATCH_PICTURES, max(1, batch_bytes // self.picture_bytes))
        self._order = None if source.count is None else np.random.default_rng(seed).permutation(source.count)
        self._kept: Tensor | None = None
        self._known = 0
        self._marks: set[int] = set()
        self._hash, self._hashed = hashlib.sha256(), 0
        self._digests: dict[int, str] = {}

    def will_need(self, last: int, marks: set[int]) -> None:
        """Prepare for passes over the pictures up to place `last`, and for `sha256` of some counts of them."""
        self._marks |= marks
        if self._kept is None or len(self._kept) < last:
            fits = last * self.picture_bytes <= self.memory_bytes
            r = self.source.resolution
            grown = torch.empty((last, self.source.channels, r, r), dtype=torch.uint8) if fits else None
            if grown is not None and self._kept is not None:
                grown[: self._known] = self._kept[: self._known]
            if grown is None:
                self._known = 0
            self._kept = grown

    def batches(self, start: int, stop: int) -> Batches:
        """Return the pictures of the places from `start` to `stop`, to be gone through as often as need be."""
        return lambda: self._pass(start, stop)

    def sha256(self, count: int) -> str:
        """Return the SHA-256 of the pixels of the first `count` pictures, one after the other, as they are taken."""
        if count not in self._digests:
            self._marks.add(count)
            if self._hashed >= count:
                self._hash, self._hashed = hashlib.sha256(), 0
            for _ in self._pass(0, count):
                pass
        return self._digests[count]

    def _pass(self, start: int, stop: int) -> Iterator[Tensor]:
        if start < self._known:
            end = min(stop, self._known)
            yield from self._from_memory(start, end)
            start = end
        if start >= stop:
            return
        at = start
        for batch in self.source.read(self._numbers(start, stop), self.at_once):
            self._keep(at, batch)
            self._update(at, batch)
            at += len(batch)
            yield batch

    def _from_memory(self, start: int, stop: int) -> Iterator[Tensor]:
        assert self._kept is not None
        for at in range(start, stop, self.at_once):
            batch = self._kept[at : min(at + self.at_once, stop)]
            self._update(at, batch)
            yield batch

    def _numbers(self, start: int, stop: int) -> Numbers:
        return np.arange(start, stop) if self._order is None else self._order[start:stop]

    def _keep(self, at: int, batch: Tensor) -> None:
        end = at + len(batch)
        if self._kept is not None and at <= self._known < end <= len(self._kept):
            self._kept[at:end] = batch
            self._known = end

    def _update(self, at: int, batch: Tensor) -> None:
        """Hash what has not been hashed yet, up to the last count that a hash is wanted of."""
        last = max(self._marks, default=0)
        while at <= self._hashed < min(at + len(batch), last):
            end = min((mark for mark in self._marks if mark > self._hashed), default=last)
            end = min(end, at + len(batch))
            self._hash.update(batch[self._hashed - at : end - at].contiguous().numpy().data)
            self._hashed = end
            if end in self._marks:
                self._digests[end] = self._hash.hexdigest()
