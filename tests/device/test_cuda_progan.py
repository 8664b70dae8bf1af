"""ProGAN on a CUDA device: every loss and precision trains at every level; images, videos and runs."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from celebahq_builder.errors import TrainingError
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.models.generator_file import export_generator, load_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.progan.generate import Generator
from celebahq_builder.progan.launch import fit_memory, train_progan
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, Schedule, SchedulePoint
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.progan.ticks import TrainingProgress
from celebahq_builder.progan.video import interpolate
from celebahq_builder.training.distributed import SINGLE_PROCESS, DistributedContext
from celebahq_builder.training.logger import read_lines
from tests.device import pretend
from tests.progan import tiny
from tests.progan.tiny import RECIPE, Noise

NET = dataclasses.replace(tiny.NET, resolution=32)
POINTS = [
    SchedulePoint(level, alpha, 8, None, 0.001)
    for level in NET.levels
    for alpha in (0.5, 1.0)
    if level > 2 or alpha == 1
]
"""Each level, while it fades in and afterwards."""


def reals(now: SchedulePoint, device: torch.device, passes: int = 1, labels: int = 0) -> list[Microbatch]:
    shape = (now.minibatch, 3, now.resolution, now.resolution)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(now.level)).mul(2).sub(1).to(device)
    classes = torch.eye(labels)[torch.arange(now.minibatch) % labels].to(device) if labels else None
    return [Microbatch(images[i::passes], None if classes is None else classes[i::passes]) for i in range(passes)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["wgan-gp", "logistic", "lsgan"])
def test_losses_and_precisions_at_every_level(kind: str, precision: str, device: torch.device) -> None:
    """The statistics are close to those of the same steps on the CPU, and all used weights of both networks move.

    Each step starts from the state of the CPU: Adam turns the rounding of a step into whole steps of the learning rate,
    which later steps would add up. So the tolerances are for the rounding of one step. On a CPU, bfloat16 and float32
    differ by 0.03; TF32, torch's default for convolutions in fp32, keeps 3 bits more than bfloat16.
    """
    recipe = ProGANRecipe("progan", net=NET, loss=LossSettings(kind), precision=precision)
    progan, reference = ProGANTrainer(recipe, DistributedContext(0, 1, device)), ProGANTrainer(recipe, SINGLE_PROCESS)
    for number, now in enumerate(POINTS):
        progan.load_state_dict(reference.state_dict())
        before = [p.detach().clone() for _, p in progan.generator.active(now.level, now.alpha)]
        found = progan.step(number, now, reals(now, device)).cpu()
        wanted = reference.step(number, now, reals(now, torch.device("cpu")))
        tolerance = 0.02 if precision == "fp32" else 0.1
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, msg=f"{now}: {found}, {wanted}")
        after = [p.detach() for _, p in progan.generator.active(now.level, now.alpha)]
        assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), now
        assert all(p.isfinite().all() for p in progan.discriminator.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_labels_and_several_passes(alpha: float, precision: str, device: torch.device) -> None:
    net = dataclasses.replace(NET, labels=3)
    recipe = ProGANRecipe("progan", net=net, precision=precision, reuse_fakes=alpha == 1)
    progan = ProGANTrainer(recipe, DistributedContext(0, 1, device), torch.eye(3))
    now = SchedulePoint(5, alpha, 8, None, 0.001)
    assert progan.step(0, now, reals(now, device, passes=2, labels=3)).isfinite().all()


@pytest.mark.skipif(not pretend.ACTIVE, reason="a GPU also holds workspaces, which are larger than these networks")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fewer_images_at_once_fit_a_smaller_memory(precision: str, device: torch.device) -> None:
    """With little more than a number of images needs, that number is chosen; with less than one image, none.

    The margin of 10 % is for tensors that another thread frees earlier or later.
    """
    net = dataclasses.replace(NET, channels_base=128)
    schedule = Schedule(first=32, minibatch=4)
    recipe = ProGANRecipe("progan", net=net, precision=precision, schedule=schedule)
    context = DistributedContext(0, 1, device)

    def per_gpu(images: int) -> ProGANRecipe:
        return dataclasses.replace(recipe, schedule=dataclasses.replace(schedule, per_gpu={"32": images}))

    needed = {images: pretend.peak_bytes(partial(fit_memory, per_gpu(images), context)) for images in (4, 2, 1)}
    assert needed[4] > 1.5 * needed[2] > 1.5 * 1.3 * needed[1]
    for images, enough in needed.items():
        with pretend.limited_memory(enough * 11 // 10):
            assert fit_memory(recipe, context) == (recipe if images == 4 else per_gpu(images))
    with (
        pretend.limited_memory(needed[1] * 9 // 10),
        pytest.raises(TrainingError, match="a minibatch of 4 at 32x32 does not fit cuda:0 even in passes of 1"),
    ):
        fit_memory(recipe, context)


def test_the_state_moves_between_devices(device: torch.device) -> None:
    """A checkpoint of the CPU is resumed on the device, and the other way round."""
    recipe = ProGANRecipe("progan", net=NET)
    now = SchedulePoint(4, 0.5, 8, None, 0.001)
    places = [SINGLE_PROCESS, DistributedContext(0, 1, device), SINGLE_PROCESS]
    state, results = None, []
    for number, context in enumerate(places):
        progan = ProGANTrainer(recipe, context)
        if state is not None:
            progan.load_state_dict(state)
        results.append(progan.step(number, now, reals(now, context.device)).cpu())
        moved: dict[str, object] = progan.state_dict()
        state = torch.utils._pytree.tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, moved)
    reference = ProGANTrainer(recipe, SINGLE_PROCESS)
    for number, found in enumerate(results):
        wanted = reference.step(number, now, reals(now, torch.device("cpu")))
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_training(precision: str, device: torch.device, tmp_path: Path) -> None:
    """Data, passes that fit the memory, ticks, metrics, image grids, checkpoint, report; then it is resumed."""
    write_images(Noise(), tmp_path / "noise.h5", codec=Gzip())
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        RECIPE.replace('task = "progan"', f'task = "progan"\nprecision = "{precision}"').replace(
            "[tick]", "[tick]\nmetric_ticks = 5\nmetric_num = 8\nmetrics = ['swd', 'ms-ssim']"
        )
    )
    run = tmp_path / "run"
    for total_kimg in (0.08, None):
        train_progan(tmp_path / "noise.h5", run, recipe=recipe, device=str(device), total_kimg=total_kimg)
    lines = read_lines(run / "stats.jsonl")
    assert [line["tick"] for line in lines] == list(range(1, 11))
    assert {line["resolution"] for line in lines} == {4, 8, 16}
    assert (run / "generator.safetensors").exists()
    assert all(line["memory_bytes"] > 0 for line in lines)


def test_the_peak_of_the_memory_is_that_of_the_tick(device: torch.device) -> None:
    """Other tests of the process may hold memory, such as the 64 MiB of cuBLAS: only the difference counts."""
    progress = TrainingProgress(torch.zeros(6, device=device))
    progress.end_tick(POINTS[0], {}, device)
    torch.zeros(1 << 26, dtype=torch.uint8, device=device)
    peaks = [progress.end_tick(POINTS[0], {}, device)["memory_bytes"] for _ in range(2)]
    assert peaks[0] - peaks[1] >= (1 << 26) - (1 << 20)  # the sums of a tick take less than 1 MiB


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    return export_generator(tmp_path, GeneratorNetwork(NET), 5, 0.5, {})


@pytest.fixture
def tf32() -> Iterator[None]:
    """The switches of a training."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in switches]
    for one in switches:
        one.allow_tf32 = True
    yield
    for one, value in zip(switches, before, strict=True):
        one.allow_tf32 = value


@pytest.mark.usefixtures("tf32")
def test_generated_images_are_those_of_the_cpu(generator: Path, device: torch.device) -> None:
    """Also in a training, which computes in TF32: with its 10 bits, images differed by up to 3 levels on an H200."""
    found, wanted = (Generator.load(generator, device=str(where)).sample(70, seed=1) for where in (device, "cpu"))
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(wanted, np.int16))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_interpolate(generator: Path, device: torch.device, tmp_path: Path) -> None:
    interpolate(load_generator(generator, device), tmp_path / "walk.mp4", seconds=0.5, fps=8)
    assert (tmp_path / "walk.mp4").stat().st_size > 0


def test_mixed_devices_are_refused(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=device) + torch.ones(2)
