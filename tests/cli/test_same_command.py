"""A command that found the disk full works when it is given again, wherever the disk was full."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import DiskFull
from celebahq_builder.models.generator_file import export_generator
from celebahq_builder.models.progan import Architecture, GeneratorNetwork
from tests.disk import failing
from tests.filter.folders import make
from tests.hdf5.pyramids import described_file, noise, tree

COMMANDS = {
    "generate to a folder": "generate RUN --num 3 --out OUT/deep --device cpu",
    "generate to HDF5": "generate RUN --num 3 --out OUT/a.h5 --device cpu",
    "generate a sheet": "generate RUN --grid 2x1 --out OUT/a.png --device cpu",
    "evaluate": "evaluate FILE --metrics ms-ssim --num 3 --json OUT/a.json --out OUT/page --device cpu",
    "audit": "audit FILE --out OUT/page",
    "extract": "extract FILE --index 0:3 --out OUT/deep/er",
    "view": "view FILE --out OUT/sheet.png",
    "view as a page": "view FILE --out OUT/new/sheet.html",
    "export to images": "export FILE --to images --out OUT/a --workers 1",
    "export to tfrecord": "export FILE --to tfrecord --out OUT/a --workers 1",
    "export to zip": "export FILE --to stylegan-zip --out OUT/a.zip --workers 1",
    "export to webdataset": "export FILE --to webdataset --shard 3 --out OUT/a --workers 1",
    "export to parquet": "export FILE --to parquet --shard 3 --out OUT/a --workers 1",
    "import": "import FILE --out OUT/a.h5 --workers 1",
    "filter": "filter PHOTOS --keep 2 --out OUT/best --scores OUT/scores --workers 1",
    "filter to a list": "filter PHOTOS --keep 2 --list OUT/best.csv --scores OUT/scores --workers 1",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(3)
    net = GeneratorNetwork(Architecture(resolution=16, latent=8, channels_base=64, channels_max=8))
    export_generator(folder / "run", net, 4, 1.0, {})
    described_file(folder / "faces.h5", noise(7, 32))
    make(folder / "photos", 3)
    return folder


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_full_disk(command: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the first file, then at the second, and so on, until there is room for all."""

    def run() -> BaseException | None:
        words = command.replace("RUN", f"{inputs}/run").replace("FILE", f"{inputs}/faces.h5")
        words = words.replace("PHOTOS", f"{inputs}/photos").replace("OUT", f"{tmp_path}/out")
        done = CliRunner().invoke(celebahq, words.split())
        return done.exception or (RuntimeError(done.output) if done.exit_code else None)

    (tmp_path / "out").mkdir()
    assert run() is None
    wanted = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for room in range(60):
        left = iter(range(room))
        failing(monkeypatch, errno.ENOSPC, lambda _, left=left: next(left, None) is None)
        ended = run()
        monkeypatch.undo()
        if ended is None:
            break
        assert isinstance(ended, DiskFull), repr(ended)
        assert "run" in str(ended)
        assert "again" in str(ended)
    assert room > 0
    assert ended is None
    found = tree(tmp_path / "out")
    assert found.keys() == wanted.keys()
    assert not [name for name in found if "partial" in name]
    if "filter" not in command:
        assert found == wanted


def test_out_of_space_for_real(inputs: Path, tmp_path: Path) -> None:
    """On a disk of 4 kB, as root."""
    import subprocess

    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        for command in (
            ["generate", inputs / "run", "--num", 9, "--out", place / "made", "--device", "cpu"],
            ["audit", inputs / "faces.h5", "--out", place / "page"],
        ):
            small = CliRunner().invoke(celebahq, list(map(str, command)))
            assert isinstance(small.exception, DiskFull)
            assert list(place.iterdir()) == []
            subprocess.run(["mount", "-o", "remount,size=9m", str(place)], check=True)
            large = CliRunner().invoke(celebahq, list(map(str, command)))
            assert large.exit_code == 0, large.output
            shutil.rmtree(command[-3] if "--device" in command else command[-1])
            subprocess.run(["mount", "-o", "remount,size=4k", str(place)], check=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)
