"""Reader of the VOC2012 devkit layout: lists, photographs, masks and image labels, each fault in one sentence."""

import struct
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wsss.config import IGNORE
from wsss.paths import UserError

VOC_CLASSES = tuple(
    [
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
)
warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow only warns between 89 and 179 million pixels
UNDECODABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What Pillow raises for a file that is no picture, or claims to be a picture of more than 89 million pixels."""
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
LABEL_FILE = "image_labels.txt"
LONGEST_ID = 200
"""Characters; file systems refuse names of more than 255 bytes."""


@dataclass(frozen=True)
class Devkit:
    """A data set on disk: its root, its foreground classes, and where masks and image labels come from."""

    root: Path
    classes: tuple[str, ...]
    mask_source: str
    """SegmentationClassAug or SegmentationClass; empty where there are no masks."""
    label_source: str
    """annotations (XML), text (image_labels.txt) or masks."""
    part_source: str = ""
    """SegmentationPart where the distinctive parts are known (mini), else empty."""


def open_devkit(root: Path) -> Devkit:
    """The data set at `root`; classes.txt there takes the place of VOC's classes. Raises UserError."""
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} holds no JPEGImages folder, so it is no VOC-format root; name the folder that does")
    names = root / "classes.txt"
    classes = tuple(read_lines(names)) if names.exists() else VOC_CLASSES
    if not classes or len(set(classes)) < len(classes) or len(classes) >= IGNORE:
        raise UserError(f"{names} must name 1 to 254 different classes, one a line, without background; correct it")
    masks = next((name for name in MASK_FOLDERS if (root / name).is_dir()), "")
    xml = any((root / "Annotations").glob("*.xml"))
    labels = "annotations" if xml else "text" if (root / LABEL_FILE).exists() else "masks"
    if labels == "masks" and not masks:
        raise UserError(
            f"{root} has no image labels: neither Annotations/*.xml nor {LABEL_FILE} nor {' nor '.join(MASK_FOLDERS)}"
        )
    part = "SegmentationPart" if (root / "SegmentationPart").is_dir() else ""
    return Devkit(root, classes, masks, labels, part)


def read_lines(path: Path) -> list[str]:
    """The lines that say something, stripped; UserError where the file is no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_ids(root: Path, split: str) -> list[str]:
    """Ids of a split in the order of its list; UserError if the list is missing, empty, repeats an id or holds what
    can be none."""
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(x.stem for x in path.parent.glob("*.txt"))) or "none"
        raise UserError(
            f"the list {path} does not exist (there: {known}); choose by --data.train_split, --data.val_split"
        )
    ids = [line.split()[0] for line in read_lines(path)]
    if not ids:
        raise UserError(f"the list {path} is empty; put one image id on each line")
    odd = next((one for one in ids if len(one) > LONGEST_ID or not one.isprintable()), "")
    if odd:
        raise UserError(f"the list {path} names {odd[:20]!r}, which is no image id; put one on each line")
    if len(set(ids)) < len(ids):
        twice = next(x for x in ids if ids.count(x) > 1)
        raise UserError(f"the list {path} names {twice} more than once; leave one line of it")
    return ids


def image_file(root: Path, name: str) -> Path:
    """The photograph of an id, JPEG or PNG; UserError if there is none."""
    for suffix in (".jpg", ".png", ".jpeg"):
        path = root / "JPEGImages" / (name + suffix)
        if path.is_file():
            return path
    raise UserError(f"image {name} is listed, but {root}/JPEGImages/{name}.jpg (or .png) does not exist; add it")


def read_image(path: Path) -> Image.Image:
    """A photograph as RGB, whatever its mode; UserError if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except UNDECODABLE as error:
        raise UserError(f"{path} cannot be decoded ({error}); replace the file") from error


def read_mask(path: Path, size: tuple[int, int] | None, classes: int) -> UInt8[np.ndarray, "h w"]:
    """An index mask with values 0..classes and 255, of the photograph's `size` (width, height) if that is given;
    UserError else."""
    try:
        with Image.open(path) as mask:
            mode, array = mask.mode, np.array(mask)
    except UNDECODABLE as error:
        raise UserError(f"the mask {path} cannot be decoded ({error}); replace the file") from error
    if mode not in ("P", "L"):
        raise UserError(
            f"the mask {path} is of mode {mode}; it must be an index image (palette or grey) of class numbers"
        )
    if size and array.shape[::-1] != tuple(size):
        raise UserError(
            f"the mask {path} is {array.shape[1]}x{array.shape[0]}, but its image is {size[0]}x{size[1]}; replace it"
        )
    wrong = array[(array > classes) & (array != IGNORE)]
    if wrong.size:
        raise UserError(
            f"the mask {path} holds the value {wrong[0]}, but only 0..{classes} and {IGNORE} have a meaning; replace it"
        )
    return array


def mask_file(kit: Devkit, name: str) -> Path:
    """The mask of an id; UserError if there is none."""
    path = kit.root / kit.mask_source / f"{name}.png"
    if not kit.mask_source or not path.is_file():
        raise UserError(f"image {name} has no mask: {path} does not exist; add it")
    return path


def read_labels(kit: Devkit, ids: Sequence[str]) -> np.ndarray:
    """Image labels (len(ids), k), 0 or 1, from the kit's label source. Raises UserError."""
    index = {name: number for number, name in enumerate(kit.classes)}
    table = _text_labels(kit.root / LABEL_FILE) if kit.label_source == "text" else {}
    labels = np.zeros((len(ids), len(kit.classes)), np.float32)
    for row, name in enumerate(ids):
        if kit.label_source == "masks":
            path = mask_file(kit, name)
            size = read_image(image_file(kit.root, name)).size
            present = np.unique(read_mask(path, size, len(kit.classes)))
            labels[row, [value - 1 for value in present if value not in (0, IGNORE)]] = 1
            continue
        source = kit.root / LABEL_FILE
        if kit.label_source == "annotations":
            source = kit.root / "Annotations" / f"{name}.xml"
            found = _xml_labels(source)
        elif name in table:
            found = table[name]
        else:
            raise UserError(f"image {name} has no line in {source}; add one")
        for label in found:
            if label not in index:
                raise UserError(
                    f"{source} gives image {name} the class {label!r}, which is not among the classes; correct it, or "
                    "give the set its classes.txt"
                )
            labels[row, index[label]] = 1
    return labels


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an annotation. Raises UserError, also for one with a DOCTYPE: VOC's have none, and the entities that
    it can declare let a file of a kilobyte fill the memory."""
    try:
        text = path.read_bytes()
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = _refuse_doctype  # before any entity is declared, in whatever encoding
        guard.Parse(text, True)
        return ElementTree.fromstring(text)
    except (OSError, expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"the annotation {path} cannot be read ({error}); replace the file") from error


def _refuse_doctype(name: str, *_: object) -> None:
    raise ValueError(f"it declares a DOCTYPE {name}, which no annotation of VOC does")


def _xml_labels(path: Path) -> list[str]:
    return [item.findtext("name", "").strip() for item in read_xml(path).iter("object")]


def _text_labels(path: Path) -> dict[str, list[str]]:
    rows = [line.split() for line in read_lines(path)]
    return {row[0]: row[1:] for row in rows}
