"""Sources of photos: subsets, hashes, mirrored landmarks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celebahq_builder.errors import SourceError
from celebahq_builder.landmarks.check import DoubtfulPhoto, reject_doubtful
from celebahq_builder.outcome import Reason
from celebahq_builder.sources.celeba import CelebA, read_celeba
from celebahq_builder.sources.photo import PhotoSource, in_column_order, is_mirrored, subset
from tests.conftest import SAMPLE
from tests.sources.tree import FACE, NUMBERS, ROW, Tree, reasons


def test_a_source_with_other_photos() -> None:
    """The classes whose constructors read a folder are sources like any other."""
    for source in (CelebA(SAMPLE), replace(read_celeba(SAMPLE), is_own=True)):
        some = subset(source, limit=2)
        assert some.photos == source.photos[:2]
        assert (some.folder, some.attribute_names, some.is_own) == (
            source.folder,
            source.attribute_names,
            source.is_own,
        )
        one = source.photos[0]
        doubtful = DoubtfulPhoto(one.id, one.file, one.face, (9, 9), None, one.landmarks, ())
        left = reject_doubtful(source, (doubtful,))
        assert left.photos == source.photos[1:]
        assert reasons(left) == [(one.file, Reason.DOUBTFUL_LANDMARKS)]


@pytest.fixture
def source(tree: Tree) -> PhotoSource:
    rows = [f"{name}.jpg {ROW}" for name in "abcd"]
    return tree.photos("a.jpg", "b.jpg", "c.jpg", "d.jpg", "new.jpg").table(*rows, "bad.jpg 1").read()


def test_subset_by_ids(source: PhotoSource) -> None:
    part = subset(source, ids=["c", "a.jpg", "bad"])
    assert [photo.id for photo in part.photos] == ["a", "c"]
    assert reasons(part) == [("bad.jpg", Reason.BAD_ROW)]
    assert (part.folder, part.warnings) == (source.folder, source.warnings)


def test_subset_by_limit(source: PhotoSource) -> None:
    assert [photo.id for photo in subset(source, limit=2).photos] == ["a", "b"]
    assert [photo.id for photo in subset(source, ids=["d", "b", "c"], limit=2).photos] == ["b", "c"]
    assert subset(source, limit=99).photos == source.photos
    assert subset(source) == source


def test_subset_names_unknown_ids(source: PhotoSource) -> None:
    with pytest.raises(SourceError, match=r"2 of 3 names in `ids` are not in the source, first: x"):
        subset(source, ids=["a", "z", "x"])


def test_hash_depends_on_all_tables(tree: Tree) -> None:
    base = tree.photos("a.jpg").table(f"a.jpg {ROW}").read().sha256()
    assert tree.read().sha256() == base
    seen = {base, tree.table(f"a.jpg {ROW.replace('19', '19.5')}").read().sha256()}
    seen.add(tree.table(f"b.jpg {ROW}").read().sha256())
    seen.add(tree.table(f"a.jpg {ROW}").write("Eval/list_eval_partition.txt", "a.jpg 1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nBald\na.jpg 1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nBald\na.jpg -1").read().sha256())
    seen.add(tree.write("Anno/list_attr_celeba.txt", "1\nYoung\na.jpg -1").read().sha256())
    assert len(seen) == 7


@given(st.floats(0, 360), st.floats(0.1, 30), st.floats(-500, 500), st.floats(-500, 500))
def test_mirrored_faces_are_recognized_in_any_rotation(degrees: float, scale: float, x: float, y: float) -> None:
    turned = scale * np.exp(1j * np.radians(degrees)) * (np.array(FACE[0::2]) + 1j * np.array(FACE[1::2])) + x + 1j * y
    row = tuple(np.stack([turned.real, turned.imag], axis=1).ravel())
    assert not is_mirrored(row)
    assert is_mirrored(in_column_order(row, "subject"))
    assert is_mirrored(in_column_order(row, "yx"))


def test_a_straight_line_is_not_mirrored() -> None:
    assert not is_mirrored(NUMBERS)


def test_sample_is_not_mirrored() -> None:
    assert not any(is_mirrored(photo.landmarks) for photo in read_celeba(SAMPLE).photos)
