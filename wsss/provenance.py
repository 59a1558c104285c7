"""Where a number comes from: commit, device, versions, date. No torch."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wsss

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


def stamp() -> dict[str, Any]:
    """Commit (and whether files differ from it), device, versions and date, for a record."""
    commit, dirty = git_state()
    versions = {"python": platform.python_version(), "wsss": wsss.__version__}
    versions.update((name, found) for name in PACKAGES if (found := _version(name)))
    return {
        "commit": commit,
        "dirty": dirty,
        "device": device(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def git_state() -> tuple[str, bool]:
    """Short commit of the package's checkout and whether tracked package files were changed; ("none", True) outside
    git."""
    source = Path(wsss.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return "none", True


def device() -> str:
    """The processor's name and core count; the caller adds accelerators."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
