"""Build CelebA-HQ from in-the-wild photos and five landmarks, filter images, export, train and evaluate.

The public API; see docs/python.md for examples.

=====================================  ===============================================================================
`CelebA`, `PhotoFolder`                photos with landmarks
`find_landmarks`                       faces of photos that have no landmarks
`build`, `dry_run`, `align`            a data set from a source; the plan of a build; one photo in memory
`open`                                 read an HDF5 file
`score`, `filter_folder`               the quality score; the best images of a folder
`export`, `import_images`              other data set formats
`train_progan`, `Generator`            training; images of a trained generator
`evaluate`                             SWD, MS-SSIM, FID, KID, IS
`CelebAHQError` and its subclasses     all errors that a user can cause and correct
=====================================  ===============================================================================

Names are imported when they are used: ``import celebahq_builder`` alone imports neither torch nor OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from celebahq_builder.errors import (
        CelebAHQError,
        ClusterError,
        DeliveryError,
        DiskFull,
        FingerprintMismatch,
        FormatError,
        RecipeError,
        SourceError,
        TrainingError,
        WeightsError,
        WorkspaceError,
        WorkspaceLocked,
    )
    from celebahq_builder.filter.report import FilterResult
    from celebahq_builder.filter.run import filter_folder
    from celebahq_builder.filter.scoring import score_image as score
    from celebahq_builder.formats.conversion import export_file as export
    from celebahq_builder.formats.conversion import import_images
    from celebahq_builder.hdf5.reader import PyramidFile
    from celebahq_builder.hdf5.reader import open_pyramid as open
    from celebahq_builder.landmarks.find import LandmarkResult, find_landmarks
    from celebahq_builder.pipeline.build import BuildResult, align, build
    from celebahq_builder.pipeline.dry_run import dry_run
    from celebahq_builder.progan.evaluation import evaluate_images as evaluate
    from celebahq_builder.progan.generate import Generator
    from celebahq_builder.progan.launch import train_progan
    from celebahq_builder.sources.celeba import CelebA
    from celebahq_builder.sources.folder import PhotoFolder

_ERRORS = {
    name: f"errors:{name}"
    for name in (
        *("CelebAHQError", "ClusterError", "DeliveryError", "DiskFull", "FingerprintMismatch", "FormatError"),
        *("RecipeError", "SourceError", "TrainingError", "WeightsError", "WorkspaceError", "WorkspaceLocked"),
    )
}

_PUBLIC = _ERRORS | {
    "BuildResult": "pipeline.build:BuildResult",
    "CelebA": "sources.celeba:CelebA",
    "FilterResult": "filter.report:FilterResult",
    "Generator": "progan.generate:Generator",
    "LandmarkResult": "landmarks.find:LandmarkResult",
    "PhotoFolder": "sources.folder:PhotoFolder",
    "PyramidFile": "hdf5.reader:PyramidFile",
    "align": "pipeline.build:align",
    "build": "pipeline.build:build",
    "dry_run": "pipeline.dry_run:dry_run",
    "evaluate": "progan.evaluation:evaluate_images",
    "export": "formats.conversion:export_file",
    "filter_folder": "filter.run:filter_folder",
    "find_landmarks": "landmarks.find:find_landmarks",
    "import_images": "formats.conversion:import_images",
    "open": "hdf5.reader:open_pyramid",
    "score": "filter.scoring:score_image",
    "train_progan": "progan.launch:train_progan",
}
"""Module and name of each public object."""

__all__ = [
    "BuildResult",
    "CelebA",
    "CelebAHQError",
    "ClusterError",
    "DeliveryError",
    "DiskFull",
    "FilterResult",
    "FingerprintMismatch",
    "FormatError",
    "Generator",
    "LandmarkResult",
    "PhotoFolder",
    "PyramidFile",
    "RecipeError",
    "SourceError",
    "TrainingError",
    "WeightsError",
    "WorkspaceError",
    "WorkspaceLocked",
    "align",
    "build",
    "dry_run",
    "evaluate",
    "export",
    "filter_folder",
    "find_landmarks",
    "import_images",
    "open",
    "score",
    "train_progan",
]


def __getattr__(name: str) -> Any:
    """Import a public object when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
