"""`wsss data WHAT`: draw, prepare and look through data sets."""

import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wsss.command import parse
from wsss.paths import UserError, did_you_mean, project_root

USAGE = """\
usage: wsss data WHAT ...

  mini                    draw the mini set
  prepare voc OUTPUT      VOC 2012 with the masks of SBD, from the official archives; --download DIR fetches them
  prepare animals OUTPUT  VOC 2012 animals, 320 px, from a prepared VOC
  prepare coco OUTPUT     COCO in the layout of VOC, from its json files and photographs
  check ROOT              look through a VOC-format data set

`wsss data WHAT --help` explains each."""

PREPARE_USAGE = """\
usage: wsss data prepare voc OUTPUT (--voc PATH --sbd PATH | --download DIR) [--test PATH] [--partial]
       wsss data prepare animals OUTPUT --root ROOT
       wsss data prepare coco OUTPUT ...

Each builds OUTPUT whole or not at all, and leaves a set that it made there before as it is.
`wsss data prepare voc --help` and so on explain each."""
PREPARE = {
    "voc": "wsss.data.prepare_voc",
    "animals": "wsss.data.animals",
    "coco": "wsss.data.prepare_coco",
}
"""Modules with a function run(words), imported when they are asked for."""


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
        raise UserError(f"wsss data knows no {words[0]}{did_you_mean(words[0], KINDS)}; see wsss data --help")
    return KINDS[words[0]](words[1:])


def _mini(words: Sequence[str]) -> int:
    asked = parse(DrawMini, words, "data mini")
    from wsss.data.drawn import generate

    print(generate.generate(asked.root))
    return 0


def _check(words: Sequence[str]) -> int:
    asked = parse(CheckData, words, "data check")
    from wsss.data import check

    summary, faults = check.check(asked.root, asked.splits)
    print(summary)
    for fault in faults:
        print(f"wsss: error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _prepare(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(PREPARE_USAGE)
        return 0 if words else 2
    if words[0] not in PREPARE:
        raise UserError(
            f"wsss data prepare knows no {words[0]}{did_you_mean(words[0], PREPARE)}; see wsss data prepare --help"
        )
    with _stoppable():
        return importlib.import_module(PREPARE[words[0]]).run(words[1:])


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within it SIGTERM, too, removes what is half-written before the process ends."""
    if threading.current_thread() is not threading.main_thread():  # only there can a signal be handled
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


KINDS: dict[str, Callable[[Sequence[str]], int]] = {"mini": _mini, "prepare": _prepare, "check": _check}
