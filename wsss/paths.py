"""Atomic writes, the project's folder, and the error that a user can act on."""

import difflib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """One clear sentence for the user: what is wrong, where, and what to do."""


class Echo(UserError):
    """Failure of another process, which prints the error itself."""


def is_first() -> bool:
    """Return whether this is the first of torchrun's processes, or the only one: the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def note(sentence: str) -> None:
    """Print a sentence on stderr; of torchrun's processes only the first prints it."""
    if is_first():
        print(f"wsss: {sentence}", file=sys.stderr)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the known word nearest to a mistyped one, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def project_root() -> Path:
    """Return the nearest folder, from the working directory up, with `_config.yml` and `wsss/`, else the package's
    parent."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_config.yml").is_file() and (folder / "wsss").is_dir():
            return folder
    return Path(__file__).resolve().parent.parent


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a scratch path to write a file or folder at; on success it is moved onto `path`, else removed.

    The parent folder is made. A reader of `path` sees the whole old content or the whole new one, never a half. Raises
    UserError if the disk does not allow it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside `path`, since a move is atomic only within one file system.
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error
    try:
        yield scratch / path.name
        os.replace(scratch / path.name, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; existing files are unchanged") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with atomic(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError if the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its name, or make it again") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); replace the file, or make it again") from error
