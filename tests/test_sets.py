"""Known data sets: where each is looked for, what it is called, and which root a preset refuses."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import (
    Photo,
    assert_same_run,
    log,
    own_set,
    paint,
    record,
    run,
    tiny,
    write_annotations,
    write_mask,
)

from wsss import datasets
from wsss.config import Data
from wsss.data import check, sets, voc
from wsss.data.drawn import generate, twin
from wsss.data.names import read_lines
from wsss.paths import UserError
from wsss.presets import PRESETS
from wsss.registry import DATASETS, DataSet, title

IDS = "ImageSets/Segmentation"


def listed(root: Path, train: list[str], val: list[str], classes: str = "") -> Path:
    """A root with only its lists, and perhaps class names; `train` is both train and train_aug."""
    for name in ("JPEGImages", IDS):
        (root / name).mkdir(parents=True)
    for split, ids in (("train", train), ("train_aug", train), ("val", val)):
        (root / IDS / f"{split}.txt").write_text("\n".join(ids))
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def known(name: str, split: str) -> list[str]:
    return read_lines(Path(__file__).parents[1] / f"data/lists/{name}/{split}.txt")


def data(preset: str, root: Path) -> Data:
    found = PRESETS[preset].data
    return Data(found.name, str(root), found.train_split, found.val_split)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The lists of VOC, of its animals and of COCO, each in a folder called VOC2012."""
    base = tmp_path_factory.mktemp("roots")
    eighty = "".join(f"class {number}\n" for number in range(80))
    return {
        "voc": listed(base / "1/VOC2012", known("voc", "train_aug"), known("voc", "val")),
        "voc-animals": listed(base / "2/VOC2012", known("animals", "train_aug"), known("animals", "val")),
        "coco": listed(base / "3/VOC2012", known("coco", "train")[:99], known("coco", "val_part"), eighty),
    }


@pytest.mark.parametrize("holds", ["voc", "voc-animals", "coco"])
@pytest.mark.parametrize("preset", ["voc", "voc-animals", "coco"])
def test_a_preset_refuses_the_root_of_another_benchmark(roots, preset, holds):
    config, root = data(preset, roots[holds]), roots[holds]
    if preset == holds:
        assert sets.root_of(config) == root and sets.name_of(config, root) == preset
        return
    variable = DATASETS[preset].variable
    advice = f"`wsss data prepare {DATASETS[preset].lists}` and set --data.root or {variable} to its folder"
    with pytest.raises(UserError, match=re.escape(advice)) as caught:
        sets.root_of(config)
    assert f"{root} holds {title(holds)}" in str(caught.value)
    assert sets.locate(config) == root, "an evaluation may look at it, and calls it by its folder"
    assert sets.name_of(config, root) == "VOC2012"


def test_a_part_of_a_known_set_goes_by_its_name(tmp_path):
    part = listed(tmp_path / "few", known("animals", "train_aug")[:9], known("animals", "val")[:5])
    for preset in ("voc", "voc-animals"):
        assert sets.name_of(data(preset, part), sets.root_of(data(preset, part))) == preset
    with pytest.raises(UserError, match="holds"):
        sets.root_of(data("coco", part))


def test_an_own_set_is_named_after_its_folder(tmp_path):
    """Whatever the preset, with classes of its own or VOC's; a folder that bears a known name is marked."""
    for name, expected in (("pets", "pets"), ("VOC2012", "VOC2012"), ("voc", "own-voc"), ("mini", "own-mini")):
        for number, classes in enumerate(("", "cup\njug\n")):
            root = listed(tmp_path / str(number) / name, ["a", "b"], ["c"], classes)
            for preset in ("smoke", "voc", "voc-animals", "coco"):
                config = data(preset, root)
                assert sets.root_of(config) == root and sets.name_of(config, root) == expected
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "0/pets")
    assert sets.name_of(data("voc", link), link) == "pets"
    chosen = Data("kitchen", str(link))
    assert sets.name_of(chosen, link) == "kitchen"


def test_drawn_sets(mini_root):
    """The small presets take any set; a drawn one under its own preset goes by that preset's name."""
    drawn = {name: found.splits for name, found in DATASETS.items() if found.drawn}
    assert (drawn["mini"], drawn["mini-coco"]) == (generate.SPLITS, twin.SPLITS)
    assert {DATASETS[name].classes for name in drawn} == {len(generate.CLASSES)}
    for preset in ("smoke", "mini"):
        assert sets.name_of(data(preset, mini_root), mini_root) == preset
    with pytest.raises(UserError, match="the preset trains on PASCAL VOC 2012"):
        sets.root_of(Data("voc", str(mini_root)))
    assert sets.name_of(Data("voc", str(mini_root)), mini_root) == "mini"


@pytest.mark.parametrize(
    ("name", "variable"),
    [("voc", "WSSS_VOC_ROOT"), ("voc-animals", "WSSS_ANIMALS_ROOT"), ("coco", "WSSS_COCO_ROOT")],
)
def test_each_set_has_its_variable(name, variable, roots, tmp_path, monkeypatch):
    for other in DATASETS.values():
        if other.variable:
            monkeypatch.setenv(other.variable, str(roots["voc"]))
    config = data(name, Path())
    config = Data(name, "", config.train_split, config.val_split)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(UserError, match=f"holds no JPEGImages folder.*point {variable} at"):
        sets.root_of(config)
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(UserError, match=f"the {name} data set was not found.*set --data.root or {variable} to"):
        sets.root_of(config)
    monkeypatch.setenv(variable, str(roots[name]))
    assert sets.locate(config) == roots[name]


def test_a_new_data_set_is_one_row(roots, tmp_path, monkeypatch):
    """Its variable, its refusals, its name and its title follow from its row in DATASETS."""
    row = DataSet("Pets of Oxford", 2, {"train": 2, "val": 1}, ("cat", "dog"), lists="pets", variable="WSSS_PETS_ROOT")
    monkeypatch.setitem(DATASETS, "pets", row)
    root = listed(tmp_path / "anywhere", ["a", "b"], ["c"], "cat\ndog\n")
    monkeypatch.setenv("WSSS_PETS_ROOT", str(root))
    config = Data("pets")
    assert sets.root_of(config) == root and sets.name_of(config, root) == "pets" and title("pets") == "Pets of Oxford"
    monkeypatch.setenv("WSSS_PETS_ROOT", str(roots["voc"]))
    with pytest.raises(UserError, match="holds PASCAL VOC 2012.*the preset trains on Pets of Oxford.*prepare pets"):
        sets.root_of(config)


def test_a_set_without_lists_and_names_is_its_own_presets_alone(tmp_path, monkeypatch):
    """Another set that also has two classes is not taken for it."""
    monkeypatch.setitem(DATASETS, "kitchen", DataSet("Kitchen", 2, {"train": 2, "val": 1}))
    root = listed(tmp_path / "pets", ["a", "b"], ["c"], "cat\ndog\n")
    assert sets.root_of(data("voc", root)) == root and sets.name_of(data("voc", root), root) == "pets"
    assert sets.name_of(Data("kitchen", str(root)), root) == "kitchen"
    with pytest.raises(UserError, match="set --data.root to the folder that holds JPEGImages$"):
        sets.locate(Data("kitchen"))


def test_a_run_does_not_hang_on_the_order_of_its_list(tmp_path):
    root = own_set(tmp_path / "own")
    for output in ("one", "other"):
        assert run(*tiny(root, tmp_path / output)) == 0
        for split in ("train", "val"):
            (root / f"{IDS}/{split}.txt").write_text("\n".join(reversed(voc.read_ids(root, split))))
    assert_same_run(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("name, near", [("jgu", "did you mean jug"), ("zebra", "correct it")])
def test_a_headline_class_that_the_set_has_not_is_refused(tmp_path, refused, name, near):
    """Else the mean would be over fewer classes than its name says."""
    said = refused(*tiny(own_set(tmp_path / "set"), tmp_path / "out", "--data.headline", f"cup,{name}"))
    assert f"data.headline names the class {name!r}, which is not among the classes; {near}" in said
    assert not list(tmp_path.glob("out/**/*.json"))


# The reader of the VOC layout: sets of one's own, label and mask sources.


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
        write_annotations(root, dict.fromkeys(("train_0", "train_1", "val_0", "val_1"), ()))
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
    assert faults == ["no training image shows cup, but evaluated images do"]
    assert "note: 1 classes are in no image, first mug" in summary


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


def test_mini_is_drawn_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    whole = generate.generate
    monkeypatch.setattr(generate, "generate", lambda root: whole(root, {"train": 1, "val": 1}))
    for _ in range(2):
        assert run("data", "mini", "--root", tmp_path / "mini") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mini'}\n" * 2
    assert json.loads((tmp_path / "mini/mini.json").read_text())["splits"] == {"train": 1, "val": 1}
