"""The house's own rules: layers, light imports, sizes, thin notebooks, nothing that only one machine has."""

import ast
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsss

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(wsss.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A module imports only what stands before it, in an earlier row or its own; modules of a sub-package may import one
# another.
ROWS = (
    "wsss batch host paths distributed process provenance registry settings command config schedule presets stored",
    "protocols",
    "report",
    "metrics normalisation optim transforms weights cam alignment contrast energy refine subspace checkpoint",
    "data encoder model datasets",
    "method",
    "tally evaluate finite guards train",
    "inference explore tools",
    "cli __main__",
)
NO_TORCH = [
    *("wsss", "wsss.config", "wsss.paths", "wsss.presets", "wsss.provenance", "wsss.cli", "papermill"),
    *("wsss.report.records", "wsss.report.publish", "wsss.report.cost_tables", "wsss.report.tables"),
    *("wsss.report.statistics", "wsss.report.verdict", "wsss.report.gate"),
    *("wsss.report.figures", "wsss.tools.reproduce", "wsss.explore.payload", "wsss.explore.command"),
    *("wsss.protocols", "wsss.inference.crf", "wsss.inference.commands"),
]
CLOSURE = 2637
"""Lines of code of all modules that `import wsss.method, wsss.datasets` loads: a ceiling that only sinks. The aim is
2,000."""
MANY_ARGUMENTS = """
data.drawn.render.draw_object
evaluate.write_record
refine.segmentation_labels
train.Trainer.__init__
"""
"""Functions of more than five positional arguments. No other may join; one that no longer has so many must leave."""


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


def place(module: str) -> int:
    """Place of a module, or of its sub-package, in ROWS, counted from the start."""
    top, names = module.split(".")[0], " ".join(ROWS).split()
    assert names.count(top) == 1, (
        f"wsss/{module.replace('.', '/')}.py stands in no row of the house; give it one in ROWS"
    )
    return names.index(top)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_only_what_stands_before(file: Path) -> None:
    module = module_name(file)
    for other in imported(file):
        same_package = other.split(".")[0] == module.split(".")[0]
        assert same_package or place(other) < place(module), f"{module} imports {other}, which stands after it in ROWS"


def test_imports_have_no_circle() -> None:
    graph = {module_name(file): imported(file) for file in FILES}
    while free := {module for module, needs in graph.items() if not needs & set(graph)}:
        graph = {module: needs for module, needs in graph.items() if module not in free}
    assert not graph, f"these modules import one another in a circle: {sorted(graph)}"


def test_imports_are_light() -> None:
    """One after the other in one process."""
    heavy = "[name for name in ('torch', 'torchvision', 'timm') if name in sys.modules]"
    lines = (f"import {name}\nif {heavy}: sys.exit('import {name} loads ' + str({heavy}))" for name in NO_TORCH)
    done = subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HELPS = ([], ["--help"], ["evaluate", "--help"], ["explore", "--help"])
HELP = f"""
import sys
from wsss.cli import main
for words in {HELPS}:
    try:
        main(words)
    except SystemExit:
        pass
    print("torch" in sys.modules)
"""


def test_command_line_help_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert not done.stderr and done.stdout.count("usage: wsss") >= len(HELPS)
    assert [line for line in done.stdout.splitlines() if line in ("True", "False")] == ["False"] * len(HELPS)


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


def defined(file: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef, bool]]:
    """Yield every function and class of a file, nested ones too: its dotted name, its node, and whether it is public.
    Public: neither it nor anything around it is private, and it is in no function."""

    def below(node: ast.AST, name: str, public: bool) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef, bool]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from below(child, name, public)
                continue
            seen = public and not child.name.startswith("_")
            yield f"{name}.{child.name}", child, seen
            yield from below(child, f"{name}.{child.name}", seen and isinstance(child, ast.ClassDef))

    return below(ast.parse(file.read_text()), module_name(file), True)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_files_and_functions_are_small_and_break_no_shape_checks(file: Path) -> None:
    text = file.read_text()
    assert code_lines(ast.parse(text), text.splitlines()) <= 250
    for function in functions(file):
        assert code_lines(function, text.splitlines()) <= 45, f"{function.name} is too long"
    assert "from __future__ import annotations" not in text
    assert not re.search(r"from typing import .*\bSelf\b|typing\.Self", text)


def test_functions_are_short_and_take_at_most_five_positional_arguments() -> None:
    many, lengths = set(), []
    for file in FILES:
        source = file.read_text().splitlines()
        for name, node, _ in defined(file):
            if isinstance(node, ast.FunctionDef):
                lengths.append(code_lines(node, source))
                arguments = [a.arg for a in node.args.posonlyargs + node.args.args if a.arg not in ("self", "cls")]
                many |= {name} if len(arguments) > 5 else set()
    assert many == set(MANY_ARGUMENTS.split()) and statistics.median(lengths) <= 10


def test_what_the_method_loads_does_not_grow() -> None:
    code = "import sys, wsss.method, wsss.datasets; print(*(name for name in sys.modules if name.startswith('wsss')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("wsss.") for name in done.stdout.split()}
    files = [file for file in FILES if module_name(file) in loaded]
    assert len(files) == len(loaded) and {"method", "datasets", "model", "config"} <= loaded
    lines = sum(code_lines(ast.parse(file.read_text()), file.read_text().splitlines()) for file in files)
    assert lines <= CLOSURE, "what a step loads has grown; load what it does not need later"
    assert lines > CLOSURE - 100, f"it has shrunk: lower CLOSURE to {lines}"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_what_is_public_is_typed_and_described(file: Path) -> None:
    for name, node, public in defined(file):
        if not public:
            continue
        assert ast.get_docstring(node), f"{name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
            assert node.returns, f"{name} does not say what it returns"
            assert all(a.annotation for a in arguments), f"{name} has an argument without a type"


STOCK = {"asked", "found", "heard", "one", "own", "said", "told", "what", "words"}
"""Names that say nothing about a value."""


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_variables_are_called_after_what_they_hold(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not STOCK & (stored | {node.arg for node in nodes if isinstance(node, ast.arg)})


# Notebooks: thin (their pairs and runs are tested in test_notebooks).


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin(path: Path) -> None:
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    defined = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert not defined, "notebooks call the package; definitions belong there"
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "committed with outputs"
    assert all(len(cell["source"]) <= 15 for cell in cells)


TEXT = {"", *[".py", ".md", ".toml", ".yml", ".yaml", ".json", ".ipynb", ".txt", ".csv", ".cff", ".bib", ".js", ".css"]}
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
