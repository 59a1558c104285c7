"""The mini set: a drawn data set in the VOC2012 format that has the paper's problem by construction.

Nine classes share three bodies; only a small part, a badge with a pattern, tells the classes of one body apart. A
classifier may therefore look at the badge alone, and its class activation map covers little else. Two classes come with
a context (water, mountains) that is labelled background. Everything is drawn, nothing is photographed.

    JPEGImages  SegmentationClass  SegmentationPart  Annotations  ImageSets/Segmentation  classes.txt  mini.json
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.random import RandomState
from PIL import Image
from tqdm import tqdm

from wsss.data.drawing import between
from wsss.data.others import OTHER_BODIES, OTHER_PATTERNS
from wsss.data.scene import Sprite, background, draw_object, expose, into, paste, ridge, water
from wsss.data.shapes import BODIES, PATTERNS
from wsss.paths import UserError, atomic

VERSION = 1
"""Of the generator: changes whenever one byte of its labels or masks does."""
LENGTH = (54, 84)
"""Length of an object, in pixels of a 128 pixel image."""
HUE_JITTER = 25
"""Degrees either side of a class's hue on its part."""
OBJECTS = (0.5, 0.32, 0.18)
"""Probability of one, two, three objects."""
CONTEXT = (0.9, 0.05)
"""Probability of a context: with the class it belongs to, with any other."""
VISIBLE, PART_VISIBLE, PART_SHARE = 0.5, 0.6, 1 / 3
"""An object shows at least this share of itself and of its part; the part is at most this share of what shows."""
IGNORE = 255
SPLITS: Mapping[str, int] = {"train": 1000, "val": 200, "test": 200}

_ROWS = (
    ("ring-fish", 25), ("stripe-fish", 145), ("zigzag-fish", 265),
    ("heart-balloon", 5), ("star-balloon", 125), ("checker-balloon", 245),
    ("cross-boat", 45), ("moon-boat", 285), ("dot-boat", 165),
)  # fmt: skip
CLASSES: tuple[str, ...] = tuple(name for name, _ in _ROWS)
"""Names without the background; class i is `CLASSES[i - 1]` in masks and boxes."""
_TURNS = {"fish": 50, "balloon": 20, "boat": 20}
_CONTEXTS = {"moon-boat": water, "checker-balloon": ridge}
PRETRAINING_CLASSES: tuple[str, ...] = tuple(f"{pattern}-{body}" for body in OTHER_BODIES for pattern in OTHER_PATTERNS)


@dataclass(frozen=True)
class Drawing:
    """One drawn image with its labels."""

    image: np.ndarray
    """(h, w, 3) uint8."""
    mask: np.ndarray
    """(h, w) uint8: 0 background, 1..9 classes, 255 contours."""
    part: np.ndarray
    """(h, w) uint8: the class where its distinctive part shows, else 0."""
    boxes: list[tuple[int, int, int, int, int]]
    """(class, xmin, ymin, xmax, ymax) of what shows of each object, from 1 and inclusive as in VOC, back to front."""


def draw(random: RandomState, size: int = 128, first: int | None = None) -> Drawing:
    """Draw one image with one to three objects; `first` (1..9) fixes the class of one of them."""
    count = 1 + int(np.searchsorted(np.cumsum(OBJECTS)[:-1], random.random_sample(), side="right"))
    classes = [first or random.randint(len(CLASSES)) + 1, *(random.randint(len(CLASSES), size=count - 1) + 1)]
    sprites = [_sprite(random, c, size, count) for c in classes]
    corners, instances = _arrange(random, sprites, size)
    image = background(random, size)
    _paint_context(random, image, classes[: len(corners)], corners, sprites)
    for sprite, (left, top) in zip(sprites, corners, strict=False):
        paste(image, sprite, left, top)
    labels = np.array([0, *classes], np.uint8)[instances]
    edge = contour(instances)
    part = np.zeros((size, size), np.uint8)
    for i, (left, top) in enumerate(corners):
        part[into(np.zeros((size, size), bool), sprites[i].part, left, top) & (instances == i + 1) & ~edge] = classes[i]
    boxes = [(int(classes[i]), *_box(instances == i + 1)) for i in range(len(corners))]
    return Drawing(expose(random, image), np.where(edge, IGNORE, labels).astype(np.uint8), part, boxes)


def _sprite(random: RandomState, index: int, size: int, count: int) -> Sprite:
    name, hue = _ROWS[index - 1]
    pattern, body = name.split("-")
    low, high = LENGTH
    length = between(random, low, high - 6 * (count - 1)) * size / 128
    degrees = random.randint(-_TURNS[body], _TURNS[body] + 1)
    return draw_object(
        random, BODIES[body], PATTERNS[pattern], hue + between(random, -HUE_JITTER, HUE_JITTER), length, degrees
    )


def _arrange(random: RandomState, sprites: list[Sprite], size: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Places (left, top) for the sprites, back to front, and the map of which sprite shows (0 none, else from 1).

    Tries places until every object shows enough; after 40 failures the front object is left out.
    """
    for attempt in range(40 * len(sprites)):
        kept = sprites[: len(sprites) - attempt // 40]
        corners = [_corner(random, sprite, size) for sprite in kept]
        instances = np.zeros((size, size), np.uint8)
        for i, (sprite, (left, top)) in enumerate(zip(kept, corners, strict=True), 1):
            instances[into(np.zeros((size, size), bool), sprite.mask, left, top)] = i
        if all(_shows(s, c, instances == i) for i, (s, c) in enumerate(zip(kept, corners, strict=True), 1)):
            return corners, instances
    raise AssertionError("one object alone always shows")


def _corner(random: RandomState, sprite: Sprite, size: int) -> tuple[int, int]:
    """A random place; up to an eighth of the window may lie outside the image."""
    height, width = sprite.alpha.shape
    return tuple(random.randint(-(n // 8), max(size - n + n // 8, -(n // 8)) + 1) for n in (width, height))


def _shows(sprite: Sprite, corner: tuple[int, int], visible: np.ndarray) -> bool:
    part = (into(np.zeros(visible.shape, bool), sprite.part, *corner) & visible).sum()
    return bool(
        visible.sum() >= VISIBLE * sprite.mask.sum()
        and part >= PART_VISIBLE * sprite.part.sum()
        and part <= PART_SHARE * visible.sum()
    )


def _paint_context(random: RandomState, image: np.ndarray, classes: list[int], corners: list, sprites: list) -> None:
    """Mountains, then water, behind the objects; levels follow the object they belong to."""
    size = len(image)
    for name in ("checker-balloon", "moon-boat"):
        index = CLASSES.index(name) + 1
        level = size * between(random, 0.5, 0.75)
        chance, extra = random.random_sample(), between(random, 0.70, 0.85)
        if index in classes:
            i = list(classes).index(index)
            level = corners[i][1] + sprites[i].alpha.shape[0] * (extra if name == "moon-boat" else extra - 0.3)
        if chance < CONTEXT[0 if index in classes else 1]:
            _CONTEXTS[name](random, image, level)


def contour(instances: np.ndarray) -> np.ndarray:
    """Where an integer map changes between neighbours (left, right, above, below): one pixel on either side. Bool."""
    edge = np.zeros(instances.shape, bool)
    across, down = instances[:, 1:] != instances[:, :-1], instances[1:] != instances[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _box(visible: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(visible.any(1))[0], np.nonzero(visible.any(0))[0]
    return int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_pretraining(index: int, seed: int, size: int = 64) -> tuple[np.ndarray, int]:
    """Image number `index` of the pretraining set: (size, size, 3) uint8 and its class in PRETRAINING_CLASSES."""
    random = RandomState([seed, 1_000_003, index])
    label = random.randint(len(PRETRAINING_CLASSES))
    pattern, body = PRETRAINING_CLASSES[label].split("-")
    image = background(random, size, octaves=3)
    sprite = draw_object(random, OTHER_BODIES[body], OTHER_PATTERNS[pattern], between(random, 0, 360),
                         size * between(random, 0.6, 0.98), random.randint(-30, 31), fine=False)  # fmt: skip
    paste(image, sprite, *_corner(random, sprite, size))
    return expose(random, image), label


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks as 768 numbers: bits of the index dealt to red, green, blue from the top down."""
    return [
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for index in range(256)
        for channel in range(3)
    ]


def generate(
    root: Path, splits: Mapping[str, int] = SPLITS, size: int = 128, seed: int = 0, progress: bool = True
) -> Path:
    """Write the set at `root` and return it; at once if it is there already.

    The folder appears as a whole or not at all. Raises UserError if something else is at `root`.
    """
    root = Path(root)
    card = {"version": VERSION, "seed": seed, "size": size, "splits": dict(splits), "pillow": PIL.__version__}
    if root.exists():
        return _accept(root, card)
    with atomic(root) as scratch:
        for folder in ("JPEGImages", "SegmentationClass", "SegmentationPart", "Annotations", "ImageSets/Segmentation"):
            (scratch / folder).mkdir(parents=True)
        (scratch / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        for number, (split, count) in enumerate(splits.items()):
            names = [f"{split}_{i:05d}" for i in range(count)]
            for i in tqdm(range(count), f"drawing {split}", disable=not progress, leave=False):
                drawing = draw(RandomState([seed, number, i]), size, first=1 + i % len(CLASSES))
                _write(scratch, names[i], drawing)
            (scratch / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        (scratch / "mini.json").write_text(json.dumps(card, indent=1) + "\n")
    return root


def _accept(root: Path, card: dict) -> Path:
    """Return `root` if it holds the set of this card (the Pillow version may differ: only JPEG bytes hang on it)."""
    try:
        found = json.loads((root / "mini.json").read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or {**found, "pillow": ""} != {**card, "pillow": ""}:
        raise UserError(f"{root} exists and is not this mini set; remove it or name another folder")
    return root


def _write(root: Path, name: str, drawing: Drawing) -> None:
    Image.fromarray(drawing.image).save(root / f"JPEGImages/{name}.jpg", quality=90)
    for folder, labels in (("SegmentationClass", drawing.mask), ("SegmentationPart", drawing.part)):
        png = Image.fromarray(labels, mode="P") if False else Image.frombytes("P", labels.shape[::-1], labels.tobytes())
        png.putpalette(voc_palette())
        png.save(root / f"{folder}/{name}.png")
    (root / f"Annotations/{name}.xml").write_text(_annotation(name, drawing))


def _annotation(name: str, drawing: Drawing) -> str:
    """VOC's XML for one image."""
    height, width = drawing.mask.shape
    top = ET.Element("annotation")

    def add(parent: ET.Element, tag: str, text: object = None) -> ET.Element:
        child = ET.SubElement(parent, tag)
        child.text = None if text is None else str(text)
        return child

    add(top, "folder", "mini")
    add(top, "filename", f"{name}.jpg")
    extent = add(top, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        add(extent, tag, value)
    add(top, "segmented", 1)
    for index, *box in drawing.boxes:
        item = add(top, "object")
        cut = min(box[:2]) == 1 or box[2] == width or box[3] == height
        for tag, value in (
            ("name", CLASSES[index - 1]),
            ("pose", "Unspecified"),
            ("truncated", int(cut)),
            ("difficult", 0),
        ):
            add(item, tag, value)
        extent = add(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            add(extent, tag, value)
    ET.indent(top)
    return ET.tostring(top, encoding="unicode") + "\n"
