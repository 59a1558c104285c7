"""COCO json to the VOC format of this package: index masks, image labels, lists. And the drawn set as COCO json."""

import fcntl
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool
from PIL import Image
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import instances, names, pictures, voc
from wsss.data.drawn import generate
from wsss.data.instances import CROWD_FILE, Photo, object_mask, rasterise
from wsss.data.pictures import write_mask
from wsss.data.pool import spread
from wsss.paths import UserError, atomic, read_json, write_json
from wsss.registry import DATASETS

DRAWN_SPLITS = DATASETS["mini-coco"].splits
VERSION = 1
"""Of what `prepare` writes; an interrupted preparation of another version is not gone on with."""
CARD = "coco.json"
"""File at the root of a prepared set: which annotations it was made from."""
DRAFTS = ".drafts"
"""Folder of a growing set: files that are being written."""
Ids = dict[str, list[str]]


def prepare(
    annotations: Mapping[str, Path],
    images: Mapping[str, Path],
    root: Path,
    workers: int | None = 0,
    lists: Callable[[Ids], Ids] = dict,
) -> Path:
    """A VOC-format set at `root` from instances_*.json and image folders, both by split; returns `root`.

    Class numbers follow the ids of the json's categories. Where objects overlap the smaller one wins; crowd regions
    are painted first, under every object, and do not make image labels (classes an image shows as a crowd only stand in
    CROWD_FILE); images without objects are left out. Photographs are linked, or copied where that cannot be.

    The set grows at ROOT.partial and is moved to `root` when it is whole; the same call again goes on where an
    interrupted one stopped. A set of the same annotations that is there already is left as it is. `lists` gets the ids
    by split before anything is written and returns those to write; it may refuse them. `workers` as in `pool.spread`.
    Raises UserError for a missing or broken file.
    """
    card = {"version": VERSION, "annotations": {split: instances.digest(path) for split, path in annotations.items()}}
    if root.exists():
        return _accept(root, card)
    classes, photos = _read(annotations)
    written = lists({split: [photo.name for photo in rows] for split, rows in photos.items()})
    for split, rows in photos.items():
        _look_for(images[split], rows)
    with _growing(root, card) as scratch:
        if scratch is None:
            return _accept(root, card)
        for split, rows in photos.items():
            write = partial(_write_photo, scratch, images[split], len(classes))
            done = tqdm(spread(write, rows, workers), f"rasterise {split}", len(rows), unit="image", leave=False)
            try:
                deque(done, maxlen=0)
            except UserError as error:
                raise UserError(
                    f"{error}; what is finished stays in {scratch}, the same words go on from it"
                ) from error
        _write_texts(scratch, classes, [photo for rows in photos.values() for photo in rows], written)
    return root


def _read(annotations: Mapping[str, Path]) -> tuple[tuple[str, ...], dict[str, list[Photo]]]:
    """Classes, and the photographs of each split that have an object."""
    found: dict[str, list[Photo]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for split, path in annotations.items():
        classes[split], rows = instances.read(path)
        found[split] = [photo for photo in rows if photo.numbers()]
        if not found[split]:
            raise UserError(f"no image of the split {split} has an object; check {path}")
    if len(set(classes.values())) > 1:
        raise UserError(
            f"the categories of {' and '.join(map(str, annotations.values()))} differ; give files of one set"
        )
    ids = [photo.name for rows in found.values() for photo in rows]
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise UserError(f"the image {twice} is in two splits of the annotations; give files that share no image")
    return next(iter(classes.values())), found


def _look_for(folder: Path, photos: Sequence[Photo]) -> None:
    """UserError unless every photograph is a file of the folder."""
    try:
        there = {names.composed(entry.name) for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"the image folder {folder} cannot be read ({error.strerror}); give it by --images") from None
    missing = [photo.file for photo in photos if names.composed(photo.file) not in there]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(photos)} images with objects are not in {folder}, first {missing[0]}; unpack "
            "the whole archive there or give its folder by --images"
        )


@contextmanager
def _growing(root: Path, card: Mapping[str, Any]) -> Iterator[Path | None]:
    """ROOT.partial, held against other processes; moved to `root` at the end, kept if something goes wrong.

    None where another process finished the set in the meantime.
    """
    scratch = root.with_name(f"{root.name}.partial")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with open(scratch / ".lock", "w") as lock:
            _wait_for(lock.fileno(), root)
            if root.exists():
                yield None
            else:
                _adopt(scratch, card)
                yield scratch
                shutil.rmtree(scratch / DRAFTS)
                os.replace(scratch, root)
        (root / ".lock").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or scratch}: {error.strerror or error}") from error


def _wait_for(lock: int, root: Path) -> None:
    """Hold the lock; where the disk knows none, go on without."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"wsss: another process is preparing {root}; waiting for it", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass


def _adopt(scratch: Path, card: Mapping[str, Any]) -> None:
    """Make the folders of a new set, or go on with one of the same annotations. Raises UserError for any other."""
    if (scratch / CARD).exists():
        if read_json(scratch / CARD) != card:
            raise UserError(f"{scratch} is an unfinished set of other annotations; remove it or name another folder")
    elif any(path.name != ".lock" for path in scratch.iterdir()):
        raise UserError(f"{scratch} exists and is no unfinished set; remove it or name another folder")
    else:
        write_json(scratch / CARD, card)
    for folder in (DRAFTS, "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)


def _accept(root: Path, card: Mapping[str, Any]) -> Path:
    """`root` if it holds the set of this card."""
    if not (root / CARD).is_file() or read_json(root / CARD) != card:
        raise UserError(f"{root} exists and was not made from these annotations; remove it or name another folder")
    return root


def _write_photo(root: Path, images: Path, classes: int, photo: Photo) -> None:
    """Link one photograph and write its mask, unless a sound one is there. Raises UserError."""
    source, size = images / photo.file, photo.size[::-1]
    if not source.is_file():  # its name in another of Unicode's forms
        source = names.find(images, source.stem, names.PHOTOGRAPHS) or source
    try:
        with pictures.opened(source) as image:
            stored = image.size
            image.draft("L", (1, 1))  # of a JPEG an eighth of each side: fast, but to its last byte
            image.load()
            turn = pictures.orientation(image)
    except pictures.UNDECODABLE as error:
        raise UserError(f"{source} is no image ({error}); unpack its archive again") from None
    upright = stored[::-1] if turn in pictures.SIDEWAYS else stored
    if upright != size:
        turned = f" upright, by its EXIF orientation ({turn})" if stored == size else ""
        raise UserError(
            f"{source} is {upright[0]}x{upright[1]}{turned}, but its annotations are for {size[0]}x{size[1]}; "
            + (
                "annotate it upright, or take the orientation out"
                if turned
                else "unpack its archive again, and do not resize"
            )
        )
    _link(source, root, photo.name + source.suffix.lower())
    path = root / "SegmentationClass" / f"{photo.name}.png"
    if path.is_file():
        with suppress(UserError):
            voc.read_mask(path, size, classes)
            return
    with _draft(root, path) as draft:
        write_mask(draft, rasterise(photo.things, photo.size))


@contextmanager
def _draft(root: Path, target: Path) -> Iterator[Path]:
    """A path in the growing set to write at, then moved onto `target`. Like `atomic`, without a folder for each file,
    which would take as long as a mask."""
    draft = root / DRAFTS / f"{os.getpid()}-{target.name}"
    try:
        yield draft
        os.replace(draft, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _link(source: Path, root: Path, name: str) -> None:
    """A hard link where the disk allows it, else a copy; nothing where it is there already."""
    target = root / "JPEGImages" / name
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    with _draft(root, target) as draft:
        try:
            os.link(source.resolve(), draft)
        except OSError:
            shutil.copyfile(source, draft)


def _write_texts(root: Path, classes: Sequence[str], photos: Sequence[Photo], lists: Ids) -> None:
    """Classes, image labels, what only crowds show, and lists."""
    labels, crowds = [], []
    for photo in photos:
        mine = photo.numbers()
        labels.append([photo.name, *(classes[number - 1] for number in sorted(mine))])
        only = photo.numbers(crowd=True) - mine
        crowds += [[photo.name, *(classes[number - 1] for number in sorted(only))]] if only else []
    texts = {"classes.txt": [[name] for name in classes], voc.LABEL_FILE: labels, CROWD_FILE: crowds}
    texts |= {f"ImageSets/Segmentation/{name}.txt": [[one] for one in ids] for name, ids in lists.items()}
    for name, rows in texts.items():
        (root / name).write_text("".join(" ".join(row) + "\n" for row in rows), encoding="utf-8")


def export_drawn(root: Path, splits: Mapping[str, int] = DRAWN_SPLITS) -> Path:
    """Drawn images as COCO: `ROOT/SPLIT/*.jpg` and `ROOT/annotations/instances_SPLIT.json` with polygons of the masks.

    A polygon a connected outline of a class; contours (255) count as the class beside them. Left as it is if there.
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


def drawn(root: Path) -> Path:
    """The drawn set by way of COCO json, in VOC format at `root`; the json stays beside it at ROOT-json."""
    if root.is_dir():
        return root
    source = export_drawn(root.with_name(f"{root.name}-json"))
    annotations = {split: source / "annotations" / f"instances_{split}.json" for split in DRAWN_SPLITS}
    return prepare(annotations, {split: source / split for split in DRAWN_SPLITS}, root)


def _export_split(source: Path, split: str, folder: Path) -> dict[str, Any]:
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(generate.CLASSES, 1)]
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
                area = float(object_mask([np.array(polygon)], mask.shape).sum())
                row = {"image_id": number, "category_id": 10 * value, "segmentation": [polygon], "area": area}
                tree["annotations"].append({"id": len(tree["annotations"]) + 1, "iscrowd": 0, **row})
    return tree


def _outlines(region: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """Closed outlines of a region as COCO polygons (x, y, x, y ...), specks of under 4 pixels left out."""
    padded = np.pad(region.astype(float), 1)
    lines = contour_generator(z=padded).lines(0.5)
    polygons = [(line - 0.5).clip(0).round(1).flatten().tolist() for line in lines]
    return [polygon for polygon in polygons if len(polygon) >= 8]
