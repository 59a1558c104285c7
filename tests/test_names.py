"""One rule each for ids, class names and the files of a set, whatever list, label file or command reads them."""

import json
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Photo, own_set, run, tiny, write_annotations, write_mask

from wsss import datasets
from wsss.data import names, voc
from wsss.explore import sources
from wsss.paths import UserError
from wsss.report import records
from wsss.tools import pretrain

IDS = "ImageSets/Segmentation"
NFC, NFD = (unicodedata.normalize(form, "caf\u00e9 \u00fc") for form in ("NFC", "NFD"))


def named(root: Path, ids: Sequence[str], classes: Sequence[str] = ("cup", "jug")) -> Path:
    """A set with a photograph for each of `ids` in both lists; in val, "v" is put before the id."""
    own_set(root, [Photo(classes=(1 + number % len(classes),)) for number in range(len(ids))], classes)
    for split, before in (("train", ""), ("val", "v")):
        for number, name in enumerate(ids):
            for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
                target = root / folder / f"{before}{name}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                (root / folder / f"{split}_{number}{suffix}").rename(target)
        (root / IDS / f"{split}.txt").write_text("".join(f"{before}{name}\n" for name in ids))
    return root


def listed(root: Path, text: str) -> list[str]:
    (root / IDS / "train.txt").write_text(text)
    return voc.read_ids(root, "train")


KINDS = {
    "blanks, folders and dots": [
        *("photo", "photo (1)", "photo (2) copy", "a  b", "Screenshot 9.00.00\u202fPM", "Screenshot 9.00.00\u202fAM"),
        *("night/a", "day/a", "day/b c", "a.v1", "a.v2", "b..c"),
    ],
    "signs, numbers and other letters": [
        *("a#1", "#2", "50%", "a'b", 'c"d', "cat 1", "cat 0", "cat -1", "cat", "\u732b", "\u043a\u043e\u0442 1", NFC)
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_the_whole_line_from_check_to_score(tmp_path, capsys, kind):
    """Check, train, evaluate, score with a list and without: no photograph is taken for another."""
    root = named(tmp_path / "set", KINDS[kind])
    assert run("data", "check", root) == 0, capsys.readouterr().err
    assert "in no list" not in capsys.readouterr().out
    train = datasets.Split(root, "train")
    for name, file, label in zip(train.ids, train.files, train.labels, strict=True):
        assert file == root / f"JPEGImages/{name}.jpg" and label.tolist() == [not (n := KINDS[kind].index(name) % 2), n]
    assert run(*tiny(root, tmp_path / "out", "--optim.steps", "1")) == 0
    words = ("--protocol", "coco", "--crf", "False", "--scales", "1", "--workers", 1)
    assert run("evaluate", tmp_path / "out/set/tiny/0", *words) == 0
    record = records.load(next((tmp_path / "out/set/tiny").glob("0.coco*.json")))
    made = next((tmp_path / "out/set/tiny/0/predictions").iterdir())
    assert set(names.files(made, names.MASKS)) == {f"v{name}" for name in KINDS[kind]}
    masks = root / "SegmentationClass"
    for words in (("--ids", root / IDS / "val.txt"), ()):
        capsys.readouterr()
        assert run("score", made, masks, "--num-classes", 3, *words) == 0
        assert json.loads(capsys.readouterr().out)["miou"] == record["results"]["segmentation"]["miou"]
        for name in KINDS[kind]:  # without a list the masks of train would count
            (masks / f"{name}.png").unlink(missing_ok=True)


@pytest.mark.parametrize("disk, text", [(NFC, NFD), (NFD, NFC)])
def test_unicode_forms_are_one_name(tmp_path, capsys, disk, text):
    root = named(tmp_path / "set", [disk, "b"], [f"K{disk}", "jug"])
    for split, before in (("train", ""), ("val", "v")):
        (root / IDS / f"{split}.txt").write_text(f"{before}{text}\n{before}b\n")
    (root / voc.LABEL_FILE).write_text(f"{text} K{text}\nb jug\nv{text} K{text}\nvb jug\n")
    assert run("data", "check", root) == 0, capsys.readouterr().err
    assert datasets.Split(root, "train", masks=True).labels.tolist() == [[0, 1], [1, 0]]
    (tmp_path / "mine").mkdir()
    write_mask(tmp_path / f"mine/v{text}.png", np.array(Image.open(root / f"SegmentationClass/v{disk}.png")) % 255)
    (tmp_path / "ids.txt").write_text(f"v{text}\n")
    words = ("--ids", tmp_path / "ids.txt", "--num-classes", 3)
    assert run("score", tmp_path / "mine", root / "SegmentationClass", *words) == 0


def test_what_may_follow_an_id(tmp_path):
    """VOC's flags, if all lines have one, and comments; but the line never means another photograph."""
    root = named(tmp_path / "set", ["photo", "cat (1)", "b", "img", "day 1"])
    assert listed(root, "photo 1\ncat (1) -1\nb  0\n") == ["photo", "cat (1)", "b"]
    assert listed(root, "# made by hand\nphoto # blurred\ncat (1) # http://x//y\nb") == ["photo", "cat (1)", "b"]
    for text in ("photo (1)\nb\n", "photo 1\nb\n", "photo copy\n", "cat\ncat (2)\n", "day 1\nimg 0\n"):
        with pytest.raises(UserError, match="names '.* .*', but .*JPEGImages holds no such file"):
            listed(root, text)
    assert listed(root, "missing\n") == ["missing"], "of an id without a blank the photograph is missed later"
    for line in ("../b", "a/../b", "/etc/b", ".b", "a/.b", "a//b", "b/", "x" * 201, "a\0b"):
        with pytest.raises(UserError, match="which is not an image id"):
            listed(root, line)


def test_files_that_begin_with_a_dot_are_none_and_suffixes_may_be_in_capitals(tmp_path, capsys):
    """What macOS, Jupyter and git leave beside photographs, masks, lists, class folders and records."""
    root = named(tmp_path / "set", ["a", "b"])
    for folder, suffix in (("JPEGImages", ".JPG"), ("SegmentationClass", ".PNG")):
        for path in (root / folder).iterdir():
            path.rename(path.with_suffix(suffix))
    for folder, name in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png"), (IDS, "train.txt")):
        for place in (f"._{name}", ".DS_Store", f".ipynb_checkpoints/{name}", f".hidden/{name}"):
            (root / folder / place).parent.mkdir(exist_ok=True)
            (root / folder / place).write_bytes(b"\0\5\x16\7")
    (root / "Annotations").mkdir()
    (root / "Annotations/._a.xml").write_bytes(b"\0\5\x16\7")
    assert run("data", "check", root) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "train 2, val 2; labels from masks" in out and "in no list" not in out
    assert [picture.name for picture in sources.of_folder(root / "JPEGImages", 9)] == ["a", "b", "va", "vb"]
    shutil.copytree(root / "SegmentationClass", tmp_path / "mine", ignore=shutil.ignore_patterns(".*"))
    for path in (tmp_path / "mine").iterdir():
        write_mask(path, np.array(Image.open(path)) % 255)
    assert run("score", tmp_path / "mine", root / "SegmentationClass", "--num-classes", 3) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert run(*tiny(root, tmp_path / "out", "--optim.steps", "1")) == 0
    run_folder = tmp_path / "out/set/tiny"
    (run_folder / "._0.json").write_bytes(b"\0\5\x16\7")
    shutil.copytree(run_folder, tmp_path / "out/set/.ipynb_checkpoints")
    assert [record["variant"] for record in records.find(tmp_path / "out")] == ["tiny"]
    for name in ("a", "b", ".ipynb_checkpoints"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        shutil.copy(root / "JPEGImages/a.JPG", tmp_path / "classes" / name)
    images, labels, classes = pretrain.folders(tmp_path / "classes", 8)
    assert (len(images), labels.tolist(), classes) == (2, [0, 1], ["a", "b"])


BACKGROUND = """background|_background_|__background__|Background|BACK GROUND|bg|__ignore__|void|Unlabelled|
0: background|background (0)|void/background|ignore_region|none|Unlabelled area""".replace("\n", "").split("|")


def test_the_background_is_no_class(tmp_path, refused):
    root = own_set(tmp_path / "set")
    for number, name in enumerate(BACKGROUND):
        classes = ["cup", "jug"]
        classes.insert(number % 2, name)
        (root / "classes.txt").write_text("\n".join(classes))
        with pytest.raises(UserError, match=re.escape(f"classes.txt names {name!r}, which is not a class")):
            voc.open_devkit(root)
    assert "which is not a class; remove that line" in refused(*tiny(root, tmp_path / "out"))


ALIKE = "classes.txt must name 1 to 254 different classes"
NUMBERS = "classes.txt numbers its classes, but .*' is the class of the value .;"
NAMES = (
    *((two, ALIKE) for two in (("Cat", "cat"), ("traffic light", "traffic_light"), (NFC, NFD), ("x-y", "x_y"))),
    (("a b", "a  b"), ALIKE),
    *((two, NUMBERS) for two in (("2: cup", "1: jug"), ("0 cup", "1 jug"), ("1. cup", "0. jug"))),
    (("avoid", "bag", "ground", "back", "foreground", "region", "1", "nonesuch", "clutter background"), ""),
    *(
        (right, "")
        for right in (("1 cup", "2 jug"), ("2 euro", "1 dollar coin", "5 euro"), ("cup", "0 jug"), ("1", "0"))
    ),
)


@pytest.mark.parametrize(("classes", "says"), NAMES)
def test_names_that_are_alike_or_numbered_otherwise_are_refused(tmp_path, classes, says):
    root = own_set(tmp_path / "set", names=classes)
    if not says:
        assert voc.open_devkit(root).classes == classes
        return
    with pytest.raises(UserError, match=says):
        voc.open_devkit(root)


def test_text_files_of_other_systems(tmp_path):
    """A byte order mark, carriage returns, empty lines and comments do not matter."""
    root = own_set(tmp_path / "set")
    (root / "classes.txt").write_bytes("\ufeff# of the lab\r\ncup # with a handle\r\n\r\nbröd  \r\nC#\r\n".encode())
    (root / IDS / "train.txt").write_bytes(b"\xef\xbb\xbftrain_0 1\r\ntrain_1 -1\r\n")
    assert voc.open_devkit(root).classes == ("cup", "bröd", "C#")
    assert voc.read_ids(root, "train") == ["train_0", "train_1"]


LIGHTS = ("traffic light", "stop sign", "light")


@pytest.mark.parametrize("source", ["text", "annotations"])
def test_class_names_with_blanks(tmp_path, source):
    root = named(tmp_path / "set", ["a", "a b", "c"], LIGHTS)
    labels = {"a": ["traffic light"], "a b": ["light", "stop  sign"], "c": []}
    if source == "text":
        text = "".join(f"{name}  {' '.join(labels[name])}\n" for name in labels)
        (root / voc.LABEL_FILE).write_text(text)
    else:
        write_annotations(root, labels)
    kit = voc.open_devkit(root)
    assert kit.label_source == source
    assert voc.read_labels(kit, list(labels)).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_labels_that_cannot_be_read_end_in_a_sentence(tmp_path):
    assert names.parse_classes("a b c", ("a", "b", "c", "b d")) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="can be read as .*'a b', 'c'.* and as .*'a', 'b c'"):
        names.parse_classes("a b c", ("a", "b c", "a b", "c"))
    root = named(tmp_path / "set", ["a", "b"], ("traffic_light", "jug"))
    (root / voc.LABEL_FILE).write_text("a traffic light\nb jug\n")
    with pytest.raises(UserError, match="a the class 'traffic', .*; did you mean traffic_light.$"):
        voc.read_labels(voc.open_devkit(root), ["a"])
