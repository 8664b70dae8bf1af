"""New residual blocks are the identity or zero, and learn."""

import torch

from celebahq_builder.models.autoencoder import ResidualBlock, zero_conv


def test_new_block_is_the_identity() -> None:
    x = torch.randn(2, 5, 7, 9)
    assert torch.equal(ResidualBlock(5)(x), x)


def test_block_does_not_change_its_input() -> None:
    """Its ReLU works in place, on the block's own intermediate result."""
    block = ResidualBlock(5)
    torch.nn.init.normal_(block.conv2.weight)
    x = torch.randn(2, 5, 7, 9)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


def test_block_by_hand() -> None:
    """conv1 = 2x - 1, conv2 = 3x + 5 at the centre: x + 3 relu(2x - 1) + 5."""
    block = ResidualBlock(1)
    for conv, weight, bias in ((block.conv1, 2.0, -1.0), (block.conv2, 3.0, 5.0)):
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 1, 1] = weight
        conv.bias.data[:] = bias
    x = torch.tensor([[[[-2.0, 0.25, 0.5, 3.0]]]])
    assert block(x).tolist() == [[[[3.0, 5.25, 5.5, 23.0]]]]


def test_block_keeps_the_size() -> None:
    for size in ((1, 1), (3, 8), (10, 1)):
        assert ResidualBlock(4)(torch.zeros(1, 4, *size)).shape == (1, 4, *size)


def test_zero_convolution() -> None:
    conv = zero_conv(6, 4)
    assert not conv(torch.randn(2, 6, 5, 3)).any()
    assert conv(torch.randn(2, 6, 5, 3)).shape == (2, 4, 5, 3)
    conv(torch.ones(1, 6, 5, 5)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().min() > 0
