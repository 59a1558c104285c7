"""`wsss data check`: a sound set passes, and every kind of fault is named, all of them of every image."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import cut, own_set, run, write_annotations, write_labels, write_mask

from wsss.data import check, pictures, pool, voc
from wsss.paths import UserError

IDS = "ImageSets/Segmentation"
CLASSES = ("cup", "jug", "cup jug", "jug")
"""Of the four images of a split, as running.PHOTOS draws them."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Four images a split with the masks' classes as text: cup; jug; cup and jug; jug."""
    root = own_set(tmp_path / "own", labels=CLASSES)
    for path in (root / "SegmentationClass").iterdir():
        pictures.write_mask(path, np.array(Image.open(path)))
    return root


def faults(root: Path) -> list[str]:
    return check.check(root)[1]


def notes(root: Path, *splits: str) -> list[str]:
    return [line for line in check.check(root, splits)[0].splitlines() if line.startswith("note:")]


def test_check_finds_nothing_in_a_sound_set(mini_root, own, capsys):
    assert run("data", "check", mini_root) == 0
    out = capsys.readouterr().out
    assert "test 8, train 16, val 8; labels from annotations, masks from SegmentationClass" in out
    assert out.strip().endswith("0 faults")
    assert not faults(own) and not notes(own)


def test_the_histogram_counts_images_and_pixels(own):
    rows = check.check(own, ["val"])[0].splitlines()
    assert rows[0].endswith("val 4; labels from text, masks from SegmentationClass") and rows[-1] == "0 faults"
    pixels = np.zeros(256, int)
    for path in (own / "SegmentationClass").glob("val*"):
        pixels += np.bincount(np.array(Image.open(path)).ravel(), minlength=256)
    cup, share = pixels[1], pixels[1] / pixels[:255].sum()
    assert rows[2].split() == ["cup", "2", "images", str(cup), "pixels", f"{share:.2%}"]
    assert rows[1].split()[:2] == ["background", str(pixels[0])] and rows[4].split() == ["ignored", "4", "pixels"]
    shutil.rmtree(own / "SegmentationClass")
    rows = check.check(own, ["val"])[0].splitlines()
    assert rows[1].split() == ["cup", "2", "images"] and rows[3] == "note: 4 images have no mask, first val_0"


def test_processes_find_the_same(own, monkeypatch):
    mask(own, "val_1", lambda array: array + 1)
    one = check.check(own)
    monkeypatch.setattr(check, "_PAYS", 1)
    monkeypatch.setattr(pool, "cores", lambda: 2)
    monkeypatch.setattr(check, "stream", lambda *words, chunk: pool.stream(*words, chunk=2))
    assert check.check(own) == one and len(one[1]) == 2


def mask(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = root / "SegmentationClass" / f"{name}.png"
    pictures.write_mask(path, change(np.array(Image.open(path))).astype(np.uint8))


def set_pixels(*values: int) -> Callable[[np.ndarray], np.ndarray]:
    """The mask with these values at the start of its second row."""
    first = np.arange(len(values))
    return lambda array: (np.put(array, array.shape[1] + first, values), array)[1]


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}\n{line}\n")


def annotate(root: Path, body: str) -> None:
    """The labels as annotations, but for one image."""
    lines = map(str.split, (root / voc.LABEL_FILE).read_text().splitlines())
    write_annotations(root, {name: classes for name, *classes in lines})
    (root / "Annotations/train_1.xml").write_text(body)


JPEG, PNG = "JPEGImages/train_1.jpg", "SegmentationClass/val_1.png"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no photograph": (lambda r: (r / JPEG).unlink(), "image train_1 is listed, but .* does not exist"),
    "cut photograph": (lambda r: cut(r / JPEG), "train_1.jpg cannot be decoded"),
    "no mask in val": (lambda r: (r / PNG).unlink(), "image val_1 has no mask: .*val_1.png does not exist"),
    "mask of another size": (lambda r: mask(r, "val_1", lambda a: a[1:]), "val_1.png is 48x39, but its image is 48x40"),
    "value": (lambda r: mask(r, "val_1", set_pixels(7)), r"val_1.png holds the value 7, but only 0..2 and 255"),
    "pixel without label": (lambda r: mask(r, "val_1", set_pixels(1)), "val_1.png shows cup, which the image labels"),
    "no line of labels": (lambda r: write_labels(r, "cup", "jug", "cup jug"), "(train|val)_3 has no line in"),
    "unknown label": (
        lambda r: write_labels(r, "cup", "jug", "jug mug cup", "jug"),
        "(train|val)_2 the class 'mug'",
    ),
    "image twice in labels": (
        lambda r: append(r / voc.LABEL_FILE, "val_3 jug"),
        "1 images more than once",
    ),
    "unknown class in XML": (
        lambda r: annotate(r, "<annotation><object><name>mug</name></object></annotation>"),
        "gives image train_1 the class 'mug'",
    ),
    "empty list": (lambda r: (r / IDS / "test.txt").write_text("\n"), "the list .*test.txt is empty"),
    "id twice in a list": (lambda r: (r / IDS / "test.txt").write_text("val_1\nval_1\n"), "names val_1 more than once"),
    "list of zeros": (
        lambda r: (r / IDS / "test.txt").write_bytes(bytes(9)),
        r"names '.x00.*', which is not an image id",
    ),
    "trained and evaluated on": (
        lambda r: append(r / f"{IDS}/train.txt", "val_1"),
        "1 images of the list val are also trained on, first val_1",
    ),
    "same photograph": (
        lambda r: shutil.copy(r / JPEG, r / "JPEGImages/val_1.jpg"),
        "the training image train_1 and the evaluated image val_1 are the same photograph",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault(own, kind):
    spoil, says = FAULTS[kind]
    spoil(own)
    named = faults(own)
    assert len(named) == (2 if "(train|val)" in says else 1), named
    assert all(re.search(says, fault) for fault in named), named


def test_all_faults_of_one_image_and_the_exit_code(own, capsys):
    (own / JPEG).unlink()
    mask(own, "train_1", set_pixels(1, 7))
    mask(own, "val_1", lambda array: set_pixels(1, 7)(array)[1:])
    found = faults(own)
    assert len(found) == 6
    assert sum("train_1" in fault for fault in found) == 3 == sum("val_1" in fault for fault in found)
    assert run("data", "check", own) == 1
    assert capsys.readouterr().err.count("wsss: error:") == 6


def test_nothing_to_check(own, tmp_path):
    with pytest.raises(UserError, match="holds no JPEGImages folder"):
        check.check(tmp_path)
    shutil.rmtree(own / IDS)
    with pytest.raises(UserError, match="holds no list"):
        check.check(own)


def test_masks_as_label_source(own):
    (own / voc.LABEL_FILE).unlink()
    mask(own, "val_1", set_pixels(1))
    assert not faults(own)
    (own / "SegmentationClass/train_1.png").unlink()
    assert [fault.split(":")[0] for fault in faults(own)] == ["image train_1 has no mask"]


def test_notes(own):
    mask(own, "val_2", lambda array: np.where(array == 2, 0, array))
    write_mask(own / "SegmentationClass/val_0.png", np.ones((40, 48), np.uint8))
    Image.fromarray(np.full((40, 48), 2, np.uint8)).save(own / "SegmentationClass/train_1.png")
    (own / "SegmentationClass/train_0.png").unlink()
    shutil.copy(own / JPEG, own / "JPEGImages/spare.jpg")
    assert not faults(own)
    assert notes(own) == [
        "note: 1 files of JPEGImages are in no list, first spare",
        "note: 1 images have a label that their mask does not show, first val_2",
        "note: 1 images have no mask, first train_0",
        "note: 1 masks have a palette other than VOC's, first val_0",
    ]
    assert not any("in no list" in note for note in notes(own, "train")), "not all lists were looked through"


def test_what_only_a_crowd_shows_needs_no_label(own):
    mask(own, "val_1", set_pixels(1))
    assert len(faults(own)) == 1
    (own / voc.CROWD_FILE).write_text("val_1 cup\n")
    assert not faults(own)


def test_lists_of_voc(own):
    """trainval may hold images of val, since no run uses it. train_aug, which is trained on, may hold none of val or
    val_part. The list test needs neither masks nor labels."""
    ids = {name: (own / f"{IDS}/{name}.txt").read_text() for name in ("train", "val")}
    (own / f"{IDS}/trainval.txt").write_text(ids["train"] + ids["val"])
    (own / f"{IDS}/val_part.txt").write_text("val_0\n")
    assert not faults(own)
    (own / f"{IDS}/train_aug.txt").write_text(ids["train"] + "val_0\n")
    assert [fault.split("the list ")[1].split()[0] for fault in faults(own)] == ["val", "val_part"]
    shutil.copy(own / JPEG, own / "JPEGImages/test_0.jpg")
    (own / f"{IDS}/test.txt").write_text("test_0\n")
    (own / f"{IDS}/train.txt").unlink()
    (own / f"{IDS}/train_aug.txt").unlink()
    (own / f"{IDS}/trainval.txt").unlink()
    assert not faults(own) and "note: 1 test images have no image labels, first test_0" in notes(own)
    append(own / voc.LABEL_FILE, "test_0 cup")
    assert not faults(own) and not [note for note in notes(own) if "image labels" in note]
