"""COCO json to VOC format: policies, the rasteriser against a slow loop, interruptions, and bad input in words."""

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from running import command, environment, hashes, wait_until

from wsss import datasets
from wsss.command import run as run_command
from wsss.data import check, coco, commands, instances, voc
from wsss.data.names import read_lines
from wsss.paths import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SIZE = (30, 40)
"""Height and width of the tiny set's images."""


def box(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, background first: the slow way."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts, value = [*counts, 0], pixel
        counts[-1] += 1
    return counts


def window(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def thing(image: int, category: int, segmentation: Any, area: float, crowd: int = 0) -> dict[str, Any]:
    return dict(image_id=image, category_id=category, segmentation=segmentation, area=area, iscrowd=crowd)


def compressed(mask: np.ndarray) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": encoded["counts"].decode(), "size": list(SIZE)}


def tree(split: str) -> dict[str, Any]:
    """Image 1: overlap, the smaller object first; 2: run lengths of both kinds; 3: empty; 4: a crowd under an object,
    a crowd of a class that has no object, and a grey photograph; 5: a crowd alone; 6: two polygons, one a mere line."""
    ring = window(5, 5, 20, 20) & ~window(10, 10, 9, 9)
    crowd, alone = ({"counts": runs(part), "size": list(SIZE)} for part in (window(0, 0, 20, 30), window(25, 0, 5, 40)))
    rows = [
        thing(1, 7, [box(12, 8, 9, 9)], 81),
        thing(1, 2, [box(5, 4, 30, 20)], 600),
        thing(2, 18, {"counts": runs(window(2, 3, 20, 11)), "size": list(SIZE)}, 220),
        thing(2, 2, compressed(ring), float(ring.sum())),
        thing(4, 2, [box(10, 5, 8, 8)], 64),
        thing(4, 2, crowd, 1e9, 1),
        thing(4, 18, alone, 5, 1),
        thing(5, 7, crowd, 600, 1),
        thing(6, 7, [box(1.3, 2.6, 7.9, 20.2), [0, 0, 9, 9], [20.5, 3, 35, 9.25, 22, 28]], 250),
    ]
    images = [
        dict(id=number, file_name=f"COCO_{split}2014_{number + 10 * (split == 'val'):012d}.jpg", height=30, width=40)
        for number in (6, 2, 3, 1, 4, 5)
    ]
    rows = [row | dict(id=number) for number, row in enumerate(rows, 1)]
    categories = [dict(id=18, name="dog"), dict(id=2, name="traffic light"), dict(id=7, name="cup")]
    return dict(images=images, annotations=rows, categories=categories)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """DIR/annotations and DIR/train2014, DIR/val2014 of a tiny COCO."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = tree(split)
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(rows))
        (root / f"{split}2014").mkdir()
        for row in rows["images"]:
            pixels = random.integers(0, 256, SIZE if row["id"] == 4 else (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2014" / row["file_name"])
    return root


def add_images(source: Path, numbers: range, objects: int = 1) -> None:
    """Photographs more to train, with so many cups each."""
    path = source / "annotations/instances_train2014.json"
    rows = json.loads(path.read_text())
    photo = (source / "train2014/COCO_train2014_000000000001.jpg").read_bytes()
    for number in numbers:
        rows["images"].append(dict(id=number, file_name=f"{number}.jpg", height=30, width=40))
        rows["annotations"] += [thing(number, 7, [box(number % 17, 3, 8, 8)], 64)] * objects
        (source / f"train2014/{number}.jpg").write_bytes(photo)
    path.write_text(json.dumps(rows))


def prepare(source: Path, output: Path, *more: str) -> int:
    """The command's words on the tiny set, in this process unless told otherwise."""
    words = [str(output), "--annotations", str(source / "annotations"), "--images", str(source), "--partial"]
    words += [*({} if "--workers" in more else ("--workers", "0")), *more]
    result = run_command("wsss data", commands.DATA, ["prepare", "coco", *words])
    if isinstance(result, str):  # what the command prints
        print(result)
    return result if isinstance(result, int) else 0


def mask_of(root: Path, number: int) -> np.ndarray:
    return np.array(Image.open(root / f"SegmentationClass/{number:012d}.png"))


def slow_mask(source: Path, split: str, number: int) -> np.ndarray:
    """Objects from the smallest to the largest, then crowds, each filling only what is still free."""
    with open(os.devnull, "w") as quiet, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", quiet)
        api = COCO(str(source / f"annotations/instances_{split}2014.json"))
    index = {category: place for place, category in enumerate(sorted(api.cats), 1)}
    mask = np.zeros(SIZE, np.uint8)
    for row in sorted(api.imgToAnns[number], key=lambda row: (row["iscrowd"], row["area"])):
        if isinstance(row["segmentation"], list):
            row["segmentation"] = [polygon for polygon in row["segmentation"] if len(polygon) > 4]
        mask[(api.annToMask(row) == 1) & (mask == 0)] = index[row["category_id"]]
    return mask


# What is made.


def test_a_set_of_every_kind_of_object(source, tmp_path, capsys):
    root = tmp_path / "out"
    assert prepare(source, root) == 0 and capsys.readouterr().out == f"{root}\n"
    assert voc.open_devkit(root).classes == ("traffic_light", "cup", "dog"), "in the order of the categories' ids"
    assert voc.read_ids(root, "train") == [f"{number:012d}" for number in (1, 2, 4, 6)]
    assert voc.read_ids(root, "val") == voc.read_ids(root, "val_part") == [f"{n:012d}" for n in (11, 12, 14, 16)]
    labels = [line.split(maxsplit=1)[1] for line in read_lines(root / voc.LABEL_FILE)]
    assert labels == 2 * ["traffic_light cup", "traffic_light dog", "traffic_light", "cup"]
    assert read_lines(root / voc.CROWD_FILE) == ["000000000004 dog", "000000000014 dog"]
    for number in (1, 2, 4, 6):
        assert np.array_equal(mask_of(root, number), slow_mask(source, "train", number)), number
        assert np.array_equal(mask_of(root, 10 + number), slow_mask(source, "val", number)), number
    assert os.path.samefile(source / "val2014/COCO_val2014_000000000014.jpg", root / "JPEGImages/000000000014.jpg")
    summary, faults = check.check(root)
    assert not faults and "train 4, val 4, val_part 4; labels from text" in summary
    assert not (tmp_path / "out.partial").exists() and not list(root.rglob(".*"))


def test_one_and_two_processes_write_the_same(source, tmp_path):
    add_images(source, range(100, 117))
    for workers in ("1", "2"):
        prepare(source, tmp_path / f"out{workers}", "--workers", workers)
    assert hashes(tmp_path / "out1") == hashes(tmp_path / "out2")
    assert len(hashes(tmp_path / "out1")) == 2 * 25 + 7


# Interruptions.


def test_a_finished_set_is_left_and_another_is_not_touched(source, tmp_path):
    prepare(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare(source, tmp_path / "out") == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    (source / "annotations/instances_val2014.json").unlink()
    with pytest.raises(UserError, match="out exists and was not made from these annotations"):
        prepare(source, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file exists and was not made from these annotations"):
        prepare(source, tmp_path / "file")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_preparation_goes_on_where_it_stopped(source, tmp_path, monkeypatch, capsys, stop):
    prepare(source, tmp_path / "whole")
    rasterise, calls = coco.rasterise, []

    def fail(things: Any, size: Any) -> np.ndarray:
        calls.append(size)
        if len(calls) == 4:
            raise stop
        return rasterise(things, size)

    monkeypatch.setattr(coco, "rasterise", fail)
    root, scratch = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(UserError if isinstance(stop, OSError) else stop) as caught:
        prepare(source, root)
    said = str(caught.value) if isinstance(stop, OSError) else capsys.readouterr().err
    assert "No space left" in said or not isinstance(stop, OSError)
    assert f"in {scratch}" in said or f"in {root}.partial" in said
    finished = sorted(scratch.glob("SegmentationClass/*.png"))
    assert not root.exists() and len(finished) == 3
    finished[1].write_bytes(finished[1].read_bytes()[:40])  # what a crash of the machine may leave
    (scratch / coco._DRAFTS / "1-left.png").write_bytes(b"of a process that was killed")
    calls[:] = 10 * [None]
    assert prepare(source, root) == 0
    assert len(calls) == 10 + 8 - 3 + 1, "two of three finished masks were kept"
    assert hashes(root) == hashes(tmp_path / "whole") and not scratch.exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("mine.txt", "mine", "out.partial exists, but is not an unfinished set"),
        (coco._CARD, '{"version": 0}', "out.partial is an unfinished set from other annotations"),
    ],
)
def test_an_unfinished_set_of_something_else_is_not_gone_on_with(source, tmp_path, name, text, says):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / name).write_text(text)
    with pytest.raises(UserError, match=says):
        prepare(source, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_no_half_and_no_worker(source, tmp_path, kind):
    add_images(source, range(100, 400), objects=30)
    words = ["data", "prepare", "coco", tmp_path / "out", "--annotations", source / "annotations", "--images", source]
    words = command(*words, "--partial", "--workers", "2")
    started = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    masks = tmp_path / "out.partial/SegmentationClass"
    wait_until(lambda: masks.is_dir() and any(masks.glob("*.png")))
    started.send_signal(kind)
    _, err = started.communicate(timeout=60)
    assert started.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[kind], err
    assert "Traceback" not in err and not (tmp_path / "out").exists()
    wait_until(lambda: subprocess.run(["pgrep", "-g", str(started.pid)], capture_output=True).returncode)
    assert subprocess.run(words, env=environment(), capture_output=True).returncode == 0
    assert len(list((tmp_path / "out/SegmentationClass").iterdir())) == 308 and not masks.exists()
    assert not check.check(tmp_path / "out", ["train"])[1]


# Bad input.


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the training annotations of a source."""

    def changed(source: Path) -> None:
        rows = json.loads((source / TRAIN).read_text())
        change(rows)
        (source / TRAIN).write_text(json.dumps(rows))

    return changed


def shape(value: Any) -> Callable[[Path], None]:
    """The first object with another segmentation."""
    return edit(lambda tree: tree["annotations"][0].update(segmentation=value))


def turn(path: Path) -> None:
    """The same pixels, said to lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)


TRAIN, PHOTO = "annotations/instances_train2014.json", "train2014/COCO_train2014_000000000002.jpg"
LONG = compressed(np.ones(SIZE, bool))
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda s: [p.unlink() for p in (s / "annotations").iterdir()], "neither instances_train"),
    "json of nests": (lambda s: (s / TRAIN).write_text("[" * 100_000), "is not complete JSON"),
    "json without a key": (edit(lambda t: t.pop("categories")), "has no list 'categories'"),
    "captions": (edit(lambda t: t["annotations"][0].pop("segmentation")), "1 lacks the key 'segm"),
    "no category": (edit(lambda t: t["categories"].clear()), "1 to 254 different categories"),
    "other categories": (edit(lambda t: t["categories"].append(dict(id=9, name="x"))), "categories of .*"),
    "unknown image": (edit(lambda t: t["annotations"][0].update(image_id=99)), "image 99 is not listed"),
    "image twice": (edit(lambda t: t["images"].append(t["images"][0])), "an image more than once"),
    "nothing": (edit(lambda t: t["annotations"].clear()), "no image of the split train has an object"),
    "path": (edit(lambda t: t["images"][0].update(file_name="../x.jpg")), "not the plain name of"),
    "blank": (edit(lambda t: t["images"][0].update(file_name=" a.jpg")), "begins with a dot or a blank"),
    "vast": (edit(lambda t: t["images"][0].update(height=60000, width=60000)), "cannot have the height"),
    "area that is none": (edit(lambda t: t["annotations"][0].update(area=float("nan"))), "its area is nan"),
    "odd polygon": (shape([[1, 1, 9, 1, 9, 9, 1]]), "annotation number 1 is malformed: a polygon has 7 numbers"),
    "undefined polygon": (shape([[1, 1, float("nan"), 1, 9, 9]]), "a polygon lies far outside"),
    "other size": (shape(LONG | {"size": [40, 30]}), r"size \(40, 30\), but the image has \(30, 40\)"),
    "cut run lengths": (shape(LONG | {"counts": ""}), "do not add up to 30 x 40"),
    "odd characters": (shape(LONG | {"counts": "~é"}), "annotation number 1 is malformed"),
    "no photograph": (lambda s: (s / PHOTO).unlink(), "1 of the 4 images with objects are not in .*first COCO_train"),
    "other photograph": (lambda s: Image.new("RGB", (8, 9)).save(s / PHOTO), "is 8x9, but its annotations are for 40"),
    "turned photograph": (
        lambda s: turn(s / PHOTO),
        r"is 30x40 upright, by its EXIF orientation .6., but its annotations are for 40x30; annotate it upright",
    ),
    "background": (
        edit(lambda t: t["categories"][0].update(name="__Background__")),
        "names '__Background__', which is not a class; remove that category and its annotations",
    ),
    "names alike": (edit(lambda t: t["categories"][1].update(name="DOG")), "are alike"),
    "one in two": (
        edit(lambda t: t["images"][3].update(file_name="COCO_train2014_000000000011.jpg")),
        "000000000011 is in two splits",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_in_words(source, tmp_path, kind):
    spoil, says = BAD[kind]
    spoil(source)
    with pytest.raises(UserError, match=says) as caught:
        prepare(source, tmp_path / "out", *(("--year", "2014") if kind == "no json" else ()))
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_places_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        prepare(source, tmp_path / "file/out")
    with pytest.raises(UserError, match="the image folder .* cannot be read"):
        prepare(source, tmp_path / "out", "--images", str(tmp_path / "file"))
    with pytest.raises(UserError, match="--workers is -1"):
        prepare(source, tmp_path / "out", "--workers", "-1")


def test_names_with_blanks_and_photographs_that_lie(source, tmp_path):
    """An id may hold blanks; a photograph whose annotations are for the upright picture is taken as it is."""
    for split in ("train", "val"):
        tree = json.loads((source / f"annotations/instances_{split}2014.json").read_text())
        for row in tree["images"]:
            name = f"{split} ({row['id']}).jpg"
            path = (source / f"{split}2014" / row["file_name"]).rename(source / f"{split}2014" / name)
            row["file_name"] = name
            with Image.open(path) as image:
                lying = image.transpose(Image.Transpose.ROTATE_90)
            lying.save(path)
            turn(path)
        (source / f"annotations/instances_{split}2014.json").write_text(json.dumps(tree))
    assert prepare(source, tmp_path / "out") == 0
    kit, ids = voc.open_devkit(tmp_path / "out"), voc.read_ids(tmp_path / "out", "train")
    assert all(name.startswith("train (") for name in ids) and voc.read_labels(kit, ids).any(1).all()
    for name in ids:
        photograph, mask = voc.read_pair(kit, name)
        assert photograph.size == mask.shape[::-1]


# Which files, and how many images.


def test_years_and_splits(source):
    folder = source / "annotations"
    assert coco.annotation_files([folder], None, False)[0] == 2014
    assert list(coco.annotation_files([folder / "instances_val2014.json"], None, True)[1]) == ["val"]
    with pytest.raises(UserError, match="instances_train2014.json is not in .*--partial"):
        coco.annotation_files([folder / "instances_val2014.json"], None, False)
    with pytest.raises(UserError, match="neither instances_train2017.json nor instances_val2017.json is in"):
        coco.annotation_files([folder], 2017, False)
    shutil.copy(folder / "instances_val2014.json", folder / "instances_val2017.json")
    with pytest.raises(UserError, match="2014 and of 2017; choose one with --year"):
        coco.annotation_files([folder], None, True)
    assert list(coco.annotation_files([folder], 2017, True)[1]) == ["val"]


def test_a_part_of_coco_is_taken_only_when_asked_for(source, tmp_path):
    with pytest.raises(UserError, match="train2014 has 4 images with an object, but should have 82081"):
        coco.PrepareCoco(tmp_path / "out", (source / "annotations",), source)()
    assert not list(tmp_path.glob("out*"))


def test_whole_sets_are_held_against_the_published_lists():
    root = Path(coco.__file__).parents[2] / "data/lists/coco"
    val = [instances.number_of(name) for name in read_lines(root / "val.txt")]
    ids = {"train": read_lines(root / "train.txt"), "val": val}
    coco.require_whole(ids)
    part = [instances.number_of(name) for name in read_lines(root / "val_part.txt")]
    assert sorted(val) == val and val[: coco.COUNTS["val_part"]] == part
    with pytest.raises(UserError, match="2 image ids of val2014 differ from the published list"):
        coco.require_whole({"train": ids["train"], "val": [*val[1:], "9" * 12]})
    assert not set(ids["train"]) & set(val)


# Real photographs.


def test_real_annotations(shared, tmp_path):
    source, root = shared / "data/tiny_coco", tmp_path / "coco"
    annotations = (source / "annotations/instances_val2017.json",)
    assert coco.PrepareCoco(root, annotations, source, workers=0, partial=True)() == str(root)
    tree = json.loads((source / "annotations/instances_val2017.json").read_text())
    classes = voc.open_devkit(root).classes
    assert classes == tuple(row["name"].replace(" ", "_") for row in tree["categories"]) and len(classes) == 80
    split = datasets.Split(root, "val", masks=True)
    number = {row["id"]: place for place, row in enumerate(tree["categories"], 1)}
    assert len(split) == 48
    for place, name in enumerate(split.ids):
        labels = {number[row["category_id"]] for row in tree["annotations"] if row["image_id"] == int(name)}
        mask = datasets.sample(split, place, 32).mask
        assert labels == set(np.unique(mask).tolist()) - {0} == set((np.flatnonzero(split.labels[place]) + 1).tolist())
    assert not check.check(root)[1]
