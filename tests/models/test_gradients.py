"""Convolution and pooling: results, gradients and gradients of gradients are those of torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.models.gradients import conv2d, halve, input_gradient


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


def test_input_gradient_computes_no_gradient_of_weights() -> None:
    """The penalty's own gradient has those of weights; afterwards, a backward pass has them, too."""

    def operations(differentiate: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, int]:
        x, weight, bias = tensors(3)
        scores = conv2d(x, weight, bias).square().sum()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            gradient = differentiate(scores, x)
        (gradient.square().sum() + scores).backward()
        assert weight.grad is not None
        assert bias.grad is not None
        return weight.grad, sum(event.name == "aten::convolution_backward" for event in profile.events())

    wanted, more = operations(lambda y, x: torch.autograd.grad(y, x, create_graph=True)[0])
    found, none = operations(input_gradient)
    assert torch.equal(found, wanted)
    assert (more, none) == (1, 0)


def test_weight_gradients_return_after_an_error() -> None:
    x, weight, bias = tensors(3)
    with pytest.raises(RuntimeError):
        input_gradient(conv2d(x, weight, bias), x)  # not a scalar
    conv2d(x, weight, bias).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("inputs", "saved"), [("x", ["weight"]), ("weight", ["x"]), ("x and weight", ["x", "weight"]), ("bias", [])]
)
def test_only_what_the_gradients_need_is_kept(inputs: str, saved: list[str]) -> None:
    named = dict(zip(("x", "weight", "bias"), tensors(3), strict=True))
    for name, one in named.items():
        one.requires_grad_(name in inputs)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.data_ptr()), lambda _: None):
        conv2d(**named)
    assert kept == [named[name].data_ptr() for name in saved]


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


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradient_penalty_in_bf16_is_that_of_float64(kernel: int) -> None:
    """A bfloat16 has 8 bits; all other sums differ by less than a hundredth of the largest value."""

    def rounded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        narrow = (one.float().contiguous(memory_format=torch.channels_last) for one in (x, weight))
        with torch.autocast("cpu", torch.bfloat16):
            result = conv2d(*narrow, bias.float())
        assert result.dtype == torch.bfloat16
        return result.double()

    wanted = penalty(of_torch, halve, kernel)
    for one, exact in zip(penalty(rounded, halve, kernel), wanted, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, exact, rtol=0.02, atol=0.01 * float(exact.abs().max()))
