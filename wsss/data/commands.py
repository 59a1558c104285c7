"""`wsss data WHAT`: draw, prepare and look through data sets."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wsss.command import near, parse
from wsss.paths import UserError, project_root

USAGE = """\
usage: wsss data WHAT ...

  mini         draw the mini set
  check ROOT   look through a VOC-format data set

`wsss data WHAT --help` explains each."""


@dataclass(frozen=True)
class DrawMini:
    """Draw the mini set: 1,000 train, 200 val and 200 test images of 128 pixels in VOC format."""

    root: Path = field(default_factory=lambda: project_root() / "data" / "mini")
    """Where it goes; a set that is there already is left as it is."""


@dataclass(frozen=True)
class CheckData:
    """Look through a VOC-format data set: decodes everything its lists name; exit 1 on any fault."""

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """The folder that holds JPEGImages."""
    splits: tuple[str, ...] = ()
    """Lists to look through; empty: all of ImageSets/Segmentation."""


def run(words: Sequence[str]) -> int:
    """`wsss data WHAT ...`; returns the exit code. Raises UserError."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] not in KINDS:
        raise UserError(f"wsss data knows no {words[0]}{near(words[0], KINDS)}; see wsss data --help")
    return KINDS[words[0]](words[1:])


def _mini(words: Sequence[str]) -> int:
    asked = parse(DrawMini, words, "data mini")
    from wsss.data import mini

    print(mini.generate(asked.root))
    return 0


def _check(words: Sequence[str]) -> int:
    asked = parse(CheckData, words, "data check")
    from wsss.data import check

    summary, faults = check.check(asked.root, asked.splits)
    print(summary)
    for fault in faults:
        print(f"wsss: error: {fault}", file=sys.stderr)
    return 1 if faults else 0


KINDS: dict[str, Callable[[Sequence[str]], int]] = {"mini": _mini, "check": _check}
