"""Pictures to compare with, and what has been computed of them."""

from __future__ import annotations

from typing import Any

from celebahq_builder.evaluation.pictures import BATCH_BYTES, MEMORY_BYTES, Pictures
from celebahq_builder.evaluation.source import Source


class Reference:
    """A source to compare others with. Made once, it serves many evaluations: what is computed of it alone, it keeps.

    Those are its floors, its own scores and the statistics of its features; and its pictures, if they fit.

    Args:
        source: of the pictures.
        seed: of the protocols it will be used with.
        memory_bytes: budget for keeping pictures.
        batch_bytes: of pictures that are handed on together; decides no number.
    """

    def __init__(
        self, source: Source, seed: int = 0, *, memory_bytes: int = MEMORY_BYTES, batch_bytes: int = BATCH_BYTES
    ) -> None:
        self.source, self.seed = source, seed
        self.pictures = Pictures(source, seed, memory_bytes=memory_bytes, batch_bytes=batch_bytes)
        self.known: dict[tuple[Any, ...], Any] = {}
        """What has been computed, by what it is and of which places."""
