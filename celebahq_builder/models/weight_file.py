"""Safetensors files: reproducible contents, bounded reading, and loading into a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from celebahq_builder.errors import WeightsError, first_line
from celebahq_builder.limits import MAX_WEIGHTS_HEADER_BYTES

Network = TypeVar("Network", bound=nn.Module)


def read_weights(path: Path, advice: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    The tensors are mapped from the file, so they take memory only when their values are used: compare their shapes with
    those of a network first. They stay as they are if another process replaces the file.

    Args:
        path: of the file.
        advice: what to do if it cannot be read.

    Raises:
        WeightsError: there is no such file, or it is not a complete safetensors file.
    """
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is not a regular file; {advice}")
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_WEIGHTS_HEADER_BYTES:
            raise ValueError(f"its header would have {header_bytes} bytes")
        with safe_open(path, "pt") as opened:
            names: list[str] = list(opened.keys())  # `opened` itself cannot be iterated
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in names}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; {advice}") from None
    except (SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path} is not a safetensors file: {first_line(error)}; {advice}") from None


def weight_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the contents of a safetensors file, the same for the same tensors and metadata.

    The library writes the keys of the metadata in random order.

    Examples:
        >>> import torch
        >>> data = weight_bytes({"bias": torch.zeros(2)}, {"step": "8", "command": "train"})
        >>> data[8:].startswith(b'{"__metadata__":{"command":"train","step":"8"},"bias":')
        True
    """
    data = save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes, and their offsets count from there
    return len(text).to_bytes(8, "little") + text + data[end:]


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a network: all tensors of the network and no others.

    A network on the device ``meta`` takes the tensors themselves, after names and shapes have been compared.

    Raises:
        WeightsError: the tensors of the file `path` belong to another network.
    """
    try:
        net.load_state_dict(tensors, assign=next(net.parameters()).is_meta)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise WeightsError(f"weight file {path} belongs to another network: {reason}") from None


def to_channels_last(network: Network, device: torch.device | str) -> Network:
    """Move a new network to a device, with the weights of convolutions in channels-last memory format."""
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
