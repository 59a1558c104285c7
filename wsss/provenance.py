"""Where a result comes from: hashes of the sources, git, device, versions. No torch.

The stamp lies in the metadata of every executed notebook (`metadata.wsss`); `wsss.reproduce` compares the
same hashes to run again only what changed.
"""

import ast
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
REPORTED = ("wsss", "torch", "torchvision", "timm", "numpy", "pillow", "papermill")


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
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        if file and name not in found:
            found[name] = file
            waiting += imported_names(file.read_text(encoding="utf-8"))
    return files_hash(found.values(), PACKAGE)


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


def git_state(root: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; "none" outside a repository."""
    commit = _output("git", "-C", str(root), "rev-parse", "--short", "HEAD")
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or "none", "dirty": bool(changes)}


def device_name() -> str:
    """The graphics card that a run can see, else the processor and its threads."""
    if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        cards = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
        if cards:
            return cards[0] if len(cards) == 1 else f"{len(cards)} x {cards[0]}"
    return f"{_processor()}, {_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; absent ones are left out."""
    installed = {name: version for name in REPORTED if (version := _version(name))}
    return {"python": platform.python_version()} | installed


def stamp(root: Path) -> dict[str, Any]:
    """All of the above for a run that starts now in the project at root."""
    return {
        "package": package_hash(),
        **git_state(root),
        "device": device_name(),
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _threads() -> int:
    """Threads this process may use; the whole machine's where the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Linux keeps the processor's name in /proc only; elsewhere platform knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """Standard output of a command; empty if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
