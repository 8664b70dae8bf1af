"""The crop of CelebA-HQ in plain Python, from the paper's appendix C and the signs of its public tool."""

import math
from collections.abc import Sequence

Point = tuple[float, float]


def crop_quad(landmarks: Sequence[Point]) -> list[Point]:
    """Top left, bottom left, bottom right, top right, from five pixel positions; in pixel-edge coordinates."""
    eye0, eye1, _, mouth0, mouth1 = landmarks
    eyes = ((eye0[0] + eye1[0]) / 2 + 0.5, (eye0[1] + eye1[1]) / 2 + 0.5)
    mouth = ((mouth0[0] + mouth1[0]) / 2 + 0.5, (mouth0[1] + mouth1[1]) / 2 + 0.5)
    across = (eye1[0] - eye0[0], eye1[1] - eye0[1])
    down = (mouth[0] - eyes[0], mouth[1] - eyes[1])
    x = (across[0] + down[1], across[1] - down[0])  # minus down turned by 90 degrees: (-y, x)
    half = max(2.0 * math.dist((0, 0), across), 1.8 * math.dist((0, 0), down))
    norm = math.dist((0, 0), x)
    x = (x[0] / norm * half, x[1] / norm * half)
    y = (-x[1], x[0])
    c = (eyes[0] + 0.1 * down[0], eyes[1] + 0.1 * down[1])
    signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
    return [(c[0] + a * x[0] + b * y[0], c[1] + a * x[1] + b * y[1]) for a, b in signs]


def area(polygon: Sequence[Point]) -> float:
    """Area by the shoelace formula."""
    following = [*polygon[1:], *polygon[:1]]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, following, strict=True))) / 2


def share_inside(quad: Sequence[Point], width: float, height: float) -> float:
    """Share of a quad's area inside a photo, exactly: clipped against one side of the photo after another."""
    polygon = list(quad)
    for axis, limit, sign in ((0, 0.0, 1), (1, 0.0, 1), (0, width, -1), (1, height, -1)):
        polygon = _clip(polygon, axis, limit, sign)
    return area(polygon) / area(quad) if polygon else 0.0


def _clip(polygon: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    clipped: list[Point] = []
    for i, end in enumerate(polygon):
        start = polygon[i - 1]
        before, after = (start[axis] - limit) * sign, (end[axis] - limit) * sign
        if (before < 0) != (after < 0):
            t = before / (before - after)
            clipped.append((start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])))
        if after >= 0:
            clipped.append(end)
    return clipped
