"""A campaign of faults: one file broken, at every stage; each case ends in a named error or in the right result."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from running import Photo, hashes, run, tiny, write_annotations, write_photo
from scipy.io import savemat
from test_resume import ask_to_stop

from wsss.data.drawn import generate, twin
from wsss.registry import VOC_CLASSES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
PATIENCE = 300
"""Seconds after which a case counts as hung."""
IDS = "ImageSets/Segmentation"


# Stages.


@dataclass(frozen=True)
class Stage:
    """A command, the folders that it works on, the kinds of its files, and what it makes."""

    words: list[str]
    needs: tuple[str, ...]
    kinds: dict[str, str]
    """Kind -> pattern of its files."""
    makes: tuple[str, ...] = ()
    """Patterns of its outputs; without any, the result is what it prints."""
    grows: str = "(?!)"
    """Files that may have changed after an error, each of them complete: a log, checkpoints, predictions."""


SET = {
    "photograph": "{}/JPEGImages/*",
    "mask": "{}/SegmentationClass*/*",
    "annotation": "{}/Annotations/*",
    "list": "{}/ImageSets/Segmentation/*",
    "classes": "{}/classes.txt",
    "labels": "{}/image_labels.txt",
}


def files(root: str, *kinds: str) -> dict[str, str]:
    return {kind: SET[kind].format(root) for kind in kinds}


RUN, SMALL = "runs/smoke/tiny", ("--optim.steps", "2")
FINAL = ["--protocol", "voc", "--crf", "False", "--scales", "1", "--flip", "False", "--workers", "0"]
VOC = ["data", "prepare", "voc", "out/VOC2012", "--partial"]
COCO = ["data", "prepare", "coco", "out/COCO", "--partial", "--workers", "0"]
DRAWN = files("drawn", "photograph", "mask", "annotation", "list", "classes") | {"part": "drawn/SegmentationPart/*"}
VAL = {kind: pattern.replace("/*", "/val*") for kind, pattern in DRAWN.items()}
"""What an evaluation reads."""
STAGES = {
    "voc": Stage(
        [*VOC, "--voc", "VOCdevkit", "--sbd", "benchmark_RELEASE", "--test", "test"],
        ("VOCdevkit", "benchmark_RELEASE", "test"),
        files("*/VOC2012", "photograph", "mask", "annotation", "list")
        | {"SBD mask": "*/dataset/cls/*", "SBD list": "*/dataset/*.txt"},
        ("out/VOC2012/**/*",),
    ),
    "voc, packed": Stage(
        [*VOC, "--voc", "voc.tar", "--sbd", "sbd.tar.gz", "--test", "test.tar"],
        ("voc.tar", "sbd.tar.gz", "test.tar"),
        {"archive": "*.tar", "packed archive": "*.tar.gz"},
        ("out/VOC2012/**/*",),
    ),
    "coco": Stage(
        [*COCO, "--annotations", "coco/annotations", "--images", "coco"],
        ("coco",),
        {"json": "coco/annotations/*", "photograph": "coco/*2014/*"},
        ("out/COCO/**/*",),
        r"out/COCO.partial/.*",
    ),
    "animals": Stage(
        ["data", "prepare", "animals", "out/animals", "--root", "VOC2012"],
        ("VOC2012", "data"),
        files("VOC2012", "photograph", "mask", "annotation") | {"id list": "data/lists/animals/*"},
        ("out/animals/**/*",),
    ),
    "check": Stage(
        ["data", "check", "VOC2012"], ("VOC2012",), files("VOC2012", "photograph", "mask", "annotation", "list")
    ),
    "check, texts": Stage(
        ["data", "check", "COCO"],
        ("COCO",),
        files("COCO", "photograph", "mask", "list", "classes", "labels"),
    ),
    "train": Stage(
        tiny(Path("drawn"), Path("runs"), *SMALL, "--seed", "2"),
        ("drawn",),
        DRAWN,
        (f"{RUN}/2.json", f"{RUN}/2/*.safetensors"),
        rf"{RUN}/2/(config.json|data.json|log.jsonl|best.safetensors|step-\d+.(safetensors|pt))",
    ),
    "resume": Stage(
        tiny(Path("drawn"), Path("runs"), *SMALL, "--seed", "1"),
        ("drawn", "runs"),
        {
            "configuration": f"{RUN}/1/config.json",
            "weights": f"{RUN}/1/step-*.safetensors",
            "state": f"{RUN}/1/step-*.pt",
            "log": f"{RUN}/1/log.jsonl",
        },
        (f"{RUN}/1.json", f"{RUN}/1/*.safetensors"),
        r".*/log.jsonl",
    ),
    "again": Stage(
        tiny(Path("drawn"), Path("runs"), *SMALL, "--seed", "0"),
        ("drawn", "runs"),
        {"configuration": f"{RUN}/0/config.json", "record": f"{RUN}/0.json"},
        (f"{RUN}/0.json", f"{RUN}/0/*.safetensors"),
    ),
    "evaluate": Stage(
        ["evaluate", f"{RUN}/0"],
        ("drawn", "runs"),
        VAL
        | {
            "configuration": f"{RUN}/0/config.json",
            "last weights": f"{RUN}/0/step-*.safetensors",
            "state": f"{RUN}/0/step-*.pt",
            "record": f"{RUN}/0.json",
            "counts": f"{RUN}/0.npz",
            "examples": f"{RUN}/0/cams.npz",
        },
        (f"{RUN}/0.json", f"{RUN}/0.npz"),
    ),
    "evaluate, final": Stage(
        ["evaluate", f"{RUN}/0", *FINAL],
        ("drawn", "runs"),
        {kind: VAL[kind] for kind in ("photograph", "mask", "list", "classes")}
        | {"prediction": f"{RUN}/0/predictions/*/*.png", "protocol": f"{RUN}/0/predictions/*/protocol.json"}
        | {"record": f"{RUN}/0.voc*.json", "counts": f"{RUN}/0.voc*.npz"},
        (f"{RUN}/0.voc*.json", f"{RUN}/0.voc*.npz", f"{RUN}/0/predictions/*/*"),
        rf"{RUN}/0/predictions/[^.]+\.png",
    ),
}


# Faults.


def truncated(path: Path, random: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data))])


def exchanged(path: Path, random: Random) -> None:
    """Exchange a file with another of its kind, or else with a neighbour."""
    kind, neighbours = Path().rglob(f"*{path.suffix}"), path.parent.iterdir()
    found = [[one for one in sorted(row) if one.is_file() and one != path] for row in (kind, neighbours)]
    other = random.choice(found[0] or found[1])
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def replaced(path: Path, random: Random) -> None:
    """Replace a file by a copy of a file of another kind."""
    path.write_bytes(random.choice([one for one in sorted(ALIEN.iterdir()) if one.suffix != path.suffix]).read_bytes())


def emptied(path: Path, random: Random) -> None:
    path.write_bytes(b"")


def renamed(path: Path, random: Random) -> None:
    path.rename(path.with_name(random.choice((f"{path.name}.bak", f"{path.stem} (1){path.suffix}"))))


def unreadable(path: Path, random: Random) -> None:
    """Put a folder in its place, which no user can read as a file, not even root."""
    path.unlink()
    path.mkdir()


def dangling(path: Path, random: Random) -> None:
    """Put a link to nothing in its place, as of a disk that is not mounted."""
    path.unlink()
    path.symlink_to("nowhere")


FAULTS = {one.__name__: one for one in (truncated, exchanged, replaced, emptied, renamed, unreadable, dangling)}
ALIEN = Path("../whole/alien")
"""Files of other kinds."""
KINDS = [(stage, kind) for stage, row in STAGES.items() for kind in row.kinds]
CASES = [(*both, [*FAULTS][(n + turn) % len(FAULTS)]) for n, both in enumerate(KINDS) for turn in (0, 2, 3)]
"""Three faults for each kind of file of each stage, in turn: a kind meets other faults in other stages. Photographs
and masks meet all faults, and each stage meets at least five."""
assert all({fault for _, kind, fault in CASES if kind == one} == set(FAULTS) for one in ("photograph", "mask"))
assert all(len({fault for one, _, fault in CASES if one == stage}) >= 5 for stage in STAGES)
GIVEN = {
    **dict.fromkeys(("photograph", "mask", "part", "prediction", "annotation", "SBD list", "id list"), {"exchanged"}),
    "list": {"exchanged", "renamed"},
    "json": {"renamed", "dangling"},
    "labels": {"renamed", "dangling"},
    "last weights": {"exchanged"},
}
"""Faults that cannot be noticed, so that the result is what the files now say: a picture of the same size in place of
another, an annotation or list exchanged with its like; a split, or a source of labels, that may be left out."""


# What is whole.

PHOTOS = (
    Photo((30, 20), classes=(8,)),
    Photo((20, 30), classes=(12,)),
    Photo((24, 26), classes=(8, 12)),
    Photo((31, 17), classes=(12,)),
    Photo((22, 23), classes=(8,)),
    Photo((19, 28), classes=(12, 17)),
    Photo((9, 11)),
)
LISTS = {
    f"VOCdevkit/VOC2012/{IDS}/train.txt": (0, 1),
    f"VOCdevkit/VOC2012/{IDS}/val.txt": (2, 3),
    "benchmark_RELEASE/dataset/train.txt": (4, 5),
    "benchmark_RELEASE/dataset/val.txt": (0, 2),
    f"test/VOC2012/{IDS}/test.txt": (6,),
    "data/lists/animals/train.txt": (0,),
    "data/lists/animals/train_aug.txt": (0, 4, 5),
    "data/lists/animals/val.txt": (2, 3),
}
"""List -> the PHOTOS that it names."""


def download_voc() -> None:
    """VOC, SBD and VOC's test photographs as they unpack, and packed; lists of the animals among them."""
    for path, numbers in LISTS.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(f"2008_{number:06d}\n" for number in numbers))
    devkit, sbd, random = Path("VOCdevkit/VOC2012"), Path("benchmark_RELEASE/dataset"), np.random.default_rng(0)
    for folder in (devkit / "JPEGImages", devkit / "Annotations", sbd / "cls"):
        folder.mkdir(parents=True)
    for number, photo in enumerate(PHOTOS):
        name = f"2008_{number:06d}"
        write_photo(devkit, name, photo, random)
        mask = devkit / f"SegmentationClass/{name}.png"
        segmentation = {"GTcls": {"Segmentation": np.array(Image.open(mask))}}
        savemat(sbd / f"cls/{name}.mat", segmentation, do_compression=True)
        write_annotations(devkit, {name: [VOC_CLASSES[k - 1] for k in photo.classes]})
        if number > 3:
            mask.unlink()
    shutil.copytree(devkit / "JPEGImages", "test/VOC2012/JPEGImages")
    shutil.make_archive("voc", "tar", ".", "VOCdevkit")
    shutil.make_archive("sbd", "gztar", ".", "benchmark_RELEASE")
    shutil.make_archive("test", "tar", "test", ".")


def download_coco() -> None:
    splits = {"train": 12, "val": 2}  # so many that train shows every class of val
    twin.export(Path("coco"), splits)
    for split in splits:
        Path(f"coco/{split}").rename(f"coco/{split}2014")
        Path(f"coco/annotations/instances_{split}.json").rename(f"coco/annotations/instances_{split}2014.json")


def train_runs() -> None:
    """Seed 0: finished, and predicted by a final protocol; seed 1: stopped after the first step."""
    for stage in ("again", "evaluate, final"):
        assert run(*STAGES[stage].words) == 0
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, 1)
        assert run(*STAGES["resume"].words) == 143
    min(Path(RUN).glob("0/predictions/*/*.png")).unlink()  # so that one is to be made, the other to be counted


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("campaign") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        (place / "wsss").mkdir(parents=True)
        patch.chdir(place)
        Path("_config.yml").touch()  # a project of its own: with its own lists
        download_voc()
        download_coco()
        generate.generate(Path("drawn"), {"train": 4, "val": 2}, size=64, progress=False)
        for stage in ("voc", "coco"):
            assert run(*STAGES[stage].words) == 0
        for made in Path("out").iterdir():
            made.rename(made.name)
        train_runs()
        ALIEN.mkdir()
        data = ("JPEGImages/val_00000.jpg", "SegmentationClass/val_00000.png", "Annotations/val_00000.xml", "mini.json")
        made = ("0.json", "0.npz", "0/log.jsonl", "0/best.safetensors")
        for path in ("voc.tar", *(f"drawn/{name}" for name in data), *(f"{RUN}/{name}" for name in made)):
            shutil.copy(path, ALIEN)
        (ALIEN / "page.html").write_text("<html>404</html>" * 99)
        (ALIEN / "zeros.bin").write_bytes(bytes(999))
    return place


def copy(whole: Path, stage: str) -> None:
    for need in ("_config.yml", "wsss", *STAGES[stage].needs):
        if (whole / need).is_dir():
            shutil.copytree(whole / need, need)
        else:
            shutil.copy(whole / need, need)


# The verdict.


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, what it printed, and its outputs: path -> digest, or what a record says."""

    code: int
    out: str
    err: str
    outputs: dict[str, object]

    def result(self) -> object:
        return self.code, self.outputs or self.out

    def errors(self) -> list[str]:
        lines = re.split(r"[\r\n]", self.err)
        return [line.partition("wsss: error: ")[2] for line in lines if "wsss: error: " in line]


def execute(stage: Stage) -> Done:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = run(*stage.words)
    return Done(code, out.getvalue(), err.getvalue(), {} if code else outputs(stage))


def outputs(stage: Stage) -> dict[str, object]:
    digests = hashes(Path())
    found = {str(path) for pattern in stage.makes for path in Path().glob(pattern)} & digests.keys()
    return {name: numbers_of(name) or digests[name] for name in sorted(found)}


def numbers_of(name: str) -> object:
    """What a record says that does not depend on the clock."""
    tree = json.loads(Path(name).read_text()) if name.endswith(".json") else {}
    return {key: tree[key] for key in ("seed", "variant", "images", "results", "config") if key in tree}


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def difference(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def names(said: str, touched: set[str]) -> bool:
    """Whether a sentence names one of these files or its folder, or quotes what a text among them now says."""
    paths = [Path(name) for name in touched]
    if any(path.stem in said or (path.parent.name and str(path.parent) in said) for path in paths):
        return True
    texts = [path.read_bytes() for path in paths if path.suffix in (".txt", ".json") and path.is_file()]
    return any(words(text) & words(said.encode()) for text in texts)


def words(text: bytes) -> set[bytes]:
    return {*text.split(), *re.findall(rb"[\w-]+", text)}


def repair(touched: set[str], before: dict[str, bytes]) -> None:
    for path in map(Path, touched):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if str(path) in before:
            path.write_bytes(before[str(path)])


@pytest.fixture(scope="module")
def sound(whole: Path) -> dict[str, Done]:
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, stage in STAGES.items():
            place = whole.parent / "sound" / name
            place.mkdir(parents=True)
            patch.chdir(place)
            copy(whole, name)
            made[name] = execute(stage)
            assert made[name].code == 0, made[name]
    return made


@pytest.fixture
def place(whole: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with what the case's stage needs, to spoil; removed afterwards."""
    place = whole.parent / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    copy(whole, request.node.callspec.params["case"][0])
    yield
    monkeypatch.undo()
    shutil.rmtree(place)


@pytest.fixture
def patience() -> Iterator[None]:
    """A case that hangs ends as a failure; processes have a limit of their own."""

    def hung(*_: object) -> None:
        pytest.fail(f"hung for {PATIENCE} seconds")  # no OSError, which the command would take for one of its own

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_named_error_or_the_right_result(case, sound, place, patience):
    name, kind, fault = case
    stage, random, before = STAGES[name], Random(f"{name} {kind} {fault} 0"), snapshot()
    FAULTS[fault](random.choice(sorted(Path().glob(stage.kinds[kind]))), random)
    broken = snapshot()
    touched = difference(before, broken)
    done = execute(stage)
    errors = done.errors()
    assert "Traceback" not in done.err, done.err
    assert not [path for path in Path().rglob(".*") if not str(path).startswith("out/COCO.partial/")], "left behind"
    if done.code == 0:
        assert not errors
        given = fault in GIVEN.get(kind, ()) or (not stage.makes and names(done.out, touched))
        for extra in touched - before.keys():  # the file under its new name
            done.outputs.pop(extra, None)
        assert given or done.result() == sound[name].result(), touched
        return
    assert done.code == 1 and any(names(said, touched) for said in errors), (touched, errors)
    if stage.makes:
        assert len(errors) == 1 and "; " in errors[0] and len(errors[0]) < 600, errors
    changed = difference(broken, snapshot())
    assert all(re.fullmatch(stage.grows, name) for name in changed), changed
    if changed:  # else the folder is again what the sound result was made of
        repair(touched, before)
        assert execute(stage).result() == sound[name].result(), errors
