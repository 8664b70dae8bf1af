"""Checkpoints of a training run: one file each, written atomically, with a digest of its contents."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from celebahq_builder.config import flatten
from celebahq_builder.errors import TrainingError, first_line
from celebahq_builder.limits import MAX_CHECKPOINT_BYTES, MAX_JSON_BYTES
from celebahq_builder.storage import sync_folder, write_atomic

log = logging.getLogger(__name__)

FORMAT = "celebahq-checkpoint-1"

RECENT_KEPT = 2
"""Checkpoints that are kept in addition to the last one of each stage."""

NAME = re.compile(r"checkpoint-(\d{9})(?:-(\w+))?\.pt")
"""Position and stage of a checkpoint."""


StateDict = dict[str, Any]
"""Nested dicts and lists of tensors, numbers and strings, such as the state dicts of PyTorch."""


VALUES_MAX = 1_000_000
"""Largest number of values of a checkpoint; the largest network has some thousand tensors."""

ITEM_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage"), 1),
}
"""Bytes of one value, by the names that PyTorch gives to types in a file."""


class DamagedCheckpoint(ValueError):
    """The file is not a checkpoint, or its contents are not those that were written."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file."""

    path: Path
    config: StateDict
    """All that decides the weights, as nested JSON values: the recipe and the identity of the data."""
    state: StateDict
    """All that changes while a run trains: state dicts of networks and optimizers, and counters. Tensors are on the
    CPU."""


def write_checkpoint(path: Path, config: Mapping[str, object], state: Mapping[str, object]) -> None:
    """Write a checkpoint file; it is either complete under its name or absent.

    Args:
        path: must end in ``.pt``. An existing file is replaced.
        config: nested JSON values; see `Checkpoint`.
        state: nested dicts and lists of tensors, numbers and strings; see `Checkpoint`.

    Raises:
        DiskFull: no space is left. Earlier checkpoints are unchanged.
        WorkspaceError: the file system failed.
        TrainingError: the file cannot be written for another reason.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint-000000008.pt"
        >>> write_checkpoint(path, {"seed": 0}, {"weight": torch.ones(2), "step": 8})
        >>> read_checkpoint(path).state
        {'weight': tensor([1., 1.]), 'step': 8}
    """
    contents = {"config": json.loads(json.dumps(config)), "state": dict(state)}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "sha256": _digest(contents), **contents}, buffer)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error}; make its folder writable, then resume") from error


def read_checkpoint(path: Path, *, verify: bool = True) -> Checkpoint:
    """Read a checkpoint file; its tensors are on the CPU.

    Args:
        path: of the file.
        verify: compare the contents with their digest. False maps the tensors from the file instead of reading them,
            which is fast where few of them are needed.

    Raises:
        DamagedCheckpoint: the file is not a checkpoint, or a bit of it changed.
    """
    try:
        _check_layout(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=not verify)
        if found["format"] != FORMAT:
            raise DamagedCheckpoint(f"it has format {found['format']}, expected {FORMAT}")
        if not (isinstance(found["config"], dict) and isinstance(found["state"], dict)):
            raise DamagedCheckpoint("its config or its state is not a dict")
        checkpoint = Checkpoint(path, found["config"], found["state"])
        damaged = verify and found["sha256"] != _digest({"config": checkpoint.config, "state": checkpoint.state})
    except (DamagedCheckpoint, MemoryError):
        raise
    except Exception as error:  # a changed byte of a pickle can raise anything
        raise DamagedCheckpoint(f"it cannot be read: {first_line(error)}") from None
    if damaged:
        raise DamagedCheckpoint("its contents are not those that were written")
    return checkpoint


class _Layout(pickle.Unpickler):
    """Reads the structure of a checkpoint with tensors on the device ``meta``.

    `torch.load` checks which functions a pickle calls, but not their arguments. A file of some kB could claim a huge
    tensor, or read beyond its records.

    Args:
        data: the pickle.
        records: sizes of the file's records in bytes, by name.
    """

    def __init__(self, data: bytes, records: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self.records = records

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in of a function or a class."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in ITEM_BYTES:
            return ITEM_BYTES[name]
        raise DamagedCheckpoint(f"it holds {module}.{name}")

    def persistent_load(self, pid: tuple[str, int, str, str, int]) -> tuple[int, int]:
        """Return the number of values of a storage, and their size in bytes."""
        _, item_bytes, key, _, count = pid
        if count * item_bytes != self.records.get(f"data/{key}"):
            raise DamagedCheckpoint(f"its record {key} has another size than its tensor")
        return count, item_bytes

    @staticmethod
    def _tensor(
        storage: tuple[int, int], offset: int, size: Sequence[int], stride: Sequence[int], *_: object
    ) -> Tensor:
        count, item_bytes = storage
        values = math.prod(size)
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if values else 0
        if min(offset, *size, *stride, 0) < 0 or values > count or end > count:
            raise DamagedCheckpoint("a tensor is larger than its record")
        return torch.empty(values * item_bytes, dtype=torch.uint8, device="meta")


def _check_layout(path: Path) -> None:
    """Refuse a file whose contents would take more memory or time than a file of its size needs."""
    file_bytes = path.stat().st_size
    if not path.is_file() or file_bytes > MAX_CHECKPOINT_BYTES:
        raise DamagedCheckpoint(f"it is no regular file, or larger than {MAX_CHECKPOINT_BYTES} bytes")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        records = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
        if any(entry.compress_type for entry in entries) or sum(records.values()) > file_bytes:
            raise DamagedCheckpoint("its records are compressed, or overlap")
        [name] = [entry.filename for entry in entries if entry.filename.partition("/")[2] == "data.pkl"]
        if records["data.pkl"] > MAX_JSON_BYTES:
            raise DamagedCheckpoint(f"its structure has more than {MAX_JSON_BYTES} bytes")
        data = archive.read(name)
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(data):
            raise DamagedCheckpoint("its structure names an object out of range")
    pending: list[object] = [_Layout(data, records).load()]
    values, tensor_bytes = 0, 0
    while pending:
        value = pending.pop()
        values += 1
        tensor_bytes += value.nbytes if isinstance(value, Tensor) else 0
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        if values + len(pending) > VALUES_MAX or tensor_bytes > file_bytes:
            raise DamagedCheckpoint("its values repeat without end")


def _digest(contents: Mapping[str, object]) -> str:
    """Return the SHA-256 of nested values: keys, numbers, and the types, shapes and bytes of tensors."""
    total = hashlib.sha256()

    def update(value: object) -> None:
        if isinstance(value, Tensor):
            total.update(f"{value.dtype} {list(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            total.update(f"dict {len(value)}".encode())
            for key, item in value.items():
                update(key)
                update(item)
        elif isinstance(value, (list, tuple)):
            total.update(f"list {len(value)}".encode())
            for item in value:
                update(item)
        else:
            total.update(repr(value).encode())

    update(contents)
    return total.hexdigest()


class CheckpointFolder:
    """The checkpoints of one run: ``checkpoint-000048000.pt`` or, with a stage, ``checkpoint-000048000-r0008.pt``.

    The number is the position of the run, such as its steps or the images shown so far. The last two checkpoints are
    kept, and the last one of each stage.

    Args:
        folder: of the checkpoints; it is created by the first one.
        config: of the run; see `Checkpoint`.
        resumable: dotted keys of `config`, or of tables in it, that a resumed run may change on request.

    Example:
        >>> import tempfile
        >>> run = Path(tempfile.mkdtemp()) / "run"
        >>> checkpoints = CheckpointFolder(run / "checkpoints", {"seed": 0})
        >>> checkpoints.latest() is None
        True
        >>> checkpoints.save(8, {"step": 8}).name
        'checkpoint-000000008.pt'
        >>> checkpoints.latest().state
        {'step': 8}
        >>> CheckpointFolder(run / "checkpoints", {"seed": 1}).latest()
        Traceback (most recent call last):
        celebahq_builder.errors.TrainingError: ...run was trained with seed = 0, this run has seed = 1; ...
    """

    def __init__(self, folder: Path, config: Mapping[str, object], resumable: Sequence[str] = ()) -> None:
        self.folder, self.config, self.resumable = folder, config, tuple(resumable)

    def save(self, position: int, state: Mapping[str, object], stage: str = "") -> Path:
        """Write a checkpoint, and delete those that are no longer needed.

        Args:
            position: of the run; larger than that of earlier checkpoints.
            state: see `Checkpoint`.
            stage: letters and digits. The last checkpoint of each stage is kept.

        Raises:
            CelebAHQError: see `write_checkpoint`.
        """
        path = self.folder / f"checkpoint-{position:09d}{stage and '-'}{stage}.pt"
        write_checkpoint(path, self.config, state)
        sync_folder(self.folder)  # before earlier checkpoints are deleted
        for name in superseded([one.name for one in self.folder.iterdir()]):
            (self.folder / name).unlink(missing_ok=True)
        return path

    def latest(self, changed: Sequence[str] = ()) -> Checkpoint | None:
        """Return the last complete checkpoint, or None where there is none.

        A damaged checkpoint is logged as a warning, and the one before it is read.

        Args:
            changed: those of `resumable` that may differ from the run that wrote the checkpoint.

        Raises:
            TrainingError: the checkpoint is of another recipe or other data (the message names the first key), or of
                an earlier version of this package; or all checkpoints are damaged.
        """
        paths = checkpoint_paths(self.folder)
        if not paths:
            self._refuse_earlier_version()
            return None
        for path in reversed(paths):
            try:
                checkpoint = read_checkpoint(path)
            except DamagedCheckpoint as error:
                log.warning("warning: %s is damaged (%s); the checkpoint before it is tried", path, error)
                continue
            self._check_config(checkpoint, changed)
            return checkpoint
        raise TrainingError(f"all {len(paths)} checkpoints in {self.folder} are damaged; choose another `out`")

    def _refuse_earlier_version(self) -> None:
        old = [*self.folder.glob("checkpoint-*.safetensors"), *self.folder.parent.glob("checkpoint.safetensors")]
        if old:
            raise TrainingError(
                f"{old[0]} was written by an earlier version, and this version cannot resume it; choose another `out`, "
                "or finish the run with the version that began it"
            )

    def _check_config(self, checkpoint: Checkpoint, changed: Sequence[str]) -> None:
        old, new = flatten(checkpoint.config), flatten(json.loads(json.dumps(self.config)))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) == new.get(key) or _is_in(key, changed):
                continue
            resumable = next((one for one in self.resumable if _is_in(key, (one,))), None)
            raise TrainingError(
                f"{self.folder.parent} was trained with {key} = {old.get(key)}, this run has {key} = {new.get(key)}; "
                "choose another `out`, or use the recipe and the data of that run"
                + (f", or resume with the new value: `changed` {resumable}" if resumable else "")
            )


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoint files in a folder, the earliest first; a missing folder has none."""
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []


def superseded(names: Sequence[str]) -> list[str]:
    """Return the names of checkpoints that are neither among the last two nor the last of their stage.

    >>> superseded([f"checkpoint-{n:09d}-r{r:04d}.pt" for n, r in ((1, 4), (2, 4), (3, 8), (4, 8), (5, 8))])
    ['checkpoint-000000001-r0004.pt', 'checkpoint-000000003-r0008.pt']
    """
    known = sorted(name for name in names if NAME.fullmatch(name))
    last_of_stage = {match[2]: name for name in known if (match := NAME.fullmatch(name))}
    kept = {*known[-RECENT_KEPT:], *last_of_stage.values()}
    return [name for name in known if name not in kept]


@contextmanager
def resuming(checkpoint: Checkpoint) -> Iterator[StateDict]:
    """Let a training read the state of a checkpoint inside the context.

    Raises:
        TrainingError: the state is not that of such a training.
    """
    try:
        yield checkpoint.state
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = first_line(error)
        raise TrainingError(
            f"{checkpoint.path} was written by another version ({reason}); choose another `out`"
        ) from None


def load_optimizer(optimizer: torch.optim.Optimizer, state: StateDict) -> None:
    """Restore an optimizer from its state dict.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape not in ((), parameter.shape):
                raise ValueError(f"{name} of the optimizer has shape {list(value.shape)}, not {list(parameter.shape)}")


def _is_in(key: str, tables: Sequence[str]) -> bool:
    """Return whether a dotted key is one of some keys, or lies in one of some tables."""
    return any(f"{key}.".startswith(f"{table}.") for table in tables)
