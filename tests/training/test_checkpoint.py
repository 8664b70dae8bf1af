"""Checkpoints are read back bit for bit, or refused in one line."""

import json
import os
import resource
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from celebahq_builder.errors import DiskFull, TrainingError
from celebahq_builder.training.checkpoint import (
    CheckpointFolder,
    DamagedCheckpoint,
    checkpoint_paths,
    load_optimizer,
    read_checkpoint,
    superseded,
    write_checkpoint,
)
from tests.disk import small_disk

CONFIG = {"task": "test", "net": {"widths": [4, 4]}, "rate": 0.1}


def network(seed: int) -> tuple[torch.nn.Module, torch.optim.Adam]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 3, 3))
    return net, torch.optim.Adam(net.parameters(), lr=0.1)


def train(net: torch.nn.Module, optimizer: torch.optim.Adam, steps: range) -> None:
    for step in steps:
        x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_a_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    net, adam = network(0)
    train(net, adam, range(3))
    CheckpointFolder(tmp_path, CONFIG).save(3, {"net": net.state_dict(), "adam": adam.state_dict(), "best": 1 / 3})
    found = CheckpointFolder(tmp_path, CONFIG).latest()
    assert found.config == CONFIG
    assert found.state["best"] == 1 / 3
    other, other_adam = network(9)
    other.load_state_dict(found.state["net"])
    other_adam.load_state_dict(found.state["adam"])
    train(net, adam, range(3, 6))
    train(other, other_adam, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_contents_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.pt"
    state = {
        "transposed": torch.randn(3, 4).t(),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(5.0),
        "empty": torch.zeros(0),
        "nested": {"list": [1, 2.5, None, "text"], "flag": True},
    }
    write_checkpoint(path, {"size": (1, 2)}, state)
    for verify in (True, False):
        found = read_checkpoint(path, verify=verify)
        assert found.config == {"size": [1, 2]}
        assert found.state["nested"] == state["nested"]
        for name in ("transposed", "half", "scalar", "empty"):
            assert torch.equal(found.state[name], state[name])
            assert found.state[name].dtype == state[name].dtype
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_every_changed_byte_is_detected(tmp_path: Path) -> None:
    """Bytes between the records of the file mean nothing; the contents are the same then."""
    path = tmp_path / "one.pt"
    weight = torch.tensor([1.0, -2.0, 3.0])
    write_checkpoint(path, {"seed": 3}, {"weight": weight, "step": 7})
    raw = path.read_bytes()
    messages = []
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        try:
            found = read_checkpoint(path)
        except DamagedCheckpoint as error:
            messages.append(str(error))
        else:
            assert torch.equal(found.state["weight"], weight)
            assert (found.state["step"], found.config) == (7, {"seed": 3})
    assert len(messages) > 500
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_the_checkpoint_before_a_damaged_one_is_read(
    share: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints", CONFIG)
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    first, last = checkpoint_paths(checkpoints.folder)
    last.write_bytes(last.read_bytes()[: int(last.stat().st_size * share)])
    found = checkpoints.latest()
    assert found.state == {"step": 1}
    assert f"{last} is damaged" in caplog.text
    first.write_bytes(b"")
    with pytest.raises(TrainingError, match="all 2 checkpoints in .* are damaged; choose another `out`"):
        checkpoints.latest()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "rate": 0.2}, r"rate = 0\.1, this run has rate = 0\.2; .* with the new value: `changed` rate$"),
        ({**CONFIG, "net": {"widths": [4, 5]}}, r"net\.widths = \[4, 4\], .* = \[4, 5\]; .* the data of that run$"),
        ({**CONFIG, "new": 1}, "new = None, this run has new = 1"),
        ({key: value for key, value in CONFIG.items() if key != "rate"}, r"rate = 0\.1, this run has rate = None"),
    ],
)
def test_another_recipe_is_refused(config: dict[str, object], message: str, tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "run" / "checkpoints", CONFIG).save(1, {})
    other = CheckpointFolder(tmp_path / "run" / "checkpoints", config, ("rate",))
    with pytest.raises(TrainingError, match=f"run was trained with {message}"):
        other.latest()
    assert (other.latest(("rate", "net", "new")) is None) is False


def test_tuples_and_lists_are_equal(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, {"widths": (4, 4)}).save(1, {})
    assert CheckpointFolder(tmp_path, {"widths": (4, 4)}).latest() is not None


def test_checkpoints_of_an_earlier_version(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert CheckpointFolder(folder, CONFIG).latest() is None
    for path in (folder / "checkpoint-000000016-r0004.safetensors", tmp_path / "checkpoint.safetensors"):
        path.touch()
        with pytest.raises(TrainingError, match="was written by an earlier version.*; choose another `out`, or"):
            CheckpointFolder(folder, CONFIG).latest()
        path.unlink()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.pt"
    for contents in ({"format": "other"}, {"weight": torch.zeros(1)}, torch.zeros(1)):
        torch.save(contents, path)
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(path)
    path.write_text("no zip")
    with pytest.raises(DamagedCheckpoint, match="it cannot be read: File is not a zip file"):
        read_checkpoint(path)


class Call:
    """Pickled as a call of a function with some arguments."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def repeated(depth: int) -> list[object]:
    """Return a list of 10 times the same list of 10 times the same list, ..."""
    value: list[object] = []
    for _ in range(depth):
        value = [value] * 10
    return value


def crafted(path: Path, pickled: bytes, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip file with the records of a checkpoint."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for name, data in records.items():
            archive.writestr(f"archive/data/{name}", data)


def state_of(tensor: object) -> dict[str, object]:
    return {"format": "celebahq-checkpoint-1", "sha256": "", "config": {}, "state": {"weight": tensor}}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Call(bytearray, 10**10), "it holds .*bytearray"),
        (Call(torch.Tensor, 10**10), "it holds torch.Tensor"),
        (torch.zeros(1).expand(10**10), "a tensor is larger than its record"),
        (
            Call(torch._utils._rebuild_tensor_v2, torch.zeros(9)._typed_storage(), 0, (2,), (9,), False, OrderedDict()),
            "a tensor is larger than its record",
        ),
        (repeated(12), "its values repeat without end"),
        ([[torch.zeros(1000)] * 1000] * 1000, "its values repeat without end"),
    ],
    ids=["bytearray", "tensor", "expanded", "strided", "repeated lists", "repeated tensors"],
)
def test_small_files_that_would_take_all_memory(tensor: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.pt"
    torch.save(state_of(tensor), path)
    assert path.stat().st_size < 100_000
    for verify in (True, False):
        with pytest.raises(DamagedCheckpoint, match=message):
            read_checkpoint(path, verify=verify)


def test_records_that_are_too_short_or_compressed(tmp_path: Path) -> None:
    """PyTorch would read beyond the first, and expand the second."""
    path = tmp_path / "checkpoint-000000001.pt"
    torch.save(state_of(torch.zeros(1000)), path)
    with zipfile.ZipFile(path) as archive:
        [prefix] = {name.partition("/")[0] for name in archive.namelist()}
        pickled = archive.read(f"{prefix}/data.pkl")
    crafted(path, pickled, {"0": bytes(4000)})
    with pytest.raises(DamagedCheckpoint, match="its contents are not those that were written"):
        read_checkpoint(path)
    crafted(path, pickled, {"0": bytes(3996)})
    with pytest.raises(DamagedCheckpoint, match="its record 0 has another size than its tensor"):
        read_checkpoint(path)
    crafted(path, pickled, {"0": bytes(4000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedCheckpoint, match="its records are compressed, or overlap"):
        read_checkpoint(path)
    crafted(path, b"\x80\x02]r\xff\xff\xff\x7f.", {})
    with pytest.raises(DamagedCheckpoint, match="its structure names an object out of range"):
        read_checkpoint(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.pt"
    os.mkfifo(path)
    with pytest.raises(DamagedCheckpoint, match="it is no regular file"):
        read_checkpoint(path)
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(DamagedCheckpoint, match="or larger than 4294967296 bytes"):
        read_checkpoint(path)


def test_optimizers_of_other_networks(tmp_path: Path) -> None:
    net, adam = network(0)
    train(net, adam, range(1))
    state = adam.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(10**4)
    with pytest.raises(ValueError, match=r"exp_avg of the optimizer has shape \[10000\], not \[4, 3, 3, 3\]"):
        load_optimizer(network(1)[1], state)


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write, fsync, rename, fsync of the folder; only then an earlier checkpoint is deleted."""
    checkpoints = CheckpointFolder(tmp_path, CONFIG)
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    events: list[str] = []
    sync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(f"fsync {'folder' if path == tmp_path else f'{path.stat().st_size} bytes'}")
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append(f"rename {path.stat().st_size} bytes to {target.name}")
        return replace(path, target)

    def deleted(path: Path, missing_ok: bool = False) -> None:
        if path.exists() and path.suffix == ".pt":
            events.append(f"delete {path.name}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(Path, "unlink", deleted)
    size = checkpoints.save(3, {"step": 3}).stat().st_size
    assert events == [
        f"fsync {size} bytes",
        f"rename {size} bytes to checkpoint-000000003.pt",
        "fsync folder",
        "delete checkpoint-000000001.pt",
    ]


def test_superseded() -> None:
    names = [f"checkpoint-{n:09d}-r{r:04d}.pt" for n, r in ((1, 4), (2, 4), (3, 8), (4, 8), (5, 8), (6, 16))]
    assert superseded([*names, "notes.txt"]) == [names[0], names[2], names[3]]
    assert superseded(names[:2]) == []
    assert superseded([f"checkpoint-{n:09d}.pt" for n in (1, 2, 3)]) == ["checkpoint-000000001.pt"]


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        checkpoints = CheckpointFolder(disk, CONFIG)
        first = checkpoints.save(1, {"a": torch.zeros(100)})
        with pytest.raises(DiskFull, match="no space left to write .*000000002.pt; free some"):
            checkpoints.save(2, {"a": torch.zeros(100000)})
        assert [one.name for one in disk.iterdir()] == [first.name]


def test_a_file_size_limit(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(TrainingError, match="could not be written: .*File too large"):
            write_checkpoint(tmp_path / "one.pt", {}, {"a": torch.zeros(100000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_config_is_stored_as_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_checkpoint(tmp_path / "one.pt", {"path": tmp_path}, {})
    assert json.dumps(CONFIG)
