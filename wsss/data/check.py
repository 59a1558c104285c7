"""Check a VOC-format data set: decode everything that its lists name, and name every fault."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import names, pictures, voc
from wsss.data.pool import stream
from wsss.paths import UserError

_MOST = 100
"""Largest number of faults that are named; the others are counted."""
_PAYS = 1000
"""From this many images on, several processes are worth their start."""
_PALETTE = bytes(pictures.VOC_PALETTE)
_TWINS = "images have two photographs, of which .jpg and Unicode's composed form are used"


@dataclass
class _Image:
    """One listed image: what the set's text files say about it and, after `_look`, what its files hold."""

    name: str
    line: str | None
    """Its line in image_labels.txt; None if it has none, or if labels come from elsewhere."""
    crowds: str
    """Its line in crowds.txt: classes that its mask may show without a label."""
    need_mask: bool
    need_labels: bool
    """Whether a list other than those of test images names it."""
    labels: set[str] | None = None
    pixels: dict[int, int] | None = None
    """Mask value -> number of pixels; None without a mask that can be read."""
    digest: str = ""
    """sha256 of the photograph's pixels."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Kinds of oddities that are no faults."""


def check(root: Path, splits: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Return a summary with notes and a class histogram, and one sentence per fault (at most _MOST; the rest are
    counted).

    A list whose name begins with train is trained on, unless the name also holds val (trainval). A list whose name
    begins with val or test is evaluated on. Raises UserError if there is nothing to check.

    Faults are:

    * lists, photographs, masks or labels that cannot be read; wrong sizes, values and palettes
    * pixels of a class that the image labels do not name; a missing mask in a val list
    * images or photographs that are both trained and evaluated on
    * no training image with a label; no mask to evaluate on with a class
    * a class that is evaluated on but is in no training image

    Notes are:

    * labels without pixels, since annotations of VOC name objects that its masks lack
    * other palettes; photographs of more than 8 bits; masks missing elsewhere; test images without labels
    * classes that no image has; files that no list names
    """
    kit, wanted = voc.open_devkit(root), splits or voc.list_names(root)
    if not wanted:
        raise UserError(f"{root}/ImageSets/Segmentation holds no list; put one image id on each line of a NAME.txt")
    ids, faults = {}, []
    for split in wanted:
        try:
            ids[split] = voc.read_ids(root, split)
        except UserError as error:
            faults.append(str(error))
    listed, twice = _listed(kit, ids)
    look = stream(partial(_look, kit), listed, None if len(listed) >= _PAYS else 0, chunk=8)
    images = list(tqdm(look, "check", len(listed), unit="image", leave=False))
    faults += twice + [fault for image in images for fault in image.faults]
    trained = {name for split, part in ids.items() if split.startswith("train") and "val" not in split for name in part}
    evaluated = {split: part for split, part in ids.items() if split.startswith(("val", "test"))}
    faults += _both(images, trained, evaluated)
    tested = {name for part in evaluated.values() for name in part}
    faults += _degenerate(kit, *([image for image in images if image.name in part] for part in (trained, tested)))
    lists = ", ".join(f"{split} {len(part)}" for split, part in ids.items())
    head = f"{root}: {lists}; labels from {kit.label_source}, masks from {kit.mask_source or 'nowhere'}"
    summary = "\n".join([head, *_histogram(kit, images), *_notes(kit, images, everything=not splits)])
    more = [f"... and {len(faults) - _MOST} more"] if len(faults) > _MOST else []
    return f"{summary}\n{len(faults)} faults", faults[:_MOST] + more


def _listed(kit: voc.Devkit, ids: dict[str, list[str]]) -> tuple[list[_Image], list[str]]:
    """Return every listed image once, and the faults of the label files as a whole."""
    tables: dict[str, dict[str, str]] = {voc.LABEL_FILE: {}, voc.CROWD_FILE: {}}
    faults = []
    for name in tables:
        if (kit.root / name).exists():
            tables[name], twice = voc.text_labels(kit, name)
            faults += [twice] if twice else []
    lines = tables[voc.LABEL_FILE] if kit.label_source == "text" else {}
    masked = {name for split, part in ids.items() if split.startswith("val") and kit.mask_source for name in part}
    labelled = {name for split, part in ids.items() if not split.startswith("test") for name in part}
    images = [
        _Image(name, lines.get(name), tables[voc.CROWD_FILE].get(name, ""), name in masked, name in labelled)
        for name in sorted({name for part in ids.values() for name in part})
    ]
    return images, faults


def _look(kit: voc.Devkit, image: _Image) -> _Image:
    """Look at an image for faults, oddities and counts; return it with what was found."""
    photograph = None
    try:
        path = voc.image_file(kit.root, image.name)
        pixels, deep = pictures.open_photograph(path)
        photograph = pixels.size, path
        image.digest = hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
        forms = [kit.root / "JPEGImages" / unicodedata.normalize(form, image.name) for form in ("NFC", "NFD")]
        paths = [form.with_name(form.name + suffix) for form in forms for suffix in names.PHOTOGRAPHS]
        # By inode, since some file systems take both forms for one name.
        twins = {path.stat().st_ino for path in paths if path.is_file()}
        image.notes += [pictures.DEEP] * deep + [_TWINS] * (len(twins) > 1)
    except UserError as error:
        image.faults.append(str(error))
    _look_at_mask(kit, image, photograph)
    shown = {kit.classes[value - 1] for value in image.pixels or () if 0 < value <= len(kit.classes)}
    if kit.label_source == "masks":
        image.labels = shown if image.pixels is not None else None
        return image
    _look_at_labels(kit, image)
    if image.pixels is None or image.labels is None:
        return image
    try:
        crowds = set(names.parse_classes(image.crowds, kit.classes))
    except ValueError as error:
        image.faults.append(f"{kit.root / voc.CROWD_FILE} gives image {image.name} {error}")
        crowds = set()
    if extra := shown - image.labels - crowds:
        path = kit.root / kit.mask_source / f"{image.name}.png"
        image.faults.append(
            f"the mask {path} shows {_in_order(kit, extra)}, which the image labels of {image.name} do not name"
        )
    if image.labels - shown:
        image.notes.append("images have a label that their mask does not show")
    return image


def _look_at_mask(kit: voc.Devkit, image: _Image, photograph: tuple[tuple[int, int], Path] | None) -> None:
    """Count an image's pixels by value, and add the faults of its mask. `photograph`: the photograph's size and
    file."""
    try:
        path = voc.mask_file(kit, image.name)
    except UserError as error:
        if image.need_mask or (image.need_labels and kit.label_source == "masks"):
            image.faults.append(str(error))
        else:
            image.notes.append("images have no mask")
        return
    try:
        mask, palette = pictures.read_index(path)
    except UserError as error:
        image.faults.append(str(error))
        return
    values, counts = np.unique(mask, return_counts=True)
    image.pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    packed = pictures.palette_fault(path, mask, palette, len(kit.classes))
    size = pictures.size_fault(path, mask, *photograph) if photograph else ""
    image.faults += filter(None, (size, pictures.value_fault(path, mask, len(kit.classes)), packed))
    colours = palette.astype(np.uint8).tobytes()
    if colours != _PALETTE[: len(colours)] and not packed:
        image.notes.append("masks have a palette other than VOC's")


def _look_at_labels(kit: voc.Devkit, image: _Image) -> None:
    """Read an image's labels from annotations or text, and add their faults."""
    there = image.line is not None
    if kit.label_source == "annotations":
        there = names.find(kit.root / "Annotations", image.name, voc.ANNOTATIONS) is not None
    if not there and not image.need_labels:
        image.notes.append("test images have no image labels")
        return
    try:
        if kit.label_source == "annotations":
            image.labels = {kit.classes[k] for k in np.flatnonzero(voc.read_labels(kit, [image.name])[0])}
        elif image.line is None:
            image.faults.append(f"image {image.name} has no line in {kit.root / voc.LABEL_FILE}")
        else:
            image.labels = set(voc.parse_labels(kit, image.name, image.line))
    except UserError as error:
        image.faults.append(str(error))


def _in_order(kit: voc.Devkit, chosen: Iterable[str]) -> str:
    return ", ".join(sorted(chosen, key=kit.classes.index))


def _both(images: Sequence[_Image], trained: Collection[str], evaluated: dict[str, list[str]]) -> list[str]:
    """List images, and pairs of photographs equal to the pixel, that are both trained and evaluated on."""
    faults = [
        f"{len(both)} images of the list {split} are also trained on, first {min(both)}; take them out of one list"
        for split, part in evaluated.items()
        if (both := trained & set(part))
    ]
    tested = {name for part in evaluated.values() for name in part}
    alike: dict[str, list[str]] = defaultdict(list)
    for image in images:
        if image.digest:
            alike[image.digest].append(image.name)
    return faults + [
        f"the training image {name} and the evaluated image {other} are the same photograph"
        for group in alike.values()
        for name in group
        for other in group
        if name != other and name in trained and other in tested and not {name, other} <= trained & tested
    ]


def _degenerate(kit: voc.Devkit, train: Sequence[_Image], val: Sequence[_Image]) -> list[str]:
    """List the faults of the set as a whole: nothing can be learnt from it, or nothing measured on it."""
    labels, measured = ({label for image in part for label in image.labels or ()} for part in (train, val))
    measured |= {kit.classes[k - 1] for image in val for k in image.pixels or () if 0 < k <= len(kit.classes)}

    def white(images: Sequence[_Image]) -> str:
        """Return advice if masks hold nothing but 0 and 255, else nothing."""
        values = {value for image in images for value in image.pixels or ()}
        advice = f"all pixels that are not background are {IGNORE}, which is ignored; write class numbers"
        return f": {advice}, 1 for {kit.classes[0]}" if IGNORE in values <= {0, IGNORE} else ""

    faults = []
    if train and all(image.labels is not None for image in train):  # else an unreadable file may have a label
        if not labels:
            faults.append(f"no training image has a label, so there is nothing to learn{white(train)}")
        elif missing := measured - labels:
            faults.append(f"no training image shows {_in_order(kit, missing)}, but evaluated images do")
    masks = [image.pixels for image in val if image.pixels is not None]
    if masks and not any(0 < value < IGNORE for pixels in masks for value in pixels):
        faults.append(f"no mask of an evaluated image shows a class, so every mean IoU is undefined{white(val)}")
    return faults


def _histogram(kit: voc.Devkit, images: Sequence[_Image]) -> list[str]:
    """List images by label and, if there are masks, pixels by class with their share of all pixels that are not
    ignored."""
    counts = Counter(label for image in images for label in image.labels or ())
    rows = [f"  {name:16} {counts[name]:6} images" for name in kit.classes]
    if all(image.pixels is None for image in images):
        return rows
    pixels: Counter[int] = Counter()
    for image in images:
        pixels.update(image.pixels or {})
    known = max(pixels.total() - pixels[IGNORE], 1)
    first, *others = (f"{pixels[k]:12} pixels {pixels[k] / known:8.2%}" for k in range(len(kit.classes) + 1))
    rows = [f"{row} {other}" for row, other in zip(rows, others, strict=True)]
    return [f"  {'background':16} {'':13} {first}", *rows, f"  {'ignored':16} {'':13} {pixels[IGNORE]:12} pixels"]


def _notes(kit: voc.Devkit, images: Sequence[_Image], everything: bool) -> list[str]:
    """List the oddities that are no faults, with counts; `everything` adds files that no list names."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for image in images:
        for kind in image.notes:
            kinds[kind].append(image.name)
    labels = {label for image in images for label in image.labels or ()}
    kinds["classes are in no image"] = [name for name in kit.classes if name not in labels]
    if everything:
        listed = {image.name for image in images}
        for folder, suffixes in (("JPEGImages", names.PHOTOGRAPHS), (kit.mask_source, names.MASKS)):
            there = names.files(kit.root / folder, suffixes) if folder else {}
            kinds[f"files of {folder} are in no list"] = [name for name in there if name not in listed]
    return [f"note: {len(rows)} {kind}, first {rows[0]}" for kind, rows in sorted(kinds.items()) if rows]
