"""Final evaluation of a run: PNGs, record and counts agree; interrupted, resumed and shared, they are the same."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import (
    Photo,
    command,
    cut,
    folder,
    hashes,
    own_set,
    process,
    redraw,
    run,
    stop_when,
    tiny,
    write_photo,
)

from wsss import protocols, provenance
from wsss.cli import main
from wsss.data import pool
from wsss.data.pictures import VOC_PALETTE, write_mask
from wsss.inference import multi_scale, predictions, runs
from wsss.inference.predictions import Job
from wsss.paths import UserError
from wsss.report import records

PHOTOS = (
    Photo(),
    Photo(classes=(2,)),
    Photo(classes=(1, 2), size=(31, 57)),
    Photo(mode="L", size=(50, 21)),
    Photo(classes=(2,), size=(64, 6)),
)
"""Sides of whole patches of 8, odd sides, a grey photograph, one of less than a patch."""
HERE = ("--workers", "0")
"""No processes beside this one."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_set(tmp_path_factory.mktemp("data") / "own", PHOTOS)


@pytest.fixture(scope="module")
def made(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose positions and decoder were drawn anew, so that every class is somewhere; best and last differ."""
    output = tmp_path_factory.mktemp("runs")
    assert run(*tiny(own, output)) == 0
    redraw(folder(output), 0)
    return output


@pytest.fixture
def done(made: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, OUTPUT/own/tiny/0."""
    return folder(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def predicted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = shutil.copytree(made, tmp_path_factory.mktemp("predicted") / "runs")
    assert run("evaluate", folder(output), "--protocol", "voc", *HERE) == 0
    return output


@pytest.fixture
def evaluated(predicted: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, evaluated by VOC's protocol."""
    return folder(shutil.copytree(predicted, tmp_path / "runs"))


def pictures(place: Path) -> dict[str, str]:
    """Digests of the PNGs of a folder."""
    return {name: value for name, value in hashes(place).items() if name.endswith(".png")}


# Numbers and files.


@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_pictures_score_and_record_agree(done, own, capsys, protocol):
    before = hashes(done.parent)
    assert run("evaluate", done, "--protocol", protocol, *HERE) == 0
    place = done / "predictions" / f"{protocol}-crf-val"
    assert {int(x) for path in place.glob("*.png") for x in np.unique(np.array(Image.open(path)))} == {0, 1, 2}
    record = records.load(done.with_name(f"0.{protocol}-crf.json"))
    said = capsys.readouterr().out
    assert str(place) in said and f"{record['results']['segmentation']['miou']:.1f}" in said
    for number, photo in enumerate(PHOTOS):
        with Image.open(place / f"val_{number}.png") as picture:
            assert picture.mode == "P" and picture.size == photo.size
            assert picture.getpalette() == VOC_PALETTE
            assert set(np.unique(np.array(picture))) <= {0, 1, 2}
    ids = own / "ImageSets/Segmentation/val.txt"
    capsys.readouterr()
    assert run("score", place, own / "SegmentationClass", "--num-classes", 3, "--ids", ids) == 0
    score = json.loads(capsys.readouterr().out)
    found = record["results"]["segmentation"]
    assert all(found[name] == score[name] for name in ("miou", "pixel_accuracy", "mean_accuracy"))
    assert list(found["iou"].values()) == list(score["iou"].values()) and list(found["iou"])[0] == "background"
    assert record["images"] == score["images"] == 5
    counts = records.load_counts(record)
    assert list(counts["ids"]) == [f"val_{n}" for n in range(5)] and counts["segmentation"].shape == (5, 3, 3)
    assert record["fingerprint"] == records.load(done.with_suffix(".json"))["fingerprint"]
    # nothing else was written or changed
    new = {name for name, value in hashes(done.parent).items() if before.get(name) != value}
    kinds, files = (f"{protocol}-crf", protocol), ("protocol.json", *(f"val_{n}.png" for n in range(5)))
    chosen = {f"0.{kind}{end}" for kind in kinds for end in (".json", ".npz")}
    assert new == chosen | {f"0/predictions/{kind}-val/{name}" for kind in kinds for name in files}
    assert not list(done.rglob(".*"))


def test_one_pass_of_the_network_gives_the_results_without_crf_too(evaluated):
    """The same PNGs, counts and numbers as an evaluation without CRF; the time is that of the record with it."""
    beside, files = records.load(evaluated.with_name("0.voc.json")), pictures(evaluated / "predictions/voc-val")
    assert (
        beside["seconds"]["evaluate"] == 0 < records.load(evaluated.with_name("0.voc-crf.json"))["seconds"]["evaluate"]
    )
    shutil.rmtree(evaluated / "predictions/voc-val")
    assert run("evaluate", evaluated, "--protocol", "voc", "--crf", "False", *HERE) == 0
    alone = records.load(evaluated.with_name("0.voc.json"))
    assert pictures(evaluated / "predictions/voc-val") == files
    for name in ("results", "protocol", "fingerprint"):
        assert alone[name] == beside[name]


def test_the_record_says_what_was_done(evaluated):
    words = ("evaluate", evaluated, "--protocol", "voc", *HERE)
    whole = records.load(evaluated.with_name("0.voc-crf.json"))
    used = whole["protocol"]
    assert used["name"] == "final" and used["size"] == "native" and used["scales"] == [1, 1.25, 1.5] and used["flip"]
    assert used["crf"] == {"iterations": 10, "gaussian": [1, 1], "bilateral": [121, 5, 4]}
    assert whole["seconds"].keys() == {"train", "evaluate"} and whole["steps"] == 4
    more = ("--crf", "False", "--flip", "False", "--scales", "1", "0.5", "--weights", "best", "--split", "train")
    assert run(*words, *more, "--bfloat16", "False") == 0
    other = records.load(evaluated.with_name("0.voc-best-s1+0.5-noflip-train.json"))
    assert other["protocol"]["name"] == "final-without-crf-best-s1+0.5-noflip-train"
    assert (other["protocol"]["crf"], other["protocol"]["bfloat16"], other["split"]) == (None, False, "train")
    assert records.load_counts(other)["segmentation"].shape == (5, 3, 3)
    assert run(*words, "--crf-merge", 0.4, "--flip", "False", "--scales", 1) == 0
    merged = records.load(evaluated.with_name("0.voc-crf-merge0.4-s1-noflip.json"))["protocol"]
    assert merged["name"] == "final-merge0.4-s1-noflip" and merged["crf"]["merge"] == 0.4
    assert run("evaluate", evaluated, "--protocol", "coco", "--crf", "False") == 0
    squashed = records.load(evaluated.with_name("0.coco.json"))["protocol"]
    assert squashed["name"] == "final-coco-without-crf", "no final number of a data set in VOC's way"
    assert squashed["size"] == 32
    assert run("evaluate", evaluated, "--protocol", "voc", "--crf", "False", "--bfloat16", "True") == 0
    halved = records.load(evaluated.with_name("0.voc-bfloat16.json"))["protocol"]
    assert halved["name"] == "final-without-crf-bfloat16", "half precision is no final number"


def test_the_crf_refines_probabilities_of_the_whole_photograph(done, own, monkeypatch):
    """Softmax of the combined logits at the photograph's size, with the photograph itself; its argmax is the PNG."""
    seen = {}

    def planted(image, probability, **numbers):
        seen[image.shape[:2]] = probability, image, numbers
        return probability[::-1]

    monkeypatch.setattr(predictions, "dense_crf", planted)
    assert run("evaluate", done, "--protocol", "voc", "--bfloat16", "False", *HERE) == 0
    assert set(seen) == {(40, 48), (57, 31), (21, 50), (6, 64)}
    probability, image, numbers = seen[57, 31]
    numbers_of_crf = dict(iterations=10, gaussian=(1, 1), bilateral=(121, 5, 4), merge=None)
    assert probability.shape == (3, 57, 31) and numbers == numbers_of_crf
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-6)
    photograph = Image.open(own / "JPEGImages/val_2.jpg").convert("RGB")
    np.testing.assert_array_equal(image, np.asarray(photograph))
    model = runs.open_run(done).model(2, torch.device("cpu"))
    asked = protocols.get("voc")
    seen_by_network = model.normalise(multi_scale.pixels(photograph, asked)[None])
    (logits,) = multi_scale.scores(lambda x: model(x).segmentation, seen_by_network, [(57, 31)], asked, model.patch)
    np.testing.assert_allclose(probability, logits.softmax(0), atol=1e-5)
    with Image.open(done / "predictions/voc-crf-val/val_2.png") as picture:
        np.testing.assert_array_equal(np.array(picture), probability[::-1].argmax(0))


def test_images_of_one_size_share_a_batch_wherever_they_stand_in_the_list(done, own, monkeypatch):
    """Sizes in turns, one photograph of 48 x 40 after every other one: three of them go through the network at once."""
    seen, scores = [], multi_scale.scores

    def watched(network, image, *rest):
        seen.append(tuple(image.shape))
        return scores(network, image, *rest)

    monkeypatch.setattr(multi_scale, "scores", watched)
    words = ("evaluate", done, "--protocol", "voc", "--crf", "False", "--scales", 1, "--flip", "False")
    listed = own / "ImageSets/Segmentation/turns.txt"
    listed.write_text("val_0\nval_2\ntrain_0\nval_3\nval_1\n")
    try:
        assert run(*words, "--batch", 3, "--split", "turns") == 0
        assert sorted(seen) == [(1, 3, 21, 50), (1, 3, 57, 31), (3, 3, 40, 48)]
        assert run(*words, "--split", "turns", "--save", done / "one") == 0
    finally:
        listed.unlink()
    for path in (done / "one").glob("*.png"):
        other = next(done.glob(f"predictions/*turns/{path.name}"))
        assert (np.array(Image.open(path)) != np.array(Image.open(other))).sum() <= 1


def test_a_network_of_its_own_processes_gives_the_same(evaluated):
    """Real workers, more than one job each."""
    alone = records.load(evaluated.with_name("0.voc-crf.json"))
    assert run("evaluate", evaluated, "--protocol", "voc", "--workers", 2, "--save", evaluated / "two") == 0
    assert pictures(evaluated / "two") == pictures(evaluated / "predictions/voc-crf-val")
    assert records.load(evaluated.with_name("0.voc-crf.json"))["results"] == alone["results"]


def test_a_split_without_truth_gives_pictures_alone(done, own, tmp_path, capsys):
    """VOC's test photographs: neither masks nor annotations, nor anything else that says what is on them."""
    bare = tmp_path / "bare"
    shutil.copytree(own / "JPEGImages", bare / "JPEGImages")
    (bare / "ImageSets/Segmentation").mkdir(parents=True)
    (bare / "ImageSets/Segmentation/test.txt").write_text("val_0\nval_2\n")
    shutil.copy(own / "classes.txt", bare)
    before = set(done.parent.iterdir())
    assert run("evaluate", done, "--protocol", "voc", "--split", "test", "--data-root", bare, *HERE) == 0
    place = done / "predictions/voc-crf-test"
    assert str(place) in capsys.readouterr().out
    assert {path.name for path in place.iterdir()} == {"val_0.png", "val_2.png", "protocol.json"}
    assert set(done.parent.iterdir()) == before, "no record"


# Stopped and resumed.


def test_what_is_not_whole_is_predicted_again(evaluated):
    place = evaluated / "predictions/voc-crf-val"
    before = pictures(place)
    cut(place / "val_0.png")
    write_mask(place / "val_1.png", np.zeros((3, 3), np.uint8))
    write_mask(place / "val_2.png", np.full((57, 31), 9, np.uint8))
    Image.fromarray(np.zeros((21, 50), np.uint8)).save(place / "val_3.png")
    (place / ".val_4.png.abc").mkdir()
    (place / ".val_4.png.abc" / "val_4.png").write_bytes(b"\x89PNG")
    assert run("evaluate", evaluated, "--protocol", "voc", *HERE) == 0
    assert pictures(place) == before


def test_pictures_by_other_settings_or_other_code_are_refused(done, refused, monkeypatch):
    words = ("evaluate", done, "--protocol", "voc", "--save", done / "mine", *HERE)
    assert run(*words) == 0
    before = pictures(done / "mine")
    said = refused(*words, "--flip", "False", "--scales", 1)
    assert "holds predictions by another protocol (protocol.json differs in scales, flip)" in said
    assert "differs in weights" in refused(*words, "--weights", "best")
    with monkeypatch.context() as context:
        context.setattr(provenance, "_git_state", lambda: ("0123456", False))
        assert "differs in commit" in refused(*words)
    assert pictures(done / "mine") == before
    (done / "mine/protocol.json").unlink()
    assert "holds PNGs, but no protocol.json" in refused(*words)


# Memory: how many images are under way.


def test_no_more_images_are_taken_than_there_is_room_for():
    taken = []

    def items():
        for number in range(12):
            taken.append(number)
            yield number

    for number, value in enumerate(pool.stream(abs, items(), 2)):
        assert value == number, "in order"
        assert len(taken) - number <= pool.AHEAD * 2
    assert len(taken) == 12


def test_an_error_of_a_worker_is_raised(tmp_path):
    label = np.zeros((2, 2), np.uint8)
    jobs = [Job(str(n), tmp_path / f"{n}.png", 2, label, mask=tmp_path / "none.png" if n == 1 else None)
            for n in range(9)]  # fmt: skip
    with pytest.raises(UserError, match=r"none\.png cannot be decoded"):
        list(pool.stream(predictions.finish, jobs, 2))
    assert all(not predictions.fault(path, (2, 2), 2) for path in tmp_path.glob("*.png"))


# Words.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--protocol", "voc", "--weights", "first"), "has no first weights"),
        (("--protocol", "voc", "--split", "nowhere"), "nowhere.txt does not exist"),
        (("--protocol", "voc", "--batch", "0"), "--batch must be at least 1"),
        (("--protocol", "voc", "--workers", "-1"), "--workers at least 0"),
        (("--flip", "False"), "--flip belongs to the protocols voc and coco"),
        (("--protocol", "voc", "--crf-merge", "2"), "--crf-merge is 2;"),
        (("--protocol", "voc", "--crf-merge", "0.4", "--crf", "False"), "but --crf is False"),
        (("--scales", "1", "2"), "--scales belongs to the protocols voc and coco"),
        (("--longest", "60"), "--longest belongs to the protocols voc and coco"),
        (("--protocol", "voc", "--longest", "-5"), "--longest is -5; it must be a number of pixels above 0"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(done, refused, words, says):
    assert says in refused("evaluate", done, *words)
    assert not list(done.rglob("*.png"))


def test_training_s_protocol_on_another_split(done):
    before = done.with_suffix(".json").read_bytes()
    assert run("evaluate", done, "--split", "train", "--weights", "best") == 0
    record = records.load(done.with_name("0.best.train.json"))
    assert (record["split"], record["images"], record["protocol"]["name"]) == ("train", 5, "training")
    assert done.with_suffix(".json").read_bytes() == before


def test_a_run_by_the_working_folder(done, monkeypatch):
    monkeypatch.chdir(done)
    assert main(["evaluate", ".", "--protocol", "voc", "--crf", "False"]) == 0
    assert records.load(done.with_name("0.voc.json"))["images"] == 5


# Real processes.


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Nine images that take a while, and the folder of a run."""
    base = tmp_path_factory.mktemp("large")
    root = own_set(base / "own", [Photo()] * 9)
    for number in range(9):
        write_photo(root, f"val_{number}", Photo(size=(320 + number % 2, 240)), np.random.default_rng(number))
    assert run(*tiny(root, base / "runs")) == 0
    redraw(folder(base / "runs"), 1)
    return root, folder(base / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "number"),
    [(0, signal.SIGKILL), (2, signal.SIGTERM)],
    ids=["one-kill", "two-term"],
)
def test_killed_and_resumed_is_the_same_by_one_and_two_processes(large, tmp_path, processes, number):
    _, place = large
    words = ["evaluate", str(place), "--protocol", "voc"]
    assert run(*words, *HERE, "--save", tmp_path / "whole") == 0
    record = records.load(place.with_name("0.voc-crf.json"))
    mine = tmp_path / "mine"
    more = ("--save", str(mine), "--workers", "2")
    code, _ = stop_when(lambda: len([*mine.glob("*.png")]) > 1, command(*words, *more, processes=processes), number)
    assert code
    there = pictures(mine)
    assert len(there) < 9, "it was stopped in the middle"
    assert there.items() <= pictures(tmp_path / "whole").items()
    if number == signal.SIGTERM:
        assert {path.name for path in mine.iterdir()} == {*there, "protocol.json"}
    finished = process(*words, "--save", str(mine), processes=processes)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("mIoU in percent") == 1, "one process reports"
    assert pictures(mine) == pictures(tmp_path / "whole")
    again = records.load(place.with_name("0.voc-crf.json"))
    assert again["results"] == record["results"] and again["images"] == 9
    assert again["processes"] == max(processes, 1)
    assert {path.suffix for path in mine.iterdir()} == {".png", ".json"}
