"""`wsss data prepare coco`: the official COCO 2014 or 2017, or a part of it, in VOC format."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wsss.command import parse
from wsss.data import coco, voc
from wsss.data.instances import number_of
from wsss.paths import UserError, project_root
from wsss.registry import DATASETS

SPLITS, YEARS = ("train", "val"), (2014, 2017)
COUNTS = DATASETS["coco"].splits
"""Images of 2014 with an object, as in the published lists. For 2017 there is no list to compare with."""
PART = COUNTS["val_part"]
"""Length of val_part, the beginning of val, on which the base evaluates while it trains."""
FILE = re.compile(r"instances_(train|val)(2014|2017)\.json")


@dataclass(frozen=True)
class PrepareCoco:
    """COCO 2014 (or 2017) in VOC format: index PNGs of 81 classes, image labels and the lists train, val and val_part.

    Classes are numbered 1 to 80 in the official order. A smaller object is painted over a larger one. Crowd regions are
    painted first, under every object, and make no image labels (crowds.txt names the classes that an image shows as a
    crowd only). Images without objects are left out, which leaves 82,081 and 40,137 of 2014. Ids are numbers:
    000000000042 for COCO_val2014_000000000042.jpg, and files in OUTPUT are named after them. Photographs are
    hard-linked where the disk allows it, else copied.

    OUTPUT grows as OUTPUT.partial and appears when it is whole; the same words go on after an interruption, and leave
    a finished OUTPUT as it is. Reading train2014 needs about 3 GB of memory.
    """

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """Where the set goes; give it to --data.root of wsss train coco."""
    annotations: tuple[Path, ...]
    """Folder of instances_train2014.json and instances_val2014.json (or 2017), or these files."""
    images: Path
    """Folder that holds train2014 and val2014 (or 2017), or the photographs themselves."""
    year: Literal[2014, 2017] | None = None
    """Needed where the folder of annotations holds both."""
    workers: int | None = None
    """Processes that rasterise beside this one; 0: none. None: one a core."""
    partial: bool = False
    """Take any part of COCO, one split alone too: images and classes are not counted. The word alone will do."""


def run(words: Sequence[str]) -> int:
    """`wsss data prepare coco ...`; returns the exit code. Raises UserError."""
    asked = parse(PrepareCoco, words, "data prepare coco")
    if (asked.workers or 0) < 0:
        raise UserError(f"--workers is {asked.workers}; give a number of processes, 0 for none, or None for one a core")
    year, annotations = find(asked.annotations, asked.year, asked.partial)
    folders = {split: asked.images / f"{split}{year}" for split in annotations}
    images = {split: folder if folder.is_dir() else asked.images for split, folder in folders.items()}

    def lists(ids: coco.Ids) -> coco.Ids:
        if not asked.partial:
            require_whole(ids, year)
        return ids | {"val_part": ids["val"][:PART]} if "val" in ids else ids

    try:
        print(coco.prepare(annotations, images, asked.output, asked.workers, lists))
    except (KeyboardInterrupt, SystemExit):
        print(f"wsss: what is finished stays in {asked.output}.partial; the same words go on from it", file=sys.stderr)
        raise
    return 0


def find(paths: Sequence[Path], year: int | None, partial: bool) -> tuple[int, dict[str, Path]]:
    """The year and its instances files by split, train first. Raises UserError where they are not clear or not all."""
    files = [file for path in paths for file in (sorted(path.glob("instances_*.json")) if path.is_dir() else [path])]
    named = [(match, file) for file in files if (match := FILE.fullmatch(file.name))]
    years = {int(match[2]) for match, _ in named} & ({year} if year else set(YEARS))
    given = " ".join(map(str, paths))
    if not years:
        kind = year or "(2014 or 2017)"
        raise UserError(f"there is no instances_train{kind}.json nor instances_val{kind}.json in {given or 'nothing'}")
    if len(years) > 1:
        raise UserError(f"{given} holds annotations of 2014 and of 2017; choose by --year")
    chosen = years.pop()
    found = {match[1]: file for match, file in sorted(named, key=str) if int(match[2]) == chosen}
    for split in SPLITS:
        if split not in found and not partial:
            raise UserError(
                f"instances_{split}{chosen}.json is not in {given}; give it, or --partial to do without a split"
            )
    return chosen, {split: found[split] for split in SPLITS if split in found}


def require_whole(ids: coco.Ids, year: int) -> None:
    """Raises UserError unless the splits of 2014 have the published counts and, where the project has a list, its ids;
    those of 2017 are taken as they are."""
    for split in SPLITS if year == 2014 else ():
        count = COUNTS[split]
        if len(ids[split]) != count:
            raise UserError(
                f"{split}{year} has {len(ids[split])} images with an object, but should have {count}; download the "
                "annotations again, or give --partial to prepare a part of COCO"
            )
        path = project_root() / "data" / "lists" / "coco" / f"{split}.txt"
        if path.is_file():
            differ = {number_of(name) for name in voc.read_lines(path)} ^ set(ids[split])
            if differ:
                raise UserError(
                    f"{len(differ)} images of {split}2014 are not the published ones in {path}, first {min(differ)}; "
                    "download the annotations again, or give --partial"
                )
