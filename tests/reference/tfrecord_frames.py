"""The frame of a TFRecord file, bit by bit as its specification has it: no table, no library."""

import struct
from collections.abc import Iterator

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), reflected: RFC 3720, appendix B.4."""


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def payloads(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file; a wrong CRC is a ValueError."""
    at = 0
    while at < len(data):
        length, length_crc = struct.unpack_from("<QI", data, at)
        payload = data[at + 12 : at + 12 + length]
        (payload_crc,) = struct.unpack_from("<I", data, at + 12 + length)
        if length_crc != masked(data[at : at + 8]) or payload_crc != masked(payload):
            raise ValueError(f"wrong CRC at {at}")
        yield payload
        at += 16 + length
