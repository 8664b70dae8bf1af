"""A folder in CelebA's layout, and rows of its landmark table."""

from pathlib import Path

from celebahq_builder.outcome import Reason
from celebahq_builder.sources.celeba import read_celeba
from celebahq_builder.sources.photo import COLUMNS, PhotoSource

NUMBERS = tuple(float(i) for i in range(10, 20))
ROW = "10 11 12 13 14 15 16 17 18 19"
HEADER = " ".join(COLUMNS)
CSV_HEADER = ",".join(("file", *COLUMNS))

FACE = (30.0, 40.0, 70.0, 42.0, 50.0, 60.0, 35.0, 80.0, 65.0, 82.0)
"""An upright face as the viewer sees it."""


class Tree:
    """A folder in CelebA's layout."""

    def __init__(self, root: Path, images: str = "img_celeba") -> None:
        self.root, self.images = root, root / images
        self.images.mkdir(parents=True)

    def photos(self, *names: str) -> "Tree":
        for name in names:
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return self

    def write(self, path: str, data: bytes | str) -> "Tree":
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data.encode() if isinstance(data, str) else data)
        return self

    def table(self, *rows: str, count: object = None, where: str = "Anno/list_landmarks_celeba.txt") -> "Tree":
        lines = [str(len(rows) if count is None else count), HEADER, *rows]
        return self.write(where, "".join(f"{line}\n" for line in lines))

    def read(self) -> PhotoSource:
        return read_celeba(self.root)


def reasons(source: PhotoSource) -> list[tuple[str, Reason]]:
    return [(one.photo, one.reason) for one in source.rejected]


def line(name: str, numbers: tuple[float, ...]) -> str:
    return f"{name} {' '.join(map(str, numbers))}"
