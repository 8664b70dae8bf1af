"""The networks with which a training begins: their size, their weights, and the format of these in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from celebahq_builder.errors import RecipeError, TrainingError
from celebahq_builder.limits import MAX_CHECKPOINT_BYTES
from celebahq_builder.models.registry import NetworkShape, find_entry, load_network

PARAMETERS_MAX = MAX_CHECKPOINT_BYTES // 16
"""Parameters of all networks of a training. A checkpoint holds up to four float32 values of each: the parameter, its
average, and two moments of Adam."""

Network = TypeVar("Network", bound=nn.Module)


def check_size(make_networks: Callable[[], Iterable[nn.Module]]) -> None:
    """Raise an error if the networks of a training are too large for a checkpoint, before memory is taken for them.

    Args:
        make_networks: makes the networks; it is called on the device ``meta``.

    Raises:
        RecipeError: they have more than `PARAMETERS_MAX` parameters.
    """
    with torch.device("meta"):
        count = sum(parameter.numel() for network in make_networks() for parameter in network.parameters())
    if count > PARAMETERS_MAX:
        raise RecipeError(
            f"the networks of the recipe have {count:,} parameters, and {PARAMETERS_MAX:,} can be trained at most; "
            "choose smaller networks"
        )


def start_weights(name: str, shape: NetworkShape, config: dict[str, object]) -> Mapping[str, Tensor]:
    """Return the weights from which a training starts, and add their hash to its config.

    Args:
        name: NAME or DIR/NAME of a registry; empty for none.
        shape: of the network to train.
        config: see `training.loop.Task`.

    Raises:
        TrainingError: the weights belong to a network of another shape.
        WeightsError: the weights are unknown or damaged.
    """
    if not name:
        return {}
    known = find_entry(name)
    if known.shape != shape:
        raise TrainingError(f"start = {name} is {known.shape}, the recipe's net is {shape}")
    config["start_sha256"] = known.sha256
    return load_network(name).state_dict()


def initial_network(shape: NetworkShape, start: Mapping[str, Tensor], seed: int, device: torch.device) -> nn.Module:
    """Return a network to train, in channels-last memory format; weights that `start` lacks are random.

    Raises:
        RecipeError: the network is too large.
    """
    check_size(lambda: [shape.build()])
    torch.manual_seed(seed)
    net = shape.build()
    net.load_state_dict(net.state_dict() | dict(start))
    return to_channels_last(net, device)


def to_channels_last(network: Network, device: torch.device) -> Network:
    """Move a new network to a device, with the weights of convolutions in channels-last memory format."""
    for tensor in (*network.parameters(), *network.buffers()):
        memory_format = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        tensor.data = tensor.data.to(device=device, memory_format=memory_format)
    return network
