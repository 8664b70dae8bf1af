"""The report of a run with photos of many outcomes, and its page as elements and texts."""

import base64
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from celebahq_builder.outcome import Kept
from celebahq_builder.pipeline import report_images
from celebahq_builder.pipeline.build_report import write_build_report
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import SAMPLE

HOSTILE = "<b>&\"'.jpg"
"""A good photo whose name is markup."""

LONG = f"{'x' * 120}.jpg"
"""A missing photo whose name is wider than a window."""

UNLUCKY = "000008.jpg"
"""A photo for which a stage raises an unexpected error."""

EXAMPLE_STAGES = ("crop", "denoise", "upscale", "align")

TIMES_4 = "4\N{MULTIPLICATION SIGN}"
"""The upscaler's factor on a page."""

VOID = {"meta", "img", "wbr", "link", "br", "hr", "input"}


def bad_sample(root: Path) -> Path:
    """The sample with a missing file, an empty one, an unlisted one, a row without numbers, and odd names."""
    shutil.copytree(SAMPLE, root)
    photos, table = root / "img_celeba", root / "Anno" / "list_landmarks_celeba.txt"
    rows = table.read_text().splitlines()
    good = next(row for row in rows if row.startswith("000003.jpg")).split(maxsplit=1)[1]
    shutil.copy(photos / "000003.jpg", photos / HOSTILE)
    shutil.copy(photos / "000003.jpg", photos / "<i>unlisted.jpg")
    (photos / "empty&lt;.jpg").touch()
    rows += [f"{name} {good}" for name in (HOSTILE, "empty&lt;.jpg", LONG)] + ["<u>nonsense.jpg 1 2 x"]
    table.write_text("\n".join([str(len(rows) - 2), *rows[1:]]) + "\n")
    return root


def images_of(workspace: Workspace) -> report_images.ReportImages:
    return report_images.ReportImages(workspace, workspace.run())


def scores_of(workspace: Workspace) -> dict[str, float]:
    scored = (one for _, one in workspace.stage("score").outcomes() if isinstance(one, Kept))
    return {one.photo: one.record["score"]["score"] for one in scored}


def page_examples(workspace: Workspace) -> list[str]:
    """Names of the photos shown at every stage, in the order of the page."""
    return [one.status.name for one in images_of(workspace).examples(photo_statuses(workspace))]


class Page(HTMLParser):
    """A page's elements and texts."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        """Text by id, or by value of a data attribute."""
        self.tables: list[list[list[str]]] = []
        """Texts of the cells of each row of each table."""
        self.text = ""
        self.open: list[tuple[str, str]] = []
        self.feed(workspace.report_path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append((tag, values.get("id") or values.get("data-reason") or values.get("data-note") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        for tag, name in self.open:
            self.texts[name] = self.texts.get(name, "") + data
            if tag in ("td", "th"):
                self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [values for name, values in self.elements if name == tag]

    @property
    def rows(self) -> list[list[str]]:
        """The rows of all tables."""
        return [row for rows in self.tables for row in rows]

    def left_out(self) -> list[list[str]]:
        """The rows of the table of photos left out: image, file, reason, what was found."""
        head = ["", "file", "reason", "what was found"]
        return next(rows[1:] for rows in self.tables if rows[0] == head)

    def row(self, file: str) -> str:
        """The row of that table that is headed by a file name."""
        return " ".join(next(row for row in self.left_out() if row[1] == file))


def rewritten(workspace: Workspace) -> Page:
    """Write the report again and return its page."""
    write_build_report(workspace)
    return Page(workspace)


def open_image(uri: str) -> Image.Image:
    kind, data = uri.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
