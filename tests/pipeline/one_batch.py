"""A batch of photos of the sample, in this process, and the inputs of its networks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from celebahq_builder.models.registry import Architecture
from celebahq_builder.outcome import Outcome
from celebahq_builder.pipeline.batch import run_batch
from celebahq_builder.pipeline.batch_job import BatchJob, BatchResult, publish_batch
from celebahq_builder.pipeline.network_stage import network
from celebahq_builder.run_directory.workspace import Workspace
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import Photo
from tests.conftest import PHOTO_STAGES, SAMPLE, TINY
from tests.pipeline.faces import crop_of

CPU = torch.device("cpu")
FOLDER = SAMPLE / "img_celeba"
IDS = ("000002", "000014", "000011", "000012")
"""Small photos of the sample. The second is rejected: too little of its crop lies inside it."""
KEPT_FILES = ["000002.jpg", "000011.jpg", "000012.jpg"]
CUTTING = replace(TINY, upscale=replace(TINY.upscale, tile_px=64))
"""The upscaler sees photos in several windows, four of equal shape and more."""


def photos() -> tuple[tuple[int, Photo], ...]:
    listed = {photo.id: photo for photo in read_celeba(SAMPLE).photos}
    return tuple(enumerate(listed[one] for one in IDS))


def run(out: Path, **changes: Any) -> BatchResult:
    """Take the first photos of the sample through all stages as one batch, and publish it."""
    result = run_batch(job(out, **changes))
    publish_batch(Workspace(out), result)
    return result


def job(out: Path, **changes: Any) -> BatchJob:
    whole = BatchJob(
        workspace=out,
        number=0,
        photos=photos(),
        folder=FOLDER,
        recipe=TINY,
        device="cpu",
        start=None,
        todo=PHOTO_STAGES,
        examples=frozenset({"000002", "000012"}),
    )
    return replace(whole, **changes)


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def ended(out: Path, stage: str = "score") -> list[Outcome]:
    return Workspace(out).stage(stage).read_manifest(0)


@contextmanager
def met(weights: str, architecture: Architecture, meet: Callable[[Tensor], object]) -> Iterator[None]:
    """Call `meet` with every input of a network, as long as the block lasts."""
    hook = network(weights, CPU, architecture).register_forward_pre_hook(lambda _, inputs: meet(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def denoiser_meets(meet: Callable[[Tensor], object]) -> Any:
    return met(TINY.denoise.weights, "autoencoder", meet)


def is_of(x: Tensor, photo: Photo) -> bool:
    """Return whether the input of a network is this photo; no two have the same shape."""
    face = crop_of(photo, FOLDER, TINY.crop, TINY.resolution)
    return tuple(x.shape[-2:]) == tuple(length + -length % 8 for length in face.pixels.shape[1:])
