"""Pickles of arrays, read without running what they ask for.

A pickle is a program: loaded as usual, it may call whatever it names. Here nothing outside this file can be called,
not even numpy: where a pickle rebuilds an array it meets stand-ins that note shape, type and bytes, which are checked
and copied afterwards.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Type:
    """Stands in for numpy.dtype: `name` as in the array protocol, ``u1``."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: of no meaning for single bytes."""


class _Array:
    """Stands in for numpy.ndarray: its state as pickled, ``(1, shape, type, fortran order, bytes)``."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8]:
        """Return the array; ValueError if it is none of bytes in C order."""
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Type) or kind.name != "u1" or fortran or not isinstance(data, bytes):
            raise ValueError("an array that is not of bytes in C order")
        if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} that has {len(data)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """What Python 3 writes for bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin-1")


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
"""All that a pickle may name, and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data set needs; it may be an attack")
        return ADMITTED[module, name]


def read(data: bytes) -> dict[str, Any]:
    """Return the table that a pickle holds; text of Python 2 becomes str in the keys, bytes elsewhere.

    Only dicts, lists, numbers, text, bytes, and arrays of bytes can be in it (uint8; read-only).

    Raises:
        ValueError: it holds or names anything else, or is damaged; says what.
    """
    try:
        for code, argument, _ in pickletools.genops(data):
            if "PUT" in code.name and not 0 <= int(argument or 0) <= len(
                data
            ):  # the memo is as long as its largest index
                raise ValueError(f"a memo of {argument} places")
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(table, dict):
            raise ValueError(f"it holds no table but a {type(table).__name__}")
        named = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in table.items()}
        return {key: value.pixels() if isinstance(value, _Array) else value for key, value in named.items()}
    except Exception as error:  # a damaged program fails in any way
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
