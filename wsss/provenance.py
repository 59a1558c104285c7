"""Commit, device, versions and date of a number, for its record. No torch."""

import contextlib
import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wsss

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


def stamp() -> dict[str, Any]:
    """Collect the commit (and whether files differ from it), device, versions and date."""
    commit, dirty = _git_state()
    versions = {"python": platform.python_version(), "wsss": wsss.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "commit": commit,
        "dirty": dirty,
        "device": _device(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def _git_state() -> tuple[str, bool]:
    """Ask git for the short commit of the package and whether its files were changed; ("none", True) outside git."""
    source = Path(wsss.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return "none", True


def _device() -> str:
    """Name the processor and count its cores. Callers add accelerators."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
