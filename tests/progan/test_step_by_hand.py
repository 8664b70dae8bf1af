"""Whole training steps equal steps that are written out in plain torch, for each loss and across a level change."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import (
    GENERATOR_LABELS,
    GENERATOR_LATENTS,
    LABELS,
    LATENTS,
    MIX,
    NOISE,
    Microbatch,
    ProGANTrainer,
)
from celebahq_builder.training.distributed import SINGLE_PROCESS
from tests.reference.progan import Weights, discriminator, generator

NET = Architecture(resolution=8, latent=6, channels_base=16, channels_max=6)
POINTS = [
    SchedulePoint(2, 1.0, 8, None, 0.01, 0),
    SchedulePoint(2, 1.0, 8, None, 0.01, 1),
    SchedulePoint(3, 0.0, 8, None, 0.02, 0),
    SchedulePoint(3, 0.25, 8, None, 0.02, 1),
    SchedulePoint(3, 0.75, 8, None, 0.02, 2),
]
"""Two steps at 4x4, then 8x8 enters and fades in, with another learning rate."""

# --- The step by hand ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Adam:
    """Adam of Kingma & Ba, with beta1 = 0 and beta2 = 0.99: the first moment is the gradient itself."""

    weights: Weights
    second: Weights = dataclasses.field(default_factory=dict)
    count: dict[str, int] = dataclasses.field(default_factory=dict)

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True, retain_graph=True))

    def step(self, gradients: list[Tensor | None], rate: float) -> Tensor:
        """Update the weights that have a gradient; return its norm."""
        total = torch.zeros(())
        for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True):
            if gradient is None:
                continue
            total = total + gradient.square().sum()
            self.count[name] = self.count.get(name, 0) + 1
            before = self.second.get(name, torch.zeros_like(weight))
            self.second[name] = 0.99 * before + 0.01 * gradient.square()
            unbiased = self.second[name] / (1 - 0.99 ** self.count[name])
            with torch.no_grad():
                weight -= rate * gradient / (unbiased.sqrt() + 1e-8)
        return total.sqrt()


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -(logits - torch.logsumexp(logits, dim=1, keepdim=True))[labels.bool()].mean()


class StepByHand:
    """A ProGAN step in plain torch, on copies of the initial weights of a `ProGANTrainer`."""

    def __init__(self, progan: ProGANTrainer) -> None:
        self.recipe, self.labels = progan.recipe, progan.labels

        def copied(net: torch.nn.Module) -> Weights:
            return {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}

        self.g, self.d = copied(progan.generator), copied(progan.discriminator)
        self.average = {name: value.detach().clone() for name, value in self.g.items()}
        self.mean_fake = 0.0
        self.reset_optimizers()

    def reset_optimizers(self) -> None:
        self.g_adam, self.d_adam = Adam(self.g), Adam(self.d)

    def step(self, number: int, now: SchedulePoint, images: Tensor, real_labels: Tensor | None) -> list[float]:
        recipe, loss, level, alpha, n = self.recipe, self.recipe.loss, now.level, now.alpha, now.minibatch

        def draw(stream: int) -> np.random.Generator:
            return np.random.default_rng((recipe.seed, number, stream))

        z = torch.from_numpy(draw(LATENTS).standard_normal((n, NET.latent), dtype=np.float32))
        mix = torch.from_numpy(draw(MIX).random(n, dtype=np.float32)).reshape(-1, 1, 1, 1)
        labels = None if self.labels is None else self.labels[draw(LABELS).integers(len(self.labels), size=n)]
        noise_seed = int(np.random.SeedSequence((recipe.seed, number, NOISE, 0)).generate_state(1)[0])
        drawn = torch.Generator().manual_seed(noise_seed)
        strength = loss.noise * max(0.0, self.mean_fake - 0.5) ** 2 if loss.kind == "lsgan" else 0.0

        def noisy(x: Tensor) -> Tensor:
            if not strength:
                return x
            shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
            return x * (1 + strength * x.shape[1] ** 0.5 * torch.randn(shape, generator=drawn))

        def judged(x: Tensor) -> tuple[Tensor, Tensor]:
            return discriminator(self.d, x, level, alpha, noisy)

        # The discriminator's loss
        fakes = generator(self.g, z, labels, level, alpha).detach()
        (real, real_logits), (fake, fake_logits) = judged(images), judged(fakes)
        penalty = torch.zeros(())
        if loss.kind == "wgan-gp":
            value = fake.mean() - real.mean() + loss.drift * (real**2).mean()
            between = ((1 - mix) * images + mix * fakes).requires_grad_()
            score = discriminator(self.d, between, level, alpha)[0].sum()
            (slope,) = torch.autograd.grad(score, between, create_graph=True)
            lengths = slope.flatten(1).norm(dim=1)
            penalty = ((lengths - loss.target) ** 2).mean() / loss.target**2
        elif loss.kind == "lsgan":
            value = (real**2).mean() + ((fake - 1) ** 2).mean()
        else:
            value = softplus(-real).mean() + softplus(fake).mean()
            shown = images.clone().requires_grad_()
            score = discriminator(self.d, shown, level, alpha)[0].sum()
            (slope,) = torch.autograd.grad(score, shown, create_graph=True)
            penalty = slope.flatten(1).square().sum(dim=1).mean() / 2
        if real_labels is not None and labels is not None:
            value = value + loss.label_weight * (
                cross_entropy(real_logits, real_labels) + cross_entropy(fake_logits, labels)
            )
        total = value + loss.penalty * penalty
        d_gradients = self.d_adam.gradients(total)
        if not recipe.together:
            gradient_norm = self.d_adam.step(d_gradients, now.learning_rate)

        # The generator's loss
        if not (recipe.together or recipe.reuse_fakes):
            z = torch.from_numpy(draw(GENERATOR_LATENTS).standard_normal((n, NET.latent), dtype=np.float32))
            if self.labels is not None:
                labels = self.labels[draw(GENERATOR_LABELS).integers(len(self.labels), size=n)]
        scores, logits = judged(generator(self.g, z, labels, level, alpha))
        if loss.kind == "wgan-gp":
            g_value = -scores.mean()
        elif loss.kind == "lsgan":
            g_value = (scores**2).mean()
        else:
            g_value = softplus(-scores).mean()
        if labels is not None:
            g_value = g_value + loss.label_weight * cross_entropy(logits, labels)
        g_gradients = self.g_adam.gradients(g_value)
        if recipe.together:
            gradient_norm = self.d_adam.step(d_gradients, now.learning_rate)
        self.g_adam.step(g_gradients, now.learning_rate)

        # The weight average
        decay = min(recipe.ema, (1 + now.steps) / (10 + now.steps))
        used = ["dense", "blocks.0", *(["blocks.1"] if level == 3 else [])]
        used += [f"to_rgb.{level - 2}", *(["to_rgb.0"] if alpha < 1 else [])]
        for name, value_now in self.g.items():
            if name.startswith(tuple(f"{part}." for part in used)):
                self.average[name] = decay * self.average[name] + (1 - decay) * value_now.detach()
        self.mean_fake = 0.9 * self.mean_fake + 0.1 * min(max(float(fake.mean().detach()), 0.0), 1.0)
        return [float(t.detach()) for t in (g_value, value, penalty, real.mean(), fake.mean(), gradient_norm)]


def images_of(number: int, now: SchedulePoint) -> Tensor:
    drawn = torch.Generator().manual_seed(number)
    return torch.rand((now.minibatch, 3, now.resolution, now.resolution), generator=drawn) * 2 - 1


CASES = {
    "wgan-gp": ProGANRecipe("progan", net=NET),
    "together": ProGANRecipe("progan", net=NET, together=True, loss=LossSettings(target=750.0, penalty=750.0**2)),
    "reuse": ProGANRecipe("progan", net=NET, reuse_fakes=True),
    "drift": ProGANRecipe("progan", net=NET, loss=LossSettings(drift=5.0), ema=0.3),
    "lsgan": ProGANRecipe("progan", net=NET, loss=LossSettings("lsgan", noise=50.0)),
    "logistic": ProGANRecipe("progan", net=NET, loss=LossSettings("logistic")),
    "labels": ProGANRecipe("progan", net=dataclasses.replace(NET, labels=3), loss=LossSettings(label_weight=2.0)),
}


@pytest.mark.parametrize(
    ("name", "images"), [(name, images) for name in CASES for images in (8, 4, 2, 1) if name != "lsgan" or images == 8]
)
def test_steps_by_hand(name: str, images: int) -> None:
    """Networks, average and statistics agree after each step; Adam's moments are reset when 8x8 enters.

    The minibatch has two groups of 4. So many of its images are processed at once: both groups, one, or a part of one.
    LSGAN is tried in one pass only: its noise is drawn in another order in two.
    """
    recipe = CASES[name]
    labels = torch.eye(3)[torch.arange(10) % 3] if recipe.net.labels else None
    progan = ProGANTrainer(recipe, SINGLE_PROCESS, labels)
    by_hand = StepByHand(progan)
    if recipe.loss.kind == "lsgan":
        progan.mean_fake = by_hand.mean_fake = 0.9
    start = {key: value.clone() for key, value in progan.generator.state_dict().items()}
    level = 2
    for number, point in enumerate(POINTS):
        now = dataclasses.replace(point, per_gpu=images)
        passes = now.passes(1, recipe.net.stddev_group)
        assert passes * now.parts(1, recipe.net.stddev_group) == 8 // images
        if now.level != level:
            progan.reset_optimizers()
            by_hand.reset_optimizers()
            level = now.level
        real = images_of(number, now)
        real_labels = None if labels is None else labels[:8]
        reals = [
            Microbatch(real[i::passes], None if real_labels is None else real_labels[i::passes]) for i in range(passes)
        ]
        statistics = progan.step(number, now, reals)
        wanted = by_hand.step(number, now, real, real_labels)
        torch.testing.assert_close(statistics, torch.tensor(wanted), rtol=2e-3, atol=2e-4, msg=f"{number}: {wanted}")
        for net, weights in ((progan.generator, by_hand.g), (progan.discriminator, by_hand.d)):
            for key, value in net.named_parameters():
                torch.testing.assert_close(value, weights[key], rtol=0, atol=5e-4)
        for adam, own in ((progan.generator_adam, by_hand.g_adam), (progan.discriminator_adam, by_hand.d_adam)):
            moments = [adam.state[p]["exp_avg_sq"].sum() for p in adam.param_groups[0]["params"] if p in adam.state]
            wanted_sum = torch.stack([value.sum() for value in own.second.values()]).sum()
            torch.testing.assert_close(torch.stack(moments).sum(), wanted_sum, rtol=0.02, atol=1e-6)
        for key, value in progan.averaged.named_parameters():
            torch.testing.assert_close(value, by_hand.average[key], rtol=0, atol=5e-4)
        assert progan.mean_fake == pytest.approx(by_hand.mean_fake if recipe.loss.kind == "lsgan" else 0.0, rel=1e-4)
    moved = max(float((value - start[key]).abs().max()) for key, value in progan.generator.state_dict().items())
    assert moved > 0.02
