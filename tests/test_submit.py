"""`wsss submit`: an archive as the PASCAL VOC evaluation server takes it, the same bytes each time, or a refusal."""

import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Photo, folder, own_set, run, tiny

from wsss.data import pictures
from wsss.data.voc import Split
from wsss.inference import submit
from wsss.paths import UserError
from wsss.report import records

IDS = ["2008_000009", "2008_000006", "2008_000011"]
SIZES = [(48, 40), (31, 57), (64, 20)]


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A devkit of VOC's classes with three test photographs; nothing says what is on those."""
    root = own_set(tmp_path_factory.mktemp("data") / "VOC2012", [Photo(), Photo(classes=(2,))])
    (root / "classes.txt").unlink()
    random = np.random.default_rng(0)
    for name, (width, height) in zip(IDS, SIZES, strict=True):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg")
    (root / "ImageSets/Segmentation/test.txt").write_text("\n".join(IDS) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    assert run(*tiny(devkit, output, "--optim.steps", "1")) == 0
    return folder(output)


@pytest.fixture
def done(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "0")


@pytest.fixture
def images(devkit: Path) -> Split:
    return Split(devkit, "test", labels=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, (width, height) in zip(IDS, SIZES, strict=True):
        (tmp_path / "png").mkdir(exist_ok=True)
        pictures.write_mask(tmp_path / f"png/{name}.png", np.full((height, width), 20, np.uint8))
    return tmp_path / "png"


def test_the_archive_holds_what_the_server_takes(done, capsys):
    assert run("submit", done, "--partial", "True", "--workers", 0) == 0
    path = done / "comp6_test_cls.tar.gz"
    assert str(path) in capsys.readouterr().out
    with tarfile.open(path, "r:gz") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [
            f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in sorted(IDS)
        ]
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
            picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
            assert picture.mode == "P" and picture.getpalette() == pictures.VOC_PALETTE
            assert picture.size == SIZES[IDS.index(Path(member.name).stem)]
            assert np.array(picture).max() <= 20
    assert {path.name for path in (done / "predictions/voc-crf-test").iterdir()} == {
        "protocol.json",
        *(f"{name}.png" for name in IDS),
    }
    assert not list(done.parent.glob("*.json")), "no record: the test split has no truth"


def test_the_same_predictions_give_the_same_bytes(done, tmp_path):
    one, two = tmp_path / "a/one.tar.gz", tmp_path / "two.tar.gz"
    words = ("submit", done, "--partial", "True", "--workers", 0)
    assert run(*words, "--output", one) == 0
    assert run(*words, "--output", two, "--save", tmp_path / "anew") == 0
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[4:8] == bytes(4), "no time in the head of gzip"
    assert gzip.decompress(one.read_bytes())
    assert not list(tmp_path.glob("a/.*"))


def test_another_list_than_the_test_images_is_refused_before_it_is_predicted(done, refused):
    said = refused("submit", done)
    assert "VOC's test has 1,456 images" in said and "lists 3 in test" in said and "--partial" in said
    assert not (done / "predictions").exists()


def test_the_whole_test_list_is_asked_for(images):
    ids = records.split_ids("voc-test")
    images.ids = ids[::-1]
    submit.require_voc_test(images)
    images.ids = ids[1:]
    with pytest.raises(UserError, match=f"lists 1,455 in test, and {ids[0]} is not in the list"):
        submit.require_voc_test(images)
    images.ids = [*ids, "2007_000001"]
    with pytest.raises(UserError, match="2007_000001 is not one of them"):
        submit.require_voc_test(images)
    images.ids, images.kit = ids, replace(images.kit, classes=("cup",))
    with pytest.raises(UserError, match="other classes than VOC"):
        submit.require_voc_test(images)


def draw(name: str, shape: tuple[int, int], value: int = 0) -> Callable[[Path], None]:
    return lambda place: pictures.write_mask(place / f"{name}.png", np.full(shape, value, np.uint8))


FAULTS = {
    "size": (draw(IDS[0], (40, 47)), f"{IDS[0]}.png is 47x40, but its image is"),
    "missing": (lambda p: (p / f"{IDS[1]}.png").unlink(), f"{IDS[1]}.png does not exist"),
    "value": (draw(IDS[0], (40, 48), 21), "holds the value 21"),
    "palette": (
        lambda p: Image.fromarray(np.zeros((40, 48), np.uint8)).save(p / f"{IDS[0]}.png"),
        "does not have VOC's palette",
    ),
    "one more": (draw("x", (4, 4)), "x.png belongs to no image of the list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_nothing_is_packed(fault, place, images, tmp_path):
    spoil, says = FAULTS[fault]
    output = tmp_path / "out.tar.gz"
    submit.pack(place, images, output)
    before = output.read_bytes()
    spoil(place)
    with pytest.raises(UserError, match="nothing was packed: .*" + re.escape(says)):
        submit.pack(place, images, output)
    assert output.read_bytes() == before, "the archive before is untouched"
