"""The fuzzer: equal seeds give equal inputs, mutations keep what they promise, and faults are noticed."""

import io
import os
import signal
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import samples
from benchmarks.fuzz.__main__ import Fuzzer
from benchmarks.fuzz.byte_mutations import BYTES, TEXT
from benchmarks.fuzz.file_mutations import mutate_folder
from benchmarks.fuzz.structured import mutate, png, tar_archive, zip_archive
from benchmarks.fuzz.targets import TARGETS, Target
from benchmarks.fuzz.worker import Worker
from celebahq_builder.cli import celebahq
from celebahq_builder.formats import MODULES

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, if there are threads

PNG = samples.encoded(samples.pixels(0))


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mutation", [*BYTES, *TEXT], ids=lambda one: one.__name__)
def test_mutations_are_functions_of_the_seed(mutation: Callable[[bytes, Random], bytes]) -> None:
    data = b'{"name": "a", "number": 12}\n' * 40
    changed = [mutation(data, Random(seed)) for seed in range(10)]
    assert changed == [mutation(data, Random(seed)) for seed in range(10)]
    assert any(one != data for one in changed)
    for seed in range(10):
        mutation(b"", Random(seed))


def test_same_seed_same_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        samples.image_folder(tmp_path / name)
    said = [mutate_folder(tmp_path / name, ("**/*",), Random(seed)) for name, seed in (("a", 2), ("b", 2), ("c", 3))]
    assert said[0] == said[1] != said[2]
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def test_changed_png_has_valid_check_sums() -> None:
    for seed in range(40):
        data, at = png(PNG, Random(seed)), 8
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            kind_and_data = data[at + 4 : at + 8 + length]
            assert int.from_bytes(data[at + 8 + length : at + 12 + length], "big") == zlib.crc32(kind_and_data)
            at += 12 + length
        assert at == len(data) > 8


def test_changed_archives_are_archives() -> None:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive, tarfile.open(fileobj=tarred, mode="w") as tar:
        for name in ("a.png", "b.png", "c.json"):
            archive.writestr(name, PNG)
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
    opened = 0
    for seed in range(10):
        assert zipfile.is_zipfile(io.BytesIO(zip_archive(zipped.getvalue(), Random(seed))))
        opened += tarfile.is_tarfile(io.BytesIO(tar_archive(tarred.getvalue(), Random(seed))))
    assert opened > 5
    assert mutate("x.zip", zipped.getvalue(), Random(0)) == mutate("x.zip", zipped.getvalue(), Random(0))


def test_every_format_and_every_reading_command_is_a_target() -> None:
    words = {word for target in TARGETS for command in target.commands for word in command.split()}
    names = {target.name.partition("-")[0] for target in TARGETS}
    assert {module.partition("_")[0] for module in MODULES} <= names
    without = {"interpolate", "training-video", "train-upscaler"}
    if not samples.FACE_MODEL.exists():  # a download
        without.add("landmarks")
    assert set(celebahq.commands) - without <= words


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    case = tmp_path / "case"
    for name in ("in", "out"):
        (case / name).mkdir(parents=True)
    return Worker(case)


def observed(worker: Worker, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[], None]) -> tuple[str, str, str]:
    """Run a command that behaves in a way."""

    def inspect(_: Path) -> list[str]:
        behaviour()
        return []

    monkeypatch.setattr("celebahq_builder.inspect.info.inspect_hdf5", inspect)
    result = worker.run([["inspect", "x.h5"]])
    worker.close()
    return result.outcome, result.kind, result.where


def test_accepted_and_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.run([["inspect", str(worker.case / "missing.h5")]]).outcome == "refused"
    assert worker.run([["frobnicate"]]).outcome == "refused"
    worker.close()
    assert observed(worker, monkeypatch, lambda: None) == ("accepted", "", "")


def test_faults_are_noticed(worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def traceback() -> None:
        raise KeyError("x")

    def escape() -> None:
        os.write(1, b"\x1b[31m")  # as a library may, past the stream that escapes

    def grow() -> None:
        assert any(bytearray(1 << 29)) is False

    def write_outside() -> None:
        (tmp_path / "outside").write_bytes(b"")

    monkeypatch.setattr("benchmarks.fuzz.worker.LIMIT_BYTES", 1 << 28)
    assert observed(worker, monkeypatch, traceback)[:2] == ("fault", "traceback")
    assert observed(worker, monkeypatch, escape)[:2] == ("fault", "words")
    assert observed(worker, monkeypatch, grow)[:2] == ("fault", "memory")
    assert observed(worker, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGSEGV))[:2] == ("fault", "killed")
    assert observed(worker, monkeypatch, write_outside)[:2] == ("fault", "lost")


def test_waiting_for_ever_is_a_hang(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fuzz.worker.LIMIT_S", 0.5)
    assert observed(worker, monkeypatch, lambda: time.sleep(100))[:2] == ("fault", "hang")


def test_faulty_inputs_are_kept_with_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> list[str]:
        raise KeyError("x")

    monkeypatch.setattr("celebahq_builder.inspect.info.inspect_hdf5", broken)
    target = Target("images", samples.image_folder, ("**/*",), ("inspect IN/data.h5",))
    fuzzer = Fuzzer([target], 0, tmp_path / "out", tmp_path / "work")
    fuzzer.run(60, 2)
    fuzzer.worker.close()
    [(kind, where, target_name)] = fuzzer.faults
    assert (kind, target_name) == ("traceback", "images")
    assert where.startswith("KeyError in ")
    kept = sorted(path.name for path in (tmp_path / "out" / "faults").iterdir())
    assert kept == ["images-000000", "images-000001"]
    assert {path.name for path in (tmp_path / "out" / "faults" / kept[0]).iterdir()} == {"fault.json", "in"}
