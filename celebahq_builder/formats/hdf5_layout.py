"""What lies where in the multi-resolution HDF5 file.

One dataset per level, named ``data1024x1024`` ... ``data1x1``: uint8 [N, C, r, r], RGB or grey, growable along N.
Readers of the ProGAN authors' files take every key that starts with "data" as a level; what else is known lies in
the group ``photos``, one dataset per column, and in the file's attributes. Labels lie in a file beside it.
"""

from __future__ import annotations

FORMAT_VERSION = 1

PHOTOS = "photos"
"""Group of what is known of each picture."""

CHUNK_BYTES = 16384
"""Small pictures share a chunk of up to this size, larger ones have one each.

One picture of a level costs a reader the whole chunk: at this size less than 60 us at any level, while a whole level
takes hardly longer than with the largest chunks (docs/hdf5.md).
"""

CHUNK_PICTURES = 1024
"""At most so many pictures share a chunk."""

JOB_BYTES = 4 << 20
"""Pictures of up to this size are packed together; a larger one is a job of its own."""


def level_name(resolution: int) -> str:
    """Return the name of a level's dataset."""
    return f"data{resolution}x{resolution}"


def pictures_per_chunk(resolution: int, channels: int = 3) -> int:
    """Return how many pictures of a level share a chunk: a power of two, at most `CHUNK_PICTURES`."""
    return _power_of_two(CHUNK_BYTES // (channels * resolution * resolution))


def pictures_per_job(resolution: int, channels: int = 3) -> int:
    """Return how many pictures a worker packs at once: a power of two, at most `CHUNK_PICTURES`."""
    return _power_of_two(JOB_BYTES // (channels * resolution * resolution))


def _power_of_two(at_most: int) -> int:
    return 1 << (min(max(at_most, 1), CHUNK_PICTURES).bit_length() - 1)
