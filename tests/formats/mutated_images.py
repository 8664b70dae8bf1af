"""Readers on mutations of good files, in limited memory: ``python -m tests.formats.mutated_images FORMAT TIMES``.

Ends with status 0 if every mutation is read or refused by a CelebAHQError.
"""

import io
import json
import logging
import resource
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats import find_format
from celebahq_builder.parallel import peak_memory_bytes

MEMORY_BYTES = 3 * 2**30
"""Address space of the process, most of which are libraries and the stacks of threads."""

RESIDENT_KIB = 2**20
"""Largest resident memory that reading and refusing may need, 1 GB."""

RESIZES = (None, 8)


def encoded(seed: int, kind: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    "a.png": encoded(0, "PNG"),
    "b.jpg": encoded(1, "JPEG"),
    "c.webp": encoded(2, "WEBP"),
    "d.tif": encoded(3, "TIFF"),
    "e.bmp": encoded(4, "BMP"),
    "f.avif": encoded(5, "AVIF"),
    "g/g.png": encoded(6, "PNG", "L"),
}

ROWS = [{"file_name": name, "age": number, "label": number % 3} for number, name in enumerate(FILES)]

TABLES = {
    "metadata.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "metadata.csv": "\n".join(["file_name,age,young", *(f"{name},1.5,true" for name in FILES)]).encode(),
    "dataset.json": json.dumps({"labels": [[name, number % 2] for number, name in enumerate(FILES)]}).encode(),
}

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut", "large"]), st.floats(0, 1), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Return data after some changes, each at a share of its length; the beginning changes more often."""
    for kind, share, value in changes:
        at = int(share**2 * len(data))
        head, tail = data[:at], data[at:]
        data = {
            "set": head + bytes([value]) + tail[1:],
            "insert": head + bytes([value]) * (value % 9 + 1) + tail,
            "delete": head + tail[value % 9 + 1 :],
            "repeat": head + head[-value - 1 :] + tail,
            "cut": head,
            "large": head + b"\xff\xff\xff\x7f" + tail[4:],
        }[kind]
    return data


def folder(root: Path, changed: str, changes: list[tuple[str, float, int]]) -> Path:
    """Write the files of a folder, with one table and one changed file."""
    table = changed if changed in TABLES else [*TABLES][len(changes) % 3]
    for name, data in {**FILES, table: TABLES[table]}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(mutated(data, changes) if name == changed else data)
    return root


def archive(root: Path, how: int, inside: str, changes: list[tuple[str, float, int]]) -> Path:
    """Write a zip that is changed: an entry before it is packed, or the zip itself."""
    root.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as packed:
        for name, data in {**FILES, **TABLES}.items():
            packed.writestr(f"set/{name}", mutated(data, changes) if name == inside else data)
    whole = buffer.getvalue()
    if not inside:  # the beginning of a zip, or its directory
        cut = whole.rfind(b"PK\1\2", 0, len(whole) - 300) if len(changes) % 2 else 0
        whole = whole[:cut] + mutated(whole[cut:], changes)
    (root / "set.zip").write_bytes(whole)
    return root / "set.zip"


tried = refused = 0


def check(kind: str, path: Path, resize: int | None) -> None:
    global tried, refused
    tried += 1
    try:
        source = find_format(kind).open(path, resize, ())
        for image in source.images():
            assert image.pixels.shape[1:] == (source.resolution, source.resolution)
    except CelebAHQError as error:
        if not str(error).isprintable():
            raise ValueError(str(error)) from error
        refused += 1
    finally:
        shutil.rmtree(path if path.is_dir() else path.parent)


@given(st.sampled_from([*FILES, *TABLES]), CHANGES, st.sampled_from(RESIZES))
def check_folders(changed: str, changes: list[tuple[str, float, int]], resize: int | None) -> None:
    check("images", folder(Path(tempfile.mkdtemp()) / "set", changed, changes), resize)


PACKING = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])


@given(PACKING, st.sampled_from(["", "", *FILES, *TABLES]), CHANGES, st.sampled_from(RESIZES))
def check_zips(how: int, inside: str, changes: list[tuple[str, float, int]], resize: int | None) -> None:
    check("stylegan-zip", archive(Path(tempfile.mkdtemp()) / "set", how, inside, changes), resize)


if __name__ == "__main__":
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    kind, times = sys.argv[1:]
    limits = settings(max_examples=int(times), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    limits({"images": check_folders, "stylegan-zip": check_zips}[kind])()
    used = peak_memory_bytes() // 1024
    assert used < RESIDENT_KIB, f"{used} KiB"
    sys.stdout.write(f"{tried} tried, {refused} refused\n")
