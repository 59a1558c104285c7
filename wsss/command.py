"""What every command of the command line shares: parsing by a dataclass, and the nearest name to a mistyped one."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def near(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" with the known word nearest to a mistyped one, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {found[0]}?" if found else ""


def parse(kind: Callable[..., T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """`kind`, a dataclass whose docstrings are the help, filled from the words after `wsss COMMAND`."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(words), prog=f"wsss {command}", config=(tyro.conf.FlagConversionOff,), **options)
