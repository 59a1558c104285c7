"""Experiments: their rows are presets, their lists are commands; `wsss sweep` runs them, stops and goes on."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from running import command, process, run, stop_when
from test_records import record

from wsss import cli, presets
from wsss.command import parse
from wsss.paths import UserError
from wsss.report import ablation, experiments, records
from wsss.report.experiments import EXPERIMENTS
from wsss.tools import sweep


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_differ(name):
    experiment = experiments.get(name)
    assert len({row.variant for row in experiment.rows}) == len({row.label for row in experiment.rows})
    assert experiment.against in {row.label for row in experiment.rows}
    assert {row.config.data.name for row in experiment.rows} == {experiment.dataset}


def test_the_words_of_a_row_make_it():
    """The command line turns a row's words into its configuration; one row of every choice of settings is tried."""
    rows = {tuple(row.changes): row for experiment in EXPERIMENTS.values() for row in experiment.rows}
    for row in rows.values():
        preset, *settings = row.arguments(2)
        training = parse(cli.COMMANDS["train"].commands[preset], settings, "wsss train")
        assert training.config == presets.get(row.preset, seed=2, **row.changes)


def test_a_change_that_the_preset_has_is_the_preset():
    rows = {row.label: row for row in experiments.get("mini-subspaces").rows}
    assert rows["K = 4"].variant == "mini" and rows["K = 4"].arguments(0) == ["mini", "--seed", "0"]
    assert rows["K = 8"].variant == "mini+msc.subspaces=8+msc.dimension=8"
    assert "mini-steps" not in EXPERIMENTS, "mini contrasts no class tokens"


def asked(tmp_path, *words):
    return parse(sweep.Sweep, ["smoke-level", "--output", str(tmp_path), *words], "sweep")


def test_the_list_is_what_is_left_in_the_order_of_seeds(tmp_path, capsys):
    done = record(dataset="smoke", variant="smoke", seconds={"train": 90.0, "evaluate": 30.0})
    records.save(done, tmp_path / "smoke" / "smoke" / "0.json")
    words = ("smoke-level", "--output", str(tmp_path), "--seeds", "0", "1", "--only-list", "True")
    assert run("sweep", *words, "--launcher", "torchrun --nproc_per_node 2 -m wsss") == 0
    printed = capsys.readouterr().out
    assert "0 of 6 runs are finished" in printed and "Left: 12 minutes" in printed
    lines = (tmp_path / "sweeps" / "smoke-level.txt").read_text().splitlines()
    assert len(lines) == 6 and [line.count("--seed 0") for line in lines] == [1, 1, 0, 0, 0, 0]
    started = next(line for line in lines if "train" not in line)
    launched = "torchrun --nproc_per_node 2 -m wsss"
    assert started == f"{launched} evaluate {tmp_path}/smoke/smoke/0 --protocol voc --scales 1 --crf False"
    assert all(line.startswith(launched) for line in lines)
    assert not (tmp_path / "smoke" / "smoke" / "1").exists(), "listing runs nothing"


def test_rows_and_final_evaluations_have_seeds_of_their_own(tmp_path):
    """On photographs: five seeds of rows that are compared, three of the rest and of final evaluations, or --seeds."""
    experiment, words = experiments.get("voc-animals-components"), ["voc-animals-components", "--output", str(tmp_path)]
    jobs = sweep.plan(experiment, parse(sweep.Sweep, words, "sweep"))
    few = ("plain classification", "base as released")
    wanted = [(seed, row.label) for seed in range(5) for row in experiment.rows if seed < 3 or row.label not in few]
    assert [(job.seed, job.label) for job in jobs] == wanted
    assert {len(job.commands) for job in jobs if job.label == "base" and job.seed < 3} == {3}
    assert {len(job.commands) for job in jobs if job.label == "base" and job.seed > 2} == {1}
    named = sweep.plan(experiment, parse(sweep.Sweep, [*words, "--seeds", "4"], "sweep"))
    assert [job.label for job in named] == [row.label for row in experiment.rows]


def test_published_runs_count_as_finished_when_asked(tmp_path, monkeypatch):
    one = record(dataset="smoke", variant="smoke") | {"path": "smoke/smoke/0.json"}
    monkeypatch.setattr(records, "published", lambda: [one])
    experiment = experiments.get("smoke-level")
    names = [[path.name for path in job.commands] for job in sweep.plan(experiment, asked(tmp_path, "--seeds", "0"))]
    assert names == [["0.json", "0.voc-s1.json"]] * 3
    counted = sweep.plan(experiment, asked(tmp_path, "--seeds", "0", "--published", "True"))
    names = [[path.name for path in job.commands] for job in counted]
    assert names == [["0.json", "0.voc-s1.json"], ["0.json", "0.voc-s1.json"], ["0.voc-s1.json"]]


def test_states_are_left_begun_and_finished(tmp_path):
    done, missing = tmp_path / "0.json", tmp_path / "1.json"
    done.touch()
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "log.jsonl").touch()
    files = {"all": (done,), "published": (), "evaluation left": (done, missing)}
    files |= {"stopped": (missing,), "new": (missing,)}
    jobs = [sweep.PlannedRun(k, k, 0, tmp_path / k, {path: ("train",) for path in paths}) for k, paths in files.items()]
    rows = sweep.overview(experiments.get("smoke-level"), jobs, [], 1).rows
    assert [row[2] for row in rows] == ["finished", "finished", "begun", "begun", "left"]


def test_minutes_are_those_of_the_variant_else_of_the_others():
    experiment = experiments.get("smoke-level")
    final = {"name": experiment.finals[0].name}
    own = [record("smoke", "smoke", seed, seconds={"train": 50.0, "evaluate": 10.0}) for seed in (0, 1)]
    own.append(record("smoke", "smoke", protocol=final, seconds={"train": 50.0, "evaluate": 60.0}))
    assert ablation.minutes(experiment, "smoke", own[:2]) == (1, None)
    assert ablation.minutes(experiment, "smoke", own) == (2, 1)
    assert ablation.minutes(experiment, experiment.rows[0].variant, own) == (2, 1)
    assert ablation.minutes(experiment, "smoke", []) == (None, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("smoke-level", "--jobs", "0"), "jobs"),
        (("smoke-level", "--seeds"), "seeds"),
        (("mini-component",), "mini-components"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(words, says, tmp_path, refused):
    assert says in refused("sweep", *words, "--output", tmp_path)
    assert not (tmp_path / "sweeps").exists()


def test_a_run_that_fails_does_not_hold_up_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_PAUSE", 0.01)
    good = sweep.PlannedRun("good", "g", 0, tmp_path / "g" / "0", {tmp_path / "g.json": ("--help",)})
    bad = sweep.PlannedRun(
        "bad", "b", 0, tmp_path / "b" / "0", {tmp_path / "b.json": ("nonsense",), tmp_path / "c": ("tables",)}
    )
    with pytest.raises(UserError, match=f"1 of 2 runs failed: bad, seed 0 .see {bad.log}"):
        sweep.work([bad, good], 1, 1)
    assert "there is no command named nonsense" in bad.log.read_text()
    assert "literature" not in bad.log.read_text(), "what follows a failure is not run"
    assert "usage: wsss" in good.log.read_text()


def test_threads_follow_the_load_or_the_runs_that_are_there(tmp_path, monkeypatch):
    """Two busy processes of two threads each on two cores make steps fifteen times as slow."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    idle, busy, crowded = (sweep.threads_for(side, [], 2, load) for side, load in ((1, 0.1), (1, 1.3), (2, 2.2)))
    assert (idle[0], busy[0], crowded[0]) == (2, 1, 1)
    assert "1 side by side on 2 cores, of which 1 are busy" in busy[1] and "wait for one another" in crowded[1]
    assert sweep.threads_for(2, [], 16, 3.8)[0] == 6
    records.save(record(dataset="smoke", variant="smoke") | {"threads": 3}, tmp_path / "smoke/smoke/0.json")
    jobs = sweep.plan(experiments.get("smoke-level"), asked(tmp_path))
    assert sweep.threads_for(1, jobs, 2, 0.0) == (3, "as in the finished runs")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert sweep.threads_for(2, [], 2, 0.0) == (4, "set by OMP_NUM_THREADS")


@pytest.mark.slow
def test_a_sweep_stops_saves_and_goes_on(tmp_path, capsys):
    """SIGTERM while training ends every process; the same command finishes all; a third call does nothing."""
    words = ("sweep", "smoke-level", "--seeds", "0", "-j", "2", "--output", str(tmp_path))
    log = tmp_path / "smoke" / experiments.get("smoke-level").rows[0].variant / "0" / "log.jsonl"
    begun = lambda: log.is_file() and log.read_text().count("\n") > 2  # noqa: E731
    code, said = stop_when(begun, command(*words), signal.SIGTERM)
    assert code == 143 and "run the command again to continue" in said
    assert not alive(tmp_path), "no process outlives the sweep"
    done = process(*words)
    assert done.returncode == 0, done.stderr
    chosen = records.find(tmp_path)
    assert len(chosen) == 6 and {r["protocol"]["name"] for r in chosen} == {"training", "final-without-crf-s1"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert run(*words) == 0 and "3 of 3 runs are finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


def alive(output: Path) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(output) in line and "wsss" in line and str(os.getpid()) not in line]
