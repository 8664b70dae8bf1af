"""An adversarial training moves both networks, can be resumed, and exports corrected weights."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from celebahq_builder.errors import TrainingError
from celebahq_builder.metrics.descriptors import PATCH_PX
from celebahq_builder.metrics.sliced import random_directions
from celebahq_builder.metrics.texture import autocorrelation_loss, draw_quarter_patches, texture_loss
from celebahq_builder.models.registry import load_network
from celebahq_builder.models.srgan import SRGenerator
from celebahq_builder.restoration.adversarial_training import (
    BIAS_ROUNDS,
    TEXTURE_DIRECTIONS,
    TEXTURE_STREAM,
    AdversarialRecipe,
    AdversarialTask,
    ChainSettings,
    interpolate_weights,
    remove_subpixel_bias,
    subpixel_bias,
)
from celebahq_builder.restoration.photos import downscale_4x, to_float
from celebahq_builder.restoration.publish import RECIPES as EXPORTABLE
from celebahq_builder.restoration.task import Phase, RestorationBatch
from celebahq_builder.training import loop
from celebahq_builder.training.distributed import SINGLE_PROCESS
from celebahq_builder.training.loop import TrainingOptions
from celebahq_builder.training.trained_weights import TrainedWeights
from tests.restoration.runs import equal_runs, last_state

RECIPE = AdversarialRecipe(
    task="upscale-adversarially",
    start="upscaler-psnr",
    phases=(Phase(3, 16, 1),),
    held_out=1,
    validate_every=1,
    bf16=False,
    chain=ChainSettings(share=0.5),
)
ONE_STEP = dataclasses.replace(RECIPE, phases=(Phase(1, 16, 1),))


def train(recipe: AdversarialRecipe, photos: Path, out: Path) -> Path:
    return loop.train(AdversarialTask, recipe, photos, TrainingOptions(out=out, device="cpu"))


@pytest.fixture(scope="module")
def noise_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (72, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole(noise_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, noise_photos, out)
    return out


# --- Training ---------------------------------------------------------------------------------------------------


def test_resumed_run_has_the_same_bits(
    whole: Path, noise_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AdversarialTask.training_step

    def training_step(task: AdversarialTask, step: int, batch: RestorationBatch) -> Tensor:
        if step == 2:
            raise KeyboardInterrupt
        return original(task, step, batch)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTask, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, noise_photos, tmp_path)
    train(RECIPE, noise_photos, tmp_path)
    assert equal_runs(tmp_path, whole)


def test_both_networks_move_from_their_initial_weights(whole: Path) -> None:
    state = last_state(whole)
    start = load_network("upscaler-psnr").state_dict()
    moved = [float((state[f"networks.generator.{key}"] - value).abs().max()) for key, value in start.items()]
    assert 0 < max(moved) < 3 * RECIPE.learning_rate * 1.2
    moments = [v for k, v in state.items() if k.startswith("optimizers.discriminator.") and k.endswith("exp_avg_sq")]
    assert len(moments) == 12
    # Within the margins of the hinge loss the last bias has no gradient: it moves real and fake logits alike.
    assert sum(float(value.abs().max()) > 0 for value in moments) >= 11


def test_step_by_hand(noise_photos: Path) -> None:
    """The gradients are those of the losses; the hinge loss is that of Miyato et al. 2018, equations 16 and 17."""
    weights = {
        "pixel_weight": 0.5,
        "texture_weight": 1.5,
        "autocorrelation_weight": 0.7,
        "feature_weight": 3.0,
        "adversarial_weight": 2.0,
    }
    recipe = dataclasses.replace(ONE_STEP, **weights, discriminator_width=4)
    task = AdversarialTask(recipe, noise_photos, SINGLE_PROCESS)
    with torch.no_grad():  # otherwise all scores are within the margins, and real and fake are hardly told apart
        task.discriminator.judge.bias.fill_(0.3)
        for value in task.generator.parameters():
            value.add_(0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    generator, discriminator = copy.deepcopy((task.generator, task.discriminator))
    batch = task.draw_batch(0)
    found = task.training_step(0, batch)

    targets = to_float(batch.targets)
    inputs = downscale_4x(targets) if batch.inputs is None else task._denoise(to_float(batch.inputs))
    fake = generator(inputs)
    real_logits, real_features = discriminator(targets)
    fake_logits, fake_features = discriminator(fake)
    pixel = (fake - targets).abs().mean()
    rng = (recipe.seed, 0, TEXTURE_STREAM)
    directions = random_directions(3 * PATCH_PX**2, np.random.default_rng(rng), TEXTURE_DIRECTIONS)
    positions = draw_quarter_patches([np.random.default_rng((*rng, 0))], *targets.shape[-2:])
    texture = texture_loss(fake, targets, positions, directions)
    autocorrelation = autocorrelation_loss(fake, targets)
    last = zip(fake_features[-2:], real_features[-2:], strict=True)
    feature = sum((f - r.detach()).abs().mean() for f, r in last) / 2
    adversarial = -fake_logits.mean()
    hinge = (1 - real_logits).clamp(min=0).mean() + (1 + fake_logits).clamp(min=0).mean()
    wanted = torch.stack([pixel, texture, autocorrelation, feature, adversarial, hinge]).detach()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert abs(float(hinge.detach() - (2 - real_logits.mean() - fake_logits.mean()).detach())) > 0.1

    loss = 0.5 * pixel + 1.5 * texture + 0.7 * autocorrelation + 3 * feature + 2 * adversarial
    gradients = torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True)
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    assert length > 0.5
    clipped = [g * 0.5 / length for g in gradients]
    judged = torch.autograd.grad(hinge, list(discriminator.parameters()))
    for name, net, before, expected, beta1, rate in (
        ("generator", task.generator, generator, clipped, 0.9, 1e-4),
        ("discriminator", task.discriminator, discriminator, judged, 0.5, 4e-4),
    ):
        state = task.optimizers[name].state
        for value, old, gradient in zip(net.parameters(), before.parameters(), expected, strict=True):
            close = {"rtol": 1e-3, "atol": 1e-3 * float(gradient.abs().max()) + 1e-9}
            torch.testing.assert_close(state[value]["exp_avg"], (1 - beta1) * gradient, **close)
            torch.testing.assert_close(state[value]["exp_avg_sq"].sqrt(), 0.1 * gradient.abs(), **close)
            clear = gradient.abs() > 0.05 * gradient.abs().max()
            moved = (value - old).detach()[clear]
            torch.testing.assert_close(moved, -rate * gradient[clear].sign(), rtol=0.02, atol=1e-6)


def test_inputs_reduced_by_an_area_filter(noise_photos: Path) -> None:
    """Each input pixel is the mean of 4x4 target pixels; the denoiser sees it, as in a build."""
    chain = ChainSettings(share=0)
    task = AdversarialTask(dataclasses.replace(ONE_STEP, area_share=1, chain=chain), noise_photos, SINGLE_PROCESS)
    batch = task.draw_batch(0)
    assert batch.inputs is not None
    means = batch.targets.double().unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).mean(dim=(2, 4))
    assert float((batch.inputs - means).abs().max()) <= 0.5
    compressed = dataclasses.replace(ONE_STEP, area_share=1, chain=ChainSettings(share=1))
    inputs = AdversarialTask(compressed, noise_photos, SINGLE_PROCESS).draw_batch(0).inputs
    assert inputs is not None
    assert not torch.equal(inputs, batch.inputs)
    assert task.draw_batch(0).targets.equal(batch.targets)


def test_share_of_inputs_reduced_by_an_area_filter(noise_photos: Path) -> None:
    recipe = dataclasses.replace(ONE_STEP, area_share=0.5, chain=ChainSettings(share=0))
    task = AdversarialTask(recipe, noise_photos, SINGLE_PROCESS)
    assert {task.draw_batch(step).inputs is None for step in range(12)} == {False, True}


def test_log_names_the_losses(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    scores = {"psnr_y_db", "spectrum_error_db", "swd"}
    assert {"pixel", "texture", "autocorrelation", "feature", "adversarial", "discriminator", *scores} <= lines[
        0
    ].keys()


def test_run_of_another_recipe_is_refused(whole: Path, noise_photos: Path) -> None:
    with pytest.raises(TrainingError, match=r"pixel_weight = 1\.0, this run has pixel_weight = 2\.0"):
        train(dataclasses.replace(RECIPE, pixel_weight=2.0), noise_photos, whole)


def test_exported_weights_take_noise(whole: Path) -> None:
    found = TrainedWeights.read(whole, EXPORTABLE)
    assert dataclasses.asdict(found.shape) == {"architecture": "srgan", "widths": (48, 8), "blocks": (6,)}
    assert found.tensors["noise.weight"].shape == (48, 8, 3, 3)
    assert found.recipe == RECIPE


def test_training_without_noise(noise_photos: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(ONE_STEP, noise=0), noise_photos, tmp_path)
    assert "noise.weight" not in load_file(tmp_path / "weights.safetensors")


def test_training_with_the_unet_discriminator(noise_photos: Path, tmp_path: Path, whole: Path) -> None:
    out = train(dataclasses.replace(ONE_STEP, discriminator="unet", discriminator_width=4), noise_photos, tmp_path)
    state = last_state(tmp_path)
    assert "discriminator.judge.weight" in state or any("discriminator" in key and "up.0" in key for key in state)
    weights, others = load_file(out), load_file(whole / "weights.safetensors")
    assert {name: value.shape for name, value in weights.items()} == {name: v.shape for name, v in others.items()}


def test_start_must_be_an_upscaler(noise_photos: Path) -> None:
    message = "start = denoiser is NetworkShape.*; expected an upscaler without noise, or with 8"
    with pytest.raises(TrainingError, match=message):
        AdversarialTask(dataclasses.replace(RECIPE, start="denoiser"), noise_photos, SINGLE_PROCESS)


@pytest.mark.parametrize(("changed", "message"), [({"start": ""}, "start must name"), ({"start_share": 1.0}, "less")])
def test_invalid_recipes(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **changed)


# --- Corrections of the weights ---------------------------------------------------------------------------------

Pairs = list[tuple[Tensor, Tensor]]


def test_exported_weights_are_interpolated_and_unbiased(noise_photos: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(ONE_STEP, start_share=0.2), noise_photos, tmp_path)
    state, exported = last_state(tmp_path), load_file(tmp_path / "weights.safetensors")
    start = load_network("upscaler-psnr").state_dict()
    for key, value in exported.items():
        interpolated = 0.8 * state[f"averaged.{key}"] + (0.2 * start[key] if key in start else 0)
        if key == "tail.bias":
            assert 0 < float((value - interpolated).abs().max()) < 0.05
            torch.testing.assert_close(value.view(3, 16).mean(dim=1), interpolated.view(3, 16).mean(dim=1))
        else:
            torch.testing.assert_close(value, interpolated)


@pytest.fixture
def pairs() -> Pairs:
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.random((2, 3, 12, 12), dtype=np.float32)) for _ in range(2)]
    return [(small, small.repeat_interleave(4, 2).repeat_interleave(4, 3)) for small in inputs]


def network() -> SRGenerator:
    net = SRGenerator(48, 6, 8)
    net.load_state_dict(net.state_dict() | load_network("upscaler-psnr").state_dict())
    return net.requires_grad_(False)


def test_subpixel_bias_by_hand(pairs: Pairs) -> None:
    net = network()
    errors = [(net(inputs) - targets).double() for inputs, targets in pairs]
    bias = subpixel_bias(net, pairs)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        here = torch.stack([error[:, :, row::4, column::4].mean(dim=(0, 2, 3)) for error in errors]).mean(dim=0)
        everywhere = torch.stack([error.mean(dim=(0, 2, 3)) for error in errors]).mean(dim=0)
        torch.testing.assert_close(bias[:, row, column], here - everywhere, rtol=0, atol=1e-7)


def test_removing_the_bias_removes_a_checkerboard_and_keeps_the_mean(pairs: Pairs) -> None:
    net = network()
    net.tail.bias.view(3, 4, 4)[:, ::2, 1::2] += 4 / 255
    before, colour = subpixel_bias(net, pairs), torch.stack([net(inputs).mean(dim=(0, 2, 3)) for inputs, _ in pairs])
    for _ in range(BIAS_ROUNDS):
        remove_subpixel_bias(net, pairs)
    after = subpixel_bias(net, pairs)
    spread = [255 * float((m.amax(dim=(1, 2)) - m.amin(dim=(1, 2))).max()) for m in (before, after)]
    assert spread[0] > 2
    assert spread[1] < 0.15 * spread[0]
    shift = torch.stack([net(inputs).mean(dim=(0, 2, 3)) for inputs, _ in pairs]) - colour
    assert 255 * float(shift.abs().max()) < 0.05


def test_interpolated_weights_by_hand() -> None:
    """A weight that the start lacks, that of the noise, counts as zero there."""
    net, start = network(), load_network("upscaler-psnr").state_dict()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1)
    moved = {name: value.clone() for name, value in net.state_dict().items()}
    interpolate_weights(net, start, 0.25)
    for name, value in net.state_dict().items():
        expected = 0.75 * moved[name] + (0.25 * start[name] if name in start else 0)
        torch.testing.assert_close(value, expected)
    assert "noise.weight" not in start
