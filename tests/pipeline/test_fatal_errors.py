"""Errors of one photo, and errors that end the run."""

import pytest
import torch

from celebahq_builder.errors import WorkspaceError
from celebahq_builder.pipeline.fatal_errors import fatal_error, is_device_failure, is_out_of_memory

CPU = torch.device("cpu")

OUT_OF_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
]

DEVICE_FAILURES = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging consider CUDA_LAUNCH_BLOCKING=1"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA driver error: unspecified launch failure"),
]
if hasattr(torch, "AcceleratorError"):  # since torch 2.8
    DEVICE_FAILURES.append(torch.AcceleratorError("CUDA error: unspecified launch failure"))

OF_THE_PHOTO = [
    ValueError("CUDA error"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    OSError(5, "Input/output error", "000001.jpg"),
    IndexError("out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_failure(error)
    raised = fatal_error(error, CPU, "000001.jpg (denoise)")
    assert isinstance(raised, WorkspaceError)
    assert str(raised) == ("out of memory at 000001.jpg (denoise); run the same command again with fewer `workers`")


@pytest.mark.parametrize("error", DEVICE_FAILURES, ids=repr)
def test_device_failure(error: Exception) -> None:
    assert is_device_failure(error)
    assert not is_out_of_memory(error)
    raised = fatal_error(error, torch.device("cpu"), "000001.jpg (align)")
    assert isinstance(raised, WorkspaceError)
    first_line = str(error).partition("\n")[0]
    assert f"the device cpu failed at 000001.jpg (align) ({first_line}); run the same command again" in str(raised)
    assert "\n" not in str(raised)


@pytest.mark.parametrize("error", OF_THE_PHOTO, ids=repr)
def test_error_of_one_photo(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_device_failure(error)
    assert fatal_error(error, CPU, "000001.jpg (denoise)") is None
