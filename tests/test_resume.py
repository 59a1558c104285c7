"""A run that is stopped anywhere goes on to the same bits as one that was not."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest
from running import assert_same_run, command, folder, log, process, record, run, stop_when, tiny

from wsss import checkpoint, datasets, evaluate, presets, train


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Do something in the middle of the given step."""
    update = train.Trainer._update

    def updated(self, *arguments):
        if self.step == step - 1:
            act()
        return update(self, *arguments)

    monkeypatch.setattr(train.Trainer, "_update", updated)


def ask_to_stop(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    in_step(monkeypatch, step, lambda: signal.raise_signal(number))


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process's run without a word to it, as a kill would."""

    def kill() -> None:
        raise KeyboardInterrupt

    in_step(monkeypatch, step, kill)


@pytest.mark.parametrize("step", [2, 3])
def test_stopped_and_resumed_is_bit_equal(trained, own, tmp_path, monkeypatch, capsys, step):
    with monkeypatch.context() as patch:
        ask_to_stop(patch, step)
        assert run(*tiny(own, tmp_path)) == 143
    assert f"stopped at step {step} of 4" in capsys.readouterr().err
    assert checkpoint.latest(folder(tmp_path)) == step and not folder(tmp_path).with_suffix(".json").exists()
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)
    assert run(*tiny(own, tmp_path, "--save_every", "1")) == 0, "how often a run is saved makes it no other"


def test_a_record_names_every_place_that_its_run_was_trained_on(own, tmp_path, monkeypatch, capsys):
    """Bits differ between processors: a run made on two has no partner on either. One dirty part makes it dirty."""
    stamp = evaluate.stamp()
    monkeypatch.setattr(evaluate, "stamp", lambda: stamp | {"device": "first", "commit": "aaa", "dirty": True})
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 2)
        assert run(*tiny(own, tmp_path)) == 143
    monkeypatch.setattr(evaluate, "stamp", lambda: stamp | {"device": "second", "commit": "bbb", "dirty": False})
    assert run(*tiny(own, tmp_path)) == 0
    assert "was trained on first with 1 thread, commit aaa and continues on second" in capsys.readouterr().err
    made = record(tmp_path)
    assert [made[name] for name in ("device", "commit", "threads")] == ["first, then second", "aaa, then bbb", 1]
    assert made["dirty"]


def test_a_loader_process_leaves_a_stop_to_its_parent(own):
    """torchrun and SLURM send SIGTERM to whole groups, and the parent still has its checkpoint to write."""
    split, before = datasets.Split(own, "train"), set(psutil.Process().children())
    batches = datasets.training_batches(
        split, presets.get("smoke", **{"data.workers": 1, "optim.batch": 2, "optim.steps": 9}), 0
    )
    first = next(batches)
    loader = next(iter(set(psutil.Process().children()) - before))
    subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)
    assert [len(next(batches).ids) for _ in range(8)] == [len(first.ids)] * 8 and loader.is_running()
    batches.close()


def test_a_run_goes_on_with_as_many_processes_as_before(trained, own, tmp_path, monkeypatch, refused):
    """Losses depend on which images a process has. A run whose training is over has only its evaluation left."""
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 2)
        assert run(*tiny(own, tmp_path)) == 143
    load = checkpoint.load
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load", lambda *words: load(*words) | {"processes": 2})
        assert "was trained by 2 processes, not 1, and" in refused(*tiny(own, tmp_path))
        shutil.copytree(trained, tmp_path / "whole")
        folder(tmp_path / "whole").with_suffix(".json").unlink()
        assert run(*tiny(own, tmp_path / "whole")) == 0
    assert_same_run(trained, tmp_path / "whole")
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)


def test_an_unfinished_run_gives_no_numbers_under_its_name(trained, own, tmp_path, monkeypatch, refused):
    """Else its record would count as that of the whole run, as in earlier versions."""
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 2)
        assert run(*tiny(own, tmp_path)) == 143
    place = folder(tmp_path)
    partial = ("--split", "val", "--partial")
    for words in (("evaluate", place), ("evaluate", place, "--protocol", "voc"), ("submit", place, *partial)):
        assert "is not finished: it has stopped after 2 of 4 steps" in refused(*words)
    assert not list(place.parent.glob("*.json"))
    place.with_suffix(".json").write_bytes(folder(trained).with_suffix(".json").read_bytes())
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)


def test_a_stop_signal_in_the_last_step_ends_a_whole_run(trained, own, tmp_path, monkeypatch):
    """The handlers of signals are put back."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    ask_to_stop(monkeypatch, 4, signal.SIGINT)
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_that_broke_off_goes_on_and_half_a_line_in_the_log_is_dropped(trained, own, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 4)
        assert run(*tiny(own, tmp_path)) == 130
    with open(folder(tmp_path) / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lr": 0.0')
    scratch = folder(tmp_path) / ".step-00000004.pt.x1y2z3"
    scratch.mkdir()
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)
    assert not scratch.exists()


@pytest.mark.parametrize("name", ["step-00000004.safetensors", "step-00000004.pt"])
def test_killed_between_the_two_files_of_a_checkpoint(trained, own, tmp_path, monkeypatch, name):
    """Only one file of the newer pair is there: the older pair is used."""
    with monkeypatch.context() as patch:
        fail_at(patch, 4)
        run(*tiny(own, tmp_path))
    (folder(tmp_path) / name).write_bytes((folder(trained) / name).read_bytes())
    assert checkpoint.latest(folder(tmp_path)) == 2
    assert run(*tiny(own, tmp_path)) == 0
    assert_same_run(trained, tmp_path)


LONG = ("--optim.steps", "12", "--save_every", "0.17", "--validate_every", "0.5")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2], ids=["one-process", "two-processes"])
def test_killed_at_a_random_step_and_resumed(own, tmp_path, processes):
    step = random.SystemRandom().randrange(1, 12)
    print(f"killed at step {step}")
    one, other = tmp_path / "one", tmp_path / "other"
    whole = process(*tiny(own, one, *LONG), processes=processes)
    assert whole.returncode == 0, whole.stderr

    def reached() -> bool:
        return any(f'{{"step": {step},' in file.read_text() for file in other.glob("*/*/*/log.jsonl"))

    words = command(*tiny(own, other, *LONG), processes=processes)
    assert stop_when(reached, words, signal.SIGKILL)[0] == -signal.SIGKILL
    rest = process(*tiny(own, other, *LONG), processes=processes)
    assert rest.returncode == 0, rest.stderr
    assert_same_run(one, other)


def test_no_resume_refuses_to_touch_what_is_there(own, tmp_path, monkeypatch, refused):
    with monkeypatch.context() as patch:
        ask_to_stop(patch, 2)
        assert run(*tiny(own, tmp_path)) == 143
    assert "holds a run already" in refused(*tiny(own, tmp_path, "--no-resume"))


def test_a_folder_without_checkpoint_and_record_is_taken_over(own, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 2)
        assert run(*tiny(own, tmp_path)) == 130
    assert run(*tiny(own, tmp_path, "--optim.lr", "1e-5", "--no-resume")) == 0
    assert json.loads((folder(tmp_path) / "config.json").read_text())["optim"]["lr"] == 1e-5
    assert [row["step"] for row in log(tmp_path) if "weights" in row] == [1, 2, 3, 4]
