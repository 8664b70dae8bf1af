"""Program that reads many mutations of a valid file under a memory limit: each is read or refused.

``python -m tests.formats.mutated_reader READERS FOLDER TIMES`` runs each of the readers in a forked process, because
the imports take seconds. It prints a line for each reader, the numbers of both, and ends with a traceback at the first
mutation that raises anything else.
"""

import functools
import gc
import gzip
import itertools
import json
import logging
import os
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from celebahq_builder.errors import CelebAHQError
from celebahq_builder.formats import cifar10, images, lsun, mnist, parquet, stylegan_zip, tfrecord, webdataset
from celebahq_builder.image_set import ImageSet
from celebahq_builder.parallel import peak_memory_bytes
from tests.formats import test_cifar10, test_lsun, test_mnist
from tests.formats.files import coded, zipped
from tests.formats.test_parquet_reader import table
from tests.formats.test_webdataset_reader import shard
from tests.hdf5.pyramids import noise

MEMORY_BYTES = 4 << 30
"""Address space, of which Python and the libraries need 2 GB."""

RESIDENT_BYTES = 1 << 30
"""Memory that reading and refusing may need."""

MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("inflate"), st.floats(0, 1), st.sampled_from([4, 8])),
        st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 600)),
        st.tuples(st.just("delete"), st.floats(0, 1), st.integers(1, 600)),
        st.tuples(st.just("zero"), st.floats(0, 1), st.integers(1, 600)),
    ),
    min_size=1,
    max_size=3,
)


def mutate(data: bytes, mutations: list[tuple[str, float, int]]) -> bytes:
    for kind, place, number in mutations:
        at = int(place * len(data))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ number]) + data[at + 1 :]
        elif kind == "inflate":
            data = data[:at] + b"\xff\xff\xff\x7f\xff\xff\xff\x7f"[:number] + data[at + number :]
        elif kind == "repeat":
            data = data[: at + number] + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + number :]
        elif kind == "zero":
            data = data[:at] + bytes(len(data[at : at + number])) + data[at + number :]
    return data


Reader = tuple[Path, bytes, Callable[[bytes], bytes], Callable[[], ImageSet]]
"""File to write, its valid content before it is packed, the packing, and the reader."""

IMAGE_FILES = {
    "a.png": coded(noise(1, 8)[0]),
    "b.jpg": coded(noise(1, 8, seed=1)[0], "jpeg"),
    "c.webp": coded(noise(1, 8, seed=2)[0], "webp"),
    "d.tif": coded(noise(1, 8, seed=3)[0], "tiff"),
    "e.bmp": coded(noise(1, 8, seed=4)[0], "bmp"),
    "f.avif": coded(noise(1, 8, seed=5)[0], "avif"),
    "g/g.png": coded(noise(1, 8, channels=1)[0]),
}

TABLES = {
    "metadata.jsonl": "\n".join(
        json.dumps({"file_name": name, "age": number, "label": number % 3}) for number, name in enumerate(IMAGE_FILES)
    ).encode(),
    "metadata.csv": "\n".join(["file_name,age,young", *(f"{name},1.5,true" for name in IMAGE_FILES)]).encode(),
    "dataset.json": json.dumps({"labels": [[name, number % 2] for number, name in enumerate(IMAGE_FILES)]}).encode(),
}


def file_of_a_folder(folder: Path, name: str) -> Reader:
    """Return the reader of a folder of images of which one file, an image or the table, is mutated."""
    table = name if name in TABLES else "metadata.jsonl"
    data = {**IMAGE_FILES, table: TABLES[table]}
    for one, content in data.items():
        (folder / one).parent.mkdir(exist_ok=True)
        (folder / one).write_bytes(content)
    resize = itertools.cycle((None, 8))
    return folder / name, data[name], same, lambda: images.read(folder, next(resize))


def zip_file(folder: Path) -> Reader:
    path = zipped(folder / "set.zip", {**IMAGE_FILES, **TABLES}, zipfile.ZIP_DEFLATED)
    return path, path.read_bytes(), same, lambda: stylegan_zip.read(path)


def zip_directory(folder: Path) -> Reader:
    path = zipped(folder / "set.zip", {**IMAGE_FILES, **TABLES})
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    return path, data[start:], lambda directory: data[:start] + directory, lambda: stylegan_zip.read(path, 8)


def entry_of_a_zip(folder: Path, name: str, how: int) -> Reader:
    """Return the reader of a zip of which one entry is mutated before it is packed."""
    path, entries = folder / "set.zip", {**IMAGE_FILES, **TABLES}
    resize = itertools.cycle((None, 8))
    pack = lambda data: zipped(path, {**entries, name: data}, how).read_bytes()  # noqa: E731
    return path, entries[name], pack, lambda: stylegan_zip.read(path, next(resize))


OF_IMAGES: dict[str, Callable[[Path], Reader]] = {
    **{f"folder:{name}": functools.partial(file_of_a_folder, name=name) for name in (*IMAGE_FILES, *TABLES)},
    "zip:c.webp": functools.partial(entry_of_a_zip, name="c.webp", how=zipfile.ZIP_STORED),
    "zip:metadata.jsonl": functools.partial(entry_of_a_zip, name="metadata.jsonl", how=zipfile.ZIP_BZIP2),
    "zip:dataset.json": functools.partial(entry_of_a_zip, name="dataset.json", how=zipfile.ZIP_LZMA),
    "zip_file": zip_file,
    "zip_directory": zip_directory,
}
"""Readers of folders and zips of images by name."""


def same(data: bytes) -> bytes:
    return data


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def parquet_file(folder: Path) -> Reader:
    columns = {"label": ["a", "b", "a"], "age": [1, 2, 3], "box": [[1.0, 2.0]] * 3, "on": [True, False, True]}
    path = table(folder / "a.parquet", noise(3, 8), columns)
    return path, path.read_bytes(), same, lambda: parquet.read(path)


def parquet_footer(folder: Path) -> Reader:
    path = folder / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([{"bytes": coded(noise(1, 4)[0])}])}), path, compression="zstd")
    data = path.read_bytes()
    start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    return path, data[start:-8], lambda footer: data[:start] + footer + data[-8:], lambda: parquet.read(path)


def tar_members() -> list[tuple[str, bytes]]:
    data = noise(3, 8)
    return [
        (f"{i}.{kind}", one)
        for i in range(3)
        for kind, one in (("png", coded(data[i])), ("cls", b"1"), ("json", b'{"age": 3, "name": "x"}'))
    ]


def webdataset_shard(folder: Path) -> Reader:
    path = shard(folder / "0.tar", tar_members())
    return path, path.read_bytes(), same, lambda: webdataset.read(path)


def webdataset_gzip(folder: Path) -> Reader:
    path = folder / "0.tar.gz"
    data = packed(shard(folder / "0.tar", tar_members()).read_bytes())
    return path, data, same, lambda: webdataset.read(path)


def webdataset_in_gzip(folder: Path) -> Reader:
    path = folder / "0.tar.gz"
    return path, shard(folder / "0.tar", tar_members()).read_bytes(), packed, lambda: webdataset.read(path)


def tfrecord_file(folder: Path) -> Reader:
    path = folder / "a.tfrecords"
    data = b"".join(tfrecord.frame(tfrecord.encode_example(one)) for one in noise(3, 8))
    return path, data, same, lambda: tfrecord.read(path)


def tfrecord_payload(folder: Path) -> Reader:
    path = folder / "a.tfrecords"
    return path, tfrecord.encode_example(noise(1, 8)[0]), tfrecord.frame, lambda: tfrecord.read(path)


def lmdb_file(folder: Path) -> Reader:
    path = test_lsun.database(folder / "lmdb", test_lsun.photos()) / "data.mdb"
    return path, path.read_bytes(), same, lambda: lsun.read(path, 8)


def cifar_pickle(folder: Path) -> Reader:
    test_cifar10.folder(folder / "cifar", test_cifar10.python_files())
    path = folder / "cifar" / "data_batch_1"
    read = lambda: cifar10.read(path.parent, per_batch=test_cifar10.PER_BATCH)  # noqa: E731
    data = path.read_bytes()
    pixels = test_cifar10.rows(1)[1].tobytes()
    start = data.index(pixels)
    return path, data.replace(pixels, b""), lambda rest: rest[:start] + pixels + rest[start:], read


def cifar_archive(folder: Path) -> Reader:
    path = folder / "cifar.tar.gz"
    data = gzip.decompress(test_cifar10.archive(path, "cifar-10-batches-py", test_cifar10.python_files()).read_bytes())
    return path, data, packed, lambda: cifar10.read(path, per_batch=test_cifar10.PER_BATCH)


def mnist_images(folder: Path) -> Reader:
    test_mnist.write(folder, test_mnist.idx(test_mnist.IMAGES[:, :28]), test_mnist.idx(test_mnist.CLASSES), packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    return path, data[:16], lambda header: packed(header + data[16:]), lambda: mnist.read(folder)


def mnist_labels(folder: Path) -> Reader:
    test_mnist.write(folder, test_mnist.idx(test_mnist.IMAGES), test_mnist.idx(test_mnist.CLASSES), packed=True)
    path = folder / "train-labels-idx1-ubyte.gz"
    return path, path.read_bytes(), same, lambda: mnist.read(folder)


def main(name: str, folder: Path, times: int) -> None:
    logging.disable()
    path, data, pack, read = (OF_IMAGES.get(name) or globals()[name])(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    outcomes = {"read": 0, "refused": 0}
    path.write_bytes(pack(data))
    assert list(read().images())  # the file without a mutation is valid

    @seed(0)
    @settings(max_examples=times, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(MUTATIONS)
    def run(mutations: list[tuple[str, float, int]]) -> None:
        path.write_bytes(pack(mutate(data, mutations)))
        try:
            for image in read().images():
                assert image.pixels.dtype == np.uint8
            outcomes["read"] += 1
        except CelebAHQError as error:
            line = str(error)
            assert line.isprintable()
            assert len(line) < 2000
            assert folder.name in line
            outcomes["refused"] += 1

    run()
    assert peak_memory_bytes() < RESIDENT_BYTES
    sys.stdout.write(f"{name} {outcomes['read']} {outcomes['refused']}\n")


if __name__ == "__main__":
    given(MUTATIONS)(lambda _: None)()  # hypothesis prepares itself once, not in each of the processes
    gc.freeze()  # else each of the processes visits, and so copies, all objects of the libraries
    for reader in sys.argv[1].split(","):
        child = os.fork()
        if child == 0:
            place = Path(sys.argv[2], reader.replace("/", "_"))
            place.mkdir()
            main(reader, place, int(sys.argv[3]))
            break
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"{reader} failed")
