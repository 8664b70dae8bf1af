"""One step of ProGAN training: random numbers, gradients of both networks, optimizers, weight average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from celebahq_builder.models.gradients import input_gradient
from celebahq_builder.models.progan import (
    DiscriminatorNetwork,
    EqualizedLayer,
    GaussianNoise,
    GeneratorNetwork,
    active_layers,
    shared_weights,
)
from celebahq_builder.progan.losses import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    between,
    gradient_penalty,
    label_loss,
    r1_penalty,
)
from celebahq_builder.progan.schedule import ProGANRecipe, SchedulePoint
from celebahq_builder.training.checkpoint import StateDict, load_optimizer
from celebahq_builder.training.distributed import DistributedContext

STATISTICS = ("generator_loss", "discriminator_loss", "penalty", "score_real", "score_fake", "gradient_norm")
"""Names of the values that a step returns; the gradient is that of the discriminator."""

LATENTS, LABELS, MIX, NOISE, GENERATOR_LATENTS, GENERATOR_LABELS = range(6)
"""Streams of random numbers of a step. Each has its own generator, seeded with (seed, step, stream)."""

NOISE_DECAY, NOISE_THRESHOLD = 0.9, 0.5
"""LSGAN's noise (Karras et al. 2018, appendix B): decay of the running mean of the fake scores, and the mean up to
which there is no noise."""

PARTS = ("generator", "discriminator", "averaged", "generator_adam", "discriminator_adam")
"""Attributes of `ProGANTrainer` that have a state dict."""


@dataclass(frozen=True)
class Microbatch:
    """Real images of one pass, which is a part of a minibatch, on the device."""

    images: Tensor
    """[n, C, r, r], float in [-1, 1], faded in like the networks."""
    labels: Tensor | None = None
    """[n, classes], or None."""


@dataclass(frozen=True)
class StepRandomness:
    """Random numbers of one pass, on the device."""

    latents: Tensor
    """[n, latent], from N(0, 1): of the fake images that train the discriminator."""
    labels: Tensor | None
    """[n, classes], of these images: labels of real images drawn at random."""
    mix: Tensor
    """[n], uniform in [0, 1]: positions between real and fake images at which the penalty is computed."""
    generator_latents: Tensor
    """[n, latent], of the fake images that train the generator."""
    generator_labels: Tensor | None
    """[n, classes], of these images."""


class ProGANTrainer:
    """The generator, the discriminator, the averaged generator, and two Adam optimizers.

    All random numbers of a step follow from the recipe's seed and the number of the step, for the whole minibatch, of
    which each process takes its share. So a resumed run computes what an uninterrupted one does, and several
    processes compute what one does, except for LSGAN's noise, which each process draws for itself.

    Args:
        labels: of all real images, float32 [N, classes]. Generated images get labels drawn from these.
    """

    def __init__(self, recipe: ProGANRecipe, context: DistributedContext, labels: Tensor | None = None) -> None:
        self.recipe, self.context, self.labels = recipe, context, labels
        self.exclusive_labels = labels is None or bool((labels.sum(dim=1) == 1).all())
        """True if labels are classes, one of which is 1 for each image; false if they are independent attributes."""
        self.reuses_fakes = recipe.together or recipe.reuse_fakes
        torch.manual_seed(recipe.seed)
        self.generator = GeneratorNetwork(recipe.net).to(context.device)
        self.discriminator = DiscriminatorNetwork(recipe.net).to(context.device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        # Walking through the modules takes a tenth of a step at 4x4.
        self.parameters: dict[nn.Module, list[nn.Parameter]] = {
            net: list(net.parameters()) for net in (self.generator, self.discriminator)
        }
        self.shares_weights = context.device.type == "cuda"  # the CPU keeps its bits
        """True to scale weights once for all passes; see `models.progan.shared_weights`."""
        self.active_layers: dict[tuple[nn.Module, int, bool], list[EqualizedLayer]] = {}
        """Layers with weights, by network, level and whether it fades in."""
        self.average_pairs: dict[tuple[int, bool], list[tuple[Tensor, ...]]] = {}
        """Averaged weights and current ones, by level and whether it fades in."""
        self.buffer_pairs = list(zip(self.averaged.buffers(), self.generator.buffers(), strict=True))
        self.mean_fake = 0.0
        """Running mean of the scores of generated images, clipped to [0, 1]; used by LSGAN."""
        self.reset_optimizers()

    def reset_optimizers(self) -> None:
        """Forget Adam's moments, as the paper does when a new level enters."""
        fused = self.context.device.type == "cuda" or None  # one kernel; the CPU keeps its bits
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam(net.parameters(), betas=(0.0, 0.99), eps=1e-8, fused=fused)
            for net in (self.generator, self.discriminator)
        )

    def step(self, number: int, now: SchedulePoint, reals: Sequence[Microbatch]) -> Tensor:
        """Update the discriminator, the generator and the averaged generator once.

        A large minibatch is processed in several passes. Their gradients are summed before an optimizer uses them, so
        the number of passes changes rounding only. The same is true of the parts in which the images of a pass go
        through the networks: the discriminator sees the standard deviation of whole groups.

        Args:
            number: of the step, from 0.
            reals: this process' share of the minibatch, one for each pass, all of one size.

        Returns:
            The values that `STATISTICS` names, float32 [6], on the device: means over the passes of this process.
        """
        settings, together = self.recipe.loss, self.recipe.together
        parts = now.parts(self.context.size, self.recipe.net.stddev_group)
        share = len(reals[0].images) / now.minibatch  # losses are means over a pass; this makes them means over all
        # The generator learns from new fake images, as in the paper, or from those of the discriminator. Their graph is
        # kept for it in one pass only: the memory that holds one pass would not hold the graphs of several.
        keeps_graph = self.reuses_fakes and len(reals) == parts == 1

        # --- Random numbers
        draws = self._draw(number, now, reals)
        noise = self._discriminator_noise(number)

        # --- Discriminator: fake images, loss, gradient penalty, gradients
        discriminator_values = []
        with self._shared_weights(now):
            for real, drawn in zip(reals, draws, strict=True):
                with torch.set_grad_enabled(keeps_graph):
                    fakes = self._generate(now, drawn.latents, drawn.labels, parts)
                real_scores, real_logits = self._discriminate(now, real.images, noise, parts)
                fake_scores, fake_logits = self._discriminate(now, fakes.detach(), noise, parts)
                loss = DISCRIMINATOR_LOSSES[settings.kind](real_scores, fake_scores, settings.drift)
                if real.labels is not None and drawn.labels is not None:
                    real_loss = label_loss(real_logits, real.labels, self.exclusive_labels)
                    fake_loss = label_loss(fake_logits, drawn.labels, self.exclusive_labels)
                    loss = loss + settings.label_weight * (real_loss + fake_loss)
                # In several parts, the gradients of the penalty are already added here, and its value has none.
                penalty = self._penalty(now, real.images, fakes.detach(), drawn.mix, parts, settings.penalty * share)
                torch.autograd.backward((loss + settings.penalty * penalty) * share)
                values = (loss, penalty, real_scores.mean(), fake_scores.mean())
                discriminator_values.append(torch.stack([value.detach() for value in values]))

        # --- Discriminator: Adam. By default, the generator is judged by the updated discriminator. With `together`, it
        # is judged by the one that judged the images above, and both networks are updated at the end.
        if not together:
            gradient_norm = self._update(self.discriminator, self.discriminator_adam, now.learning_rate)

        # --- Generator: loss, gradients
        generator_losses = []
        with _frozen(self.parameters[self.discriminator]), self._shared_weights(now):
            for drawn in draws:
                if not keeps_graph:  # else `fakes` are those of the discriminator's only pass
                    fakes = self._generate(now, drawn.generator_latents, drawn.generator_labels, parts)
                scores, logits = self._discriminate(now, fakes, noise, parts)
                loss = GENERATOR_LOSSES[settings.kind](scores)
                if drawn.generator_labels is not None:
                    generator_loss = label_loss(logits, drawn.generator_labels, self.exclusive_labels)
                    loss = loss + settings.label_weight * generator_loss
                torch.autograd.backward(loss * share)
                generator_losses.append(loss.detach())

        # --- Generator: Adam
        if together:
            gradient_norm = self._update(self.discriminator, self.discriminator_adam, now.learning_rate)
        self._update(self.generator, self.generator_adam, now.learning_rate)

        # --- Weight average, and LSGAN's running mean
        self._update_average(now)
        means = torch.stack(discriminator_values).mean(dim=0)
        statistics = torch.cat([torch.stack(generator_losses).mean()[None], means, gradient_norm[None]])
        if settings.kind == "lsgan":
            self._update_mean_fake(statistics)
        return statistics

    def _draw(self, number: int, now: SchedulePoint, reals: Sequence[Microbatch]) -> list[StepRandomness]:
        """Return the random numbers of each pass.

        They are drawn for the whole minibatch. Of n processes each takes every n-th image, and of these each of m
        passes takes every m-th.
        """
        n = now.minibatch
        mix = torch.from_numpy(self._random(number, MIX).random(n, dtype=np.float32))
        latents, labels = self._draw_latents(number, n, LATENTS, LABELS)
        own_latents, own_labels = latents, labels
        if not self.reuses_fakes:
            own_latents, own_labels = self._draw_latents(number, n, GENERATOR_LATENTS, GENERATOR_LABELS)
        draws = []
        for i in range(len(reals)):
            mine = torch.arange(n)[self.context.rank :: self.context.size][i :: len(reals)]
            to_device = self.context.copy_to_device
            draws.append(
                StepRandomness(
                    to_device(latents[mine]),
                    None if labels is None else to_device(labels[mine]),
                    to_device(mix[mine]),
                    to_device(own_latents[mine]),
                    None if own_labels is None else to_device(own_labels[mine]),
                )
            )
        return draws

    def _draw_latents(self, number: int, count: int, latents: int, labels: int) -> tuple[Tensor, Tensor | None]:
        """Return latents and labels of a minibatch from two streams, on the CPU."""
        shape = (count, self.recipe.net.latent)
        drawn = torch.from_numpy(self._random(number, latents).standard_normal(shape, dtype=np.float32))
        if self.labels is None:
            return drawn, None
        return drawn, self.labels[torch.from_numpy(self._random(number, labels).integers(len(self.labels), size=count))]

    def _random(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.recipe.seed, number, stream))

    def _discriminator_noise(self, number: int) -> GaussianNoise | None:
        """Return the noise of the discriminator's features with LSGAN (Karras et al. 2018, appendix B)."""
        settings = self.recipe.loss
        if settings.kind != "lsgan":
            return None
        strength = settings.noise * max(self.mean_fake - NOISE_THRESHOLD, 0.0) ** 2
        seed = np.random.SeedSequence((self.recipe.seed, number, NOISE, self.context.rank)).generate_state(1)[0]
        return GaussianNoise(strength, torch.Generator().manual_seed(int(seed)))

    def _generate(self, now: SchedulePoint, latents: Tensor, labels: Tensor | None, parts: int) -> Tensor:
        def generate(latents: Tensor, labels: Tensor | None = None) -> Tensor:
            with self._autocast():
                images: Tensor = self.generator(latents, now.level, now.alpha, labels)
            return images.float()

        return _in_parts(generate, parts, latents, *([] if labels is None else [labels]))

    def _discriminate(
        self, now: SchedulePoint, images: Tensor, noise: GaussianNoise | None, parts: int
    ) -> tuple[Tensor, Tensor]:
        """Return scores [n] and label logits [n, classes]."""
        return self._score(_in_parts(lambda part: self._features(now, part, noise), parts, images), noise)

    def _features(self, now: SchedulePoint, images: Tensor, noise: GaussianNoise | None = None) -> Tensor:
        with self._autocast():
            return self.discriminator.features(images, now.level, now.alpha, noise)

    def _score(self, features: Tensor, noise: GaussianNoise | None = None) -> tuple[Tensor, Tensor]:
        with self._autocast():
            scores, logits = self.discriminator.score(features, noise)
        return scores.float(), logits.float()

    @contextmanager
    def _shared_weights(self, now: SchedulePoint) -> Iterator[None]:
        """Let both networks scale their weights once for all passes, on a GPU."""
        with ExitStack() as stack:
            for net in (self.generator, self.discriminator) if self.shares_weights else ():
                key = net, now.level, now.alpha < 1
                if key not in self.active_layers:
                    self.active_layers[key] = active_layers(net, now.level, now.alpha)
                dtype = torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32
                stack.enter_context(shared_weights(self.active_layers[key], dtype))
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.context.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _penalty(
        self, now: SchedulePoint, real: Tensor, fake: Tensor, mix: Tensor, parts: int, weight: float
    ) -> Tensor:
        """Return the gradient penalty without its weight; 0 for LSGAN, which has none.

        In several parts, its gradients times `weight` are added to those of the discriminator at once, and the result
        has no gradient.
        """
        settings = self.recipe.loss
        if settings.kind == "lsgan" or not settings.penalty:
            return torch.zeros((), device=fake.device)
        images = real.detach() if settings.kind == "logistic" else between(real, fake, mix)

        def penalty(gradient: Tensor) -> Tensor:
            return r1_penalty(gradient) if settings.kind == "logistic" else gradient_penalty(gradient, settings.target)

        if parts > 1:
            return self._penalty_in_parts(now, images, penalty, parts, weight)
        images.requires_grad_()
        return penalty(input_gradient(self._discriminate(now, images, None, 1)[0].sum(), images))

    def _penalty_in_parts(
        self, now: SchedulePoint, images: Tensor, penalty: Callable[[Tensor], Tensor], parts: int, weight: float
    ) -> Tensor:
        """Return the mean of a penalty; add its gradients times `weight` to those of the discriminator.

        An image affects the scores of the others only through its features at 4x4. So the gradient of the scores is
        computed for the features of all images together, and that of the features for each part of the images.
        """
        shown = [part.requires_grad_() for part in images.chunk(parts)]
        features = torch.cat([checkpoint(self._features, now, part, use_reentrant=False) for part in shown])
        slopes = input_gradient(self._score(features)[0].sum(), features)
        fixed_slopes = slopes.detach().requires_grad_()
        values = []
        for part, part_slopes in zip(shown, fixed_slopes.chunk(parts), strict=True):
            value = penalty(input_gradient(self._features(now, part), part, part_slopes)) / parts
            torch.autograd.backward(value * weight)
            values.append(value.detach())
        torch.autograd.backward(slopes, fixed_slopes.grad)
        return torch.stack(values).sum()

    def _update(self, net: nn.Module, adam: torch.optim.Adam, learning_rate: float) -> Tensor:
        """Take one step of Adam; return the norm of the gradient, summed over all processes."""
        self.context.sum_gradients(net)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters[net] if p.grad is not None])
        adam.param_groups[0]["lr"] = learning_rate
        adam.step()
        adam.zero_grad()
        return norm

    @torch.no_grad()
    def _update_average(self, now: SchedulePoint) -> None:
        key = now.level, now.alpha < 1
        if key not in self.average_pairs:
            nets = self.averaged, self.generator
            self.average_pairs[key] = [tuple(p for _, p in net.active(now.level, now.alpha)) for net in nets]
        # A new layer has random weights. A constant decay would show them for thousands of steps, so it rises to `ema`.
        decay = min(self.recipe.ema, (1 + now.steps) / (10 + now.steps))
        averaged, current = self.average_pairs[key]
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, its in self.buffer_pairs:
            mine.copy_(its)  # running statistics of batch normalization, which are averages already

    def _update_mean_fake(self, statistics: Tensor) -> None:
        """Update the running mean of the fake scores; this waits for the device."""
        score = float(self.context.mean(statistics.clone())[STATISTICS.index("score_fake")])
        self.mean_fake = NOISE_DECAY * self.mean_fake + (1 - NOISE_DECAY) * min(max(score, 0.0), 1.0)

    def state_dict(self) -> StateDict:
        """Return everything that changes during a training, for a checkpoint."""
        return {**{name: getattr(self, name).state_dict() for name in PARTS}, "mean_fake": self.mean_fake}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self.reset_optimizers()
        for net in ("generator", "discriminator", "averaged"):
            getattr(self, net).load_state_dict(state[net])
        for adam in ("generator_adam", "discriminator_adam"):
            load_optimizer(getattr(self, adam), state[adam])
        self.mean_fake = float(state["mean_fake"])


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Compute no gradients for some parameters."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _in_parts(function: Callable[..., Tensor], parts: int, *inputs: Tensor) -> Tensor:
    """Return the result of a function of images, which is computed in equal parts.

    Several parts keep no intermediate results: the gradient of a part begins by computing the part again.
    """
    if parts == 1:
        return function(*inputs)
    pieces = zip(*(values.chunk(parts) for values in inputs), strict=True)
    return torch.cat([checkpoint(function, *piece, use_reentrant=False) for piece in pieces])
