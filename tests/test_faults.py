"""Bad input ends in one sentence and a non-zero exit, and overwrites nothing."""

import pickle
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import Hostile, cut, hashes, own_set, run, sentence, tiny, write_mask
from safetensors.torch import load_file, save_file
from test_resume import ask_to_stop

from wsss import train
from wsss.data import voc
from wsss.report import records


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA: an own data set with labels as text; OUT: a finished run of seed 0, one of seed 1 stopped at step 2."""
    base = tmp_path_factory.mktemp("made")
    own_set(base / "data", labels=("cup", "jug", "cup jug", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)  # relative words, so that a copy is a run of the same command
        assert run(*tiny(Path("data"), Path("out"))) == 0
        ask_to_stop(patch, 2)
        assert run(*train_words()) == 143
    return base


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` to spoil; the working folder."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "place"))
    return tmp_path / "place"


def assert_refused(words: Iterable[str], says: str, place: Path, capsys: pytest.CaptureFixture) -> None:
    """Exit 1, one sentence that matches `says`, and nothing that was there has changed but lines added to a log."""
    before = hashes(place)
    assert run(*words) == 1
    found = sentence(capsys.readouterr().err, alone=True)
    assert re.search(says, found), found
    after = hashes(place)
    assert all(after.get(name) == value or name.endswith("log.jsonl") for name, value in before.items())


def train_words(*more: str) -> list[str]:
    """The run that was stopped."""
    return tiny(Path("data"), Path("out"), "--seed", "1", *more)


def image(place: Path, name: str) -> Path:
    return place / "data/JPEGImages" / f"{name}.jpg"


def mask(place: Path, name: str) -> Path:
    return place / "data/SegmentationClass" / f"{name}.png"


def repaint(path: Path, value: int) -> None:
    array = np.array(Image.open(path))
    array[5, 5] = value
    write_mask(path, array)


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "no labels": (
        lambda p: ((p / "data" / voc.LABEL_FILE).unlink(), shutil.rmtree(p / "data/SegmentationClass")),
        "has no image labels: neither Annotations",
    ),
    "mask value 37 in a label": (
        lambda p: ((p / "data" / voc.LABEL_FILE).unlink(), repaint(mask(p, "train_2"), 37)),
        r"train_2.png holds the value 37",
    ),
}


@pytest.mark.parametrize("fault", DATA)
def test_data(fault, place, capsys):
    spoil, says = DATA[fault]
    spoil(place)
    assert_refused(train_words(), says, place, capsys)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_jpeg_met_in_training(workers, place, capsys):
    for number in range(4):
        cut(image(place, f"train_{number}"))
    assert_refused(train_words("--seed", "3", "--data.workers", workers), "cannot be decoded", place, capsys)


WORDS: dict[str, tuple[list[str], str]] = {
    "crop smaller than a patch": (
        ["--augment.crop", "6", "--augment.local_size", "6"],
        "an image of 6 pixels is smaller than one patch of 8; raise --augment.crop",
    ),
    "scaled crop smaller than a patch": (
        ["--cam.scales", "1,0.2"],
        "image of 6.4 pixels is smaller than one patch of 8; raise --augment.crop",
    ),
    "local crop smaller than a patch": (["--augment.local_size", "4"], "raise --augment.local_size"),
    "squashed smaller than a patch": (["--augment.evaluation_size", "7"], "raise --augment.evaluation_size"),
    "no checkpoint there": (["--model.checkpoint", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
    "other settings": (["--seed", "0", "--optim.lr", "1"], "holds a run with other settings .optim.lr"),
}


@pytest.mark.parametrize("fault", WORDS)
def test_words(fault, place, capsys):
    more, says = WORDS[fault]
    assert_refused(train_words("--seed", "2", *more), says, place, capsys)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["train", "smok"], "no preset named smok; did you mean smoke"),
    "data set that is not there": (["train", "voc"], "the voc data set was not found.*set --data.root"),
    "evaluate a folder without run": (["evaluate", "{place}/data"], "cannot read .*config.json"),
    "evaluate on no data set": (["evaluate", "{run}", "--data-root", "{place}/x"], "holds no JPEGImages folder"),
    "data without a known word": (["data", "chek"], "did you mean check"),
    "check of nothing": (["data", "check", "{place}/out"], "holds no JPEGImages folder"),
    "mini set over something else": (["data", "mini", "--root", "{place}/data"], "exists and is not this"),
    "score of nothing": (["score", "{place}/x", "{place}/y", "--num-classes", "3"], "holds no PNG"),
    "pretrain on nothing": (["pretrain", "{place}/x"], "does not hold two or more class folders"),
    "pretrain for no time": (["pretrain", "drawn", "--minutes", "0"], "minutes is 0, but must lie between"),
}


@pytest.mark.parametrize("fault", COMMANDS)
def test_commands(fault, place, capsys, monkeypatch):
    monkeypatch.delenv("WSSS_VOC_ROOT", raising=False)
    words, says = COMMANDS[fault]
    words = [word.format(place=place, run=place / "out/data/tiny/0") for word in words]
    assert_refused(words, says, place, capsys)


def spoil_weights(path: Path) -> None:
    tensors = load_file(path)
    tensors["encoder.blocks.0.attn.qkv.weight"][0, 0] = float("nan")
    save_file(tensors, path)


def test_a_run_whose_weights_were_spoilt(place, capsys):
    """By one kind of fault; the others that `fill` knows are in test_checkpoint."""
    says = "holds values that are not finite, first in encoder.blocks.0.attn.qkv.weight"
    spoil_weights(place / "out/data/tiny/1/step-00000002.safetensors")
    assert_refused(train_words(), says, place, capsys)
    spoil_weights(place / "out/data/tiny/0/step-00000004.safetensors")
    assert_refused(["evaluate", str(place / "out/data/tiny/0")], says, place, capsys)


def test_a_hostile_training_state_is_not_run(place, capsys):
    state = place / "out/data/tiny/1/step-00000002.pt"
    torch.save({"optimizer": Hostile(place / "hacked")}, state)
    assert_refused(train_words(), "is not a training state of wsss", place, capsys)
    state.write_bytes(pickle.dumps(Hostile(place / "hacked")))
    assert_refused(train_words(), "is not a training state of wsss", place, capsys)
    assert not (place / "hacked").exists()


@pytest.mark.parametrize("state", [[1, 2], {"optimizer": {}, "best": 1.0, "seconds": 1.0}], ids=str)
def test_a_training_state_of_something_else(state, place, capsys):
    torch.save(state, place / "out/data/tiny/1/step-00000002.pt")
    assert_refused(train_words(), "is not a training state of wsss|other images", place, capsys)


@pytest.mark.parametrize("text", ["[]", '{"optim": {"speed": 3}}', '{"seed": "x"}'])
def test_a_configuration_that_is_none(text, place, capsys):
    (place / "out/data/tiny/0/config.json").write_text(text)
    assert_refused(["evaluate", str(place / "out/data/tiny/0")], "wsss", place, capsys)


def test_output_below_a_file(place, capsys):
    (place / "file").write_text("something")
    words = tiny(Path("data"), place / "file" / "runs")
    assert_refused(words, "cannot write .*Not a directory.*choose another place", place, capsys)


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "step-00000004.safetensors", "step-00000004.pt"])
def test_full_disk_while_training(name, place, capsys, monkeypatch):
    for method in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, method, no_room(getattr(Path, method), name))
    assert_refused(train_words(), "No space left on device", place, capsys)


def no_room(write: Callable, name: str) -> Callable:
    def full(self: Path, *rest: object, **options: object) -> object:
        if self.name == name:
            raise OSError(28, "No space left on device", str(self))
        return write(self, *rest, **options)

    return full


@pytest.mark.parametrize("name", ["cams.npz", "1.npz", "1.json"])
def test_full_disk_at_the_end(name, place, capsys, monkeypatch):
    """The trained weights are kept; with room again only the evaluation is done."""
    save, error = np.savez_compressed, OSError(28, "No space left on device")

    def full(file: object, **arrays: object) -> None:
        if Path(file.name).name == name:
            raise error
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        patch.setattr(Path, "write_text", no_room(Path.write_text, name))
        assert run(*train_words()) == 1
    assert "No space left on device" in sentence(capsys.readouterr().err)
    assert not (place / "out/data/tiny/1.json").exists()
    assert (place / "out/data/tiny/1/step-00000004.safetensors").exists()
    monkeypatch.setattr(train.Trainer, "_update", None)
    assert run(*train_words()) == 0
    assert records.load(place / "out/data/tiny/1.json")["images"] == 4
