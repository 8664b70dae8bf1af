"""Targets of the fuzzer: good inputs, the files that are mutated in them, and the commands that read them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.fuzz import samples


@dataclass(frozen=True)
class Target:
    """A reader, or several of the same files."""

    name: str
    make: Callable[[Path], None]
    """Writes the good inputs into a new folder."""
    files: tuple[str, ...]
    """Globs of the files that are mutated."""
    commands: tuple[str, ...]
    """Arguments of `celebahq`; IN and OUT stand for the folder of the input and for a new name."""
    every: bool = True
    """Run all commands on each input; otherwise one of them, drawn."""

    def arguments(self, random: Random) -> list[list[str]]:
        """Return the commands for one input."""
        chosen = self.commands if self.every else (random.choice(self.commands),)
        return [one.split() for one in chosen]


_BUILD = "build --celeba-root IN/celeba --recipe IN/recipe.toml --workers 1 --device cpu --out"
_BUILD_FROM_TABLE = (
    "build --photos IN/celeba/img_celeba --landmarks IN/landmarks.csv --no-check-landmarks --workers 1 "
    "--device cpu --out"
)
_OFFICIAL = "build --celeba-root IN/celeba --recipe official-deltas --image-list IN/image_list.txt"
_TRAIN = "train IN/data.h5 --recipe IN/recipe.toml --device cpu --out"
_RESTORE = "train-denoiser IN/photos --recipe IN/recipe.toml --device cpu --out IN/run"
_LOOKS = (
    "inspect IN/data.h5",
    "verify IN/data.h5",
    "extract IN/data.h5 --index : --out OUT",
    "view IN/data.h5 --out OUT.html",
    "view IN/data.h5 --out OUT.png --best",
    "compare IN/data.h5 IN/data.h5 --full",
    "evaluate IN/data.h5 --metrics ms-ssim --num 2 --device cpu",
    "audit IN/data.h5 --out OUT",
    "import IN/data.h5 --out OUT.h5 --workers 1",
)
_EXPORTS = tuple(
    f"export IN/data.h5 --to {kind} --workers 1 --out OUT{suffix}"
    for kind, suffix in (
        ("tfrecord", ""),
        ("stylegan-zip", ".zip"),
        ("images", ""),
        ("webdataset", ""),
        ("parquet", ""),
    )
)


def _import(path: str, more: str = "") -> str:
    return f"import {path} --out OUT.h5 --workers 1 {more}"


def _exported(kind: str) -> Callable[[Path], None]:
    return functools.partial(samples.exported, kind=kind)


def _containers() -> list[Target]:
    """Return the targets whose files hold many images."""
    folders = [
        Target(kind, _exported(kind), ("**/*",), (_import("IN/data"),))
        for kind in ("tfrecord", "webdataset", "parquet")
    ]
    return [
        *folders,
        Target(
            "stylegan-zip",
            _exported("stylegan-zip"),
            ("*",),
            tuple(_import("IN/data.zip", x) for x in ("", "--resize 8")),
            False,
        ),
        Target("cifar10-python", samples.cifar_python, ("*",), (_import("IN"), _import("IN", "--from cifar10")), False),
        Target("cifar10-binary", samples.cifar_binary, ("*",), (_import("IN"),)),
        Target("cifar10-archive", samples.cifar_archive, ("*",), (_import("IN/cifar-10-python.tar.gz"),)),
        Target("mnist", samples.mnist, ("*",), (_import("IN"),)),
        Target("lsun", samples.lsun, ("data.mdb",), (_import("IN", "--resize 16"),)),
        Target("hdf5", samples.hdf5_file, ("data.h5",), _LOOKS, False),
        Target(
            "theano",
            samples.theano_file,
            ("*",),
            (_import("IN/theano.h5"), "inspect IN/theano.h5", "verify IN/theano.h5"),
            False,
        ),
        Target("export", samples.hdf5_file, ("data.h5", "data-labels.npy"), _EXPORTS, False),
        Target(
            "stopped-export",
            samples.stopped_export,
            ("whole.partial/*",),
            ("export IN/data.h5 --to webdataset --out IN/whole --shard 2 --workers 1",),
        ),
    ]


def _images() -> list[Target]:
    """Return the targets that read images of folders."""
    return [
        Target(
            "images",
            samples.image_folder,
            ("**/*",),
            tuple(_import("IN", x) for x in ("", "--limit 2", "--resize 8")),
            False,
        ),
        Target("image-kinds", samples.image_kinds, ("*",), (_import("IN", "--resize 16"),)),
        Target(
            "labels",
            samples.labelled_folder,
            ("*/dataset.json", "*/metadata.csv", "*/0.png"),
            (_import("IN/json"), _import("IN/csv")),
            False,
        ),
        Target("filter", samples.few_images, ("*",), ("filter IN --scores OUT --top 50 --workers 1",)),
        Target(
            "filter-again",
            samples.filtered_folder,
            ("images-scores/*", "best/.*"),
            ("filter IN/images --keep 2 --out IN/best --prune --workers 1 --scores IN/images-scores",),
        ),
    ]


def _searches() -> list[Target]:
    """Return the target of the face detector, where its model file is."""
    if not samples.FACE_MODEL.exists():
        return []
    search = f"landmarks IN/photos --out IN/faces.csv --workers 1 --model {samples.FACE_MODEL}"
    return [Target("faces", samples.searched_photos, ("photos/*", "faces.jsonl", "faces.csv"), (search,))]


def _builds() -> list[Target]:
    """Return the targets that build: sources, tables, recipes, run directories."""
    return [
        Target("photos", samples.photos, ("celeba/img_celeba/*",), (f"{_BUILD} OUT",)),
        Target(
            "landmarks",
            samples.photos,
            ("celeba/Anno/*", "celeba/Eval/*", "landmarks.csv", "ids.txt"),
            (
                f"{_BUILD} OUT --until crop --labels",
                f"{_BUILD_FROM_TABLE} OUT --until crop",
                f"{_BUILD} OUT --dry-run --ids IN/ids.txt",
            ),
            False,
        ),
        Target(
            "landmarks-foreign",
            samples.foreign_landmarks,
            ("faces.json", "kps.json", "points/*.pts", "points.csv"),
            tuple(
                f"{_BUILD_FROM_TABLE.replace('landmarks.csv', table)} OUT --until crop"
                for table in ("faces.json", "kps.json", "points", "points.csv")
            ),
            False,
        ),
        *_searches(),
        Target("image-list", samples.image_list, ("image_list.txt",), (f"{_OFFICIAL} --out OUT --dry-run",)),
        Target("build-recipe", samples.photos, ("recipe.toml",), (f"{_BUILD} OUT --dry-run",)),
        Target(
            "run",
            samples.build_run,
            ("run/*.json", "run/*.csv", "run/**/*.json", "run/**/*.jsonl"),
            ("status IN/run", "verify IN/run", f"{_BUILD} IN/run"),
        ),
        Target(
            "unfinished-run",
            samples.unfinished_run,
            ("run/*.json", "run/**/*.json", "run/**/*.jsonl", "run/**/*.png"),
            (
                "inspect IN/run",
                "view IN/run --out OUT.html",
                "extract IN/run --resolution 16 --out OUT",
                "export IN/run --to stylegan-zip --workers 1 --out OUT.zip",
            ),
        ),
    ]


def _trainings() -> list[Target]:
    """Return the targets that train, and those that use what a training writes."""
    return [
        Target("train-recipe", samples.training_run, ("recipe.toml",), (f"{_TRAIN} OUT --dry-run",)),
        Target("training", samples.training_run, ("run/**/*",), (f"{_TRAIN} IN/run",)),
        Target(
            "generator",
            samples.training_run,
            ("run/*.safetensors",),
            (
                "generate IN/run/generator.safetensors --num 2 --out OUT.h5 --device cpu",
                "generate IN/run --num 2 --out OUT --device cpu",
                "evaluate IN/run/generator.safetensors --metrics ms-ssim --num 2 --device cpu",
            ),
            False,
        ),
        Target(
            "landmark-training",
            samples.landmark_run,
            ("run/**/*", "recipe.toml"),
            ("train-landmarks IN/celeba --recipe IN/recipe.toml --device cpu --out IN/run",),
        ),
        Target("restoration", samples.restoration_run, ("run/**/*",), (_RESTORE,)),
        Target(
            "weights",
            samples.restoration_run,
            ("weights/*",),
            ("weights list --pretrained IN/weights", "weights verify --pretrained IN/weights"),
        ),
    ]


TARGETS = (*_containers(), *_images(), *_builds(), *_trainings())
"""All targets, in the order of the table."""
