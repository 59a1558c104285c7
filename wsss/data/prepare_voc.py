"""`wsss data prepare voc`: VOC 2012 with the masks of SBD, as papers train on it, from the official archives.

Masks of SBD are MATLAB files; where VOC has a mask of the same image, VOC's counts. The list train_aug is SBD's train
and val and VOC's train, less VOC's val. Only images of the lists are taken over.

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
from scipy.io import loadmat
from tqdm import tqdm

from wsss.command import parse
from wsss.config import IGNORE
from wsss.data import archives, download, voc
from wsss.data.pictures import write_mask
from wsss.paths import UserError, atomic, project_root, read_json, write_json
from wsss.registry import DATASETS

COUNTS = DATASETS["voc"].splits
MADE = "prepared.json"
"""What a prepared set says of itself; a folder without it was made by other hands and is left alone."""
IDS = Path("ImageSets") / "Segmentation"
AUG = "SegmentationClassAug"


@dataclass(frozen=True)
class PrepareVoc:
    """Build the benchmark's VOC 2012 at OUTPUT: photographs, annotations, masks of VOC and SBD, lists, image labels.

    Archives are read as they are; folders that they were unpacked to will do, and their files are then hard-linked.
    The lists are checked: 1,464 train, 10,582 train_aug, 1,449 val and, with --test, 1,456 test images.
    """

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """The new folder, VOCdevkit/VOC2012 say; a set that this command made there before is left as it is."""
    voc: Path | None = None
    """VOCtrainval_11-May-2012.tar, or its folder."""
    sbd: Path | None = None
    """SBD's benchmark.tgz, or its folder."""
    test: Path | None = None
    """VOC2012test.tar, or its folder: it needs an account at the PASCAL VOC evaluation server. Without it there is no
    list test."""
    download: Path | None = None
    """Folder to fetch what --voc and --sbd do not name to (gigabytes), verified; what is there already is used."""
    partial: bool = False
    """For a part of VOC: counts and lists are not held against the published ones. The word alone will do."""


@dataclass(frozen=True)
class Sources:
    """The three downloads, opened."""

    voc: archives.Source
    sbd: archives.Source
    test: archives.Source | None = None

    def rename(self, sentence: str) -> str:
        """A sentence about unpacked files as one about the archives that the user gave."""
        for one in (self.voc, self.sbd, self.test):
            sentence = one.rename(sentence) if one else sentence
        return sentence


def run(words: Sequence[str]) -> int:
    """`wsss data prepare voc ...`; returns the exit code. Raises UserError."""
    asked = parse(PrepareVoc, words, "data prepare voc")
    if not asked.output.exists() and asked.download is None and None in (asked.voc, asked.sbd):
        raise UserError("wsss data prepare voc needs --voc PATH and --sbd PATH, or --download DIR to fetch them")
    print(prepare(asked))
    return 0


def prepare(asked: PrepareVoc) -> str:
    """Build what was asked for, whole or not at all; returns a summary. Raises UserError."""
    splits = [split for split in COUNTS if split != "test" or asked.test]
    if asked.output.exists():
        return already(asked.output, {"set": "voc", "partial": asked.partial}, splits)
    paths = [asked.voc, asked.sbd]
    if asked.download:
        official = (download.VOC, download.SBD)
        pairs = zip(paths, official, strict=True)
        paths = [path or download.fetch(archive, asked.download) for path, archive in pairs]
    with atomic(asked.output) as scratch:
        kinds = (archives.VOC, archives.SBD)
        unpacked = [scratch.with_name(f"{scratch.name}-{name}") for name in ("voc", "sbd", "test")]
        found = [archives.source(*each) for each in zip(paths, kinds, unpacked, strict=False)]
        test = archives.source(asked.test, archives.VOC, unpacked[2]) if asked.test else None
        sources = Sources(*found, test)
        try:
            notes = _build(scratch, sources, asked.partial)
        except UserError as error:
            raise UserError(sources.rename(str(error))) from error
    return "\n".join([already(asked.output, {"set": "voc", "partial": asked.partial}, splits), *notes])


def already(output: Path, made: Mapping[str, object], splits: Sequence[str]) -> str:
    """A line on the set at `output`. Raises UserError if it was not made as `made` says, or lacks a split."""
    if not (output / MADE).is_file():
        raise UserError(f"{output} exists and was not made by wsss data prepare; choose another OUTPUT")
    found = read_json(output / MADE)
    missing = [split for split in splits if not (output / IDS / f"{split}.txt").is_file()]
    if not isinstance(found, dict) or found.get("set") != made["set"] or found.get("partial") != made["partial"]:
        raise UserError(f"{output} holds another set ({found}), not {dict(made)}; choose another OUTPUT")
    if missing:
        raise UserError(f"{output} was made without {', '.join(missing)}; delete it or choose another OUTPUT")
    return f"{output}: " + ", ".join(f"{split} {len(voc.read_ids(output, split))}" for split in splits)


def read_lists(sources: Sources) -> dict[str, list[str]]:
    """Ids by split; train_aug is sorted. Raises UserError."""
    train, val = (read_list(sources.voc.folder / IDS / f"{split}.txt") for split in ("train", "val"))
    extra = {one for split in ("train", "val") for one in read_list(sources.sbd.folder / f"{split}.txt")}
    lists = {"train": train, "train_aug": sorted(extra.union(train).difference(val)), "val": val}
    return lists | ({"test": read_list(sources.test.folder / IDS / "test.txt")} if sources.test else {})


def check_lists(lists: Mapping[str, Sequence[str]]) -> None:
    """Counts, then ids against data/lists/voc where that is at hand. Raises UserError."""
    published = project_root() / "data" / "lists" / "voc"
    for split, ids in lists.items():
        if len(ids) != COUNTS[split]:
            raise UserError(
                f"the list {split} has {len(ids):,} images, but VOC 2012 with SBD has {COUNTS[split]:,}; give the "
                "complete archives, or --partial for a part of VOC"
            )
        if published.is_dir() and (other := set(ids) ^ set(voc.read_lines(published / f"{split}.txt"))):
            raise UserError(
                f"the list {split} is not the published one: {len(other)} ids are in one of the two only, first "
                f"{min(other)}; give the official archives, or --partial"
            )


def read_sbd(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """SBD's mask of class numbers, of its photograph's `size` (width, height). Raises UserError."""
    if not path.is_file():
        raise UserError(f"SBD lists {path.stem}, but {path} does not exist; download SBD again")
    try:
        with path.open("rb") as file:
            mask = np.asarray(loadmat(file)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # whatever scipy's parser stumbles over in a broken file
        fault = f"holds no GTcls.Segmentation that can be read ({type(error).__name__}: {error})"
        raise UserError(f"{path} {fault}; download SBD again") from error
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise UserError(f"{path} holds {mask.dtype} of shape {mask.shape}, not a mask; download SBD again")
    if mask.shape[::-1] != size:
        raise UserError(
            f"the mask {path} is {mask.shape[1]}x{mask.shape[0]}, but its image is {size[0]}x{size[1]}; download SBD "
            "again"
        )
    wrong = mask[((mask < 0) | (mask > len(voc.VOC_CLASSES))) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(f"the mask {path} holds the value {wrong[0]}, which is no class of VOC; download SBD again")
    return mask.astype(np.uint8)


def read_list(path: Path) -> list[str]:
    """Ids of an official list. Raises UserError."""
    if not path.is_file():
        raise UserError(f"the list {path} does not exist; give the complete download")
    ids = [re.sub(r"\s+-?[01]$", "", line) for line in voc.read_lines(path)]  # lists of a class end in a flag
    odd = next((one for one in ids if not re.fullmatch(r"[\w-]+", one)), None)
    if odd is not None or not ids or len(set(ids)) < len(ids):
        fault = f"names {odd[:20]!r}, which is no id" if odd else "names an image twice" if ids else "is empty"
        raise UserError(f"the list {path} {fault}; download it again")
    return ids


def _build(root: Path, sources: Sources, partial: bool) -> list[str]:
    """Write the set below `root`; returns what the user should know of it."""
    lists = read_lists(sources)
    if not partial:
        check_lists(lists)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", AUG, IDS):
        (root / name).mkdir(parents=True)
    own, labels = {*lists["train"], *lists["val"]}, []
    ids = sorted(own.union(lists["train_aug"]))
    for name in tqdm(ids, desc="read photographs and masks", unit="image", leave=False):
        size = _place_photo(sources.voc, name, root)
        labels.append(_place_labels(sources.voc.folder, name, root))
        _place_masks(sources, name, root, (size, name in own))
    for name in tqdm(lists.get("test", ()), desc="read test photographs", unit="image", leave=False):
        if sources.test and not (root / "JPEGImages" / f"{name}.jpg").exists():
            _place_photo(sources.test, name, root)
    for split, members in lists.items():
        (root / IDS / f"{split}.txt").write_text("\n".join(members) + "\n")
    (root / voc.LABEL_FILE).write_text("\n".join(labels) + "\n")
    counts = {split: len(members) for split, members in lists.items()}
    write_json(root / MADE, {"set": "voc", "partial": partial, "images": counts})
    return [] if partial else _other_labels(labels)


def _place_photo(source: archives.Source, name: str, root: Path) -> tuple[int, int]:
    """Take a photograph over if it can be decoded; returns its size."""
    path = voc.image_file(source.folder, name)
    size = voc.read_image(path).size
    archives.place(path, root / "JPEGImages" / path.name)
    return size


def _place_labels(folder: Path, name: str, root: Path) -> str:
    """Take an annotation over; returns its line of image_labels.txt, classes in VOC's order."""
    path = folder / "Annotations" / f"{name}.xml"
    found = {item.findtext("name", "").strip() for item in voc.read_xml(path).iter("object")}
    if other := found - set(voc.VOC_CLASSES):
        raise UserError(f"{path} names the class {min(other)!r}, which is no class of VOC; download it again")
    archives.place(path, root / "Annotations" / path.name)
    return " ".join([name, *(label for label in voc.VOC_CLASSES if label in found)])


def _place_masks(sources: Sources, name: str, root: Path, photo: tuple[tuple[int, int], bool]) -> None:
    """VOC's mask in both folders, or SBD's in SegmentationClassAug; photo: its size, whether VOC must have a mask."""
    size, listed = photo
    path = sources.voc.folder / "SegmentationClass" / f"{name}.png"
    if listed and not path.is_file():
        raise UserError(f"VOC lists {name}, but {path} does not exist; give the complete download")
    if path.is_file():
        mask = voc.read_mask(path, size, len(voc.VOC_CLASSES))
        write_mask(root / "SegmentationClass" / path.name, mask)
    else:
        mask = read_sbd(sources.sbd.folder / "cls" / f"{name}.mat", size)
    write_mask(root / AUG / f"{name}.png", mask)


def _other_labels(labels: Sequence[str]) -> list[str]:
    """A note if image labels are not those of data/lists/voc."""
    path = project_root() / "data" / "lists" / "voc" / voc.LABEL_FILE
    other = sorted(set(labels) - set(voc.read_lines(path))) if path.is_file() else []
    first = f"first {other[0].split()[0]}" if other else ""
    return [f"note: image labels of {len(other)} images are not those of {path.name}, {first}"] if other else []
