"""Settings that would take more memory than any machine has are refused in one line, before the memory is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from celebahq_builder.cli.main import celebahq, run_command
from celebahq_builder.errors import CelebAHQError
from celebahq_builder.hdf5.create import write_images
from tests.hdf5.test_create import arrays

SAMPLE = Path(__file__).parents[1] / "sample" / "celeba"

HUGE = 1_000_000_000
PHASE = f"phases=[{{steps=1,patch_px=16,batch={HUGE}}}]"
SMALL = ("phases=[{steps=1,patch_px=16,batch=1}]", "held_out=2")
PARAMETERS = "the networks of the recipe have .* parameters, and 268,435,456 can be trained at most; choose smaller"

CASES = [
    ("train", ("tick.grid=[100000,100000]",), r"grid = \[100000, 100000\] must be from 1 to 100$"),
    ("train", ("tick.grid=[0,8]",), r"grid = \[0, 8\] must be from 1 to 100$"),
    ("train", (f"tick.metric_num={HUGE}",), f"metric_num = {HUGE} must be from 2 to 1000000$"),
    ("train", (f"net.latent={HUGE}",), f"latent = {HUGE} must be from 1 to 65536$"),
    ("train", (f"net.labels={HUGE}",), f"labels = {HUGE} must be from 0 to 65536$"),
    ("train", (f"net.channels_max={HUGE}",), f"channels_max = {HUGE} must be from 1 to 65536$"),
    ("train", (f"net.stddev_group={HUGE}",), f"stddev_group = {HUGE} must be from 0 to 65536$"),
    ("train", ("net.channels_max=65536", f"net.channels_base={HUGE}"), PARAMETERS),
    ("train", ("net.latent=65536", "net.channels_max=2048", "net.channels_base=8192"), PARAMETERS),
    ("train-denoiser", (PHASE,), "the patches of a step have 256,000,000,000 pixels, at most 16,777,216"),
    ("train-denoiser", (f"net.widths=[8,8,{HUGE}]",), rf"widths = \[8, 8, {HUGE}\] must be from 1 to 1024"),
    ("train-denoiser", ("net.widths=[1024,1024,1024]", "net.blocks=[9,9,9]", *SMALL), PARAMETERS),
    ("train-upscaler", ("net.widths=[1024]", "net.blocks=[20]", *SMALL), PARAMETERS),
    ("train-upscaler", (PHASE,), "the patches of a step have 256,000,000,000 pixels, at most 16,777,216"),
    ("train-upscaler --recipe upscaler-gan", (f"noise={HUGE}",), "noise must be from 0 to 1024"),
    ("train-upscaler --recipe upscaler-gan", ("discriminator_width=1025",), "discriminator_width from 1 to 1024"),
    ("train-upscaler --recipe upscaler-gan", ("discriminator_width=1024", *SMALL), PARAMETERS),
    ("train-upscaler --recipe upscaler-gan", ("discriminator_rate=0",), "discriminator_rate must be positive"),
    ("train-upscaler --recipe upscaler-gan", ("chain.quality_min=96",), "quality_max = 95: need 1 to 100"),
    ("train-upscaler", ("seed=-1",), "seed at least 0"),
    ("train-landmarks", (f"batch={HUGE}",), f"batch = {HUGE} must be from 2 to 4096$"),
    ("train-landmarks", ("net.widths=[1024,1024,1024]", "net.blocks=[9,9,9]", "held_out=3"), PARAMETERS),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data of each command."""
    path = tmp_path_factory.mktemp("data") / "faces.h5"
    write_images(arrays(8, 32), path)
    photos = tmp_path_factory.mktemp("photos")
    for i in range(4):
        Image.fromarray(np.full((144, 144, 3), i, np.uint8)).save(photos / f"{i}.png")
    return {"train": path, "train-denoiser": photos, "train-upscaler": photos, "train-landmarks": SAMPLE}


@pytest.mark.parametrize(("command", "settings", "message"), CASES)
def test_refused(command: str, settings: tuple[str, ...], message: str, data: dict[str, Path], tmp_path: Path) -> None:
    name, *more = command.split()
    words = [name, str(data[name]), "--out", str(tmp_path / "run"), "--device", "cpu", *more]
    words += ["--recipe", "quick"] if name == "train" else []
    for setting in settings:
        words += ["--set", setting]
    ended = CliRunner().invoke(celebahq, words)
    assert isinstance(ended.exception, CelebAHQError), ended.exception
    with pytest.raises(CelebAHQError, match=message):
        raise ended.exception
    assert "\n" not in str(ended.exception)
    assert not (tmp_path / "run").exists()


def test_memory_of_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its allocator raises no MemoryError, but the message is the same line."""

    @celebahq.command("greedy")
    def greedy() -> None:
        torch.empty(1 << 55)

    monkeypatch.setattr("sys.argv", ["celebahq", "greedy"])
    try:
        with pytest.raises(SystemExit) as ended:
            run_command(celebahq)
    finally:
        del celebahq.commands["greedy"]
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: out of memory; close other programs, or give the command less work\n"
