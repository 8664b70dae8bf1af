"""Two processes compute the weights of one."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celebahq_builder.errors import TrainingError
from celebahq_builder.training.distributed import SINGLE_PROCESS, PolledFlag, _report_lost_process, join_processes
from tests.restoration.runs import last_state

DENOISER = """
task = "denoise"
learning_rate = 0.01
validate_every = 3
held_out = 1
bf16 = false
net = { architecture = "autoencoder", widths = [4, 6, 8], blocks = [1, 1, 1] }
phases = [{ steps = 4, patch_px = 16, batch = 3 }]
"""
UPSCALER = """
task = "upscale-adversarially"
start = "upscaler-psnr"
validate_every = 2
held_out = 1
bf16 = false
texture_weight = 0.5
phases = [{ steps = 3, patch_px = 16, batch = 3 }]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(command: list[str], photos: Path, recipe: Path, out: Path, *launcher: str) -> None:
    arguments = [*launcher, "-m", "celebahq_builder", *command, str(photos), "--recipe", str(recipe), "--out", str(out)]
    done = subprocess.run([sys.executable, *arguments, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), [("denoiser", DENOISER), ("upscaler", UPSCALER)])
def test_two_processes_train_to_the_weights_of_one(name: str, recipe: str, photos: Path, tmp_path: Path) -> None:
    """A batch of 3 is shared unevenly; the sums differ in their last bits only, which Adam's first steps amplify."""
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    run([f"train-{name}"], photos, path, tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run([f"train-{name}"], photos, path, tmp_path / "two", *torchrun)
    one, two = (last_state(tmp_path / run) for run in ("one", "two"))
    assert one.keys() == two.keys()
    assert len(one) > 20
    for key, value in one.items():
        assert torch.allclose(value, two[key], rtol=1e-3, atol=1e-4), key
    assert (tmp_path / "two" / "log.jsonl").read_text().count("\n") == 2


POLLING = """
import time
from pathlib import Path
import torch.distributed as dist
from celebahq_builder.training.distributed import PolledFlag, join_processes

polls = 0
reduce = dist.all_reduce
def counted(*arguments):
    global polls
    polls += 1
    reduce(*arguments)
dist.all_reduce = counted

with join_processes("cpu") as context:
    polled, steps = PolledFlag(context), 1
    while not polled.any(context.rank == 1 and steps >= 200):
        time.sleep(0.001 * (1 + context.rank))
        steps += 1
    Path(__file__).with_name(f"rank{context.rank}").write_text(f"{steps} {polls}")
"""


@pytest.mark.slow
def test_a_flag_of_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    """The processes poll it less often than after each step."""
    (tmp_path / "polling.py").write_text(POLLING)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, str(tmp_path / "polling.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    steps, polls = map(int, first.split())
    assert steps >= 200
    assert polls < steps / 2


def test_a_single_process_sees_a_flag_after_each_step() -> None:
    polled = PolledFlag(SINGLE_PROCESS)
    assert [polled.any(flag) for flag in (False, True, False)] == [False, True, False]


def test_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as context:
        assert context == SINGLE_PROCESS
        assert list(context.share(3)) == [0, 1, 2]
        assert torch.equal(context.mean(torch.tensor([2.0])), torch.tensor([2.0]))


def test_shares_are_disjoint_and_complete() -> None:
    contexts = [dataclasses.replace(SINGLE_PROCESS, rank=rank, size=3) for rank in range(3)]
    assert sorted(i for world in contexts for i in world.share(7)) == list(range(7))
    with pytest.raises(TrainingError, match="a batch of 2 cannot be shared by 3 processes; start at most 2"):
        contexts[0].share(2)


def test_a_lost_process_is_reported_in_one_line() -> None:
    with (
        pytest.raises(TrainingError, match=r"another process of this training ended \(Connection closed\); see"),
        _report_lost_process(),
    ):
        raise RuntimeError("Connection closed\nand more")
