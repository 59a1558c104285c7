"""`wsss data prepare voc`: what it builds from small archives, what it checks, and what it refuses."""

import io
import os
import re
import shutil
import signal
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import cut, hashes, run, write_annotations
from scipy.io import savemat

from wsss.config import IGNORE
from wsss.data import archives, check, voc
from wsss.data import prepare as preparation
from wsss.data.names import read_lines
from wsss.data.pictures import VOC_PALETTE, read_image, read_mask, write_mask
from wsss.paths import UserError, project_root
from wsss.registry import DATASETS

IDS = "ImageSets/Segmentation"
SIZES = {"2007_000001": (30, 20), "2007_000002": (20, 30), "2008_000003": (24, 24), "2008_000004": (31, 17)}
"""Of VOC train, VOC val, and two of SBD alone; SBD lists the first two as well."""
TRAIN, VAL, LOW, HIGH = SIZES
TEST = "2008_000009"


def photo(path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def filled(size: tuple[int, int], value: int) -> np.ndarray:
    array = np.zeros(size[::-1], np.uint8)
    array[2:9, 3:12] = value
    return array


def sbd_mat(path: Path, mask: np.ndarray) -> None:
    savemat(path, {"GTcls": {"Segmentation": mask, "Boundaries": np.zeros(20)}}, do_compression=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with VOCdevkit/VOC2012, SBD and test folders as they unpack: 4 images and a test image."""
    monkeypatch.chdir(tmp_path)
    devkit, sbd, test = (tmp_path / name for name in ("VOCdevkit/VOC2012", "benchmark_RELEASE/dataset", "test/VOC2012"))
    for folder in (devkit / IDS, devkit / "SegmentationClass", devkit / "Annotations", sbd / "cls", test / IDS):
        folder.mkdir(parents=True)
    for name, size in SIZES.items():
        photo(devkit / f"JPEGImages/{name}.jpg", size)
        sbd_mat(sbd / f"cls/{name}.mat", filled(size, 8))
        write_annotations(devkit, {name: ("cat", "bus", "diningtable")})
    for split, name in (("train", TRAIN), ("val", VAL)):
        mask = filled(SIZES[name], 11)
        mask[0] = IGNORE
        write_mask(devkit / f"SegmentationClass/{name}.png", mask)
        (devkit / IDS / f"{split}.txt").write_text(f"{name}\n")
    (sbd / "train.txt").write_text(f"{HIGH}\n{VAL}\n{LOW}\n")
    (sbd / "val.txt").write_text(f"{TRAIN}\n")
    photo(test / f"JPEGImages/{TEST}.jpg", (9, 9))
    (test / IDS / "test.txt").write_text(f"{TEST}\n")
    return tmp_path


def pack(place: Path) -> None:
    """The folders as voc.tar, sbd.tgz, test.tar, under the names and with the extras that official archives have."""
    (place / "benchmark_RELEASE/dataset/._train.txt").write_bytes(b"\0")
    for name, folder, mode in (("voc.tar", "VOCdevkit", "w"), ("sbd.tgz", "benchmark_RELEASE", "w:gz")):
        with tarfile.open(place / name, mode) as tar:
            tar.add(place / folder, arcname=folder)
    with tarfile.open(place / "test.tar", "w") as tar:
        tar.add(place / "test/VOC2012", arcname="./VOCdevkit/VOC2012")


FOLDERS = ["--voc", "VOCdevkit", "--sbd", "benchmark_RELEASE"]
TARS = ["--voc", "voc.tar", "--sbd", "sbd.tgz", "--test", "test.tar"]


def prepare(*words: str) -> int:
    return run("data", "prepare", "voc", "out/VOC2012", *words)


def assert_refused(says: str, words: list[str], place: Path, refused: Callable[..., str]) -> None:
    """One sentence that matches, and no file more or less than before."""
    before = hashes(place)
    found = refused("data", "prepare", "voc", "out/VOC2012", *words, "--partial")
    assert re.search(says, found) and hashes(place) == before and not list(place.glob("out/*")), found


@pytest.mark.parametrize("words", [[*FOLDERS, "--test", "test"], TARS], ids=["folders", "archives"])
def test_builds_the_set(place, capsys, words):
    """VOC's masks win, and they alone ignore contours; the set is sound."""
    pack(place)
    assert prepare(*words, "--partial") == 0
    assert capsys.readouterr().out == "out/VOC2012: train 1, train_aug 3, val 1, test 1\n"
    root = Path("out/VOC2012")
    assert not check.check(root)[1]
    lists = {path.stem: path.read_text().split() for path in (root / IDS).iterdir()}
    assert lists == {"train": [TRAIN], "train_aug": [TRAIN, LOW, HIGH], "val": [VAL], "test": [TEST]}, "VOC val is out"
    assert {path.stem for path in (root / "JPEGImages").iterdir()} == {*SIZES, TEST}
    assert {path.stem for path in (root / "SegmentationClass").iterdir()} == {TRAIN, VAL}
    assert {path.stem for path in (root / "SegmentationClassAug").iterdir()} == set(SIZES)
    assert (root / voc.LABEL_FILE).read_text() == "".join(f"{name} bus cat diningtable\n" for name in sorted(SIZES))
    assert not [path for path in Path("out").iterdir() if path.name != "VOC2012"]
    for name, value in ((TRAIN, 11), (VAL, 11), (LOW, 8), (HIGH, 8)):
        with Image.open(root / f"SegmentationClassAug/{name}.png") as image:
            mask = np.array(image)
            assert image.mode == "P" and image.getpalette() == VOC_PALETTE and image.size == SIZES[name]
        assert mask[5, 5] == value and mask[15, 15] == 0 and (mask[0, 0] == IGNORE) == (value == 11)


def test_folders_are_linked_where_the_disk_allows_it(place, monkeypatch):
    assert prepare(*FOLDERS, "--partial") == 0
    first = Path(f"out/VOC2012/JPEGImages/{LOW}.jpg")
    assert first.samefile(f"VOCdevkit/VOC2012/JPEGImages/{LOW}.jpg")
    shutil.rmtree("out")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    assert prepare(*FOLDERS, "--partial") == 0
    assert first.read_bytes() == Path(f"VOCdevkit/VOC2012/JPEGImages/{LOW}.jpg").read_bytes()
    assert not first.samefile(f"VOCdevkit/VOC2012/JPEGImages/{LOW}.jpg")


def test_again_changes_nothing(place, capsys, refused):
    assert prepare(*FOLDERS, "--partial") == 0
    before = hashes(place)
    shutil.rmtree("benchmark_RELEASE")
    assert prepare("--partial") == 0, "what is done needs no archive"
    assert {name: value for name, value in before.items() if "RELEASE" not in name} == hashes(place)
    assert capsys.readouterr().out.count("out/VOC2012: train 1, train_aug 3, val 1\n") == 2
    for words, says in (([], "holds another set"), (["--partial", "--test", "test"], "was made without test")):
        assert says in refused("data", "prepare", "voc", "out/VOC2012", *words)
    Path("out/VOC2012/prepared.json").unlink()
    assert "exists and was not made by wsss data prepare" in refused("data", "prepare", "voc", "out/VOC2012", *FOLDERS)
    assert "needs --voc PATH and --sbd PATH, or --download DIR" in refused("data", "prepare", "voc", "x")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_it_leaves_nothing(place, kind, monkeypatch):
    monkeypatch.setattr(preparation, "write_mask", lambda *_: signal.raise_signal(kind))
    before = hashes(place)
    if kind == signal.SIGTERM:
        with pytest.raises(SystemExit) as stopped:
            prepare(*FOLDERS, "--partial")
        assert stopped.value.code == 143
    else:
        assert prepare(*FOLDERS, "--partial") == 130
    assert hashes(place) == before and not list(Path("out").iterdir())
    monkeypatch.undo()
    os.chdir(place)
    assert prepare(*FOLDERS, "--partial") == 0


def test_lists_are_held_against_the_published_ones(place, refused):
    says = "the list train has 1 images, but VOC 2012 with SBD has 1,464"
    assert says in refused("data", "prepare", "voc", "out/VOC2012", *FOLDERS)
    assert not list(Path("out").iterdir())
    folder = project_root() / "data/lists/voc"
    lists = {split: read_lines(folder / f"{split}.txt") for split in DATASETS["voc"].splits}
    preparation.check_lists(lists)
    lists["val"][7] = "2000_000000"
    with pytest.raises(UserError, match="list val differs from the published one: 2 ids .* first 2000_000000"):
        preparation.check_lists(lists)


def test_published_lists_are_the_shared_ones(shared):
    for path in sorted((shared / "data/lists/voc").iterdir()):
        assert path.read_text() == (project_root() / "data/lists/voc" / path.name).read_text(), path.name


def test_other_labels_are_noted(place, monkeypatch, capsys):
    monkeypatch.setattr(preparation, "check_lists", lambda _: None)
    assert prepare(*FOLDERS) == 0
    assert "note: image labels of 4 images differ from image_labels.txt" in capsys.readouterr().out


def add(archive: str, name: str, **fields: object) -> None:
    """A member more, at the end of a plain tar."""
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(member, io.BytesIO(b"x" * member.size))


DEV, SBD_CLS = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset/cls"
LOW_MAT, LOW_XML, LOW_JPG = f"{SBD_CLS}/{LOW}.mat", f"{DEV}/Annotations/{LOW}.xml", f"{DEV}/JPEGImages/{LOW}.jpg"
SYMLINK, DEVICE = tarfile.SYMTYPE, tarfile.CHRTYPE
ARCHIVES: dict[str, tuple[Callable[[], object], str]] = {
    "photograph": (lambda: (cut(LOW_JPG), pack(Path())), f"error: voc.tar/JPEGImages/{LOW}.jpg cannot be decoded"),
    "no end": (
        lambda: Path("voc.tar").write_bytes(Path("voc.tar").read_bytes().rstrip(b"\0")),
        "voc.tar is not a tar archive or is cut short",
    ),
    "the other archive": (lambda: shutil.copy("voc.tar", "sbd.tgz"), "sbd.tgz holds no cls, so it is not"),
    "leaves the folder": (
        lambda: add("voc.tar", "../../evil", size=1),
        "evil' would be extracted to .*outside",
    ),
    "symlink to root": (
        lambda: add("voc.tar", "x", type=SYMLINK, linkname="/etc"),
        "'x' is a link to an absolute",
    ),
    "symlink for a photograph": (
        lambda: add("voc.tar", f"{DEV}/JPEGImages/1.jpg", type=SYMLINK, linkname="2.jpg"),
        "is a link to '2.jpg'",
    ),
    "device": (lambda: add("voc.tar", "null", type=DEVICE), "'null' is a special file"),
    "giant": (lambda: add("voc.tar", f"{DEV}/JPEGImages/1.jpg", size=archives._LARGEST + 1), "claims 16,777,217 bytes"),
    "two sets": (lambda: add("voc.tar", "VOC2007/JPEGImages/1.jpg", size=1), "holds more than one set"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_bad_archives(case, place, refused):
    pack(place)
    spoil, says = ARCHIVES[case]
    spoil()
    assert_refused(says, TARS, place, refused)


def test_what_nobody_needs_is_passed_over(place):
    pack(place)
    add("voc.tar", "/evil", size=1)
    add("voc.tar", "VOCdevkit/latest", type=SYMLINK, linkname="VOC2012")
    assert prepare(*TARS, "--partial") == 0 and not list(place.rglob("evil"))


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
)


def bomb_png(size: tuple[int, int]) -> bytes:
    """The header of a palette PNG of that size, with next to nothing in it."""
    path = io.BytesIO()
    Image.new("P", (1, 1)).save(path, "PNG")
    data = bytearray(path.getvalue())
    data[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


FILES: dict[str, tuple[Callable[[], object], str]] = {
    "mat of something else": (lambda: savemat(LOW_MAT, {"GTinst": 1}), "no readable GTcls.Segmentation .*KeyError"),
    "mat of text": (lambda: savemat(LOW_MAT, {"GTcls": {"Segmentation": "cat"}}), "holds <U3 of shape"),
    "mat of another size": (lambda: sbd_mat(Path(LOW_MAT), filled((20, 24), 8)), "is 20x24, but its image is 24x24"),
    "mat of class 21": (lambda: sbd_mat(Path(LOW_MAT), filled((24, 24), 21)), "holds the value 21"),
    "unknown class": (
        lambda: Path(LOW_XML).write_text("<a><object><name>gnu</name></object></a>"),
        "the class 'gnu', which is not among the classes",
    ),
    "entity bomb in UTF-16": (
        lambda: Path(LOW_XML).write_text(f'<?xml version="1.0" encoding="UTF-16"?>{BOMB}]><a>&m;</a>', "utf-16"),
        "declares a DOCTYPE a",
    ),
    "list twice": (lambda: Path(f"{DEV}/{IDS}/val.txt").write_text(f"{VAL}\n{VAL}"), "names an image twice"),
    "list of paths": (
        lambda: Path(f"{DEV}/{IDS}/val.txt").write_text("../../x"),
        r"names '../../x', which is not an id",
    ),
    "empty folder": (lambda: shutil.rmtree(SBD_CLS), "holds no folder cls"),
    "two sets": (lambda: shutil.copytree(DEV, "VOCdevkit/VOC2007"), "holds more than one set"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(case, place, refused):
    spoil, says = FILES[case]
    spoil()
    assert_refused(says, FOLDERS, place, refused)


@pytest.mark.parametrize("size", [(60000, 60000), (10000, 10000)], ids=["error", "warning"])
def test_pictures_that_claim_too_many_pixels(tmp_path, size):
    """Pillow raises at one size and warns at the other; neither is decoded."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb_png(size))
    for reader in (lambda: read_image(path), lambda: read_mask(path, None, 20)):
        with pytest.raises(UserError, match="bomb.png cannot be decoded .*pixels"):
            reader()
