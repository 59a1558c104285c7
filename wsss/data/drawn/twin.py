"""The drawn set as COCO json, and converted from that to VOC format again: a smoke test of everything that COCO
needs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool

from wsss.config import IGNORE
from wsss.data import coco, pictures, voc
from wsss.data.drawn import generate
from wsss.data.instances import object_mask
from wsss.paths import atomic
from wsss.registry import DATASETS

SPLITS = DATASETS["mini-coco"].splits


def export(root: Path, splits: Mapping[str, int] = SPLITS) -> Path:
    """Write drawn images as COCO and return `root`; if it exists, it is left as it is.

    It holds `ROOT/SPLIT/*.jpg` and `ROOT/annotations/instances_SPLIT.json`. Each connected outline of a class in a mask
    is one polygon. Contours (255) are in no polygon, so they become background.
    """
    if root.is_dir():
        return root
    with atomic(root) as scratch:
        source = generate.generate(scratch.with_name("source"), splits)
        (scratch / "annotations").mkdir(parents=True)
        for split in splits:
            (scratch / split).mkdir()
            tree = _export_split(source, split, scratch / split)
            (scratch / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    return root


def draw(root: Path) -> Path:
    """Draw the set by way of COCO json, in VOC format at `root`, and return `root`; the json stays beside it at
    ROOT-json."""
    if root.is_dir():
        return root
    source = export(root.with_name(f"{root.name}-json"))
    annotations = {split: source / "annotations" / f"instances_{split}.json" for split in SPLITS}
    return coco.prepare(annotations, {split: source / split for split in SPLITS}, root)


def _export_split(source: Path, split: str, folder: Path) -> dict[str, Any]:
    # Ids with gaps, as COCO's own.
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(generate.CLASSES, 1)]
    tree: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for number, name in enumerate(voc.read_ids(source, split), 1):
        path = voc.image_file(source, name)
        shutil.copyfile(path, folder / path.name)
        mask = pictures.read_index(source / "SegmentationClass" / f"{name}.png")[0]
        height, width = mask.shape
        tree["images"].append({"id": number, "file_name": path.name, "height": height, "width": width})
        for value in sorted(set(np.unique(mask).tolist()) - {0, IGNORE}):
            for polygon in _outlines(mask == value):
                area = float(object_mask([np.array(polygon)], mask.shape).sum())
                row = {"image_id": number, "category_id": 10 * value, "segmentation": [polygon], "area": area}
                tree["annotations"].append({"id": len(tree["annotations"]) + 1, "iscrowd": 0, **row})
    return tree


def _outlines(region: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """Return the closed outlines of a region as COCO polygons (x, y, x, y ...) of at least four points."""
    lines = contour_generator(z=np.pad(region.astype(float), 1)).lines(0.5)
    polygons = [(line - 0.5).clip(0).round(1).flatten().tolist() for line in lines]
    return [polygon for polygon in polygons if len(polygon) >= 8]
