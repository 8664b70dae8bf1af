"""Commands that look into HDF5 files and run directories: inspect, view, extract, compare, audit."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder.cli.main import celebahq
from celebahq_builder.cli.options import PATH, choice_option, count_option, out_option, seed_option
from celebahq_builder.cli.output import name_options, print_path
from celebahq_builder.errors import CelebAHQError, FormatError, printable

if TYPE_CHECKING:
    from celebahq_builder.image_set import ImagePyramid

IMAGES = click.argument("file", type=PATH, metavar="FILE.h5|WORK")

INDEX = click.option(
    "--index", "index", metavar="I", show_default="all", help="Indices and slices as in Python: 0:10, 1,5,7, -1, ::100."
)
NAMES = click.option(
    "--id",
    "names",
    multiple=True,
    metavar="NAME",
    help="Id or source file name of an image, if the file stores it; repeatable.",
)
RESOLUTION = count_option("--resolution", metavar="R", show_default="the largest", help="Level to read.")


@celebahq.command(
    examples={
        "Print levels, sizes, sources and scores.": "celebahq inspect faces.h5",
        "Print the same of a run directory, also of an unfinished one.": "celebahq inspect work",
    }
)
@IMAGES
def inspect(file: Path) -> None:
    """Print levels, sizes, sources and scores of a data set.

    WORK is a run directory of celebahq build, whose HDF5 file is read. If it has none yet, the images of the finished
    batches are used.
    """
    from celebahq_builder.inspect.info import inspect_hdf5, inspect_images
    from celebahq_builder.pipeline.run_images import find_images

    found = find_images(file)
    for line in inspect_hdf5(found) if isinstance(found, Path) else inspect_images(found):
        click.echo(line)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Extract all images.": "celebahq extract faces.h5 --out png",
        "Extract the first ten images of a run at 256x256.": (
            "celebahq extract work --index 0:10 --resolution 256 --out ten"
        ),
    },
)
@IMAGES
@INDEX
@NAMES
@out_option("DIR", "Folder for the PNG files.")
@RESOLUTION
def extract(file: Path, index: str | None, names: tuple[str, ...], out: Path, resolution: int | None) -> None:
    """Extract images as PNG files.

    The files are named by the index of the image: 00000.png. No file is ever overwritten. Files of the original ProGAN
    tool and greyscale files work, too; they store no ids. If a run directory has no HDF5 file yet, the images of its
    finished batches are extracted.
    """
    from celebahq_builder.inspect.contact_sheet import tiles
    from celebahq_builder.inspect.extract import extract as write
    from celebahq_builder.pipeline.run_images import open_images

    with open_images(file) as images:
        numbers = _chosen(images, index, names)
        named = tiles(images, numbers)  # raises before anything is written
        written = write(images, numbers, out, resolution)
        for path, tile in zip(written, named, strict=True) if index or names else ():
            click.echo(printable("  ".join(filter(None, (str(path), tile.name)))))
    click.echo(f"{len(written):,} of {images.count:,} images")
    print_path("images", out)


@celebahq.command(
    examples={
        "Compare all levels.": "celebahq compare faces.h5 other.h5",
        "Compare a file with a run, and list the 20 images that differ most.": (
            "celebahq compare faces.h5 work --worst 20"
        ),
    }
)
@click.argument("a", type=PATH, metavar="A.h5|WORK")
@click.argument("b", type=PATH, metavar="B.h5|WORK")
@choice_option(
    "--by",
    choices=["id", "file", "position"],
    help="How images are paired: by id, by source file or by position; default the first that both files support.",
)
@count_option("--resolution", metavar="R", help="Compare only this level; default all levels that both files have.")
@click.option("--full", is_flag=True, help="Also read images whose recorded SHA-256 are equal.")
@count_option("--worst", least=0, default=10, help="List the N images that differ most.")
def compare(a: Path, b: Path, **asked: Any) -> None:
    """Compare the images of two HDF5 files or run directories.

    Images are paired by id, by source file or by position, and compared level by level: largest and mean absolute
    difference (grey levels 0 to 255), and PSNR. If both files record equal SHA-256 hashes of an image, the image counts
    as equal and is not read; --full reads all images.

    Only images are compared, not their metadata. A different order is reported but is not a difference. An image or
    a level that only one file has is a difference.

    Exit code: 0 if all images are equal, 1 if there are differences, 2 if the files cannot be compared.
    """
    from celebahq_builder.inspect import compare as compare_module
    from celebahq_builder.pipeline.run_images import open_images

    context = click.get_current_context()
    try:
        with open_images(a) as one, open_images(b) as other:
            result = compare_module.compare(one, other, **asked)
            for line in compare_module.comparison_lines(one, other, result):
                click.echo(name_options(line, context))
    except CelebAHQError as error:
        click.echo(f"error: {name_options(str(error), context)}", err=True)
        raise click.exceptions.Exit(2) from None
    if not result.equal:
        raise click.exceptions.Exit(1)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Look for faults in a data set, and show them on a page.": "celebahq audit faces.h5",
        "Do the same for a finished run, in another folder.": "celebahq audit work --out audits/work",
    },
)
@IMAGES
@out_option(
    "DIR", "Folder to create; default NAME-audit in the current folder, after the name of FILE or WORK.", required=False
)
def audit(file: Path, out: Path | None) -> None:
    """Look for duplicates, black bars and padding in an HDF5 file.

    Writes DIR/index.html, a page that shows what was found, and DIR/audit.json, which lists all of it. The HDF5 file
    does not change. A second audit of the same file replaces the first one; no other file is overwritten, and a folder
    that holds anything else is refused.
    """
    from celebahq_builder.inspect import audit_report
    from celebahq_builder.pipeline.run_images import find_hdf5

    folder = out or Path(f"{Path(os.path.realpath(file)).name.removesuffix('.h5')}-audit")
    for line in audit_report.audit(find_hdf5(file), folder):
        click.echo(line)
    print_path("findings", folder / audit_report.JSON)
    print_path("page", folder / audit_report.PAGE)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Make a page of the images, and print its path.": "celebahq view faces.h5",
        "Draw the best and the worst images of a run so far.": "celebahq view work --best --worst --out sheet.png",
    },
)
@IMAGES
@out_option("SHEET", "File: .html, .png or .jpg.", required=False, show_default="a page in a temporary folder")
@click.option(
    "--grid",
    metavar="CxR",
    show_default="8 columns, or as many as the window of a page has room for, and all rows",
    help="Columns, and at most this many rows.",
)
@count_option(
    *("--level", "--resolution", "resolution"),
    metavar="R",
    show_default="the one nearest to 192 px, or to 96 px for more than 200 images",
    help="Level to show.",
)
@INDEX
@NAMES
@click.option("--random", "drawn", is_flag=True, help="Show 40 images drawn at random, or as many as --grid holds.")
@seed_option("Seed of --random.")
@click.option("--best", is_flag=True, help="Show the 40 images with the highest scores, or as many as --grid holds.")
@click.option("--worst", is_flag=True, help="Show those with the lowest, the lowest last; with --best, half of each.")
@click.option("--captions/--no-captions", default=True, help="Print index, score and name under each image.")
def view(file: Path, out: Path | None, grid: str | None, resolution: int | None, captions: bool, **asked: Any) -> None:
    """Show images on a page, or as one large image.

    All images are shown, up to 1000; --index 1000:2000 shows the next ones. No file is ever overwritten. If a
    run directory has no HDF5 file yet, the images of its finished batches are shown.
    """
    from celebahq_builder.inspect import contact_sheet
    from celebahq_builder.pipeline.run_images import open_images

    match = re.fullmatch(r"([1-9]\d{0,3})[xX]([1-9]\d{0,3})", grid or "8x5")
    if not match:
        raise FormatError(f"--grid {grid}: expected columns x rows, such as 8x5")
    columns, rows = int(match[1]), int(match[2])
    with open_images(file) as images:
        numbers = _shown(images, columns * rows, **asked)
        fit = columns * rows if grid else contact_sheet.IMAGES_MAX
        shown = contact_sheet.tiles(images, numbers[:fit])
        level = resolution or contact_sheet.default_level(images, len(shown))
        out = out or Path(tempfile.mkdtemp(prefix="celebahq-view-")) / f"{images.path.stem}.html"
        if out.suffix.lower() == ".html":
            contact_sheet.write_contact_page(out, images, shown, level, columns if grid else None, captions)
        else:
            contact_sheet.write_contact_sheet(out, images, shown, columns, level, captions)
    click.echo(f"{len(shown):,} of {images.count:,} images at {level}x{level}")
    if len(numbers) > len(shown):
        click.echo(f"{len(numbers) - len(shown):,} more do not fit; choose them by --index, or give a larger --grid")
    print_path("page" if out.suffix.lower() == ".html" else "image", out)


def _chosen(images: ImagePyramid, index: str | None, names: tuple[str, ...]) -> list[int]:
    """Return the selected indices, those of --index first; all indices if none is selected."""
    from celebahq_builder.inspect import extract as extract_module

    if not index and not names:
        return list(range(images.count))
    by_index = extract_module.parse_indices(index, images.count) if index else []
    return list(dict.fromkeys(by_index + (extract_module.indices_of_ids(names, images) if names else [])))


def _shown(
    images: ImagePyramid,
    amount: int,
    *,
    index: str | None,
    names: tuple[str, ...],
    drawn: bool,
    seed: int,
    best: bool,
    worst: bool,
) -> list[int]:
    """Return the indices to show: some, all, or an amount of them that is drawn at random or by score."""
    from celebahq_builder.inspect import extract as extract_module

    if (bool(index or names) + drawn + (best or worst)) > 1:
        raise FormatError("--index or --id, --random, and --best or --worst exclude each other; take one of them")
    if drawn:
        return extract_module.draw_indices(amount, images.count, seed)
    if best or worst:
        return extract_module.best_and_worst(images, amount, best=best, worst=worst)
    return _chosen(images, index, names)
