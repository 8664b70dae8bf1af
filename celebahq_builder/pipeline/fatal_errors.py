"""Errors that end a run instead of one photo: too little memory, a device that failed."""

from __future__ import annotations

import torch

from celebahq_builder.errors import WorkspaceError

DEVICE_SIGNS = ("CUDA error", "CUDA driver error")
"""Begin of torch's messages for errors of the driver: an `AcceleratorError` since 2.8, a RuntimeError before."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine or the device had too little memory."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        _is_driver_error(error) and "out of memory" in str(error)
    )


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device reports an error; after most of them it cannot be used again by this process."""
    return _is_driver_error(error) and not is_out_of_memory(error)


def fatal_error(error: Exception, device: torch.device, where: str) -> WorkspaceError | None:
    """Decide whether an exception ends the run: return the error to raise, or None if it concerns one photo.

    Args:
        error: any exception but a `CelebAHQError`.
        device: where it happened. A CUDA device is synchronised, because some libraries report its failure in words
            of their own.
        where: photo and stage, for the message.
    """
    if is_out_of_memory(error):
        return WorkspaceError(f"out of memory at {where}; run the same command again with fewer `workers`")
    failure = error if is_device_failure(error) else _failure_of(device)
    if failure is None:
        return None
    reported = str(failure).splitlines()[0]
    return WorkspaceError(
        f"the device {device} failed at {where} ({reported}); run the same command again to resume; if the device "
        "fails again, choose another `device`"
    )


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work, so that its errors are raised here at the latest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_driver_error(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS)


def _failure_of(device: torch.device) -> RuntimeError | None:
    try:
        synchronize(device)
    except RuntimeError as error:
        return error
    return None
