"""Notebooks: each .ipynb is its .py, takes the same parameters, and is what its published copy ran."""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import papermill.engines  # noqa: F401  (before the plug-in, which it loads)
import pytest

from wsss.tools.papermill import defaults

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted({path.stem for path in (ROOT / "notebooks").glob("[a-z]*.*")})


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_says_the_same(name: str) -> None:
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = [[(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in n.cells] for n in (script, notebook)]
    assert cells[0] == cells[1], f"run `jupytext --sync notebooks/{name}.py`"
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    preset = "mini-coco" if name == "train_coco" else "mini"
    assert defaults(notebook) == {"preset": preset, "seed": 0, "data_root": "", "output": ""}


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_caption(name: str) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "code" and cell.source.splitlines()[-1].startswith(("evidence.", "figures.", "pictures.")):
            assert following is not None
            assert following.source.startswith("*"), f"no caption after {cell.source}"


def test_voc_without_data_fails_at_once_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSSS_VOC_ROOT", raising=False)
    done = papermill("train_voc", tmp_path, "-p", "preset", "voc", "-p", "data_root", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train_voc.failed.ipynb"]


@pytest.mark.slow
def test_smoke_run_then_what_reads_it(tmp_path: Path) -> None:
    for name in ("train_voc", "cam_figures", "results", "explore", "modules"):
        done = papermill(name, tmp_path, "-p", "preset", "smoke", "-p", "output", str(tmp_path / "runs"))
        assert done.returncode == 0, done.stderr
        outputs = [o for c in nbformat.read(tmp_path / f"{name}.ipynb", 4).cells for o in c.get("outputs", [])]
        pictures = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
        assert any("<img" in html for html in pictures)
        assert all('alt="' in html for html in pictures if "<img" in html)


def papermill(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(folder / f"{name}.ipynb"), *arguments]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
