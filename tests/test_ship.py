"""Shipping a run: half precision, a card from its record, nothing of a dirty tree."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from running import folder, record, run, tiny
from safetensors.torch import load_file

from wsss import command
from wsss.tools import ship


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "out")


def clean(output: Path, dirty: bool = False) -> Path:
    path = folder(output).with_suffix(".json")
    path.write_text(json.dumps(record(output) | {"dirty": dirty}))
    return folder(output)


def test_the_file_is_the_runs_last_weights_in_half_precision(made, tmp_path):
    source = clean(made)
    assert command.main("ship", ship.Ship, [str(source), "few", "--output", str(tmp_path)]) == 0
    full, half = load_file(source / "step-00000004.safetensors"), load_file(tmp_path / "few.safetensors")
    assert full.keys() == half.keys()
    assert all(torch.equal(half[name], value.half()) for name, value in full.items())
    card, found = json.loads((tmp_path / "few.json").read_text()), record(made)
    assert card["made_by"].startswith("wsss train smoke --seed 0 --") and "--optim.steps 4" in card["made_by"]
    assert card["made_by"].endswith("--data.root ROOT") and str(made) not in json.dumps(card)
    assert card["run"]["cam.miou_headline"] == found["results"]["cam"]["miou_headline"]
    assert card["this_file"]["cam.miou_headline"] == pytest.approx(card["run"]["cam.miou_headline"], abs=2)
    assert (card["steps"], card["evaluated_on"], card["train_images"]) == (4, "4 images of val", 4)
    assert all(0 <= card["images_in_percent"][name] <= 100 for name in ("named", "outlined"))


def test_a_shipped_file_starts_a_run(made, tmp_path):
    assert command.main("ship", ship.Ship, [str(clean(made)), "few", "--output", str(tmp_path)]) == 0
    data = json.loads((folder(made) / "config.json").read_text())["data"]["root"]
    again = ("--variant", "again", "--model.checkpoint", str(tmp_path / "few.safetensors"))
    assert run(*tiny(Path(data), tmp_path / "runs", *again)) == 0


def test_a_run_of_an_uncommitted_tree_and_a_large_one_are_refused(made, tmp_path, monkeypatch, capsys):
    assert command.main("ship", ship.Ship, [str(clean(made, dirty=True)), "few", "--output", str(tmp_path)]) == 1
    monkeypatch.setattr(ship, "_LIMIT", 1000)
    assert command.main("ship", ship.Ship, [str(clean(made)), "few", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "uncommitted changes" in said and "a file may have 13" in said and not list(tmp_path.iterdir())
