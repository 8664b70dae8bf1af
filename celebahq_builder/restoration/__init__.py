"""Training of the networks that restore photos: the denoiser and the upscaler; export of their weights."""

from celebahq_builder.restoration.adversarial_training import AdversarialTask
from celebahq_builder.restoration.pixel_training import PixelTask
from celebahq_builder.restoration.task import RestorationTask

TASKS: dict[str, type[RestorationTask]] = {
    "denoise": PixelTask,
    "upscale": PixelTask,
    "upscale-adversarially": AdversarialTask,
}
"""Trainings by the key ``task`` of their recipes; see `training.loop.train`."""
