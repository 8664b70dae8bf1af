"""One ProGAN training step: losses, gradient penalty, optimizers, weight averages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.models.progan import Discriminator, GaussianNoise, Generator
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.training.distributed import DistributedContext

Judge = Callable[[Tensor], Tensor]
"""Images [N, C, r, r] -> scores [N]."""


def wgan_discriminator(real: Tensor, fake: Tensor, drift: float = 0.001) -> Tensor:
    """Return E[D(fake)] - E[D(real)] + drift E[D(real)^2] (Karras et al. 2018, appendix A.1), without the penalty.

    Args:
        real: scores of real images [N].
        fake: scores of generated ones [N].
        drift: keeps the scores of real images from drifting away from zero.
    """
    real, fake = real.float(), fake.float()
    return fake.mean() - real.mean() + drift * real.square().mean()


def wgan_generator(fake: Tensor) -> Tensor:
    """Return -E[D(fake)]."""
    return -fake.float().mean()


def gradient_penalty(judge: Judge, real: Tensor, fake: Tensor, mix: Tensor, target: float = 1.0) -> Tensor:
    """Return E[(|grad D(x)| - target)^2] / target^2, x between real and fake (Gulrajani et al. 2017, equation 3).

    To be weighed by lambda = 10. The division by the square of the target is Karras et al.'s, appendix A.2, whose
    target for CIFAR-10 is 750.

    Args:
        judge: the discriminator's score.
        real: images [N, C, r, r].
        fake: as many; no gradient flows back to them.
        mix: how far each x is from real to fake, [N], in [0, 1].
        target: wanted length of the gradient.
    """
    between = torch.lerp(real.detach(), fake.detach(), mix.view(-1, 1, 1, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(judge(between).float().sum(), between, create_graph=True)
    lengths = gradient.float().square().sum(dim=(1, 2, 3)).sqrt()
    return (lengths - target).square().mean() / target**2


def lsgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[D(real)^2] + E[(D(fake) - 1)^2]: 0 is real, 1 is fake (Mao et al. 2017; Karras et al. 2018, B)."""
    return real.float().square().mean() + (fake.float() - 1).square().mean()


def lsgan_generator(fake: Tensor) -> Tensor:
    """Return E[D(fake)^2]: what is generated should be taken for real, 0."""
    return fake.float().square().mean()


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return E[softplus(-D(real))] + E[softplus(D(fake))] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def logistic_generator(fake: Tensor) -> Tensor:
    """Return E[softplus(-D(fake))], the variant that does not saturate (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake.float()).mean()


def r1_penalty(judge: Judge, real: Tensor) -> Tensor:
    """Return E[|grad D(real)|^2] / 2, to be weighed by gamma (Mescheder et al. 2018, equation 9)."""
    shown = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(shown).float().sum(), shown, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean() / 2


def label_loss(logits: Tensor, labels: Tensor, classes: bool = True) -> Tensor:
    """Return the cross entropy of predicted labels [N, classes] (Odena et al. 2017, AC-GAN, equation 3).

    Args:
        logits: as the discriminator gives them.
        labels: of the images, 0 or 1.
        classes: one of them is right; False: they are attributes, each right or wrong by itself (mean of the binary
            cross entropies).
    """
    logits, labels = logits.float(), labels.float()
    return F.cross_entropy(logits, labels) if classes else F.binary_cross_entropy_with_logits(logits, labels)


NOISE_DECAY, NOISE_BEGINS = 0.9, 0.5
"""Of the running mean of the fakes' scores; the noise begins where it is above that (Karras et al. 2018, B)."""

LATENTS, LABELS, MIX, NOISE = range(4)
"""What a step's random numbers are drawn for; each has a generator of its own."""

STATISTICS = ("generator_loss", "discriminator_loss", "penalty", "score_real", "score_fake", "gradient_norm")
"""What a step tells; the gradient is the discriminator's."""


@dataclass(frozen=True)
class RealBatch:
    """Real images of one pass, on the device."""

    images: Tensor
    """[n, C, r, r], float in [-1, 1], faded as the networks are."""
    labels: Tensor | None = None
    """[n, classes] or None."""


@dataclass(frozen=True)
class StepRandomness:
    """Random numbers of one pass, on the device."""

    latents: Tensor
    """[n, latent], of N(0, 1)."""
    labels: Tensor | None
    """[n, classes]: those of real images drawn at random."""
    mix: Tensor
    """[n], uniform in [0, 1): where between real and fake the penalty is taken."""


class ProGANStep:
    """Generator, discriminator, the averaged generator, and two Adams.

    All random numbers of a step follow from the recipe's seed and the step's number, for the whole minibatch, of which
    a process takes its share. So a run that goes on does the same as one that was never interrupted, and several
    processes the same as one, but for LSGAN's noise, which each process draws for itself.

    Args:
        recipe: of the training.
        world: this process among others.
        labels: of all real images, float32 [N, classes]: generated ones are given labels of these.
    """

    def __init__(self, recipe: ProGANRecipe, world: DistributedContext, labels: Tensor | None = None) -> None:
        self.recipe, self.world, self.labels = recipe, world, labels
        self.classes = labels is None or bool((labels.sum(dim=1) == 1).all())
        """Whether labels are classes, one of which is right; else attributes."""
        torch.manual_seed(recipe.seed)
        self.generator = Generator(recipe.net).to(world.device)
        self.discriminator = Discriminator(recipe.net).to(world.device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.mean_fake = 0.0
        """Running mean of the scores of generated images, within [0, 1]."""
        self.reset_optimisers()

    def reset_optimisers(self) -> None:
        """Forget Adam's moments, as is done when a new level enters."""
        self.adams = {
            name: torch.optim.Adam(net.parameters(), betas=(0.0, 0.99), eps=1e-8)
            for name, net in (("generator", self.generator), ("discriminator", self.discriminator))
        }

    def step(self, number: int, moment: SchedulePoint, reals: Sequence[RealBatch]) -> Tensor:
        """Update the discriminator, then the generator, then the average.

        The generator learns from the images that the discriminator learnt from. Where they fit in one pass they are
        generated once; in several passes, twice, since graphs of all of them would not fit either.

        Args:
            number: of the step, from 0.
            moment: where the training stands.
            reals: this process' share of the minibatch, one for each pass, all of one size.

        Returns:
            What `STATISTICS` names, float32 [6], on the device: means over this process' passes.
        """
        draws = self._draws(number, moment, reals)
        noise = self._noise(number)
        weight = len(reals[0].images) / moment.minibatch
        judged, generated = [], []
        fakes = None
        for real, drawn in zip(reals, draws, strict=True):
            with torch.set_grad_enabled(len(reals) == 1):
                fakes = self._generated(moment, drawn)
            judged.append(self._judge(moment, real, drawn, fakes.detach(), noise, weight))
        if not self.recipe.together:
            norm = self._update("discriminator", self.discriminator, moment)
        with _frozen(self.discriminator):
            for drawn in draws:
                shown = fakes if fakes is not None and len(draws) == 1 else self._generated(moment, drawn)
                generated.append(self._deceive(moment, drawn, shown, noise, weight))
        if self.recipe.together:
            norm = self._update("discriminator", self.discriminator, moment)
        self._update("generator", self.generator, moment)
        self._average(moment)
        found = torch.cat([torch.stack(generated).mean()[None], torch.stack(judged).mean(dim=0), norm[None]])
        self._follow_fakes(found)
        return found

    def _draws(self, number: int, moment: SchedulePoint, reals: Sequence[RealBatch]) -> list[StepRandomness]:
        """Return the random numbers of each pass: every n-th of this process', whose are every n-th of the step's."""
        seed, net, n = self.recipe.seed, self.recipe.net, moment.minibatch
        latents = np.random.default_rng((seed, number, LATENTS)).standard_normal((n, net.latent), dtype=np.float32)
        mix = np.random.default_rng((seed, number, MIX)).random(n, dtype=np.float32)
        world, device, passes = self.world, self.world.device, len(reals)
        draws = []
        for i, real in enumerate(reals):
            mine = np.arange(n)[world.rank :: world.size][i::passes]
            labels = real.labels
            if labels is not None and self.labels is not None:
                chosen = np.random.default_rng((seed, number, LABELS)).integers(len(self.labels), size=n)
                labels = self.labels[torch.from_numpy(chosen[mine])].to(device)
            z, share = (torch.from_numpy(values[mine]).to(device) for values in (latents, mix))
            draws.append(StepRandomness(z, labels, share))
        return draws

    def _generated(self, moment: SchedulePoint, drawn: StepRandomness) -> Tensor:
        with self._autocast():
            images: Tensor = self.generator(drawn.latents, moment.level, moment.alpha, drawn.labels)
        return images.float()

    def _judge(
        self,
        moment: SchedulePoint,
        real: RealBatch,
        drawn: StepRandomness,
        fakes: Tensor,
        noise: GaussianNoise | None,
        weight: float,
    ) -> Tensor:
        """Add the discriminator's gradients of one pass; return its loss, the penalty, and both mean scores."""
        settings = self.recipe.loss
        real_scores, real_labels = self._scored(moment, real.images, noise)
        fake_scores, fake_labels = self._scored(moment, fakes, noise)
        if settings.kind == "wgan-gp":
            loss = wgan_discriminator(real_scores, fake_scores, settings.drift)
        elif settings.kind == "lsgan":
            loss = lsgan_discriminator(real_scores, fake_scores)
        else:
            loss = logistic_discriminator(real_scores, fake_scores)
        if real.labels is not None and drawn.labels is not None:
            told = label_loss(real_labels, real.labels, self.classes)
            told = told + label_loss(fake_labels, drawn.labels, self.classes)
            loss = loss + settings.label_weight * told
        penalty = self._penalty(moment, real, drawn, fakes)
        ((loss + settings.penalty * penalty) * weight).backward()  # type: ignore[no-untyped-call]
        return torch.stack([t.detach() for t in (loss, penalty, real_scores.mean(), fake_scores.mean())])

    def _penalty(self, moment: SchedulePoint, real: RealBatch, drawn: StepRandomness, fakes: Tensor) -> Tensor:
        settings = self.recipe.loss

        def judge(images: Tensor) -> Tensor:
            return self._scored(moment, images, None)[0]

        if settings.kind == "lsgan" or not settings.penalty:
            return torch.zeros((), device=fakes.device)
        if settings.kind == "logistic":
            return r1_penalty(judge, real.images)
        return gradient_penalty(judge, real.images, fakes, drawn.mix, settings.target)

    def _deceive(
        self, moment: SchedulePoint, drawn: StepRandomness, fakes: Tensor, noise: GaussianNoise | None, weight: float
    ) -> Tensor:
        """Add the generator's gradients of one pass; return its loss."""
        settings = self.recipe.loss
        scores, labels = self._scored(moment, fakes, noise)
        if settings.kind == "wgan-gp":
            loss = wgan_generator(scores)
        elif settings.kind == "lsgan":
            loss = lsgan_generator(scores)
        else:
            loss = logistic_generator(scores)
        if drawn.labels is not None:
            loss = loss + settings.label_weight * label_loss(labels, drawn.labels, self.classes)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _scored(self, moment: SchedulePoint, images: Tensor, noise: GaussianNoise | None) -> tuple[Tensor, Tensor]:
        with self._autocast():
            scores, labels = self.discriminator(images, moment.level, moment.alpha, noise)
        return scores.float(), labels.float()

    def _update(self, name: str, net: nn.Module, moment: SchedulePoint) -> Tensor:
        """Take one step of Adam; return the length of the gradient, summed over all processes."""
        self.world.sum_gradients(net)
        norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        adam = self.adams[name]
        adam.param_groups[0]["lr"] = moment.learning_rate
        adam.step()
        adam.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def _average(self, moment: SchedulePoint) -> None:
        own = dict(self.generator.named_parameters())
        pairs = [(p, own[name]) for name, p in self.averaged.active(moment.level, moment.alpha)]
        # A layer that is new is random: the average forgets that first, or thousands of steps would show it.
        decay = min(self.recipe.ema, (1 + moment.steps) / (10 + moment.steps))
        torch._foreach_lerp_([p for p, _ in pairs], [q for _, q in pairs], 1 - decay)
        for mine, its in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(its)  # the running moments of batch normalisation, which are means already

    def _noise(self, number: int) -> GaussianNoise | None:
        settings = self.recipe.loss
        if settings.kind != "lsgan":
            return None
        strength = settings.noise * max(self.mean_fake - NOISE_BEGINS, 0.0) ** 2
        seed = np.random.SeedSequence((self.recipe.seed, number, NOISE, self.world.rank)).generate_state(1)[0]
        return GaussianNoise(strength, torch.Generator().manual_seed(int(seed)))

    def _follow_fakes(self, found: Tensor) -> None:
        """Keep the running mean of the fakes' scores; only LSGAN asks for it, and waits for the device."""
        if self.recipe.loss.kind == "lsgan":
            now = float(self.world.mean(found.clone())[STATISTICS.index("score_fake")])
            self.mean_fake = NOISE_DECAY * self.mean_fake + (1 - NOISE_DECAY) * min(max(now, 0.0), 1.0)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """Let no gradients accumulate in a network that a loss is taken through."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)
