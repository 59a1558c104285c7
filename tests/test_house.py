"""The house's own rules: layers, light imports, sizes, thin notebooks, nothing that only one machine has."""

import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import wsss

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(wsss.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A module imports only lower rows; modules of one sub-package may import one another.
ROWS = (
    "wsss batch command compat config distributed interrupt memory settings intervals paths provenance "
    "presets renamed stored",
    "alignment cam checkpoint contrast crf energy losses metrics optim refine subspace transforms weights "
    "benches figures origins publish published results table",
    "datasets encoder model normalisation data",
    "method",
    "experiments",
    "ablation costs elements evidence gpu sweep tables tries verdict",
    "evaluate explore inference predict pretrain runs scoring tally train reproduce tools workload",
    "cli __main__",
)
NO_TORCH = [
    *("wsss", "wsss.config", "wsss.paths", "wsss.presets", "wsss.provenance", "wsss.results", "wsss.publish"),
    *("wsss.gpu", "wsss.tables", "wsss.verdict", "wsss.figures", "wsss.reproduce", "wsss.cli", "papermill"),
    *("wsss.explore.payload", "wsss.explore.command"),
]
METHOD = (
    "batch compat config settings distributed alignment cam checkpoint contrast energy losses metrics optim refine "
    "subspace transforms datasets encoder normalisation model method"
)


def module_name(file: Path) -> str:
    """Dotted name below wsss: `data.mini`; `wsss` for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "wsss"


def imported(file: Path) -> set[str]:
    """Modules of this package that file imports, wherever in it: `data.mini`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    known = {module_name(other) for other in FILES}
    return {name.removeprefix("wsss.") for name in names if name.startswith("wsss.")} & known


def row(module: str) -> int:
    """Number of the row that a module, or the sub-package it lies in, stands in."""
    top = module.split(".")[0]
    rows = [number for number, names in enumerate(ROWS) if top in names.split()]
    assert rows, f"wsss/{module.replace('.', '/')}.py stands in no row of the house; give it one in ROWS"
    return rows[0]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_only_lower_rows(file: Path) -> None:
    module = module_name(file)
    for other in imported(file):
        same_package = other.split(".")[0] == module.split(".")[0]
        assert same_package or row(other) <= row(module), f"{module} imports {other}, which stands above it"


def test_imports_have_no_circle() -> None:
    graph = {module_name(file): imported(file) for file in FILES}
    while free := {module for module, needs in graph.items() if not needs & set(graph)}:
        graph = {module: needs for module, needs in graph.items() if module not in free}
    assert not graph, f"these modules import one another in a circle: {sorted(graph)}"


@pytest.mark.parametrize("module", NO_TORCH)
def test_import_is_light(module: str) -> None:
    heavy = "[name for name in ('torch', 'torchvision', 'timm') if name in sys.modules]"
    code = f"import sys, {module}; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"import {module} loads {done.stderr}"


def test_command_line_help_is_light() -> None:
    code = "import sys; from wsss.cli import main; main([]) ; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "'torch'" not in done.stderr
    assert done.returncode in (0, 1, 2)


# Sizes.


def code_lines(node: ast.AST, source: list[str]) -> int:
    """Lines of code of a function or module: blank lines, comments and docstrings left out."""
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(source))
    skipped: set[int] = set()
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                skipped |= set(range(statement.lineno, statement.end_lineno + 1))
    lines = (source[n - 1].strip() for n in range(first, last + 1) if n not in skipped)
    return sum(bool(line) and not line.startswith("#") for line in lines)


def functions(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_and_functions_are_small(file: Path) -> None:
    source = file.read_text().splitlines()
    assert code_lines(ast.parse(file.read_text()), source) <= 250
    for function in functions(file):
        assert code_lines(function, source) <= 45, f"{function.name} is too long"
        assert len(function.args.args) <= 7, f"{function.name} takes too many positional arguments"


def test_median_function_is_short_and_the_method_fits_in_2000_lines() -> None:
    lengths = [code_lines(f, file.read_text().splitlines()) for file in FILES for f in functions(file)]
    assert statistics.median(lengths) <= 10
    path = [file for file in FILES if module_name(file) in METHOD.split()]
    assert len(path) == len(METHOD.split())
    assert sum(code_lines(ast.parse(file.read_text()), file.read_text().splitlines()) for file in path) <= 2000


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_public_functions_are_typed_and_described(file: Path) -> None:
    for function in functions(file):
        if not function.name.startswith("_"):
            arguments = [a for a in function.args.args + function.args.kwonlyargs if a.arg not in ("self", "cls")]
            assert function.returns, f"{function.name} does not say what it returns"
            assert all(a.annotation for a in arguments), f"{function.name} has an argument without a type"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_nothing_that_breaks_the_shape_checks(file: Path) -> None:
    text = file.read_text()
    assert "from __future__ import annotations" not in text
    assert not re.search(r"from typing import .*\bSelf\b|typing\.Self", text)


# Notebooks: thin (their pairs and runs are tested in test_notebooks).


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin(path: Path) -> None:
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    defined = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert not defined, "notebooks call the package; definitions belong there"
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "committed with outputs"
    assert all(len(cell["source"]) <= 15 for cell in cells)


# One machine's traces.

TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".json",
    ".ipynb",
    ".txt",
    ".csv",
    ".cff",
    ".bib",
    ".js",
    ".css",
    "",
}
LOCAL = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|tmp)/\w")


def tracked() -> list[Path]:
    """Files under version control; without git, all files of the folders that hold sources."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    folders = ("wsss", "tests", "book", "notebooks", "data")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_no_local_paths() -> None:
    found = []
    for path in tracked():
        if path.suffix in TEXT and path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {m}" for m in LOCAL.findall(path.read_text(errors="replace"))]
    assert not found, f"paths of one machine in {found}"


def test_what_is_ignored_and_what_is_not() -> None:
    def ignored(name: str) -> bool:
        done = subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", name], capture_output=True)
        return done.returncode == 0

    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("no git repository here")
    assert all(map(ignored, ("runs/x", "_build/x", ".venv/x", "data/mini/x", "data/downloads/x")))
    assert not any(map(ignored, ("book/runs/x.ipynb", "data/results/mini/mini/0.json", "data/weights/x")))
