"""Look through a VOC-format data set: everything its lists name is decoded, every fault is named."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import names, pictures, voc
from wsss.data.instances import CROWD_FILE
from wsss.data.pool import spread
from wsss.paths import UserError

MOST = 100
"""How many faults are named; the rest are counted."""
PAYS = 1000
"""From so many images on, several processes are worth their start."""
_PALETTE = bytes(pictures.VOC_PALETTE)


@dataclass(frozen=True)
class Item:
    """One image to look at, with what texts of the set say of it."""

    name: str
    labels: str | None
    """Its line of image_labels.txt; None without one, or where labels come from elsewhere."""
    crowds: str
    """Classes that its mask may show without a label: its line of crowds.txt."""
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
    val or test are evaluated on. Faults: lists, photographs, masks or labels that cannot be read; sizes, values and
    palettes that are wrong; pixels of a class that the image labels do not name; a mask missing in a val list; images
    or photographs that are both trained and evaluated on; training images without any label; a class that is evaluated
    on and that no training image has; masks to evaluate on without any class. Notes: labels without pixels (annotations
    of VOC name objects that its masks lack), other palettes, photographs of more than 8 bits, masks missing elsewhere,
    test images without labels, classes that no image has, files that no list names. Raises UserError where there is
    nothing to check.
    """
    kit = voc.open_devkit(root)
    ids, faults = _lists(root, splits)
    items, orphans = _items(kit, ids)
    faults += orphans
    look = spread(partial(_look, kit), items, None if len(items) >= PAYS else 0)
    found = list(tqdm(look, "check", len(items), unit="image", leave=False))
    faults += [fault for one in found for fault in one.faults]
    faults += _shared(ids) + _same_photographs(ids, found) + _degenerate(kit, ids, found)
    summary = "\n".join([*_head(kit, ids), *_histogram(kit, found), *_notes(kit, ids, found, not splits)])
    named = faults[:MOST] + ([f"... and {len(faults) - MOST} more"] if len(faults) > MOST else [])
    return f"{summary}\n{len(faults)} faults", named


def _lists(root: Path, splits: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Ids by list, and the faults of lists that cannot be used."""
    wanted = splits or voc.list_names(root)
    if not wanted:
        raise UserError(f"{root}/ImageSets/Segmentation holds no list; put one image id on each line of a NAME.txt")
    ids, faults = {}, []
    for name in wanted:
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
    tables: dict[str, dict[str, str]] = {voc.LABEL_FILE: {}, CROWD_FILE: {}}
    faults = []
    for name in tables:
        if (kit.root / name).exists():
            tables[name], twice = voc.text_labels(kit, name)
            faults += [twice] if twice else []
    labels = tables[voc.LABEL_FILE] if kit.label_source == "text" else {}
    masked = {name for key, split in ids.items() if key.startswith("val") and kit.mask_source for name in split}
    labelled = {name for key, split in ids.items() if not key.startswith("test") for name in split}
    items = [
        Item(one, labels.get(one), tables[CROWD_FILE].get(one, ""), one in masked, one in labelled)
        for one in sorted({name for split in ids.values() for name in split})
    ]
    return items, faults


def _look(kit: voc.Devkit, item: Item) -> Found:
    """All that is wrong, odd or to be counted about one image."""
    found = Found(item.name)
    photograph = None
    try:
        photograph = voc.image_file(kit.root, item.name)
        image, deep = pictures.open_photograph(photograph)
        found.digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        found.notes += [pictures.DEEP] * deep
        twins = _same_id(kit.root / "JPEGImages", item.name)
        found.notes += ["images have two photographs: .jpg and Unicode's composed form count"] * (twins > 1)
        _look_at_mask(kit, item, found, (image.size, photograph))
    except UserError as error:
        found.faults.append(str(error))
        _look_at_mask(kit, item, found, None)
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
    if extra := shown - found.labels - _crowds(kit, item, found):
        path = kit.root / kit.mask_source / f"{item.name}.png"
        found.faults.append(
            f"the mask {path} shows {_names(kit, extra)}, which the image labels of {item.name} do not name"
        )
    if found.labels - shown:
        found.notes.append("images have a label that their mask does not show")
    return found


def _same_id(folder: Path, name: str) -> int:
    """Number of photographs of an id, by suffix and Unicode form; some file systems hold the forms for one."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    paths = [folder / (form + suffix) for form in forms for suffix in names.PHOTOGRAPHS]
    return len({path.stat().st_ino for path in paths if path.is_file()})


def _crowds(kit: voc.Devkit, item: Item, found: Found) -> set[str]:
    """Classes that crowds.txt allows the mask to show."""
    try:
        return set(names.parse_classes(item.crowds, kit.classes))
    except ValueError as error:
        found.faults.append(f"{kit.root / CROWD_FILE} gives image {item.name} {error}")
        return set()


def _look_at_mask(kit: voc.Devkit, item: Item, found: Found, photo: tuple[tuple[int, int], Path] | None) -> None:
    """Its pixels by value; faults of its kind, size, values and palette. `photo`: size and file of the photograph."""
    try:
        path = voc.mask_file(kit, item.name)
    except UserError as error:
        if item.need_mask or (item.need_labels and kit.label_source == "masks"):
            found.faults.append(str(error))
        else:
            found.notes.append("images have no mask")
        return
    try:
        mask, palette = pictures.read_index(path)
    except UserError as error:
        found.faults.append(str(error))
        return
    values, counts = np.unique(mask, return_counts=True)
    found.pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    packed = pictures.palette_fault(path, mask, palette, len(kit.classes))
    size = pictures.size_fault(path, mask, *photo) if photo else ""
    found.faults += filter(None, (size, pictures.value_fault(path, mask, len(kit.classes)), packed))
    colours = palette.astype(np.uint8).tobytes()
    if colours != _PALETTE[: len(colours)] and not packed:
        found.notes.append("masks have a palette other than VOC's")


def _has_labels(kit: voc.Devkit, item: Item) -> bool:
    if kit.label_source == "annotations":
        return names.find(kit.root / "Annotations", item.name, voc.ANNOTATIONS) is not None
    return item.labels is not None


def _look_at_labels(kit: voc.Devkit, item: Item, found: Found) -> None:
    """Its image labels from annotations or text; faults of them."""
    try:
        if kit.label_source == "annotations":
            row = voc.read_labels(kit, [item.name])[0]
            found.labels = {kit.classes[k] for k in np.flatnonzero(row)}
        elif item.labels is None:
            found.faults.append(f"image {item.name} has no line in {kit.root / voc.LABEL_FILE}")
        else:
            found.labels = set(voc.parse_labels(kit, item.name, item.labels))
    except UserError as error:
        found.faults.append(str(error))


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


def _degenerate(kit: voc.Devkit, ids: dict[str, list[str]], found: Sequence[Found]) -> list[str]:
    """What makes the set as a whole one that nothing can be learnt from, or measured on."""
    listed = [{one for name, split in ids.items() if kind(name) for one in split} for kind in (_trained, _evaluated)]
    train, val = ([one for one in found if one.name in part] for part in listed)
    labels, measured = ({label for one in part for label in one.labels or ()} for part in (train, val))
    measured |= {kit.classes[k - 1] for one in val for k in one.pixels or () if 0 < k <= len(kit.classes)}
    faults = []
    if train and all(one.labels is not None for one in train):  # else a label may be among those that cannot be read
        if not labels:
            faults.append(f"no training image has a label, so there is nothing to learn{_white(kit, train)}")
        elif missing := measured - labels:
            faults.append(f"no training image shows {_names(kit, missing)}, which images to evaluate on show")
    masks = [one.pixels for one in val if one.pixels is not None]
    if masks and not any(0 < value < IGNORE for pixels in masks for value in pixels):
        faults.append(f"no mask to evaluate on shows a class, so every mean IoU is undefined{_white(kit, val)}")
    return faults


def _white(kit: voc.Devkit, found: Sequence[Found]) -> str:
    """Advice where masks hold nothing but 0 and 255."""
    values = {value for one in found for value in one.pixels or ()}
    advice = (
        f": all that is not background is {IGNORE}, which is ignored; write a class's number, 1 for {kit.classes[0]}"
    )
    return advice if IGNORE in values <= {0, IGNORE} else ""


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
    labels = {label for one in found for label in one.labels or ()}
    kinds["classes are in no image"] = [name for name in kit.classes if name not in labels]
    if everything:
        listed = {name for split in ids.values() for name in split}
        for folder, suffixes in (("JPEGImages", names.PHOTOGRAPHS), (kit.mask_source, names.MASKS)):
            there = names.files(kit.root / folder, suffixes) if folder else {}
            kinds[f"files of {folder} are in no list"] = [name for name in there if name not in listed]
    return [f"note: {len(rows)} {kind}, first {rows[0]}" for kind, rows in sorted(kinds.items()) if rows]
