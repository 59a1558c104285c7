"""The gate before a long run: its bounds come from the base's log, its verdict names causes, its run goes on."""

import json
import math

import pytest
from builders import TINY
from running import assert_same_run, folder, log, own_set, run
from test_resume import ask_to_stop

from wsss import checkpoint
from wsss.report import gate, records
from wsss.tools import gate as gated


def words(root, output, *more: str) -> list[str]:
    """A voc-toco run of twenty steps that take no time."""
    changes = {"model.patch_size": 8, "msc.dimension": 8, "variant": "small", "save_every": 0.5}
    settings = [word for name, value in (TINY | changes).items() for word in (f"--{name}", str(value))]
    place = ["--optim.steps", "20", "--data.root", str(root), "--data.train_split", "train", "--output", str(output)]
    return ["train", "voc-toco", *settings, *place, *more]


def test_a_gate_stops_judges_nothing_unlike_and_the_whole_run_goes_on(tmp_path, monkeypatch, capsys, refused):
    """Two evaluations, at a tenth and a fifth; a stop in between; no record among the results; then the bits of a run
    that no gate stopped."""
    root, output = own_set(tmp_path / "own"), tmp_path / "gated"
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 3)
        assert run(*words(root, output, "--gate")) == 143
    assert "stopped at step 3 of 4" in capsys.readouterr().err
    assert run(*words(root, output, "--gate")) == 1, "what is not judged has not passed"
    printed = capsys.readouterr().out
    assert "Gate: not judged" in printed and "other settings than the base's" in printed and "60.8" in printed
    assert [row["step"] for row in log(output) if "validation" in row] == [2, 4]
    assert checkpoint.latest(folder(output)) == 4
    record = json.loads((folder(output) / "gate.json").read_text())
    assert record["kind"] == "gate" and record["passed"] is None and len(record["numbers"]) == 6
    assert not records.find(output) and not folder(output).with_suffix(".json").exists()
    assert run("evaluate", folder(output)) == 1, "no number under the name of the whole run"
    assert run(*words(root, output)) == 0 and run(*words(root, tmp_path / "whole")) == 0
    assert_same_run(output, tmp_path / "whole")
    assert "too late for a gate" in refused(*words(root, output, "--gate"))


@pytest.mark.parametrize(("high", "code"), [(100.0, 0), (-1.0, 1)])
def test_the_exit_code_is_the_verdict(tmp_path, monkeypatch, capsys, high, code):
    numbers = [gate.GateRow(step, kind, 50.0, -1.0, high) for step in (2000, 4000) for kind in gate.TITLES]
    monkeypatch.setattr(gate, "rows", lambda preset: (numbers, 20_000))
    monkeypatch.setattr(gated.Gate, "_unlike", lambda trainer: "")
    assert run(*words(own_set(tmp_path / "own"), tmp_path / "out", "--gate")) == code
    assert ("Gate: FAILED" if code else "Gate: passed") in capsys.readouterr().out
    record = json.loads((folder(tmp_path / "out") / "gate.json").read_text())
    assert record["passed"] == (code == 0)
    assert all(0 <= number["measured"] <= 100 for number in record["numbers"])


def test_a_preset_without_a_log_is_refused_before_anything_is_done(refused):
    assert "mini has none; use it with voc-toco, voc-deit-toco" in refused("train", "mini", "--gate")


def judged(preset: str = "voc-toco", **measured: float) -> list[gate.GateRow]:
    """The published numbers themselves, except those named KIND_STEP."""
    return [
        gate.GateRow(**vars(row) | {"measured": measured.get(f"{row.kind}_{row.step}", row.published)})
        for row in gate.rows(preset)[0]
    ]


def test_bounds_are_those_of_the_published_log():
    numbers, whole = gate.rows("voc-toco")
    assert whole == 20_000 and [row.step for row in numbers] == [2000] * 3 + [4000] * 3
    assert [round(row.published, 1) for row in numbers] == [24.2, 51.5, 0.4, 58.2, 60.8, 50.6]
    cam, _, untrained, *later = numbers
    assert (untrained.low, untrained.high) == (0.0, 100 / 21)
    assert cam.high - cam.low == pytest.approx(2 * (5 + (58.151 - 24.196) / 4))
    assert all(5 < row.high - row.published < 7 for row in later)


@pytest.mark.parametrize(
    ("measured", "cause"),
    [
        ({}, "without --gate to continue"),
        ({"cam_4000": 30.0, "aux_cam_4000": 40.0, "segmentation_4000": 9.0}, "both CAMs are low: start weights"),
        ({"cam_4000": 30.0}, "the aux CAM is right and the last CAM low"),
        ({"aux_cam_4000": 30.0}, "the last CAM is right and the aux CAM low"),
        ({"segmentation_4000": math.nan}, "the CAMs are right and segmentation low: pixel labels"),
        ({"segmentation_2000": 20.0}, "better than an untrained decoder"),
        ({"aux_cam_2000": 40.0}, "only the first evaluation fails: the warm-up"),
        ({"cam_4000": 80.0}, "a number is high"),
    ],
)
def test_a_verdict_names_what_a_failure_can_mean(measured, cause):
    passed, causes = gate.verdict(judged(**measured))
    assert passed == (not measured) and any(cause in sentence for sentence in causes), causes


def test_another_backbone_does_not_pass_for_this_one():
    """The base's own log of the weaker backbone, held against the gate of the other."""
    other = {f"{row.kind}_{row.step}": row.published for row in gate.rows("voc-deit-toco")[0]}
    assert not gate.verdict(judged(**other))[0] and gate.verdict(judged("voc-deit-toco"))[0]
