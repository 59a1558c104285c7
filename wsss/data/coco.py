"""COCO json to the VOC format of this package: index masks, image labels, lists. And the drawn set as COCO json."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import mini, voc
from wsss.data.vocformat import write_mask
from wsss.paths import UserError, atomic

DRAWN_SPLITS = {"train": 160, "val": 40}
"""How many drawn images the COCO twin of the mini set has."""


def prepare(annotations: Mapping[str, Path], images: Mapping[str, Path], root: Path) -> Path:
    """A VOC-format set at `root` from instances_*.json and image folders, both by split; returns `root`.

    Class numbers follow the order of the json's categories. Where objects overlap the smaller one wins; crowd regions
    are painted first, under every object, and do not make image labels; images without objects are left out. A set
    that is there already is left as it is. Raises UserError for a missing or broken file.
    """
    if root.is_dir():
        return root
    with atomic(root) as scratch:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (scratch / folder).mkdir(parents=True)
        labels: list[str] = []
        for split, path in annotations.items():
            tree = _read(path)
            names = [row["name"].replace(" ", "_") for row in tree["categories"]]
            labels += _prepare_split(tree, images[split], scratch, split, names)
        (scratch / "classes.txt").write_text("\n".join(names) + "\n")
        (scratch / voc.LABEL_FILE).write_text("\n".join(labels) + "\n")
    return root


def _prepare_split(tree: dict[str, Any], images: Path, root: Path, split: str, names: list[str]) -> list[str]:
    """Write one split; returns its lines of image_labels.txt."""
    index = {row["id"]: number for number, row in enumerate(tree["categories"], 1)}
    objects: dict[int, list[dict[str, Any]]] = {}
    for row in tree["annotations"]:
        objects.setdefault(row["image_id"], []).append(row)
    ids, lines = [], []
    for row in tqdm(tree["images"], desc=f"rasterise {split}", unit="image", leave=False):
        mine = objects.get(row["id"], [])
        present = sorted({index[one["category_id"]] for one in mine if not one.get("iscrowd")})
        if not present:
            continue
        name = Path(row["file_name"]).stem
        _link(images / row["file_name"], root / "JPEGImages" / row["file_name"])
        mask = rasterise(mine, index, (row["height"], row["width"]))
        write_mask(root / "SegmentationClass" / f"{name}.png", mask)
        ids.append(name)
        lines.append(" ".join([name, *(names[number - 1] for number in present)]))
    if not ids:
        raise UserError(f"no image of the split {split} has an object; check its annotations")
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return lines


def rasterise(
    objects: list[dict[str, Any]], index: Mapping[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Class numbers of an image's objects: crowds first, then larger before smaller."""
    mask = np.zeros(size, np.uint8)
    for one in sorted(objects, key=lambda x: (not x.get("iscrowd"), -x["area"])):
        mask[object_mask(one["segmentation"], size)] = index[one["category_id"]]
    return mask


def object_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels of one object: polygons, or run lengths as a list or a string."""
    if isinstance(segmentation, list):
        encoded = rle.merge(rle.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        encoded = rle.frPyObjects(segmentation, *size)
    else:
        encoded = segmentation
    return rle.decode(encoded).astype(bool)


def export_drawn(root: Path, splits: Mapping[str, int] = DRAWN_SPLITS) -> Path:
    """Drawn images as COCO: ROOT/SPLIT/*.jpg and ROOT/annotations/instances_SPLIT.json with polygons of the masks.

    A polygon a connected outline of a class; contours (255) count as the class beside them. Left as it is if there.
    """
    if root.is_dir():
        return root
    with atomic(root) as scratch:
        source = mini.generate(scratch.with_name("source"), splits)
        (scratch / "annotations").mkdir(parents=True)
        for split in splits:
            (scratch / split).mkdir()
            tree = _export_split(source, split, scratch / split)
            (scratch / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    return root


def drawn(root: Path) -> Path:
    """The drawn set by way of COCO json, in VOC format at `root`; the json stays beside it at ROOT-json."""
    source = export_drawn(root.with_name(f"{root.name}-json"))
    annotations = {split: source / "annotations" / f"instances_{split}.json" for split in DRAWN_SPLITS}
    return prepare(annotations, {split: source / split for split in DRAWN_SPLITS}, root)


def _export_split(source: Path, split: str, folder: Path) -> dict[str, Any]:
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(mini.CLASSES, 1)]
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for number, name in enumerate(voc.read_ids(source, split), 1):
        path = voc.image_file(source, name)
        shutil.copyfile(path, folder / path.name)
        with Image.open(source / "SegmentationClass" / f"{name}.png") as file:
            mask = np.array(file)
        height, width = mask.shape
        tree["images"].append({"id": number, "file_name": path.name, "height": height, "width": width})
        for value in sorted(set(np.unique(mask).tolist()) - {0, IGNORE}):
            for polygon in _outlines(mask == value):
                area = float(object_mask([polygon], mask.shape).sum())
                row = {"image_id": number, "category_id": 10 * value, "segmentation": [polygon], "area": area}
                tree["annotations"].append({"id": len(tree["annotations"]) + 1, "iscrowd": 0, **row})
    return tree


def _outlines(region: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """Closed outlines of a region as COCO polygons (x, y, x, y ...), specks of under 4 pixels left out."""
    padded = np.pad(region.astype(float), 1)
    lines = contour_generator(z=padded).lines(0.5)
    polygons = [(line - 0.5).clip(0).round(1).flatten().tolist() for line in lines]
    return [polygon for polygon in polygons if len(polygon) >= 8]


def _link(source: Path, target: Path) -> None:
    """A hard link where the disk allows it, else a copy."""
    if not source.is_file():
        raise UserError(f"the annotations name {source.name}, but {source} does not exist; give its image folder")
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
        return {name: tree[name] for name in ("images", "annotations", "categories")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no COCO instances file ({error}); download or export it again") from error
