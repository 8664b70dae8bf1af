"""A pretend CUDA device: tensors on ``cuda:0`` that compute on the CPU, refuse mixed devices, and count host syncs.

Its memory is the sum of the tensors that exist; beyond a limit it raises CUDA's error.
`test_on_pretend_device` runs the tests of this folder in a child process with it: ``pytest -p tests.device.pretend``,
which loads this file before torch. It covers neither NCCL, torch.compile nor CUDA graphs, nor does it compute
what kernels of CUDA compute, or count the memory that they use while they run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

VARIABLE = "CELEBAHQ_PRETEND_CUDA"
"""Environment variable with the path of the compiled guard."""

if ACTIVE := VARIABLE in os.environ:
    ctypes.CDLL(os.environ[VARIABLE])  # before torch; see guard.cpp

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402

PACKAGE = "/celebahq_builder/"

if ACTIVE:
    torch.inference_mode = torch.no_grad  # subclasses cannot be inference tensors
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy from the CPU
    torch.__future__.set_swap_module_params_on_conversion(True)

aten = torch.ops.aten

WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "is_nonzero",
    aten.masked_select.default: "masked_select",
    aten.nonzero.default: "nonzero",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.unique_dim.default: "unique",
    aten._unique2.default: "unique",
}
"""Operations that wait for the device because the host needs a value or a shape."""

INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
"""Operations that CUDA lets take an index on the CPU."""

COPYING = (aten._to_copy.default, aten.copy_.default)

syncs: Counter[str] = Counter()
"""Host syncs since it was cleared, by kind, file and line."""


TOTAL_BYTES = 80 << 30


WAIT_S = 0.5
"""Longest time that an allocation waits for tensors that another thread is about to free."""


class Memory:
    """Bytes of the tensors that exist. Threads may create and free tensors at the same time.

    Attributes:
        used: bytes of the tensors that exist.
        peak: largest `used` since ``torch.cuda.reset_peak_memory_stats``.
        most: largest `used` since the last `peak_bytes` began.
        limit: bytes beyond which CUDA's error is raised.
    """

    def __init__(self) -> None:
        self.used = self.peak = self.most = 0
        self.limit = TOTAL_BYTES
        self._lock = threading.Lock()
        self._storages: set[int] = set()
        self._freed: deque[tuple[int, int]] = deque()  # a finalizer may run while this thread holds the lock

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        size, until = storage.nbytes(), None
        while not self._added(storage, size):
            now = time.monotonic()
            until = now + WAIT_S if until is None else until
            if now > until:
                raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
            time.sleep(0.01)

    def settle(self) -> int:
        """Subtract what was freed; return the bytes that are used."""
        with self._lock:
            self._subtract()
            return self.used

    def _added(self, storage: torch.UntypedStorage, size: int) -> bool:
        with self._lock:
            self._subtract()
            if storage._cdata in self._storages:
                return True
            if self.used + size > self.limit:
                return False
            self._storages.add(storage._cdata)
            self.used += size
            self.peak, self.most = max(self.peak, self.used), max(self.most, self.used)
        weakref.finalize(storage, self._freed.append, (storage._cdata, size))
        return True

    def _subtract(self) -> None:
        while self._freed:
            storage, size = self._freed.popleft()
            self._storages.remove(storage)
            self.used -= size


memory = Memory()


@contextlib.contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Let the device have so many bytes in addition to those that exist."""
    gc.collect()
    memory.limit = memory.settle() + limit
    try:
        yield
    finally:
        memory.limit = TOTAL_BYTES


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the largest number of bytes that a function adds to those that exist before it.

    The function runs twice and the smaller number counts: a thread that frees its tensors late increases it.
    """
    found = []
    for _ in range(2):
        gc.collect()
        before = memory.most = memory.settle()
        function()
        found.append(memory.most - before)
    return min(found)


class PretendTensor(Tensor):
    """A tensor on ``cuda:0`` whose values are those of a tensor on the CPU."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            layout=on_cpu.layout,
            device=torch.device("cuda:0"),
        )
        made.on_cpu = on_cpu.detach()
        memory.add(made.on_cpu)
        return made

    def __repr__(self) -> str:
        return f"PretendTensor({self.on_cpu!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.on_cpu.__reduce_ex__(protocol)  # checkpoints are loaded without this class

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sends operations without a tensor on the device, such as ``torch.zeros(3, device="cuda")``, to `_compute`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the values in lists, tuples and dicts; `tree_map` of torch takes five times as long."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, one) for one in value])
    if isinstance(value, dict):
        return {key: _mapped(function, one) for key, one in value.items()}
    return function(value)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for one in inner for tensor in _tensors(one)]


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    used = any(isinstance(tensor, PretendTensor) for tensor in tensors)
    target = kwargs.get("device")
    if func is aten.copy_.default:
        to_device = isinstance(args[0], PretendTensor)
    else:
        to_device = used if target is None else torch.device(target).type == "cuda"
    if used or to_device:
        _check_devices(func, args, tensors)
        _count(func, args, kwargs, to_device)
    inner = dict(kwargs)
    if target is not None and torch.device(target).type == "cuda":
        inner["device"] = torch.device("cpu")
    if "pin_memory" in inner:
        inner["pin_memory"] = False
    found = func(*_mapped(_unwrapped, args), **_mapped(_unwrapped, inner))
    if func is aten.copy_.default and not to_device:
        return args[0]
    if to_device and func is not aten._local_scalar_dense.default:
        found = _mapped(lambda leaf: PretendTensor(leaf) if type(leaf) is Tensor else leaf, found)
        if used:  # operations in place and with `out` return the tensor that they were given
            return return_and_correct_aliasing(func, args, kwargs, found)
    return found


def _unwrapped(leaf: Any) -> Any:
    return leaf.on_cpu if isinstance(leaf, PretendTensor) else leaf


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in COPYING or (func in INDEXING and isinstance(args[0], PretendTensor)):
        return
    others = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.ndim]
    if others and len(others) < len(tensors):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in others)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} at {_place()} got {shapes} on cpu")


def _count(func: Any, args: Any, kwargs: Any, to_device: bool) -> None:
    kind = WAITING.get(func, "")
    if func in INDEXING:
        indices = _tensors(args[1])
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            kind = "boolean index"
        elif any(index.ndim and not isinstance(index, PretendTensor) for index in indices):
            kind = "index on the CPU"
    elif func in COPYING:
        source = args[func is aten.copy_.default]
        from_device = isinstance(source, PretendTensor)
        blocking = not (kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
        if from_device and not to_device:
            kind = "copy to the CPU"
        elif to_device and not from_device and source.ndim and (blocking or not getattr(source, "pinned", False)):
            kind = "copy from pageable memory"
    if kind:
        syncs[f"{kind}: {_place()}"] += 1


def _place() -> str:
    """Return file and line of the innermost frame in the package."""
    frame: Any = sys._getframe()
    while frame is not None and PACKAGE not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.split(PACKAGE)[-1]}:{frame.f_lineno}" if frame is not None else "the test"


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    tensor.pinned = True
    return tensor


def _tolist(tensor: Tensor) -> Any:
    if not isinstance(tensor, PretendTensor):
        return _plain_tolist(tensor)
    syncs[f"tolist: {_place()}"] += 1
    return _plain_tolist(tensor.on_cpu)


_plain_tolist = Tensor.tolist


@contextlib.contextmanager
def cuda() -> Iterator[torch.device]:
    """Give this machine a CUDA device while the context lasts."""

    def wait(*_: Any) -> None:
        syncs[f"synchronize: {_place()}"] += 1

    properties = SimpleNamespace(name="pretend", total_memory=TOTAL_BYTES)
    functions: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: properties.name,
        "get_device_properties": lambda *_: properties,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "is_current_stream_capturing": lambda: False,
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda *_: memory.peak,
        "mem_get_info": lambda *_: (memory.limit - memory.settle(), memory.limit),
        "reset_peak_memory_stats": lambda *_: setattr(memory, "peak", memory.settle()),
        "set_device": lambda *_: None,
        "synchronize": wait,
    }
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, method in (("pin_memory", _pinned), ("tolist", _tolist)):
            stack.enter_context(mock.patch.object(Tensor, name, method))
        stack.enter_context(mock.patch.object(Tensor, "is_pinned", lambda tensor, *_: getattr(tensor, "pinned", False)))
        stack.enter_context(_Mode())
        yield torch.device("cuda:0")


def compile_guard(compiler: str, folder: Path) -> Path:
    """Compile the guard for the torch that is installed; return its path."""
    source, library = Path(__file__).with_name("guard.cpp"), folder / "libguard.so"
    at = Path(torch.__file__).parent
    include = [f"-I{at / 'include'}", f"-I{at / 'include/torch/csrc/api/include'}"]
    link = [f"-L{at / 'lib'}", "-ltorch_cpu", "-lc10", "-Wl,--no-as-needed", f"-Wl,-rpath,{at / 'lib'}"]
    command = [compiler, "-O1", "-shared", "-fPIC", "-std=c++20", str(source), "-o", str(library), *include, *link]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
