"""Rows of Parquet files, read by pyarrow in a child process; see `isolated`."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from celebahq_builder.errors import FormatError, printable
from celebahq_builder.formats import REMEDY
from celebahq_builder.formats.isolated import MEMORY_BYTES
from celebahq_builder.limits import MAX_IMAGE_FILE_BYTES, MAX_ITEMS, MAX_VALUE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


def parquet_images(files: list[Path], counts: list[int], image: str) -> Iterator[tuple[str, bytes]]:
    """Yield location and contents of the image files.

    Raises:
        FormatError: a file is damaged, or has other rows than it announces; a row has no image.
    """
    for path, count in zip(files, counts, strict=True):
        first = 0
        with _opened(path) as file:
            for batch in file.iter_batches(BATCH_IMAGES, columns=[f"{image}.bytes"], use_threads=False):
                (images,) = batch.column(0).flatten()
                for row, image_file in enumerate(images, first):
                    data = image_file.as_py()
                    if data is None:
                        raise FormatError(f"{path}: row {row} has no bytes in its column {image}; embed the images")
                    if len(data) > MAX_IMAGE_FILE_BYTES:
                        size = f"{len(data)} bytes, expected at most {MAX_IMAGE_FILE_BYTES}"
                        raise FormatError(f"{path}: the image of row {row} has {size}; remove it")
                    yield f"{path}: row {row}", data
                first += len(images)
        if first != count:
            raise FormatError(f"{path} announces {count} rows and holds {first}; {REMEDY}")


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
