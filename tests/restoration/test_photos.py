"""Training photos are found, decoded and split as documented; crops follow the random generator."""

import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from celebahq_builder.errors import TrainingError
from celebahq_builder.image_set import Pixels
from celebahq_builder.restoration.photos import (
    FaceSettings,
    TrainingFace,
    TrainingPhotos,
    downscale_4x,
    to_pixels,
    to_tensor,
)
from celebahq_builder.sources.photo import COLUMNS


def write(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def flat(level: int, height: int = 20, width: int = 24) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def levels(photos: tuple[Pixels | Path, ...]) -> list[int]:
    return [int(photo[0, 0, 0]) for photo in photos if not isinstance(photo, Path)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photos in two subfolders: 0 2 4 6 8 in a, 1 3 5 7 in b."""
    for i in range(9):
        write(tmp_path / ("b" if i % 2 else "a") / f"{i}.png", flat(10 * i))
    return tmp_path


# --- Photos of a folder -----------------------------------------------------------------------------------------


def test_every_kth_photo_is_held_out(folder: Path) -> None:
    found = TrainingPhotos.read(folder, held_out=3, at_least_px=20)
    assert levels(found.held_out) == [0, 60, 30]
    assert levels(found.training) == [20, 40, 80, 10, 50, 70]


@pytest.mark.parametrize("held_out", [0, 1, 2, 4])
def test_held_out_photos_are_not_training_photos(held_out: int, folder: Path) -> None:
    found = TrainingPhotos.read(folder, held_out=held_out, at_least_px=20)
    assert len(found.held_out) == held_out
    assert sorted(levels(found.training) + levels(found.held_out)) == [10 * i for i in range(9)]


def test_small_photos_are_counted_and_other_files_are_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder / "small.png", flat(200, 19, 40))
    write(folder / "tall.JPG", flat(210, 40, 20))
    (folder / "notes.txt").write_text("no photo")
    (folder / "album.png").mkdir()
    with caplog.at_level(logging.INFO, "celebahq_builder"):
        found = TrainingPhotos.read(folder, held_out=0, at_least_px=20)
    assert len(found.training) == 10
    assert 200 not in levels(found.training)
    assert "1 of 11 photos are not used; a side is under 20 px" in caplog.text


def test_hidden_files_and_folders_are_not_read(folder: Path) -> None:
    before = TrainingPhotos.read(folder, held_out=2, at_least_px=20)
    (folder / "a" / "._0.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    write(folder / ".ipynb_checkpoints" / "0-checkpoint.png", flat(99))
    write(folder / "__MACOSX" / "a" / "0.png", flat(99))
    after = TrainingPhotos.read(folder, held_out=2, at_least_px=20)
    assert (levels(after.training), after.digest) == (levels(before.training), before.digest)


def test_folder_below_a_hidden_folder(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / "photos" / "0.png", flat(1))
    write(tmp_path / ".cache" / "photos" / "1.png", flat(2))
    assert levels(TrainingPhotos.read(tmp_path / ".cache" / "photos", held_out=0, at_least_px=4).training) == [1, 2]


def test_photos_beyond_the_memory_limit_stay_on_disk(folder: Path) -> None:
    """They give the same crops."""
    memory = TrainingPhotos.read(folder, held_out=2, at_least_px=20)
    disk = TrainingPhotos.read(folder, held_out=2, at_least_px=20, in_memory_bytes=3 * 20 * 24 * 3)
    assert sum(isinstance(photo, Path) for photo in disk.training) == 4
    for seed in range(20):
        crops = [photos.crop(np.random.default_rng(seed), 16) for photos in (memory, disk)]
        assert np.array_equal(*crops)


def test_all_modes_become_colour(tmp_path: Path) -> None:
    for i, mode in enumerate(("L", "RGBA", "P", "CMYK")):
        Image.fromarray(flat(204)).convert(mode).save(tmp_path / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    Image.fromarray(np.full((20, 24), 204 * 257, np.uint16)).save(tmp_path / "16-bit.png")
    found = TrainingPhotos.read(tmp_path, held_out=0, at_least_px=4)
    assert [photo.shape for photo in found.training if not isinstance(photo, Path)] == [(20, 24, 3)] * 5
    assert np.abs(np.array(levels(found.training)) - 204).max() <= 3


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    for i, alpha in enumerate((0, 255)):
        Image.fromarray(np.dstack([flat(10), np.full((20, 24), alpha, np.uint8)])).save(tmp_path / f"{i}.png")
    assert levels(TrainingPhotos.read(tmp_path, held_out=0, at_least_px=4).training) == [255, 10]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nowhere is not a folder of photos"):
        TrainingPhotos.read(tmp_path / "nowhere", held_out=1, at_least_px=4)


def test_too_few_photos(folder: Path) -> None:
    message = "0 of 9 photos are at least 21 px wide and high; training needs 4 or more"
    with pytest.raises(TrainingError, match=message):
        TrainingPhotos.read(folder, held_out=2, at_least_px=21)
    with pytest.raises(TrainingError, match="9 of 9 photos .* training needs 10 or more"):
        TrainingPhotos.read(folder, held_out=5, at_least_px=20)
    (folder / "none").mkdir()
    with pytest.raises(TrainingError, match="0 of 0 photos .* training needs 2 or more"):
        TrainingPhotos.read(folder / "none", held_out=0, at_least_px=1)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_photo_is_named(data: bytes, folder: Path) -> None:
    (folder / "bad.png").write_bytes(data)
    with pytest.raises(TrainingError, match=r"bad\.png cannot be read: .*; remove or replace it"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4)


def test_photo_of_too_many_pixels_is_not_decoded(folder: Path) -> None:
    """Its header says 40,000 x 40,000 px, which would take 4.8 GB."""
    data = bytearray((folder / "a" / "0.png").read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "bad.png").write_bytes(data)
    with pytest.raises(TrainingError, match=r"bad\.png cannot be read: .*pixels"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4)
    data[16:24] = struct.pack(">II", 11_000, 10_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "bad.png").write_bytes(data)
    with pytest.raises(TrainingError, match="11000 x 10000 px; the limit for training photos allows 100000000"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4)


def test_truncated_photo_is_named(folder: Path) -> None:
    whole = (folder / "a" / "0.png").read_bytes()
    (folder / "bad.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"bad\.png cannot be read"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4)


@pytest.mark.parametrize(
    ("kind", "reason"), [("pipe", "a named pipe, not a regular file"), ("broken link", "No such file or directory")]
)
def test_what_is_not_a_regular_file_is_named(kind: str, reason: str, folder: Path) -> None:
    """A pipe is not opened: that would wait for ever."""
    bad = folder / "bad.png"
    os.mkfifo(bad) if kind == "pipe" else bad.symlink_to(folder / "gone.png")
    with pytest.raises(TrainingError, match=rf"bad\.png cannot be read: {reason}; remove or replace it"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4)


# --- Crops ------------------------------------------------------------------------------------------------------


def gradient(height: int = 40, width: int = 50) -> Pixels:
    """Red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)


def test_crop_follows_the_generator() -> None:
    photos = TrainingPhotos((gradient(), flat(200, 40, 40)), ())
    crops = [photos.crop(np.random.default_rng(seed), 16) for seed in range(20)]
    again = [photos.crop(np.random.default_rng(seed), 16) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(crops, again, strict=True))
    assert len({crop.tobytes() for crop in crops}) > 4
    assert all(crop.shape == (16, 16, 3) and crop.dtype == np.uint8 and crop.flags.c_contiguous for crop in crops)


def test_crop_without_shrinking_is_a_window_in_one_of_eight_orientations() -> None:
    photo = gradient()
    photos = TrainingPhotos((photo,), ())
    rng = np.random.default_rng(0)
    seen = set()
    corners = set()
    for _ in range(200):
        crop = photos.crop(rng, 16, largest_shrink=1.0).astype(int)
        top, left = crop[..., 0].min(), crop[..., 1].min()
        window = photo[top : top + 16, left : left + 16].astype(int)
        rotated = [np.rot90(w, k) for w in (window, window[:, ::-1]) for k in range(4)]
        matches = [i for i, w in enumerate(rotated) if np.array_equal(w, crop)]
        assert len(matches) == 1
        seen.add(matches[0])
        corners.add((int(top), int(left)))
    assert seen == set(range(8))
    assert max(top for top, _ in corners) == 24
    assert min(top for top, _ in corners) == 0
    assert max(left for _, left in corners) == 34


def test_half_of_the_crops_are_shrunk() -> None:
    """Neighbouring rows or columns of a shrunk crop differ by more than 1, and by at most the factor."""
    photos = TrainingPhotos((gradient(60, 60),), ())
    rng = np.random.default_rng(1)
    spans = []
    for _ in range(300):
        crop = photos.crop(rng, 16, largest_shrink=2.0).astype(int)
        spans.append(int(crop[..., 0].max() - crop[..., 0].min()))
    assert min(spans) == 15
    assert 24 <= max(spans) <= 31
    assert sum(span == 15 for span in spans) / len(spans) == pytest.approx(0.5, abs=0.1)


def test_shrinking_is_an_area_filter() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    photos = TrainingPhotos((photo,), ())
    crops = [photos.crop(np.random.default_rng(seed), 16, largest_shrink=2.0) for seed in range(60)]
    half = photo.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert max(crop.std() for crop in crops) > 1.7 * half.std()
    assert min(crop.std() for crop in crops) < 1.25 * half.std()
    mean = cv2.mean(photo)[0]
    assert all(abs(float(crop[..., 0].mean()) - mean) < 25 for crop in crops)


def test_crop_of_the_whole_photo() -> None:
    photos = TrainingPhotos((gradient(16, 16),), ())
    for seed in range(20):
        assert sorted(photos.crop(np.random.default_rng(seed), 16)[..., 0].ravel()) == sorted(
            gradient(16, 16)[..., 0].ravel()
        )


def test_every_training_photo_is_used() -> None:
    photos = TrainingPhotos(tuple(flat(i) for i in range(5)), (flat(99),))
    rng = np.random.default_rng(0)
    assert {int(photos.crop(rng, 8)[0, 0, 0]) for _ in range(100)} == set(range(5))


def photos_with_face(photo: Pixels, x: int, y: int, share: float = 1.0) -> TrainingPhotos:
    return TrainingPhotos((photo, photo + 128), (), faces=(TrainingFace(1, x, y),), face_share=share)


@pytest.mark.parametrize(("x", "y"), [(30, 20), (0, 0), (49, 39)])
def test_crops_contain_the_centre_of_a_face(x: int, y: int) -> None:
    """Red is the row, green the column, both 128 more in the photo with the face."""
    photos = photos_with_face(gradient(), x, y)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(100):
        crop = photos.crop(rng, 16, largest_shrink=1.0).astype(int) - 128
        top, left = crop[..., 0].min(), crop[..., 1].min()
        assert top <= y < top + 16
        assert left <= x < left + 16
        corners.add((int(top), int(left)))
    assert len(corners) == 1 if x in (0, 49) else len(corners) > 50


def test_share_of_crops_with_faces() -> None:
    """The other crops are of any photo, so half of them are of the photo with the face, too."""
    photos = photos_with_face(gradient(), 25, 20, share=0.6)
    rng = np.random.default_rng(0)
    with_face = [photos.crop(rng, 16)[..., 0].min() >= 128 for _ in range(600)]
    assert np.mean(with_face) == pytest.approx(0.8, abs=0.06)


def test_faces_are_read_from_a_table(folder: Path) -> None:
    rows = [f"{'b' if i % 2 else 'a'}/{i}.png,2,2,6,2,4,4,2,6,6,6" for i in range(9)]
    table = folder / "faces.csv"
    table.write_text("\n".join([",".join(("file", *COLUMNS)), *rows]) + "\n")
    plain = TrainingPhotos.read(folder, held_out=1, at_least_px=4)
    photos = TrainingPhotos.read(folder, held_out=1, at_least_px=4, faces=FaceSettings(str(table), 0.5))
    assert sorted(photos.faces) == [TrainingFace(i, 4, 4) for i in range(8)]  # not in the photo that is held out
    assert photos.face_share == 0.5
    assert photos.digest != plain.digest
    assert (plain.faces, plain.face_share) == ((), 0.0)


def test_table_without_faces_of_the_photos(folder: Path) -> None:
    table = folder / "faces.csv"
    table.write_text(",".join(("file", *COLUMNS)) + "\nother.png,2,2,6,2,4,4,2,6,6,6\n")
    with pytest.raises(TrainingError, match=r"faces\.csv has no face in the .* training photos .* use their table"):
        TrainingPhotos.read(folder, held_out=1, at_least_px=4, faces=FaceSettings(str(table)))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_of_faces_must_be_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="must be a share, 0 to 1"):
        FaceSettings("faces.csv", share)


def test_smooth_crops_are_smoother_and_may_have_grain() -> None:
    """One half of the photo has strong cells of 8 px, the other only noise from pixel to pixel."""
    rng = np.random.default_rng(0)
    cells = np.kron(rng.integers(0, 256, (16, 8, 1), dtype=np.uint8), np.ones((8, 8, 3), np.uint8))
    grain = rng.integers(100, 156, (128, 64, 3), dtype=np.uint8)
    photos = TrainingPhotos((np.concatenate([cells, grain], axis=1),), ())
    crops = [photos.smooth_crop(np.random.default_rng(seed), 32) for seed in range(60)]
    assert np.mean([crop.min() >= 100 and crop.max() < 156 for crop in crops]) > 0.65  # 0.34 without a choice


# --- Images and tensors -----------------------------------------------------------------------------------------


def test_images_to_a_batch_and_back() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8) for i in range(2)]
    batch = to_tensor(images, torch.device("cpu"))
    assert batch.shape == (2, 3, 8, 12)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert all(np.array_equal(a, b) for a, b in zip(to_pixels(batch), images, strict=True))
    assert to_pixels(torch.full((1, 3, 1, 1), 1.7))[0].max() == 255
    assert to_pixels(torch.full((1, 3, 1, 1), -0.2))[0].max() == 0


def test_validation_crops() -> None:
    photo = np.arange(24 * 24 * 3, dtype=np.int64).astype(np.uint8).reshape(24, 24, 3)[:21]
    small, large = TrainingPhotos((), (photo, flat(3, 500, 390))).validation_crops
    assert np.array_equal(small, photo[:16, :24])
    assert large.shape == (384, 384, 3)


def test_downscale_of_a_ramp() -> None:
    """The result is rounded to 8 bits and has the means of 4x4 px; a constant image keeps its colour."""
    ramp = (torch.arange(64.0)[None, None, None, :] * 3 / 255).expand(1, 3, 32, 64)
    small = downscale_4x(ramp)
    assert small.shape == (1, 3, 8, 16)
    assert torch.equal(small * 255, (small * 255).round())
    inner = (small - F.avg_pool2d(ramp, 4))[..., 2:-2].abs().max() * 255
    assert inner <= 0.51
    assert torch.allclose(downscale_4x(torch.full((1, 3, 16, 16), 77 / 255)), torch.tensor(77 / 255))


def test_downscale_equals_pillow() -> None:
    """Pillow's bicubic filter is also Keys' with a = -0.5, widened to the scale."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC)).astype(int)
    found = downscale_4x(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0) * 255
    assert np.abs(found.numpy() - expected).max() <= 1
