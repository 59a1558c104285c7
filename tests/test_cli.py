"""The command line: help that reads like a manual, exit codes, settings by their dotted names."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import command, environment, folder, own_set, record, run, tiny

from wsss import cli, config, presets, settings, stored
from wsss.paths import Echo, UserError
from wsss.process import Interrupted


def test_usage_lists_commands_and_presets(capsys):
    assert run("--help") == run("-h") == 0 and run() == 2
    usage = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert len(re.findall(rf"^  {name}\b", usage, re.MULTILINE)) >= 3, f"{name} is not in the usage"
    assert run("train", "--help") == 0 and run("train") == 2
    usage = capsys.readouterr().out
    assert "--no-resume" in usage and "--gate" in usage and all(name in usage for name in presets.PRESETS)


HELP = {
    "train mini": ["--no-resume", "Learning rate of the backbone", "D15"],
    "evaluate": ["RUN", "OUTPUT/DATASET/VARIANT/SEED", "--weights", "--data-root"],
    "score": ["PREDICTIONS TRUTH", "--num-classes", "21 for VOC"],
    "data mini": ["--root", "1,000 train"],
    "data check": ["ROOT", "exit 1 on any fault"],
    "pretrain": ["ROOT", "--minutes", "Peak learning rate", "--model.patch-size"],
    "tables": ["--records", "--format"],
    "publish": ["--only"],
}
HELP["train mini"] += [f"--{path.replace('_', '-')}" for path in settings.flatten(presets.PRESETS["mini"])]


@pytest.mark.parametrize("words", HELP)
def test_help_explains_every_argument(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        run(*words.split(), "--help")
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for part in HELP[words]:
        assert part in printed, f"{part} is not in the help of {words}"


FULL = "wsss: error: runs/x: No space left on device; existing files are unchanged"


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "wsss: stopped"),
        (Interrupted("go on with the same command"), 143, "wsss: go on with the same command"),
        (OSError(28, "No space left on device", "runs/x"), 1, FULL),
        (UserError("one\n  two\nthree"), 1, "wsss: error: one two three"),
        (Echo("another process has said it"), 1, ""),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(fault, code, sentence, monkeypatch, capsys):
    @dataclass(frozen=True)
    class Stop:
        def __call__(self) -> None:
            raise fault

    monkeypatch.setitem(cli.COMMANDS, "tables", Stop)
    assert run("tables") == code
    assert capsys.readouterr().err == (f"{sentence}\n" if sentence else "")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough():
    """`wsss train mini --help | head -1` ends without a word."""
    child = subprocess.Popen(
        command("train", "mini", "--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    child.stdout.close()
    err = child.stderr.read().decode()
    assert child.wait(60) in (141, 0) and err == ""
    child.stderr.close()


def test_what_a_run_prints_and_what_reads_it(tmp_path, monkeypatch, capsys):
    output, own = tmp_path / "out", own_set(tmp_path / "own")
    assert run(*tiny(own, output)) == 0
    printed, place = capsys.readouterr().out, folder(output)
    miou = record(output)["results"]["segmentation"]["miou"]
    assert f"segmentation {miou:.1f}" in printed and "own/tiny seed 0, 4 images of val" in printed
    assert str(place.with_suffix(".json")) in printed
    assert run("tables", "headline", "--records", output, "--format", "csv") == 0
    assert "not run" in capsys.readouterr().out
    assert run("evaluate", place, "--weights", "best") == 0
    best = place.with_name("0.best.json")
    assert best.is_file() and f"record: {best}; weights, log and examples: {place}\n" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert run(*tiny(own, output)) == 0
    assert capsys.readouterr().out == "", "only the first process reports"
    tree = json.loads((place / "config.json").read_text())
    again = stored.from_dict(tree)
    assert json.loads(json.dumps(config.to_dict(again))) == tree and Path(again.data.root) == own
