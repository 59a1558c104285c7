"""`wsss predict`: index PNGs and scores of photographs and of lists; resumed, they are the same."""

import csv
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from running import folder, hashes, redraw, run

from wsss import datasets, evaluate
from wsss.data import pictures
from wsss.inference import photographs, runs

KINDS = ("segmentation", "cam", "pseudo_label")


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A run whose decoder was drawn anew, so that every class is somewhere."""
    place = folder(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "out"))
    redraw(place, 0)
    return place


@pytest.fixture
def photos(own, tmp_path):
    """Photographs of which nothing is known, one of them in a subfolder, and a file that is no photograph."""
    place = tmp_path / "photos"
    (place / "more").mkdir(parents=True)
    shutil.copy(own / "JPEGImages/val_0.jpg", place / "a.jpg")
    Image.open(own / "JPEGImages/val_3.jpg").save(place / "more/b.bmp")
    (place / "notes.txt").write_text("none")
    return place


def scores(place):
    with open(place / "scores.csv", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_list_gets_labels_by_its_image_labels(own, made, tmp_path, capsys):
    """The PNGs are the labels of training's evaluation, at the size of each photograph."""
    save = tmp_path / "out"
    assert run("predict", made, "val", "--save", save) == 0
    assert "the image labels of the list val" in capsys.readouterr().out
    opened, split = runs.open_run(made), datasets.Split(own, "val")
    samples = [datasets.sample(split, place, 32) for place in range(len(split))]
    image, label = (torch.stack([getattr(sample, name) for sample in samples]) for name in ("image", "label"))
    prediction = evaluate.predict(opened.model(2, torch.device("cpu")), image, label, opened.config)
    found = scores(save)
    for place, sample in enumerate(samples):
        wanted = evaluate.to_labels(prediction.of(place), sample.mask.shape, opened.config)
        for kind in KINDS:
            labels, palette = pictures.read_index(save / kind / f"{sample.id}.png")
            assert labels.shape == sample.mask.shape and palette.ravel().tolist()[:9] == pictures.VOC_PALETTE[:9]
            assert (labels != wanted[kind]).sum() <= 2  # sums in another order
        row = found[sample.id]
        present = [name for name, here in zip(("cup", "jug"), sample.label, strict=True) if here]
        assert row["classes"].split(";") == present
        probability = prediction.logits[place].sigmoid().tolist()
        assert [float(row[name]) for name in split.kit.classes] == pytest.approx(probability, abs=1e-3)
    assert 255 in np.concatenate([np.unique(np.array(Image.open(path))) for path in (save / "pseudo_label").iterdir()])


def test_photographs_without_labels_get_predicted_classes(made, photos, tmp_path, capsys):
    save = tmp_path / "out"
    assert run("predict", made, photos, "--save", save) == 0
    assert "the classes that the model predicts" in capsys.readouterr().out
    found = scores(save)
    assert set(found) == {"a", "more/b"}
    for name, row in found.items():
        values = {key: float(row[key]) for key in list(row)[3:]}
        best = max(values, key=values.get)
        assert best in row["classes"].split(";") or list(values.values())[0] == list(values.values())[1]
        assert all(values[key] >= 0.5 or key == best for key in row["classes"].split(";"))
        with Image.open(save / f"cam/{name}.png") as picture:
            assert picture.size == {"a": (48, 40), "more/b": (31, 57)}[name]
    assert run("predict", made, photos / "a.jpg", "--save", tmp_path / "single") == 0
    assert set(scores(tmp_path / "single")) == {"a"}


def test_a_stopped_prediction_of_photographs_goes_on(made, photos, tmp_path, monkeypatch, capsys):
    """SIGTERM after the first of two batches; then a half PNG and a photograph that changed are made anew alone."""
    monkeypatch.setattr(evaluate, "BATCH", 1)
    words = ("predict", made, photos, "--save")
    assert run(*words, tmp_path / "whole") == 0
    real = photographs._predict

    def stopping(*rest):
        yield from real(*rest)
        os.kill(os.getpid(), signal.SIGTERM)

    save = tmp_path / "out"
    monkeypatch.setattr(photographs, "_predict", stopping)
    assert run(*words, save) == 143
    assert "run the command again to continue" in capsys.readouterr().err
    assert set(scores(save)) == {"a"} and not (save / "cam/more/b.png").exists() and not list(save.rglob(".*"))
    monkeypatch.setattr(photographs, "_predict", real)
    times = {kind: (save / f"{kind}/a.png").stat().st_mtime_ns for kind in KINDS}
    assert run(*words, save) == 0
    assert {kind: (save / f"{kind}/a.png").stat().st_mtime_ns for kind in KINDS} == times, "predicted once"
    assert hashes(save) == hashes(tmp_path / "whole")
    (save / "cam/a.png").write_bytes((save / "cam/a.png").read_bytes()[:40])
    Image.open(photos / "more/b.bmp").rotate(180).save(photos / "more/b.bmp")
    before = scores(save)
    assert run(*words, save) == 0
    assert hashes(save)["cam/a.png"] == hashes(tmp_path / "whole")["cam/a.png"]
    after = scores(save)
    assert after["a"] == before["a"] and after["more/b"]["photograph"] != before["more/b"]["photograph"]


def test_refusals(made, photos, tmp_path, refused):
    words, save = ("predict", made), ("--save", tmp_path / "out")
    assert "is not a file, a folder or a list of" in refused(*words, "nowhere", *save)
    (tmp_path / "empty").mkdir()
    assert "holds no photograph" in refused(*words, tmp_path / "empty", *save)
    assert "lies in the folder of photographs" in refused(*words, photos, "--save", photos / "out")
    (photos / "a.png").write_bytes((photos / "a.jpg").read_bytes())
    assert "would both give a.png" in refused(*words, photos, *save)
    (photos / "a.png").unlink()
    assert run(*words, photos, *save) == 0
    assert "by another protocol (protocol.json differs in labels)" in refused(*words, "val", *save)
    (photos / "c.jpg").write_text("none")
    assert "c.jpg cannot be decoded" in refused(*words, photos, *save)
    assert set(scores(tmp_path / "out")) == {"a", "more/b"}
