"""The commands that are killed: all that write files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz import samples


@dataclass(frozen=True)
class Target:
    """A command that writes files, and its input."""

    name: str
    make: Callable[[Path], None]
    command: str
    """Arguments of `celebahq`; IN and OUT stand for the folders of the input and of the result."""
    prepare: str = ""
    """A command that runs to its end first, and is not killed."""


def more_images(folder: Path) -> None:
    """Write an HDF5 file of 60 images, so that formats have several parts, and the images with their labels."""
    images = folder / "images"
    images.mkdir(parents=True)
    labels = []
    for i in range(60):
        (images / f"{i:02d}.png").write_bytes(samples.encoded(samples.pixels(i, 32, 32)))
        labels.append([f"{i:02d}.png", i % 3])
    samples.celebahq("import", images, "--out", folder / "data.h5", "--workers", 1)
    shutil.copytree(images, folder / "labelled")
    (folder / "labelled" / "dataset.json").write_text(json.dumps({"labels": labels}))


def upscaler_data(folder: Path) -> None:
    """Write photos and the recipe of a tiny training of the upscaler."""
    samples.restoration_data(folder)
    recipe = samples.DENOISER_RECIPE.replace('task = "denoise"', 'task = "upscale"')
    network = 'architecture = "srgan"\nwidths = [4]\nblocks = [1]'
    begin, end = recipe.index("architecture"), recipe.index("[[phases]]")
    (folder / "recipe.toml").write_text(f"{recipe[:begin]}{network}\n{recipe[end:]}")


def landmark_data(folder: Path) -> None:
    """Write photos with landmarks and the recipe of a tiny training of the network that refines them."""
    samples.photos(folder)
    (folder / "recipe.toml").write_text(samples.LANDMARK_RECIPE)


_BUILD = "build --celeba-root IN/celeba --recipe IN/recipe.toml --workers 1 --device cpu --out OUT/run"
_EXPORT = "export IN/data.h5 --workers 1"
_FILTER = "filter IN --scores OUT/scores --workers 1"
_WEIGHTS = "weights export IN/run --name mine --to OUT/weights --licence CC0"
_TRAIN = "--recipe IN/recipe.toml --device cpu --out OUT/run"
TARGETS = (
    Target("build", samples.photos, _BUILD),
    Target("shard", samples.photos, f"{_BUILD} --shard 1/2"),
    Target("pack", samples.photos, _BUILD, f"{_BUILD} --until select"),
    Target("redo", samples.photos, f"{_BUILD} --redo align", _BUILD),
    Target("more photos", samples.photos, _BUILD, f"{_BUILD} --limit 2"),
    Target("import", more_images, "import IN/images --workers 1 --out OUT/new.h5"),
    Target("import labels", more_images, "import IN/labelled --workers 1 --out OUT/new.h5"),
    Target("import threads", more_images, "import IN/images --workers 3 --out OUT/new.h5"),
    Target("tfrecord", more_images, f"{_EXPORT} --to tfrecord --out OUT/new"),
    Target("stylegan-zip", more_images, f"{_EXPORT} --to stylegan-zip --out OUT/new.zip"),
    Target("images", more_images, f"{_EXPORT} --to images --out OUT/new"),
    Target("webdataset", more_images, f"{_EXPORT} --to webdataset --shard 7 --out OUT/new"),
    Target("parquet", more_images, f"{_EXPORT} --to parquet --shard 7 --out OUT/new"),
    Target("extract", more_images, "extract IN/data.h5 --index 0:20 --out OUT/new"),
    Target("view page", more_images, "view IN/data.h5 --out OUT/sheet.html"),
    Target("view image", more_images, "view IN/data.h5 --out OUT/sheet.png"),
    Target("audit", more_images, "audit IN/data.h5 --out OUT/audit"),
    Target(
        "evaluate",
        more_images,
        "evaluate IN/data.h5 --against IN/images --metrics swd,ms-ssim --num 8 --device cpu --out OUT/scores",
    ),
    Target("filter", samples.image_kinds, f"{_FILTER} --keep 4 --out OUT/best"),
    Target("filter list", samples.image_kinds, f"{_FILTER} --keep 4 --list OUT/best.csv"),
    Target(
        "filter prune", samples.image_kinds, f"{_FILTER} --keep 2 --out OUT/best --prune", f"{_FILTER} --out OUT/best"
    ),
    Target("train", samples.training_data, f"train IN/data.h5 {_TRAIN}"),
    Target("generate h5", samples.training_run, "generate IN/run --num 20 --device cpu --out OUT/new.h5"),
    Target("generate png", samples.training_run, "generate IN/run --num 20 --device cpu --out OUT/new"),
    Target("generate grid", samples.training_run, "generate IN/run --grid 4x3 --device cpu --out OUT/grid.png"),
    Target(
        "interpolate",
        samples.training_run,
        "interpolate IN/run --grid 2x1 --seconds 1 --fps 8 --device cpu --out OUT/walk.mp4",
    ),
    Target("training-video", samples.training_run, "training-video IN/run --out OUT/training.mp4"),
    Target("denoiser", samples.restoration_data, f"train-denoiser IN/photos {_TRAIN}"),
    Target("upscaler", upscaler_data, f"train-upscaler IN/photos {_TRAIN}"),
    Target("refiner", landmark_data, f"train-landmarks IN/celeba {_TRAIN}"),
    Target("weights", samples.restoration_run, f"{_WEIGHTS} --data noise"),
    Target(
        "weights replaced", samples.restoration_run, f"{_WEIGHTS} --data sand --replace", f"{_WEIGHTS} --data noise"
    ),
)

if samples.FACE_MODEL.exists():
    TARGETS += (
        Target(
            "landmarks",
            samples.photos,
            f"landmarks IN/celeba/img_celeba --model {samples.FACE_MODEL} --workers 1 --out OUT/faces.csv",
        ),
    )
