"""`make reproduce`: a step runs unless it is done; the verdict is the exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_records import record

from wsss import command
from wsss.paths import UserError, read_json
from wsss.tools import reproduce
from wsss.tools.reproduce import Stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "input.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "project_root", lambda: tmp_path)
    return tmp_path


def step(code: str = "open('count', 'a').write('x')", makes: str = "count") -> Stage:
    """A step that leaves one letter in `count` each time that it runs."""
    return Stage("count", (sys.executable, "-c", code), makes, ("*.txt",))


def runs(folder: Path) -> int:
    return len((folder / "count").read_text())


@pytest.mark.parametrize(("change", "count"), [("nothing", 1), ("content", 2), ("new file", 2), ("lost output", 1)])
def test_a_step_runs_again_if_what_it_reads_is_newer_or_its_output_gone(folder, change, count, capsys):
    step().run()
    later = (folder / "count").stat().st_mtime + 10
    for name in {"content": ["input.txt"], "new file": ["third.txt"]}.get(change, []):
        (folder / name).touch()
        os.utime(folder / name, (later, later))
    if change == "lost output":
        (folder / "count").unlink()
    step().run()
    assert runs(folder) == count
    assert ("skipped" in capsys.readouterr().out) is (change == "nothing")


def test_a_failed_step_stops_in_words_and_runs_again(folder):
    for _ in range(2):
        with pytest.raises(UserError, match="count failed"):
            step("open('log', 'a').write('x'); raise SystemExit(3)").run()
    assert (folder / "log").read_text() == "xx"


def test_stopped_it_says_how_to_go_on(folder, monkeypatch, capsys):
    def stop(step: Stage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "run", stop)
    assert command.main("reproduce", reproduce.Reproduce, []) == 130
    assert "run `make reproduce` to continue" in capsys.readouterr().err


def test_photographs_are_reproduced_where_they_and_their_weights_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WSSS_ANIMALS_ROOT", str(tmp_path))
    monkeypatch.setenv("WSSS_WEIGHTS", str(tmp_path))
    names = [one.name for one in reproduce.steps()]
    assert names == ["mini set", "train_voc", "mini-base", "train_coco", "cam_figures", "results"]
    assert "photographs are left out" in capsys.readouterr().out
    (tmp_path / "vit_base_patch16_clip_quickgelu_224.openai.safetensors").touch()
    both = [one for one in reproduce.steps() if one.name.startswith("voc-animals")]
    assert [one.makes for one in both] == [f"runs/voc-animals/voc-animals{x}/0.json" for x in ("", "-base")]
    assert {one.command[3:] for one in both} == {("train", f"voc-animals{x}", "--seed", "0") for x in ("", "-base")}


def put(folder: Path, variant: str, seed: int, dataset: str = "mini", miou: float = 40.0) -> None:
    numbers = {"segmentation": {"miou": miou, "miou_headline": miou}}
    one = record(dataset, variant, seed, results=numbers)
    reproduce.records.save(one, folder / "runs" / dataset / variant / f"{seed}.json")


def published(*variants: str) -> list[dict]:
    """Seeds 0, 1 and 2 of each variant, of 40, 41 and 42 %."""
    return [
        record("mini", variant, seed, results={"segmentation": {"miou": 40.0 + seed, "miou_headline": 40.0 + seed}})
        for variant in variants
        for seed in (0, 1, 2)
    ]


@pytest.mark.parametrize(("miou", "code"), [(41.0, 0), (90.0, 1)])
def test_the_verdict_is_the_exit_code(folder, monkeypatch, capsys, miou, code):
    put(folder, "mini", 0, miou=miou)
    put(folder, "mini-base", 0)
    monkeypatch.setattr(Stage, "run", lambda step: None)
    monkeypatch.setattr(reproduce.records, "published", lambda: published("mini"))
    assert command.main("reproduce", reproduce.Reproduce, []) == code
    (row, *_) = read_json(folder / "runs/verdict.json")["rows"]
    assert row["what"] == "mini, seed 0: segmentation mIoU" and row["within"] is (code == 0)
    said = capsys.readouterr().out
    assert "within the published interval?" in said
    assert ("outside the published interval: mini, seed 0: segmentation mIoU" in said) is (code == 1)


def test_runs_of_a_sweep_are_judged_where_their_variant_is_published(folder, monkeypatch):
    for variant, seed in (("mini", 0), ("mini-base", 0), ("mini-csa", 4), ("mini-of-my-own", 0)):
        put(folder, variant, seed)
    put(folder, "mini-coco", 0, "mini-coco")
    put(folder, "mini-csa", 5, miou=60.0)
    monkeypatch.setattr(reproduce.records, "published", lambda: published("mini", "mini-csa"))
    rows, passed = reproduce.judge(0.0)
    judged = {row["what"]: row["within"] for row in rows}
    assert not passed and judged == {
        "mini, seed 0: segmentation mIoU": True,
        "mini-base, seed 0: segmentation mIoU": None,
        "mini minus mini-base, seed 0: segmentation mIoU": None,
        "mini-csa, seed 4: segmentation mIoU": True,
        "mini-csa, seed 5: segmentation mIoU": False,
    }


def test_the_line_that_make_runs_really_runs(folder):
    (folder / "_config.yml").touch()
    (folder / "wsss").symlink_to(Path(reproduce.__file__).parents[1])
    (folder / "data").write_text("a file where the drawn set should go")
    done = subprocess.run([sys.executable, "-m", "wsss.tools.reproduce"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "wsss: error: mini set failed" in done.stderr
