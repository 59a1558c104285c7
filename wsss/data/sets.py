"""Find the known data sets, and tell which of them a folder holds. No torch."""

import os
from functools import cache
from pathlib import Path

from wsss.config import Data
from wsss.data import voc
from wsss.data.names import read_lines
from wsss.paths import UserError, project_root
from wsss.registry import DATASETS, SUPERVISED, title


def root_of(config: Data) -> Path:
    """Return the folder that holds JPEGImages, for training; a missing drawn set is drawn first.

    Raises UserError if there is no such folder, or if a preset with published lists meets another known set.
    """
    root = locate(config)
    known, held = DATASETS.get(config.name), _held(root, config)
    if known and known.lists and held and held[0] != config.name:
        other = held[0]
        raise UserError(
            f"by its lists, {root} holds {title(other)}, but the preset trains on {known.title}: make that with "
            f"`wsss data prepare {known.lists}` and set --data.root or {known.variable} to its folder, or use a "
            f"preset of {other}"
        )
    return root


def locate(config: Data) -> Path:
    """Return the folder that `config` names by root, environment or default, whatever set it holds. Raises
    UserError."""
    known, default = DATASETS.get(config.name), project_root() / "data" / config.name
    if known and known.drawn and not config.root:
        from wsss.data.drawn import generate, twin  # loaded only where a set is drawn

        return twin.draw(default) if known.protocol == "coco" else generate.generate(default, known.splits)
    variable = known.variable if known else ""
    given = "" if config.root else os.environ.get(variable, "")
    root = Path(config.root or given or default)
    if not config.root and not root.is_dir():
        ways = f"set --data.root or {variable}" if variable else "set --data.root"
        made = f", or make it with `wsss data prepare {known.lists}`" if known and known.lists else ""
        raise UserError(
            f"the {config.name} data set was not found: {root} is not a folder; {ways} to the folder that holds "
            f"JPEGImages{made}"
        )
    if not (root / "JPEGImages").is_dir():
        source = variable if given else "--data.root"
        raise UserError(
            f"{root} holds no JPEGImages folder, so it is not a VOC-format root; point {source} at the folder that does"
        )
    return root


def name_of(config: Data, root: Path, *splits: str) -> str:
    """Return the data set's name in records: the preset's if `root` holds that set, else the folder's.

    Classes and lists (or `splits`) tell which set it holds. A folder that bears a known name by chance is called
    own-NAME. SUPERVISED is appended if the run learns from masks.
    """
    held, folder = _held(root, config, *splits), root.resolve().name
    other = f"own-{folder}" if folder in DATASETS and folder not in held else folder
    return (config.name if config.name in held[:1] else other) + SUPERVISED * (config.supervision == "masks")


def _held(root: Path, config: Data, *splits: str) -> list[str]:
    """Return the known sets that have the classes and all ids of the root's lists.

    First comes the set whose lists these are exactly, else the preset's.
    """
    if config.name not in DATASETS or (DATASETS[config.name].drawn and not config.root):
        return [config.name]
    classes = voc.read_classes(root)
    wanted = splits or (config.train_split, config.val_split)
    there = [split for split in wanted if (root / f"ImageSets/Segmentation/{split}.txt").is_file()]
    lists = {split: frozenset(voc.read_ids(root, split)) for split in there}
    fitting = []
    for name, known in DATASETS.items():
        ids = _ids(name)  # none if the project's lists are not at hand
        # The number of classes alone tells nothing: a set without published lists and names fits its own preset only.
        tells = known.drawn or known.lists or known.names or name == config.name
        if (
            tells
            and (known.names or classes) == classes
            and known.classes == len(classes)
            and all(not ids or part <= ids for part in lists.values())
        ):
            exact = all(part == _ids(name, split) for split, part in lists.items())
            fitting.append((not exact, name != config.name, name))
    return [name for *_, name in sorted(fitting)]


def _ids(name: str, split: str = "") -> frozenset[str]:
    """Return the ids of a known set's list (of all its lists without `split`); none for a list that it does not
    have."""
    known = DATASETS[name]
    if known.drawn:
        counts = {split: known.splits.get(split, 0)} if split else known.splits
        return frozenset(f"{part}_{number:05d}" for part, count in counts.items() for number in range(count))
    return _listed(project_root() / "data" / "lists" / known.lists, split or "*")


@cache
def _listed(folder: Path, pattern: str) -> frozenset[str]:
    """Return all lines of a folder's lists; the folder is an argument since the project may change within a process."""
    files = (file for file in folder.glob(f"{pattern}.txt") if file.name != voc.LABEL_FILE)
    return frozenset(line for file in files for line in read_lines(file))
