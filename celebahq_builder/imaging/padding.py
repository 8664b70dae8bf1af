"""Padding of a photo where the crop leaves it: mirrored, blurred and faded to the median colour.

Karras et al. 2018, appendix C, call it mirror padding and Gaussian filtering; it looks like depth of field. The
constants are those of the authors' public tool.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from celebahq_builder.imaging.geometry import PaddingPlan

STRIP_ROWS = {"cpu": 32, "cuda": 1024}
"""Number of rows that are held as float at a time, by kind of device; it bounds the memory. On a CPU they fit into its
cache."""

MEDIAN_SAMPLES = 160_000
"""Approximate number of pixels of the regular grid from which the median colour is computed."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in px."""


def pad_photo(pixels: Tensor, padding: PaddingPlan, sigma: float, box: Box | None = None) -> Tensor:
    """Mirror an image at its edges, blur the outside and fade it to the median colour.

    Let m = 1 - min(distance from a new edge / padding of that side), over the four sides. The mirrored image is mixed
    with its Gaussian blur by clip(3m + 1, 0, 1), then with its median colour by clip(m, 0, 1). So the blur begins a
    third of the padding inside the photo, and the outermost pixels have the median colour.

    Args:
        pixels: uint8 [3, H, W], on any device.
        padding: px to add on each side, above 0.
        sigma: standard deviation of the blur in px, above 0.
        box: part of the padded image to return, (left, top, right, bottom) in px; None for all of it.

    Returns:
        uint8 [3, H + top + bottom, W + left + right], or the box of it. Memory beyond the result is bounded by a few
        strips of `STRIP_ROWS` rows and a reduced copy of the image.

    References:
        Karras et al. 2018, "Progressive Growing of GANs", appendix C; the masks are those of the authors' tool.

    Examples:
        >>> photo = torch.full((3, 40, 50), 137, dtype=torch.uint8)
        >>> pad_photo(photo, PaddingPlan(30, 30, 30, 30), sigma=2.0).shape
        torch.Size([3, 100, 110])
    """
    _, height, width = pixels.shape
    whole = (0, 0, width + padding.left + padding.right, height + padding.top + padding.bottom)
    return _Mirrored(pixels, padding, sigma).render(box or whole)


class _Mirrored:
    """A padded image that is computed only at the rows and columns that are asked for."""

    def __init__(self, pixels: Tensor, padding: PaddingPlan, sigma: float) -> None:
        _, height, width = pixels.shape
        device = pixels.device
        self.pixels = pixels
        self.padding = padding
        self.strip_rows = STRIP_ROWS[device.type]
        self.row_index = _reflect(height, padding.top, padding.bottom, device)
        self.column_index = _reflect(width, padding.left, padding.right, device)
        self.row_depth = _depth(height, padding.top, padding.bottom, device)
        self.column_depth = _depth(width, padding.left, padding.right, device)
        # A wide Gaussian is smooth: on an image reduced by `self.factor` it is the same within 1 grey level.
        self.factor = max(1, int(sigma / 4))
        self.blurred = self._blur(sigma)

    def render(self, box: Box) -> Tensor:
        """Return a part of the padded image, uint8 [3, bottom - top, right - left]."""
        left, top, right, bottom = box
        result = torch.empty((3, bottom - top, right - left), dtype=torch.uint8, device=self.pixels.device)
        # The blur does not reach rows and columns far from the edge: they are copied.
        _, height, width = self.pixels.shape
        first_row, last_row = _inside(height, self.padding.top, self.padding.bottom, top, bottom)
        first_column, last_column = _inside(width, self.padding.left, self.padding.right, left, right)
        median = self._median()
        for rows, columns in (
            ((top, first_row), (left, right)),
            ((first_row, last_row), (left, first_column)),
            ((first_row, last_row), (last_column, right)),
            ((last_row, bottom), (left, right)),
        ):
            self._render_soft(
                result[:, rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left], rows, columns, median
            )
        top_edge, left_edge = self.padding.top, self.padding.left
        sharp = self.pixels[
            :, first_row - top_edge : last_row - top_edge, first_column - left_edge : last_column - left_edge
        ]
        result[:, first_row - top : last_row - top, first_column - left : last_column - left] = sharp
        return result

    def _render_soft(self, result: Tensor, rows: tuple[int, int], columns: tuple[int, int], median: Tensor) -> None:
        """Write rows and columns of the padded image, blurred and faded, to `result`."""
        if result.numel() == 0:
            return
        column = torch.arange(*columns, device=result.device)
        for start in range(rows[0], rows[1], self.strip_rows):
            row = torch.arange(start, min(start + self.strip_rows, rows[1]), device=result.device)
            mixed, mask = self._mix_blur(row, column)
            mixed += (median[:, None, None] - mixed) * mask.clamp_(0, 1)
            result[:, start - rows[0] : start - rows[0] + len(row)] = mixed.round_().clamp_(0, 255)

    def _median(self) -> Tensor:
        """Return the median colour [3] of the mirrored and blurred image."""
        rows, columns = len(self.row_index), len(self.column_index)
        step = max(1, int(math.sqrt(rows * columns / MEDIAN_SAMPLES)))
        device = self.pixels.device
        mixed, _ = self._mix_blur(
            torch.arange(0, rows, step, device=device), torch.arange(0, columns, step, device=device)
        )
        return _median(mixed.flatten(1))

    def _mix_blur(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mirrored image mixed with its blur, float [3, R, C], and the mask m [R, C], at some positions."""
        mask = 1 - torch.minimum(self.row_depth[rows][:, None], self.column_depth[columns][None, :])
        sharp = self.pixels[:, self.row_index[rows]][:, :, self.column_index[columns]].float()
        soft = _lerp(_lerp(self.blurred, rows, self.factor, dim=1), columns, self.factor, dim=2)
        return torch.lerp(sharp, soft, (3 * mask + 1).clamp_(0, 1)), mask

    def _blur(self, sigma: float) -> Tensor:
        """Return the mirrored image reduced by `factor` and blurred, float [3, R / factor, C / factor]."""
        factor = self.factor
        rows = self.strip_rows - self.strip_rows % factor or factor
        strips = []
        for start in range(0, len(self.row_index), rows):  # rows first, in the photo's own columns: they are fewer
            strips.append(_block_sums(self.pixels[:, self.row_index[start : start + rows]].float(), factor, dim=1))
        sums = _block_sums(torch.cat(strips, dim=1)[:, :, self.column_index], factor, dim=2)
        row_ones, column_ones = torch.ones_like(self.row_depth), torch.ones_like(self.column_depth)
        count = _block_sums(row_ones, factor, dim=0)[:, None] * _block_sums(column_ones, factor, dim=0)
        # Averaging adds (f^2 - 1) / 12 to the variance and linear interpolation f^2 / 6; the Gaussian adds the rest.
        variance = (sigma**2 - (factor**2 - 1) / 12 - (factor**2 / 6 if factor > 1 else 0)) / factor**2
        return gaussian_blur(sums / count, math.sqrt(variance))


def _block_sums(values: Tensor, factor: int, dim: int) -> Tensor:
    """Return the sums of each `factor` neighbours along a dimension; the last ones may be fewer."""
    whole, rest = divmod(values.shape[dim], factor)
    blocks = (*values.shape[:dim], whole, factor, *values.shape[dim + 1 :])
    sums = values.narrow(dim, 0, whole * factor).reshape(blocks).sum(dim + 1)
    if not rest:
        return sums
    return torch.cat([sums, values.narrow(dim, whole * factor, rest).sum(dim, keepdim=True)], dim)


def _median(values: Tensor) -> Tensor:
    """Return the lower median of each row of values [R, N]: [R]."""
    if values.device.type == "cpu":
        return values.median(dim=1).values
    # On a GPU, `median` selects digit by digit with one block of threads per row; sorting takes a fraction of the time.
    return values.sort(dim=1).values[:, (values.shape[1] - 1) // 2]


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur an image by a Gaussian that ends at 4 `sigma`; beyond the edges the outermost pixels are repeated.

    Shapes: float32 [C, H, W] -> the same; `sigma` in px.
    """
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    x = F.pad(image[:, None], (radius, radius, radius, radius), mode="replicate")
    correlate = _correlate_by_conv2d if image.device.type == "cpu" else _correlate_by_matrices
    return correlate(x[:, 0], kernel)


def _correlate_by_conv2d(padded: Tensor, kernel: Tensor) -> Tensor:
    """Return the correlation of padded images with a kernel in both directions."""
    x = F.conv2d(padded[:, None], kernel.view(1, 1, 1, -1))
    return F.conv2d(x, kernel.view(1, 1, -1, 1))[:, 0]


def _correlate_by_matrices(padded: Tensor, kernel: Tensor) -> Tensor:
    """Return the same as two products of matrices.

    cuDNN plans a convolution anew for each size, which takes longer than the products, and photos differ in size.
    """
    height, width = (length - len(kernel) + 1 for length in padded.shape[1:])
    return _band(kernel, height) @ padded @ _band(kernel, width).T


def _band(kernel: Tensor, size: int) -> Tensor:
    """Return the matrix [size, size + len(kernel) - 1] whose product with a vector is its correlation with a kernel."""
    columns = size + len(kernel) - 1
    matrix = kernel.new_zeros(size, columns)
    matrix.as_strided((size, len(kernel)), (columns + 1, 1)).copy_(kernel)
    return matrix


def _lerp(reduced: Tensor, positions: Tensor, factor: int, dim: int) -> Tensor:
    """Interpolate an image that was reduced by `factor` linearly along `dim`, at positions of the full size."""
    if factor == 1:
        return reduced.index_select(dim, positions)
    place = ((positions.float() + 0.5) / factor - 0.5).clamp_(0, reduced.shape[dim] - 1)
    low = place.long()
    high = (low + 1).clamp_(max=reduced.shape[dim] - 1)
    weight = (place - low).unsqueeze(-1) if dim == 1 else place - low
    return torch.lerp(reduced.index_select(dim, low), reduced.index_select(dim, high), weight)


def _reflect(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the source index of each padded position, mirrored at the outermost pixels as often as needed."""
    folded = torch.arange(-before, size + after, device=device).abs_().remainder_(max(2 * (size - 1), 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


def _inside(size: int, before: int, after: int, start: int, stop: int) -> tuple[int, int]:
    """Return the range of the positions from `start` to `stop` that the blur does not reach: first, last + 1.

    It is computed on the CPU, where no device has to be waited for. All these positions lie inside the image.
    """
    depth = _depth(size, before, after, torch.device("cpu"))
    clear = (depth[start:stop] * 3 >= 4).nonzero()[:, 0]  # 3m + 1 <= 0
    return (start + int(clear[0]), start + int(clear[-1]) + 1) if len(clear) else (stop, stop)


def _depth(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the smaller distance of each position to an edge, divided by its padding, float32 [padded size]."""
    positions = torch.arange(size + before + after, dtype=torch.float32, device=device)
    return torch.minimum(positions / before, (len(positions) - 1 - positions) / after)
