"""`wsss verify`: the whole file and the copy pass, faults are named."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from running import run

from wsss.tools import verify

GOLDEN = Path(__file__).parent / "golden" / "toco.npz"
COPIED = ["labels", "normalise", "ptc", "ptc_all_ignored", "ctc_T0.5", "ctc_T1.0", "seg", "schedule", "metrics"]
COPIED += ["par_resize", "refine"]
OTHERS = ["par", "energy", "crf", "encoder"]


def table(capsys):
    lines = capsys.readouterr().out.splitlines()[3:-1]
    return {line.split()[0]: line.split(maxsplit=3)[1:] for line in lines if line}


def stored(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_the_copy_agrees(capsys):
    assert run("verify", GOLDEN) == 0
    rows = table(capsys)
    assert list(dict.fromkeys(name.split("/")[0] for name in rows)) == COPIED
    assert all(cells[2] == "yes" for cells in rows.values())


def test_the_whole_file_agrees(shared, capsys):
    path = shared / "reference" / "toco.npz"
    assert run("verify", path) == 0
    rows = table(capsys)
    assert {name.split("/")[0] for name in rows} == {*COPIED, *OTHERS}
    assert all(cells[2] == "yes" for cells in rows.values())
    compared = {name for name in stored(path) if "/in/" not in name and "/weight/" not in name}
    assert set(rows) == compared | {"ptc_all_ignored/out/affinity", "ptc_all_ignored/grad/tokens"}
    tolerances = {name: float(cells[1]) for name, cells in rows.items()}
    assert tolerances["energy/grad/logits"] == tolerances["refine/out/label"] == tolerances["ptc/out/affinity"] == 1e-3
    assert tolerances["labels/out/valid_cam"] == tolerances["crf/out/q"] == tolerances["seg/grad/logits"] == 1e-5


def case_of(name):
    return {key: value for key, value in stored(GOLDEN).items() if key.split("/")[0] == name.split("/")[0]}


def written(tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["labels/out/valid_cam", "ptc/grad/tokens", "schedule/out/lr", "metrics/out/iou"])
@pytest.mark.parametrize("how", ["a little off", "not a number", "another shape"])
def test_what_differs_is_named(tmp_path, capsys, name, how):
    arrays = case_of(name)
    spoilt = arrays[name].astype(float)
    if how == "another shape":
        spoilt = np.stack([spoilt, spoilt])
    else:
        largest = np.unravel_index(np.nanargmax(np.abs(spoilt)), spoilt.shape)
        spoilt[largest] = np.nan if how == "not a number" else 1.0001 * spoilt[largest]
    assert run("verify", written(tmp_path, arrays | {name: spoilt})) == 1
    printed = capsys.readouterr().out
    if (how, name) == ("another shape", "metrics/out/iou"):  # its length is the number of classes
        assert " differ: metrics\n" in printed
    else:
        assert f" differ: {name}\n" in printed
        assert ("has the shape" in printed) == (how == "another shape")


def test_a_label_map_may_differ_in_one_of_a_thousand():
    mine, theirs = torch.zeros(50, 40), np.zeros((50, 40))
    for differing, share in ((2, 1e-3), (3, 1.5e-3)):
        theirs.flat[:differing] = 255
        assert verify.error(mine, theirs, True) == share
    assert verify.Comparison("x", 1e-3, verify.LABEL_TOLERANCE).ok and not verify.Comparison("x", 1.5e-3, 1e-3).ok
    assert np.isnan(verify.error(mine, np.where(theirs == 255, np.nan, 0), True))


@pytest.mark.parametrize(
    ("case", "words"),
    [("ptc2", "unknown case; did you mean ptc?"), ("ctc_Tx", "unknown case; did you"), ("zzz", "unknown case")],
)
def test_unknown_cases_are_told_and_the_rest_is_compared(tmp_path, capsys, case, words):
    extra = {f"{case}/in/x": np.zeros(2), "seg/out/entropy": np.zeros(2)}
    assert run("verify", written(tmp_path, case_of("seg") | extra)) == 1
    printed = capsys.readouterr().out
    assert words in next(line for line in printed.splitlines() if line.startswith(f"{case} "))
    assert "unknown output" in next(line for line in printed.splitlines() if line.startswith("seg/out/entropy"))
    assert f"differ: seg/out/entropy, {case}\n" in printed


@pytest.mark.parametrize(
    ("name", "row", "array", "says"),
    [
        ("labels/in/box", "labels", None, "the file lacks labels/in/box"),
        ("ptc/grad/tokens", "ptc/grad/tokens", None, "the file lacks ptc/grad/tokens"),
        ("ptc_all_ignored/out/loss", "ptc_all_ignored/out/loss", None, "the file lacks ptc_all_ignored/out/loss"),
        ("metrics/out/iou", "metrics", None, "the file lacks metrics/out/iou"),
        ("labels/in/box", "labels", np.zeros((2, 3), int), "cannot be computed"),
        ("seg/in/logits", "seg", np.zeros(3), "cannot be computed"),
        ("normalise/in/raw", "normalise", np.array(["text"]), "holds no numbers"),
    ],
)
def test_an_array_that_is_missing_or_does_not_fit(tmp_path, capsys, name, row, array, says):
    arrays = case_of(name)
    del arrays[name]
    assert run("verify", written(tmp_path, arrays if array is None else arrays | {name: array})) == 1
    lines = capsys.readouterr().out.splitlines()
    assert says in next(line for line in lines if line.startswith(f"{row} "))


OBJECTS = io.BytesIO()
np.savez(OBJECTS, **{"seg/in/logits": np.array([{"a": 1}], object)})
WHOLE = GOLDEN.read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no file"),
        (b"no archive", "is not an npz file"),
        (pickle.dumps({"ptc/in/label": 1}), "is not an npz file"),
        (WHOLE[:-200], "is not an npz file, or is cut off"),
        (WHOLE[:1000] + bytes([WHOLE[1000] ^ 255]) + WHOLE[1001:], "cannot be read"),
        (OBJECTS.getvalue(), "seg/in/logits is pickled, and code in a file is never run"),
    ],
    ids=["missing", "text", "pickle", "cut off", "a byte", "objects"],
)
def test_a_file_that_is_none(tmp_path, refused, content, says):
    path = tmp_path / "reference.npz"
    if content is not None:
        path.write_bytes(content)
    assert says in refused("verify", path)
