"""HTML pages that show every photo with the faces that were found in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from celebahq_builder.errors import SourceError, printable
from celebahq_builder.html import link, render_page
from celebahq_builder.html.thumbnails import Thumbnail
from celebahq_builder.image_set import photo_path, utf8_name
from celebahq_builder.imaging import orientation
from celebahq_builder.imaging.geometry import Points, crop_from_landmarks, plan_crop
from celebahq_builder.landmarks.choice import FaceRules
from celebahq_builder.landmarks.detector import DetectedFace
from celebahq_builder.landmarks.search import SearchedPhoto, thumbnail_scale, thumbnail_size
from celebahq_builder.outcome import Rejection
from celebahq_builder.sources.face_ids import unique_ids
from celebahq_builder.storage import RecordLog

PAGE_PHOTOS = 400
"""Photos on one page, 4 MB; more photos get more pages."""

CROP_MIN_PX, INSIDE_MIN = 48, 0.25
"""Limits of the recipe own-photos, see `imaging.geometry.plan_crop`: a build with it rejects the other faces."""

LABEL_PX = 16
"""Height of the id of a face, in px of the thumbnail."""


@dataclass(frozen=True)
class ShownFace:
    """A face on a thumbnail, in px of the thumbnail."""

    kind: str
    """``used``, ``rejected`` (in the table, but a build rejects it), or ``unused``."""
    points: tuple[tuple[float, float], ...]
    corners: str
    """Corners of the crop, for an SVG polygon; empty where the crop is undefined."""
    top: str
    """The upper side of the crop, for an SVG polyline."""
    words: str
    id: str
    """Id of the face in a build; empty where it has none."""
    id_at: tuple[float, float]
    """Position of the id: the left end of its baseline."""


@dataclass(frozen=True)
class ShownPhoto:
    """A photo on the page."""

    name: str
    kinds: tuple[str, ...]
    """``used``, ``none`` (no face is used), or ``some`` (some faces are used, some are not); and ``rejected`` where a
    build rejects a used face."""
    thumbnail: Thumbnail | None
    faces: tuple[ShownFace, ...]
    words: str
    """Reason for which no face is used; empty if one is."""
    link: str
    """Address of the photo relative to the page."""


def write_pages(
    path: Path, photos: Sequence[SearchedPhoto], rules: FaceRules, log: RecordLog, *, folder: Path, table: str
) -> None:
    """Write the pages, the most doubtful photos first: those without a face, then by the spread of the landmarks.

    Args:
        path: of the first page, ``NAME.html``; the others are ``NAME-2.html``, ...
        log: has the thumbnails, and writes the pages.
        table: file name of the table.
    """
    ordered = sorted(photos, key=lambda photo: (-_doubt(photo, rules), photo.file))
    parts = [ordered[start : start + PAGE_PHOTOS] for start in range(0, len(ordered), PAGE_PHOTOS)]
    names = [path.name if number == 1 else f"{path.stem}-{number}.html" for number in range(1, len(parts) + 1)]
    rejections = [one for photo in photos if (one := rules.rejection(photo)) is not None]
    used = sum(len(rules.chosen(photo)) for photo in photos)
    contents = {
        "name": printable(folder.resolve().name),
        "folder": printable(str(folder)),
        "table": table,
        "photos": len(photos),
        "faces": used,
        "later": sum(build_rejection(photo, face) is not None for photo in photos for face in rules.chosen(photo)),
        "without": len(rejections),
        "other": sum(len(photo.faces) for photo in photos) - used,
        "rules": rules,
        "reasons": Counter(one.reason for one in rejections).most_common(),
        "pages": names,
    }
    ids = _face_ids(photos, rules, table)
    for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
        shown = [
            _shown(photo, rules, ids.get(photo.file, []), log, link(photo_path(folder, photo.file), path))
            for photo in part
        ]
        counts = Counter(kind for one in shown for kind in one.kinds)
        page = render_page("landmarks.html.j2", {**contents, "number": number, "shown": shown, "counts": counts})
        log.write(path.with_name(name), page)


def build_rejection(photo: SearchedPhoto, face: DetectedFace) -> Rejection | None:
    """Return why a build with the recipe own-photos rejects a face, or None if it accepts its crop."""
    try:
        plan_crop(face.landmarks, *photo.size, crop_min_px=CROP_MIN_PX, inside_min=INSIDE_MIN)
    except Rejection as rejection:
        return rejection
    return None


def _doubt(photo: SearchedPhoto, rules: FaceRules) -> float:
    """Return the largest spread of the used faces; infinite without one, above 1000 if a build rejects one."""
    chosen = rules.chosen(photo)
    if not chosen:
        return math.inf
    return max(face.spread + 1000 * (build_rejection(photo, face) is not None) for face in chosen)


def _face_ids(photos: Sequence[SearchedPhoto], rules: FaceRules, table: str) -> dict[str, list[str]]:
    """Return the ids that a build gives to the used faces of each file; none where two would be the same."""
    faces = {photo.file: [""] * len(chosen) for photo in photos if (chosen := rules.chosen(photo))}
    try:
        return unique_ids(table, faces)
    except SourceError:  # a build with this table says what to rename
        return {}


def _shown(photo: SearchedPhoto, rules: FaceRules, ids: Sequence[str], log: RecordLog, address: str) -> ShownPhoto:
    chosen, rejection = rules.chosen(photo), rules.rejection(photo)
    thumbnail, scale = None, 0.0
    if max(photo.size):
        size = orientation.upright_size(photo.size, photo.orientation)
        scale = thumbnail_scale(*size)
        jpeg = log.latest(photo.file).get("thumbnail", "")
        thumbnail = Thumbnail(f"data:image/jpeg;base64,{jpeg}", *thumbnail_size(*size))
    names = dict(zip(chosen, ids, strict=False))
    faces = tuple(_shown_face(photo, face, names.get(face, ""), rules, scale) for face in photo.faces)
    kinds = ["none" if not chosen else "some" if len(chosen) < len(photo.faces) else "used"]
    kinds += ["rejected"] if any(face.kind == "rejected" for face in faces) else []
    words = f"{rejection.reason.describe}: {rejection.detail}" if rejection else ""
    return ShownPhoto(printable(utf8_name(photo.file)), tuple(kinds), thumbnail, faces, words, address)


def _shown_face(photo: SearchedPhoto, face: DetectedFace, name: str, rules: FaceRules, scale: float) -> ShownFace:
    points = orientation.to_upright(face.landmarks, photo.size, photo.orientation)
    if face not in rules.chosen(photo):
        problem = rules.problem(face) or f"left out by faces = {rules.faces}"
        return draw_face(points, scale, "unused", f"not used: {problem}")
    if rejection := build_rejection(photo, face):
        return draw_face(
            points, scale, "rejected", f"rejected by a build ({rejection.reason}): {rejection.detail}", name
        )
    words = f"confidence {face.confidence:.2f}, crop {face.crop_px:.0f} px, spread {face.spread:.2f}"
    return draw_face(points, scale, "used", words, name)


def draw_face(points: Points, scale: float, kind: str, words: str, name: str = "") -> ShownFace:
    """Return five landmarks [5, 2] and their crop on a thumbnail.

    Args:
        points: in px of the image of which the thumbnail is made.
        scale: px of the thumbnail per px of the image.
        kind, words, name: see the fields `kind`, `words` and `id` of `ShownFace`.
    """
    try:
        quad = crop_from_landmarks(points).quad * scale
    except ValueError:
        quad = points[:0]
    corners = [f"{x:.1f},{y:.1f}" for x, y in quad]
    left, top = quad.min(axis=0) if corners else points.min(axis=0) * scale
    return ShownFace(
        kind=kind,
        points=tuple((round(float(x), 1), round(float(y), 1)) for x, y in (points + 0.5) * scale),
        corners=" ".join(corners),
        top=f"{corners[0]} {corners[3]}" if corners else "",
        words=words,
        id=printable(name),
        id_at=(round(max(float(left), 0) + 2, 1), round(max(float(top), 0) + LABEL_PX, 1)),
    )
