"""The page 'How to extend' does what it says: its files, changes and commands, on a copy of the package."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import own_set

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "extend.md").read_text()
FENCE = re.compile(r"^```(?:\{code-block\} (\w+))?\n(?::caption: (\S+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of the page: its language, the file that it is or changes, its text."""

    language: str
    file: str
    text: str


BLOCKS = [Block(*found) for found in FENCE.findall(PAGE)]
LOSS = ("wsss/config.py", "wsss/method.py")
"""What the loss alone changes."""


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def commands() -> list[tuple[list[str], str]]:
    """The words after `wsss` of every command, and what it must say; empty: it must succeed."""
    found = []
    for block in BLOCKS:
        lines = block.text.replace("\\\n", "").splitlines()
        if not block.language and lines[0].startswith("wsss "):
            found += [(shlex.split(line)[1:], "") for line in lines]
        elif block.language == "console":
            found += [(shlex.split(line)[2:], said) for line, said in zip(lines[::2], lines[1::2], strict=True)]
    return found


def change(text: str, diff: str) -> str:
    """Apply every hunk of the diff to `text`. The lines it removes, with those around, must be there exactly once."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+").removesuffix("\n")
        new = "".join(line[1:] for line in lines if line[0] != "-").removesuffix("\n")
        assert text.count(old) == 1, f"{text.count(old)} places for\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's files and changes, and a set of images with masks of val alone."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "wsss", copy / "wsss", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "data" / "weights").mkdir(parents=True)
    for file in ("_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / file, copy / file)
    for mask in own_set(copy / "kitchen", names=("knife", "fork")).glob("SegmentationClass/train_*"):
        mask.unlink()
    for block in (block for block in BLOCKS if block.file):
        path = copy / block.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(path.read_text(), block.text) if block.language == "diff" else block.text)
    return copy


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, whose package comes first on the path."""
    environment = os.environ | {"PYTHONPATH": str(project)}
    return subprocess.run([sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True)


def test_every_block_is_known_and_the_page_has_all_kinds():
    layout = [block for block in BLOCKS if not block.language and not block.text.startswith("wsss ")]
    assert len(layout) == 1 and layout[0].text.startswith("kitchen/")
    assert PAGE.count("```") == 2 * len(BLOCKS), "a block of another form is not run"
    assert {block.language for block in BLOCKS} == {"", "text", "diff", "python", "console"}
    assert all(block.file for block in BLOCKS if block.language in ("text", "diff", "python"))
    assert len(commands()) >= 9


def test_the_loss_takes_20_lines():
    """Lines of code that are added or changed, as the house counts them: docstrings and blank lines left out."""
    lines = [line for block in of("diff") if block.file in LOSS for line in block.text.splitlines()]
    added = [line[1:].strip() for line in lines if line.startswith("+")]
    assert len([line for line in added if line and not line.startswith('"""')]) <= 20


def test_the_changed_files_are_in_the_style_of_the_house(project):
    for words in (("check",), ("format", "--check")):
        files = sorted({block.file for block in BLOCKS if block.file.endswith(".py")})
        done = run(project, "-m", "ruff", *words, *files)
        assert done.returncode == 0, done.stdout


DRIVER = """
import contextlib, io, json, sys, torch
torch.set_num_threads(1)
from wsss import cli
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.main(json.loads(line))
    print(json.dumps([code, out.getvalue()]), flush=True)
"""
"""Every command in one process, since each start takes seconds."""


@pytest.mark.slow
def test_the_commands_do_what_the_page_says(project):
    lines = "".join(json.dumps(words) + "\n" for words, _ in commands())
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=project, env=environment, input=lines, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, expected), (code, said) in zip(commands(), answers, strict=True):
        assert code == bool(expected) and expected in said, f"wsss {shlex.join(words)}\n{said}"
    said = {shlex.join(words): text for (words, _), (_, text) in zip(commands(), answers, strict=True)}
    assert "labels from text" in said["data check kitchen"] and "0 faults" in said["data check kitchen"]
    assert all(f"weight {weight}" in said["tables mini-entropy"] for weight in ("0", "0.01", "0.1"))
    assert "0 of 3 runs are finished" in said["sweep smoke-entropy --seeds 0 --only-list True"]
    for variant in ("smoke+entropy.weight=0.1+optim.steps=2", "smoke-entropy+optim.steps=2"):
        rows = [json.loads(row) for row in (project / f"runs/kitchen/{variant}/0/log.jsonl").read_text().splitlines()]
        last = next(row for row in rows if row["step"] == 2 and "weights" in row)
        assert 0 < last["entropy"] < 0.7 and last["weights"]["entropy"] == 0.1


@pytest.mark.slow
def test_the_test_of_the_loss_passes_and_can_fail(project):
    names = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_entropy.py"]
    done = run(project, *names)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout
    path = project / "wsss" / "method.py"
    whole = path.read_text()
    path.write_text(change(whole, "-) & valid[:, None]\n+)\n"))
    assert run(project, *names).returncode == 1, "a loss of padding, too, is not found"
    path.write_text(whole)
