"""The state of a run comes back as it was saved, or it is said why not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from celebahq_builder.errors import TrainingError
from celebahq_builder.restoration.checkpoint import Checkpoint

RECIPE: dict[str, Any] = {"task": "test", "net": {"widths": [4, 4]}, "phases": [{"steps": 3}], "rate": 0.1}


def network(seed: int) -> tuple[nn.Module, torch.optim.Adam]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3))
    return net, torch.optim.Adam(net.parameters(), lr=0.1)


def open_run(folder: Path, seed: int = 0, recipe: dict[str, Any] = RECIPE, *, two: bool = False) -> Checkpoint:
    nets = {"net": network(seed)} | ({"critic": network(seed + 50)} if two else {})
    return Checkpoint.open(folder, nets, recipe)


def steps(state: Checkpoint, count: int) -> None:
    """Some steps of all networks, of the same kind for the same step numbers."""
    for step in range(state.step, state.step + count):
        x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for net, optimiser in state.nets.values():
            optimiser.zero_grad()
            net(x).square().mean().backward()
            optimiser.step()
        state.average(0.5)


def everything(state: Checkpoint) -> list[torch.Tensor]:
    tensors = [*state.averaged.state_dict().values()]
    for net, optimiser in state.nets.values():
        tensors += net.state_dict().values()
        for parameter in net.parameters():
            tensors += [torch.as_tensor(value) for value in optimiser.state[parameter].values()]
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("two", [False, True])
def test_comes_back_as_it_was(two: bool, tmp_path: Path) -> None:
    state = open_run(tmp_path, two=two)
    assert (state.step, state.best) == (0, float("-inf"))
    steps(state, 3)
    state.save(3, 1 / 3)
    back = open_run(tmp_path, seed=9, two=two)
    assert (back.step, back.best) == (3, 1 / 3)
    assert all(torch.equal(a, b) for a, b in zip(everything(state), everything(back), strict=True))
    steps(state, 2)
    steps(back, 2)
    assert all(torch.equal(a, b) for a, b in zip(everything(state), everything(back), strict=True))


def test_second_network_is_not_exported(tmp_path: Path) -> None:
    state = open_run(tmp_path, two=True)
    steps(state, 1)
    state.save(1, 0.0)
    exported = load_file(tmp_path / "weights.safetensors")
    assert exported.keys() == state.net.state_dict().keys()
    assert all(torch.equal(value, state.averaged.state_dict()[key]) for key, value in exported.items())


def test_average_by_hand(tmp_path: Path) -> None:
    state = open_run(tmp_path)
    before = [p.clone() for p in state.averaged.parameters()]
    with torch.no_grad():
        for parameter in state.net.parameters():
            parameter += 1
    state.average(0.9)
    for old, new in zip(before, state.averaged.parameters(), strict=True):
        assert torch.allclose(new, old + 0.1, atol=1e-6)
    assert not any(p.requires_grad for p in state.averaged.parameters())


def test_best_weights_stay_when_the_score_falls(tmp_path: Path) -> None:
    state = open_run(tmp_path)
    stored = []
    for step, score in enumerate((1.0, 3.0, 2.0, 3.0, 4.0), start=1):
        steps(state, 1)
        state.save(step, score)
        with safe_open(tmp_path / "weights.safetensors", "pt") as file:
            stored.append(int(file.metadata()["step"]))
    assert stored == [1, 2, 2, 2, 5]
    assert open_run(tmp_path).best == 4.0


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    state = open_run(tmp_path)
    steps(state, 1)
    state.save(1, 0.0)
    (tmp_path / "checkpoint.safetensors.partial").write_bytes(b"half")
    assert open_run(tmp_path).step == 1
    state.save(2, 1.0)
    names = {"checkpoint.safetensors", "weights.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({**RECIPE, "rate": 0.2}, "rate = 0.1, this run asks 0.2"),
        ({**RECIPE, "net": {"widths": [4, 5]}}, r"net\.widths = \[4, 4\], this run asks \[4, 5\]"),
        ({**RECIPE, "new": 1}, "new = None, this run asks 1"),
        ({key: value for key, value in RECIPE.items() if key != "rate"}, "rate = 0.1, this run asks None"),
    ],
)
def test_another_recipe(recipe: dict[str, Any], said: str, tmp_path: Path) -> None:
    state = open_run(tmp_path)
    steps(state, 1)
    state.save(1, 0.0)
    with pytest.raises(TrainingError, match=f"was trained with {said}; use another --out"):
        open_run(tmp_path, recipe=recipe)


def test_same_recipe_in_other_containers(tmp_path: Path) -> None:
    """Tuples are lists once they are on disk."""
    state = open_run(tmp_path)
    steps(state, 1)
    state.save(1, 0.0)
    assert open_run(tmp_path, recipe={**RECIPE, "net": {"widths": (4, 4)}}).step == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_checkpoint(share: float, tmp_path: Path) -> None:
    state = open_run(tmp_path)
    steps(state, 1)
    state.save(1, 0.0)
    path = tmp_path / "checkpoint.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors"):
        open_run(tmp_path)


def test_checkpoint_of_another_kind(tmp_path: Path) -> None:
    """As when somebody puts the exported weights in its place."""
    state = open_run(tmp_path)
    steps(state, 1)
    state.save(1, 0.0)
    (tmp_path / "weights.safetensors").replace(tmp_path / "checkpoint.safetensors")
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors"):
        open_run(tmp_path)
