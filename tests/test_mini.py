"""The mini set: its bytes, the promises of its construction, and how it is written."""

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from numpy.random import RandomState
from PIL import Image

from wsss.data.drawn import generate
from wsss.paths import UserError

SPLITS = {"train": 9, "val": 2, "test": 1}
LABELS_SHA256 = "3caa062ce0c670306c4b89bb98beed32e4ddc00ede729bc99fdfe15dc8703dca"
JPEG_SHA256 = {"13.0.0": "0c9054db1ce6c43892ece54d66ec8337bd0796da86e40cef96c16063be6e640a"}
"""By Pillow version."""


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def labels_sha256(root: Path) -> str:
    """Over ids, masks, part masks (as pixels: zlib may pack them differently) and annotations."""
    digest = hashlib.sha256()
    for path in sorted((root / "Annotations").iterdir()):
        digest.update(path.stem.encode() + path.read_bytes())
        for folder in ("SegmentationClass", "SegmentationPart"):
            digest.update(read(root / folder / f"{path.stem}.png").tobytes())
    return digest.hexdigest()


def jpeg_sha256(root: Path) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted((root / "JPEGImages").iterdir()))).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.generate(tmp_path_factory.mktemp("mini") / "mini", SPLITS, progress=False)


@pytest.fixture(scope="module")
def drawings() -> list[generate.Drawing]:
    return [generate.draw(RandomState([7, i]), first=1 + i % len(generate.CLASSES)) for i in range(108)]


def test_labels_and_masks_are_the_same_everywhere(root):
    assert labels_sha256(root) == LABELS_SHA256


@pytest.mark.skipif(PIL.__version__ not in JPEG_SHA256, reason="JPEG bytes are known for one Pillow version")
def test_jpeg_files_are_the_same_for_one_pillow(root):
    assert jpeg_sha256(root) == JPEG_SHA256[PIL.__version__]


def test_same_seed_same_bytes_other_seed_others(root, tmp_path, monkeypatch):
    same = generate.generate(tmp_path / "same", SPLITS, progress=False)
    other = generate.generate(tmp_path / "other", SPLITS, seed=1, progress=False)
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(same) for p in same.rglob("*") if p.is_file())
    assert all((root / p).read_bytes() == (same / p).read_bytes() for p in files)
    monkeypatch.setattr(generate, "draw", None)
    assert generate.generate(same, SPLITS, progress=False) == same, "a set that is there is kept"
    assert labels_sha256(other) != labels_sha256(root)


def test_one_to_three_objects_of_known_classes(drawings):
    for drawing in drawings:
        assert 1 <= len(drawing.boxes) <= 3
        present = set(np.unique(drawing.mask)) - {0, generate.IGNORE}
        assert present == {box[0] for box in drawing.boxes} <= set(range(1, 10))
        assert set(np.unique(drawing.part)) - {0} == present
        for _, xmin, ymin, xmax, ymax in drawing.boxes:
            assert 1 <= xmin < xmax <= 128 and 1 <= ymin < ymax <= 128


def test_part_is_on_its_object_and_at_most_a_third_of_it(drawings):
    for drawing in drawings:
        assert not (drawing.part[drawing.part != drawing.mask]).any()
        for index in np.unique(drawing.part)[1:]:
            assert 3 * (drawing.part == index).sum() <= (drawing.mask == index).sum()


def test_every_class_is_about_as_frequent_and_half_the_images_have_one(drawings):
    present = [{box[0] for box in drawing.boxes} for drawing in drawings]
    counts = np.array([sum(c in p for p in present) for c in range(1, 10)])
    assert counts.min() >= 12 and counts.max() <= 2 * counts.min()
    assert 0.4 <= np.mean([len(p) == 1 for p in present]) <= 0.7


def test_pretraining_images_are_of_other_classes():
    bodies, patterns = ({name.split("-")[i] for name in generate.PRETRAINING_CLASSES} for i in (1, 0))
    assert len(generate.PRETRAINING_CLASSES) == 48
    assert not bodies & set(generate.BODIES) and not patterns & set(generate.PATTERNS)
    image, label = generate.draw_pretraining(5, seed=0)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and 0 <= label < 48
    assert np.array_equal(image, generate.draw_pretraining(5, seed=0)[0])
    assert len({generate.draw_pretraining(i, seed=0)[1] for i in range(60)}) > 25


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "write_mask", stop)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(tmp_path / "mini", SPLITS, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"version": -1}, {"seed": 5}, {"splits": {"train": 1}}])
def test_another_set_is_refused(root, tmp_path, change):
    card = json.loads((root / "mini.json").read_text()) | change
    (tmp_path / "mini.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="is not this version of the mini set"):
        generate.generate(tmp_path, SPLITS, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mini.json"]


def test_a_foreign_folder_and_a_file_are_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(UserError, match="remove it or name another folder"):
            generate.generate(place, SPLITS, progress=False)
    with pytest.raises(UserError, match="cannot write"):
        generate.generate(tmp_path / "note.txt" / "mini", SPLITS, progress=False)
    assert (tmp_path / "note.txt").read_text() == "mine"
