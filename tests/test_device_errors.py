"""Errors of one photo, and errors that end the run."""

from pathlib import Path

import pytest
import torch

from celebahq_builder.device_errors import (
    EQUAL_FAILURES_MAX,
    EqualFailures,
    fatal_error,
    is_device_failure,
    is_out_of_memory,
)
from celebahq_builder.errors import WorkspaceError
from celebahq_builder.pipeline import results
from celebahq_builder.pipeline.network_stage import network
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import TINY, build_tiny

CPU = torch.device("cpu")

OUT_OF_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
]

WITHOUT_WORKSPACE = [
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
]
"""Errors of CUDA's libraries that get no memory beside what torch holds."""

DEVICE_FAILURES = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging consider CUDA_LAUNCH_BLOCKING=1"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA driver error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
]
if hasattr(torch, "AcceleratorError"):  # since torch 2.8
    DEVICE_FAILURES.append(torch.AcceleratorError("CUDA error: unspecified launch failure"))

OF_THE_PHOTO = [
    ValueError("CUDA error"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    OSError(5, "Input/output error", "000001.jpg"),
    IndexError("out of memory"),
    ValueError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_failure(error)
    raised = fatal_error(error, CPU, "000001.jpg (denoise)")
    assert isinstance(raised, WorkspaceError)
    assert str(raised) == ("out of memory at 000001.jpg (denoise); run the same command again with fewer `workers`")


@pytest.mark.parametrize("error", WITHOUT_WORKSPACE, ids=repr)
def test_out_of_memory_in_the_words_of_a_library(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_failure(error)
    raised = fatal_error(error, CPU, "000001.jpg (denoise)")
    assert str(raised) == (
        f"out of memory at 000001.jpg (denoise) ({error}); run the same command again with fewer `workers`"
    )


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


def test_equal_failures_are_counted_by_stage() -> None:
    failures = EqualFailures()
    for _ in range(EQUAL_FAILURES_MAX - 1):
        assert failures.add("align", "ValueError: no") is None
        assert failures.add("score", f"ValueError: {_}") is None
    assert failures.add("align", "ValueError: another") is None
    for _ in range(EQUAL_FAILURES_MAX - 2):
        assert failures.add("align", "ValueError: another") is None
    failures.reset("align")
    assert failures.add("align", "ValueError: another") is None


@pytest.mark.parametrize("failing", [EQUAL_FAILURES_MAX - 1, EQUAL_FAILURES_MAX])
def test_the_same_error_of_several_photos_ends_the_run(failing: int, tmp_path: Path) -> None:
    """Up to the limit photos fail alone; the run ends before the manifest of their batch is written."""
    passed: list[int] = []

    def meet(*_: object) -> None:
        passed.append(1)
        if len(passed) <= failing:
            raise RuntimeError("no kernel image is available")

    hook = network(TINY.denoise.weights, CPU, "autoencoder").register_forward_pre_hook(meet)
    try:
        if failing < EQUAL_FAILURES_MAX:
            assert build_tiny(tmp_path / "run", limit=6).failed == failing
        else:
            with pytest.raises(
                WorkspaceError, match=r"4 photos in a row failed in denoise with the same error, .*imag"
            ):
                build_tiny(tmp_path / "run", limit=6)
            assert not any(one.end for one in results.photo_statuses(Workspace(tmp_path / "run")))
    finally:
        hook.remove()
