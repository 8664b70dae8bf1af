"""Two steps of the denoiser's, the upscaler's and the adversarial training on a CUDA device."""

import dataclasses
from pathlib import Path

import pytest
import torch

from celebahq_builder.restoration import TASKS
from celebahq_builder.restoration.adversarial_training import AdversarialRecipe, ChainSettings
from celebahq_builder.restoration.pixel_training import PixelRecipe
from celebahq_builder.restoration.task import Phase
from celebahq_builder.training.loop import TrainingOptions, train
from tests.device import pretend
from tests.restoration.conftest import photos
from tests.restoration.runs import DENOISE, UPSCALE, last_state, log_lines

__all__ = ["photos"]

PHASES = (Phase(2, 16, 2),)
ADVERSARIAL = AdversarialRecipe(
    task="upscale-adversarially",
    start="upscaler-psnr",
    phases=PHASES,
    held_out=1,
    validate_every=2,
    bf16=False,
    chain=ChainSettings(share=0.5),
)
RECIPES = {
    "denoise": dataclasses.replace(DENOISE, phases=PHASES),
    "upscale": dataclasses.replace(UPSCALE, phases=PHASES),
    "adversarial": ADVERSARIAL,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own files, which `torch.compile` imports
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(
    name: str,
    bf16: bool,
    photos: Path,
    device: torch.device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 the weights are close to those of the CPU.

    Each of Adam's first two steps changes a weight by the learning rate, whatever the size of its gradient. Where the
    gradient is so small that rounding decides its sign, the weights differ by up to 4 learning rates. There are few of
    these: with random signs, the mean difference would be 1.5 learning rates.
    """
    if pretend.ACTIVE or (name, bf16) != ("denoise", True):  # compiling takes half a minute
        monkeypatch.setattr(torch, "compile", lambda network: network)
    recipe: PixelRecipe | AdversarialRecipe = dataclasses.replace(RECIPES[name], bf16=bf16)
    runs = {}
    for where in [str(device)] if bf16 else ["cpu", str(device)]:
        out = tmp_path / where
        train(TASKS[recipe.task], recipe, photos, TrainingOptions(out=out, device=where, workers=1))
        assert len(log_lines(out)) == 1
        runs[where] = {key: value for key, value in last_state(out).items() if key.startswith("networks.")}
    found = runs[str(device)]
    assert len(found) >= 8
    assert all(value.isfinite().all() for value in found.values() if value.is_floating_point())
    for key, value in runs.get("cpu", found).items():
        torch.testing.assert_close(found[key].cpu(), value, rtol=0.01, atol=4 * recipe.learning_rate)
        if value.is_floating_point():
            assert float((found[key].cpu() - value).abs().mean()) <= 0.5 * recipe.learning_rate, key
