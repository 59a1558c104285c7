"""`wsss data prepare coco`: convert COCO json, official or your own, to the VOC format of this package.

JPEGImages  SegmentationClass  ImageSets/Segmentation  classes.txt  image_labels.txt  crowds.txt
"""

import os
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from wsss.data import instances, names, pictures, voc
from wsss.data.archives import place
from wsss.data.instances import Photo, number_of, rasterise
from wsss.data.pool import stream
from wsss.paths import UserError, note, project_root, read_json, sha256, write_json
from wsss.registry import DATASETS

COUNTS = DATASETS["coco"].splits
"""Number of images of 2014 with an object, as in the published lists. For 2017 there is no list to compare with."""
_CARD = "coco.json"
"""File at the root of a prepared set. It names its annotations and the version of `prepare`."""
_DRAFTS = ".drafts"
"""Folder in an unfinished set for files that are being written."""
_FILE = re.compile(r"instances_(train|val)(2014|2017)\.json")
_Ids = dict[str, list[str]]


@dataclass(frozen=True)
class PrepareCoco:
    """Prepare COCO 2014 (or 2017) in VOC format: index PNGs, image labels and the lists train, val and val_part.

    Classes are numbered 1 to 80 in the official order; 0 is the background. Smaller objects are painted over larger
    ones. Crowd regions are painted first, under every object, and give no image labels; crowds.txt names the classes
    that an image shows only as a crowd. Images without objects are left out; 82,081 and 40,137 of 2014 remain. Ids are
    numbers: 000000000042 for COCO_val2014_000000000042.jpg, and files in OUTPUT are named after them. Photographs are
    hard-linked if the disk allows it, else copied.

    OUTPUT grows as OUTPUT.partial and appears when it is whole. After an interruption the same command goes on; it
    leaves a finished OUTPUT as it is. Reading train2014 needs about 3 GB of memory.
    """

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """Folder of the set; give it to --data.root of wsss train coco."""
    annotations: tuple[Path, ...]
    """Folder of instances_train2014.json and instances_val2014.json (or 2017), or these files."""
    images: Path
    """Folder that holds train2014 and val2014 (or 2017), or the photographs themselves."""
    year: Literal[2014, 2017] | None = None
    """Year of the annotations; needed if their folder holds both."""
    workers: int | None = None
    """Processes that rasterise beside this one; 0: none. None: one per core."""
    partial: bool = False
    """Accept any part of COCO, even a single split: images and classes are not counted. The word alone will do."""

    def __call__(self) -> str:
        """Prepare the set and return its folder. Raises UserError."""
        if (self.workers or 0) < 0:
            raise UserError(
                f"--workers is {self.workers}; give a number of processes, 0 for none, or None for one per core"
            )
        year, annotations = annotation_files(self.annotations, self.year, self.partial)
        folders = {split: self.images / f"{split}{year}" for split in annotations}
        images = {split: folder if folder.is_dir() else self.images for split, folder in folders.items()}

        def lists(ids: _Ids) -> _Ids:
            if year == 2014 and not self.partial:
                require_whole(ids)
            return ids | {"val_part": ids["val"][: COUNTS["val_part"]]} if "val" in ids else ids

        try:
            return str(prepare(annotations, images, self.output, self.workers, lists))
        except (KeyboardInterrupt, SystemExit):
            note(f"finished files are kept in {self.output}.partial; run the command again to continue")
            raise


def annotation_files(paths: Sequence[Path], year: int | None, partial: bool) -> tuple[int, dict[str, Path]]:
    """Return the year and its instances files by split, train first. Raises UserError if they are unclear or
    incomplete."""
    files = [file for path in paths for file in (sorted(path.glob("instances_*.json")) if path.is_dir() else [path])]
    named = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    years = {int(match[2]) for match, _ in named if year in (None, int(match[2]))}
    given = " ".join(map(str, paths))
    if not years:
        kind = year or "(2014 or 2017)"
        raise UserError(
            f"neither instances_train{kind}.json nor instances_val{kind}.json is in {given or '--annotations'}"
        )
    if len(years) > 1:
        raise UserError(f"{given} holds annotations of 2014 and of 2017; choose one with --year")
    chosen = years.pop()
    by_split = {match[1]: file for match, file in sorted(named, key=str) if int(match[2]) == chosen}
    for split in ("train", "val"):
        if split not in by_split and not partial:
            raise UserError(
                f"instances_{split}{chosen}.json is not in {given}; give it, or --partial to do without a split"
            )
    return chosen, dict(sorted(by_split.items()))


def require_whole(ids: _Ids) -> None:
    """Raise UserError unless train and val of 2014 have the published counts and, if the project has their list, its
    ids."""
    for split in ("train", "val"):
        if len(ids[split]) != COUNTS[split]:
            raise UserError(
                f"{split}2014 has {len(ids[split])} images with an object, but should have {COUNTS[split]}; download "
                "the annotations again, or give --partial to prepare a part of COCO"
            )
        path = project_root() / "data" / "lists" / "coco" / f"{split}.txt"
        published = {number_of(name) for name in names.read_lines(path)} if path.is_file() else set(ids[split])
        if differ := published ^ set(ids[split]):
            raise UserError(
                f"{len(differ)} image ids of {split}2014 differ from the published list {path}, first {min(differ)}; "
                "download the annotations again, or give --partial"
            )


def prepare(
    annotations: Mapping[str, Path],
    images: Mapping[str, Path],
    root: Path,
    workers: int | None = 0,
    lists: Callable[[_Ids], _Ids] = dict,
) -> Path:
    """Make a VOC-format set at `root` from instances_*.json and image folders, both by split, and return `root`.

    The docstring of `PrepareCoco` describes the set. `lists` gets the ids by split before anything is written and
    returns those to write; it may raise to refuse them. `workers` is that of `pool.stream`. Raises UserError for a
    missing or broken file.
    """
    try:
        card = {"version": 1, "annotations": {split: sha256(path) for split, path in annotations.items()}}
    except OSError as error:
        raise UserError(
            f"the annotations {error.filename} cannot be read ({error.strerror}); name the file or its folder"
        ) from None
    if root.exists():
        return _accept(root, card)
    classes, photos = _read(annotations)
    written = lists({split: [photo.name for photo in rows] for split, rows in photos.items()})
    for split, rows in photos.items():
        _require_photographs(images[split], rows)
    with _growing(root, card) as scratch:
        for split, rows in photos.items():
            write = partial(_write_photo, scratch, images[split], len(classes))
            done = stream(write, rows, workers, chunk=8)
            done = tqdm(done, f"rasterise {split}", len(rows), unit="image", leave=False)
            try:
                deque(done, maxlen=0)
            except UserError as error:
                raise UserError(
                    f"{error}; finished files are kept in {scratch}, run the command again to continue"
                ) from error
        voc.write_texts(scratch, _texts(classes, [photo for rows in photos.values() for photo in rows]), written)
    return root


def _texts(classes: tuple[str, ...], photos: Sequence[Photo]) -> dict[str, list[str]]:
    """Return the lines of the set's text files: classes, image labels, and classes that an image shows only as a
    crowd."""
    texts: dict[str, list[str]] = {"classes.txt": list(classes), voc.LABEL_FILE: [], voc.CROWD_FILE: []}
    for photo in photos:
        shown, crowds = photo.numbers(), photo.numbers(crowd=True)
        for name, numbers in ((voc.LABEL_FILE, shown), (voc.CROWD_FILE, crowds - shown)):
            row = " ".join([photo.name, *(classes[number - 1] for number in sorted(numbers))])
            texts[name] += [row] if numbers else []
    return texts


def _read(annotations: Mapping[str, Path]) -> tuple[tuple[str, ...], dict[str, list[Photo]]]:
    """Return the classes, and by split the photographs that have an object."""
    photos: dict[str, list[Photo]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for split, path in annotations.items():
        classes[split], rows = instances.read(path)
        photos[split] = [photo for photo in rows if photo.numbers()]
        if not photos[split]:
            raise UserError(f"no image of the split {split} has an object; check {path}")
    if len(set(classes.values())) > 1:
        raise UserError(
            f"the categories of {' and '.join(map(str, annotations.values()))} differ; give files of one data set"
        )
    name, times = Counter(photo.name for rows in photos.values() for photo in rows).most_common(1)[0]
    if times > 1:
        raise UserError(f"the image {name} is in two splits of the annotations; give files that share no image")
    return next(iter(classes.values())), photos


def _require_photographs(folder: Path, photos: Sequence[Photo]) -> None:
    """Raise UserError unless every photograph is a file of the folder."""
    try:
        there = {names.composed(entry.name) for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"the image folder {folder} cannot be read ({error.strerror}); name it with --images") from None
    missing = [photo.file for photo in photos if names.composed(photo.file) not in there]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(photos)} images with objects are not in {folder}, first {missing[0]}; unpack "
            "the whole archive there or name its folder with --images"
        )


@contextmanager
def _growing(root: Path, card: Mapping[str, Any]) -> Iterator[Path]:
    """Yield ROOT.partial, which becomes `root` at the end and stays if something goes wrong.

    Raises UserError if it exists and is something else.
    """
    scratch = root.with_name(f"{root.name}.partial")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        if (scratch / _CARD).exists():
            if read_json(scratch / _CARD) != card:
                raise UserError(
                    f"{scratch} is an unfinished set from other annotations; remove it or name another folder"
                )
        elif any(scratch.iterdir()):
            raise UserError(f"{scratch} exists, but is not an unfinished set; remove it or name another folder")
        else:
            write_json(scratch / _CARD, card)
        for folder in (_DRAFTS, "JPEGImages", "SegmentationClass", voc.LISTS):
            (scratch / folder).mkdir(parents=True, exist_ok=True)
        yield scratch
        shutil.rmtree(scratch / _DRAFTS)
        os.replace(scratch, root)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or scratch}: {error.strerror or error}") from error


def _accept(root: Path, card: Mapping[str, Any]) -> Path:
    """Return `root` if it holds the set of this card. Raises UserError."""
    if not (root / _CARD).is_file() or read_json(root / _CARD) != card:
        raise UserError(f"{root} exists and was not made from these annotations; remove it or name another folder")
    return root


def _write_photo(root: Path, images: Path, classes: int, photo: Photo) -> None:
    """Link one photograph and write its mask, unless sound ones are there. Raises UserError."""
    source, size = images / photo.file, photo.size[::-1]
    if not source.is_file():  # the json has its name in another of Unicode's forms
        source = names.find(images, source.stem, names.PHOTOGRAPHS) or source
    try:
        with pictures.opened(source) as image:
            stored = image.size
            image.draft("L", (1, 1))  # decodes a JPEG at an eighth of each side: fast, but to its last byte
            image.load()
            turn = pictures.orientation(image)
    except pictures.UNDECODABLE as error:
        raise UserError(f"{source} is not an image ({error}); unpack its archive again") from None
    upright = stored[::-1] if turn in pictures.SIDEWAYS else stored
    if upright != size:
        turned = f" upright, by its EXIF orientation ({turn})" if stored == size else ""
        advice = "unpack its archive again, and do not resize photographs"
        if turned:
            advice = "annotate it upright, or remove the orientation"
        raise UserError(
            f"{source} is {upright[0]}x{upright[1]}{turned}, but its annotations are for {size[0]}x{size[1]}; {advice}"
        )
    target = root / "JPEGImages" / (photo.name + source.suffix.lower())
    if not target.is_file() or target.stat().st_size != source.stat().st_size:
        with _draft(root, target) as draft:
            place(source, draft)
    path = root / "SegmentationClass" / f"{photo.name}.png"
    if path.is_file():
        with suppress(UserError):
            pictures.read_mask(path, size, classes)
            return
    with _draft(root, path) as draft:
        pictures.write_mask(draft, rasterise(photo.things, photo.size))


@contextmanager
def _draft(root: Path, target: Path) -> Iterator[Path]:
    """Yield a path in the unfinished set to write at; it is then moved onto `target`.

    This is like `atomic`, but without a folder for each file, which would take as long as a mask.
    """
    draft = root / _DRAFTS / f"{os.getpid()}-{target.name}"
    try:
        yield draft
        os.replace(draft, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
