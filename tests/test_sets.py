"""Known data sets: where each is looked for, what it is called, and which root a preset refuses."""

import re
from pathlib import Path

import pytest
from running import assert_same_run, own_set, run, tiny

from wsss.config import Data
from wsss.data import sets, voc
from wsss.data.drawn import generate, twin
from wsss.data.names import read_lines
from wsss.paths import UserError
from wsss.presets import PRESETS
from wsss.registry import DATASETS, DataSet, title

IDS = "ImageSets/Segmentation"


def listed(root: Path, train: list[str], val: list[str], classes: str = "") -> Path:
    """A root of which only the lists, and perhaps the class names, are there; train is train and train_aug."""
    for name in ("JPEGImages", IDS):
        (root / name).mkdir(parents=True)
    for split, ids in (("train", train), ("train_aug", train), ("val", val)):
        (root / IDS / f"{split}.txt").write_text("\n".join(ids))
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def known(name: str, split: str) -> list[str]:
    """Ids of one of the project's lists."""
    return read_lines(Path(__file__).parents[1] / f"data/lists/{name}/{split}.txt")


def data(preset: str, root: Path) -> Data:
    """The preset's settings of the data, at `root`."""
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
    advice = f"`wsss data prepare {DATASETS[preset].lists}` and give its folder by --data.root or {variable}"
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
    with pytest.raises(UserError, match=f"the {name} data set was not found.*--data.root or set {variable} to"):
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
    """Two classes are no reason to take a stranger's set of two classes for it."""
    monkeypatch.setitem(DATASETS, "kitchen", DataSet("Kitchen", 2, {"train": 2, "val": 1}))
    root = listed(tmp_path / "pets", ["a", "b"], ["c"], "cat\ndog\n")
    assert sets.root_of(data("voc", root)) == root and sets.name_of(data("voc", root), root) == "pets"
    assert sets.name_of(Data("kitchen", str(root)), root) == "kitchen"
    with pytest.raises(UserError, match="give --data.root to the folder that holds JPEGImages$"):
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
