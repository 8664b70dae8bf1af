"""Losses and gradient penalties equal their equations."""

import math

import pytest
import torch
from torch import Tensor

from celebahq_builder.models.gradients import input_gradient
from celebahq_builder.progan import losses

REAL, FAKE = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.5])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_by_hand() -> None:
    assert losses.wgan_discriminator(REAL, FAKE, 0.001).item() == pytest.approx(-0.25 - 2 + 0.001 * 5)
    assert losses.wgan_generator(FAKE).item() == pytest.approx(0.25)
    assert losses.lsgan_discriminator(REAL, FAKE).item() == pytest.approx(5 + (4 + 0.25) / 2)
    assert losses.lsgan_generator(FAKE).item() == pytest.approx((1 + 0.25) / 2)
    wanted = (softplus(-1) + softplus(-3)) / 2 + (softplus(-1) + softplus(0.5)) / 2
    assert losses.logistic_discriminator(REAL, FAKE).item() == pytest.approx(wanted)
    assert losses.logistic_generator(FAKE).item() == pytest.approx((softplus(1) + softplus(-0.5)) / 2)


def quadratic(images: Tensor) -> Tensor:
    """A score whose gradient is 2 x: |grad| = 2 |x|."""
    return images.square().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_gradient_penalty(target: float) -> None:
    real, fake = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    mix = torch.tensor([0.0, 0.25, 1.0])
    images = losses.between(real, fake, mix)
    torch.testing.assert_close(images, real + mix.view(-1, 1, 1, 1) * (fake - real))
    images.requires_grad_()
    lengths = 2 * images.flatten(1).norm(dim=1)
    wanted = ((lengths - target) ** 2).mean() / target**2
    gradient = input_gradient(quadratic(images).sum(), images)
    torch.testing.assert_close(losses.gradient_penalty(gradient, target), wanted)


def test_gradients_of_the_penalties_by_hand() -> None:
    scale = torch.tensor(1.5, requires_grad=True)
    real = torch.randn(2, 3, 4, 4, requires_grad=True)

    def gradient() -> Tensor:
        return input_gradient((scale * quadratic(real)).sum(), real)

    losses.r1_penalty(gradient()).backward()
    # |grad|^2 / 2 = 2 s^2 |x|^2; its derivative by s is 4 s |x|^2.
    torch.testing.assert_close(scale.grad, 4 * 1.5 * real.flatten(1).square().sum(dim=1).mean())
    scale.grad = None
    losses.gradient_penalty(gradient()).backward()
    lengths = real.flatten(1).norm(dim=1)
    torch.testing.assert_close(scale.grad, (2 * (3 * lengths - 1) * 2 * lengths).mean())


def test_label_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    classes = torch.eye(3)[[0, 2]]
    wanted = (math.log(math.exp(2) + 2) - 2 + math.log(2 + math.e)) / 2
    assert losses.label_loss(logits, classes).item() == pytest.approx(wanted, rel=1e-6)
    attributes = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    each = [softplus(-2), softplus(0), softplus(0), softplus(0), softplus(1), softplus(0)]
    assert losses.label_loss(logits, attributes, exclusive=False).item() == pytest.approx(sum(each) / 6)


def test_losses_of_bfloat16_scores_are_float32() -> None:
    scores = torch.full((4096,), 1.001953125, dtype=torch.bfloat16)
    assert losses.wgan_generator(scores).dtype == torch.float32
    assert losses.wgan_generator(scores).item() == pytest.approx(-float(scores[0]))
