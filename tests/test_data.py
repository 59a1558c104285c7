"""The reader of the VOC layout: one's own data, label and mask sources, and the real photographs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import Photo, log, own_set, paint, record, run, tiny, write_labels, write_mask

from wsss import datasets
from wsss.data import check, voc
from wsss.paths import UserError

ODD = (
    Photo(mode="L"),
    Photo(mode="RGBA", suffix=".png", classes=(2,)),
    Photo(mode="LA", suffix=".png", size=(5, 90)),
    Photo(mode="P", suffix=".png", size=(90, 3), classes=(2, 1)),
    Photo(mode="1", suffix=".png", size=(1, 1), background=False),
    Photo(mode="CMYK", suffix=".jpeg", background=False),
)
XML = "<annotation><object><name>jug</name></object><object><name> jug </name></object></annotation>"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return own_set(tmp_path / "own")


def test_own_data_of_every_kind_trains_with_no_change_of_code(tmp_path, capsys):
    """Grey, RGBA, palette and CMYK images, PNG, odd sizes down to one pixel, images without background."""
    root = own_set(tmp_path / "crockery", ODD)
    assert run("train", "smoke", "--data.root", root, "--output", tmp_path / "out", "--optim.steps", "4") == 0
    found = record(tmp_path / "out")
    assert (found["dataset"], found["images"], found["steps"]) == ("crockery", 6, 4)
    assert list(found["results"]["segmentation"]["iou"]) == ["background", "cup", "jug"]
    assert found["protocol"]["label_source"] == "masks" == log(tmp_path / "out")[0]["data"]["labels"]
    assert "crockery/smoke" in capsys.readouterr().out


def test_one_class_everywhere_and_no_pixel_of_background(tmp_path):
    """Nothing is there to tell apart: precision is 100 by definition."""
    photos = [Photo(background=False), Photo(background=False, size=(33, 33))]
    root = own_set(tmp_path / "cups", photos, names=["cup"])
    words = tiny(root, tmp_path / "out", "--optim.batch", "4")
    assert run("train", "smoke-toco", *words[2:], "--schedule.segmentation_start", "1") == 0
    found = record(tmp_path / "out")["results"]
    assert found["classification"]["map"] == 100
    assert found["segmentation"]["iou"]["background"] is None and found["segmentation"]["miou"] is not None


@pytest.mark.parametrize("value", [0, voc.IGNORE], ids=["background", "ignored"])
def test_a_val_list_without_truth_leaves_all_numbers_undefined(tmp_path, capsys, value):
    root = own_set(tmp_path / "none", [Photo(), Photo()])
    paint(root, "val*", value)
    assert run(*tiny(root, tmp_path / "out")) == 0
    found = record(tmp_path / "out")["results"]
    for kind in ("segmentation", "cam", "aux_cam"):
        assert found[kind]["miou"] is found[kind]["pixel_accuracy"] is found[kind]["boundary_iou"] is None
    assert found["classification"]["map"] is None and 100.0 not in found["guesses"].values()
    out = capsys.readouterr().out
    assert "segmentation undefined" in out and "undefined: no mask of val shows a class that counts" in out


@pytest.mark.parametrize("source", ["masks", "text", "annotations"])
def test_a_train_list_without_any_label_is_refused(tmp_path, source, refused):
    root = own_set(tmp_path / "none", [Photo(), Photo()], labels=("", "") if source == "text" else ())
    paint(root, "train*", voc.IGNORE)
    if source == "annotations":
        (root / "Annotations").mkdir()
        for name in ("train_0", "train_1", "val_0", "val_1"):
            (root / f"Annotations/{name}.xml").write_text("<annotation></annotation>")
    assert "no image of the list train of" in refused(*tiny(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert any("no training image has a label, so there is nothing to learn" in x for x in check.check(root)[1])


def test_a_class_of_val_that_train_lacks_is_named_and_a_class_of_neither_undefined(tmp_path, capsys):
    root = own_set(tmp_path / "some", [Photo(), Photo()], names=["cup", "jug", "mug"])
    paint(root, "train*", 2)
    assert run(*tiny(root, tmp_path / "out")) == 0
    assert "no image of the list train shows cup, which val shows" in capsys.readouterr().err
    assert record(tmp_path / "out")["results"]["segmentation"]["iou"]["mug"] is None
    summary, faults = check.check(root)
    assert faults == ["no training image shows cup, which images to evaluate on show"]
    assert "note: 1 classes are in no image, first mug" in summary


# Where labels and masks come from.


def label_of(root: Path, name: str = "train_0") -> list[str]:
    kit = voc.open_devkit(root)
    return [kit.classes[k] for k in np.flatnonzero(voc.read_labels(kit, [name])[0])]


def test_annotations_come_before_text_and_text_before_masks(own):
    assert label_of(own) == ["cup"] and voc.open_devkit(own).label_source == "masks"
    (own / voc.LABEL_FILE).write_text("train_0 cup jug\ntrain_1\n")
    assert label_of(own) == ["cup", "jug"] and voc.open_devkit(own).label_source == "text"
    assert label_of(own, "train_1") == []
    (own / "Annotations").mkdir()
    assert label_of(own) == ["cup", "jug"], "an empty folder holds no annotations"
    (own / "Annotations/train_0.xml").write_text(XML)
    assert label_of(own) == ["jug"] and voc.open_devkit(own).label_source == "annotations"
    with pytest.raises(UserError, match="train_1.xml cannot be read"):
        label_of(own, "train_1")


def test_augmented_masks_are_preferred(own, tmp_path):
    write_mask(own / "SegmentationClassAug/val_0.png", np.full((40, 48), 2, np.uint8))
    with pytest.raises(UserError, match="image val_1 has no mask: .*SegmentationClassAug/val_1.png"):
        datasets.Split(own, "val", masks=True)
    for path in (own / "SegmentationClass").glob("*.png"):
        shutil.copy(path, own / "SegmentationClassAug")
    assert run(*tiny(own, tmp_path / "out")) == 0
    assert record(tmp_path / "out")["protocol"]["mask_source"] == "SegmentationClassAug"
    assert log(tmp_path / "out")[0]["data"]["masks"] == "SegmentationClassAug"


def test_training_needs_no_masks(own, tmp_path):
    write_labels(own, "cup", "cup", "cup", "cup")
    for path in (own / "SegmentationClass").glob("train*"):
        path.unlink()
    assert run(*tiny(own, tmp_path / "out")) == 0


def test_mini_is_drawn_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    from wsss.data.drawn import generate

    whole = generate.generate
    monkeypatch.setattr(generate, "generate", lambda root: whole(root, {"train": 1, "val": 1}))
    for _ in range(2):
        assert run("data", "mini", "--root", tmp_path / "mini") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mini'}\n" * 2
    assert json.loads((tmp_path / "mini/mini.json").read_text())["splits"] == {"train": 1, "val": 1}
