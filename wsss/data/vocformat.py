"""Writing the VOC2012 format: JPEG image, palette masks, XML annotation."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationPart", "Annotations", "ImageSets/Segmentation")


@dataclass(frozen=True)
class Drawing:
    """One drawn image with its labels."""

    image: np.ndarray
    """(h, w, 3) uint8."""
    mask: np.ndarray
    """(h, w) uint8: 0 background, 1..K classes, 255 contours."""
    part: np.ndarray
    """(h, w) uint8: the class where its distinctive part shows, else 0."""
    boxes: list[tuple[int, int, int, int, int]]
    """(class, xmin, ymin, xmax, ymax) of what shows of each object, from 1 and inclusive as in VOC, back to front."""


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks as 768 numbers: bits of the index dealt to red, green, blue from the top down."""
    return [_channel(index, channel) for index in range(256) for channel in range(3)]


def _channel(index: int, channel: int) -> int:
    return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))


_PALETTE = bytes(voc_palette())


def write(root: Path, name: str, drawing: Drawing, classes: Sequence[str]) -> None:
    """Write one image with its masks and annotation below `root`."""
    Image.fromarray(drawing.image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
    write_mask(root / "SegmentationClass" / f"{name}.png", drawing.mask)
    write_mask(root / "SegmentationPart" / f"{name}.png", drawing.part)
    (root / "Annotations" / f"{name}.xml").write_text(annotation(name, drawing, classes))


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a (h, w) uint8 mask as a PNG of indices with VOC's palette."""
    picture = Image.fromarray(mask)
    picture.putpalette(_PALETTE)
    picture.save(path)


def annotation(name: str, drawing: Drawing, classes: Sequence[str]) -> str:
    """VOC's XML of an image: its size and, of every object, the class and the box of what shows."""
    height, width = drawing.mask.shape
    tree = ET.Element("annotation")
    _add(tree, folder="mini", filename=f"{name}.jpg")
    _add(ET.SubElement(tree, "size"), width=width, height=height, depth=3)
    _add(tree, segmented=1)
    for index, xmin, ymin, xmax, ymax in drawing.boxes:
        cut = xmin == 1 or ymin == 1 or xmax == width or ymax == height
        item = ET.SubElement(tree, "object")
        _add(item, name=classes[index - 1], pose="Unspecified", truncated=int(cut), difficult=0)
        _add(ET.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    ET.indent(tree)
    return ET.tostring(tree, encoding="unicode") + "\n"


def _add(element: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(element, tag).text = str(text)
