"""A release such as the official one, of the sample's photos: an image list and archives of locked deltas."""

import bz2
import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.fernet import Fernet

from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.photo_context import photo_context, photo_reader
from celebahq_builder.pipeline.recipe import BuildRecipe
from celebahq_builder.pipeline.stage import NoSettings
from celebahq_builder.pipeline.stages.crop import CropSettings
from celebahq_builder.pipeline.stages.exact import ExactCropStage, ExactUpscaleStage, align_exactly
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.official import COLUMNS, member_name, photo_key, zip_name
from tests.conftest import SAMPLE

EXACT = BuildRecipe(resolution=64, method="exact", crop=CropSettings(inside_min=0.01), select=SelectSettings(keep=100))
"""The public tool's way, in a fraction of a second per photo."""

FOLDER = SAMPLE / "img_celeba"

FILES = {7: "000003.jpg", 2: "000011.jpg", 1000: "000001.jpg", 5: "000002.jpg"}
"""Photo by place in the release; two archives, and an order that is not the table's."""


def md5(pixels: np.ndarray) -> str:
    return hashlib.md5(pixels.tobytes()).hexdigest()


def aligned(file: str, resolution: int) -> np.ndarray:
    """What the delta of a photo is added to, uint8 [3, R, R]."""
    photo = next(photo for photo in read_celeba(SAMPLE).photos if photo.file == file)
    context = photo_context(resolution, "cpu", photo_reader(FOLDER))
    cropped = ExactCropStage().run([Face.unread(photo, 0)], EXACT.crop, context)
    [upscaled] = ExactUpscaleStage().run(cropped, NoSettings(), context)
    return align_exactly(upscaled, context).pixels.numpy()


def locked(delta: np.ndarray, data: bytes, file: str) -> bytes:
    return Fernet(photo_key(data, file)).encrypt(bz2.compress(delta.tobytes()))


@dataclass
class Release:
    """Files of a release; change them, then `write`."""

    resolution: int = 64
    files: dict[int, str] = field(default_factory=lambda: dict(FILES))
    finals: dict[int, np.ndarray] = field(default_factory=dict)
    """The official images: noise, so that every delta has all values."""
    rows: dict[int, list[str]] = field(default_factory=dict)
    members: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        for index, file in self.files.items():
            before = aligned(file, self.resolution)
            final = self.finals[index] = rng.integers(0, 256, before.shape, dtype=np.uint8)
            self.rows[index] = [str(index), file[:6].lstrip("0"), file, md5(before), md5(final)]
            self.members[index] = locked(final - before, (FOLDER / file).read_bytes(), file)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the image list and the archives; return their paths."""
        deltas = folder / "deltas"
        deltas.mkdir(parents=True)
        image_list = folder / "image_list.txt"
        image_list.write_text("\r\n".join(["  ".join(row) for row in [list(COLUMNS), *self.rows.values()]]) + "\r\n")
        for index, member in self.members.items():
            with zipfile.ZipFile(deltas / zip_name(index), "a") as archive:
                archive.writestr(member_name(index), member)
        return image_list, deltas
