"""Named mutants of the method: each changes one fragment of the package, and its test must fail (mutants.tsv)."""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
with open(ROOT / "tests" / "mutants.tsv", newline="") as file:
    MUTANTS = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
GROUPS = 5
"""Parts of the list, so that several workers share it."""

SERVER = """
import json, os, sys
import hypothesis, pytest, scipy.ndimage, sklearn.metrics, timm, torch, torchvision

for line in sys.stdin:
    package, log, words = json.loads(line)
    if not (child := os.fork()):
        os.chdir(package)
        sys.path.insert(0, package)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *words]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""pytest in a fork for each package, since the imports of torch take longer than a test."""


@contextmanager
def server() -> Iterator[subprocess.Popen]:
    """A process that runs tests with the `wsss` of another folder."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WSSS_SHARED"))}
    quiet |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=quiet, **pipes) as process:
        yield process
        process.stdin.close()


def run_tests(process: subprocess.Popen, package: Path, tests: list[str]) -> tuple[int, str]:
    log = package / "log.txt"
    process.stdin.write(json.dumps([str(package), str(log), [f"{ROOT}/tests/{test}" for test in tests]]) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline()), log.read_text()


def copy_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "wsss", folder / "wsss", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", folder)
    return folder


def test_a_mutant_changes_the_code_at_one_place_and_names_a_test():
    """A change of only a comment or spaces would be no mutant."""
    for mutant in MUTANTS:
        before = (ROOT / "wsss" / f"{mutant['module']}.py").read_text()
        assert before.count(mutant["old"]) == 1, f"in {mutant['module']}: {mutant['old']!r}"
        changed = before.replace(mutant["old"], mutant["new"])
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(before)), mutant["name"]
        file, name = mutant["test"].split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), mutant["test"]


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_mutant_is_killed_by_its_test(group, tmp_path):
    """The same tests pass on a copy of the package with nothing changed."""
    mutants = MUTANTS[group::GROUPS]
    alive = []
    with server() as process:
        code, output = run_tests(process, copy_package(tmp_path / "original"), [mutant["test"] for mutant in mutants])
        assert code == 0, output
        for number, mutant in enumerate(mutants):
            package = copy_package(tmp_path / str(number))
            module = package / "wsss" / f"{mutant['module']}.py"
            module.write_text(module.read_text().replace(mutant["old"], mutant["new"]))
            code, output = run_tests(process, package, [mutant["test"]])
            # Exit code 1: a test failed. An error of collection, or no test at all, has another code and is no kill.
            alive += [] if code == 1 else [f"{mutant['name']} lives:\n{output}"]
    assert not alive, "\n\n".join(alive)
