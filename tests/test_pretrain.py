"""Pretraining on class folders and on drawn images: the weights start a run, the record says how they were made."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import own_set, record, run, tiny
from safetensors.torch import load_file

from wsss.data.drawn import generate
from wsss.paths import UserError
from wsss.tools import pretrain

SMALL = ["--minutes", "0.02", "--batch", "8", "--size", "32"]
SMALL += ["--model.width", "48", "--model.depth", "3", "--model.heads", "3", "--model.image-size", "64"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of plain colours, one with a folder inside, with PNG, JPEG and grey images."""
    root, random = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (root / name / "more").mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(low, low + 100, (20 + number, 30, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert("L" if number == 3 else "RGB")
            image.save(root / name / ("more" if number % 2 else ".") / f"{number}.{'png' if number % 3 else 'JPG'}")
    (root / "notes.txt").write_text("no class")
    return root


def test_class_folders_and_a_run_that_starts_from_their_weights(classes, tmp_path, capsys):
    path = tmp_path / "weights" / "start.safetensors"
    assert run("pretrain", classes, "--output", path, *SMALL) == 0
    assert "top1_class_token" in capsys.readouterr().out
    assert all(value.dtype == torch.float16 for value in load_file(path).values())
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["data"] == "15 photographs" and found["classes"] == ["dark", "light"]
    images, labels, names = pretrain.folders(classes, 16)
    assert images.shape == (16, 3, 16, 16) and names == ["dark", "light"] and labels.tolist() == [0] * 8 + [1] * 8
    assert float(images[labels == 0].float().mean()) < 80 < float(images[labels == 1].float().mean())
    assert found["held_out"].keys() == {"images", "top1_class_token", "top1_max_patch_token"}
    assert {"steps", "epochs", "minutes", "cpu_hours", "backbone", "commit", "versions", "date"} <= found.keys()
    assert found["config"]["seed"] == 0 and found["config"]["batch"] == 8
    assert found["log"][-1]["step"] == found["steps"] and found["log"][-1]["rate"] < 1e-5
    own = own_set(tmp_path / "own")
    words = ["--model.checkpoint", str(path), "--model.heads", "3"]
    assert run(*tiny(own, tmp_path / "out", *words, "--optim.lr", "0")) == 0
    trained = load_file(next((tmp_path / "out").glob("*/*/0/step-*.safetensors")))
    for name, value in load_file(path).items():
        assert torch.equal(trained[f"encoder.{name}"], value.float()), name
    assert str(path) in record(tmp_path / "out")["backbone"]


def test_drawn_images(tmp_path):
    path = tmp_path / "start.safetensors"
    assert run("pretrain", "drawn", "--images", "40", "--output", path, *SMALL) == 0
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["classes"] == list(generate.PRETRAINING_CLASSES)
    assert "drawn images of other classes" in found["data"]


def test_too_little_to_learn_from(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a/0.png")
    with pytest.raises(UserError, match="does not hold two or more class folders"):
        pretrain.folders(tmp_path, 16)


def test_faults_are_met_before_the_training(classes, tmp_path, capsys, refused, monkeypatch):
    monkeypatch.setattr(pretrain, "_fit", None)
    (tmp_path / "file").write_text("")
    assert run("pretrain", classes, "--output", tmp_path / "file" / "x.safetensors", *SMALL) == 1
    assert re.search(r"cannot write .*x.safetensors: .*; choose another --output", capsys.readouterr().err)
    (tmp_path / "there.safetensors").write_bytes(b"weights")
    assert run("pretrain", classes, "--output", tmp_path / "there.safetensors", *SMALL) == 1
    assert "there.safetensors exists; choose another --output" in capsys.readouterr().err
    (classes / "dark/broken.png").write_bytes(b"x")
    assert "broken.png cannot be decoded" in refused(
        "pretrain", classes, "--output", tmp_path / "x.safetensors", *SMALL
    )
    (classes / "dark/broken.png").unlink()


def test_a_loss_that_is_not_finite_ends_in_words(classes, tmp_path, refused):
    path = tmp_path / "start.safetensors"
    words = ("--output", path, *SMALL, "--lr", "10", "--weight-decay", "1000", "--minutes", "1")
    assert "the pretraining loss is not finite at step" in refused("pretrain", classes, *words)
    assert not path.exists()
