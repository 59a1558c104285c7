"""COCO's instances_*.json, read with every fault in words, and the masks of its objects."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as rle

from wsss.config import IGNORE
from wsss.data import names
from wsss.paths import UserError

_OFFICIAL = re.compile(r"COCO_(?:train|val|test)\d{4}_(\d{12})")
"""Pattern of file names of 2014; those of 2017 are the number alone."""
_Outline = list[np.ndarray] | np.ndarray
"""Polygons (x, y, x, y ...), or run lengths down the columns, background first."""


@dataclass(frozen=True, slots=True)
class _Thing:
    """An annotated object, or a crowd of them."""

    number: int
    """Its class, from 1."""
    area: float
    crowd: bool
    outline: _Outline


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph with its objects in the order of the json."""

    name: str
    """Its id: the file's name without suffix; for COCO_val2014_000000000042 the number 000000000042 alone."""
    file: str
    size: tuple[int, int]
    """Height and width."""
    things: list[_Thing] = field(default_factory=list)

    def numbers(self, crowd: bool = False) -> set[int]:
        """Return the classes of its objects, or of its crowds."""
        return {thing.number for thing in self.things if thing.crowd == crowd}


def number_of(name: str) -> str:
    """Reduce an official name of 2014 to its number; return any other name as it is."""
    official = _OFFICIAL.fullmatch(name)
    return official[1] if official else name


def read(path: Path) -> tuple[tuple[str, ...], list[Photo]]:
    """Return class names in the order of their category ids (spaces as underscores), and photographs sorted by id.

    Raises UserError for a file that is missing, cut short or not of this kind; the error says what is wrong.
    """
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"the annotations {path} cannot be read ({error.strerror}); name the file or its folder"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not complete JSON ({error}); download or export it again") from None
    for key in ("categories", "images", "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise UserError(f"{path} has no list {key!r}, so it is not a COCO instances file; give instances_*.json")
    categories = sorted(_each(path, "category", tree["categories"], _category))
    classes = tuple(name for _, name in categories)
    numbers = {key: number for number, (key, _) in enumerate(categories, 1)}
    if not classes or len(set(classes)) < len(classes) or len(numbers) < len(classes) or len(classes) >= IGNORE:
        raise UserError(f"{path} must have 1 to 254 different categories; give the file as downloaded or exported")
    names.check_classes(classes, str(path), "that category and its annotations")
    photos: dict[int, Photo] = dict(_each(path, "image", tree["images"], _photo))
    ids = {photo.name for photo in photos.values()}
    if not len(ids) == len(photos) == len(tree["images"]):
        raise UserError(f"{path} lists an image more than once; give the file as downloaded or exported")
    for key, thing in _each(path, "annotation", tree["annotations"], partial(_thing, numbers=numbers, photos=photos)):
        photos[key].things.append(thing)
    return classes, sorted(photos.values(), key=lambda photo: photo.name)


def _each(path: Path, kind: str, rows: list[Any], convert: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield convert(row) of each row. Raises UserError that says what is wrong with a row."""
    for place, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            yield convert(row)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            wrong = f"lacks the key {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
            raise UserError(f"{path}: {kind} number {place} {wrong}; download or export the file again") from None


def _category(row: dict[str, Any]) -> tuple[int, str]:
    name = row["name"]
    if not isinstance(name, str) or not name.strip():
        raise ValueError("its name is not text")
    return int(row["id"]), "_".join(names.composed(name).split())


def _photo(row: dict[str, Any]) -> tuple[int, Photo]:
    file, size = row["file_name"], (row["height"], row["width"])
    if not isinstance(file, str) or Path(file).name != file or Path(file).suffix.lower() not in names.PHOTOGRAPHS:
        raise ValueError(f"{file!r} is not the plain name of a JPEG or PNG file")
    if not all(type(side) is int and side > 0 for side in size) or size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or 1e8):
        raise ValueError(f"a photograph cannot have the height and width {size}")
    stem = names.composed(Path(file).stem)
    if not names.can_be_id(stem) or [stem.strip()] != stem.splitlines():
        raise ValueError(f"{file!r} cannot name an image: it begins with a dot or a blank, or has unprintable letters")
    return row["id"], Photo(number_of(stem), file, size)


def _thing(row: dict[str, Any], numbers: dict[int, int], photos: dict[int, Photo]) -> tuple[int, _Thing]:
    key, category, shape = row["image_id"], row["category_id"], row["segmentation"]
    if key not in photos:
        raise ValueError(f"image {key} is not listed")
    if category not in numbers:
        raise ValueError(f"category {category} is not defined")
    area = float(row["area"])
    if not np.isfinite(area):
        raise ValueError(f"its area is {area}")
    if not isinstance(shape, list | dict):
        raise ValueError("its segmentation is neither polygons nor run lengths")
    outline = _polygons(shape, photos[key].size) if isinstance(shape, list) else _runs(shape, photos[key].size)
    return key, _Thing(numbers[category], area, bool(row.get("iscrowd", 0)), outline)


def _polygons(rows: Sequence[Any], size: tuple[int, int]) -> list[np.ndarray]:
    """Return polygons as arrays, without those of fewer than three points, which cover nothing. Raises ValueError.

    pycocotools never returns from a coordinate that is infinite or far away, and accepts an odd number of coordinates.
    """
    polygons = [np.asarray(row, np.float64) for row in rows]
    reach = max(size)
    for polygon in polygons:
        if polygon.ndim != 1 or polygon.size % 2:
            raise ValueError(f"a polygon has {polygon.size} numbers, not pairs of x and y")
        if not ((polygon >= -reach) & (polygon <= 2 * reach)).all():
            raise ValueError("a polygon lies far outside its image")
    return [polygon for polygon in polygons if polygon.size >= 6]


def _runs(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Return the run lengths of a list or of COCO's string. Raises ValueError.

    If they did not fill the image, pycocotools would read beyond its memory.
    """
    if tuple(shape["size"]) != size:
        raise ValueError(f"its run lengths have the size {tuple(shape['size'])}, but the image has {size}")
    counts = shape["counts"]
    runs = np.asarray(_decompress(counts) if isinstance(counts, str) else counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"its run lengths do not add up to {size[0]} x {size[1]} pixels")
    return runs


def _decompress(text: str) -> list[int]:
    """Return the run lengths of COCO's string.

    A character holds five bits, the lowest first. From the fourth run on, a value is the change from the run two
    before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError("its run lengths hold an invalid character")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the sign, in two's complement
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def object_mask(outline: _Outline, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the mask of one object, as pycocotools fills it."""
    if isinstance(outline, np.ndarray):
        encoded = rle.frPyObjects({"counts": outline.tolist(), "size": list(size)}, *size)
    elif outline:
        encoded = rle.merge(rle.frPyObjects(outline, *size))
    else:
        return np.zeros(size, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools is not yet written for numpy 2
        return rle.decode(encoded).astype(bool)


def rasterise(things: Sequence[_Thing], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return a mask of class numbers: crowds are painted first, then objects from the largest `area` to the
    smallest."""
    mask = np.zeros(size, np.uint8)
    for thing in sorted(things, key=lambda thing: (not thing.crowd, -thing.area)):
        mask[object_mask(thing.outline, size)] = thing.number
    return mask
