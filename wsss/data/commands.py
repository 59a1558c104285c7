"""`wsss data WHAT`: draw, prepare and look through data sets."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wsss.command import Group
from wsss.paths import project_root

_USAGE = """\
usage: wsss data WHAT ...

  mini                    draw the mini set
  prepare voc OUTPUT      VOC 2012 with the masks of SBD, from the official archives; --download DIR fetches them
  prepare animals OUTPUT  VOC 2012 animals, 320 px, from a prepared VOC
  prepare coco OUTPUT     COCO in the layout of VOC, from its json files and photographs
  check ROOT              check a VOC-format data set for faults

`wsss data WHAT --help` explains each."""
_PREPARE_USAGE = """\
usage: wsss data prepare voc OUTPUT (--voc PATH --sbd PATH | --download DIR) [--test PATH] [--partial]
       wsss data prepare animals OUTPUT --root ROOT
       wsss data prepare coco OUTPUT ...

Each builds OUTPUT whole or not at all. A set that it has made there before stays unchanged.
`wsss data prepare voc --help` and so on explain each."""


@dataclass(frozen=True)
class _DrawMini:
    """Draw the mini set: 1,000 train, 200 val and 200 test images of 128 pixels in VOC format."""

    root: Path = field(default_factory=lambda: project_root() / "data" / "mini")
    """Folder of the set; an existing set is left as it is."""

    def __call__(self) -> str:
        from wsss.data.drawn import generate

        return str(generate.generate(self.root))


@dataclass(frozen=True)
class _CheckData:
    """Look through a VOC-format data set: decode everything its lists name; exit 1 on any fault."""

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """The folder that holds JPEGImages."""
    splits: tuple[str, ...] = ()
    """Lists to look through; empty: all of ImageSets/Segmentation."""

    def __call__(self) -> int:
        from wsss.data import check

        summary, faults = check.check(self.root, self.splits)
        print(summary)
        for fault in faults:
            print(f"wsss: error: {fault}", file=sys.stderr)
        return 1 if faults else 0


_PREPARE = {
    "voc": "wsss.data.prepare:PrepareVoc",
    "animals": "wsss.data.prepare:PrepareAnimals",
    "coco": "wsss.data.coco:PrepareCoco",
}
_COMMANDS = {"mini": _DrawMini, "check": _CheckData, "prepare": Group(_PREPARE_USAGE, _PREPARE)}

DATA = Group(_USAGE, _COMMANDS)
"""The command `wsss data`."""
