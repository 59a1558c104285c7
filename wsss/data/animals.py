"""`wsss data prepare animals`: the set "VOC 2012 animals, 320 px" from an official VOC 2012 with the masks of SBD.

Photographs with a cat, cow, dog, horse or sheep: 3,131 of train_aug and 300 of val, by the ids of data/lists/animals.
Longest side 320 pixels (Lanczos, JPEG quality 88), masks by nearest pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from wsss.command import parse
from wsss.data import voc
from wsss.data.pictures import write_mask
from wsss.data.prepare_voc import AUG, IDS, MADE, already, read_list
from wsss.paths import UserError, atomic, project_root, write_json

LONGEST, QUALITY = 320, 88
SPLITS = ("train", "train_aug", "val")


@dataclass(frozen=True)
class PrepareAnimals:
    """Build "VOC 2012 animals, 320 px" at OUTPUT from a VOC 2012 as wsss data prepare voc makes it."""

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """The new folder; a set that this command made there before is left as it is."""
    root: Path
    """The folder of VOC 2012 that holds JPEGImages and SegmentationClassAug."""


def run(words: Sequence[str]) -> int:
    """`wsss data prepare animals ...`; returns the exit code. Raises UserError."""
    asked = parse(PrepareAnimals, words, "data prepare animals")
    print(prepare(asked.output, asked.root))
    return 0


def prepare(output: Path, root: Path, ids: Path | None = None) -> str:
    """Build the set, whole or not at all, of the lists in the folder `ids`; returns a summary. Raises UserError."""
    made = {"set": "voc-animals", "partial": ids is not None}
    if output.exists():
        return already(output, made, SPLITS)
    if not (root / "JPEGImages").is_dir() or not (root / AUG).is_dir():
        raise UserError(f"{root} holds no JPEGImages and {AUG}; make them by wsss data prepare voc")
    folder = ids or project_root() / "data" / "lists" / "animals"
    lists = {split: read_list(folder / f"{split}.txt") for split in SPLITS}
    names = sorted({one for members in lists.values() for one in members})
    kit = voc.open_devkit(root)
    if kit.label_source == "masks":
        raise UserError(f"{root} holds neither Annotations nor {voc.LABEL_FILE}; make them by wsss data prepare voc")
    with atomic(output) as scratch:
        for name in ("JPEGImages", AUG, IDS):
            (scratch / name).mkdir(parents=True)
        labels = voc.read_labels(kit, names)
        for name in tqdm(names, desc="read photographs and masks", unit="image", leave=False):
            _reduce(kit, name, scratch)
        for split, members in lists.items():
            (scratch / IDS / f"{split}.txt").write_text("\n".join(members) + "\n")
        rows = (
            " ".join([name, *(kit.classes[k] for k in np.flatnonzero(row))])
            for name, row in zip(names, labels, strict=True)
        )
        (scratch / voc.LABEL_FILE).write_text("\n".join(rows) + "\n")
        write_json(scratch / MADE, made | {"images": {split: len(members) for split, members in lists.items()}})
    return already(output, made, SPLITS)


def reduced(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with the longest side 320, the other rounded to the nearest pixel and at least one."""
    width, height = (max(round(side * LONGEST / max(size)), 1) for side in size)
    return width, height


def _reduce(kit: voc.Devkit, name: str, root: Path) -> None:
    image, values = voc.read_pair(kit, name)
    mask, size = Image.fromarray(values), reduced(image.size)
    image.resize(size, Image.Resampling.LANCZOS).save(root / "JPEGImages" / f"{name}.jpg", quality=QUALITY)
    write_mask(root / AUG / f"{name}.png", np.asarray(mask.resize(size, Image.Resampling.NEAREST)))
