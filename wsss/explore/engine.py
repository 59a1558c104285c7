"""The files that let a page run a network by itself: ONNX Runtime Web, the graph and its weights. No torch.

The runtime is a package of npm. It is fetched once, checked, kept in the reader's cache and never committed.
"""

import base64
import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss.paths import UserError, atomic, note, sha256

_VERSION = "1.30.0"
_DIGEST = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""sha256 of the package as npm has it."""
_FILES = {
    "runtime": "package/dist/ort.wasm.min.js",
    "module": "package/dist/ort-wasm-simd-threaded.mjs",
    "binary": "package/dist/ort-wasm-simd-threaded.wasm",
}
_PART = 3 << 18
"""Bytes of a part, one MiB in base64; divisible by three, so that each part can be decoded by itself."""


def runtime() -> dict[str, bytes] | None:
    """Read the runtime's files; None, with a note, if they are not in the cache and npm cannot fetch them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsss"
    package = cache / f"onnxruntime-web-{_VERSION}.tgz"
    if not package.is_file() and not _fetch(package):
        note(f"note: pages hold no model: npm could not fetch onnxruntime-web {_VERSION}; they need npm and a network")
        return None
    if sha256(package) != _DIGEST:
        raise UserError(
            f"{package} is not onnxruntime-web {_VERSION} as it was published; remove the file and try again"
        )
    with tarfile.open(package) as archive:
        return {name: archive.extractfile(member).read() for name, member in _FILES.items()}


def _fetch(package: Path) -> bool:
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", f"onnxruntime-web@{_VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=600)
        fetched = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or fetched is None:
            return False
        with atomic(package) as scratch:
            shutil.copyfile(fetched, scratch)
    return True


def pack(graph: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Pack runtime, graph and the weights beside it. Return a description for the page, and the parts, compressed and
    in base64; None without a runtime."""
    files = runtime()
    if files is None:
        return None
    weights = graph.with_suffix(".safetensors")
    files |= {"graph": graph.read_bytes(), "weights": weights.read_bytes()}
    packed, places = b"", {}
    for name, content in files.items():
        compressed = gzip.compress(content, 6, mtime=0)  # without the time: equal content gives equal bytes
        places[name] = [len(packed), len(packed) + len(compressed)]
        packed += compressed
    parts = [base64.b64encode(packed[start : start + _PART]).decode() for start in range(0, len(packed), _PART)]
    described = {"files": places, "bytes": len(packed), "parts": len(parts), "source": "", "weights": weights.name}
    return described, parts


def write(parts: Mapping[Any, str], folder: Path) -> None:
    """Write each part as a script, FOLDER/NAME.js, which a page loads when the reader asks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (folder / f"{name}.js").write_text(f'WsssExplorer.part("{name}","{part}")', encoding="ascii")
