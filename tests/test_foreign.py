"""Weights that were trained elsewhere, in the base's names, through the package's evaluator."""

from pathlib import Path

import pytest
import torch
from running import folder, own_set, record, run
from safetensors.torch import load_file

from wsss.report import records

PRESET = "smoke-toco"
QUICK = ("--optim.steps", "2", "--optim.batch", "2", "--variant", "own")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A data set, and beside it a run and its weights in a file as the base releases them: every name below `module.`,
    with the classifier of the backbone's pretraining."""
    place = tmp_path_factory.mktemp("foreign")
    words = ("--data.root", own_set(place / "own"), "--output", place / "runs")
    assert run("train", PRESET, *QUICK, *words) == 0
    tensors = load_file(folder(place / "runs") / "step-00000002.safetensors")
    released = {f"module.{name}": value for name, value in tensors.items()}
    torch.save(released | {"module.encoder.head.weight": torch.zeros(3, 48)}, place / "released.pth")
    return place


def evaluate(place: Path, output: Path, *more: str) -> int:
    words = ("--checkpoint", place / "released.pth", "--preset", PRESET, "--output", output)
    return run("evaluate", *words, "--data-root", place / "own", *more)


def test_the_numbers_are_those_of_the_same_weights_and_the_record_says_foreign(trained, tmp_path, capsys):
    assert evaluate(trained, tmp_path) == 0
    printed = capsys.readouterr()
    assert "left out encoder.head.weight" in printed.err and "3 tensors of decoder" in printed.err
    made = record(tmp_path)
    assert made["results"] == record(trained / "runs")["results"]
    assert made["variant"].startswith(f"{PRESET}-foreign-") and made["preset"] == PRESET
    assert made["weights"]["foreign"] and made["weights"]["source"] == "released.pth, trained elsewhere"
    assert not records.select(records.find(tmp_path), "own", PRESET), "no run of the preset"
    assert evaluate(trained, tmp_path, "--protocol", "voc", "--crf", "False", "--workers", "0") == 0
    final = records.load(folder(tmp_path).with_name("0.voc.json"))
    assert final["weights"]["foreign"] and final["protocol"]["name"] == "final-without-crf"


def test_foreign_weights_are_not_trained_on(trained, tmp_path, refused):
    assert evaluate(trained, tmp_path) == 0
    place = folder(tmp_path)
    words = ("--data.root", trained / "own", "--output", tmp_path, "--variant", place.parent.name)
    assert refused("train", PRESET, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate",), "takes a RUN, or --checkpoint FILE with --preset and --output"),
        (("evaluate", "--checkpoint", "x.pth", "--preset", PRESET), "takes a RUN, or --checkpoint"),
        (("evaluate", "--checkpoint", "x.pth", "--preset", PRESET, "--output", "o"), "x.pth does not exist"),
        (("evaluate", "--checkpoint", "{}/backbone.pth", "--preset", PRESET, "--output", "o"), "holds no whole model"),
        (("evaluate", "--checkpoint", "{}/released.pth", "--preset", "voc-toco", "--output", "o"), "does not fit"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(trained, tmp_path, monkeypatch, refused, words, message):
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, trained / "backbone.pth")
    monkeypatch.chdir(tmp_path)
    assert message in refused(*(str(word).format(trained) for word in words)) and not (tmp_path / "o").exists()
