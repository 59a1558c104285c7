"""What every command of the command line shares: parsing by a dataclass."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def parse(kind: Callable[..., T], words: Sequence[str], command: str, default: T | None = None) -> T:
    """`kind`, a dataclass whose docstrings are the help, filled from the words after `wsss COMMAND`."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(words), prog=f"wsss {command}", config=(tyro.conf.FlagConversionOff,), **options)
