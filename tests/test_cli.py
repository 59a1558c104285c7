"""The command line: help that reads like a manual, exit codes, settings by their dotted names."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from running import command, environment, folder, own_set, record, run, tiny

from wsss import cli, config, presets, settings, stored, train
from wsss.paths import UserError


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_the_commands(words, capsys):
    assert run(*words) == 0
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert re.search(rf"^  {name}\b", out, re.MULTILINE), f"{name} is not in the usage"


def test_no_command_prints_the_usage_and_fails(capsys):
    assert run() == 2
    assert "usage: wsss COMMAND" in capsys.readouterr().out


def test_help_of_train_names_presets_and_ways(capsys):
    assert run("train", "--help") == 0
    out = capsys.readouterr().out
    assert "--no-resume" in out and all(name in out for name in presets.PRESETS)
    assert run("train") == 2


HELP = {
    "train mini": ["--optim.lr", "Learning rate of the backbone", "--compat.padding-in-cam", "D15"],
    "evaluate": ["RUN", "OUTPUT/DATASET/VARIANT/SEED", "--weights", "--data-root"],
    "score": ["PREDICTIONS TRUTH", "--num-classes", "21 for VOC"],
    "data mini": ["--root", "1,000 train"],
    "data check": ["ROOT", "exit 1 on any fault"],
    "pretrain drawn": ["--minutes", "Peak learning rate", "--model.patch-size"],
    "tables": ["--records", "--format"],
    "publish": ["--only"],
}


@pytest.mark.parametrize("words", HELP)
def test_help_reads_like_a_manual(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        run(*words.split(), "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    for part in HELP[words]:
        assert part in out, f"{part} is not in the help of {words}"


def test_every_setting_is_explained(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        run("train", "mini", "--help")
    out = capsys.readouterr().out
    for path in settings.flatten(presets.PRESETS["mini"]):
        assert f"--{path.replace('_', '-')}" in out


def test_settings_reach_the_run(monkeypatch):
    seen = []

    def stop(asked, resume, trainer):
        seen.append((asked, resume))
        raise UserError("far enough for this test, stopped on purpose")

    monkeypatch.setattr(train, "run", stop)
    words = ["--seed", "7", "--patch_contrast.weight", "0", "--no-resume", "--data.headline", "cat,dog"]
    assert run("train", "mini", *words) == 1
    asked, resume = seen[0]
    assert (asked.seed, asked.patch_contrast.weight, asked.data.headline, resume) == (7, 0, ("cat", "dog"), False)
    assert asked.variant == "mini+data.headline=('cat','dog')+patch_contrast.weight=0.0"


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "tables", stop)
    assert run("tables") == 130
    assert capsys.readouterr().err == "wsss: stopped\n"


def test_an_error_of_the_system_is_one_sentence(monkeypatch, capsys):
    def stop(words):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setitem(cli.COMMANDS, "tables", stop)
    assert run("tables") == 1
    assert capsys.readouterr().err == "wsss: error: runs/x: No space left on device; what was there is untouched\n"


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


def test_a_sentence_stays_on_one_line(monkeypatch, capsys):
    def stop(words):
        raise UserError("one\n  two\nthree")

    monkeypatch.setitem(cli.COMMANDS, "tables", stop)
    assert run("tables") == 1
    assert capsys.readouterr().err == "wsss: error: one two three\n"


def test_train_says_where_things_are(tmp_path, capsys):
    own = own_set(tmp_path / "own")
    assert run(*tiny(own, tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert str(folder(tmp_path / "out").with_suffix(".json")) in out
    found = record(tmp_path / "out")["results"]["segmentation"]["miou"]
    assert f"segmentation {found:.1f}" in out and "own/tiny seed 0, 4 images of val" in out


def test_tables_from_a_folder_of_records(tmp_path, capsys):
    own = own_set(tmp_path / "own")
    run(*tiny(own, tmp_path / "out"))
    capsys.readouterr()
    for form in ("text", "markdown", "csv"):
        assert run("tables", "--records", tmp_path / "out", "--format", form) == 0
        assert "not run" in capsys.readouterr().out


def test_the_record_that_was_written_is_named(tmp_path, capsys):
    own = own_set(tmp_path / "own")
    run(*tiny(own, tmp_path / "out"))
    place = folder(tmp_path / "out")
    capsys.readouterr()
    assert run("evaluate", place, "--weights", "best") == 0
    path = place.with_name("0.best.json")
    assert path.is_file() and f"record: {path}; weights, log and examples: {place}\n" in capsys.readouterr().out


def test_only_the_first_process_reports(tmp_path, monkeypatch, capsys):
    own = own_set(tmp_path / "own")
    run(*tiny(own, tmp_path / "out"))
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    assert run(*tiny(own, tmp_path / "out")) == 0
    assert capsys.readouterr().out == ""


def test_config_json_gives_the_run_again(tmp_path):
    own = own_set(tmp_path / "own")
    run(*tiny(own, tmp_path / "out", "--optim.steps", "1"))
    tree = json.loads((folder(tmp_path / "out") / "config.json").read_text())
    again = stored.from_dict(tree)
    assert config.to_dict(again) == {**tree, "cam": {**tree["cam"], "scales": (1.0,)}} | again_tuples(again)
    assert again.optim.steps == 1 and Path(again.data.root) == own


def again_tuples(found: config.Config) -> dict:
    """The parts of the tree whose tuples JSON turns into lists."""
    tree = config.to_dict(found)
    return {name: tree[name] for name in ("augment", "data", "cam", "csa", "segmentation")}
