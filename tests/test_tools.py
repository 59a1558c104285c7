"""Tools beside the command: the book as a PDF, `make gpu`, shipping the weights of a run."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch
from running import folder, record, run, tiny
from safetensors.torch import load_file

from wsss import command, paths
from wsss.paths import UserError
from wsss.tools import gpu, machine, pdf, ship


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("<p>Words.</p>")
    return path


def stand_in(tmp_path, monkeypatch, script):
    """The only browser on the PATH: a shell script."""
    path = tmp_path / "bin" / "google-chrome"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}")


def test_without_a_browser_it_says_what_to_install(page, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium on the PATH"):
        pdf.print_page(page, tmp_path / "book.pdf")


def test_without_a_page_it_says_what_builds_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "wsss").mkdir()
    assert command.main("pdf", pdf.Pdf, []) == 1
    assert "`make pdf` builds it" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["echo no room >&2; exit 3", "echo no room >&2"])
def test_a_browser_that_fails_leaves_the_old_pdf(page, tmp_path, monkeypatch, script):
    stand_in(tmp_path, monkeypatch, script)
    (tmp_path / "book.pdf").write_bytes(b"%PDF old")
    with pytest.raises(UserError, match="no room"):
        pdf.print_page(page, tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_bytes() == b"%PDF old"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_browser_that_hangs_is_stopped(page, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "while :; do :; done")
    with pytest.raises(UserError, match="took more than 1 s"):
        pdf.print_page(page, tmp_path / "book.pdf", seconds=1.0)


def test_what_the_browser_prints_is_the_pdf(page, tmp_path, monkeypatch):
    words = 'for word in "$@"; do case $word in --print-to-pdf=*) printf "%%PDF of $word" > "${word#*=}";; esac; done'
    stand_in(tmp_path, monkeypatch, words)
    pdf.print_page(page, tmp_path / "site" / "book.pdf")
    assert (tmp_path / "site" / "book.pdf").read_bytes().startswith(b"%PDF of")


SECOND_PAGE_WHEN_SET = r"""<script>
MathJax = {startup: {pageReady: () => MathJax.startup.defaultPageReady().then(() => {
  document.body.insertAdjacentHTML("beforeend", "<p style='break-before: page'>set</p>")
})}}
</script><script defer src="tex-svg.js"></script><p>\[\sum_{i=1}^n \frac{a_i}{b_i}\]</p>"""


@pytest.mark.slow
def test_a_real_browser_waits_for_the_equations(tmp_path):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium on the PATH")
    os.symlink(paths.project_root() / "book" / "_static" / "mathjax" / "tex-svg.js", tmp_path / "tex-svg.js")
    (tmp_path / "page.html").write_text(SECOND_PAGE_WHEN_SET)
    pdf.print_page(tmp_path / "page.html", tmp_path / "page.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 2


# `make gpu`: every part at toy size on a CPU, so that none rots; words where there is no GPU.


@pytest.mark.slow
def test_every_part_runs_at_toy_size_and_says_its_numbers(monkeypatch, capsys):
    """On a CPU the device is the reference itself: float32 is equal, bfloat16 near. test_bench compiles a step."""
    monkeypatch.setattr(machine, "GEMM", 512)
    monkeypatch.setattr(gpu, "PARTS", {name: part for name, part in gpu.PARTS.items() if name != "compiled"})
    code = command.main("gpu", gpu.Check, ["--toy", "True", "--steps", "20", "--repeats", "1", "--images", "4"])
    printed = capsys.readouterr().out
    parts = {line["part"]: line for line in map(json.loads, (x for x in printed.splitlines() if x.startswith("{")))}
    assert list(parts) == list(gpu.PARTS) and "What a GPU must show" in printed
    assert code == 0 and all(line["ok"] for line in parts.values()), parts
    assert parts["parity"]["float32"] == 0 < parts["parity"]["bfloat16"]
    assert parts["resumed"]["codes"] == [143, 0] and parts["ranks"]["apart"] < 1e-3


def test_a_part_that_fails_is_said_and_the_others_run(monkeypatch, capsys):
    def broken(check: gpu.Check) -> dict:
        raise ValueError("no")

    def whole(check: gpu.Check) -> dict:
        return {"images": check.images, "ok": True}

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "whole": whole})
    assert command.main("gpu", gpu.Check, ["--toy", "True", "--images", "7"]) == 1
    output = capsys.readouterr().out
    assert '"error": "ValueError: no"' in output and '"images": 7' in output and "NO" in output


def test_without_a_gpu_it_says_so(capsys):
    assert command.main("gpu", gpu.Check, []) == 0
    assert "PyTorch sees no GPU here, so nothing was checked" in capsys.readouterr().out


# Shipping a run: half precision, a card from its record, nothing of a dirty tree.


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "out")


def clean(output: Path, dirty: bool = False) -> Path:
    path = folder(output).with_suffix(".json")
    path.write_text(json.dumps(record(output) | {"dirty": dirty}))
    return folder(output)


def test_the_file_is_the_runs_last_weights_in_half_precision(made, tmp_path):
    source = clean(made)
    assert command.main("ship", ship.Ship, [str(source), "few", "--output", str(tmp_path)]) == 0
    full, half = load_file(source / "step-00000004.safetensors"), load_file(tmp_path / "few.safetensors")
    averaged = {name for name in full if name.startswith("proj_head_t.")}
    assert averaged and half.keys() == full.keys() - averaged, "the moving average serves training alone"
    assert all(torch.equal(value, full[name].half()) for name, value in half.items())
    card, found = json.loads((tmp_path / "few.json").read_text()), record(made)
    assert card["made_by"].startswith("wsss train smoke --seed 0 --") and "--optim.steps 4" in card["made_by"]
    assert card["made_by"].endswith("--data.root ROOT") and str(made) not in json.dumps(card)
    assert card["run"]["cam.miou_headline"] == found["results"]["cam"]["miou_headline"]
    assert card["this_file"]["cam.miou_headline"] == pytest.approx(card["run"]["cam.miou_headline"], abs=2)
    assert (card["steps"], card["evaluated_on"], card["train_images"]) == (4, "4 images of val", 4)
    data = json.loads((source / "config.json").read_text())["data"]["root"]
    again = ("--variant", "again", "--model.checkpoint", str(tmp_path / "few.safetensors"))
    assert run(*tiny(Path(data), tmp_path / "runs", *again)) == 0, "the file starts a run"
    assert all(0 <= card["images_in_percent"][name] <= 100 for name in ("named", "outlined"))
    source.with_suffix(".json").write_text(json.dumps(found | {"dirty": False, "teacher": {"run": "pets/base/3"}}))
    assert command.main("ship", ship.Ship, [str(source), "student", "--output", str(tmp_path)]) == 0
    student = json.loads((tmp_path / "student.json").read_text())
    assert student["made_by"] == "python -m wsss.tools.distil runs/pets/base/3 --seed 0 --steps 4 --data-root ROOT"


def test_a_run_of_an_uncommitted_tree_and_a_large_one_are_refused(made, tmp_path, monkeypatch, capsys):
    assert command.main("ship", ship.Ship, [str(clean(made, dirty=True)), "few", "--output", str(tmp_path)]) == 1
    monkeypatch.setattr(ship, "_LIMIT", 1000)
    assert command.main("ship", ship.Ship, [str(clean(made)), "few", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "uncommitted changes" in said and "the limit is 13" in said and not list(tmp_path.iterdir())
