"""Losses are what their equations say, for a discriminator simple enough to do by hand."""

import math

import pytest
import torch
from torch import Tensor

from celebahq_builder.progan import step

REAL, FAKE = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.5])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_by_hand() -> None:
    assert step.wgan_discriminator(REAL, FAKE, 0.001).item() == pytest.approx(-0.25 - 2 + 0.001 * 5)
    assert step.wgan_generator(FAKE).item() == pytest.approx(0.25)
    assert step.lsgan_discriminator(REAL, FAKE).item() == pytest.approx(5 + (4 + 0.25) / 2)
    assert step.lsgan_generator(FAKE).item() == pytest.approx((1 + 0.25) / 2)
    wanted = (softplus(-1) + softplus(-3)) / 2 + (softplus(-1) + softplus(0.5)) / 2
    assert step.logistic_discriminator(REAL, FAKE).item() == pytest.approx(wanted)
    assert step.logistic_generator(FAKE).item() == pytest.approx((softplus(1) + softplus(-0.5)) / 2)


def quadratic(images: Tensor) -> Tensor:
    """A score whose gradient is 2 x: |grad| = 2 |x|."""
    return images.square().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_gradient_penalty(target: float) -> None:
    real, fake = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    mix = torch.tensor([0.0, 0.25, 1.0])
    between = real + mix.view(-1, 1, 1, 1) * (fake - real)
    lengths = 2 * between.flatten(1).norm(dim=1)
    wanted = ((lengths - target) ** 2).mean() / target**2
    torch.testing.assert_close(step.gradient_penalty(quadratic, real, fake, mix, target), wanted)


def test_penalties_have_gradients_for_the_discriminator() -> None:
    scale = torch.tensor(1.5, requires_grad=True)
    real = torch.randn(2, 3, 4, 4)

    def judge(images: Tensor) -> Tensor:
        return scale * quadratic(images)

    step.r1_penalty(judge, real).backward()
    # |grad|^2 / 2 = 2 s^2 |x|^2; its derivative by s is 4 s |x|^2.
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, 4 * 1.5 * real.flatten(1).square().sum(dim=1).mean())
    scale.grad = None
    step.gradient_penalty(judge, real, real, torch.zeros(2)).backward()
    lengths = real.flatten(1).norm(dim=1)
    torch.testing.assert_close(scale.grad, (2 * (3 * lengths - 1) * 2 * lengths).mean())


def test_labels() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    classes = torch.eye(3)[[0, 2]]
    wanted = (math.log(math.exp(2) + 2) - 2 + math.log(2 + math.e)) / 2
    assert step.label_loss(logits, classes).item() == pytest.approx(wanted, rel=1e-6)
    attributes = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    each = [softplus(-2), softplus(0), softplus(0), softplus(0), softplus(1), softplus(0)]
    assert step.label_loss(logits, attributes, classes=False).item() == pytest.approx(sum(each) / 6)


def test_half_precision_scores_are_added_up_in_float32() -> None:
    scores = torch.full((4096,), 1.001953125, dtype=torch.bfloat16)
    assert step.wgan_generator(scores).dtype == torch.float32
    assert step.wgan_generator(scores).item() == pytest.approx(-float(scores[0]))
