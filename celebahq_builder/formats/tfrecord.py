"""TFRecord files of pictures, to the byte: the frame around each record, and the tf.train.Example in it.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details for the frame;
tensorflow/core/example/{example,feature}.proto and https://protobuf.dev/programming-guides/encoding/ for the Example.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np

from celebahq_builder.formats.pictures import Pixels

HEADER_BYTES = 12
FOOTER_BYTES = 4


def masked_crc(data: bytes | memoryview) -> int:
    """Return the CRC-32C of some bytes, rotated and added to as TFRecord stores it."""
    crc = int(google_crc32c.value(bytes(data)))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return a record: length, its CRC, the payload, its CRC; all little-endian."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))


def encode_example(pixels: Pixels) -> bytes:
    """Return the Example of a picture: ``shape``, int64 [3] of C, H, W, and ``data``, the bytes in that order."""
    shape = b"".join(_varint(side) for side in pixels.shape)
    int64_list = _field(3, _field(1, shape))
    bytes_list = _field(1, _field(1, np.ascontiguousarray(pixels).tobytes()))
    keyed = ((b"shape", int64_list), (b"data", bytes_list))
    return _field(1, b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in keyed))


def decode_example(payload: bytes) -> Pixels:
    """Return the picture uint8 [C, H, W] of an Example, in whatever order and packing its fields are.

    Raises:
        ValueError: it is no such Example, or its data are not as many bytes as its shape says.
    """
    found: dict[bytes, memoryview] = {}
    for features in _values(memoryview(payload), 1):
        for entry in _values(features, 1):
            key = b"".join(bytes(part) for part in _values(entry, 1))
            for feature in _values(entry, 2):
                found[key] = feature
    if not {b"shape", b"data"} <= found.keys():
        names = ", ".join(sorted(key.decode("utf-8", "backslashreplace") for key in found))
        raise ValueError(f"it has {f'the features {names}' if names else 'no features'}, expected shape and data")
    shape: list[int] = []
    for numbers in _values(found[b"shape"], 3):
        for wire, value in _fields(numbers, 1):
            shape += _varints(value) if wire == 2 else [value]
    data = [value for strings in _values(found[b"data"], 1) for value in _values(strings, 1)]
    if len(shape) != 3 or len(data) != 1:
        raise ValueError(f"its shape is {shape} with {len(data)} values of data, expected C, H, W and one")
    if shape[0] * shape[1] * shape[2] != len(data[0]):
        raise ValueError(f"its shape is {shape}, but its data are {len(data[0])} bytes")
    return np.frombuffer(data[0], np.uint8).reshape(shape)


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    coded.append(number)
    return bytes(coded)


def _field(number: int, value: bytes) -> bytes:
    """Return a field of wire type 2: bytes, text, a message, or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _values(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for wire, value in _fields(message, wanted):
        if wire != 2:
            raise ValueError(f"field {wanted} is no message")
        yield value


def _fields(message: memoryview, wanted: int) -> Iterator[tuple[int, Any]]:
    """Yield wire type and value of all fields of one number; others are passed over, as protocol buffers ask."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _read_varint(message, at)
        elif wire in (1, 2, 5):
            length, at = _read_varint(message, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise ValueError("a field goes on after the end")
        else:
            raise ValueError(f"wire type {wire}")
        if number == wanted:
            yield wire, value


def _varints(packed: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        numbers.append(number)
    return numbers


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number goes on after the end")
