"""The losses of ProGAN training, as functions of the scores, and gradient penalties."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wgan_discriminator(real: Tensor, fake: Tensor, epsilon_drift: float = 0.001) -> Tensor:
    """Return E[D(fake)] - E[D(real)] + epsilon_drift E[D(real)^2] (Karras et al. 2018, A.1), without the penalty.

    Args:
        real: scores of real images [N].
        fake: scores of generated images [N].
        epsilon_drift: weight of the last term, which keeps the scores of real images close to zero.
    """
    real, fake = real.float(), fake.float()
    return fake.mean() - real.mean() + epsilon_drift * real.square().mean()


def wgan_generator(fake: Tensor) -> Tensor:
    """Return -E[D(fake)]."""
    return -fake.float().mean()


def between(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return the images at which `gradient_penalty` is computed, without gradient.

    Args:
        real: images [N, C, r, r].
        fake: images of the same shape.
        mix: position of each result, [N], from 0 (real) to 1 (fake).
    """
    return torch.lerp(real.detach(), fake.detach(), mix.view(-1, 1, 1, 1))


def gradient_penalty(gradient: Tensor, gamma: float = 1.0) -> Tensor:
    """Return E[(|grad D(x)| - gamma)^2] / gamma^2, for x between real and fake (Gulrajani et al. 2017, equation 3).

    The paper multiplies it by lambda = 10. The division by gamma^2 is from Karras et al. 2018, appendix A.2, where
    gamma for CIFAR-10 is 750.

    Args:
        gradient: of the scores with respect to x, [N, C, r, r].
        gamma: length of the gradient at which the penalty is 0.
    """
    lengths = gradient.float().square().sum(dim=(1, 2, 3)).sqrt()
    return (lengths - gamma).square().mean() / gamma**2


def lsgan_discriminator(real: Tensor, fake: Tensor, _: float = 0.0) -> Tensor:
    """Return E[D(real)^2] + E[(D(fake) - 1)^2]: 0 is real, 1 is fake (Mao et al. 2017; Karras et al. 2018, B)."""
    return real.float().square().mean() + (fake.float() - 1).square().mean()


def lsgan_generator(fake: Tensor) -> Tensor:
    """Return E[D(fake)^2]: generated images should be scored as real, 0."""
    return fake.float().square().mean()


def logistic_discriminator(real: Tensor, fake: Tensor, _: float = 0.0) -> Tensor:
    """Return E[softplus(-D(real))] + E[softplus(D(fake))] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def logistic_generator(fake: Tensor) -> Tensor:
    """Return E[softplus(-D(fake))], the non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake.float()).mean()


def r1_penalty(gradient: Tensor) -> Tensor:
    """Return E[|grad D(real)|^2] / 2, to be multiplied by gamma (Mescheder et al. 2018, equation 9)."""
    return gradient.float().square().sum(dim=(1, 2, 3)).mean() / 2


def label_loss(logits: Tensor, labels: Tensor, exclusive: bool = True) -> Tensor:
    """Return the cross entropy of predicted labels [N, classes] (Odena et al. 2017, AC-GAN, equation 3).

    Args:
        logits: of the discriminator, [N, classes].
        labels: of the images, 0 or 1, [N, classes].
        exclusive: labels are classes, one of which is 1. Otherwise they are independent attributes, and the result is
            the mean of their binary cross entropies.
    """
    logits, labels = logits.float(), labels.float()
    return F.cross_entropy(logits, labels) if exclusive else F.binary_cross_entropy_with_logits(logits, labels)


DISCRIMINATOR_LOSSES = {"wgan-gp": wgan_discriminator, "lsgan": lsgan_discriminator, "logistic": logistic_discriminator}
GENERATOR_LOSSES = {"wgan-gp": wgan_generator, "lsgan": lsgan_generator, "logistic": logistic_generator}
"""Losses by `LossSettings.kind`."""
