"""`wsss verify`: the whole file and the copy pass, and so does a file of other sizes made by slow loops; faults."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from running import run
from test_checkpoint import encoder_by_hand, random_encoder

from wsss.tools import verify

GOLDEN = Path(__file__).parent / "golden" / "toco.npz"
COPIED = ["labels", "normalise", "ptc", "ptc_all_ignored", "ctc_T0.5", "ctc_T1.0", "seg", "schedule", "metrics"]
COPIED += ["par_resize", "refine"]
OTHERS = ["par", "energy", "crf", "encoder"]


def table(capsys):
    """{row: its other cells} of what was printed."""
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


# A file of other sizes, made by the slow loops.


def slope(function, x):
    """Gradient of a number with respect to an array, by central differences."""
    out = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[place] = 1e-5
        out[place] = (function(x + step) - function(x - step)) / 2e-5
    return out


def file_of(**cases):
    """Flat names; `outside` of a case is a nested dict."""
    return {
        f"{case}/{kind}/{name}": np.asarray(array)
        for case, kinds in cases.items()
        for kind, arrays in kinds.items()
        for name, array in arrays.items()
    }


def labels_case(random):
    maps = random.rand(2, 3, 7, 6).astype(np.float32)
    label, box = np.array([[1, 0, 1], [0, 1, 0]], np.float32), np.array([[0, 7, 0, 6], [1, 6, 2, 5]])
    out = {
        "evaluation_label": reference.evaluation_labels(maps, label, 0.5),
        "training_label": reference.training_labels(maps, label, box, 0.25, 0.7),
        "valid_cam": maps * label[:, :, None, None],
        "roi": reference.foreground_certainty(maps, label, 0.25, 0.7),
    }
    return {"in": {"cam": maps, "image_label": label, "box": box}, "out": out}


def patch_case(random):
    tokens = random.standard_normal((2, 5, 2, 3)).astype(np.float32)
    label = np.array([[[0, 1, 1], [255, 0, 2]], [[2, 2, 0], [0, 255, 1]]])
    pairs = reference.affinity(label)

    def loss(x):
        return reference.patch_contrast(x.reshape(2, 5, 6).transpose(0, 2, 1), pairs)

    exact = tokens.astype(float)
    out = {"affinity": pairs, "loss": loss(exact)}
    return {"in": {"label": label, "tokens": tokens}, "out": out, "grad": {"tokens": slope(loss, exact)}}


def class_case(random, temperature, views, images):
    student = random.standard_normal((views * images, 4)).astype(np.float32)
    teacher = random.standard_normal((2 * images, 4)).astype(np.float32)
    flags = np.ones((images, views), np.float32)
    flags[:, -2:] = [[0, 0], [1, 0], [0, 1]][:images]

    def loss(x):
        split = [rows.reshape(-1, images, 4) for rows in (x, teacher.astype(float))]
        return reference.class_contrast(*split, flags, temperature, 1e-4, True)

    exact = student.astype(float)
    given = {"student": student, "teacher": teacher, "flags": flags}
    return {"in": given, "out": {"loss": loss(exact)}, "grad": {"student": slope(loss, exact)}}


def segmentation_case(random):
    logits, label = random.standard_normal((2, 3, 3, 2)).astype(np.float32), random.randint(0, 3, (2, 5, 4))
    label[0, 0, :2], label[1, 0, :2] = 255, (0, 1)
    exact = logits.astype(float)
    gradient = slope(lambda x: reference.segmentation(x, label), exact)
    out = {"loss": reference.segmentation(exact, label)}
    return {"in": {"logits": logits, "label": label}, "out": out, "grad": {"logits": gradient}}


def metrics_case(random):
    """8 classes, nearly at chance: class 6 is only predicted, class 7 is nowhere."""
    truth, prediction = random.randint(0, 6, (2, 9, 8)), random.randint(0, 7, (2, 9, 8))
    truth[0, 0] = 255
    scores = reference.segmentation_scores(truth, prediction, 8)
    by_class = [0 if value is None else value / 100 for value in scores.pop("iou")[:7]] + [np.nan]
    out = {name: value / 100 for name, value in scores.items()}
    return {"in": {"truth": truth, "prediction": prediction}, "out": {"iou": by_class, **out}}


def encoder_case(random):
    """4 blocks of width 20 with 5 heads, patch 8, positions of a 3 x 3 grid."""
    weights = random_encoder(20, depth=4, patch=8, side=3, seed=5)
    images = {"first": random.standard_normal((1, 3, 24, 24)), "other": random.standard_normal((2, 3, 17, 41))}
    images = {name: image.astype(np.float32) for name, image in images.items()}
    out = {}
    for name, image in images.items():
        found = encoder_by_hand(weights, torch.from_numpy(image), 5)
        out |= {f"{name}_{kind}": value for kind, value in found.items()}
    return {"weight": weights, "in": images, "out": out}


@pytest.fixture(scope="module")
def own():
    """Every case that has a slow loop at other sizes than the shared file's."""
    random = np.random.RandomState(3)
    raw = random.standard_normal((1, 2, 5, 4)).astype(np.float32)
    steps = np.array([0, 3, 1499, 1500, 12_345, 19_999])
    tokens = random.standard_normal((2, 3, 1, 5)).astype(np.float32)
    return file_of(
        labels=labels_case(random),
        normalise={"in": {"raw": raw}, "out": {"cam": reference.normalise(raw.astype(float))}},
        ptc=patch_case(random),
        ptc_all_ignored={"in": {"label": np.full((2, 1, 5), 255), "tokens": tokens}, "out": {"loss": 0.5}},
        seg=segmentation_case(random),
        schedule={"in": {"step": steps}, "out": {"lr": [reference.learning_rate(step) for step in steps]}},
        metrics=metrics_case(random),
        encoder=encoder_case(random),
        **{"ctc_T0.7": class_case(random, 0.7, 5, 2), "ctc_T2": class_case(random, 2.0, 4, 3)},
    )


def written(tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return path


def test_other_sizes_agree_with_the_slow_loops(tmp_path, own, capsys):
    assert run("verify", written(tmp_path, own)) == 0
    rows = table(capsys)
    assert {name for name in own if "/out/" in name or "/grad/" in name} <= set(rows)
    assert all(cells[2] == "yes" for cells in rows.values())


OUTPUTS = ["labels/out/roi", "ptc/grad/tokens", "schedule/out/lr", "metrics/out/iou", "encoder/out/other_aux_tokens"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("how", ["a little off", "not a number", "another shape"])
def test_what_differs_is_named(tmp_path, own, capsys, name, how):
    spoilt = own[name].astype(float)
    if how == "another shape":
        spoilt = np.stack([spoilt, spoilt])
    else:
        largest = np.unravel_index(np.nanargmax(np.abs(spoilt)), spoilt.shape)
        spoilt[largest] = np.nan if how == "not a number" else 1.0001 * spoilt[largest]
    case = name.split("/")[0]
    arrays = {key: value for key, value in own.items() if key.split("/")[0] == case}
    assert run("verify", written(tmp_path, arrays | {name: spoilt})) == 1
    printed = capsys.readouterr().out
    if (how, name) == ("another shape", "metrics/out/iou"):  # its length is the number of classes
        assert " differ: metrics\n" in printed
    else:
        assert f" differ: {name}\n" in printed
        assert ("of shape" in printed) == (how == "another shape")


def test_a_label_map_may_differ_in_one_of_a_thousand():
    mine, theirs = torch.zeros(50, 40), np.zeros((50, 40))
    for differing, share in ((2, 1e-3), (3, 1.5e-3)):
        theirs.flat[:differing] = 255
        assert verify.error(mine, theirs, True) == share
    assert verify.Row("x", 1e-3, verify.LABEL_TOLERANCE).ok and not verify.Row("x", 1.5e-3, 1e-3).ok
    assert np.isnan(verify.error(mine, np.where(theirs == 255, np.nan, 0), True))


# Faults.


@pytest.mark.parametrize(
    ("case", "words"),
    [("ptc2", "unknown case; did you mean ptc?"), ("ctc_Tx", "unknown case; did you"), ("zzz", "unknown case")],
)
def test_unknown_cases_are_told_and_the_rest_is_compared(tmp_path, own, capsys, case, words):
    extra = {f"{case}/in/x": np.zeros(2), "seg/out/entropy": np.zeros(2)}
    assert run("verify", written(tmp_path, own | extra)) == 1
    printed = capsys.readouterr().out
    assert words in next(line for line in printed.splitlines() if line.startswith(f"{case} "))
    assert "unknown output" in next(line for line in printed.splitlines() if line.startswith("seg/out/entropy"))
    assert f"differ: seg/out/entropy, {case}\n" in printed


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("labels/in/box", "labels"),
        ("labels/out/roi", "labels/out/roi"),
        ("ptc/grad/tokens", "ptc/grad/tokens"),
        ("ptc_all_ignored/out/loss", "ptc_all_ignored/out/loss"),
        ("metrics/out/iou", "metrics"),
        ("encoder/weight/pos_embed", "encoder"),
        ("encoder/out/first_tokens", "encoder/out/first_tokens"),
        ("schedule/in/step", "schedule"),
    ],
)
def test_an_array_that_is_missing(tmp_path, own, capsys, name, row):
    case = name.split("/")[0]
    arrays = {key: value for key, value in own.items() if key.split("/")[0] == case and key != name}
    assert run("verify", written(tmp_path, arrays)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"the file lacks {name}" in next(line for line in lines if line.startswith(f"{row} "))


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("encoder/weight/norm.bias", np.zeros(7), r"1 of another shape (norm.bias (7,) for (20,))"),
        ("labels/in/box", np.zeros((2, 3), int), "cannot be computed"),
        ("seg/in/logits", np.zeros(3), "cannot be computed"),
        ("normalise/in/raw", np.array(["text"]), "holds no numbers"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, own, capsys, name, array, words):
    assert run("verify", written(tmp_path, own | {name: array})) == 1
    lines = capsys.readouterr().out.splitlines()
    assert words in next(line for line in lines if line.startswith(f"{name.split('/')[0]} "))


def test_an_encoder_without_an_image(tmp_path, own, capsys):
    kept = {name: array for name, array in own.items() if name.startswith("encoder/") and "/in/" not in name}
    assert run("verify", written(tmp_path, kept)) == 1
    assert "the file lacks encoder/in/NAME" in capsys.readouterr().out


def spoil(path, how):
    if how == "text":
        path.write_text("no archive")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"ptc/in/label": 1}))
    elif how == "cut off":
        path.write_bytes(GOLDEN.read_bytes()[:-200])
    elif how == "a byte":
        content = bytearray(GOLDEN.read_bytes())
        content[1000] ^= 255
        path.write_bytes(content)
    elif how == "no case":
        np.savez(path)
    elif how == "objects":
        np.savez(path, **{"seg/in/logits": np.array([{"a": 1}], object)})
    elif how == "folder":
        path.mkdir()
    elif how == "another zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "hello")


FAULTS = {
    "missing": "there is no file",
    "text": "is no npz file",
    "pickle": "is no npz file",
    "cut off": "is no npz file, or one that is cut off",
    "a byte": "cannot be read",
    "objects": "seg/in/logits is pickled, and what a file brings along is never run",
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_file_that_is_none(tmp_path, capsys, how):
    path = tmp_path / "reference.npz"
    spoil(path, how)
    assert run("verify", path) == 1
    printed = capsys.readouterr()
    assert FAULTS[how] in printed.err and printed.err.startswith("wsss: error: ") and not printed.out


def test_another_zip_holds_an_unknown_case(tmp_path, capsys):
    spoil(tmp_path / "notes.npz", "another zip")
    assert run("verify", tmp_path / "notes.npz") == 1
    assert "notes.txt" in capsys.readouterr().out


def test_help_names_the_layout(capsys):
    with pytest.raises(SystemExit) as end:
        run("verify", "--help")
    assert end.value.code == 0 and "REFERENCE.npz" in capsys.readouterr().out
