"""A run belongs to its data: classes, image labels, masks and photographs, wherever they lie and whatever is cached."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import folder, hashes, own_set, record, run, tiny, write_labels, write_mask

from wsss.data import identity, voc
from wsss.paths import UserError, read_json, write_json
from wsss.report import publish, records
from wsss.tools import ship

IDS = "ImageSets/Segmentation"
FINAL = ("--protocol", "voc", "--crf", "False", "--scales", "1", "--flip", "False", "--workers", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own: a set with labels from a text file; out: a finished run on it."""
    base = tmp_path_factory.mktemp("made")
    own_set(base / "own", labels=("cup", "jug", "cup jug", "jug"))
    assert run(*tiny(base / "own", base / "out")) == 0
    return base


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the set, with a finished run on it in `out` beside it, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = folder(shutil.copytree(made / "out", tmp_path / "out")) / "config.json"
    config.write_text(config.read_text().replace(str(made), str(tmp_path)))
    return shutil.copytree(made / "own", tmp_path / "own")


def repaint(root: Path, name: str) -> None:
    """One pixel of a mask of another class."""
    path = root / f"SegmentationClass/{name}.png"
    mask = np.array(Image.open(path))
    mask[3, 3] = 2 if mask[3, 3] != 2 else 1
    write_mask(path, mask)


def save_again(root: Path, name: str) -> None:
    """The same photograph in other bytes."""
    path = root / f"JPEGImages/{name}.jpg"
    Image.open(path).save(path, quality=50)


def rename(root: Path) -> None:
    (root / "classes.txt").write_text("mug\njug\n")
    write_labels(root, "mug", "jug", "mug jug", "jug")


def encode_again(root: Path) -> None:
    """Every mask with the same values in other bytes: grey, without compression."""
    for path in (root / "SegmentationClass").iterdir():
        Image.fromarray(np.array(Image.open(path))).save(path, compress_level=0)


def shorten(root: Path, split: str) -> None:
    path = root / IDS / f"{split}.txt"
    path.write_text("\n".join(path.read_text().split()[:3]))


def link(root: Path) -> None:
    root.with_name("elsewhere").mkdir()
    root.symlink_to(root.rename(root.with_name("elsewhere") / "own"))


CHANGES = {
    "the classes": rename,
    "the classes, the image labels of train and val": lambda root: (root / "classes.txt").write_text("jug\ncup\n"),
    "the image labels of train and val": lambda root: write_labels(root, "cup", "jug", "cup jug", "cup jug"),
    "the masks of val": lambda root: repaint(root, "val_1"),
    "the photographs of val": lambda root: save_again(root, "val_0"),
    "the photographs of train": lambda root: save_again(root, "train_3"),
    "the listed images of train": lambda root: shorten(root, "train"),
    "the listed images of val": lambda root: shorten(root, "val"),
}
SAME = {
    "linked from elsewhere": link,
    "masks in other bytes": encode_again,
    "masks of train, which are not used": lambda root: repaint(root, "train_0"),
    "lists in another order": lambda root: [
        (root / IDS / f"{split}.txt").write_text("\n".join(reversed(voc.read_ids(root, split))))
        for split in ("train", "val")
    ],
}


def unfinished(output: Path) -> None:
    """Take the record of a run away: the same command goes on with it."""
    folder(output).with_suffix(".json").unlink()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("differ", CHANGES)
def test_another_set_under_the_same_name_is_another_run(differ, finished, own, tmp_path, refused):
    """Refused in a sentence that names what differs; nothing that is there changes."""
    if not finished:
        unfinished(tmp_path / "out")
    before = hashes(tmp_path / "out")
    CHANGES[differ](own)
    moved = shutil.copytree(own, tmp_path / "other/own")
    for root in (own, moved):
        says = f"used other data than {root}: {differ} differ; choose another --output"
        assert says in refused(*tiny(root, tmp_path / "out"))
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("how", SAME)
def test_the_same_data_are_the_same_run(how, own, tmp_path, capsys):
    SAME[how](own)
    moved = shutil.copytree(own, tmp_path / "other/own")
    for root in (own, moved):
        assert run(*tiny(root, tmp_path / "out")) == 0
    unfinished(tmp_path / "out")
    assert run(*tiny(own, tmp_path / "out")) == 0
    assert "note" not in capsys.readouterr().err


def test_a_record_names_its_data(own, tmp_path):
    output = tmp_path / "watched"
    assert run(*tiny(own, output, "--data.watch", "train")) == 0
    found, place = record(output), folder(output)
    data = found["data"]
    assert data == read_json(place / "data.json") and set(data) == {"train", "val", "watched train"}
    assert data["val"]["masks"] == found["fingerprint"]["masks"] and data["val"]["ids"] == found["fingerprint"]["ids"]
    assert set(data["train"]) == {"ids", "classes", "labels", "photographs"}, "masks of train are not used"
    for split, masks in (("train", False), ("val", True)):
        assert data[split] == identity.digests(voc.Split(own, split, masks))
    repaint(own, "train_0")
    words = tiny(own, output, "--data.watch")
    assert run(*words, "train") == 1 and run(*words, "val") == 0, "a list that is not watched now does not matter"


def test_labels_from_masks_belong_to_the_labels(own, tmp_path, refused):
    (own / voc.LABEL_FILE).unlink()
    assert run(*tiny(own, tmp_path / "masks")) == 0
    repaint(own, "train_0")
    assert "the image labels of train differ" in refused(*tiny(own, tmp_path / "masks"))


def older(output: Path, finished: bool) -> Path:
    """The run as it was written before there were digests; its folder."""
    place = folder(output)
    (place / "data.json").unlink()
    path = place.with_suffix(".json")
    known = read_json(path)
    del known["data"]
    write_json(path, known) if finished else path.unlink()
    return place


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
def test_an_older_run_is_unknown_and_goes_on_with_a_note(finished, own, tmp_path, capsys):
    place = older(tmp_path / "out", finished)
    save_again(own, "train_0")
    capsys.readouterr()
    assert run(*tiny(own, tmp_path / "out")) == 0
    assert "is too old to hold digests" in capsys.readouterr().err
    known = records.data_of(record(tmp_path / "out"))
    assert known["train"] == {} and not (place / "data.json").exists()
    assert ("photographs" in known["val"]) == (not finished)
    shorten(own, "train" if not finished else "val")
    place.with_suffix(".json").unlink() if not finished else None
    assert run(*tiny(own, tmp_path / "out")) == 1, "its list is known"


def test_an_older_record_tells_classes_and_masks(own, tmp_path, refused):
    place = older(tmp_path / "out", True)
    repaint(own, "val_2")
    assert "the masks of val differ" in refused(*tiny(own, tmp_path / "out"))
    rename(own)
    for words in ((), FINAL):
        assert "or their order, differ from those" in refused("evaluate", place, *words)
    for text in ("[]", '{"train": 3, "val": {}}'):
        (place / "data.json").write_text(text)
        assert "data.json" in refused(*tiny(own, tmp_path / "out"))


def test_an_evaluation_of_other_data_stands_apart(own, tmp_path, capsys):
    """It has a record name of its own; by a final protocol also PNGs of its own, if photographs differ."""
    place = folder(tmp_path / "out")
    assert run("evaluate", place, *FINAL) == 0
    before = hashes(tmp_path / "out")
    other = shutil.copytree(own, tmp_path / "other/own")
    save_again(other, "val_0")
    capsys.readouterr()
    assert run("evaluate", place, "--data-root", other) == 0 == run("evaluate", place, *FINAL, "--data-root", other)
    assert capsys.readouterr().out.count("other data than the run's: the photographs of val differ") == 2
    assert before.items() <= hashes(tmp_path / "out").items(), "what is there of the run's own data stays"
    made = [records.load(path) for path in sorted(place.parent.glob("0.*other-data-*.json"))]
    assert [found["protocol"]["name"].startswith("final") for found in made] == [False, True]
    for found in made:
        assert found["other_data"] == "the photographs of val"
        assert found["data"]["val"]["photographs"] == identity.digests(voc.Split(other, "val"))["photographs"]
        assert found["data"]["train"] == record(tmp_path / "out")["data"]["train"]
    assert made[1]["protocol"]["name"].endswith("other-data")
    chosen = records.select(records.find(tmp_path / "out"), "own", "tiny")
    assert [Path(found["path"]).name for found in chosen] == ["0.json"]
    folders = [path for path in (place / "predictions").iterdir() if "other-data" in path.name]
    assert len(folders) == 1 and len(list(folders[0].glob("*.png"))) == 4


def test_other_masks_score_the_kept_predictions_anew(own, tmp_path):
    place = folder(tmp_path / "out")
    assert run("evaluate", place, *FINAL) == 0
    pngs = next((place / "predictions").iterdir())
    before = {path: path.stat().st_mtime_ns for path in pngs.glob("*.png")}
    for name in ("val_0", "val_1"):
        write_mask(own / f"SegmentationClass/{name}.png", np.full((40, 48), 2, np.uint8))
    assert run("evaluate", place, *FINAL) == 0
    assert {path: path.stat().st_mtime_ns for path in pngs.glob("*.png")} == before
    (made,) = place.parent.glob("0.voc-*other-data-*.json")
    found, first = records.load(made), records.load(next(place.parent.glob("0.voc-s1-noflip.json")))
    assert found["other_data"] == "the masks of val" and found["fingerprint"] != first["fingerprint"]
    assert found["results"]["segmentation"]["miou"] != first["results"]["segmentation"]["miou"]


def test_predictions_of_other_photographs_are_not_kept(own, tmp_path, refused):
    """Where --save names their folder, and where the run used another list."""
    place = folder(tmp_path / "out")
    (own / IDS / "few.txt").write_text("val_0\nval_1\n")
    words = ("evaluate", place, *FINAL, "--split", "few", "--save", tmp_path / "png")
    assert run(*words) == 0
    save_again(own, "val_1")
    assert "differs in photographs" in refused(*words)
    assert run(*words[:-2]) == 0
    assert list(place.parent.glob("0.voc-s1-noflip-few-other-data-*.json")), "val of this root is not the run's"


def test_a_record_whose_masks_changed_while_it_was_measured_is_not_written(own, tmp_path):
    found = records.load(folder(tmp_path / "out").with_suffix(".json"))
    found["fingerprint"]["masks"] = "0"
    with pytest.raises(UserError, match="masks of val changed while"):
        records.save(found, tmp_path / "x.json")


def digests(root: Path) -> dict[str, str]:
    return identity.digests(voc.Split(root, "val", masks=True))


def test_digests_are_kept_and_given_up_with_the_file(own, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_SETTLED", -60.0)  # a file's time of change cannot be set back
    read: list[Path] = []
    for name in ("sha256", "_mask"):
        kept = getattr(identity, name)
        monkeypatch.setattr(identity, name, lambda *words, kept=kept: (read.append(words[-1]), kept(*words))[1])
    first = digests(own)
    assert len(read) == 8 and len(list((tmp_path / "cache/wsss/digests").iterdir())) == 2
    assert digests(own) == first and len(read) == 8
    moved = shutil.copytree(own, tmp_path / "other/own")
    assert digests(moved) == first and len(read) == 16
    path = own / "JPEGImages/val_0.jpg"
    stat, spoilt = path.stat(), bytearray(path.read_bytes())
    spoilt[-9] ^= 1
    path.write_bytes(bytes(spoilt))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and digests(own)["photographs"] != first["photographs"]
    for store in (tmp_path / "cache/wsss/digests").iterdir():
        store.write_text('{"val_0.jpg": 3}')
    assert digests(moved) == first


def test_a_sweep_does_not_take_other_data_for_finished(own, tmp_path, capsys, refused):
    """Runs on an own set are named after its folder; the list of commands holds what is left."""
    words = ("sweep", "smoke-level", "--output", str(tmp_path / "out"), "--seeds", "0", "--only-list", "True")
    words += ("--data-root", str(own))
    assert run(*words) == 0
    lines, place = (tmp_path / "out/sweeps/smoke-level.txt").read_text(), tmp_path / "out/own/smoke/0"
    assert run(*tiny(own, tmp_path / "out", "--variant", "smoke")) == 0 and place.with_name("0.json").is_file()
    assert f" evaluate {place} " in lines
    capsys.readouterr()
    assert run(*words) == 0 and "begun" in capsys.readouterr().out
    save_again(own, "train_1")
    assert f"first {place} (the photographs of train differ)" in refused(*words)


def test_what_is_published_is_of_one_set_of_data(own, tmp_path):
    """New records must match the published ones and one another. One that says it is of other data stands apart."""
    path = folder(tmp_path / "out").with_suffix(".json")
    clean = read_json(path) | {"dirty": False}
    write_json(path, clean)
    publish.publish(tmp_path / "out", tmp_path / "target")
    other = json.loads(json.dumps(clean)) | {"seed": 1}
    other["data"]["train"]["labels"] = "another"
    write_json(path.with_name("1.json"), other)
    with pytest.raises(UserError, match=r"own/tiny/1 used .* \(the image labels of train differ"):
        publish.publish(tmp_path / "out", tmp_path / "target")
    path.unlink()
    with pytest.raises(UserError, match="own/tiny/1 used other data than own/tiny/0"):
        publish.publish(tmp_path / "out", tmp_path / "target")
    write_json(path.with_name("1.json"), other | {"other_data": "the image labels of train"})
    assert publish.publish(tmp_path / "out", tmp_path / "target")


def test_weights_are_not_shipped_with_numbers_on_other_data(own, tmp_path):
    place = folder(tmp_path / "out")
    path = place.with_suffix(".json")
    write_json(path, read_json(path) | {"dirty": False})
    repaint(own, "val_0")
    with pytest.raises(UserError, match="holds other data than .* used: the masks of val differ"):
        ship.Ship(place, "x", output=tmp_path)()
    assert not (tmp_path / "x.safetensors").exists()


def test_a_new_file_is_not_trusted_and_a_cache_that_cannot_be_written_costs_only_time(own, tmp_path, monkeypatch):
    first = digests(own)
    assert not (tmp_path / "cache").exists(), "its time stamp may be too coarse to show the next change"
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setattr(identity, "_SETTLED", -60.0)
    assert digests(own) == first
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert digests(own) == first
