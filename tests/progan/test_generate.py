"""Generated images depend on seed and number only; generators are read back bit for bit."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import h5py
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from celebahq_builder.cli.main import celebahq
from celebahq_builder.errors import CelebAHQError, FormatError, TrainingError, WeightsError
from celebahq_builder.imaging.image_grid import image_grid, png_bytes, to_rgb
from celebahq_builder.models.generator_file import FORMAT, export_generator, load_generator
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.models.weight_file import read_weights
from celebahq_builder.parallel import peak_memory_bytes
from celebahq_builder.progan.generate import GeneratedImages, generate, generate_images, to_pixels, write_sheet
from celebahq_builder.progan.video import interpolate, training_video, walk
from tests.progan.tiny import NET

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    export_generator(folder, GeneratorNetwork(NET), 3, 0.5, {})
    return folder


def test_a_generator_is_read_back(run: Path) -> None:
    torch.manual_seed(3)
    before = GeneratorNetwork(NET)
    after = load_generator(run, CPU)
    assert (after.level, after.alpha, after.kimg, after.data) == (3, 0.5, None, None)
    z = torch.randn(2, 8)
    assert torch.equal(before(z, 3, 0.5), after.network(z, 3, 0.5))


def test_an_image_depends_on_seed_and_number(run: Path) -> None:
    few, many = GeneratedImages(run, 70, 1, CPU), GeneratedImages(run, 130, 1, CPU)
    first = {one.name: one.pixels for one in few.images()}
    second = {one.name: one.pixels for one in many.images()}
    assert len(first) == 70
    assert sorted(second) == [f"{i:06d}" for i in range(130)]
    for name in sorted(first.keys() & second.keys()):
        assert np.abs(first[name].astype(int) - second[name]).max() <= 1  # sums differ with the size of a batch
    other = next(GeneratedImages(run, 1, 2, CPU).images()).pixels
    assert not np.array_equal(other, first["000000"])
    assert other.shape == (3, 8, 8)


def test_files_sheet_and_hdf5_have_the_same_images(run: Path, tmp_path: Path) -> None:
    images = GeneratedImages(run, 6, 0, CPU)
    made = np.stack([one.pixels for one in images.images()])
    generate(images, tmp_path / "png", lambda _: None)
    read = [cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1) for path in sorted((tmp_path / "png").iterdir())]
    assert np.array_equal(np.stack(read), made)
    generate(images, tmp_path / "made.h5", lambda _: None)
    with h5py.File(tmp_path / "made.h5") as file:
        assert np.array_equal(file["data8x8"][:], made)
    write_sheet(images, 3, tmp_path / "sheet.png")
    page = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert page.shape == (16, 24, 3)
    assert np.array_equal(page[8:, 16:], made[5].transpose(1, 2, 0))
    for out in (tmp_path / "png", tmp_path / "made.h5"):
        with pytest.raises(FormatError, match="exist"):
            generate(images, out, lambda _: None)


def test_an_interrupted_file_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """Also after an interruption within a block of latents; the same command then starts again."""
    images = GeneratedImages(run, 600, 0, CPU)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.h5.partial").write_text("theirs")
    with pytest.raises(KeyboardInterrupt):
        generate(images, tmp_path / "a.h5", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.partial"]
    generate(images, tmp_path / "a.h5", lambda _: None)
    generate(images, tmp_path / "whole.h5", lambda _: None)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert (tmp_path / "a.h5.partial").read_text() == "theirs"


def test_videos_do_not_replace_files(run: Path, tmp_path: Path) -> None:
    generator = load_generator(run, CPU)
    (tmp_path / "walk.partial.mp4").write_text("theirs")
    interpolate(generator, tmp_path / "walk.mp4", seconds=0.2, fps=5)
    assert (tmp_path / "walk.partial.mp4").read_text() == "theirs"
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(FormatError, match=r"link\.mp4 exists and is not overwritten"):
        interpolate(generator, tmp_path / "link.mp4", seconds=0.2, fps=5)
    with pytest.raises(FormatError, match="cannot be written: File exists; choose another `out`"):
        interpolate(generator, tmp_path / "walk.mp4" / "a.mp4", seconds=0.2, fps=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.mp4", "walk.mp4", "walk.partial.mp4"]


def test_to_pixels() -> None:
    values = torch.tensor([-2.0, -1.0, -0.999, 0.0, 1.0, 3.0])
    assert to_pixels(values).tolist() == [0, 0, 0, 128, 255, 255]


def test_a_walk_is_a_smooth_loop() -> None:
    z = walk(32, 120, 2, 10.0, 0)
    assert z.shape == (120, 2, 32)
    np.testing.assert_allclose(np.square(z).mean(axis=2), 1, rtol=1e-5)
    steps = np.linalg.norm(np.roll(z, -1, axis=0) - z, axis=2)
    assert steps[-1].max() < 2 * steps[:-1].max()
    assert steps.max() < 0.25 * np.sqrt(2 * 32)  # random vectors would be sqrt(2 n) apart
    assert np.linalg.norm(z[0] - z[60]) > 4


def test_videos(run: Path, tmp_path: Path) -> None:
    generator = load_generator(run, CPU)
    interpolate(generator, tmp_path / "walk.mp4", seconds=1, fps=12, columns=3, rows=2)
    frames, size = probe(tmp_path / "walk.mp4")
    assert (frames, size) == (12, (24, 16))
    for i, side in ((0, 32), (5, 65)):
        (tmp_path / f"fakes-{i:06d}.png").write_bytes(png_bytes(np.full((3, side, side), 200, np.uint8)))
    training_video(tmp_path, tmp_path / "training.mp4", fps=2)
    assert probe(tmp_path / "training.mp4") == (2, (66, 66))
    with pytest.raises(FormatError, match="exists"):
        training_video(tmp_path, tmp_path / "training.mp4")
    with pytest.raises(TrainingError, match="has no fakes"):
        training_video(run, tmp_path / "none.mp4")
    assert not list(tmp_path.glob("*partial*"))


def probe(path: Path) -> tuple[int, tuple[int, int]]:
    """Return frames and size of an H.264 video, by decoding it."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    message = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True, check=False).stderr
    found = re.search(r"Video: h264.* (\d+)x(\d+)[, ]", message)
    assert found, message
    size = (int(found[1]), int(found[2]))
    raw = [ffmpeg, "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(raw, capture_output=True, check=True).stdout
    return len(decoded) // (3 * size[0] * size[1]), size


def test_a_walk_uses_alpha_and_labels(tmp_path: Path) -> None:
    """A level that fades in is blended with weight alpha; the walks have one label after the other."""
    torch.manual_seed(3)
    generator = GeneratorNetwork(replace(NET, labels=2))
    with torch.no_grad():
        generator.to_rgb[2].bias.fill_(100.0)  # white with alpha 1
    for run, alpha in (("begun", 0.0), ("done", 1.0)):
        export_generator(tmp_path / run, generator, 4, alpha, {})
        made = CliRunner().invoke(
            celebahq,
            ["interpolate", str(tmp_path / run), "--seconds", "0.2", "--fps", "5", "--grid", "2x2"]
            + ["--out", str(tmp_path / f"{run}.mp4")],
        )
        assert made.exit_code == 0, made.output
    video = cv2.VideoCapture(str(tmp_path / "begun.mp4"))
    _, frame = video.read()
    z = torch.from_numpy(walk(8, 1, 4, 5.0, 0)[0])
    labels = torch.eye(2)[[0, 1, 0, 1]]
    shown = to_rgb(image_grid(generate_images(generator, z, 4, 0.0, labels), 2))
    assert frame.shape == shown.shape == (32, 32, 3)
    assert np.abs(frame[..., ::-1].astype(float) - shown).mean() < 12  # the video has colours at half the resolution
    _, white = cv2.VideoCapture(str(tmp_path / "done.mp4")).read()
    assert white.mean() > 250


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_when_it_is_complete(there: bool, run: Path, tmp_path: Path) -> None:
    """After a kill, the same command starts again; an empty folder may have the name."""
    out = tmp_path / "png"
    if there:
        out.mkdir()
    made = []

    def stop(_: int) -> None:
        made.append(sorted(path.name for path in tmp_path.rglob("*.png")))
        if len(made) == 3:
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        generate(GeneratedImages(run, 9, 1, CPU), out, stop)
    assert len(made[-1]) == 3
    assert not list(out.glob("*"))
    images = GeneratedImages(run, 6, 0, CPU)  # another seed: nothing of the first command is kept
    generate(images, out, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["png"]
    read = [cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1) for path in sorted(out.iterdir())]
    assert np.array_equal(np.stack(read), np.stack([one.pixels for one in images.images()]))


def test_killed_after_the_folder_has_its_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command deletes the staging folder that the killed one has left, and refuses to replace the images."""
    rename, images = Path.rename, GeneratedImages(run, 2, 0, CPU)

    def rename_and_end(path: Path, target: Path) -> Path:
        rename(path, target)
        raise SystemExit(1)

    monkeypatch.setattr(Path, "rename", rename_and_end)
    with pytest.raises(SystemExit):
        generate(images, tmp_path / "png", lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["png", "png.partial"]
    with pytest.raises(FormatError, match="png exists and is not overwritten"):
        generate(images, tmp_path / "png", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["png"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--grid", "2x2", "--num", "3", "--out", "a.png"], "--grid 2x2 sets the number of images; leave out --num"),
        (["--grid", "2x2", "--out", "a.jpg"], "a.jpg: an image grid is a PNG file; choose FILE.png as --out"),
        (["--out", "a.png"], "a.png: expected a folder or FILE.h5; for all images in one PNG file, set --grid"),
    ],
)
def test_names_that_do_not_fit(
    asked: list[str], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(celebahq, ["generate", str(run), *asked])
    assert message in done.output + str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_commands(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(celebahq, ["generate", str(run), "--grid", "2x2", "--out", str(tmp_path / "a.png")])
    assert made.exit_code == 0, made.output
    assert made.output == f"4 images of 8x8\nimage: {tmp_path / 'a.png'}\n"
    wrong = runner.invoke(celebahq, ["generate", str(run), "--grid", "15", "--out", str(tmp_path / "b.png")])
    assert "'15' is not COLUMNSxROWS, such as 15x8" in wrong.output


@pytest.mark.parametrize("make", ["missing", "text", "other", "version"])
def test_files_that_are_not_generators(make: str, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    if make == "text":
        path.write_text("no tensors")
    elif make == "version":
        facts = {"format": FORMAT, "architecture": {"resolution": 16, "unknown": 1}, "level": 4, "alpha": 1.0}
        save_file({"x": torch.zeros(1)}, path, {"progan": json.dumps(facts)})
    elif make == "other":
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=str(path)) as raised:
        load_generator(tmp_path, CPU)
    assert isinstance(raised.value, CelebAHQError)
    assert "\n" not in str(raised.value)


ARCHITECTURE = asdict(NET)


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": {**ARCHITECTURE, "latent": 16_000, "channels_max": 16_000, "channels_base": 10**6}},
        {"architecture": {**ARCHITECTURE, "latent": 10**18}},
        {"architecture": {**ARCHITECTURE, "latent": "8"}},
        {"architecture": [1]},
        {"architecture": None},
        {"level": 40},
        {"level": 1},
        {"level": 10**400},
        {"alpha": 1e30},
        {"alpha": float("nan")},
        {"kimg": [1] * 10},
        {"data": "text"},
    ],
)
def test_facts_that_are_not_those_of_the_tensors(changed: dict[str, object], run: Path, tmp_path: Path) -> None:
    """They are refused before memory is taken for the network that they describe."""
    metadata, tensors = read_weights(run / "generator.safetensors", "")
    facts = {**json.loads(metadata["progan"]), **changed}
    path = tmp_path / "generator.safetensors"
    save_file(tensors, path, {"progan": json.dumps(facts)})
    before = peak_memory_bytes()
    with pytest.raises(WeightsError, match="was written by another version, or changed") as raised:
        load_generator(path, CPU)
    assert "\n" not in str(raised.value)
    assert peak_memory_bytes() - before < 200_000_000


@pytest.mark.parametrize("kind", ["long header", "deep facts", "pipe", "folder", "sparse"])
def test_files_that_would_take_all_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    if kind == "long header":
        path.write_bytes((2**21).to_bytes(8, "little") + b" " * 2**21)
    elif kind == "deep facts":
        save_file({"x": torch.zeros(1)}, path, {"progan": "[" * 100_000})
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        header = b'{"x":{"dtype":"F32","shape":[10000000000],"data_offsets":[0,40000000000]}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(path, 8 + len(header) + 40 * 10**9)
    with pytest.raises(WeightsError) as raised:
        load_generator(path, CPU)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_changed_bit(run: Path, tmp_path: Path) -> None:
    """The file has the same length, and all tensors can be read."""
    data = bytearray((run / "generator.safetensors").read_bytes())
    data[-2] ^= 0x40
    (tmp_path / "generator.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"generator\.safetensors is damaged: its tensors are not those"):
        load_generator(tmp_path, CPU)


def test_one_label_of_several(tmp_path: Path) -> None:
    """All images have that label; an unknown label is refused."""
    architecture = replace(NET, labels=3)
    export_generator(tmp_path, GeneratorNetwork(architecture), 4, 1.0, {})
    every, one = GeneratedImages(tmp_path, 7, 0, CPU), GeneratedImages(tmp_path, 7, 0, CPU, label=1)
    assert every.labels.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert one.labels.argmax(1).tolist() == [1] * 7
    same = [np.array_equal(a.pixels, b.pixels) for a, b in zip(every.images(), one.images(), strict=True)]
    assert same == [False, True, False, False, True, False, False]
    with pytest.raises(WeightsError, match="label 3 does not exist: the generator was trained with labels 0 to 2"):
        GeneratedImages(tmp_path, 7, 0, CPU, label=3)
    export_generator(tmp_path, GeneratorNetwork(NET), 4, 1.0, {})
    with pytest.raises(WeightsError, match="with no labels"):
        GeneratedImages(tmp_path, 7, 0, CPU, label=0)


def test_sigterm_ends_with_one_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "fakes"
    words = ["generate", str(run), "--num", "1000000", "--device", "cpu", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "celebahq_builder", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not any(tmp_path.glob("*.partial/data/*.png")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.terminate()
        output, message = process.communicate(timeout=60)
    assert (process.returncode, output) == (143, ""), message
    assert message.splitlines()[-1] == (
        "interrupted by SIGTERM; run the same command again; it starts from the beginning"
    )
    assert not out.exists()


@pytest.mark.parametrize(("command", "out"), [("generate", "grid.png"), ("interpolate", "walk.mp4")])
def test_a_grid_that_no_machine_holds(command: str, out: str, run: Path, tmp_path: Path) -> None:
    words = [command, str(run), "--grid", "100000x100", "--device", "cpu", "--out", str(tmp_path / out)]
    ended = CliRunner().invoke(celebahq, words)
    assert str(ended.exception) == (
        "--grid 100000x100 of images of 8x8 has 640,000,000 pixels; choose a grid of at most 100,000,000"
    )
    assert list(tmp_path.iterdir()) == []
