"""Provenance of a number, for its record: commit, device, versions, date, and the places a run was trained on. No
torch."""

import contextlib
import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wsss
from wsss.paths import note

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


def stamp() -> dict[str, Any]:
    """Return the commit (and whether files differ from it), device, versions and date."""
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


Place = dict[str, Any]
"""Where a process trained a run: device, threads, commit, and whether files differed from the commit."""


def arrive(places: Sequence[Place], stamp: Mapping[str, Any], threads: int, run: Path) -> list[Place]:
    """Return a run's places with the present one; note on stderr if the run began elsewhere, since its bits then
    differ."""
    here = {name: stamp[name] for name in ("device", "commit", "dirty")} | {"threads": threads}
    if here in places[-1:]:
        return list(places)
    if places:
        was, now = (f"{_named(place)}, commit {place['commit']}" for place in (places[-1], here))
        note(f"note: {run} was trained on {was} and continues on {now}; its record names both")
    return [*places, here]


def made_on(places: Sequence[Place]) -> dict[str, Any]:
    """Return device, threads, commit and dirty for a record, each joined over all places; empty without places."""
    if not places:
        return {}
    threads = {place["threads"] for place in places}
    alike = len(threads) == 1
    return {
        "device": _joined(place["device"] if alike else _named(place) for place in places),
        "threads": threads.pop() if alike else None,  # else `device` names them
        "commit": _joined(place["commit"] for place in places),
        "dirty": any(place["dirty"] for place in places),
    }


def _named(place: Place) -> str:
    return f"{place['device']} with {place['threads']} thread{'s' * (place['threads'] > 1)}"


def _joined(names: Iterable[str]) -> str:
    return ", then ".join(dict.fromkeys(names))


def _git_state() -> tuple[str, bool]:
    """Return the short commit of the package and whether its files were changed; ("none", True) outside git."""
    source = Path(wsss.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return "none", True


def _device() -> str:
    """Return the processor's name and its number of cores. Callers add accelerators."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
