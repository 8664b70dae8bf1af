"""What travels from stage to stage: one face and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from celebahq_builder.imaging.geometry import Points
from celebahq_builder.sources.photo import Photo


@dataclass(frozen=True)
class Face:
    """A photo's region around a face, and where in it the crop lies.

    Pixels are 8-bit between stages, so that a stage that reads them back from disk gets what it would have got
    in memory, bit for bit.
    """

    photo: Photo
    pixels: Tensor
    """uint8 [3, H, W], RGB, on the worker's device."""
    quad: Points
    """Corners [4, 2] of the crop in pixel-edge coordinates of `pixels`."""
    border: int = 0
    """Pixels around the crop's bounding box that the padding wants to exist."""
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels (left, top, right, bottom) that are there only for the networks to see."""
    record: dict[str, Any] = field(default_factory=dict)
    """Plain values recorded so far; they end in the manifest."""

    @property
    def side(self) -> float:
        """Side of the crop in px of `pixels`."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))

    def noted(self, **values: Any) -> Face:
        """Return the face with some more values recorded."""
        return replace(self, record={**self.record, **values})

    def state(self) -> dict[str, Any]:
        """Return as plain values what, beside the pixels, `resumed` needs."""
        return {"quad": self.quad.tolist(), "border": self.border, "margin": list(self.margin)}

    @classmethod
    def resumed(cls, photo: Photo, pixels: Tensor, record: dict[str, Any]) -> Face:
        """Return the face that a manifest's record and its image stand for."""
        state = record["state"]
        rest = {key: value for key, value in record.items() if key not in ("state", "image")}
        quad = np.asarray(state["quad"], dtype=np.float64)
        return cls(photo, pixels, quad, state["border"], tuple(state["margin"]), rest)
