"""Commands that look into data set files: ``extract``, ``compare``, ``view``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celebahq_builder.cli.main import PATH, celebahq
from celebahq_builder.errors import CelebAHQError, FormatError

if TYPE_CHECKING:
    from celebahq_builder.hdf5.reader import PyramidFile

FILE = click.argument("file", type=PATH, metavar="FILE.h5")

INDEX = click.option(
    "--index", "index", metavar="I", help="Numbers and slices from 0 as in Python: 0:10, 1,5,7, -1, ::100."
)
NAMES = click.option(
    "--id", "names", multiple=True, metavar="NAME", help="Its id or source file, where the file knows it; repeatable."
)
RESOLUTION = click.option("--resolution", type=click.IntRange(1), metavar="R", help="Of the level to take.")


@celebahq.command(interrupted="nothing is left of it, the same command begins anew")
@FILE
@INDEX
@NAMES
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the PNG files.")
@RESOLUTION
def extract(file: Path, index: str | None, names: tuple[str, ...], out: Path, resolution: int | None) -> None:
    """Write images of an HDF5 file as PNG files, lossless, named by their number: 00000.png.

    --resolution is the largest level by default. Nothing is ever overwritten. Files of the original ProGAN tool and
    grey ones will do; those know no ids.
    """
    from celebahq_builder.hdf5.reader import PyramidFile
    from celebahq_builder.inspect.contact_sheet import tiles
    from celebahq_builder.inspect.extract import extract as write

    if not index and not names:
        raise FormatError("say which images: --index 0:10, say, --index : for all, or --id NAME")
    with PyramidFile.with_images(file) as pyramid:
        numbers = _chosen(pyramid, index, names)
        told = list(tiles(pyramid, numbers))  # what is wrong with it is known before anything is written
        written = write(pyramid, numbers, out, resolution)
        for path, tile in zip(written, told, strict=True):
            click.echo("  ".join(filter(None, (str(path), tile.name))))
    click.echo(f"{len(written):,} of {pyramid.count:,} images written to {out}")


@celebahq.command()
@click.argument("a", type=PATH, metavar="A.h5")
@click.argument("b", type=PATH, metavar="B.h5")
@click.option(
    "--by",
    type=click.Choice(["id", "file", "position"]),
    help="What makes two images a pair: id, source file or place; default the first that both files have.",
)
@click.option("--resolution", type=click.IntRange(1), metavar="R", help="Only this level; default all both have.")
@click.option("--full", is_flag=True, help="Read those images too whose recorded SHA-256 are equal.")
@click.option(
    "--worst", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Name the N that differ most."
)
def compare(a: Path, b: Path, **asked: Any) -> None:
    """Say which images of two HDF5 files differ, and by how much.

    Images are paired by id, by source file, or by place in the file, and compared level by level: the largest and
    the mean absolute difference in levels of 0 to 255, and the PSNR. Where both files record the SHA-256 of an image
    and these are equal, it is taken for equal and not read; --full reads all.

    Only images are compared, not what is known of them. Another order is told but is no difference; an image or a
    level that only one file has, is one.

    Exit code: 0 all equal, 1 there are differences, 2 the files cannot be compared.
    """
    from celebahq_builder.hdf5.reader import PyramidFile
    from celebahq_builder.inspect import compare as compare_module

    try:
        with PyramidFile.with_images(a) as one, PyramidFile.with_images(b) as other:
            result = compare_module.compare(one, other, **asked)
            for line in compare_module.lines(one, other, result):
                click.echo(line)
    except CelebAHQError as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(2) from None
    if not result.equal:
        raise click.exceptions.Exit(1)


@celebahq.command(interrupted="nothing was written")
@FILE
@click.option("--out", type=PATH, required=True, metavar="SHEET.png", help="Ends in .png, .jpg or .html.")
@click.option("--grid", metavar="CxR", help="Columns and most rows of images; default 8x5.")
@click.option("--level", "--resolution", "resolution", type=click.IntRange(1), metavar="R", help="Level to show.")
@INDEX
@NAMES
@click.option("--random", "drawn", is_flag=True, help="Images drawn at random.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="Of --random.")
@click.option("--best", is_flag=True, help="Those of the highest scores.")
@click.option("--worst", is_flag=True, help="Those of the lowest scores, the lowest last; with --best half of each.")
@click.option("--captions/--no-captions", default=True, help="Number, score and name under each; the default.")
def view(file: Path, out: Path, grid: str | None, resolution: int | None, captions: bool, **asked: Any) -> None:
    """Show images of an HDF5 file on a contact sheet, or on an HTML page that can be sent as one file.

    By default the first ones, as they are at the level next to 192 px. Nothing is ever overwritten. A page without
    --grid has fewer columns where the window is small.
    """
    from celebahq_builder.hdf5.reader import PyramidFile
    from celebahq_builder.inspect import contact_sheet

    match = re.fullmatch(r"(\d{1,4})[xX](\d{1,4})", grid or "8x5")
    columns, rows = (int(match[1]), int(match[2])) if match else (0, 0)
    if not columns or not rows:
        raise FormatError(f"--grid {grid}: expected columns x rows, such as 8x5")
    with PyramidFile.with_images(file) as pyramid:
        numbers = _shown(pyramid, columns * rows, **asked)
        shown = contact_sheet.tiles(pyramid, numbers[: columns * rows])
        level = resolution or contact_sheet.level_for(pyramid)
        if out.suffix.lower() == ".html":
            contact_sheet.write_contact_page(out, pyramid, shown, level, columns if grid else None, captions)
        else:
            contact_sheet.write_contact_sheet(out, pyramid, shown, columns, level, captions)
        left = (
            f"; {len(numbers) - len(shown):,} more did not fit into --grid {columns}x{rows}"
            if len(numbers) > len(shown)
            else ""
        )
        click.echo(f"{out}: {len(shown):,} of {pyramid.count:,} images at {level}x{level}{left}")


def _chosen(pyramid: PyramidFile, index: str | None, names: tuple[str, ...]) -> list[int]:
    """Return the numbers asked for, those of --index first."""
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
    """Return the numbers to show; more than fit only where they were named one by one."""
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
