"""The images of a build report: results, their photos and crops, examples, contact sheets, spectra, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from celebahq_builder.html import link, thumbnails
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.image_set import photo_path
from celebahq_builder.imaging import orientation
from celebahq_builder.landmarks.page import ShownPhoto, draw_face
from celebahq_builder.outcome import Kept
from celebahq_builder.pipeline.face import PhotoRecord
from celebahq_builder.pipeline.results import PhotoStatus
from celebahq_builder.pipeline.stage import PhotoStage, record_types
from celebahq_builder.pipeline.stages import load_stages
from celebahq_builder.pipeline.stages.crop import CropRecord
from celebahq_builder.run_directory.state import RunDescription
from celebahq_builder.run_directory.workspace import Workspace

T = TypeVar("T")

FACE_PX = 320
"""Side length of the thumbnails of faces, and of those of their photos."""

EXAMPLES = 6
"""Photos shown at every stage."""

EXAMPLE_PX = 320
"""Side length of their crops."""

DETAIL = (0.375 - 160 / 768, 0.475 - 96 / 768, 0.375 + 160 / 768, 0.475 + 96 / 768)
"""Box around the eye on the viewer's left, which the crop puts near (0.375, 0.475): 320 x 192 px of an example."""

SHEET = 24
"""Photos on a sheet."""

SHEET_PX = 160

SPECTRA = 8
"""Results at each end of the ranking whose spectra are shown."""

ROW_PX = 96


@dataclass(frozen=True)
class PhotoImage:
    """A photo with its thumbnail, and a link to the whole image."""

    status: PhotoStatus
    thumbnail: Thumbnail | None
    link: str | None

    @property
    def id(self) -> str:
        """Id of the photo."""
        return self.status.id

    @property
    def name(self) -> str:
        """File of the photo, and its face where it has several, as a caption."""
        return self.status.name

    @property
    def zoom(self) -> str:
        """Zoom of the photo, as a caption; empty where it has none."""
        return "" if self.status.zoom is None else f"{self.status.zoom:.2f}"

    @property
    def score(self) -> str:
        """Score of the photo, as a caption; empty where it has none."""
        return "" if self.status.score is None else f"{self.status.score:.3f}"


@dataclass(frozen=True)
class Origin:
    """The photo of a face, and the crop in it."""

    photo: ShownPhoto
    crop: Thumbnail


@dataclass(frozen=True)
class Step:
    """An example photo after a stage."""

    name: str
    whole: Thumbnail
    detail: Thumbnail
    link: str


@dataclass(frozen=True)
class Example:
    """The images of a photo after each stage."""

    status: PhotoStatus
    steps: list[Step]


@dataclass(frozen=True)
class ReportImages:
    """Makes the images of a report from the files of a run."""

    workspace: Workspace
    run: RunDescription

    def faces(self, photos: Sequence[PhotoStatus]) -> list[tuple[PhotoImage, Origin | None]]:
        """Return results, each with its photo; None for a photo that is missing or cannot be read."""
        return [(self._result(one, FACE_PX), self._origin(one)) for one in photos]

    def _origin(self, one: PhotoStatus) -> Origin | None:
        folder = self.workspace.stage(self.run.image_stage)
        outcomes = folder.read_manifest(one.batch) if folder.manifest_path(one.batch).exists() else []
        kept = next((end for end in outcomes if isinstance(end, Kept) and end.key == one.key), None)
        if kept is None:
            return None
        record = PhotoRecord.from_kept(kept, record_types(load_stages(self.run.method)))
        crop = record.get(CropRecord)
        if crop is None:
            return None
        found = thumbnails.of_origin(Path(self.run.source), one.file, np.array(crop.quad), FACE_PX, self.run.resolution)
        if found is None:
            return None
        photo, cut, exif_orientation = found
        turned = orientation.checked(exif_orientation)
        points = orientation.to_upright(np.reshape(record.identity.landmarks, (5, 2)), crop.size, turned)
        width_px, _ = orientation.upright_size(crop.size, turned)
        face = draw_face(points, photo.width_px / width_px, "used", f"{self.run.resolution / crop.zoom:.0f} px wide")
        title = f"{one.name}, photo with landmarks and crop"
        return Origin(ShownPhoto(title, ("used",), photo, (face,), "", self._photo_link(one)), cut)

    def examples(self, statuses: Sequence[PhotoStatus]) -> list[Example]:
        """Return photos after each stage, the smallest face first; photos not kept only where others are too few."""
        folder = self.workspace.report_path.parent / "examples"
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        recorded = [one for one in statuses if one.id in names and one.zoom is not None]
        readable = [Example(one, steps) for one in recorded if (steps := self._steps(one))]
        kept = [one for one in readable if one.status.end is None]
        others = [one for one in readable if one.status.end is not None]
        chosen = [*kept, *others[: max(EXAMPLES - len(kept), 0)]]
        return _spread(sorted(chosen, key=lambda one: -(one.status.zoom or 0.0)), EXAMPLES)

    def _steps(self, one: PhotoStatus) -> list[Step] | None:
        """Return an example's images after all stages, or None if one of them is missing."""
        steps = []
        for stage in load_stages(self.run.method):
            if isinstance(stage, PhotoStage) and stage.example_title:
                path = self.workspace.example_path(one.id, stage.name)
                images = thumbnails.of_example(path, EXAMPLE_PX, DETAIL)
                if images is None:
                    return None
                steps.append(Step(stage.example_title, *images, link(path, self.workspace.report_path)))
        return steps

    def sheets(self, kept: Sequence[PhotoStatus], low: Sequence[PhotoStatus]) -> list[tuple[str, list[PhotoImage]]]:
        """Return sheets of results with their titles: both ends of those kept, and the best of those below the cut.

        Args:
            kept: best first.
            low: below the cut, best first.
        """
        ends = (
            ("Best of those kept", kept[:SHEET]),
            ("Last of those kept", kept[SHEET:][-SHEET:]),
            ("First of those below the cut", low[:SHEET]),
        )
        return [(title, [self._result(one, SHEET_PX) for one in photos]) for title, photos in ends if photos]

    def spectra(
        self, ranked: Sequence[PhotoStatus], *, with_faces: bool
    ) -> list[tuple[str, list[tuple[PhotoImage, Thumbnail]]]]:
        """Return the results of the highest and of the lowest scores with their spectra, each end under its title.

        Args:
            ranked: all that have a score, best first, whether they were kept or not.
            with_faces: whether the results have thumbnails.
        """
        ends = (("Highest scores", ranked[:SPECTRA]), ("Lowest scores", ranked[SPECTRA:][-SPECTRA:]))
        found = []
        for title, photos in ends:
            spectra = [(one, thumbnails.of_spectrum(self._path(one), SHEET_PX)) for one in photos]
            shown = [
                (self._result(one, SHEET_PX) if with_faces else PhotoImage(one, None, None), spectrum)
                for one, spectrum in spectra
                if spectrum
            ]
            if shown:
                found.append((title, shown))
        return found

    def rows(self, photos: Sequence[PhotoStatus], left: int) -> list[PhotoImage]:
        """Return rejected and failed photos: the aligned face where there is one, else the photo of the source.

        Args:
            photos: to return.
            left: largest number of thumbnails.
        """
        rows: list[PhotoImage] = []
        for one in photos:
            if not left:
                row = PhotoImage(one, None, None)
            elif one.score is not None:
                row = self._result(one, ROW_PX)
            else:
                thumbnail = thumbnails.of_photo(Path(self.run.source), one.file, ROW_PX)
                row = PhotoImage(one, thumbnail, self._photo_link(one) if thumbnail else None)
            left -= row.thumbnail is not None
            rows.append(row)
        return rows

    def _result(self, one: PhotoStatus, side_px: int) -> PhotoImage:
        thumbnail = thumbnails.of_image(self._path(one), side_px)
        return PhotoImage(one, thumbnail, self.link(one) if thumbnail else None)

    def link(self, one: PhotoStatus) -> str | None:
        """Return the address of an aligned image relative to the page; None for a photo that has none."""
        return link(self._path(one), self.workspace.report_path) if one.image else None

    def _photo_link(self, one: PhotoStatus) -> str:
        return link(photo_path(Path(self.run.source), one.file), self.workspace.report_path)

    def _path(self, one: PhotoStatus) -> Path:
        return self.workspace.stage(self.run.image_stage).root / one.image


def _spread(items: list[T], count: int) -> list[T]:
    """Return `count` items at even distances, including the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
