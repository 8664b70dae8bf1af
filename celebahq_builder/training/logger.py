"""Logs of a training run: JSON lines and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from celebahq_builder.errors import TrainingError
from celebahq_builder.limits import MAX_TEXT_BYTES
from celebahq_builder.storage import as_storage_error, open_log, parse_json, read_file, write_atomic

log = logging.getLogger(__name__)

LogLine = dict[str, float]
"""Values of a tick or a validation by name, among them the position of the run."""


class TrainingLogger:
    """Writes one JSON line and one set of TensorBoard scalars for each tick or validation of a run.

    Each line holds the position of the run, such as its steps or the images shown so far, under the key `axis`. Lines
    beyond `position` were written by a run that was killed before it wrote its checkpoint; they are deleted, because
    the resumed run writes them again. So every position has one line.

    Args:
        path: of the file of JSON lines; TensorBoard's events go to the folder ``tensorboard`` next to it.
        axis: key of the position in every line.
        position: of the checkpoint from which the run resumes; 0 for a new run.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> with TrainingLogger(path, "step", 0) as logger:
        ...     logger.write({"step": 10, "loss": 0.5})
        ...     logger.write({"step": 20, "loss": 0.25})
        >>> with TrainingLogger(path, "step", 10) as logger:
        ...     logger.write({"step": 20, "loss": 0.2})
        >>> read_lines(path)
        [{'step': 10, 'loss': 0.5}, {'step': 20, 'loss': 0.2}]
    """

    def __init__(self, path: Path, axis: str, position: int) -> None:
        self.path, self.axis = path, axis
        kept = [line for line in read_lines(path) if line.get(axis, math.inf) <= position]
        if path.exists():
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        folder = path.parent / "tensorboard"
        resumed = folder.is_dir() and any(folder.iterdir())
        purge_from = (kept[-1][axis] if kept else 1) if resumed else None
        self.board = SummaryWriter(str(folder), purge_step=purge_from)
        if resumed and kept:  # TensorBoard writes in a thread: a killed run may have lost the events of its last line
            self._add_scalars(kept[-1])

    def write(self, line: LogLine, image: NDArray[np.uint8] | None = None) -> None:
        """Write a line.

        Args:
            line: values by name; the position is among them. Numbers also go to TensorBoard.
            image: samples for TensorBoard, uint8 [H, W, 3], RGB.

        Raises:
            DiskFull: no space is left.
            WorkspaceError: the file system failed.
        """
        try:
            with open_log(self.path) as file:
                file.write(json.dumps(line).encode() + b"\n")
            self._add_scalars(line)
            if image is not None:
                self.board.add_image("samples", image, line[self.axis], dataformats="HWC")
            self.board.flush()
        except OSError as error:
            raise as_storage_error(error, self.path) from error

    def _add_scalars(self, line: LogLine) -> None:
        for name, value in line.items():
            if name != self.axis:
                self.board.add_scalar(name, value, line[self.axis])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # `write` raised it already, and the JSON lines hold all values
            self.board.close()


def read_lines(path: Path) -> list[LogLine]:
    """Return the lines of a log; a missing file has none.

    A damaged line is left out with a warning, the last line without: a killed run may have written a part of it.

    Raises:
        TrainingError: the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        texts = read_file(path, MAX_TEXT_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}; move it away, then resume") from None
    lines: list[LogLine] = []
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not all(map(_is_number, line.values())):
            if number < len(texts):
                log.warning("warning: line %d of %s is damaged and left out", number, path)
            continue
        lines.append(line)
    return lines


def _is_number(value: object) -> bool:
    """Return whether a value is a number that NumPy, and so TensorBoard, can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
