"""`wsss data prepare animals`: sizes and layout, from a small VOC, and beside the shared copy."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import run, write_annotations

from wsss.config import IGNORE
from wsss.data import prepare, voc
from wsss.data.names import read_lines
from wsss.data.pictures import VOC_PALETTE, write_mask
from wsss.paths import UserError, project_root
from wsss.registry import DATASETS

IDS = "ImageSets/Segmentation"
LISTS = project_root() / "data/lists/animals"
SIZES = {"2007_000001": (500, 375), "2007_000002": (333, 500), "2008_000003": (500, 334), "2008_000004": (200, 100)}
REDUCED = {"2007_000001": (320, 240), "2007_000002": (213, 320), "2008_000003": (320, 214), "2008_000004": (320, 160)}
FIRST, *_, LAST = SIZES


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Four photographs of a VOC with SegmentationClassAug; ids/ holds their lists."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        ramp = np.linspace(0, 255, size[0]).astype(np.uint8)
        Image.fromarray(np.broadcast_to(ramp[None, :, None], (*size[::-1], 3)).copy()).save(
            root / f"JPEGImages/{name}.jpg", quality=95
        )
        mask = np.zeros(size[::-1], np.uint8)
        mask[:, size[0] // 2 :] = 8
        mask[0] = IGNORE
        write_mask(root / f"SegmentationClassAug/{name}.png", mask)
        write_annotations(root, {name: ("dog", "cat")[: 1 + number % 2]})
    (tmp_path / "ids").mkdir()
    for split, names in (("train", [FIRST]), ("train_aug", [*SIZES][:3]), ("val", [LAST])):
        (tmp_path / f"ids/{split}.txt").write_text("\n".join(names) + "\n")
    return root


def test_reduces_photographs_and_masks(official, tmp_path):
    out = tmp_path / "animals"
    assert prepare.prepare_animals(out, official, tmp_path / "ids") == f"{out}: train 1, train_aug 3, val 1"
    for name, size in REDUCED.items():
        with (
            Image.open(out / f"JPEGImages/{name}.jpg") as image,
            Image.open(official / f"JPEGImages/{name}.jpg") as big,
        ):
            assert image.size == size and image.mode == "RGB"
            wanted = big.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() < 2
        with Image.open(out / f"SegmentationClassAug/{name}.png") as mask:
            assert mask.size == size and mask.mode == "P" and mask.getpalette() == VOC_PALETTE
            assert {*np.unique(np.array(mask)).tolist()} <= {0, 8, IGNORE}, "nearest mixes no classes"
    assert (out / voc.LABEL_FILE).read_text().splitlines() == [
        f"{name} {names}" for name, names in zip(SIZES, ("dog", "cat dog") * 2, strict=True)
    ]
    assert (out / f"{IDS}/train_aug.txt").read_text().split() == [*SIZES][:3]


def test_the_command_wants_the_whole_of_voc(official, tmp_path, capsys):
    assert run("data", "prepare", "animals", tmp_path / "out/animals", "--root", official) == 1
    assert re.search(r"2007_000063.* (cannot be read|does not exist)", capsys.readouterr().err)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("missing", ["JPEGImages", "SegmentationClassAug", "Annotations"])
def test_what_is_missing_is_named(official, tmp_path, missing):
    shutil.rmtree(official / missing)
    with pytest.raises(UserError, match=f"{missing}.* make them with wsss data prepare voc"):
        prepare.prepare_animals(tmp_path / "animals", official, tmp_path / "ids")


def test_lists_follow_their_rule():
    """Ids of VOC's own lists, with an animal each."""
    rows = [row.split() for row in read_lines(project_root() / "data/lists/voc" / voc.LABEL_FILE)]
    labels = {name: set(found) for name, *found in rows}
    for split, count in (("train", 437), ("train_aug", 3131), ("val", 300)):
        ids = read_lines(LISTS / f"{split}.txt")
        assert len(ids) == count and all(re.fullmatch(r"\d{4}_\d{6}", one) for one in ids)
        assert set(ids) <= set(read_lines(project_root() / f"data/lists/voc/{split}.txt"))
        assert all(labels[one] & {"cat", "cow", "dog", "horse", "sheep"} for one in ids)


# Beside the shared copy: its photographs are reduced already, so bytes cannot be compared, but layout and rules can.


@pytest.fixture
def copy(shared: Path) -> Path:
    return shared / "data/voc12_animals/VOC2012"


def test_lists_and_labels_are_those_of_the_shared_copy(copy):
    for split in DATASETS["voc-animals"].splits:
        assert (LISTS / f"{split}.txt").read_text() == (copy / IDS / f"{split}.txt").read_text()
    ids = {one for split in DATASETS["voc-animals"].splits for one in read_lines(LISTS / f"{split}.txt")}
    rows = read_lines(project_root() / "data/lists/voc" / voc.LABEL_FILE)
    assert [row for row in rows if row.split()[0] in ids] == read_lines(copy / voc.LABEL_FILE)
    assert {path.stem for path in (copy / "JPEGImages").iterdir()} == ids


def test_sizes_and_quality_are_those_of_the_shared_copy(official, tmp_path, copy):
    prepare.prepare_animals(tmp_path / "animals", official, tmp_path / "ids")
    with Image.open(tmp_path / f"animals/JPEGImages/{FIRST}.jpg") as mine:
        wanted = (mine.quantization, mine.layer)
    for path in sorted((copy / "JPEGImages").iterdir())[::20]:
        with Image.open(path) as image, Image.open(copy / f"SegmentationClassAug/{path.stem}.png") as mask:
            assert max(image.size) == prepare._LONGEST and mask.size == image.size, path.name
            assert (image.quantization, image.layer) == wanted, path.name
            assert mask.mode == "P" and mask.getpalette() == VOC_PALETTE, path.name
