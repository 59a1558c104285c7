"""`make reproduce`: a step runs when something it depends on changed, and only then; the verdict is the exit code."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_results import record

from wsss.paths import UserError, read_json
from wsss.tools import reproduce
from wsss.tools.reproduce import Step, follow, missing, set_aside


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "input.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(code: str = "open('count', 'a').write('x')", **changes: object) -> Step:
    """A step that leaves one letter in `count` each time that it runs."""
    return Step("count", (sys.executable, "-c", code), **({"makes": ("count",), "reads": ("*.txt",)} | changes))


def runs(folder: Path) -> int:
    return len((folder / "count").read_text())


def test_nothing_changed_runs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(step())
    follow(step())
    assert runs(folder) == 1
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["content", "new file", "gone file", "command", "code", "lost output"])
def test_a_change_runs_it_again(folder: Path, change: str) -> None:
    (folder / "other.txt").write_text("two")
    follow(step())
    again = step()
    if change == "content":
        (folder / "input.txt").write_text("three")
    elif change == "new file":
        (folder / "third.txt").touch()
    elif change == "gone file":
        (folder / "other.txt").unlink()
    elif change == "command":
        again = step("open('count', 'a').write('x') ")
    elif change == "code":
        again = replace(step(), code=("wsss.paths",))
    else:
        (folder / "count").unlink()
    follow(again)
    assert runs(folder) == (1 if change == "lost output" else 2)


def test_a_failed_step_stops_in_words_and_runs_again(folder: Path) -> None:
    with pytest.raises(UserError, match="count failed"):
        follow(step("open('count', 'a').write('x'); raise SystemExit(3)"))
    with pytest.raises(UserError, match="count failed"):
        follow(step("open('count', 'a').write('x'); raise SystemExit(3)"))
    assert runs(folder) == 2


def test_stopped_it_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(step: reproduce.Step) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "project_root", lambda: folder)
    monkeypatch.setattr(reproduce, "steps", lambda: [reproduce.book()])
    monkeypatch.setattr(reproduce, "follow", stop)
    assert reproduce.main() == 130
    assert "`make reproduce` goes on" in capsys.readouterr().err


def test_a_step_that_leaves_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="left no nothing.html"):
        follow(step(makes=("nothing.html",)))
    assert missing(step(makes=("nothing.html", "input.txt"))) == ["nothing.html"]


def test_steps_know_their_notebooks_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    monkeypatch.delenv("WSSS_ANIMALS_ROOT", raising=False)
    by_name = {one.name: one for one in reproduce.steps()}
    assert list(by_name) == ["mini set", "train_voc", "mini-base", "train_coco", "cam_figures", "results"]
    assert "wsss.train" in by_name["train_voc"].code
    assert "wsss.train" not in by_name["results"].code


def test_photographs_are_reproduced_where_they_and_their_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WSSS_ANIMALS_ROOT", str(tmp_path))
    monkeypatch.setenv("WSSS_WEIGHTS", str(tmp_path))
    assert not reproduce.photographs() and "photographs are left out" in capsys.readouterr().out
    (tmp_path / "vit_base_patch16_clip_quickgelu_224.openai.safetensors").touch()
    both = reproduce.photographs()
    assert [one.record for one in both] == [f"runs/voc-animals/voc-animals{x}/0.json" for x in ("", "-base")]
    assert {one.command[3:] for one in both} == {("train", f"voc-animals{x}", "--seed", "0") for x in ("", "-base")}


def test_a_run_of_older_code_is_set_aside(folder: Path) -> None:
    record = folder / "runs/mini/mini/0.json"
    for attempt in ("first", "second"):
        record.with_suffix("").mkdir(parents=True)
        record.write_text(attempt)
        set_aside(record.relative_to(folder))
        assert not record.exists()
        assert not record.with_suffix("").exists()
        assert (folder / "runs/earlier/mini/mini/0.json").read_text() == attempt


def test_training_again_only_if_what_it_depends_on_changed(folder: Path) -> None:
    record = Path("runs/mini/mini/0.json")
    train = f"from pathlib import Path; f = Path('{record}'); f.parent.mkdir(parents=True, exist_ok=True); f.touch()"
    notebook = step(train, makes=(str(record),), reads=("book.ipynb", "input.txt"), record=str(record))
    follow(notebook)
    (folder / "book.ipynb").write_text("the notebook's words changed, the data did not")
    follow(notebook)
    assert not Path("runs/earlier").exists()
    (folder / "input.txt").write_text("other data")
    follow(notebook)
    assert Path("runs/earlier/mini/mini/0.json").exists()
    assert record.exists()


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_verdict_is_the_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: bool, code: int
) -> None:
    row = {"what": "mini, seed 0: CAM mIoU", "published": "50.0 (1 seed)", "yours": 40.0, "counts": True}
    row |= {"low": 45.0, "high": 55.0, "within": passed}
    monkeypatch.setattr(reproduce, "project_root", lambda: folder)
    monkeypatch.setattr(reproduce, "steps", lambda: ())
    monkeypatch.setattr(reproduce, "book", lambda: step())
    monkeypatch.setattr(reproduce.results, "load", lambda path: {})
    monkeypatch.setattr(reproduce.results, "published", list)
    monkeypatch.setattr(reproduce.verdict, "verdict", lambda published, own: ([row], passed))
    assert reproduce.main() == code
    assert read_json(folder / "runs/verdict.json")["rows"] == [row]
    said = capsys.readouterr().out
    assert "within the published interval?" in said
    assert ("outside the published interval: mini, seed 0: CAM mIoU" in said) is not passed


def test_runs_of_a_sweep_are_judged_where_their_variant_is_published(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(variant: str, seed: int, dataset: str = "mini", miou: float = 40.0) -> None:
        numbers = {"segmentation": {"miou": miou, "miou_headline": miou}}
        one = record(dataset, variant, seed, results=numbers)
        reproduce.results.save(one, folder / "runs" / dataset / variant / f"{seed}.json")

    for variant, seed in (("mini", 0), ("mini-base", 0), ("mini-csa", 4), ("mini-of-my-own", 0)):
        put(variant, seed)
    put("mini-coco", 0, "mini-coco")
    put("mini-csa", 5, miou=60.0)
    published = [
        record("mini", variant, seed, results={"segmentation": {"miou": 40.0 + seed, "miou_headline": 40.0 + seed}})
        for variant in ("mini", "mini-csa")
        for seed in (0, 1, 2)
    ]
    monkeypatch.setattr(reproduce.results, "published", lambda: published)
    rows, passed = reproduce.judge(0.0)
    judged = {row["what"]: row["within"] for row in rows}
    assert not passed and judged == {
        "mini, seed 0: segmentation mIoU": True,
        "mini-base, seed 0: segmentation mIoU": None,
        "mini less mini-base, seed 0: segmentation mIoU": None,
        "mini-csa, seed 4: segmentation mIoU": True,
        "mini-csa, seed 5: segmentation mIoU": False,
    }


def test_the_line_that_make_runs_really_runs(folder: Path) -> None:
    (folder / "_config.yml").touch()
    (folder / "wsss").symlink_to(Path(reproduce.__file__).parent)
    (folder / "notebooks").mkdir()
    for name in ("train_voc", "train_coco", "cam_figures", "results"):
        (folder / f"notebooks/{name}.ipynb").write_text('{"cells": []}')
    (folder / "data").write_text("a file where the drawn set should go")
    done = subprocess.run([sys.executable, "-m", "wsss.tools.reproduce"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "wsss: error: mini set failed" in done.stderr
