"""papermill with this project's entry point: the plain line works, mistakes are said, good outputs stay."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill.engines  # noqa: F401  (before the plug-in, which it loads)
import pytest
from click import ClickException

import wsss
from wsss.tools import papermill as plugin
from wsss.tools.papermill import settle

PAPERMILL = str(Path(sys.executable).with_name("papermill"))
PARAMETERS = "preset = 'mini'\nseed = 0\nlr = 1e-2\nfast = False\nother = None"
KNOWN = {"preset": "mini", "seed": 0, "lr": 0.01, "fast": False, "other": None}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one notebook, that fails for seed 13; the working directory is there."""
    (tmp_path / "_config.yml").touch()
    (tmp_path / "wsss").symlink_to(Path(wsss.__file__).parent)
    (tmp_path / "notebooks").mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("# Tiny"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import sys\nprint(sys.prefix, preset, seed, lr)\nassert seed != 13, 'unlucky'"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "tiny.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """papermill as a real process; its standard input is empty unless told otherwise."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run([PAPERMILL, "notebooks/tiny.ipynb", *arguments], **options)


def printed(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


def test_plain_line_off_a_terminal_and_its_stamp(project: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "runs/notebooks/tiny.ipynb" in done.stderr
    assert printed(project / "runs/notebooks/tiny.ipynb") == f"{sys.prefix} mini 0 0.01\n"
    executed = nbformat.read("runs/notebooks/tiny.ipynb", as_version=4)
    stamp = executed.metadata.wsss
    assert stamp.notebook == "notebooks/tiny.ipynb" and stamp.parameters == KNOWN
    assert {"commit", "dirty", "device", "date"} <= set(stamp) and {"python", "numpy"} <= set(stamp.versions)
    assert 0 < stamp.seconds < 120 and str(project) not in nbformat.writes(executed)


def test_plain_line_in_a_terminal(project: Path) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen([PAPERMILL, "notebooks/tiny.ipynb"], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:  # Linux says so that the other end has closed
        pass
    os.close(master)
    assert process.wait(timeout=120) == 0, shown.decode()
    assert printed(project / "runs/notebooks/tiny.ipynb").endswith("mini 0 0.01\n")


def test_module_form_with_piped_input_and_text_numbers_from_yaml(project: Path) -> None:
    words = ["notebooks/tiny.ipynb", "out.ipynb", "-y", "{lr: 1e-3, seed: 7}"]
    subprocess.run([sys.executable, "-m", "papermill", *words], input=b"not a notebook", check=True, timeout=120)
    assert printed(project / "out.ipynb").endswith("mini 7 0.001\n")
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("NB", "NB OUT --engine wsss"),
        ("NB -p seed 3", "NB OUT -p seed 3 --engine wsss"),
        ("--log-output -k python3 NB", "--log-output -k python3 NB OUT --engine wsss"),
        ("NB --engine nbclient", "NB OUT --engine nbclient"),
        ("NB -", "NB - --engine wsss"),
        ("- out.ipynb", "- out.ipynb"),
        ("--help-notebook NB", "--help-notebook NB"),
        ("missing.ipynb", "missing.ipynb"),
        ("", ""),
    ],
)
def test_complete(project: Path, given: str, expected: str) -> None:
    words = {"NB": "notebooks/tiny.ipynb", "OUT": "runs/notebooks/tiny.ipynb"}
    assert plugin.complete([words.get(w, w) for w in given.split()]) == [words.get(w, w) for w in expected.split()]


def test_other_projects_are_left_alone(project: Path) -> None:
    (project / "_config.yml").unlink()
    assert plugin.complete(["notebooks/tiny.ipynb"]) == ["notebooks/tiny.ipynb"]


def test_unknown_parameter_fails_with_the_right_one_and_changes_nothing(project: Path) -> None:
    done = run("-p", "sead", "3")
    assert done.returncode != 0
    assert "no parameter 'sead'; did you mean 'seed'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project / "runs/notebooks").iterdir())


@pytest.mark.parametrize(
    ("name", "value", "settled"),
    [
        ("lr", "1e-3", 0.001),
        ("lr", 1, 1.0),
        ("seed", "1e3", 1000),
        ("preset", 3, "3"),
        ("fast", "true", True),
        ("other", [1], [1]),
    ],
)
def test_values_take_the_type_of_the_default(name: str, value: object, settled: object) -> None:
    (result,) = settle({name: value}, KNOWN).values()
    assert result == settled
    assert type(result) is type(settled)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "many", "takes a whole number, not 'many'"),
        ("seed", True, "takes a whole number, not True"),
        ("lr", "fast", "takes a number"),
        ("fast", "perhaps", "takes true or false"),
        ("zzz", 1, "there are: preset, seed, lr, fast, other"),
    ],
)
def test_impossible_values_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ClickException, match=message):
        settle({name: value}, KNOWN)


def test_failed_run_is_set_aside_and_the_good_one_stays_until_the_next(project: Path) -> None:
    output, failed = project / "runs/notebooks/tiny.ipynb", project / "runs/notebooks/tiny.failed.ipynb"
    output.parent.mkdir(parents=True)
    output.write_bytes(good := b"the good one")
    stopped = run("-p", "seed", "13")
    assert stopped.returncode == 1
    assert "unlucky" in stopped.stderr
    assert "tiny.failed.ipynb" in stopped.stderr
    assert output.read_bytes() == good
    assert "unlucky" in failed.read_text()
    assert run("-p", "seed", "5").returncode == 0
    assert printed(output).endswith("mini 5 0.01\n")
    assert nbformat.read(output, as_version=4).metadata.wsss.parameters == KNOWN | {"seed": 5}
    assert [path.name for path in output.parent.iterdir()] == ["tiny.ipynb"]
