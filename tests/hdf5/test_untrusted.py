"""Damaged, foreign and hostile HDF5 files: each is read, or refused with one line."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from celebahq_builder.errors import CelebAHQError, FormatError
from celebahq_builder.formats.hdf5 import LevelImageSet
from celebahq_builder.hdf5 import untrusted
from celebahq_builder.hdf5.chunks import LevelReader
from celebahq_builder.hdf5.labels import labels_path, read_labels
from celebahq_builder.hdf5.reader import open_pyramid
from tests.hdf5.files import hashes, noise, store_unchecked, trust_if_sound

Change = Callable[[h5py.File], object]


def sound(path: Path) -> Path:
    images = noise(3, 4)
    columns = {"file": ["a.png", "b.png", "c.png"], "score": np.array([0.5, 0.1, 0.2]), "sha256": hashes(images)}
    return store_unchecked(path, images, **columns)


def changed(path: Path, change: Change) -> Path:
    with h5py.File(sound(path), "r+") as file:
        change(file)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    return message


def read_all(path: Path) -> None:
    """Read what the commands read."""
    with open_pyramid(path) as file:
        list(file.problems())
        dict(file.photos)
        dict(file.file.attrs)
    with LevelImageSet(path) as level:
        assert level.labels is None or level.label_names is not None
        assert len(list(level.images())) == level.count
        level.metadata.record(0)


def replaced(name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def created(name: str, **arguments: object) -> Change:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **arguments)

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 3, 2, 2), np.uint8)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3, 3, 2, 2))
    del file["data2x2"]
    file.create_virtual_dataset("data2x2", layout)


def shared_text(file: h5py.File) -> None:
    """Let all rows of a text column be one text in the file, so that the column takes more memory than the file."""
    del file["photos/file"]
    column = file.create_dataset("photos/file", (50_000,), h5py.string_dtype(), chunks=(50_000,), compression="gzip")
    column[0] = "x" * 60_000
    chunk = np.empty((50_000, 16), np.uint8)
    file.flush()
    raw = column.id.read_direct_chunk((0,))[1]
    import zlib

    chunk[:] = np.frombuffer(zlib.decompress(raw), np.uint8).reshape(-1, 16)[0]
    column.id.write_direct_chunk((0,), zlib.compress(chunk.tobytes()))


CHANGES: dict[str, tuple[Change, str]] = {
    "soft link": (replaced("data2x2", h5py.SoftLink("/nowhere")), "data2x2 is a soft link, expected the data itself"),
    "external link": (replaced("data2x2", h5py.ExternalLink("/etc/passwd", "/x")), "data2x2 is a link to another file"),
    "soft link to a column": (replaced("photos/score", h5py.SoftLink("/data1x1")), "photos/score is a soft link"),
    "group instead of a level": (lambda f: (f.pop("data2x2"), f.create_group("data2x2")), "data2x2 is not a level"),
    "type instead of a level": (replaced("data2x2", np.dtype(np.uint8)), "data2x2 is not a level"),
    "another level": (
        lambda f: (f.pop("data2x2"), f.__setitem__("data2x2", f["data4x4"])),
        r"data2x2 is uint8 .3, 3, 4",
    ),
    "no dataspace": (replaced("data2x2", h5py.Empty("u1")), "data2x2 has no shape, expected an array"),
    "wrong type": (replaced("data2x2", np.zeros((3, 3, 2, 2), np.float32)), "data2x2 is float32"),
    "wrong rank": (replaced("data4x4", np.zeros((3, 48), np.uint8)), r"data4x4 has shape \[3, 48\]"),
    "compound level": (replaced("data2x2", np.zeros((3, 3, 2, 2), [("a", "u1")])), "data2x2 is "),
    "virtual": (virtual, "the data of data2x2 are in other files"),
    "external data": (
        created("data2x2", shape=(3, 3, 2, 2), dtype="u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
        "the data of data2x2 are in other files",
    ),
    "external column": (
        created("photos/score", shape=(3,), dtype="u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
        "the data of photos/score are in other files",
    ),
    "huge chunk": (
        created("data2x2", shape=(3, 3, 2, 2), maxshape=(None,) * 4, dtype="u1", chunks=(2_300_000, 250, 2, 2)),
        "data2x2 is announced with chunks of 2300000000 bytes",
    ),
    "a billion images": (
        created("data4x4", shape=(10**9, 3, 4, 4), dtype="u1", chunks=(1, 3, 4, 4)),
        "data4x4 is announced with 1000000000 rows; at most 50000000",
    ),
    "huge images": (
        created("data4x4", shape=(3, 3 * 10**9, 4, 4), dtype="u1", chunks=(1, 3, 4, 4)),
        "data4x4 is announced with images of 48000000000 bytes",
    ),
    "photos as a dataset": (lambda f: (f.pop("photos"), f.__setitem__("photos", 1)), "photos is not a group"),
    "column of records": (
        replaced("photos/score", np.zeros(3, [("a", "f4")])),
        r"photos/score holds \[\('a', '<f4'\)\]",
    ),
    "column of references": (created("photos/score", shape=(3,), dtype=h5py.ref_dtype), "photos/score holds object"),
    "column of lists": (created("photos/score", shape=(3,), dtype=h5py.vlen_dtype("f4")), "photos/score holds object"),
    "column of one value": (replaced("photos/score", 1.0), "photos/score is a single value"),
    "column without a shape": (replaced("photos/score", h5py.Empty("f8")), "photos/score has no shape"),
    "wide column": (
        created("photos/score", shape=(3, 10**10), dtype="f8", chunks=(1, 10**6)),
        "photos/score is announced with 240000000000 bytes",
    ),
    "column of other length": (replaced("photos/score", np.zeros(2)), "photos/score has 2 rows, expected 3"),
    "long text": (replaced("photos/file", ["x" * 70_000, "b", "c"]), "photos/file holds longer texts than 65536 bytes"),
    "shared text": (shared_text, "more text than the file has bytes"),
    "column with a control character": (
        lambda f: f.__setitem__("photos/a\x1b[31m\n", np.zeros(3)),
        r"the name photos/a\\x1b\[31m\\n has characters that cannot be printed",
    ),
    "attribute with a control character": (lambda f: f.attrs.__setitem__("a\n", 1), r"the name a\\n has characters"),
    "huge attribute": (
        lambda f: f.attrs.__setitem__("recipe", "x" * (70 << 20)),
        "its attribute recipe is too large; at most 67108864 bytes",
    ),
    "level without data": (created("data2x2", shape=(3, 3, 2, 2), dtype="u1"), "data2x2 was never written"),
    "level without chunks": (
        created("data4x4", shape=(3, 3, 4, 4), dtype="u1", chunks=(1, 3, 4, 4)),
        "data4x4 lacks 3 of its 3 chunks",
    ),
    "level without chunks of an unknown filter": (
        created("data4x4", shape=(3, 3, 4, 4), dtype="u1", chunks=(1, 3, 4, 4), compression="lzf"),
        "data4x4 lacks 3 of its 3 chunks",
    ),
    "column without data": (created("photos/score", shape=(3,), dtype="f8"), "photos/score lacks its data, which HDF5"),
    "text column without data": (
        created("photos/file", shape=(3,), dtype=h5py.string_dtype()),
        "photos/file lacks its data, which HDF5",
    ),
    "column without chunks": (
        created("photos/score", shape=(3,), dtype="f8", chunks=(1,)),
        "photos/score lacks 3 of its 3 chunks",
    ),
    "column without a chunk": (
        lambda f: (
            created("photos/score", shape=(3,), dtype="f8", chunks=(2,))(f)
            or f["photos/score"].write_direct(np.zeros(3), np.s_[:2], np.s_[:2])
        ),
        "photos/score lacks 1 of its 2 chunks",
    ),
    "attributes that are text": (
        lambda f: f.__setitem__("photos/attributes", ["a", "b", "c"]),
        "labels are .*expected",
    ),
    "attributes of one axis": (
        lambda f: f.__setitem__("photos/attributes", np.ones(3, "i1")),
        r"labels are int8 \[3\]",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    """By the check, which runs in this process here, or else by the readers."""
    change, says = CHANGES[kind]
    path = trust_if_sound(changed(tmp_path / "data.h5", change))
    problem = untrusted.find_problem(path)
    if problem is None:
        with pytest.raises(FormatError) as caught:
            LevelReader(path, 2).read(range(3)) if says.startswith("data2x2 was") else read_all(path)
        problem = str(caught.value)
    assert re.search(says, problem)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__setitem__("other", h5py.SoftLink("/nowhere")),
        lambda f: f.__setitem__("photos/again", f["photos/score"]),
        lambda f: f.__setitem__("photos/loop", f["/"]),
        lambda f: f.__setitem__("photos/attribute_names", [1, 2]),
        lambda f: f.attrs.__setitem__("empty", h5py.Empty("f4")),
        lambda f: f.attrs.__setitem__("list", [1, 2, 3]),
    ],
    ids=["dead link of another name", "hard link", "hard link to the root", "names as numbers", "empty", "list"],
)
def test_what_does_no_harm(change: Change, tmp_path: Path) -> None:
    path = changed(tmp_path / "data.h5", change)
    assert untrusted.find_problem(path) is None
    read_all(trust_if_sound(path))


def test_data_of_another_file_stay_unread(tmp_path: Path) -> None:
    """A file cannot bring bytes of other files of the machine into a result."""
    path = tmp_path / "data.h5"
    (tmp_path / "secret").write_bytes(bytes(1000))
    arguments = {"shape": (3, 3, 4, 4), "dtype": "u1", "external": [(str(tmp_path / "secret"), 0, 144)]}
    changed(path, created("data4x4", **arguments))
    for opens in (LevelReader, LevelImageSet, open_pyramid):
        with pytest.raises(FormatError, match="the data of data4x4 are in other files"):
            opens(path)


# --- Files of another kind ---------------------------------------------------------------------------------------


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    for content, says in {
        b"\x89PNG\r\n\x1a\n" + bytes(100): "is not an HDF5 file: it starts with the signature of PNG",
        b"\xff\xd8\xff\xe0": "it starts with the signature of JPEG",
        b"": "is not an HDF5 file: it is empty",
        b"0,1,2\n": "is not an HDF5 file: it has no signature",
    }.items():
        path.write_bytes(content)
        assert says in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    assert "it starts with the signature of zip" in refusal(path)
    path.unlink()
    assert "does not exist" in refusal(path)
    path.mkdir()
    assert "is a folder; expected an HDF5 file" in refusal(path)
    os.mkfifo(tmp_path / "pipe.h5")
    assert "is a named pipe; expected an HDF5 file" in refusal(tmp_path / "pipe.h5")


def test_signature_behind_other_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w", userblock_size=2048) as file:
        for r in (2, 1):
            file[f"data{r}x{r}"] = noise(3, r)
    path = tmp_path / "data.h5"
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])
    with open_pyramid(path) as file:
        assert file.count == 3


# --- The child process -------------------------------------------------------------------------------------------


def test_endless_loop_of_hdf5(tmp_path: Path) -> None:
    """An object of size 0 in a heap makes HDF5 2.0 read it for ever."""
    path = tmp_path / "data.h5"
    with h5py.File(sound(path), "r+") as file:
        file.attrs["recipe"] = "paper"
    raw = bytearray(path.read_bytes())
    heaps = [at for at in range(len(raw)) if raw[at : at + 4] == b"GCOL"]
    assert heaps
    for at in heaps:
        raw[at + 16 : at + 18] = (0xFFFF).to_bytes(2, "little")
        raw[at + 24 : at + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(raw)
    start = os.times()
    assert "is not a readable HDF5 file: " in refusal(path)
    now = os.times()
    assert now.children_user + now.children_system - start.children_user - start.children_system < 10


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ("while True: pass", "HDF5 does not finish reading it"),
        ("import os; os.abort()", r"HDF5 crashes on it \(SIGABRT\)"),
        ("bytearray(1 << 40)", "cannot be checked: MemoryError"),
    ],
)
def test_end_of_the_child(ends: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real child is replaced by programs that meet its limits at once."""
    run = subprocess.run
    limits = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\n"

    def other(command: list[str], **keywords: object) -> subprocess.CompletedProcess[bytes]:
        return run([sys.executable, "-c", limits + ends], **keywords)

    monkeypatch.setattr(untrusted.subprocess, "run", other)
    with pytest.raises(FormatError, match=says):
        open_pyramid(sound(tmp_path / "data.h5"))


def test_limits_of_the_child(tmp_path: Path) -> None:
    """The check of a file runs under the limits of processor time and memory that `limits` names."""
    code = (
        "import resource, sys; from pathlib import Path; from celebahq_builder.hdf5 import untrusted; "
        "untrusted._main(Path(sys.argv[1])); "
        "print(resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_AS)[0] < 1 << 31)"
    )
    command = [sys.executable, "-c", code, str(sound(tmp_path / "data.h5"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "null2 True\n"


def test_one_check_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    check = untrusted._check_in_child
    monkeypatch.setattr(untrusted, "_check_in_child", lambda path: (checked.append(path), check(path)))
    path = sound(tmp_path / "data.h5")
    for _ in range(3):
        LevelReader(path).read([0])
    assert checked == [path]
    path.write_bytes(path.read_bytes() + b"\0")
    LevelReader(path)
    assert checked == [path, path]


# --- Labels ------------------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = bytes(64)) -> bytes:
    line = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + body


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1000000000000), }"), "its header announces 12000"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1), "), "is not a readable array"),
        (npy("(" * 100), "is not a readable array"),
        (npy("{{1}}"), "is not a readable array"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 1), }"), "labels are object"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -1), }"), "is not a readable array"),
        (b"PK\x03\x04" + bytes(100), "is not a readable array"),
        (b"\x93NUMPY\x09\x00", "is not a readable array"),
        (b"", "is not a readable array"),
    ],
)
def test_labels_that_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    labels_path(path).write_bytes(content)
    with pytest.raises(FormatError, match=says):
        read_labels(path, 3)


def test_labels_in_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(labels_path(tmp_path / "data.h5"))
    with pytest.raises(FormatError, match="a named pipe, not a regular file"):
        read_labels(tmp_path / "data.h5", 3)


# --- Mutations ---------------------------------------------------------------------------------------------------

MUTATIONS = 300
PARTS = 10
SECONDS = 30
"""Time for one file, after which SIGALRM ends the process."""


def mutate(raw: bytes, chance: random.Random) -> bytes:
    """Return a file with a few changed bytes, most of them in the metadata; or a part of the file."""
    changed = bytearray(raw)
    if chance.random() < 0.1:
        return bytes(changed[: chance.randrange(len(changed))])
    signatures = [at for at in range(len(raw)) if raw[at : at + 4] in (b"GCOL", b"TREE", b"SNOD", b"HEAP", b"\x89HDF")]
    for _ in range(chance.randint(1, 4)):
        near = chance.random() < 0.7
        at = chance.choice(signatures) + chance.randrange(256) if near else chance.randrange(len(raw))
        values = (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
        changed[at % len(changed)] = chance.choice(values)
    return bytes(changed)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_mutations_are_read_or_refused(part: int, tmp_path: Path) -> None:
    """A process under limits reads changed files; no error but ours may be raised, and nothing may end the process."""
    with h5py.File(sound(tmp_path / "good.h5"), "r+") as file:
        file.attrs["recipe"] = "paper"
    seeds = f"range({part}, {MUTATIONS}, {PARTS})"
    code = f"import tests.hdf5.test_untrusted as test; test.read_mutations({str(tmp_path)!r}, {seeds})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    tried, read = map(int, done.stdout.splitlines()[-1].split())
    assert 0 < read < tried


def read_mutations(folder: str, seeds: range) -> None:
    """Read changed files in this process; print the seed of each, then the numbers of files tried and read."""
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    raw, read = Path(folder, "good.h5").read_bytes(), 0
    for seed in seeds:
        print("seed", seed, flush=True)  # noqa: T201
        path = Path(folder, f"{seed}.h5")
        path.write_bytes(mutate(raw, random.Random(seed)))
        signal.alarm(SECONDS)
        try:
            read_all(path)
            read += 1
        except CelebAHQError as error:
            assert str(error).isprintable()  # noqa: PT017 (this is no test by itself)
        signal.alarm(0)
    print(len(seeds), read)  # noqa: T201


def test_problem_of_a_sound_file(tmp_path: Path) -> None:
    assert untrusted.find_problem(sound(tmp_path / "data.h5")) is None
