"""Look through a VOC-format data set: everything its lists name is decoded, every fault is named."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import voc
from wsss.data.instances import CROWD_FILE
from wsss.data.pool import spread
from wsss.data.vocformat import voc_palette
from wsss.paths import UserError

MOST = 100
"""How many faults are named; the rest are counted."""
PAYS = 1000
"""From so many images on, several processes are worth their start."""
_PALETTE = bytes(voc_palette())


@dataclass(frozen=True)
class Item:
    """One image to look at, with what texts of the set say of it."""

    name: str
    labels: list[str] | None
    """Its line of image_labels.txt; None without one, or where labels come from elsewhere."""
    crowds: list[str]
    """Classes that its mask may show without a label (crowds.txt)."""
    need_mask: bool
    need_labels: bool
    """Unless only lists of test images name it."""


@dataclass
class Found:
    """What one image holds."""

    name: str
    labels: set[str] | None = None
    pixels: dict[int, int] | None = None
    """How many pixels have a value, of the values in the mask; None without a mask that can be read."""
    digest: str = ""
    """Of the photograph's pixels."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Kinds of what is odd, but no fault."""


def check(root: Path, splits: Sequence[str] = ()) -> tuple[str, list[str]]:
    """A summary with notes and a class histogram, and one sentence a fault (at most MOST, and how many more).

    Lists whose names begin with train are trained on, unless the name holds val, too (trainval); those that begin with
    val or test are evaluated on. Faults: lists, photographs, masks or labels that cannot be read; sizes and values that
    are wrong; pixels of a class that the image labels do not name; a mask missing in a val list; images or photographs
    that are both trained and evaluated on. Notes: labels without pixels (annotations of VOC name objects that its masks
    lack), other palettes, masks missing elsewhere, test images without labels, files that no list names. Raises
    UserError where there is nothing to check.
    """
    kit = voc.open_devkit(root)
    ids, faults = _lists(root, splits)
    items, orphans = _items(kit, ids)
    faults += orphans
    look = spread(partial(_look, kit), items, 0 if len(items) >= PAYS else 1)
    found = list(tqdm(look, "check", len(items), unit="image", leave=False))
    faults += [fault for one in found for fault in one.faults]
    faults += _shared(ids) + _same_photographs(ids, found)
    summary = "\n".join([*_head(kit, ids), *_histogram(kit, found), *_notes(kit, ids, found, not splits)])
    named = faults[:MOST] + ([f"... and {len(faults) - MOST} more"] if len(faults) > MOST else [])
    return f"{summary}\n{len(faults)} faults", named


def _lists(root: Path, splits: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Ids by list, and the faults of lists that cannot be used."""
    names = splits or sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not names:
        raise UserError(f"{root}/ImageSets/Segmentation holds no list; put one image id on each line of a NAME.txt")
    ids, faults = {}, []
    for name in names:
        try:
            ids[name] = voc.read_ids(root, name)
        except UserError as error:
            faults.append(str(error))
    return ids, faults


def _trained(name: str) -> bool:
    return name.startswith("train") and "val" not in name


def _evaluated(name: str) -> bool:
    return name.startswith(("val", "test"))


def _items(kit: voc.Devkit, ids: dict[str, list[str]]) -> tuple[list[Item], list[str]]:
    """Every listed image once, and faults of the label file as a whole."""
    tables, faults = {}, []
    for name in (voc.LABEL_FILE, CROWD_FILE):
        rows = [line.split() for line in voc.read_lines(kit.root / name)] if (kit.root / name).exists() else []
        tables[name] = {row[0]: row[1:] for row in rows}
        twice = [one for one, count in Counter(row[0] for row in rows).items() if count > 1]
        if twice:
            faults.append(f"{kit.root / name} names {len(twice)} images more than once, first {twice[0]}")
    labels = tables[voc.LABEL_FILE] if kit.label_source == "text" else {}
    masked = {name for key, split in ids.items() if key.startswith("val") and kit.mask_source for name in split}
    labelled = {name for key, split in ids.items() if not key.startswith("test") for name in split}
    names = sorted({name for split in ids.values() for name in split})
    items = [
        Item(one, labels.get(one), tables[CROWD_FILE].get(one, []), one in masked, one in labelled) for one in names
    ]
    return items, faults


def _look(kit: voc.Devkit, item: Item) -> Found:
    """All that is wrong, odd or to be counted about one image."""
    found = Found(item.name)
    size = None
    try:
        image = voc.read_image(voc.image_file(kit.root, item.name))
        size, found.digest = image.size, hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    except UserError as error:
        found.faults.append(str(error))
    _look_at_mask(kit, item, found, size)
    shown: set[str] = set()
    if found.pixels is not None:
        shown = {kit.classes[value - 1] for value in found.pixels if 0 < value <= len(kit.classes)}
    if kit.label_source == "masks":
        found.labels = shown if found.pixels is not None else None
        return found
    if not item.need_labels and not _has_labels(kit, item):
        found.notes.append("test images have no image labels")
        return found
    _look_at_labels(kit, item, found)
    if found.pixels is None or found.labels is None:
        return found
    if extra := shown - found.labels - set(item.crowds):
        path = kit.root / kit.mask_source / f"{item.name}.png"
        found.faults.append(
            f"the mask {path} shows {_names(kit, extra)}, which the image labels of {item.name} do not name"
        )
    if found.labels - shown:
        found.notes.append("images have a label that their mask does not show")
    return found


def _look_at_mask(kit: voc.Devkit, item: Item, found: Found, size: tuple[int, int] | None) -> None:
    """Its pixels by value; faults of its mode, size and values."""
    path = kit.root / kit.mask_source / f"{item.name}.png"
    if not kit.mask_source or not path.is_file():
        if item.need_mask or (item.need_labels and kit.label_source == "masks"):
            found.faults.append(f"image {item.name} has no mask: {path} does not exist")
        else:
            found.notes.append("images have no mask")
        return
    try:
        mask = voc.read_mask(path, None, IGNORE)
    except UserError as error:
        found.faults.append(str(error))
        return
    if size and mask.shape[::-1] != size:
        found.faults.append(f"the mask {path} is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[0]}x{size[1]}")
    values, counts = np.unique(mask, return_counts=True)
    found.pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    wrong = [value for value in found.pixels if len(kit.classes) < value != IGNORE]
    if wrong:
        them = f"the value{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong))}"
        found.faults.append(f"the mask {path} holds {them}, but only 0..{len(kit.classes)} and {IGNORE} have a meaning")
    with Image.open(path) as image:
        palette = bytes(image.palette.palette) if image.palette else _PALETTE
    if palette != _PALETTE[: len(palette)]:
        found.notes.append("masks have a palette other than VOC's")


def _has_labels(kit: voc.Devkit, item: Item) -> bool:
    if kit.label_source == "annotations":
        return (kit.root / "Annotations" / f"{item.name}.xml").exists()
    return item.labels is not None


def _look_at_labels(kit: voc.Devkit, item: Item, found: Found) -> None:
    """Its image labels from annotations or text; faults of them."""
    if kit.label_source == "annotations":
        try:
            row = voc.read_labels(kit, [item.name])[0]
            found.labels = {kit.classes[k] for k in np.flatnonzero(row)}
        except UserError as error:
            found.faults.append(str(error))
        return
    source = kit.root / voc.LABEL_FILE
    if item.labels is None:
        found.faults.append(f"image {item.name} has no line in {source}")
        return
    unknown = [label for label in item.labels if label not in kit.classes]
    for label in unknown:
        found.faults.append(f"{source} gives image {item.name} the class {label!r}, which is not among the classes")
    found.labels = set(item.labels) - set(unknown)


def _names(kit: voc.Devkit, chosen: Iterable[str]) -> str:
    return ", ".join(sorted(chosen, key=kit.classes.index))


def _shared(ids: dict[str, list[str]]) -> list[str]:
    """Images that a training list shares with an evaluation list."""
    training = {one for name, split in ids.items() if _trained(name) for one in split}
    return [
        f"{len(both)} images of the list {name} are also trained on, first {min(both)}; take them out of one list"
        for name, split in ids.items()
        if _evaluated(name) and (both := training & set(split))
    ]


def _same_photographs(ids: dict[str, list[str]], found: Sequence[Found]) -> list[str]:
    """Photographs, equal to the pixel, that are trained and evaluated on under different ids."""
    training = {one for name, split in ids.items() if _trained(name) for one in split}
    evaluation = {one for name, split in ids.items() if _evaluated(name) for one in split}
    groups: dict[str, list[str]] = defaultdict(list)
    for one in found:
        if one.digest:
            groups[one.digest].append(one.name)
    return [
        f"image {one}, which is trained on, and image {other}, which is evaluated on, are the same photograph"
        for group in groups.values()
        for one in group
        for other in group
        if one != other and one in training and other in evaluation and not {one, other} <= training & evaluation
    ]


def _head(kit: voc.Devkit, ids: dict[str, list[str]]) -> list[str]:
    lists = ", ".join(f"{name} {len(rows)}" for name, rows in ids.items())
    return [f"{kit.root}: {lists}; labels from {kit.label_source}, masks from {kit.mask_source or 'nowhere'}"]


def _histogram(kit: voc.Devkit, found: Sequence[Found]) -> list[str]:
    """Images by label and, where there are masks, pixels by class with their share of what is not ignored."""
    images = Counter(label for one in found for label in one.labels or ())
    rows = [f"  {name:16} {images[name]:6} images" for name in kit.classes]
    masks = [one.pixels for one in found if one.pixels is not None]
    if not masks:
        return rows
    pixels: Counter[int] = Counter()
    for mask in masks:
        pixels.update(mask)
    known = max(pixels.total() - pixels[IGNORE], 1)
    first, *others = (f"{pixels[k]:12} pixels {pixels[k] / known:8.2%}" for k in range(len(kit.classes) + 1))
    rows = [f"{row} {counts}" for row, counts in zip(rows, others, strict=True)]
    return [f"  {'background':16} {'':13} {first}", *rows, f"  {'ignored':16} {'':13} {pixels[IGNORE]:12} pixels"]


def _notes(kit: voc.Devkit, ids: dict[str, list[str]], found: Sequence[Found], everything: bool) -> list[str]:
    """What is odd, but no fault, with counts; files that no list names only where all lists were looked through."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for one in found:
        for kind in one.notes:
            kinds[kind].append(one.name)
    if everything:
        listed = {name for split in ids.values() for name in split}
        for folder in filter(None, ("JPEGImages", kit.mask_source)):
            stems = {path.stem for path in (kit.root / folder).iterdir() if path.is_file()}
            kinds[f"files of {folder} are in no list"] = sorted(stems - listed)
    return [f"note: {len(names)} {kind}, first {names[0]}" for kind, names in sorted(kinds.items()) if names]
