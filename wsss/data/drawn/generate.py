"""The mini set: a drawn data set in the VOC2012 format, made so that a classifier could look at a part alone.

Nine classes share three bodies. Only a small part, a badge with a pattern, tells the classes of one body apart. Two
classes come with a context (water, mountains) that is labelled background. Everything is drawn, nothing is
photographed. Measured maps cover much more than the badge: the page "What was found" says how much.

    JPEGImages  SegmentationClass  SegmentationPart  Annotations  ImageSets/Segmentation  classes.txt  mini.json
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.random import RandomState
from PIL import Image
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import voc
from wsss.data.drawn.raster import between
from wsss.data.drawn.render import Sprite, background, draw_object, expose, into, paste, ridge, water
from wsss.data.drawn.shapes import BODIES, OTHER_BODIES, OTHER_PATTERNS, PATTERNS
from wsss.data.pictures import write_mask
from wsss.paths import UserError, atomic
from wsss.registry import DATASETS

VERSION = 2
"""Version of the generator; it changes whenever a byte of its labels or masks changes."""
_LENGTH = (54, 84)
"""Length of an object, in pixels of a 128 pixel image."""
_CROWD = 6
"""Pixels that each further object in an image takes from the largest length."""
_HUE_JITTER = 25
"""Largest change of a class's hue on its part, in degrees either way."""
_OBJECTS = (0.5, 0.32, 0.18)
"""Probability of one, two, three objects."""
_CONTEXT = (0.9, 0.05)
"""Probability of a context: in an image with its class, and in one without."""
VISIBLE, PART_VISIBLE, PART_SHARE = 0.5, 0.6, 1 / 3
"""Smallest visible share of an object, smallest visible share of its part, largest share of the part in the visible
object."""
SPLITS = DATASETS["mini"].splits

_HUES = {
    "ring-fish": 25, "stripe-fish": 145, "zigzag-fish": 265,
    "heart-balloon": 5, "star-balloon": 125, "checker-balloon": 245,
    "cross-boat": 45, "moon-boat": 285, "dot-boat": 165,
}  # fmt: skip
CLASSES: tuple[str, ...] = tuple(_HUES)
"""Pattern and body, without the background; class i is `CLASSES[i - 1]` in masks and boxes."""
_TURNS = {"fish": 50, "balloon": 20, "boat": 20}
"""Largest turn of a body either way, in degrees."""
_CONTEXTS = (("checker-balloon", ridge, 0.48), ("moon-boat", water, 0.78))
"""Class, painter of its context, and the share of the object's height at which that begins; far to near."""
PRETRAINING_CLASSES: tuple[str, ...] = tuple(f"{pattern}-{body}" for body in OTHER_BODIES for pattern in OTHER_PATTERNS)

_FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationPart", "Annotations", "ImageSets/Segmentation")


@dataclass(frozen=True)
class Drawing:
    """One drawn image with its labels."""

    image: np.ndarray
    """(h, w, 3) uint8."""
    mask: np.ndarray
    """(h, w) uint8: 0 background, 1..K classes, 255 contours."""
    part: np.ndarray
    """(h, w) uint8: the class where its distinctive part is visible, else 0."""
    boxes: list[tuple[int, int, int, int, int]]
    """(class, xmin, ymin, xmax, ymax) of each object's visible pixels, from 1 and inclusive as in VOC, back to
    front."""


def draw(random: RandomState, size: int = 128, first: int | None = None) -> Drawing:
    """Draw one image with one to three objects; `first` (1..9) fixes the class of the object at the back."""
    count = 1 + int(np.searchsorted(np.cumsum(_OBJECTS)[:-1], random.random_sample(), side="right"))
    classes = [int(c) for c in random.randint(1, len(CLASSES) + 1, count)]
    classes[0] = first or classes[0]
    sprites = []
    for index in classes:
        name = CLASSES[index - 1]
        pattern, body = name.split("-")
        length = between(random, _LENGTH[0], _LENGTH[1] - _CROWD * (count - 1)) * size / 128
        degrees = random.randint(-_TURNS[body], _TURNS[body] + 1)
        hue = _HUES[name] + between(random, -_HUE_JITTER, _HUE_JITTER)
        sprites.append(draw_object(random, BODIES[body], PATTERNS[pattern], hue, length, degrees))
    corners, shown = _arrange(random, sprites, size)
    placed = list(zip(classes, sprites, corners, strict=False))  # `_arrange` may leave the last ones out

    image = background(random, size)
    extents = {index: (top, len(sprite.part)) for index, sprite, (_, top) in placed}
    for name, paint, share in _CONTEXTS:  # behind the objects
        index = CLASSES.index(name) + 1
        if random.random_sample() < _CONTEXT[0 if index in extents else 1]:
            top, height = extents.get(index, (between(random, 0.1, 0.4) * size, 0.5 * size))
            paint(random, image, top + height * (share + between(random, -0.08, 0.08)))
    edge = contour(shown)
    part = np.zeros((size, size), np.uint8)
    boxes = []
    for number, (index, sprite, corner) in enumerate(placed, 1):
        paste(image, sprite, *corner)
        part[_on_image(sprite.part, corner, size) & (shown == number) & ~edge] = index
        rows, columns = np.nonzero(shown == number)
        low, high = (columns.min(), rows.min()), (columns.max(), rows.max())
        boxes.append((index, *(int(side) + 1 for side in (*low, *high))))
    mask = np.array([0, *classes], np.uint8)[shown]
    mask[edge] = IGNORE
    return Drawing(expose(random, image), mask, part, boxes)


def _arrange(random: RandomState, sprites: list[Sprite], size: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return corners (left, top) of the sprites, back to front, and a (size, size) map of the visible one (from 1; 0:
    none).

    Random places are tried until enough of every object is visible, also without the contours. After every 40 failures
    the front object is left out. Raises UserError if not even one fits.
    """
    for attempt in range(40 * len(sprites)):
        kept = sprites[: len(sprites) - attempt // 40]
        corners = [_corner(random, sprite, size) for sprite in kept]
        shown = np.zeros((size, size), np.uint8)
        for number, (sprite, corner) in enumerate(zip(kept, corners, strict=True), 1):
            shown[_on_image(sprite.mask, corner, size)] = number
        edge = contour(shown)
        for number, (sprite, corner) in enumerate(zip(kept, corners, strict=True), 1):
            visible, part = shown == number, _on_image(sprite.part, corner, size)
            inner = visible & ~edge
            if (
                visible.sum() < VISIBLE * sprite.mask.sum()
                or (part & visible).sum() < PART_VISIBLE * sprite.part.sum()
                or (part & inner).sum() > PART_SHARE * inner.sum()
            ):
                break
        else:
            return corners, shown
    raise UserError(f"no room for an object on {size} pixels; _LENGTH or _PART_SCALE in wsss.data.drawn is too large")


def _corner(random: RandomState, sprite: Sprite, size: int) -> tuple[int, int]:
    """Draw a random place (left, top); up to an eighth of the window may lie outside the image."""
    height, width = sprite.part.shape
    left, top = (random.randint(-(n // 8), max(size - n, -(n // 4)) + n // 8 + 1) for n in (width, height))
    return left, top


def _on_image(window: np.ndarray, corner: tuple[int, int], size: int) -> np.ndarray:
    return into(np.zeros((size, size), bool), window, *corner)


def contour(shown: np.ndarray) -> np.ndarray:
    """Return the mask of the pixels with another value than a neighbour (left, right, above or below)."""
    edge = np.zeros(shown.shape, bool)
    across, down = shown[:, 1:] != shown[:, :-1], shown[1:] != shown[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


_RANDOM = RandomState(0)
"""Seeded again for every image: seeding a state is many times faster than making one."""


def draw_pretraining(index: int, seed: int, size: int = 64) -> tuple[np.ndarray, int]:
    """Return image number `index` of the pretraining set, (size, size, 3) uint8, and its class in PRETRAINING_CLASSES.

    It shows one object of a body and a pattern that are not in the mini set; its hue is random.
    """
    _RANDOM.seed([seed, 1_000_003, index])  # the mini set has the number of a split, 0 to 2, in the middle
    label = _RANDOM.randint(len(PRETRAINING_CLASSES))
    pattern, body = PRETRAINING_CLASSES[label].split("-")
    image = background(_RANDOM, size, octaves=3)
    hue, length = between(_RANDOM, 0, 360), size * between(_RANDOM, 0.6, 0.98)
    sprite = draw_object(_RANDOM, OTHER_BODIES[body], OTHER_PATTERNS[pattern], hue, length, _RANDOM.randint(-30, 31))
    paste(image, sprite, *_corner(_RANDOM, sprite, size))
    return expose(_RANDOM, image), label


def generate(
    root: Path, splits: Mapping[str, int] = SPLITS, size: int = 128, seed: int = 0, progress: bool = True
) -> Path:
    """Write the set at `root` and return `root`; a set that is there already is kept.

    The folder appears as a whole or not at all. Labels and masks are the same everywhere, JPEG files for one version of
    Pillow. Raises UserError if something else is at `root`.
    """
    root = Path(root)
    card = {"version": VERSION, "seed": seed, "size": size, "splits": dict(splits), "pillow": PIL.__version__}
    try:
        if not root.exists():
            with atomic(root) as scratch:
                _write(scratch, card, progress)
            return root
    except UserError:
        if not root.exists():  # else another process was faster
            raise
    try:
        kept = json.loads((root / "mini.json").read_text())
    except (OSError, ValueError):
        kept = None
    # Pillow's version may differ: only JPEG bytes depend on it
    if not isinstance(kept, dict) or {**kept, "pillow": ""} != {**card, "pillow": ""}:
        raise UserError(f"{root} exists and is not this version of the mini set; remove it or name another folder")
    return root


def _write(root: Path, card: dict[str, Any], progress: bool) -> None:
    """Draw the set of a card below `root`."""
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    lists = {split: [f"{split}_{i:05d}" for i in range(count)] for split, count in card["splits"].items()}
    voc.write_texts(root, {"classes.txt": CLASSES}, lists)
    # `first` takes the classes in turn, so that none is rare.
    for number, (split, names) in enumerate(lists.items()):
        for i, name in enumerate(tqdm(names, f"draw {split}", unit="image", disable=not progress, leave=False)):
            drawing = draw(RandomState([card["seed"], number, i]), card["size"], first=1 + i % len(CLASSES))
            Image.fromarray(drawing.image).save(root / f"JPEGImages/{name}.jpg", quality=90)
            write_mask(root / f"SegmentationClass/{name}.png", drawing.mask)
            write_mask(root / f"SegmentationPart/{name}.png", drawing.part)
            (root / f"Annotations/{name}.xml").write_text(_annotation(name, drawing))
    (root / "mini.json").write_text(json.dumps(card, indent=1) + "\n")


def _annotation(name: str, drawing: Drawing) -> str:
    """Return VOC's XML of an image: its size and, for every object, the class and the box of its visible pixels."""
    height, width = drawing.mask.shape
    text = (
        f"<annotation>\n  <folder>mini</folder>\n  <filename>{name}.jpg</filename>\n  <size>\n    "
        f"<width>{width}</width>\n    <height>{height}</height>\n    <depth>3</depth>\n  </size>\n"
        "  <segmented>1</segmented>\n"
    )
    for index, xmin, ymin, xmax, ymax in drawing.boxes:
        cut = int(xmin == 1 or ymin == 1 or xmax == width or ymax == height)
        box = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
        sides = "".join(f"      <{side}>{value}</{side}>\n" for side, value in box.items())
        text += (
            f"  <object>\n    <name>{CLASSES[index - 1]}</name>\n    <pose>Unspecified</pose>\n"
            f"    <truncated>{cut}</truncated>\n    <difficult>0</difficult>\n"
            f"    <bndbox>\n{sides}    </bndbox>\n  </object>\n"
        )
    return text + "</annotation>\n"
