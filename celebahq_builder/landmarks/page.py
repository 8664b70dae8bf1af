"""HTML pages that show every photo with the faces that were found in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import printable
from celebahq_builder.html import render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.image_set import utf8_name
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks
from celebahq_builder.landmarks import orientation
from celebahq_builder.landmarks.crops import MIRRORED
from celebahq_builder.landmarks.find import FaceRules
from celebahq_builder.landmarks.search import THUMBNAIL_PX, FoundFace, SearchedPhoto
from celebahq_builder.storage import RecordLog

PAGE_PHOTOS = 400
"""Photos on one page, 4 MB; more photos get more pages."""


@dataclass(frozen=True)
class ShownFace:
    """A face on a thumbnail, in px of the thumbnail."""

    used: bool
    points: tuple[tuple[float, float], ...]
    corners: str
    """Corners of the crop, for an SVG polygon; empty where the crop is undefined."""
    top: str
    """The upper side of the crop, for an SVG polyline."""
    words: str


@dataclass(frozen=True)
class ShownPhoto:
    """A photo on the page."""

    name: str
    kind: str
    """``used``, ``none`` (no face is used), or ``some`` (some faces are used, some are not)."""
    thumbnail: Thumbnail | None
    faces: tuple[ShownFace, ...]
    words: str
    """Reason for which no face is used; empty if one is."""


def write_pages(
    path: Path, photos: Sequence[SearchedPhoto], rules: FaceRules, log: RecordLog, *, folder: Path, table: str
) -> None:
    """Write the pages, the most doubtful photos first: those without a face, then by the spread of the landmarks.

    Args:
        path: of the first page, ``NAME.html``; the others are ``NAME-2.html``, ...
        photos: that were searched.
        rules: by which faces are used.
        log: that has the thumbnails, and by which the pages are written.
        folder: of the photos.
        table: file name of the table.
    """
    ordered = sorted(photos, key=lambda photo: (-_doubt(photo, rules), photo.file))
    parts = [ordered[start : start + PAGE_PHOTOS] for start in range(0, len(ordered), PAGE_PHOTOS)]
    names = [path.name if number == 1 else f"{path.stem}-{number}.html" for number in range(1, len(parts) + 1)]
    rejections = [one for photo in photos if (one := rules.rejection(photo)) is not None]
    used = sum(len(rules.chosen(photo)) for photo in photos)
    contents = {
        "folder": printable(str(folder)),
        "table": table,
        "photos": len(photos),
        "faces": used,
        "without": len(rejections),
        "other": sum(len(photo.faces) for photo in photos) - used,
        "rules": rules,
        "reasons": Counter(one.reason for one in rejections).most_common(),
        "pages": names,
    }
    for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
        shown = [_shown(photo, rules, log) for photo in part]
        counts = Counter(one.kind for one in shown)
        page = render_page("landmarks.html.j2", {**contents, "number": number, "shown": shown, "counts": counts})
        log.write(path.with_name(name), page)


def _doubt(photo: SearchedPhoto, rules: FaceRules) -> float:
    """Return how much a photo should be looked at."""
    chosen = rules.chosen(photo)
    return max(face.spread for face in chosen) if chosen else float("inf")


def _shown(photo: SearchedPhoto, rules: FaceRules, log: RecordLog) -> ShownPhoto:
    chosen, rejection = rules.chosen(photo), rules.rejection(photo)
    thumbnail, scale = None, 0.0
    if max(photo.size):
        width, height = photo.size if photo.orientation < 5 else photo.size[::-1]
        scale = min(1.0, THUMBNAIL_PX / max(width, height))
        jpeg = log.latest(photo.file).get("thumbnail", "")
        thumbnail = Thumbnail(
            f"data:image/jpeg;base64,{jpeg}", max(round(width * scale), 1), max(round(height * scale), 1)
        )
    kind = "none" if not chosen else "some" if len(chosen) < len(photo.faces) else "used"
    faces = tuple(_shown_face(photo, face, face in chosen, rules, scale) for face in photo.faces)
    words = f"{rejection.reason.describe}: {rejection.detail}" if rejection else ""
    return ShownPhoto(printable(utf8_name(photo.file)), kind, thumbnail, faces, words)


def _shown_face(photo: SearchedPhoto, face: FoundFace, used: bool, rules: FaceRules, scale: float) -> ShownFace:
    points = orientation.to_upright(face.points, photo.size, photo.orientation)
    problem = None if used else rules.problem(face) or f"left out by faces = {rules.faces}"
    words = f"confidence {face.confidence:.2f}, crop {face.crop_px:.0f} px, spread {face.spread:.2f}"
    mirrored = orientation.is_mirrored(photo.orientation)
    return draw_face(
        points[list(MIRRORED)] if mirrored else points, scale, used, f"not used: {problem}" if problem else words
    )


def draw_face(points: Points, scale: float, used: bool, words: str) -> ShownFace:
    """Return five landmarks [5, 2] and their crop on a thumbnail.

    Args:
        points: in px of the image of which the thumbnail is made.
        scale: px of the thumbnail per px of the image.
        used: whether the face is drawn as one that is used.
        words: about the face.
    """
    try:
        corners = [f"{x:.1f},{y:.1f}" for x, y in crop_from_landmarks(points).quad * scale]
    except ValueError:
        corners = []
    return ShownFace(
        used=used,
        points=tuple((round(float(x), 1), round(float(y), 1)) for x, y in (points + 0.5) * scale),
        corners=" ".join(corners),
        top=f"{corners[0]} {corners[3]}" if corners else "",
        words=words,
    )
