"""`wsss submit RUN`: the predictions of VOC's test images, packed as the PASCAL VOC evaluation server takes them."""

import gzip
import io
import tarfile
from pathlib import Path

from tqdm import tqdm

from wsss.data import names
from wsss.data.pictures import read_image
from wsss.data.voc import Split
from wsss.inference import predictions
from wsss.paths import UserError, atomic
from wsss.registry import VOC_CLASSES
from wsss.report import records

_MEMBERS = "results/VOC2012/Segmentation/comp6_test_cls"
"""Folder in the archive: competition 6, segmentation with other training data than VOC's own."""


def require_voc_test(images: Split) -> None:
    """Raise UserError unless these are VOC's test images and classes."""
    known = records.split_ids("voc-test")
    others = sorted(set(known) ^ set(images.ids))
    if others:
        where = "is not in the list" if others[0] in set(known) else "is not one of them"
        raise UserError(
            f"VOC's test has {len(known):,} images, but {images.kit.root} lists {len(images.ids):,} in {images.name}, "
            f"and {others[0]} {where}; --partial packs them anyway"
        )
    if images.kit.classes != VOC_CLASSES:
        raise UserError(f"{images.kit.root} has other classes than VOC; the server knows only VOC's")


def _validate(folder: Path, images: Split) -> None:
    """Raise UserError, naming up to three faults, unless `folder` holds exactly one right PNG for each image. A right
    PNG has the image's size, VOC's palette, and only classes as values."""
    classes, faults = len(images.kit.classes) + 1, []
    for name, file in zip(images.ids, tqdm(images.files, desc="check", unit="image", leave=False), strict=True):
        faults.append(predictions.fault(folder / f"{name}.png", read_image(file).size, classes))
    there = names.files(folder, names.MASKS)
    faults += [f"{path} belongs to no image of the list" for name, path in there.items() if name not in set(images.ids)]
    faults = [fault for fault in faults if fault]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"nothing was packed: {'; '.join(faults[:3])}{more}")


def pack(folder: Path, images: Split, output: Path) -> None:
    """Check the PNGs of `folder` and write them to the .tar.gz `output`, whole or not at all.

    The same PNGs give the same bytes: members are sorted by name and have no times or owners. Raises UserError.
    """
    _validate(folder, images)
    with (
        atomic(output) as scratch,
        open(scratch, "wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(images.ids):
            data = (folder / f"{name}.png").read_bytes()
            member = tarfile.TarInfo(f"{_MEMBERS}/{name}.png")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
