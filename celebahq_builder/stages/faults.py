"""Whose fault an error is: that of the photo at hand, or of what every photo needs."""

from __future__ import annotations

import torch

from celebahq_builder.errors import WorkspaceError

DEVICE_SIGNS = ("CUDA error", "CUDA driver error")
"""What torch says when the driver reports an error: an `AcceleratorError` since 2.8, a plain RuntimeError before."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether there was too little memory, of the machine or of its device."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        _is_of_the_driver(error) and "out of memory" in str(error)
    )


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device itself reports an error; after most of them it does nothing more for this process."""
    return _is_of_the_driver(error) and not is_out_of_memory(error)


def befalls_all(error: Exception, device: torch.device, where: str) -> WorkspaceError | None:
    """Return the error that ends the run, where one that a photo met would befall every photo; else None.

    Args:
        error: not one of `CelebAHQError`, which say themselves what they mean.
        device: on which it happened. A CUDA device is asked whether it still works, for some libraries report its
            failure in words of their own.
        where: photo and stage, for people.
    """
    if is_out_of_memory(error):
        return WorkspaceError(f"out of memory at {where}; run the same command again with fewer --workers")
    failure = error if is_device_failure(error) else _failure_of(device)
    if failure is None:
        return None
    reported = str(failure).splitlines()[0]
    return WorkspaceError(
        f"the device {device} failed at {where} ({reported}); run the same command again, it goes on from here; "
        "if the device fails again, choose another --device"
    )


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what was asked of it; its errors show no later than here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_of_the_driver(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in DEVICE_SIGNS)


def _failure_of(device: torch.device) -> RuntimeError | None:
    try:
        synchronize(device)
    except RuntimeError as error:
        return error
    return None
