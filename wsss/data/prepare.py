"""`wsss data prepare voc`: VOC 2012 as papers train on it; `prepare animals`: some of its photographs at 320 pixels.

Masks of SBD are MATLAB files; if VOC has a mask of the same image, VOC's is used. The list train_aug is SBD's train and
val plus VOC's train, without VOC's val. Only images of the lists are taken over.

    JPEGImages  Annotations  SegmentationClass  SegmentationClassAug  ImageSets/Segmentation  image_labels.txt
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from wsss.config import IGNORE
from wsss.data import archives, voc
from wsss.data.names import read_lines
from wsss.data.pictures import read_image, read_mask, size_fault, value_fault, write_mask
from wsss.paths import UserError, atomic, project_root, read_json, write_json
from wsss.registry import DATASETS, VOC_CLASSES

_CARD = "prepared.json"
"""File that describes a prepared set; a folder without it was made otherwise and is left alone."""
_AUG = "SegmentationClassAug"
_LONGEST, _QUALITY = 320, 88
"""Longest side in pixels, and JPEG quality, of the photographs with animals."""
_Lists = Mapping[str, Sequence[str]]
"""Ids by split."""


@dataclass(frozen=True)
class PrepareVoc:
    """Build the benchmark's VOC 2012 at OUTPUT: photographs, annotations, masks of VOC and SBD, lists, image labels.

    Archives are read as they are. Unpacked folders will do, too; their files are then hard-linked. The lists are
    checked: 1,464 train, 10,582 train_aug, 1,449 val and, with --test, 1,456 test images.
    """

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """New folder, for example VOCdevkit/VOC2012; a set that this command made there before is left as it is."""
    voc: Path | None = None
    """VOCtrainval_11-May-2012.tar, or its folder."""
    sbd: Path | None = None
    """SBD's benchmark.tgz, or its folder."""
    test: Path | None = None
    """VOC2012test.tar, or its folder; it needs an account at the PASCAL VOC evaluation server. Without it there is no
    list test."""
    download: Path | None = None
    """Folder to fetch the archives to that --voc and --sbd do not name (gigabytes); they are verified, and those that
    are there are used."""
    partial: bool = False
    """Accept a part of VOC: counts and lists are not compared with the published ones. The word alone will do."""

    def __call__(self) -> str:
        """Build the set, whole or not at all, and return a summary. Raises UserError."""
        splits = [split for split in DATASETS["voc"].splits if split != "test" or self.test]
        if self.output.exists():
            return _summary(self.output, "voc", self.partial, splits)
        if self.download is None and None in (self.voc, self.sbd):
            raise UserError("wsss data prepare voc needs --voc PATH and --sbd PATH, or --download DIR to fetch them")
        paths = {"voc": self.voc, "sbd": self.sbd}
        for name, path in paths.items():
            if path is None and self.download:
                paths[name] = archives.fetch(archives.OFFICIAL[name], self.download)
        paths |= {"test": self.test} if self.test else {}
        with atomic(self.output) as scratch:
            folders = {}
            for name, path in paths.items():
                kind = archives.SBD if name == "sbd" else archives.TRAINVAL
                folders[name] = archives.unpack(path, kind, scratch.with_name(f"{scratch.name}-{name}"))
            try:
                notes = _build(scratch, folders, self.partial)
            except UserError as error:
                sentence = str(error)
                for name, path in paths.items():  # the user knows the archive, not where it was unpacked
                    sentence = sentence.replace(str(folders[name]), str(path)) if path.is_file() else sentence
                raise UserError(sentence) from error
        return "\n".join([_summary(self.output, "voc", self.partial, splits), *notes])


@dataclass(frozen=True)
class PrepareAnimals:
    """Build "VOC 2012 animals, 320 px" at OUTPUT from a VOC 2012 made by wsss data prepare voc."""

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """New folder; a set that this command made there before is left as it is."""
    root: Path
    """Folder of VOC 2012 that holds JPEGImages and SegmentationClassAug."""

    def __call__(self) -> str:
        """Build the set of the lists in data/lists/animals and return a summary. Raises UserError."""
        return prepare_animals(self.output, self.root)


def prepare_animals(output: Path, root: Path, ids: Path | None = None) -> str:
    """Build the set of animals at `output`, whole or not at all, and return a summary. Raises UserError.

    It has the photographs of the lists in the folder `ids`: longest side 320, Lanczos, JPEG quality 88. Masks are
    resized by nearest pixel.
    """
    splits = [*DATASETS["voc-animals"].splits]
    if output.exists():
        return _summary(output, "voc-animals", ids is not None, splits)
    for name in ("JPEGImages", _AUG):
        if not (root / name).is_dir():
            raise UserError(f"{root} must hold JPEGImages and {_AUG}; make them with wsss data prepare voc")
    folder = ids or project_root() / "data" / "lists" / "animals"
    lists = {split: _read_list(folder / f"{split}.txt") for split in splits}
    names = sorted({name for members in lists.values() for name in members})
    kit = voc.open_devkit(root)
    if kit.label_source == "masks":
        raise UserError(f"{root} holds neither Annotations nor {voc.LABEL_FILE}; make them with wsss data prepare voc")
    with atomic(output) as scratch:
        for name in ("JPEGImages", _AUG, voc.LISTS):
            (scratch / name).mkdir(parents=True)
        rows = _label_rows(kit, names)
        for name in tqdm(names, desc="read photographs and masks", unit="image", leave=False):
            image, mask = voc.read_pair(kit, name)
            size = _reduced_size(image.size)
            image.resize(size, Image.Resampling.LANCZOS).save(scratch / f"JPEGImages/{name}.jpg", quality=_QUALITY)
            small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
            write_mask(scratch / _AUG / f"{name}.png", np.asarray(small))
        _write_texts(scratch, "voc-animals", ids is not None, lists, rows)
    return _summary(output, "voc-animals", ids is not None, splits)


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height with the longest side 320, the other one rounded and at least one pixel."""
    width, height = (max(round(side * _LONGEST / max(size)), 1) for side in size)
    return width, height


def check_lists(lists: _Lists) -> None:
    """Compare counts, then ids with data/lists/voc if that folder is there. Raises UserError if they differ."""
    published = project_root() / "data" / "lists" / "voc"
    for split, ids in lists.items():
        count = DATASETS["voc"].splits[split]
        if len(ids) != count:
            raise UserError(
                f"the list {split} has {len(ids):,} images, but VOC 2012 with SBD has {count:,}; give the complete "
                "archives, or --partial for a part of VOC"
            )
        if published.is_dir() and (other := set(ids) ^ set(read_lines(published / f"{split}.txt"))):
            raise UserError(
                f"the list {split} differs from the published one: {len(other)} ids are in only one of them, first "
                f"{min(other)}; give the official archives, or --partial"
            )


def _summary(output: Path, name: str, partial: bool, splits: Sequence[str]) -> str:
    """Return a line about the set at `output`. Raises UserError if another set is there, or if it lacks a split."""
    if not (output / _CARD).is_file():
        raise UserError(f"{output} exists and was not made by wsss data prepare; choose another OUTPUT")
    card, wanted = read_json(output / _CARD), {"set": name, "partial": partial}
    if not isinstance(card, dict) or not wanted.items() <= card.items():
        raise UserError(f"{output} holds another set ({card}), not {wanted}; choose another OUTPUT")
    missing = [split for split in splits if not (output / voc.LISTS / f"{split}.txt").is_file()]
    if missing:
        raise UserError(f"{output} was made without {', '.join(missing)}; delete it or choose another OUTPUT")
    return f"{output}: " + ", ".join(f"{split} {len(voc.read_ids(output, split))}" for split in splits)


def _read_list(path: Path) -> list[str]:
    """Read the ids of an official list. Raises UserError."""
    if not path.is_file():
        raise UserError(f"the list {path} does not exist; give the complete download")
    ids = [re.sub(r"\s+-?[01]$", "", line) for line in read_lines(path)]  # lines in the list of a class end in a flag
    odd = next((name for name in ids if not re.fullmatch(r"[\w-]+", name)), None)
    if odd is not None or not ids or len(set(ids)) < len(ids):
        fault = f"names {odd[:20]!r}, which is not an id" if odd else "names an image twice" if ids else "is empty"
        raise UserError(f"the list {path} {fault}; download it again")
    return ids


def _build(root: Path, folders: Mapping[str, Path], partial: bool) -> list[str]:
    """Write VOC below `root` from the folders voc, sbd and perhaps test; return notes for the user."""
    train, val = (_read_list(folders["voc"] / voc.LISTS / f"{split}.txt") for split in ("train", "val"))
    extra = {name for split in ("train", "val") for name in _read_list(folders["sbd"] / f"{split}.txt")}
    lists = {"train": train, "train_aug": sorted(extra.union(train).difference(val)), "val": val}
    lists |= {"test": _read_list(folders["test"] / voc.LISTS / "test.txt")} if "test" in folders else {}
    if not partial:
        check_lists(lists)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", _AUG, voc.LISTS):
        (root / name).mkdir(parents=True)
    listed, names = {*train, *val}, sorted({*val, *lists["train_aug"]})
    rows = _label_rows(voc.Devkit(folders["voc"], VOC_CLASSES, "SegmentationClass", "annotations"), names)
    for name in tqdm(names, "read photographs and masks", unit="image", leave=False):
        size = _place_photograph(folders["voc"], name, root)
        archives.place(folders["voc"] / f"Annotations/{name}.xml", root / f"Annotations/{name}.xml")
        path = folders["voc"] / "SegmentationClass" / f"{name}.png"
        if path.is_file():
            mask = read_mask(path, size, len(VOC_CLASSES))
            write_mask(root / "SegmentationClass" / path.name, mask)
        elif name in listed:
            raise UserError(f"VOC lists {name}, but {path} does not exist; give the complete download")
        else:
            mask = _read_sbd(folders["sbd"] / "cls" / f"{name}.mat", size)
        write_mask(root / _AUG / path.name, mask)
    for name in tqdm(lists.get("test", ()), "read test photographs", unit="image", leave=False):
        if not (root / "JPEGImages" / f"{name}.jpg").exists():
            _place_photograph(folders["test"], name, root)
    _write_texts(root, "voc", partial, lists, rows)
    published = project_root() / "data" / "lists" / "voc" / voc.LABEL_FILE
    other = sorted(set(rows) - set(read_lines(published))) if published.is_file() and not partial else []
    return [
        f"note: image labels of {len(other)} images differ from {published.name}, first {row.split()[0]}"
        for row in other[:1]
    ]


def _place_photograph(folder: Path, name: str, root: Path) -> tuple[int, int]:
    """Take a photograph over if it can be decoded, and return its size."""
    path = voc.image_file(folder, name)
    size = read_image(path).size
    archives.place(path, root / "JPEGImages" / path.name)
    return size


def _label_rows(kit: voc.Devkit, names: Sequence[str]) -> list[str]:
    """Return the lines of image_labels.txt: each id with its classes in the order of the set."""
    labels = voc.read_labels(kit, names)
    shown = [[kit.classes[k] for k in np.flatnonzero(row)] for row in labels]
    return [" ".join([name, *classes]) for name, classes in zip(names, shown, strict=True)]


def _read_sbd(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return SBD's mask of class numbers for a photograph of `size` (width, height). Raises UserError."""
    if not path.is_file():
        raise UserError(f"SBD lists {path.stem}, but {path} does not exist; download SBD again")
    try:
        with path.open("rb") as file:
            mask = np.asarray(loadmat(file)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # whatever scipy's parser stumbles over in a broken file
        fault = f"holds no readable GTcls.Segmentation ({type(error).__name__}: {error})"
        raise UserError(f"{path} {fault}; download SBD again") from error
    if mask.ndim != 2 or mask.dtype.kind not in "iu" or ((mask < 0) | (mask > IGNORE)).any():
        raise UserError(f"{path} holds {mask.dtype} of shape {mask.shape}, not a mask; download SBD again")
    mask = mask.astype(np.uint8)
    if sentence := size_fault(path, mask, size, None) or value_fault(path, mask, len(VOC_CLASSES)):
        raise UserError(sentence)
    return mask


def _write_texts(root: Path, name: str, partial: bool, lists: _Lists, labels: Sequence[str]) -> None:
    """Write the lists, image labels and card of a set."""
    voc.write_texts(root, {voc.LABEL_FILE: labels}, lists)
    counts = {split: len(members) for split, members in lists.items()}
    write_json(root / _CARD, {"set": name, "partial": partial, "images": counts})
