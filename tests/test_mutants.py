"""Named mutants of the method: each changes one fragment of the package, and its test must fail (mutants.tsv)."""

import ast
import csv
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
with open(ROOT / "tests" / "mutants.tsv", newline="") as file:
    MUTANTS = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def run_tests(package: Path, tests: list[str]) -> tuple[int, str]:
    """Exit code and output of pytest with the `wsss` of another folder."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WSSS_SHARED"))}
    quiet |= {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    words = [
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(f"{ROOT}/tests/{test}" for test in tests),
    ]
    done = subprocess.run([sys.executable, *words], env=quiet, cwd=package, capture_output=True, text=True)
    return done.returncode, done.stdout


def copy_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "wsss", folder / "wsss", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", folder)
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_a_mutant_changes_the_code_at_one_place_and_names_a_test(mutant):
    """A change of a comment or of spaces would be none."""
    before = (ROOT / "wsss" / f"{mutant['module']}.py").read_text()
    assert before.count(mutant["old"]) == 1, f"in {mutant['module']}: {mutant['old']!r}"
    changed = before.replace(mutant["old"], mutant["new"])
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(before))
    file, name = mutant["test"].split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()


def test_the_copied_package_is_the_one_that_is_tested(tmp_path):
    package = copy_package(tmp_path)
    (package / "wsss" / "metrics.py").write_text("raise RuntimeError('the copy is loaded')\n")
    code, output = run_tests(package, ["test_metrics.py"])
    assert code and "the copy is loaded" in output


@pytest.mark.slow
def test_every_mutant_is_killed_by_its_test(tmp_path):
    """The same tests pass on a copy of the package with nothing changed."""
    tests = sorted({mutant["test"] for mutant in MUTANTS})
    code, output = run_tests(copy_package(tmp_path / "original"), tests)
    assert code == 0, output

    def outcome(number: int) -> tuple[str, int, str]:
        mutant, package = MUTANTS[number], copy_package(tmp_path / str(number))
        module = package / "wsss" / f"{mutant['module']}.py"
        module.write_text(module.read_text().replace(mutant["old"], mutant["new"]))
        return mutant["name"], *run_tests(package, [mutant["test"]])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        outcomes = list(threads.map(outcome, range(len(MUTANTS))))
    # Exit code 1: a test failed. An error of collection, or no test at all, has another code and is no kill.
    alive = [f"{name} lives:\n{output}" for name, code, output in outcomes if code != 1]
    assert not alive, "\n\n".join(alive)
