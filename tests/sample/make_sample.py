"""Cuts the sample data set from public-domain portraits that ship inside two Python packages.

The sample has the layout of CelebA (``img_celeba``, ``Anno``, ``Eval``) and a dozen photos in place of
two hundred thousand. `portraits.toml` beside this script holds the landmarks of the portraits and the
recipe of every photo; the script applies one affine map to the pixels and to the landmarks of a photo,
changes its tone, and stores it as a JPEG.

The portraits themselves are not kept here. To fetch and unpack them into a folder ``sources``::

    pip download --no-deps --only-binary :all: scikit-image==0.26.0
    pip download --no-deps --no-binary face_recognition face_recognition==1.3.0
    mkdir sources
    tar xzf face_recognition-1.3.0.tar.gz -C sources
    python -m zipfile -e scikit_image-0.26.0-*.whl sources
    python tests/sample/make_sample.py --sources sources

Any release of the packages will do as long as the portraits in it have the digests in `portraits.toml`.
With the same sources, Pillow 13.0.0 and numpy 2.4.6 the output is the same, byte for byte.
"""

import argparse
import hashlib
import io
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SEED = 20171027
HERE = Path(__file__).resolve().parent
POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
MIRRORED_ORDER = [1, 0, 2, 4, 3]  # left and right eye, and left and right mouth corner, change places
KEEP_SHARE = 0.6  # a photo that is to be kept has at least this much of its crop square inside
REJECT_SHARE = 0.4  # one that is to be rejected for it has less than this
TRUNCATE_AT = 0.55  # where the broken file ends, as a fraction of its entropy-coded data

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Portrait:
    """A source portrait and what is known about it; the fields are explained in `portraits.toml`."""

    package: str
    file: str
    sha256: str
    size: tuple[int, int]
    title: str
    author: str
    face_height: float
    landmarks: Array
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Photo:
    """The recipe of one photo; the fields are explained in `portraits.toml`."""

    portrait: str
    shows: str
    quality: int
    partition: int
    crop_side: float = 0.0
    canvas: tuple[int, int] = (0, 0)
    center: tuple[float, float] = (0.0, 0.0)
    whole: bool = False
    scale: float = 1.0
    angle: float = 0.0
    mirror: bool = False
    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    warmth: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    grey: bool = False
    subsampling: str = "4:2:0"
    progressive: bool = False
    reject: Literal["", "truncated", "outside"] = ""
    attributes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Cut:
    """A finished photo: the bytes of its file and what the annotations say about it."""

    name: str
    photo: Photo
    data: bytes
    size: tuple[int, int]
    landmarks: NDArray[np.int64]
    attributes: frozenset[str]
    crop_side: float
    face_height: float
    inside: float


# --- Geometry --------------------------------------------------------------------------------------------


def rot90(v: Array) -> Array:
    """Turns a vector by a quarter, as CelebA-HQ does."""
    return np.array([-v[1], v[0]])


def crop_square(landmarks: NDArray[Any]) -> Array:
    """The four corners of the CelebA-HQ crop square, in order around it: (4, 2) of x, y."""
    eye0, eye1, _, mouth0, mouth1 = np.asarray(landmarks, dtype=np.float64)
    eyes, mouth = (eye0 + eye1) / 2, (mouth0 + mouth1) / 2
    eye_to_eye, eye_to_mouth = eye1 - eye0, mouth - eyes
    side = max(4.0 * math.hypot(*eye_to_eye), 3.6 * math.hypot(*eye_to_mouth))
    x = eye_to_eye - rot90(eye_to_mouth)
    x *= side / 2 / math.hypot(*x)
    y = rot90(x)
    center = eyes + 0.1 * eye_to_mouth
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y])


def side_of(square: Array) -> float:
    """The side of a square given by its corners."""
    return math.hypot(*(square[1] - square[0]))


def clip(polygon: Array, normal: Array, limit: float) -> Array:
    """The part of a convex polygon where ``point @ normal <= limit``."""
    kept: list[Array] = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        here_over, there_over = float(here @ normal) - limit, float(there @ normal) - limit
        if here_over <= 0:
            kept.append(here)
        if here_over * there_over < 0:
            kept.append(here + (there - here) * (here_over / (here_over - there_over)))
    return np.array(kept).reshape(-1, 2)


def area(polygon: Array) -> float:
    """The area of a polygon given by its corners in order."""
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def inside_share(square: Array, size: tuple[int, int]) -> float:
    """The fraction of a square's area that lies in a photo, whose pixels reach from -0.5 to size - 0.5."""
    part = square
    for axis, extent in enumerate(size):
        normal = np.eye(2)[axis]
        part = clip(part, normal, extent - 0.5)
        part = clip(part, -normal, 0.5)
    return area(part) / area(square)


def translation(x: float, y: float) -> Array:
    """The 3 x 3 matrix of a shift."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def linear(photo: Photo) -> Array:
    """The 3 x 3 matrix that mirrors, if the photo asks for it, and turns about the origin."""
    cos, sin = math.cos(math.radians(photo.angle)), math.sin(math.radians(photo.angle))
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return turn @ np.diag([-1.0 if photo.mirror else 1.0, 1.0, 1.0])


def apply(matrix: Array, points: Array) -> Array:
    """Maps points, (n, 2) of x, y, by a 3 x 3 affine matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def resized(image: Image.Image, scale: float) -> tuple[Image.Image, Array]:
    """The image at another scale, and the matrix that does the same to points in corner coordinates."""
    width, height = round(image.width * scale), round(image.height * scale)
    matrix = np.diag([width / image.width, height / image.height, 1.0])
    if (width, height) == image.size:
        return image, matrix
    return image.resize((width, height), Image.Resampling.LANCZOS), matrix


def cut_out(image: Image.Image, photo: Photo, center: Array) -> tuple[Image.Image, Array]:
    """Puts `center` of the image at the photo's centre, turned and mirrored; returns the matrix as well.

    Matrices act on corner coordinates, in which the first pixel reaches from 0 to 1. Without a turn the
    shift is made whole, so that the pixels are copied and not interpolated.
    """
    turn = linear(photo)
    shift = np.array(photo.center) + 0.5 - apply(turn, center[None])[0]
    if photo.angle == 0:
        shift = np.rint(shift)
    matrix = translation(*shift) @ turn
    inverse = np.linalg.inv(matrix).astype(np.float64)
    width, height = photo.canvas
    corners = apply(inverse, np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]]))
    if (corners < -1e-6).any() or (corners > np.array(image.size) + 1e-6).any():
        raise ValueError(f"{photo.shows!r}: the canvas leaves the portrait: {corners.round(1).tolist()}")
    coefficients = tuple(float(v) for v in inverse[:2].ravel())
    pixels = image.transform(photo.canvas, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return pixels, matrix


def place(image: Image.Image, portrait: Portrait, photo: Photo) -> tuple[Image.Image, Array]:
    """The photo's pixels before any change of tone, and its exact landmarks (pixel centres at integers)."""
    square = crop_square(portrait.landmarks)
    scale = photo.scale if photo.whole else photo.crop_side / side_of(square)
    pixels, matrix = resized(image, scale)
    if not photo.whole:
        center = apply(matrix, square.mean(axis=0)[None] + 0.5)[0]
        pixels, onward = cut_out(pixels, photo, center)
        matrix = onward @ matrix
    landmarks = apply(matrix, portrait.landmarks + 0.5) - 0.5
    return pixels, landmarks[MIRRORED_ORDER] if photo.mirror else landmarks


# --- Tone and storage ------------------------------------------------------------------------------------


def develop(image: Image.Image, photo: Photo, rng: np.random.Generator) -> Image.Image:
    """Changes exposure, tone curve, contrast, warmth, sharpness, noise and colour as the recipe says."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    warm = np.array([1 + photo.warmth, 1.0, 1 - photo.warmth])
    pixels = np.clip(pixels * photo.gain * warm, 0, 1) ** photo.gamma
    pixels = (pixels - 0.5) * photo.contrast + 0.5
    if photo.noise:
        pixels = pixels + rng.normal(scale=photo.noise / 255, size=pixels.shape)
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    if photo.blur:
        image = image.filter(ImageFilter.GaussianBlur(photo.blur))
    return image.convert("L") if photo.grey else image


def encode(image: Image.Image, photo: Photo) -> bytes:
    """The photo's JPEG file."""
    buffer = io.BytesIO()
    colour = {} if photo.grey else {"subsampling": photo.subsampling}
    settings = {"quality": photo.quality, "progressive": photo.progressive, "optimize": True, **colour}
    image.save(buffer, "JPEG", **settings)
    data = buffer.getvalue()
    return truncated(data) if photo.reject == "truncated" else data


def truncated(jpeg: bytes) -> bytes:
    """The head of a baseline JPEG file, up to the middle of its entropy-coded data."""
    position = 2
    while jpeg[position + 1] != 0xDA:  # step over the segments to the start of the scan
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    start = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return jpeg[: start + int((len(jpeg) - start) * TRUNCATE_AT)]


# --- Reading and writing ---------------------------------------------------------------------------------


def frozen(table: dict[str, Any]) -> dict[str, Any]:
    """A table with its lists made tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def read_recipes(path: Path) -> tuple[list[str], dict[str, Portrait], list[Photo]]:
    """The names of the attributes, the portraits and the photos of a `portraits.toml`."""
    text = tomllib.loads(path.read_text("utf-8"))
    names: list[str] = text["attribute_names"]
    portraits = {
        key: Portrait(**{**frozen(table), "landmarks": np.array(table["landmarks"], dtype=np.float64)})
        for key, table in text["portraits"].items()
    }
    photos = [Photo(**frozen(table)) for table in text["photos"]]
    used = {name for portrait in portraits.values() for name in portrait.attributes}
    used |= {name for photo in photos for name in photo.attributes}
    if not used <= set(names):
        raise ValueError(f"{path}: unknown attributes {sorted(used - set(names))}")
    return names, portraits, photos


def load_portrait(sources: Path, portrait: Portrait) -> Image.Image:
    """Finds a portrait anywhere below `sources`, checks its digest and decodes it."""
    for path in sorted(sources.rglob(Path(portrait.file).name)):
        if path.as_posix().endswith("/" + portrait.file):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != portrait.sha256:
                raise ValueError(f"{path} is not the file that {HERE.name} was made from: its digest differs")
            return Image.open(io.BytesIO(data)).convert("RGB")
    raise FileNotFoundError(f"no {portrait.file} (from {portrait.package}) below {sources}")


def make_cut(number: int, image: Image.Image, portrait: Portrait, photo: Photo) -> Cut:
    """Makes one photo and everything the annotations say about it."""
    pixels, exact = place(image, portrait, photo)
    landmarks = np.rint(exact).astype(np.int64)
    image = develop(pixels, photo, np.random.default_rng([SEED, number]))
    square = crop_square(landmarks)
    scale = side_of(crop_square(exact)) / side_of(crop_square(portrait.landmarks))
    return Cut(
        name=f"{number:06d}.jpg",
        photo=photo,
        data=encode(image, photo),
        size=image.size,
        landmarks=landmarks,
        attributes=frozenset(portrait.attributes) | frozenset(photo.attributes),
        crop_side=side_of(square),
        face_height=scale * portrait.face_height,
        inside=inside_share(square, image.size),
    )


def check(cut: Cut) -> None:
    """Raises if a photo is not what its recipe promises: landmarks inside, and enough or too little else."""
    if (cut.landmarks < 0).any() or (cut.landmarks >= np.array(cut.size)).any():
        raise ValueError(f"{cut.name}: a landmark lies outside the photo: {cut.landmarks.tolist()}")
    if cut.photo.reject == "outside" and cut.inside >= REJECT_SHARE:
        raise ValueError(f"{cut.name}: {cut.inside:.1%} of the crop square is inside, too much for a reject")
    if cut.photo.reject != "outside" and cut.inside < KEEP_SHARE:
        raise ValueError(f"{cut.name}: only {cut.inside:.1%} of the crop square is inside")


def write_table(path: Path, header: Sequence[str], rows: Sequence[str]) -> None:
    """Writes one of CelebA's annotation files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in (*header, *rows)), "ascii", newline="\n")


def write_sample(out: Path, names: Sequence[str], cuts: Sequence[Cut]) -> None:
    """Writes the photos and annotations below `out`, in CelebA's layout and column widths."""
    images = out / "img_celeba"
    images.mkdir(parents=True, exist_ok=True)
    for stale in images.glob("*.jpg"):
        stale.unlink()
    for cut in cuts:
        (images / cut.name).write_bytes(cut.data)
    count = str(len(cuts))
    points = " ".join(f"{point}_{axis}" for point in POINTS for axis in "xy")
    landmarks = [f"{c.name} " + " ".join(f"{v:4d}" for v in c.landmarks.ravel()) for c in cuts]
    write_table(out / "Anno" / "list_landmarks_celeba.txt", [count, points], landmarks)
    attributes = [f"{c.name} " + " ".join(" 1" if n in c.attributes else "-1" for n in names) for c in cuts]
    write_table(out / "Anno" / "list_attr_celeba.txt", [count, " ".join(names)], attributes)
    partition = [f"{c.name} {c.photo.partition}" for c in cuts]
    write_table(out / "Eval" / "list_eval_partition.txt", [], partition)


def report(cuts: Sequence[Cut]) -> str:
    """The table of the photos in Markdown, as the README has it."""
    lines = [
        "| photo | portrait | what it shows | pixels | JPEG | crop side | hairline to chin | inside | |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for cut in cuts:
        colour = "grey" if cut.photo.grey else cut.photo.subsampling
        cells = [
            cut.name,
            f"`{cut.photo.portrait}`",
            cut.photo.shows,
            f"{cut.size[0]} x {cut.size[1]}",
            f"q{cut.photo.quality} {colour}" + (" progressive" if cut.photo.progressive else ""),
            f"{cut.crop_side:.0f}",
            f"{cut.face_height:.0f}",
            f"{100 * cut.inside:.1f} %",
            "**reject**" if cut.photo.reject else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"\n{len(cuts)} photos, {sum(len(cut.data) for cut in cuts)} bytes")
    return "\n".join(lines)


def main() -> None:
    """Makes the sample."""
    parser = argparse.ArgumentParser(description="Cuts the sample data set from its source portraits.")
    parser.add_argument("--sources", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, default=HERE / "celeba", help="default: celeba beside this file")
    arguments = parser.parse_args()
    names, portraits, photos = read_recipes(HERE / "portraits.toml")
    images = {key: load_portrait(arguments.sources, portrait) for key, portrait in portraits.items()}
    cuts = [
        make_cut(number, images[photo.portrait], portraits[photo.portrait], photo)
        for number, photo in enumerate(photos, start=1)
    ]
    for cut in cuts:
        check(cut)
    write_sample(arguments.out, names, cuts)
    print(report(cuts))


if __name__ == "__main__":
    main()
