"""Mutations of bytes and of text, which need no knowledge of a format."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 10**6, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
"""Integers at which lengths and counts overflow, or announce more than a machine holds."""

WORDS = (
    *map(str, NUMBERS),
    *("NaN", "nan", "Infinity", "-inf", "1e309", "-1e309", "1e-320", "0x10", "1_000", "99999999999999999999999999"),
    *("null", "true", "false", "[]", "{}", '""', "''", "None", "-", "+", "'", '"', "\\", "\\u0000", "\\ud800"),
    *("../x", "../../../../escaped", "/escaped", "a/../../b", ".", "..", "/", "//", "C:\\x", "~", "con"),
    *("=1+1", "@SUM(A1)", "\t", "\r", "\n", "\r\n", "\0", "\x1b[31m", "\x07", "\x85", "\u2028", "\u202e", "\ufeff"),
    *("e\u0301", "\u00e9", "\U0001f600", "\uff11", "\u0663", "%s%n", "{0}", "${HOME}", " ", ",", ";", ":", "=", "#"),
)
"""Texts that readers of numbers, names, tables and documents treat specially."""

LONG = ("a" * 300, "a" * 5000, "9" * 5000, "a/" * 3000, "ä" * 200, "x" * (1 << 17), "1" * (1 << 20))
"""Texts beyond the limits of file names, paths, integers, cells and lines."""


def word(random: Random) -> str:
    """Return a text that may be treated specially."""
    return random.choice(LONG) if random.random() < 0.12 else random.choice(WORDS)


def span(data: bytes, random: Random, most: int = 4096) -> tuple[int, int]:
    """Return the start and end of a range of the data; headers and ends are chosen more often than the middle."""
    if not data:
        return 0, 0
    near = random.random()
    if near < 0.35:
        start = random.randrange(min(len(data), 256))
    elif near < 0.5:
        start = max(0, len(data) - 1 - random.randrange(min(len(data), 256)))
    else:
        start = random.randrange(len(data))
    length = min(most, int(2 ** random.uniform(0, 12)))
    return start, min(len(data), start + length)


def flip_bits(data: bytes, random: Random) -> bytes:
    """Flip one to eight single bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if data else 0):
        at, _ = span(data, random)
        changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


def random_bytes(data: bytes, random: Random) -> bytes:
    """Overwrite a range with random bytes."""
    start, end = span(data, random, 64)
    return data[:start] + random.randbytes(end - start) + data[end:]


def same_bytes(data: bytes, random: Random) -> bytes:
    """Overwrite a range with one byte, mostly 0 or 255."""
    start, end = span(data, random)
    return data[:start] + bytes([random.choice((0, 0, 255, 0x20, 0x41))]) * (end - start) + data[end:]


def truncate(data: bytes, random: Random) -> bytes:
    """Cut the end off."""
    return data[: span(data, random)[0]]


def insert(data: bytes, random: Random) -> bytes:
    """Insert random bytes."""
    at, _ = span(data, random)
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 64, 512))) + data[at:]


def delete(data: bytes, random: Random) -> bytes:
    """Delete a range."""
    start, end = span(data, random)
    return data[:start] + data[end:]


def duplicate(data: bytes, random: Random) -> bytes:
    """Repeat a range, sometimes a thousand times."""
    start, end = span(data, random)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 1000)) + data[end:]


def exchange(data: bytes, random: Random) -> bytes:
    """Exchange two ranges of equal length."""
    (a, end), (b, _) = sorted((span(data, random), span(data, random)))
    length = min(end - a, b - a, len(data) - b)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def inflate_length(data: bytes, random: Random) -> bytes:
    """Overwrite 1, 2, 4 or 8 bytes with an integer at which lengths overflow."""
    code = random.choice("bhiiqq")
    bits = 8 * struct.calcsize(code)
    value = random.choice(NUMBERS) & ((1 << bits) - 1)
    at, _ = span(data, random)
    packed = struct.pack(random.choice("<>") + code.upper(), value)
    return data[:at] + packed + data[at + len(packed) :]


def append(data: bytes, random: Random) -> bytes:
    """Append zeros, random bytes, or the data themselves."""
    return data + random.choice((bytes(512), random.randbytes(100), data, b"\n"))


BYTES: Sequence[Mutation] = (
    flip_bits,
    flip_bits,
    random_bytes,
    same_bytes,
    truncate,
    insert,
    delete,
    duplicate,
    exchange,
    inflate_length,
    inflate_length,
    append,
)


# --- Text: documents, tables, numbers


def replace_token(data: bytes, random: Random) -> bytes:
    """Replace a number, a word or a quoted text."""
    tokens = list(re.finditer(rb'"[^"\n]{0,200}"|-?\d+\.?\d*|[A-Za-z_]\w*', data[: 1 << 20]))
    if not tokens:
        return word(random).encode("utf-8", "surrogatepass")
    token = random.choice(tokens)
    new = word(random)
    if token[0].startswith(b'"') and random.random() < 0.7:
        new = f'"{new}"'
    return data[: token.start()] + new.encode() + data[token.end() :]


def insert_word(data: bytes, random: Random) -> bytes:
    """Insert a text anywhere."""
    at, _ = span(data, random)
    return data[:at] + word(random).encode() + data[at:]


def change_lines(data: bytes, random: Random) -> bytes:
    """Drop, repeat, move, join or empty lines."""
    lines = data.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    kind = random.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at] * random.choice((1, 2, 500)))
    elif kind == 2:
        lines.insert(random.randrange(len(lines)), lines.pop(at))
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\r\n")
    elif kind == 4:
        lines.insert(at, random.choice((b"\n", b"\r\n", b"   \n", b"#\n", b"\0\n")))
    else:
        lines = lines[: at + 1]
    return b"".join(lines)


def nest(data: bytes, random: Random) -> bytes:
    """Insert thousands of opening brackets, or a value that is nested as deeply."""
    depth = random.choice((100, 1100, 20_000, 200_000))
    kind = random.choice(("[", "{", '{"a":', "(", "[["))
    closing = {"[": "]", "{": "}", '{"a":': "}", "(": ")", "[[": "]]"}[kind]
    nested = (kind * depth + random.choice(("", "1" + closing * depth))).encode()
    at, end = span(data, random)
    return random.choice((nested, data[:at] + nested + data[end:]))


def encode_otherwise(data: bytes, random: Random) -> bytes:
    """Write the text in another encoding, with a byte order mark, or with other line ends."""
    text = data.decode("utf-8", "replace")
    return random.choice(
        (
            lambda: text.encode("utf-16"),
            lambda: b"\xef\xbb\xbf" + data,
            lambda: text.encode("latin-1", "replace") + b"\xe9\xff",
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: data.replace(b"\n", b"\r"),
            lambda: data.replace(b",", random.choice((b";", b"\t", b" , "))),
            lambda: data.replace(b'"', b"'"),
            lambda: data.upper(),
        )
    )()


TEXT: Sequence[Mutation] = (
    replace_token,
    replace_token,
    replace_token,
    insert_word,
    change_lines,
    change_lines,
    nest,
    encode_otherwise,
    flip_bits,
    truncate,
    delete,
    same_bytes,
)
