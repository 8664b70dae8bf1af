"""Reading by pyarrow and LMDB in a child process.

A damaged file can make these libraries end their process or fill the memory. The functions here run in a child process
with a limit on its memory and on the time that it works for one value. The children are forked by a server, a process
that has imported the libraries, because a start takes 0.2 s and a fork 0.01 s.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import itertools
import json
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BufferedRWPair
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_ITEMS, MAX_VALUE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = TypeVar("Value")

MEMORY_BYTES = 1 << 29
"""Memory of a child process, 512 MB, of which Python and a library take 120."""

VALUE_S = 60
"""Processor time in seconds that one value may take; reading a page of 1 GB takes about two."""

REMEDY = "get or make it again"


# --- The child processes

LIBRARIES = ("numpy", "pyarrow.parquet", "pyarrow.compute", "lmdb")
"""Libraries that the server imports if they are installed, so that its children need not."""


def run_isolated(
    memory_bytes: int, path: Path, function: Callable[..., Iterator[Value]], *arguments: object
) -> Iterator[Value]:
    """Yield what a generator function yields in a child process, which ends with this generator.

    Args:
        memory_bytes: limit on the memory of the child.
        path: file or folder for error messages.
        function: importable by name.
        arguments: of the function, picklable.

    Raises:
        FormatError: the child was ended by its library or by a limit.
        Exception: any exception of `function`.
    """
    job = (memory_bytes, path, function, arguments)
    answers = itertools.chain(_answers(job), (("died", -signal.SIGKILL),))
    first = next(answers)
    if first == ("died", -signal.SIGKILL):  # with its server, perhaps; another one is started
        _server.cache_clear()
        answers = itertools.chain(_answers(job), (("died", -signal.SIGKILL),))
        first = next(answers)
    for kind, value in itertools.chain((first,), answers):
        if kind == "end":
            return
        if kind == "error":
            raise value
        if kind == "died":
            raise FormatError(f"{path} {_reason(value)}; {REMEDY}")
        yield value


def _answers(job: object) -> Iterator[tuple[str, Any]]:
    """Yield what a new child process sends, until it ends."""
    with _connection() as stream, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        _send(stream, job)
        while True:
            yield _receive(stream)


def _reason(status: int) -> str:
    if status == -signal.SIGPROF:
        return "takes too long to be read; it is damaged"
    what = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"is damaged: the library that reads it ended with {what}"


@contextlib.contextmanager
def _connection() -> Iterator[BufferedRWPair]:
    """Start a child process, and yield a stream to it."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                socket.send_fds(_server(os.getpid()), [b"x"], [theirs.fileno()])
            except OSError:  # the server was killed
                _server.cache_clear()
                socket.send_fds(_server(os.getpid()), [b"x"], [theirs.fileno()])
        stream = ours.makefile("rwb")
        try:
            yield stream
        finally:
            with contextlib.suppress(OSError):
                stream.close()


@functools.cache
def _server(owner: int) -> socket.socket:
    """Start the process that forks children for the process `owner`; it ends with it."""
    ours, theirs = socket.socketpair()
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={**os.environ, **threads, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        process_group=0,  # Ctrl-C in a terminal reaches the main process only
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        if os.getpid() == owner:
            process.kill()  # its children end when they write
            process.wait()

    atexit.register(stop)
    return ours


def serve(descriptor: int) -> None:
    """Fork a child for each connection that arrives through a socket, until it is closed."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
            if not message:
                return
            if os.fork() == 0:
                requests.close()
                _supervise(socket.socket(fileno=descriptors[0]).makefile("rwb"))
            os.close(descriptors[0])


def _supervise(stream: BufferedRWPair) -> NoReturn:
    """Fork a child that works, and report if it is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):  # the reader has closed the connection
            _work(stream)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        with contextlib.suppress(OSError):
            _send(stream, ("died", status))
    os._exit(0)


def _work(stream: BufferedRWPair) -> None:
    memory_bytes, path, function, arguments = _receive(stream)
    for limit, value in ((resource.RLIMIT_DATA, memory_bytes), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force
            resource.setrlimit(limit, (value, value))
    try:
        signal.setitimer(signal.ITIMER_PROF, VALUE_S)
        for value in function(*arguments):
            _send(stream, ("value", value))
            signal.setitimer(signal.ITIMER_PROF, VALUE_S)
        answer: tuple[str, object] = ("end", None)
    except OSError:
        raise
    except MemoryError:
        bound = f"more than {memory_bytes >> 20} MB of memory"
        bomb = f"{path} needs {bound} to be read; it looks like a decompression bomb, delete it"
        answer = ("error", FormatError(bomb))
    except Exception as error:
        answer = ("error", error)
    _send(stream, answer)


def _send(stream: BufferedRWPair, value: object) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)
    stream.flush()


def _receive(stream: BufferedRWPair) -> Any:
    header = stream.read(8)
    return pickle.loads(stream.read(int.from_bytes(header, "little")) if len(header) == 8 else b"")


# --- Parquet, by pyarrow

BUFFER_BYTES = 2**20
"""Size of reads within a column. Without a buffer, pyarrow reads the column of a whole row group at once."""

BATCH_IMAGES, BATCH_ROWS = 16, 256
"""Images that are read together; rows of the other columns that are read together."""

BATCH_BYTES = 2**24
"""Maximum size of `BATCH_ROWS` rows of texts, lists and structs, pickled."""

UNPACKED_BYTES, UNPACKED_RATIO = 2**26, 1000
"""Images are compressed: a row group that unpacks to more bytes and by a larger ratio is a decompression bomb."""

ROW_BYTES = 32
"""An image file needs more bytes; a file that announces more rows than fit is not a data set of images."""


class ParquetFacts(NamedTuple):
    """The contents of some Parquet files with the same columns, from their footers."""

    image: str
    """Name of the column of images."""
    has_paths: bool
    others: list[str]
    """Names of the columns that do not hold bytes."""
    ignored: list[str]
    """Names of the columns that hold bytes, other than the images."""
    counts: list[int]
    """Rows of each file."""
    memory_bytes: int
    """Limit on the memory for reading the images: a page can hold all images of a row group."""
    class_names: tuple[str, ...]
    """Names of the classes of the column ``label`` if `datasets` has stored them in the schema."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file, and turn every error of pyarrow into a FormatError."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            yield file
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = printable(" ".join(str(error).split()))[:300]
        raise FormatError(f"{path} is not readable Parquet, or damaged: {reason}; {REMEDY}") from None


def parquet_facts(files: list[Path]) -> Iterator[ParquetFacts]:
    """Yield the facts of some Parquet files; no row is read.

    Raises:
        FormatError: a file is damaged, has other columns than the first, announces more rows than it can hold, or is a
            decompression bomb; or there is not one image column.
    """
    schema, image, counts, largest = None, "", [], 0
    for path in files:
        with _opened(path) as file:
            schema = schema or file.schema_arrow
            if not schema.equals(file.schema_arrow):
                raise FormatError(
                    f"{path} has the columns {_columns(file.schema_arrow)}, {files[0].name} {_columns(schema)}; "
                    "expected the same in all files: give a folder of one set"
                )
            image = image or _image_column(path, schema)
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            rows, size = file.metadata.num_rows, path.stat().st_size
            announced = [group.num_rows for group in groups]
            if rows != sum(announced) or min(announced, default=0) < 0:
                raise FormatError(f"{path} announces {rows} rows, its row groups {sum(announced)}; {REMEDY}")
            if rows > MAX_ITEMS or ROW_BYTES * rows > size + 2**20:
                raise FormatError(f"{path} announces {rows} images in {size} bytes; it is damaged, {REMEDY}")
            counts.append(rows)
            for chunk in (group.column(i) for group in groups for i in range(group.num_columns)):
                unpacked, packed = chunk.total_uncompressed_size, max(1, chunk.total_compressed_size)
                if chunk.path_in_schema != f"{image}.bytes":
                    continue
                largest = max(largest, min(packed, size))
                if unpacked > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
                    bomb = f"the images of a row group would unpack from {packed} to {unpacked} bytes"
                    raise FormatError(f"{path}: {bomb}; it looks like a decompression bomb, delete it")
    assert schema is not None
    names = [str(field.name) for field in schema]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FormatError(f"{files[0]} has two columns {printable(twice)[:80]}; rename one of them")
    others = [str(field.name) for field in schema if not _holds_bytes(field.type)]
    ignored = [name for name in names if name not in (*others, image)]
    has_paths = "path" in [field.name for field in schema.field(image).type]
    memory_bytes = MEMORY_BYTES + 2 * largest
    yield ParquetFacts(image, has_paths, others, ignored, counts, memory_bytes, _class_names(schema))


def _columns(schema: Any) -> str:
    return printable(", ".join(f"{field.name} ({field.type})" for field in schema))[:300]


def _image_column(path: Path, schema: Any) -> str:
    import pyarrow

    structs = [field for field in schema if pyarrow.types.is_struct(field.type)]
    found = [
        str(field.name)
        for field in structs
        if any(part.name == "bytes" and _holds_bytes(part.type) for part in field.type)
    ]
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else found[0]
    has = f"several image columns, {', '.join(found)}" if found else f"the columns {_columns(schema)}"
    raise FormatError(
        f"{path} has {has}; expected one image column, image: struct<bytes: binary, path: string>, as Hugging Face "
        "datasets writes it"
    )


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _class_names(schema: Any) -> tuple[str, ...]:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features["label"]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def parquet_images(files: list[Path], counts: list[int], image: str, start: int) -> Iterator[tuple[str, bytes]]:
    """Yield location and contents of the image files from row `start` of all files on.

    Raises:
        FormatError: a file is damaged, or has other rows than it announces; a row has no image.
    """
    for path, count in zip(files, counts, strict=True):
        if start >= count:
            start -= count
            continue
        first = 0
        with _opened(path) as file:
            for batch in file.iter_batches(BATCH_IMAGES, columns=[f"{image}.bytes"], use_threads=False):
                (images,) = batch.column(0).flatten()
                for row in range(max(first, start), first + len(images)):
                    data = images[row - first].as_py()
                    if data is None:
                        raise FormatError(f"{path}: row {row} has no bytes in its column {image}; embed the images")
                    if len(data) > MAX_IMAGE_FILE_BYTES:
                        size = f"{len(data)} bytes, expected at most {MAX_IMAGE_FILE_BYTES}"
                        raise FormatError(f"{path}: the image of row {row} has {size}; remove it")
                    yield f"{path}: row {row}", data
                first += len(images)
        if first != count:
            raise FormatError(f"{path} announces {count} rows and holds {first}; {REMEDY}")
        start = 0


def parquet_columns(files: list[Path], columns: list[str]) -> Iterator[dict[str, NDArray[np.generic] | list[object]]]:
    """Yield some rows of some columns: arrays of numbers or lists of numbers of one length, or lists of other values.

    Raises:
        FormatError: a file is damaged, or a value is too large.
    """
    for path in files:
        first = 0
        with _opened(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                found: dict[str, NDArray[np.generic] | list[object]] = {}
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    _check_texts(column, f"{path}: the column {name} has in row {first} or one of the next")
                    array = _array(column)
                    found[name] = column.to_pylist() if array is None else array
                lists = [values for values in found.values() if isinstance(values, list)]
                if (size := len(pickle.dumps(lists))) > BATCH_BYTES:
                    fault = f"{len(batch)} rows of metadata from row {first} on take {size} bytes"
                    raise FormatError(f"{path}: {fault}, expected at most {BATCH_BYTES}; remove the largest column")
                yield found
                first += len(batch)


def _check_texts(array: Any, where: str) -> None:
    """Check the lengths of all texts in an array, before they become objects of Python."""
    import pyarrow.compute
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary
    if types.is_string(array.type) or types.is_large_string(array.type):
        longest = pyarrow.compute.max(pyarrow.compute.binary_length(array)).as_py() or 0
        if longest > MAX_VALUE_BYTES:
            raise FormatError(f"{where} a text of {longest} bytes, expected at most {MAX_VALUE_BYTES}; remove it")
    elif types.is_map(array.type):
        _check_texts(array.keys, where)
        _check_texts(array.items, where)
    elif types.is_struct(array.type):
        for part in array.flatten():
            _check_texts(part, where)
    elif types.is_nested(array.type):
        _check_texts(array.flatten(), where)


def _array(array: Any) -> NDArray[np.generic] | None:
    """Return numbers, or lists of equal lengths, as an array of N rows; None for other values.

    Missing floating-point numbers become NaN.
    """
    from pyarrow import types

    shape = [len(array)]
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        inner = array.flatten()
        lengths = set(array.value_lengths().unique().to_pylist())
        if array.null_count or len(lengths) != 1:
            return None
        shape.append(lengths.pop())
        array = inner
    whole = types.is_integer(array.type) or types.is_boolean(array.type)
    if not types.is_floating(array.type) and (not whole or array.null_count):
        return None
    numbers: NDArray[np.generic] = array.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers


# --- LMDB


class LmdbFacts(NamedTuple):
    """The contents of an LMDB."""

    entries: int
    """Number of entries."""
    unknown: str | None
    """The first of some names that no entry has."""
    first: dict[int, bytes]
    """First entry of each size, if all keys but ``length`` are SIZE-NUMBER; else empty."""


@contextlib.contextmanager
def _cursor(path: Path) -> Iterator[tuple[Any, int]]:
    """Open an LMDB for reading, and yield a cursor and the number of entries.

    No lock file is made, so the LMDB can be on a read-only disk; no other process may write to it.
    """
    import lmdb

    try:
        how = {"readonly": True, "create": False, "lock": False, "readahead": False}
        with lmdb.open(str(path), subdir=path.is_dir(), **how) as database:
            info, stat = database.info(), database.stat()
            needed = (info["last_pgno"] + 1) * stat["psize"]
            size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
            if size < needed:
                raise FormatError(f"{path} is cut short: it needs {needed} bytes and has {size}; {REMEDY}")
            if not 0 <= stat["entries"] <= min(MAX_ITEMS, size):
                raise FormatError(f"{path} announces {stat['entries']} entries in {size} bytes; {REMEDY}")
            with database.begin() as transaction, transaction.cursor() as cursor:
                yield cursor, int(stat["entries"])
    except lmdb.Error as error:
        raise FormatError(f"{path} is not a readable LMDB, or damaged: {error}; {REMEDY}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from None


def lmdb_facts(path: Path, names: list[str]) -> Iterator[LmdbFacts]:
    """Yield the facts of an LMDB; `names` are those of which to find the first unknown."""
    with _cursor(path) as (cursor, count):
        unknown = next((name for name in names if not name or not cursor.set_key(name.encode())), None)
        first: dict[int, bytes] = {}
        there = cursor.first()
        while there:
            match = re.fullmatch(rb"(\d{1,5})-\d+", cursor.key())
            if match and len(first) < 64:
                first[int(match[1])] = cursor.value()
                there = cursor.set_range(match[1] + b".")  # the character after the hyphen
            elif cursor.key() == b"length":
                there = cursor.next()
            else:
                first.clear()
                break
        yield LmdbFacts(count, unknown, first)


def lmdb_count(path: Path, prefix: bytes) -> Iterator[int]:
    """Yield the number of keys that begin with a prefix."""
    with _cursor(path) as (cursor, _):
        found, there = 0, cursor.set_range(prefix)
        while there and cursor.key().startswith(prefix):
            found += 1
            there = found < MAX_ITEMS and cursor.next()
        yield found


def lmdb_entries(path: Path, prefix: bytes, skip: frozenset[str], start: int) -> Iterator[tuple[str, bytes]]:
    """Yield key and contents of the entries whose keys begin with a prefix, without some of them, from `start` on.

    Raises:
        FormatError: the LMDB is damaged, or an entry is too large for an image.
    """
    with _cursor(path) as (cursor, announced):
        found = kept = 0
        there = cursor.set_range(prefix) if prefix else cursor.first()
        while there and cursor.key().startswith(prefix):
            found += 1
            if found > announced:  # pages that form a circle
                raise FormatError(f"{path} announces {announced} entries and holds more; it is damaged, {REMEDY}")
            name = cursor.key().decode("utf-8", "backslashreplace")
            if name not in skip:
                if kept >= start:
                    value = cursor.value()
                    if len(value) > MAX_IMAGE_FILE_BYTES:
                        size = f"{len(value)} bytes, expected at most {MAX_IMAGE_FILE_BYTES}"
                        raise FormatError(f"{path}: entry {printable(name)[:80]} has {size}; {REMEDY}")
                    yield name, value
                kept += 1
            there = cursor.next()
        if not prefix and found != announced:
            raise FormatError(f"{path} announces {announced} entries and holds {found}; it is damaged, {REMEDY}")
