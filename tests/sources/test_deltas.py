"""Official deltas: reading, and the rejection of a photo whose delta cannot be read."""

import base64
import bz2
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from celebahq_builder.errors import SourceError
from celebahq_builder.outcome import Reason, Rejection
from celebahq_builder.sources.official import archives, member_name, photo_key, read_delta, zip_name

KEY = Fernet.generate_key()
SIDE = 16
DELTA = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
GOOD = Fernet(KEY).encrypt(bz2.compress(DELTA.tobytes()))


def put(folder: Path, data: bytes, index: int = 1042) -> Path:
    path = folder / zip_name(index)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member_name(index), data)
    return path


def refused(folder: Path, index: int = 1042, key: bytes = KEY) -> Rejection:
    with pytest.raises(Rejection) as caught:
        read_delta(folder, index, key, SIDE)
    assert "\n" not in caught.value.detail
    return caught.value


def test_names() -> None:
    assert [zip_name(i) for i in (0, 999, 1000, 29999)] == [f"deltas{n:05d}.zip" for n in (0, 0, 1000, 29000)]
    assert member_name(42) == "delta00042.dat"


def test_key_equals_that_of_another_implementation() -> None:
    data = bytes(range(256)) * 40
    derived = PBKDF2HMAC(SHA256(), 32, b"000001.jpg", 100_000).derive(data)
    assert photo_key(data, "000001.jpg") == base64.urlsafe_b64encode(derived)
    assert photo_key(data, "000002.jpg") != photo_key(data, "000001.jpg") != photo_key(data[1:], "000001.jpg")


@pytest.mark.parametrize("index", [0, 999, 1042, 29999])
def test_encrypted_delta_is_read_back(index: int, tmp_path: Path) -> None:
    put(tmp_path, GOOD, index)
    put(tmp_path, b"another", index - 1 if index % 1000 else index + 1)
    delta = read_delta(tmp_path, index, KEY, SIDE)
    assert delta.dtype == np.uint8
    np.testing.assert_array_equal(delta, DELTA)


def test_another_key(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    rejection = refused(tmp_path, key=Fernet.generate_key())
    assert rejection.reason is Reason.DELTA_UNREADABLE
    assert "the photo's bytes do not open delta01042.dat; the photo is not the original file" in rejection.detail


def test_missing_archive_or_member(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    assert refused(tmp_path, 1043).reason is Reason.DELTA_MISSING
    assert "deltas01000.zip has no delta01043.dat" in refused(tmp_path, 1043).detail
    assert refused(tmp_path, 42).reason is Reason.DELTA_MISSING
    assert "deltas00000.zip is not in the folder of deltas" in refused(tmp_path, 42).detail
    with pytest.raises(SourceError, match=r"the folder of deltas .*gone is gone; bring it back"):
        read_delta(tmp_path / "gone", 42, KEY, SIDE)


@pytest.mark.parametrize("length", [0, 10, 300, -1])
def test_a_truncated_archive(length: int, tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    path.write_bytes(path.read_bytes()[:length])
    rejection = refused(tmp_path)
    assert rejection.reason is Reason.DELTA_UNREADABLE
    assert "bytes, is damaged or cut short" in rejection.detail
    assert rejection.detail.endswith("download it again")


def test_a_damaged_member(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refused(tmp_path).reason is Reason.DELTA_UNREADABLE


@pytest.mark.parametrize(
    "inside",
    [
        b"not bz2",
        bz2.compress(b"short"),
        bz2.compress(DELTA.tobytes() + b"x"),
        bz2.compress(DELTA.tobytes())[:-4],
        bz2.compress(bytes(1_000_000)),
    ],
    ids=["no bz2", "short", "long", "cut short", "bomb"],
)
def test_encrypted_content_that_is_not_a_delta(inside: bytes, tmp_path: Path) -> None:
    put(tmp_path, Fernet(KEY).encrypt(inside))
    rejection = refused(tmp_path)
    assert rejection.reason is Reason.DELTA_UNREADABLE
    assert "does not unpack to the 768 bytes of 3 x 16 x 16" in rejection.detail


def test_member_of_too_large_a_size_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deltas01000.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("delta01042.dat", bytes(20_000_000))
    rejection = refused(tmp_path)
    assert rejection.reason is Reason.DELTA_UNREADABLE
    assert "claims 20000000 bytes" in rejection.detail


def test_folder_of_archives(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"`deltas` .*none is not a folder; expected one that holds deltas00000\.zip"):
        archives(tmp_path / "none")
    (tmp_path / "deltas.zip").touch()
    with pytest.raises(SourceError, match=r"holds none of deltas00000\.zip, .*; it has deltas\.zip"):
        archives(tmp_path)
    paths = [put(tmp_path, GOOD, index) for index in (2000, 0)]
    assert archives(tmp_path) == tuple(reversed(paths))


def test_size_of_a_real_delta_is_well_within_the_limit() -> None:
    """Fernet's base64 makes 4 bytes of 3, and bz2 of noise gains little."""
    side = 256
    noise = np.random.default_rng(1).integers(0, 256, 3 * side * side, dtype=np.uint8).tobytes()
    assert len(Fernet(KEY).encrypt(bz2.compress(noise))) < 1.5 * len(noise)
