"""Convolution and pooling: results, gradients and gradients of gradients are those of torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.models.gradients import conv2d, halve


def tensors(kernel: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(kernel)
    shapes = (2, 3, 6, 4), (5, 3, kernel, kernel), (5,)
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def of_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("kernel", [1, 3])
def test_first_and_second_derivatives_are_those_of_finite_differences(kernel: int) -> None:
    assert torch.autograd.gradcheck(conv2d, tensors(kernel))
    assert torch.autograd.gradgradcheck(conv2d, tensors(kernel))
    x = tensors(kernel)[0]
    assert torch.autograd.gradcheck(halve, x)
    assert torch.autograd.gradgradcheck(halve, x)


def penalty(convolve: Callable[..., Tensor], pool: Callable[[Tensor], Tensor], kernel: int) -> list[Tensor]:
    """Return the gradients of a gradient penalty through two layers."""
    x, weight, bias = tensors(kernel)
    scores = pool(F.leaky_relu(convolve(x, weight, bias), 0.2)).square().sum(dim=(1, 2, 3))
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    lengths = gradient.square().sum(dim=(1, 2, 3)).sqrt()
    return list(torch.autograd.grad((lengths - 1).square().mean() + scores.mean(), [x, weight, bias]))


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradient_penalty_is_that_of_torch(kernel: int) -> None:
    wanted = penalty(of_torch, lambda x: F.avg_pool2d(x, 2), kernel)
    torch.testing.assert_close(penalty(conv2d, halve, kernel), wanted)


def test_no_convolution_has_a_kernel_of_the_size_of_the_image() -> None:
    """It is what torch computes for the second derivative of a convolution."""

    def kernels(convolve: Callable[..., Tensor]) -> list[int]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            penalty(convolve, halve, 3)
        return [event.input_shapes[1][-2] for event in profile.events() if event.name == "aten::convolution"]

    assert max(kernels(of_torch)) >= 4
    assert max(kernels(conv2d)) == 3


def test_frozen_weights_get_no_gradient() -> None:
    x, weight, bias = tensors(3)
    conv2d(x, weight.detach(), bias.detach()).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_types_and_memory_format_stay() -> None:
    x, weight, bias = (one.detach().float() for one in tensors(3))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = halve(conv2d(x, weight, bias))
        assert result.dtype == F.conv2d(x, weight, bias).dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(result.float().sum(), x)
    assert gradient.dtype == torch.float32
