"""Commands that look into HDF5 files: ``inspect``, ``view``, ``extract``, ``compare``, ``audit``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder.cli.main import PATH, celebahq, name_options, print_path
from celebahq_builder.errors import CelebAHQError, FormatError, printable

if TYPE_CHECKING:
    from celebahq_builder.hdf5.reader import PyramidFile

FILE = click.argument("file", type=PATH, metavar="FILE.h5")

INDEX = click.option(
    "--index",
    "index",
    metavar="I",
    show_default="all",
    help="Indices and slices as in Python: 0:10, 1,5,7, -1, ::100.",
)
NAMES = click.option(
    "--id",
    "names",
    multiple=True,
    metavar="NAME",
    help="Id or source file name of an image, if the file stores it; repeatable.",
)
RESOLUTION = click.option(
    "--resolution", type=click.IntRange(1), metavar="R", show_default="the largest", help="Level to read."
)


@celebahq.command(
    examples={
        "Print levels, sizes, sources and scores.": "celebahq inspect faces.h5",
        "Print the same of another file.": "celebahq inspect other.h5",
    }
)
@FILE
def inspect(file: Path) -> None:
    """Print the contents of an HDF5 file: levels, sizes, sources, scores."""
    from celebahq_builder.inspect.info import inspect_hdf5

    for line in inspect_hdf5(file):
        click.echo(line)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Extract the first ten images.": "celebahq extract faces.h5 --index 0:10 --out first",
        "Extract one image at 256x256, by its id.": "celebahq extract faces.h5 --id 000001 --resolution 256 --out one",
    },
)
@FILE
@INDEX
@NAMES
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the PNG files.")
@RESOLUTION
def extract(file: Path, index: str | None, names: tuple[str, ...], out: Path, resolution: int | None) -> None:
    """Extract images of an HDF5 file as PNG files.

    The files are named by the index of the image: 00000.png. No file is ever overwritten. Files of the original ProGAN
    tool and greyscale files work, too; they store no ids.
    """
    from celebahq_builder.hdf5.reader import open_pyramid
    from celebahq_builder.inspect.contact_sheet import tiles
    from celebahq_builder.inspect.extract import extract as write

    if not index and not names:
        raise FormatError("no image is selected: give --index (0:10, or : for all) or --id NAME")
    with open_pyramid(file) as pyramid:
        numbers = _chosen(pyramid, index, names)
        named = list(tiles(pyramid, numbers))  # raises before anything is written
        written = write(pyramid, numbers, out, resolution)
        for path, tile in zip(written, named, strict=True):
            click.echo(printable("  ".join(filter(None, (str(path), tile.name)))))
    click.echo(f"{len(written):,} of {pyramid.count:,} images written to {printable(str(out))}")


@celebahq.command(
    examples={
        "Compare all levels.": "celebahq compare faces.h5 other.h5",
        "Compare one level, and list the 20 images that differ most.": (
            "celebahq compare faces.h5 other.h5 --resolution 256 --worst 20"
        ),
    }
)
@click.argument("a", type=PATH, metavar="A.h5")
@click.argument("b", type=PATH, metavar="B.h5")
@click.option(
    "--by",
    type=click.Choice(["id", "file", "position"]),
    help="How images are paired: by id, by source file or by position; default the first that both files support.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    metavar="R",
    help="Compare only this level; default all levels that both files have.",
)
@click.option("--full", is_flag=True, help="Also read images whose recorded SHA-256 are equal.")
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=10,
    metavar="N",
    help="List the N images that differ most.",
)
def compare(a: Path, b: Path, **asked: Any) -> None:
    """Compare the images of two HDF5 files.

    Images are paired by id, by source file or by position, and compared level by level: largest and mean absolute
    difference (grey levels 0 to 255), and PSNR. If both files record equal SHA-256 hashes of an image, the image counts
    as equal and is not read; --full reads all images.

    Only images are compared, not their metadata. A different order is reported but is not a difference. An image or
    a level that only one file has is a difference.

    Exit code: 0 if all images are equal, 1 if there are differences, 2 if the files cannot be compared.
    """
    from celebahq_builder.hdf5.reader import open_pyramid
    from celebahq_builder.inspect import compare as compare_module

    parameters = click.get_current_context().command.params

    try:
        with open_pyramid(a) as one, open_pyramid(b) as other:
            result = compare_module.compare(one, other, **asked)
            for line in compare_module.comparison_lines(one, other, result):
                click.echo(name_options(line, parameters))
    except CelebAHQError as error:
        click.echo(f"error: {name_options(str(error), parameters)}", err=True)
        raise click.exceptions.Exit(2) from None
    if not result.equal:
        raise click.exceptions.Exit(1)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Look for faults in a data set, and show them on a page.": "celebahq audit faces.h5",
        "Write the page to another folder.": "celebahq audit faces.h5 --out audits/faces",
    },
)
@FILE
@click.option("--out", type=PATH, metavar="DIR", help="Folder to create; default NAME-audit in the current folder.")
def audit(file: Path, out: Path | None) -> None:
    """Look for duplicates, black bars and padding in an HDF5 file.

    Writes DIR/index.html, a page that shows what was found, and DIR/audit.json, which lists all of it. The HDF5 file
    does not change. No file is ever overwritten.
    """
    from celebahq_builder.inspect import audit_report

    folder = out or Path(f"{file.stem}-audit")
    for line in audit_report.audit(file, folder):
        click.echo(line)
    print_path("findings", folder / audit_report.JSON)
    print_path("page", folder / audit_report.PAGE)


@celebahq.command(
    interrupted="nothing was written",
    examples={
        "Make a page of the first 40 images.": "celebahq view faces.h5 --out sheet.html",
        "Draw the best and the worst images.": "celebahq view faces.h5 --best --worst --grid 6x4 --out sheet.png",
    },
)
@FILE
@click.option("--out", type=PATH, required=True, metavar="SHEET.png", help="File to create: .png, .jpg or .html.")
@click.option("--grid", metavar="CxR", help="Columns, and at most this many rows; default 8x5.")
@click.option(
    "--level",
    "--resolution",
    "resolution",
    type=click.IntRange(1),
    metavar="R",
    help="Level to show; default the one nearest to 192 px.",
)
@INDEX
@NAMES
@click.option("--random", "drawn", is_flag=True, help="Show images drawn at random.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="S", help="Seed of --random.")
@click.option("--best", is_flag=True, help="Show the images with the highest scores.")
@click.option(
    "--worst", is_flag=True, help="Show the images with the lowest scores, the lowest last; with --best, half of each."
)
@click.option("--captions/--no-captions", default=True, help="Print index, score and name under each image (default).")
def view(file: Path, out: Path, grid: str | None, resolution: int | None, captions: bool, **asked: Any) -> None:
    """Write a contact sheet of an HDF5 file: an image, or an HTML page in a single file.

    The first images are shown by default. No file is ever overwritten. A page without --grid has fewer columns in a
    small window.
    """
    from celebahq_builder.hdf5.reader import open_pyramid
    from celebahq_builder.inspect import contact_sheet

    match = re.fullmatch(r"(\d{1,4})[xX](\d{1,4})", grid or "8x5")
    columns, rows = (int(match[1]), int(match[2])) if match else (0, 0)
    if not columns or not rows:
        raise FormatError(f"--grid {grid}: expected columns x rows, such as 8x5")
    with open_pyramid(file) as pyramid:
        numbers = _shown(pyramid, columns * rows, **asked)
        shown = contact_sheet.tiles(pyramid, numbers[: columns * rows])
        level = resolution or contact_sheet.level_for(pyramid)
        if out.suffix.lower() == ".html":
            contact_sheet.write_contact_page(out, pyramid, shown, level, columns if grid else None, captions)
        else:
            contact_sheet.write_contact_sheet(out, pyramid, shown, columns, level, captions)
        left = (
            f"; {len(numbers) - len(shown):,} more do not fit into --grid {columns}x{rows}"
            if len(numbers) > len(shown)
            else ""
        )
        click.echo(f"{printable(str(out))}: {len(shown):,} of {pyramid.count:,} images at {level}x{level}{left}")


def _chosen(pyramid: PyramidFile, index: str | None, names: tuple[str, ...]) -> list[int]:
    """Return the selected indices, those of --index first."""
    from celebahq_builder.inspect import extract as extract_module

    by_index = extract_module.parse_indices(index, pyramid.count) if index else []
    return list(dict.fromkeys(by_index + (extract_module.indices_of_ids(names, pyramid) if names else [])))


def _shown(
    pyramid: PyramidFile,
    fit: int,
    *,
    index: str | None,
    names: tuple[str, ...],
    drawn: bool,
    seed: int,
    **asked: bool,
) -> list[int]:
    """Return the indices to show; more than fit only if the user listed them."""
    from celebahq_builder.inspect import extract as extract_module

    best, worst = asked["best"], asked["worst"]
    if (bool(index or names) + drawn + (best or worst)) > 1:
        raise FormatError("--index or --id, --random, and --best or --worst exclude each other; take one of them")
    if index or names:
        return _chosen(pyramid, index, names)
    if drawn:
        return extract_module.draw_indices(fit, pyramid.count, seed)
    if best or worst:
        return extract_module.best_and_worst(pyramid, fit, best=best, worst=worst)
    return list(range(min(fit, pyramid.count)))
