"""Errors that end a run instead of one photo: too little memory, a device that failed, one error for every photo."""

from __future__ import annotations

import re

import torch

from celebahq_builder.errors import WorkspaceError, first_line

DEVICE_SIGNS = re.compile(
    r"CUDA error|CUDA driver error|(CUDNN_STATUS|CUFFT)_(INTERNAL_ERROR|EXECUTION_FAILED|EXEC_FAILED)"
)
"""Errors of the driver (an `AcceleratorError` since torch 2.8, a RuntimeError before), of cuDNN and of cuFFT."""

NO_MEMORY_SIGNS = re.compile(
    r"(CUDNN|CUBLAS|CUFFT|CUSOLVER|CUSPARSE)_(STATUS_)?"
    r"(NOT_INITIALIZED|ALLOC_FAILED|INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED)"
    r"|unable to find an engine|[Uu]nable to find a valid cuDNN algorithm"
)
"""Messages of CUDA's libraries that could not get their own memory: a handle, a workspace, or any algorithm."""

EQUAL_FAILURES_MAX = 4
"""Photos of a batch in a row that fail in a stage with the same message and end the run; a batch has at least so many,
unless the run is smaller."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine or the device had too little memory."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and bool(
        NO_MEMORY_SIGNS.search(text) or (DEVICE_SIGNS.search(text) and "out of memory" in text)
    )


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device reports an error; after most of them it cannot be used again by this process."""
    return isinstance(error, RuntimeError) and bool(DEVICE_SIGNS.search(str(error))) and not is_out_of_memory(error)


def fatal_error(error: Exception, device: torch.device, where: str) -> WorkspaceError | None:
    """Decide whether an exception ends the run: return the error to raise, or None if it concerns one photo.

    Args:
        error: any exception but a `CelebAHQError`.
        device: where it happened. A CUDA device is synchronized, because some libraries report its failure in words
            of their own.
        where: photo and stage, for the message.
    """
    if is_out_of_memory(error):
        library = f" ({first_line(error)})" if NO_MEMORY_SIGNS.search(str(error)) else ""
        return WorkspaceError(f"out of memory at {where}{library}; run the same command again with fewer `workers`")
    failure = error if is_device_failure(error) else _failure_of(device)
    if failure is None:
        return None
    return WorkspaceError(
        f"the device {device} failed at {where} ({first_line(failure)}); run the same command again to resume; if the "
        "device fails again, choose another `device`"
    )


class EqualFailures:
    """The photos in a row that failed in a stage with the same message: the error is then not that of a photo."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}
        """The last message of each stage, and the number of photos in a row with it."""

    def add(self, stage: str, message: str) -> WorkspaceError | None:
        """Count a failed photo; return the error that ends the run, or None if it continues."""
        last, count = self._last.get(stage, ("", 0))
        count = count + 1 if message == last else 1
        self._last[stage] = message, count
        if count < EQUAL_FAILURES_MAX:
            return None
        return WorkspaceError(
            f"{EQUAL_FAILURES_MAX} photos in a row failed in {stage} with the same error, which is not due to the "
            f"photos: {message}; correct its cause, then run the same command again to resume"
        )

    def reset(self, stage: str) -> None:
        """Forget the failures of a stage, because a photo has passed it."""
        self._last.pop(stage, None)


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work, so that its errors are raised here at the latest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _failure_of(device: torch.device) -> RuntimeError | None:
    try:
        synchronize(device)
    except RuntimeError as error:
        return error
    return None
