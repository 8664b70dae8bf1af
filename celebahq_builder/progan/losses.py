"""What the discriminator and the generator minimise; scores are higher for pictures taken for real.

All in float32, whatever precision the networks work in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Judge = Callable[[Tensor], Tensor]
"""Pictures [N, C, r, r] -> scores [N]."""


def wgan_discriminator(real: Tensor, fake: Tensor, drift: float = 0.001) -> Tensor:
    """Return E[D(fake)] - E[D(real)] + drift E[D(real)^2] (Karras et al. 2018, appendix A.1), without the penalty.

    Args:
        real: scores of real pictures [N].
        fake: scores of generated ones [N].
        drift: keeps the scores of real pictures from drifting away from zero.
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
        real: pictures [N, C, r, r].
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
        labels: of the pictures, 0 or 1.
        classes: one of them is right; False: they are attributes, each right or wrong by itself (mean of the binary
            cross entropies).
    """
    logits, labels = logits.float(), labels.float()
    return F.cross_entropy(logits, labels) if classes else F.binary_cross_entropy_with_logits(logits, labels)
