"""Good inputs, which the fuzzer mutates: small data sets of every format, runs, recipes, tables.

They are written by the commands of the package, or by libraries; the bytes depend on nothing but the versions.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests" / "sample" / "celeba"
IMAGES = 5
SIDE_PX = 16

BUILD_RECIPE = """resolution = 64
[crop]
context_px = 16
[select]
keep = 2
"""

TRAINING_RECIPE = """task = "progan"
seed = 1
[net]
resolution = 16
latent = 8
channels_base = 64
channels_max = 8
[schedule]
total_kimg = 0.064
train_kimg = 0.016
fade_kimg = 0.016
minibatch = 4
[tick]
kimg = 0.016
checkpoint_ticks = 1
grid_ticks = 2
grid = [3, 2]
"""

LANDMARK_RECIPE = """task = "landmarks"
steps = 3
batch = 2
held_out = 1
validate_every = 2
bf16 = false
[net]
architecture = "landmarks"
widths = [8, 8, 8]
blocks = [1, 1, 1]
"""

DENOISER_RECIPE = """task = "denoise"
learning_rate = 8e-4
held_out = 1
validate_every = 2
bf16 = false
[net]
architecture = "autoencoder"
widths = [4, 6, 8]
blocks = [1, 1, 1]
[[phases]]
steps = 4
patch_px = 16
batch = 1
"""


def celebahq(*arguments: object) -> None:
    """Run a command of the package in a forked process, which has the package imported already.

    Raises:
        SystemExit: it fails.
    """
    from celebahq_builder.cli import celebahq as group
    from celebahq_builder.cli import run_command

    words = ["celebahq", *map(str, arguments)]
    sys.stdout.flush()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            sys.argv = words
            status = 70
            try:
                run_command(group)
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        if status:
            sys.exit(f"{' '.join(words)} ended with {status}:\n{said.read().decode(errors='replace')}")


def pixels(number: int, width: int = SIDE_PX, height: int = SIDE_PX) -> np.ndarray:
    """Return a smooth random image, uint8 [height, width, 3]."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def image_folder(folder: Path) -> None:
    """Write PNG files with metadata and attributes."""
    lines = []
    for i in range(IMAGES):
        name = f"{'ab'[i % 2]}/{i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels(i)))
        lines.append(json.dumps({"file_name": name, "id": f"id{i}", "score": i / 10, "split": "train"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def image_kinds(folder: Path) -> None:
    """Write one image of each kind, of several modes and sizes."""
    folder.mkdir(parents=True)
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}
    for i, (suffix, kind) in enumerate(kinds.items()):
        (folder / f"{i}.{suffix}").write_bytes(encoded(pixels(i, 40 + i, 50), kind))
    rgba = np.dstack([pixels(7), np.full((SIDE_PX, SIDE_PX, 1), 255, np.uint8)])
    (folder / "rgba.png").write_bytes(encoded(rgba))
    (folder / "grey.png").write_bytes(encoded(pixels(8)[..., 0]))
    (folder / "deep.png").write_bytes(encoded(pixels(9)[..., 0].astype(np.uint16) * 257))
    Image.fromarray(pixels(10)).quantize(16).save(folder / "palette.png")
    Image.fromarray(pixels(11)).convert("CMYK").save(folder / "cmyk.tiff", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(12, 30, 40)).save(folder / "turned.jpg", exif=exif, progressive=True)


def labelled_folder(folder: Path) -> None:
    """Write a folder with StyleGAN's dataset.json, and one with a metadata.csv."""
    for kind in ("json", "csv"):
        for i in range(IMAGES):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{i}.png").write_bytes(encoded(pixels(i)))
    labels = {"labels": [[f"{i}.png", i % 3] for i in range(IMAGES)]}
    (folder / "json" / "dataset.json").write_text(json.dumps(labels))
    with (folder / "csv" / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "smiling", "score"])
        rows.writerows([f"{i}.png", i % 2, bool(i % 2), i / 7] for i in range(IMAGES))


def hdf5_file(folder: Path) -> None:
    """Write an HDF5 file with labels and metadata."""
    images = folder.parent / "images-for-hdf5"
    image_folder(images)
    folder.mkdir(parents=True)
    celebahq("import", images, "--out", folder / "data.h5", "--workers", 1)
    shutil.rmtree(images)
    labels = np.eye(3, dtype=np.float32)[np.arange(IMAGES) % 3]
    np.save(folder / "data-labels.npy", labels)


def theano_file(folder: Path) -> None:
    """Write a file as the ProGAN authors' Theano tool did: one contiguous dataset per level."""
    import h5py

    folder.mkdir(parents=True)
    with h5py.File(folder / "theano.h5", "w") as file:
        for r in (16, 8, 4):
            level = np.stack([pixels(i, r, r).transpose(2, 0, 1) for i in range(IMAGES)])
            file.create_dataset(f"data{r}x{r}", data=level, chunks=None)


def exported(folder: Path, kind: str) -> None:
    """Write a data set in a format that the package exports."""
    source = folder.parent / f"for-{kind}"
    hdf5_file(source)
    folder.mkdir(parents=True)
    out = folder / ("data.zip" if kind == "stylegan-zip" else "data")
    shard = ("--shard", 3) if kind in ("webdataset", "parquet") else ()
    celebahq("export", source / "data.h5", "--to", kind, "--out", out, "--workers", 1, *shard)
    shutil.rmtree(source)


def cifar_python(folder: Path) -> None:
    """Write CIFAR-10, Python version."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate((*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")):
        batch = {
            b"batch_label": b"batch",
            b"labels": rng.integers(0, 10, 3).tolist(),
            b"data": rng.integers(0, 256, (3, 3072), dtype=np.uint8),
            b"filenames": [b"%d_%d.png" % (i, k) for k in range(3)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"num_cases_per_batch": 3, b"label_names": [b"class%d" % k for k in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def cifar_binary(folder: Path) -> None:
    """Write CIFAR-10, binary version."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (3, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class{k}\n" for k in range(10)))


def cifar_archive(folder: Path) -> None:
    """Write CIFAR-10 as the archive that is distributed."""
    cifar_python(folder / "cifar-10-batches-py")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder / "cifar-10-batches-py", "cifar-10-batches-py", filter=_plain)
    (folder / "cifar-10-python.tar.gz").write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    shutil.rmtree(folder / "cifar-10-batches-py")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    return member


def mnist(folder: Path) -> None:
    """Write MNIST's four files, two of them compressed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, IMAGES, 28, 28) + rng.bytes(IMAGES * 784)
        labels = struct.pack(">II", 2049, IMAGES) + bytes(i % 10 for i in range(IMAGES))
        for name, data in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if part == "train":
                (folder / name).write_bytes(data)
            else:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))


def lsun(folder: Path) -> None:
    """Write an LMDB of WebP images."""
    import lmdb

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for i in range(IMAGES):
            transaction.put(f"{i * 7919:040x}".encode(), encoded(pixels(i, 60 + i, 50), "WEBP"))


def photos(folder: Path) -> None:
    """Write photos with landmarks, in CelebA's layout and as a table of commas, and a recipe."""
    shutil.copytree(SAMPLE, folder / "celeba")
    for path in sorted((folder / "celeba" / "img_celeba").iterdir())[3:]:
        path.unlink()
    for table in sorted((folder / "celeba").rglob("*.txt")):
        lines = table.read_text().splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("000001"))
        head = ["3", *lines[1:first]] if first else []
        table.write_text("\n".join([*head, *lines[first : first + 3]]) + "\n")
    landmarks = (folder / "celeba" / "Anno" / "list_landmarks_celeba.txt").read_text().splitlines()
    names = ",".join(landmarks[1].split())
    rows = "\n".join(",".join(line.split()) for line in landmarks[2:])
    (folder / "landmarks.csv").write_text(f"file,{names}\n{rows}\n")
    (folder / "recipe.toml").write_text(BUILD_RECIPE)
    (folder / "ids.txt").write_text("000001\n000003.jpg\n")


def foreign_landmarks(folder: Path) -> None:
    """Write photos, and their landmarks as JSON of five points, as .pts files and as a table of 68 points."""
    photos(folder)
    lines = (folder / "landmarks.csv").read_text().splitlines()[1:]
    names = [f"{axis}_{point}" for point in range(68) for axis in "xy"]
    faces, kps, rows = {}, [], [f"file,{','.join(names)}"]
    keys = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
    for line in lines:
        file, *cells = line.split(",")
        five = [[float(x), float(y)] for x, y in zip(cells[::2], cells[1::2], strict=True)]
        left, right, nose, *mouth = five
        points = [nose] * 36 + [left] * 6 + [right] * 6 + [mouth[0]] * 6 + [mouth[1]] * 14
        faces[file] = {"face_1": {"score": 0.9, "landmarks": dict(zip(keys, five, strict=True))}}
        kps.append({"file": file, "kps": five})
        rows.append(",".join([file, *(str(value) for point in points for value in point)]))
        numbers = "\n".join(f"{x + 1} {y + 1}" for x, y in points)
        path = folder / "points" / f"{Path(file).stem}.pts"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"version: 1\nn_points: 68\n{{\n{numbers}\n}}\n")
    (folder / "faces.json").write_text(json.dumps(faces))
    (folder / "kps.json").write_text(json.dumps(kps))
    (folder / "points.csv").write_text("\n".join(rows) + "\n")


def image_list(folder: Path) -> None:
    """Write photos and an official image list."""
    photos(folder)
    head = "idx orig_idx orig_file proc_md5 final_md5"
    rows = [f"{i} {i} {i + 1:06d}.jpg {'0123456789abcdef' * 2} {'f' * 32}" for i in range(3)]
    (folder / "image_list.txt").write_text("\n".join([head, *rows]) + "\n")


def unfinished_run(folder: Path) -> None:
    """Write photos and a run that ended before its HDF5 file was written."""
    build_run(folder, "--until", "score")


def build_run(folder: Path, *more: str) -> None:
    """Write photos and the finished run of a build."""
    photos(folder)
    celebahq("build", "--celeba-root", folder / "celeba", "--recipe", folder / "recipe.toml", "--out", folder / "run",
             "--workers", 1, "--device", "cpu", *more)  # fmt: skip


def training_data(folder: Path) -> None:
    """Write a data set and the recipe of a tiny training."""
    hdf5_file(folder)
    (folder / "recipe.toml").write_text(TRAINING_RECIPE)


def training_run(folder: Path) -> None:
    """Write a data set and the finished run of a training."""
    training_data(folder)
    more = ("--recipe", folder / "recipe.toml", "--device", "cpu")
    celebahq("train", folder / "data.h5", "--out", folder / "run", *more)


def restoration_data(folder: Path) -> None:
    """Write photos and the recipe of a tiny training of the denoiser."""
    (folder / "photos").mkdir(parents=True)
    for i in range(3):
        (folder / "photos" / f"{i}.png").write_bytes(encoded(pixels(i, 96, 96)))
    (folder / "recipe.toml").write_text(DENOISER_RECIPE)


def restoration_run(folder: Path) -> None:
    """Write photos and the finished run of a training of the denoiser, and its weights in a registry."""
    restoration_data(folder)
    celebahq("train-denoiser", folder / "photos", "--out", folder / "run", "--recipe", folder / "recipe.toml",
             "--device", "cpu")  # fmt: skip
    celebahq("weights", "export", folder / "run", "--name", "tiny", "--to", folder / "weights", "--licence", "CC0",
             "--data", "noise")  # fmt: skip


def landmark_run(folder: Path) -> None:
    """Write photos with landmarks, and the finished run of a training of the network that refines landmarks."""
    photos(folder)
    (folder / "recipe.toml").write_text(LANDMARK_RECIPE)
    celebahq("train-landmarks", folder / "celeba", "--out", folder / "run", "--recipe", folder / "recipe.toml",
             "--device", "cpu")  # fmt: skip


FACE_MODEL = Path(os.environ.get("CELEBAHQ_SHARED", "../shared")).resolve() / (
    "data/models/face_detection_yunet_2026may.onnx"
)
"""Model file of the face detector for OpenCV 5, which is no part of the project."""


def searched_photos(folder: Path) -> None:
    """Write two photos, and what the face detector finds in them."""
    (folder / "photos").mkdir(parents=True)
    for name in ("000002.jpg", "000003.jpg"):
        shutil.copy(SAMPLE / "img_celeba" / name, folder / "photos")
    celebahq(*("landmarks", folder / "photos", "--out", folder / "faces.csv", "--workers", 1, "--model", FACE_MODEL))


def few_images(folder: Path) -> None:
    """Write three images of different kinds; a score takes long."""
    folder.mkdir(parents=True)
    for i, (suffix, kind) in enumerate((("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))):
        (folder / f"{i}.{suffix}").write_bytes(encoded(pixels(i, 40 + i, 50), kind))


def filtered_folder(folder: Path) -> None:
    """Write a folder of images, its scores, and the images that were delivered."""
    few_images(folder / "images")
    scores = ("--scores", folder / "images-scores")
    celebahq("filter", folder / "images", "--keep", 3, "--out", folder / "best", "--workers", 1, *scores)


def stopped_export(folder: Path) -> None:
    """Write an HDF5 file and what a killed export of it left."""
    hdf5_file(folder)
    celebahq(
        "export", folder / "data.h5", "--to", "webdataset", "--out", folder / "whole", "--shard", 2, "--workers", 1
    )
    (folder / "whole.partial").mkdir()
    parts = sorted((folder / "whole").iterdir())
    shutil.copy(parts[0], folder / "whole.partial")
    shutil.rmtree(folder / "whole")
