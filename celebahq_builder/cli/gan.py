"""ProGAN commands: ``train``, ``generate``, ``interpolate``, ``training-video``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import (
    DEVICE,
    PATH,
    POSITIVE,
    THREADS,
    count_option,
    out_option,
    path_option,
    seed_option,
    training_run,
    workers_option,
)
from celebahq_builder.cli.output import print_path


@celebahq.command(
    interrupted="run the same command again; it resumes if there is a checkpoint",
    examples={
        "Print networks and schedule.": "celebahq train faces.h5 --out runs/progan --dry-run",
        "Train with minibatches of 8 images at all resolutions.": (
            "celebahq train faces.h5 --out runs/8 --set schedule.minibatch=8 --set schedule.minibatches={}"
        ),
    },
)
@click.argument("data", type=PATH, metavar="DATA.h5|WORK")
@training_run("celebahq-1024-1gpu")
@click.option("--resume", is_flag=True, help="Only resume: fail if RUN holds no checkpoint.")
@click.option(
    "--total-kimg",
    type=POSITIVE,
    metavar="K",
    show_default="as in the recipe",
    help="Length of the training, in thousands of real images.",
)
@click.option(
    "--changed",
    multiple=True,
    metavar="KEY",
    help="Resume although this recipe key has a new value: schedule.learning_rate, schedule.learning_rates, "
    "schedule.rampup_kimg, loss, reuse_fakes, precision, ema.",
)
@DEVICE
@THREADS
@workers_option("Processes that read images; 0: threads read them.", least=0, default=0)
@path_option(
    "--against",
    metavar="FILE.h5",
    show_default="the data",
    help="Evaluate against this file during the training; [tick] in the recipe names the metrics.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print networks, schedule and passes per minibatch (tested on the GPU), then stop."
)
def train(
    data: Path,
    out: Path,
    recipe: Path,
    overrides: dict[str, object],
    device: str,
    threads: int,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Train a ProGAN on an HDF5 file, or on that of a run directory WORK.

    You can kill the command at any time: the same command resumes. Ctrl-C and SIGTERM save a checkpoint first.
    On several GPUs:
    torchrun --nproc-per-node N -m celebahq_builder train ...

    RUN holds stats.jsonl, TensorBoard events, grids of generated images (fakes-KKKKKK.png) and of real images
    (reals.png), checkpoints, and generator.safetensors, the averaged generator.
    """
    from celebahq_builder.training.interruption import StopRequest

    stop = StopRequest()
    with contextlib.nullcontext() if dry_run else stop.listening():
        with stop.abandonable():
            from celebahq_builder.pipeline.run_images import find_hdf5
            from celebahq_builder.progan import launch
            from celebahq_builder.progan.schedule import RESUMABLE_KEYS, TrainingRequest
            from celebahq_builder.training.distributed import is_main_process

        data = find_hdf5(data)
        for key in asked["changed"]:
            if key not in RESUMABLE_KEYS:
                raise click.BadParameter(f"--changed {key}: expected one of {', '.join(RESUMABLE_KEYS)}")
        if dry_run:
            request = TrainingRequest(data, out, **asked)
            plan = launch.describe_training(request, recipe, device, overrides, threads)
            for line in plan if is_main_process() else ():
                click.echo(line)
            return
        run = launch.train_progan(
            data, out, recipe=recipe, overrides=overrides, device=device, threads=threads, stop=stop, **asked
        )
        if is_main_process():
            print_path("report", run / "report" / "index.html")


GENERATOR = click.argument("generator", type=PATH, metavar="RUN|FILE.safetensors")
SEED = seed_option("Seed of the latents.")
VIDEO_OUT = out_option("FILE.mp4", "Video file to create (H.264).")
LABEL = count_option(
    "--label",
    least=0,
    show_default="labels of the data set in turn",
    help="Generate only this label (from 0), if the generator has labels.",
)


class GridParam(click.ParamType[tuple[int, int]]):
    """An option value of columns and rows, such as 15x8."""

    name = "grid"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return columns and rows."""
        columns, _, rows = str(value).partition("x")
        if not (columns.isdigit() and rows.isdigit() and int(columns) and int(rows)):
            self.fail(f"{value!r} is not COLUMNSxROWS, such as 15x8", param, ctx)
        return int(columns), int(rows)


@celebahq.command(
    interrupted="run the same command again; it starts from the beginning",
    examples={
        "Write 100 PNG files.": "celebahq generate runs/progan --num 100 --out fakes",
        "Write one image of 8 x 4 faces.": "celebahq generate runs/progan --grid 8x4 --seed 1 --out grid.png",
    },
)
@GENERATOR
@count_option("--num", help="Number of images; default 1000.")
@out_option("DIR|FILE.h5|FILE.png", "Folder of PNG files, HDF5 file, or one image with --grid.")
@click.option(
    "--grid",
    type=GridParam(),
    metavar="CxR",
    show_default="none",
    help="Write one image with C columns and R rows to FILE.png.",
)
@SEED
@LABEL
@DEVICE
def generate(
    generator: Path, num: int | None, out: Path, grid: tuple[int, int] | None, seed: int, label: int | None, device: str
) -> None:
    """Generate images with a trained generator.

    Image i of a seed is always the same.
    """
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.progan import generate as progan
    from celebahq_builder.progress import Progress

    if grid and num:
        raise click.UsageError(f"--grid {grid[0]}x{grid[1]} sets the number of images; leave out --num")
    count = grid[0] * grid[1] if grid else num or 1000
    progan.check_target(out, sheet=bool(grid))
    images = progan.GeneratedImages(generator, count, seed, torch.device(parallel.devices(device)[0]), label)
    if grid:
        progan.write_sheet(images, grid[0], out)
    else:
        progress = Progress("generate", count, unit="image", judged=False)
        progan.generate(images, out, progress.advance)
        progress.close()
    click.echo(f"{count} images of {images.resolution}x{images.resolution}")
    print_path("image" if grid else "images", out)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Make a video of one minute.": "celebahq interpolate runs/progan --out walk.mp4",
        "Make a video of 3 x 2 faces.": "celebahq interpolate runs/progan --grid 3x2 --seconds 20 --out six.mp4",
    },
)
@GENERATOR
@VIDEO_OUT
@click.option("--seconds", type=POSITIVE, default=60.0, metavar="S", help="Length.")
@click.option("--fps", type=POSITIVE, default=60.0, metavar="F", help="Frames per second.")
@click.option("--grid", type=GridParam(), default="1x1", metavar="CxR", help="Interpolations side by side.")
@SEED
@LABEL
@DEVICE
def interpolate(generator: Path, out: Path, grid: tuple[int, int], device: str, **asked: Any) -> None:
    """Make a video of a looping interpolation in latent space."""
    import torch

    from celebahq_builder import parallel
    from celebahq_builder.models.generator_file import load_generator
    from celebahq_builder.progan.video import interpolate as make
    from celebahq_builder.progress import Progress

    trained = load_generator(generator, torch.device(parallel.devices(device)[0]))
    progress = Progress("interpolate", max(1, round(asked["seconds"] * asked["fps"])), unit="frame", judged=False)
    size = {"columns": grid[0], "rows": grid[1]}
    make(trained, out, advance=progress.advance, **size, **asked)
    progress.close()
    print_path("video", out)


@celebahq.command(
    "training-video",
    interrupted="nothing was written",
    examples={
        "Show how the generated images became better.": "celebahq training-video runs/progan --out training.mp4",
        "Show it more slowly.": "celebahq training-video runs/progan --fps 4 --out slow.mp4",
    },
)
@click.argument("run", type=PATH, metavar="RUN")
@VIDEO_OUT
@click.option("--fps", type=POSITIVE, default=10.0, metavar="F", help="Grids per second.")
def training_video(run: Path, out: Path, fps: float) -> None:
    """Make a video of the grids of generated images of a run."""
    from celebahq_builder.progan.video import training_video as make

    make(run, out, fps=fps)
    print_path("video", out)
