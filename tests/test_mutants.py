"""The table of mutants: every fragment is there, and every mutant is killed by its test."""

import ast
import json
import os
import subprocess
import sys

import pytest
from mutants import MUTANTS, ORIGINAL, ROOT, Mutant, source


def functions_of(file: str) -> set[str]:
    """Names of the test functions of a file below tests/."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_mutants_have_names_of_their_own_and_cover_the_method():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    modules = "cam contrast subspace alignment refine energy losses metrics optim model method"
    assert {mutant.module for mutant in MUTANTS} == set(modules.split())
    assert len({(mutant.module, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_the_code_at_one_place_and_names_a_test(mutant: Mutant):
    """A change of a comment or of spaces would be none."""
    before = source(mutant.module)
    assert before.count(mutant.old) == 1, f"in {mutant.module}: {mutant.old!r}"
    assert ast.dump(ast.parse(before.replace(mutant.old, mutant.new))) != ast.dump(ast.parse(before))
    file, name = mutant.test.split("::")
    assert name in functions_of(file)


@pytest.mark.slow
def test_every_mutant_is_killed_by_its_test(tmp_path):
    """And all these tests pass on a copy of the package with nothing changed. A test must fail in its own call, with
    the changed module loaded: an error on the way there is no kill."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WSSS_SHARED"))}
    quiet |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, str(ROOT / "tests" / "mutants.py"), str(tmp_path)]
    done = subprocess.run(words, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    original, *outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert (original["name"], original["code"], original["own"]) == (ORIGINAL, 0, True), original["output"]
    assert sorted(outcome["name"] for outcome in outcomes) == sorted(mutant.name for mutant in MUTANTS)
    alive = {one["name"]: one["output"] for one in outcomes if one["code"] != 1 or one["failed"][0][1] != "call"}
    assert not alive, "\n\n".join(f"{name} lives:\n{output}" for name, output in alive.items())
    assert all(outcome["own"] for outcome in outcomes)
