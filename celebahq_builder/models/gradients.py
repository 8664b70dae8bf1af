"""Convolution and pooling with fast gradients of gradients.

A gradient penalty differentiates a gradient. For the weights of a convolution, torch then computes a convolution whose
kernel is as large as the image: at 1024x1024, nine tenths of a training step on an H200. Here it is the same operation
as the gradient of the weights. All results equal torch's, except for the order of sums.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx


def conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a convolution of stride 1 that keeps the image's size.

    With autocast, it computes in the type of autocast.

    Args:
        x: [N, C, H, W].
        weight: [K, C, k, k]; k is odd.
        bias: [K].

    Returns:
        [N, K, H, W].

    Examples:
        >>> x, weight, bias = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3), torch.rand(4)
        >>> torch.allclose(conv2d(x, weight, bias), F.conv2d(x, weight, bias, padding=1), atol=1e-6)
        True
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return _apply(_Convolution, x, weight, bias)


def input_gradient(output: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the gradient of a scalar with respect to `x`; it has a gradient, too.

    The scalar is `output`, or the sum of `output` times `weights`.

    `torch.autograd.grad` would make each `conv2d` of this module compute the gradient of its weights as well, because a
    function that is written in Python does not know which gradients are wanted.

    Examples:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> input_gradient(x.square().sum(), x)
        tensor([6.], grad_fn=<MulBackward0>)
    """
    global _weight_gradients  # torch runs `backward` in its own threads, which see no context variable
    _weight_gradients = False
    try:
        (gradient,) = torch.autograd.grad(output, x, weights, create_graph=True)
    finally:
        _weight_gradients = True
    return gradient


_weight_gradients = True
"""True if `conv2d` computes the gradients of its weights; false within `input_gradient`."""


def halve(x: Tensor) -> Tensor:
    """Return the means of blocks of 2x2 px: [N, C, H, W] to [N, C, H / 2, W / 2]; H and W are even.

    Its gradient repeats pixels, which takes a fifth of the time of that of `torch.nn.functional.avg_pool2d` on a GPU.

    Examples:
        >>> halve(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))
        tensor([[[[3.]]]])
    """
    return _apply(_Halving, x)


def scale_all(tensors: list[Tensor], scales: list[float], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return tensors times scales in another type, in few launches on a GPU; so are their gradients.

    Examples:
        >>> scale_all([torch.ones(2), torch.ones(1)], [2.0, 3.0], torch.bfloat16)
        (tensor([2., 2.], dtype=torch.bfloat16), tensor([3.], dtype=torch.bfloat16))
    """
    result: tuple[Tensor, ...] = _Scaling.apply(scales, dtype, *tensors)  # type: ignore[no-untyped-call]
    return result


class _Context(Protocol):
    """Values that torch stores in the forward pass of a function and passes to its backward pass."""

    scales: list[float]
    kernel: int
    saved_tensors: tuple[Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors until the gradient is computed."""

    def set_materialize_grads(self, value: bool) -> None:
        """Decide whether a missing gradient is passed as zeros or as None."""


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _save(ctx, x, weight)
        ctx.kernel = weight.shape[-1]
        return F.conv2d(x, weight, bias, padding=ctx.kernel // 2)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _apply(_TransposedConvolution, gradient, weight) if of_x else None,
            _apply(_WeightGradient, gradient, x, ctx.kernel) if of_weight and _weight_gradients else None,
            gradient.sum(dim=(0, 2, 3)) if of_bias and _weight_gradients else None,
        )


class _TransposedConvolution(torch.autograd.Function):
    """The gradient of a convolution with respect to its input."""

    @staticmethod
    def forward(ctx: _Context, gradient: Tensor, weight: Tensor) -> Tensor:
        _save(ctx, gradient, weight)
        ctx.kernel = weight.shape[-1]
        return F.conv_transpose2d(gradient, weight, padding=ctx.kernel // 2)

    @staticmethod
    def backward(ctx: _Context, second: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gradient, weight = ctx.saved_tensors
        of_gradient, of_weight = ctx.needs_input_grad
        return (
            _apply(_Convolution, second, weight, None) if of_gradient else None,
            _apply(_WeightGradient, gradient, second, ctx.kernel) if of_weight else None,
        )


class _WeightGradient(torch.autograd.Function):
    """The gradient of a convolution with respect to its weights."""

    @staticmethod
    def forward(ctx: _Context, gradient: Tensor, x: Tensor, kernel: int) -> Tensor:
        _save(ctx, gradient, x)
        shape = gradient.shape[1], x.shape[1], kernel, kernel
        weight = x.new_empty(1).expand(shape)  # only its shape is used
        padding = [kernel // 2] * 2
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [False, True, False]
        )[1]
        return result

    @staticmethod
    def backward(ctx: _Context, second: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradient, x = ctx.saved_tensors
        of_gradient, of_x, _ = ctx.needs_input_grad
        return (
            _apply(_Convolution, x, second, None) if of_gradient else None,
            _apply(_TransposedConvolution, gradient, second) if of_x else None,
            None,
        )


def _save(ctx: _Context, first: Tensor, second: Tensor) -> None:
    """Save each of two factors only if the gradient of the other one is wanted: activations take much memory."""
    of_first, of_second = ctx.needs_input_grad[:2]
    ctx.save_for_backward(first if of_second else None, second if of_first else None)


class _Scaling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, scales: list[float], dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.scales = scales
        ctx.set_materialize_grads(False)
        return tuple(_converted(list(torch._foreach_mul(tensors, scales)), dtype))

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [i for i, gradient in enumerate(gradients) if gradient is not None]
        wide = _converted([gradient for gradient in gradients if gradient is not None], torch.float32)
        scaled = dict(zip(known, torch._foreach_mul(wide, [ctx.scales[i] for i in known]), strict=True))
        return None, None, *(scaled.get(i) for i in range(len(gradients)))


def _converted(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    converted = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(converted, tensors)
    return converted


class _Halving(torch.autograd.Function):
    @staticmethod
    def forward(_: FunctionCtx, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(_: FunctionCtx, gradient: Tensor) -> Tensor:
        with torch.autocast(gradient.device.type, enabled=False):  # it would widen the type
            return F.interpolate(gradient / 4, scale_factor=2, mode="nearest")
