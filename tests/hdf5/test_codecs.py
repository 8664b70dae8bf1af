"""Codecs and HDF5's own filters read each other's chunks."""

import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.codecs import Codec, codec, codec_of

CODECS = [("gzip", 0), *(("gzip", level) for level in range(1, 10)), ("none", 0), ("blosc2", 0), ("blosc2", 5)]
SHAPES = [(1, 3, 128, 128), (4, 3, 16, 16), (64, 1, 1, 1), (1, 1, 1, 1)]


def smooth(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.cumsum(np.random.default_rng(0).integers(-1, 2, shape), axis=-1).astype(np.uint8)


def noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(params=CODECS, ids=lambda one: f"{one[0]}-{one[1]}")
def any_codec(request: pytest.FixtureRequest) -> Codec:
    return codec(*request.param)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("content", [smooth, noise, np.zeros])
def test_hdf5_and_codec_read_each_other(
    any_codec: Codec, shape: tuple[int, ...], content: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    chunk = np.asarray(content(shape), np.uint8)
    packed = any_codec.compress(chunk)
    np.testing.assert_array_equal(any_codec.decompress(packed, shape), chunk)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        ours = file.create_dataset("ours", shape=shape, chunks=shape, dtype=np.uint8, **any_codec.keywords)
        ours.id.write_direct_chunk((0, 0, 0, 0), packed)
        theirs = file.create_dataset("theirs", data=chunk, chunks=shape, **any_codec.keywords)
    with h5py.File(tmp_path / "data.h5") as file:
        ours, theirs = file["ours"], file["theirs"]
        np.testing.assert_array_equal(ours[...], chunk)
        assert codec_of(ours).name == any_codec.name
        mask, stored = theirs.id.read_direct_chunk((0, 0, 0, 0))
        assert mask == 0
        np.testing.assert_array_equal(codec_of(theirs).decompress(stored, shape), chunk)


def test_chunk_that_is_not_contiguous(any_codec: Codec) -> None:
    chunk = smooth((1, 4, 8, 8))[:, ::-1, :, ::2]
    np.testing.assert_array_equal(any_codec.decompress(any_codec.compress(chunk), chunk.shape), chunk)


def test_levels_equal_zlib() -> None:
    chunk = smooth((1, 3, 64, 64))
    assert [zlib.compress(chunk.tobytes(), level) for level in range(1, 10)] == [
        codec("gzip", level).compress(chunk) for level in range(1, 10)
    ]


def test_fast_gzip_is_little_larger(shared: Path) -> None:
    """One real face; ``benchmarks/pack.py`` measures many."""
    from celebahq_builder.imaging.image_io import open_rgb, pil_to_array

    face = next((shared / "data" / "celebahq_1024").glob("*.jpg"))
    pixels = pil_to_array(open_rgb(face.read_bytes(), 1 << 24)[0])
    assert len(codec("gzip").compress(pixels)) < 1.12 * len(codec("gzip", 4).compress(pixels))


def test_many_threads_at_once() -> None:
    blosc2, chunks, found = codec("blosc2"), [noise((1, 3, 64, 64)) ^ i for i in range(8)], {}

    def there_and_back(i: int) -> None:
        for _ in range(5):
            found[i] = blosc2.decompress(blosc2.compress(chunks[i]), chunks[i].shape)

    threads = [threading.Thread(target=there_and_back, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], chunks[i]) for i in range(8))


def test_damaged_chunks() -> None:
    chunk = smooth((1, 3, 32, 32))
    for name in ("gzip", "blosc2"):
        packed = codec(name).compress(chunk)
        with pytest.raises(FormatError, match=f"(?i)a {name} chunk of .* is damaged"):
            codec(name).decompress(packed[: len(packed) // 2], chunk.shape)
        with pytest.raises(FormatError, match=f"(?i)a {name} chunk of .* is damaged"):
            codec(name).decompress(b"\0" * 100, chunk.shape)
    with pytest.raises(FormatError, match="a none chunk has 3072 bytes, expected 768 of shape"):
        codec("none").decompress(codec("none").compress(chunk), (1, 3, 16, 16))
    with pytest.raises(FormatError, match="a gzip chunk of .* holds more than 768 of shape"):
        codec("gzip").decompress(codec("gzip").compress(chunk), (1, 3, 16, 16))
    with pytest.raises(FormatError, match="a gzip chunk has 3072 bytes, expected 12288 of shape"):
        codec("gzip").decompress(codec("gzip").compress(chunk), (1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("lzf", 0, "compression 'lzf' is none of gzip, none, blosc2"),
        ("gzip", 10, "compression level 10 must be 1"),
        ("blosc2", -1, "compression level -1 must be 1"),
        ("none", 3, "compression none has no levels"),
    ],
)
def test_unknown_codec_or_level(name: str, level: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        codec(name, level)


@pytest.mark.parametrize("how", [{"compression": "lzf"}, {"compression": "gzip", "shuffle": True}], ids=str)
def test_no_codec_for_other_filters(how: dict[str, object], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        assert codec_of(file.create_dataset("data8x8", data=smooth((2, 3, 8, 8)), chunks=(1, 3, 8, 8), **how)) is None


def test_without_the_package_of_blosc2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(FormatError, match=r"needs the package hdf5plugin: pip install '.\[blosc2\]'"):
        codec("blosc2")


def test_gzip_needs_no_plugin() -> None:
    """hdf5plugin is loaded only for Blosc2, so that a broken plugin does not matter to others."""
    code = "import sys; from celebahq_builder.hdf5.codecs import codec; codec('gzip'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hdf5plugin" not in done.stdout
