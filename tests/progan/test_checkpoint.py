"""A checkpoint is what was written, or it is passed over."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from celebahq_builder.config import load
from celebahq_builder.errors import DiskFull, TrainingError
from celebahq_builder.models import generator_file
from celebahq_builder.progan.schedule import ProGANRecipe
from tests.progan.tiny import assert_equal, last, trained, without_time


def test_a_flipped_bit_is_seen(data: Path, recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Safetensors itself only sees that the length is right."""
    settings = load(ProGANRecipe, recipe)
    trained(data, tmp_path / "run", settings)
    wanted, lines = last(tmp_path / "run"), without_time(tmp_path / "run")
    path = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    trained(data, tmp_path / "run", settings)
    assert f"{path} is damaged (its numbers are not those that were written)" in caplog.text
    assert_equal(last(tmp_path / "run"), wanted)
    assert without_time(tmp_path / "run") == lines


def test_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.safetensors"
    tensors = {"a": torch.randn(3, 4).t(), "step": torch.tensor(5.0), "none": torch.zeros(0)}
    generator_file.write(path, tensors, {"x": "y"})
    found, meta = generator_file.read(path)
    assert_equal(found, tensors)
    assert meta["x"] == "y"
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o666
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_digests_tell_tensors_apart() -> None:
    one = torch.arange(6.0)
    different = [{"a": one}, {"b": one}, {"a": one.view(2, 3)}, {"a": one.int()}, {"a": one + 1e-7}, {}]
    assert len({generator_file.digest(tensors) for tensors in different}) == len(different)
    assert generator_file.digest({"a": one, "b": one}) == generator_file.digest({"b": one, "a": one.clone()})


def test_a_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        path = tmp_path / "one.safetensors"
        generator_file.write(path, {"a": torch.zeros(100)}, {})
        with pytest.raises(DiskFull, match="no space left to write .*two.safetensors; free some"):
            generator_file.write(tmp_path / "two.safetensors", {"a": torch.zeros(100000)}, {})
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(TrainingError, match="could not be written: .*File too large"):
            generator_file.write(tmp_path / "one.safetensors", {"a": torch.zeros(100000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
