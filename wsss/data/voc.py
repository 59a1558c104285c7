"""Reader of the VOC2012 devkit layout: lists, photographs, masks and image labels. Each fault is one sentence."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wsss.config import IGNORE
from wsss.data import names
from wsss.data.pictures import read_image, read_mask
from wsss.paths import UserError
from wsss.registry import VOC_CLASSES

_MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
LABEL_FILE = "image_labels.txt"
CROWD_FILE = "crowds.txt"
"""File of lines `id class class ...`: classes that a mask shows only as a crowd, so that the image labels lack them."""
LISTS = Path("ImageSets") / "Segmentation"
ANNOTATIONS = (".xml",)


@dataclass(frozen=True)
class Devkit:
    """A data set on disk: its root, its foreground classes, and where masks and image labels come from."""

    root: Path
    classes: tuple[str, ...]
    mask_source: str
    """SegmentationClassAug or SegmentationClass; empty if there are no masks."""
    label_source: str
    """annotations (XML), text (image_labels.txt) or masks."""
    part_source: str = ""
    """SegmentationPart if the distinctive parts are known (mini), else empty."""


def open_devkit(root: Path, need_labels: bool = True) -> Devkit:
    """Return the data set at `root`; classes.txt there replaces VOC's classes. Raises UserError."""
    if not (root / "JPEGImages").is_dir():
        raise UserError(f"{root} holds no JPEGImages folder, so it is not a VOC-format root; name the folder that does")
    classes = read_classes(root)
    masks = next((name for name in _MASK_FOLDERS if (root / name).is_dir()), "")
    xml = any(names.files(root / "Annotations", ANNOTATIONS))
    labels = "annotations" if xml else "text" if (root / LABEL_FILE).exists() else "masks"
    if labels == "masks" and not masks and need_labels:
        raise UserError(
            f"{root} has no image labels: neither Annotations/*.xml nor {LABEL_FILE} nor {' nor '.join(_MASK_FOLDERS)}"
        )
    part = "SegmentationPart" if (root / "SegmentationPart").is_dir() else ""
    return Devkit(root, classes, masks, labels, part)


class Split:
    """A list of a data set. Its ids are sorted, so that a run depends on the images and not on their order.

    Opening it finds all files and reads all image labels, unless `labels` is False: a test split has none. `masks`
    True: every image must have a mask; False: none is looked for; None: if one image has a mask, all must. Raises
    UserError.
    """

    def __init__(self, root: Path, name: str, masks: bool | None = False, labels: bool = True):
        self.kit, self.name = open_devkit(root, need_labels=labels), name
        self.ids = sorted(read_ids(root, name))
        self.files = [image_file(root, image) for image in self.ids]
        if masks is None and self.kit.mask_source:
            folder = root / self.kit.mask_source
            masks = any(names.find(folder, image, names.MASKS) for image in self.ids)
        self.masks = [mask_file(self.kit, image) for image in self.ids] if masks else []
        """One per id, or none at all."""
        self.labels = read_labels(self.kit, self.ids) if labels else None
        """(n, k) float32, 0 or 1; None if they were not read."""

    def __len__(self) -> int:
        return len(self.ids)


def read_classes(root: Path) -> tuple[str, ...]:
    """Return the foreground classes: those of classes.txt, else VOC's. Raises UserError."""
    path = root / "classes.txt"
    return names.read_classes(path) if path.exists() else VOC_CLASSES


def list_names(root: Path) -> list[str]:
    """Return the names of a data set's lists, sorted."""
    return [name for name in names.files(root / LISTS, (".txt",)) if "/" not in name]


def read_ids(root: Path, split: str) -> list[str]:
    """Return the ids of a split in the order of its list, as `names.read_ids`. Raises UserError if the list is
    missing."""
    path = root / LISTS / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(list_names(root)) or "none"
        raise UserError(
            f"the list {path} does not exist (lists there: {known}); choose one with --data.train_split and "
            "--data.val_split, or with --split"
        )
    return names.read_ids(path, root / "JPEGImages")


def image_file(root: Path, name: str) -> Path:
    """Return the photograph of an id, JPEG or PNG. Raises UserError if there is none."""
    path = names.find(root / "JPEGImages", name, names.PHOTOGRAPHS)
    if path is None and (root / "JPEGImages" / name).is_file():
        raise UserError(f"image {name} is listed with the suffix of its file; write ids without it")
    if path is None:
        raise UserError(f"image {name} is listed, but {root}/JPEGImages/{name}.jpg (or .png) does not exist; add it")
    return path


def mask_file(kit: Devkit, name: str) -> Path:
    """Return the mask of an id. Raises UserError if there is none."""
    path = names.find(kit.root / kit.mask_source, name, names.MASKS) if kit.mask_source else None
    if path is None:
        raise UserError(f"image {name} has no mask: {kit.root / kit.mask_source}/{name}.png does not exist; add it")
    return path


def read_pair(kit: Devkit, name: str) -> tuple[Image.Image, UInt8[np.ndarray, "h w"]]:
    """Read the photograph of an id and its mask, of the same size. Raises UserError."""
    file = image_file(kit.root, name)
    photograph = read_image(file)
    return photograph, read_mask(mask_file(kit, name), photograph.size, len(kit.classes), file)


def read_labels(kit: Devkit, ids: Sequence[str]) -> np.ndarray:
    """Return image labels (len(ids), k), 0 or 1, from the kit's label source. Raises UserError."""
    index = {name: number for number, name in enumerate(kit.classes)}
    table, twice = text_labels(kit) if kit.label_source == "text" else ({}, "")
    if twice:
        raise UserError(f"{twice}; keep one line of each")
    labels = np.zeros((len(ids), len(kit.classes)), np.float32)
    for row, name in enumerate(ids):
        if kit.label_source == "masks":
            present = np.unique(read_pair(kit, name)[1])
            labels[row, [value - 1 for value in present if value not in (0, IGNORE)]] = 1
        elif kit.label_source == "annotations":
            labels[row, [index[label] for label in _xml_labels(kit, name)]] = 1
        elif name in table:
            labels[row, [index[label] for label in parse_labels(kit, name, table[name])]] = 1
        else:
            raise UserError(f"image {name} has no line in {kit.root / LABEL_FILE}; add one")
    return labels


def text_labels(kit: Devkit, file: str = LABEL_FILE) -> tuple[dict[str, str], str]:
    """Read a text file of the set as `names.label_lines` does. Raises UserError."""
    return names.label_lines(kit.root / file, names.files(kit.root / "JPEGImages", names.PHOTOGRAPHS))


def parse_labels(kit: Devkit, name: str, text: str) -> list[str]:
    """Return the classes that a line of the label file gives an image. Raises UserError."""
    try:
        return names.parse_classes(text, kit.classes)
    except ValueError as error:
        raise _wrong_label(kit, kit.root / LABEL_FILE, name, str(error)) from None


def _wrong_label(kit: Devkit, source: Path, name: str, fault: str) -> UserError:
    advice = "" if (kit.root / "classes.txt").exists() else "; a set of other classes than VOC's needs a classes.txt"
    return UserError(f"{source} gives image {name} {fault}{advice}")


def write_texts(root: Path, texts: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[str]]) -> None:
    """Write text files of a set, one row per line, and its lists of ids; their folder must exist."""
    for name, rows in {**texts, **{LISTS / f"{split}.txt": ids for split, ids in lists.items()}}.items():
        (root / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _read_xml(path: Path) -> ElementTree.Element:
    """Return the root element of an annotation. Raises UserError.

    A DOCTYPE is refused: VOC's annotations have none, and the entities that it can declare let a file of a kilobyte
    fill the memory.
    """
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


def _xml_labels(kit: Devkit, name: str) -> list[str]:
    """Return the classes of the objects in an image's annotation."""
    path = names.find(kit.root / "Annotations", name, ANNOTATIONS) or kit.root / "Annotations" / f"{name}.xml"
    labels = [names.class_name(item.findtext("name", "")) for item in _read_xml(path).iter("object")]
    for label in labels:
        if label not in kit.classes:
            raise _wrong_label(kit, path, name, names.unknown_class(label, kit.classes))
    return labels
