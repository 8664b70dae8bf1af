"""Residual blocks and the autoencoder start as the identity, keep sizes and positions, and all parameters learn."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celebahq_builder.models.autoencoder import Autoencoder, ResidualBlock, zero_conv
from tests.models.tiny_networks import perturbed, tiny_autoencoder

# --- Residual blocks ------------------------------------------------------------------------------------------


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
    assert conv.weight.grad.abs().min() > 0


# --- The autoencoder ------------------------------------------------------------------------------------------


def photo(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 2, 1), (2, 2, 3)])
def test_context_covers_the_receptive_field(blocks: tuple[int, int, int]) -> None:
    net = Autoencoder((4, 6, 8), blocks)
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.01, 0.2)  # nothing cancels out
    reached = 0
    for at in (128, 135):  # the first and the last pixel of a cell
        x = torch.rand(1, 3, 264, 264, requires_grad=True)
        net(x)[..., at, at].sum().backward()
        reached = max(reached, int((x.grad.abs().sum(dim=(0, 1)).nonzero() - at).abs().max()))
    assert net.context_px - Autoencoder.STRIDE_PX < reached <= net.context_px


SIZES = [(1, 1), (7, 9), (8, 8), (17, 24), (33, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_new_network_is_the_identity(size: tuple[int, int]) -> None:
    x = photo(*size, count=2)
    assert torch.equal(tiny_autoencoder()(x), x)


@pytest.mark.parametrize("size", SIZES)
def test_any_size(size: tuple[int, int]) -> None:
    x = photo(*size, count=2)
    y = perturbed(tiny_autoencoder())(x)
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert not torch.equal(y, x)


@pytest.mark.parametrize("size", SIZES)
def test_padding_repeats_the_edge_and_shifts_nothing(size: tuple[int, int]) -> None:
    net, x = perturbed(tiny_autoencoder()), photo(*size)
    height, width = size
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    assert torch.allclose(net(x), net(padded)[..., :height, :width], atol=1e-6)


def test_result_moves_with_the_photo_by_strides() -> None:
    """Far from the edges, moving the photo by 8 px moves the result by 8 px; moving it by 4 px does not."""
    net, x = perturbed(tiny_autoencoder()), photo(160, 160)
    reach = 72
    inner = net(x)[..., reach : 160 - reach, reach : 160 - reach]
    moved = net(torch.roll(x, (8, 8), (2, 3)))[..., reach + 8 : 168 - reach, reach + 8 : 168 - reach]
    assert torch.allclose(inner, moved, atol=1e-5)
    off_grid = net(torch.roll(x, (4, 4), (2, 3)))[..., reach + 4 : 164 - reach, reach + 4 : 164 - reach]
    assert not torch.allclose(inner, off_grid, atol=1e-3)


def test_photos_of_a_batch_are_independent() -> None:
    net, x = perturbed(tiny_autoencoder()), photo(17, 24, count=3)
    together = net(x)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1])[0], together[i], atol=1e-6)


def test_memory_layout_does_not_matter() -> None:
    net, x = perturbed(tiny_autoencoder()), photo(17, 24)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x.contiguous(memory_format=torch.channels_last)), expected, atol=1e-6)


def test_all_parameters_learn() -> None:
    """The last layers start at zero, so gradients reach the first ones from the third step on."""
    net = tiny_autoencoder()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, truth = photo(16, 16, count=2), photo(16, 17, count=2)[..., :16]
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(net(x), truth).backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_learns_a_constant_shift() -> None:
    net = tiny_autoencoder()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = photo(16, 16, count=2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.l1_loss(net(x), x + 0.1)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.1, abs=1e-6)
    assert losses[-1] < 0.03


def test_widths_and_blocks_determine_the_layers() -> None:
    net = Autoencoder((4, 6, 8), (1, 2, 3))
    stacks = (net.encoder1, net.encoder2, net.bottom, net.decoder2, net.decoder1)
    assert [len(stack) for stack in stacks] == [1, 2, 3, 2, 1]
    channels = {name: m.in_channels for name, m in net.named_children() if isinstance(m, nn.Conv2d)}
    assert channels == {"head": 12, "down1": 4, "down2": 6, "tail": 4}
