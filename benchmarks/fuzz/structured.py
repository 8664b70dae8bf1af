"""Mutations that keep a format's framing and check sums valid, so that they reach what lies behind them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from benchmarks.fuzz.byte_mutations import BYTES, NUMBERS, TEXT, Mutation, word

BOMB_BYTES = 1 << 31
"""Size of contents that are compressed to a few MB and must not be held in memory."""


def any_bytes(data: bytes, random: Random) -> bytes:
    """Apply a mutation of bytes or, for what looks like text, mostly one of text."""
    text = bool(data) and sum(byte < 9 or byte > 126 for byte in data[:512]) < 8
    return random.choice(TEXT if text and random.random() < 0.8 else BYTES)(data, random)


# --- JSON, TOML, CSV


def odd_value(random: Random) -> object:
    """Return a value of an unexpected type or size."""
    return random.choice(
        (
            lambda: random.choice(NUMBERS),
            lambda: word(random),
            lambda: random.choice((None, True, False, [], {}, [[]], 1.5, float("nan"), float("inf"), -0.0)),
            lambda: 10**400,
            lambda: [word(random)] * random.choice((1, 3, 10_000)),
            lambda: {word(random): word(random)},
        )
    )()


def change_json(value: object, random: Random) -> object:
    """Return nested values with one of them replaced, dropped, renamed or repeated."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        kind = random.random()
        if kind < 0.15:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.3:
            return {(word(random) if name == key else name): item for name, item in value.items()}
        return {name: change_json(item, random) if name == key else item for name, item in value.items()}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        kind = random.random()
        if kind < 0.15:
            return value[:at] + value[at + 1 :]
        if kind < 0.3:
            return value[:at] + [value[at]] * random.choice((2, 100)) + value[at:]
        return value[:at] + [change_json(value[at], random)] + value[at + 1 :]
    return odd_value(random)


def json_document(data: bytes, random: Random) -> bytes:
    """Change a value of a JSON document, or of one line of JSON lines."""
    lines = data.splitlines()
    try:
        return json.dumps(change_json(json.loads(data), random), ensure_ascii=random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError):
        pass
    at = random.randrange(len(lines)) if lines else 0
    try:
        lines[at] = json.dumps(change_json(json.loads(lines[at]), random)).encode()
    except (ValueError, IndexError, RecursionError):
        return random.choice(TEXT)(data, random)
    return b"\n".join(lines) + b"\n"


def toml_document(data: bytes, random: Random) -> bytes:
    """Replace the value, the key or the table of a line of TOML."""
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    at = random.randrange(len(lines))
    key, found, _ = lines[at].partition("=")
    new = word(random)
    literal = random.choice((new, json.dumps(new), f"[{new}]", f"{{a = {new}}}", "1979-05-27T07:32:00Z", "[" * 3000))
    if found and random.random() < 0.7:
        lines[at] = f"{key}= {literal}"
    else:
        lines.insert(at, random.choice((f"{new} = {literal}", f"[{new}]", f"[[{new}]]", lines[at], "a.b.c.d = 1")))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def table(data: bytes, random: Random) -> bytes:
    """Change a cell, a row or a column of a table of commas or spaces."""
    text = data.decode("utf-8", "replace")
    spaced = "," not in text[:2000]
    rows = [line.split() for line in text.splitlines()] if spaced else list(csv.reader(io.StringIO(text)))
    if not any(rows):
        return random.choice(TEXT)(data, random)
    row = random.choice([one for one in rows if one])
    at = random.randrange(len(row))
    kind = random.randrange(6)
    if kind <= 2:
        row[at] = word(random)
    elif kind == 3:
        row.insert(at, word(random))
    elif kind == 4:
        del row[at]
    else:
        rows.insert(random.randrange(len(rows)), list(row))
    if spaced:
        return "\n".join(" ".join(one) for one in rows).encode("utf-8", "surrogatepass")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


# --- Images and arrays


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file with a valid check sum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(data: bytes, random: Random) -> bytes:
    """Change a chunk of a PNG file, with valid check sums: sizes, modes, contents, bombs."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return random.choice(BYTES)(data, random)
    kind = random.randrange(7)
    at = random.randrange(len(chunks))
    header = bytearray(chunks[0][1])
    if kind == 0:
        struct.pack_into(">I", header, random.choice((0, 4)), random.choice(NUMBERS) & 0xFFFFFFFF)
    elif kind == 1:
        header[random.choice((8, 9, 10, 11, 12))] = random.choice((0, 1, 2, 3, 4, 6, 8, 16))
    elif kind == 2:
        side = random.choice((2000, 13_300, 60_000))
        header[:10] = struct.pack(">IIBB", side, side, 8, 0)
        packed = zlib.compress(bytes(min(side * (side + 1), 1 << 24)), 1)
        chunks = [chunks[0], (b"IDAT", packed), (b"IEND", b"")]
    elif kind == 3:
        chunks[at] = (chunks[at][0], random.choice(BYTES)(chunks[at][1], random))
    elif kind == 4:
        chunks.insert(at, random.choice(chunks))
    elif kind == 5:
        del chunks[at]
    else:
        text = zlib.compress(bytes(random.choice((100, 1 << 27))), 9)
        name = random.choice((b"zTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL", b"tRNS", b"PLTE"))
        chunks.insert(1, (name, random.choice((b"a\0\0" + text, b"", random.randbytes(50)))))
    if chunks and chunks[0][0] == b"IHDR" and kind <= 2:
        chunks[0] = (b"IHDR", bytes(header))
    return data[:8] + b"".join(png_chunk(*one) for one in chunks)


def npy(data: bytes, random: Random) -> bytes:
    """Change the header of a NumPy file: shape, type, order, length."""
    if data[:6] != b"\x93NUMPY":
        return random.choice(BYTES)(data, random)
    length = struct.unpack("<H", data[8:10])[0]
    header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    number = random.choice(NUMBERS)
    shape = random.choice((f"({number},)", f"({number}, {number})", "()", "(1,)*9", "(2.5, 3)", "[4, 3]", "(None, 1)"))
    kind = random.choice(
        ("'|O'", "'<U9'", "'<f8'", "'>f4'", "'|b1'", "'<c16'", "[('a', '<f4')]", "'<M8[s]'", "'zz'", "1")
    )
    choice = random.randrange(6)
    if choice == 0:
        header = re.sub(r"\([^)]*\)", lambda _: shape, header)
    elif choice == 1:
        header = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': {kind}", header)
    elif choice == 2:
        header = header.replace("False", random.choice(("True", "1", "None")))
    elif choice == 3:
        header = random.choice(("(" * 5000, "{'a':" * 500, "[].__class__", "", "{}", "{" + "9" * 9000 + "}"))
    elif choice == 4:
        header = random.choice(TEXT)(header.encode("latin-1"), random).decode("latin-1")
    else:
        body = random.choice(BYTES)(body, random)
    packed = header.encode("latin-1")[:60000]
    return data[:8] + struct.pack("<H", len(packed)) + packed + body


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the JSON header of a safetensors file, with the right length of the header."""
    length = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    if length > len(data):
        return random.choice(BYTES)(data, random)
    header = json_document(data[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


# --- Containers


def contents(name: str, data: bytes, random: Random) -> bytes:
    """Change the contents of a file by what its name says it is."""
    return random.choice(structured_mutations(name) or (any_bytes,))(data, random)


def zip_archive(data: bytes, random: Random) -> bytes:
    """Change the entries of a zip file: names, contents, order, flags, sizes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # the data may be damaged already, and the library raises exceptions of many classes
        return random.choice(BYTES)(data, random)
    if not entries:
        return random.choice(BYTES)(data, random)
    at = random.randrange(len(entries))
    info, body = entries[at]
    kind = random.randrange(8)
    if kind <= 2:
        entries[at] = (info, contents(info.filename, body, random))
    elif kind == 3:
        del entries[at]
    elif kind == 4:
        entries.insert(random.randrange(len(entries)), entries[at])
    elif kind == 5:
        info.filename = random.choice(
            (word(random)[:60_000], info.filename.upper(), "__MACOSX/._a.png", "a/", "\0.png")
        )
    elif kind == 6:
        info.compress_type = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        entries[at] = (info, random.choice((body, bytes(1 << 27), b"")))
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w") as archive:  # names may be duplicates
        for one, stored in entries:
            try:
                archive.writestr(one, stored)
            except (ValueError, UnicodeEncodeError, struct.error):
                continue
        if random.random() < 0.05:
            archive.comment = random.randbytes(random.choice((1, 60_000)))
    made = bytearray(out.getvalue())
    if (
        kind == 7
    ):  # a field of a header in the directory: version, flags, method, time, check sum, sizes, lengths, offset
        places = [found.start() for found in re.finditer(rb"PK\x01\x02|PK\x03\x04", bytes(made))]
        place = random.choice(places) + random.choice((6, 8, 10, 16, 20, 24, 28, 30, 32, 42))
        made[place : place + 4] = struct.pack("<I", random.choice(NUMBERS) & 0xFFFFFFFF)
    return bytes(made)


def tar_archive(data: bytes, random: Random) -> bytes:
    """Change the members of a tar file: names, contents, order, types, sizes."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(one, (archive.extractfile(one) or io.BytesIO()).read()) for one in archive.getmembers()]
    except Exception:  # the data may be damaged already, and the library raises exceptions of many classes
        return random.choice(BYTES)(data, random)
    if not members:
        return random.choice(BYTES)(data, random)
    at = random.randrange(len(members))
    info, body = members[at]
    kind = random.randrange(8)
    if kind <= 2:
        members[at] = (info, contents(info.name, body, random))
    elif kind == 3:
        del members[at]
    elif kind == 4:
        members.insert(random.randrange(len(members)), members[at])
    elif kind == 5:
        info.name = random.choice((word(random), info.name.upper(), "a/" * 200, info.name.partition(".")[0]))
    elif kind == 6:
        info.type = random.choice((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"Z"))
        info.linkname = random.choice(("../../x", "/etc/passwd", info.name, word(random)))
    out = io.BytesIO()
    style = random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=style) as archive:
        for one, stored in members:
            one.size = len(stored)
            if random.random() < 0.02:
                one.pax_headers = {random.choice(("path", "size", "mtime", "GNU.sparse.size")): word(random)}
            try:
                archive.addfile(one, io.BytesIO(stored))
            except (ValueError, UnicodeEncodeError):
                continue
    made = out.getvalue()
    if kind == 7:  # the size in a header, in octal or in base 256, with a valid check sum
        start = 512 * random.randrange(max(1, len(made) // 1024))
        header = bytearray(made[start : start + 512])
        number = abs(random.choice(NUMBERS))
        header[124:136] = random.choice(
            (b"%011o " % (number % 8**11), b"\x80" + number.to_bytes(11, "big"), b"-0000000001 ")
        )
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        made = made[:start] + bytes(header) + made[start + 512 :]
    return made


def gzip_stream(data: bytes, random: Random) -> bytes:
    """Change what a gzip stream holds, or append a member that grows by a factor of a thousand."""
    try:
        inner = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return random.choice(BYTES)(data, random)
    if random.random() < 0.05:
        packer = zlib.compressobj(9, wbits=31)
        return data + b"".join(packer.compress(bytes(1 << 24)) for _ in range(BOMB_BYTES >> 24)) + packer.flush()
    inner = tar_archive(inner, random) if inner[257:262] == b"ustar" else random.choice(BYTES)(inner, random)
    return gzip.compress(inner, 1, mtime=0)


def crc32c_masked(data: bytes) -> bytes:
    """Return the check sum of a TFRecord frame."""
    import google_crc32c

    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(data: bytes, random: Random) -> bytes:
    """Change records of a TFRecord file, with valid check sums."""
    records, at = [], 0
    while at + 12 <= len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        records.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    if not records:
        return random.choice(BYTES)(data, random)
    at = random.randrange(len(records))
    kind = random.randrange(4)
    if kind <= 1:
        records[at] = random.choice(BYTES)(records[at], random)
    elif kind == 2:
        del records[at]
    else:
        records.insert(at, random.choice((records[0], b"", bytes(1 << 20))))
    frames = []
    for record in records:
        size = struct.pack("<Q", len(record))
        frames.append(size + crc32c_masked(size) + record + crc32c_masked(record))
    if random.random() < 0.1:
        size = struct.pack("<Q", abs(random.choice(NUMBERS)))
        frames.append(size + crc32c_masked(size))
    return b"".join(frames)


STRUCTURED: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": json_document,
    "jsonl": json_document,
    "toml": toml_document,
    "csv": table,
    "txt": table,
    "png": png,
    "npy": npy,
    "labels": npy,
    "safetensors": safetensors,
    "zip": zip_archive,
    "pt": zip_archive,
    "tar": tar_archive,
    "gz": gzip_stream,
    "tfrecords": tfrecord,
}
"""Mutations by the suffix of a file's name."""

TEXT_SUFFIXES = ("json", "jsonl", "toml", "csv", "txt", "md", "cls")


def structured_mutations(name: str) -> tuple[Mutation, ...]:
    """Return the mutations that suit a file by its name, besides those of bytes; text has more of them."""
    suffix = name.rpartition(".")[2].lower()
    found = (STRUCTURED[suffix],) * 2 if suffix in STRUCTURED else ()
    return found + ((any_bytes,) if suffix in TEXT_SUFFIXES else ())


def mutate(name: str, data: bytes, random: Random) -> bytes:
    """Return the contents of a file with one to three mutations."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        structured = structured_mutations(name)
        if structured and random.random() < 0.6:
            try:
                data = random.choice(structured)(data, random)
            except Exception:  # an earlier mutation left nothing that has this structure
                data = any_bytes(data, random)
        else:
            data = any_bytes(data, random)
    return data
