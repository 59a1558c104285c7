"""Hashes of what a result was made from: notebooks, modules, files. No torch.

Executed notebooks carry them in their metadata; `wsss.tools.reproduce` compares them to run only what changed.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import wsss
from wsss.report import results

PACKAGE = Path(wsss.__file__).resolve().parent


def source_hash(notebook: Mapping[str, Any]) -> str:
    """sha256 of a notebook's cells, kind and text: outputs, metadata and injected parameters left out."""
    digest = hashlib.sha256()
    for cell in notebook["cells"]:
        if "injected-parameters" not in cell["metadata"].get("tags", []):
            text = "".join(cell["source"])  # on disk a list of lines, in nbformat one string
            digest.update(f"{cell['cell_type']}\0{text}\0".encode())
    return digest.hexdigest()


def files_hash(files: Iterable[Path], root: Path) -> str:
    """sha256 of names (relative to root) and contents of files, in sorted order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


@cache
def package_hash() -> str:
    """sha256 of all the package's modules."""
    return files_hash(PACKAGE.rglob("*.py"), PACKAGE)


def code_hash(*names: str) -> str:
    """sha256 of the named modules of this package and of those they import, to any depth.

    A change to a module that a run does not use leaves its hash as it is. `names` are dotted
    (`wsss.train`); a name that is no module of this package counts nothing.
    """
    return files_hash(code_files(*names), PACKAGE)


def code_files(*names: str) -> list[Path]:
    """Files of the named modules of this package and of those they import, to any depth."""
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        if file and name not in found:
            found[name] = file
            waiting += imported_names(file.read_text(encoding="utf-8"))
    return list(found.values())


def records(*roots: Path) -> dict[str, str]:
    """sha256 of each record that `results.find` takes from these folders, by DATASET/VARIANT/NAME."""
    found = [Path(record["path"]) for record in results.find(*roots)]
    names = ["/".join((*path.parts[-3:-1], path.stem)) for path in found]
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in zip(names, found, strict=True)}


def notebook_imports(path: Path) -> list[str]:
    """Dotted names that a notebook's code cells import from this package."""
    return code_imports(json.loads(path.read_text(encoding="utf-8")))


def code_imports(notebook: Mapping[str, Any]) -> list[str]:
    """The same of a notebook that is read already."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return imported_names("\n".join(code))


def imported_names(source: str) -> list[str]:
    """Dotted names that Python source imports from this package: `from wsss import train` gives both."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def _module_file(name: str) -> Path | None:
    """File of a module or package of ours; None for anything else."""
    base = PACKAGE.parent.joinpath(*name.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)
