"""A student learns, without masks, what a finished run says of its photographs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from running import assert_same_run, folder, log, one_thread, own_set, run, tiny

from wsss import command, presets, train, transforms
from wsss.config import Augment, Compat
from wsss.data import voc
from wsss.data.pictures import read_mask
from wsss.inference import runs
from wsss.paths import UserError, sha256
from wsss.settings import override
from wsss.tools import distil

STILL = Augment(crop=32, scale=(1.0, 1.0), colour=0.0, hue=0.0, blur=(0.0, 0.0), local_size=16)
CLOSE = {"rtol": 1e-6, "atol": 1e-4}
SMALL = {"model.width": 24, "model.heads": 2, "class_contrast.hidden": 8, "optim.steps": 4, "optim.head_factor": 1.0}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_set(tmp_path_factory.mktemp("data") / "own", labels=["cup jug"] * 4)


@pytest.fixture(scope="module")
def teacher(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("teacher")
    assert run(*tiny(own, output)) == 0
    return folder(output)


def test_a_token_gets_the_teachers_values_at_its_place():
    """The maps grow by one per pixel along both sides, so that bilinear interpolation is exact: a view's tokens get the
    row and column that they show, also where the view is mirrored or padded."""
    height, width, patch = 40, 48, 8
    rows, columns = np.mgrid[:height:patch, :width:patch] + (patch - 1) / 2
    taught = torch.tensor(np.stack([rows, columns]))
    for seed in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            source = transforms.sources((height, width), replace(STILL, crop=44), Compat())
        assert ((source >= 0).sum(1) > 0).sum() == 40, "padded above or below"
        middle = source[4::8, 4::8]
        found = distil.sampled(taught, middle, (height, width), patch)
        inside = middle >= 0
        torch.testing.assert_close(found[0][inside], (middle // width).double().clamp(3.5, 35.5)[inside], **CLOSE)
        torch.testing.assert_close(found[1][inside], (middle % width).double().clamp(3.5, 43.5)[inside], **CLOSE)


def student(teacher: Path, output: Path, **changes: object) -> dict:
    opened = runs.open_run(teacher)
    small = override(opened.config, {**SMALL, "output": str(output), "variant": "student", **changes})
    with one_thread():
        return train.run(small, trainer=partial(distil.Student, opened=opened))


def test_a_student_learns_and_names_its_teacher(teacher, tmp_path):
    found = student(teacher, tmp_path, **{"optim.steps": 40, "optim.lr": 1e-2, "log_every": 1})
    rows = [row for row in log(tmp_path) if "codes" in row]
    for term in ("cam", "aux_cam", "codes"):  # this teacher's decoder has nothing to say
        assert np.mean([row[term] for row in rows[-10:]]) < 0.9 * np.mean([row[term] for row in rows[:10]]), term
    last = max(teacher.glob("step-*.safetensors"))
    assert found["teacher"] == {"run": "/".join(teacher.parts[-3:]), "weights": sha256(last)}
    assert found["weights"] == {"sha256": None, "source": "random"}
    assert rows[0]["weights"] == distil.WEIGHTS
    assert run("evaluate", folder(tmp_path)) == 0


def test_no_mask_reaches_a_student(teacher, own, tmp_path, monkeypatch):
    read, kept = [], read_mask
    monkeypatch.setattr(voc, "read_mask", lambda path, *rest: (read.append(path.stem), kept(path, *rest))[1])
    student(teacher, tmp_path)
    assert read and all(name.startswith("val") for name in read)


def test_a_student_goes_on_where_it_stopped(teacher, tmp_path, monkeypatch):
    whole = student(teacher, tmp_path / "whole")
    update, count = distil.Student._update, []

    def stop(self, *arguments):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(1)
        return update(self, *arguments)

    monkeypatch.setattr(distil.Student, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        student(teacher, tmp_path / "halves", save_every=0.5)
    monkeypatch.undo()
    halves = student(teacher, tmp_path / "halves", save_every=0.5)
    assert halves["results"] == whole["results"]
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


def test_another_teacher_is_refused(teacher, own, tmp_path):
    student(teacher, tmp_path)
    path = folder(tmp_path) / "teacher/teacher.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    folder(tmp_path).with_suffix(".json").unlink()
    with pytest.raises(UserError, match="holds the maps of another teacher"):
        student(teacher, tmp_path)


def test_the_command_refuses_a_teacher_that_saw_masks(own, tmp_path, capsys):
    assert run(*tiny(own, tmp_path, "--data.supervision", "masks")) == 0
    assert command.main("distil", distil.Distil, [str(folder(tmp_path)), "--data-root", str(own)]) == 1
    assert "has learnt from masks" in capsys.readouterr().err
    assert presets.get(distil.PRESET).model.patch_size == 8
