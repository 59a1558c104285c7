"""`wsss submit RUN`: the predictions of VOC's test images, packed as the PASCAL VOC evaluation server takes them."""

import gzip
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from wsss.data import names
from wsss.data.pictures import read_image
from wsss.data.voc import Split
from wsss.inference import predictions
from wsss.paths import UserError, atomic, is_first, note
from wsss.registry import VOC_CLASSES
from wsss.report import records

_MEMBERS = "results/VOC2012/Segmentation/comp6_test_cls"
"""Folder in the archive: competition 6, segmentation trained on other data than VOC's own."""


@dataclass(frozen=True)
class Submit:
    """Predict VOC's test images by the protocol voc with CRF, check every PNG, and pack them for the PASCAL VOC
    evaluation server: results/VOC2012/Segmentation/comp6_test_cls/ID.png in a .tar.gz. The same words go on with an
    interrupted one."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    split: str = "test"
    """List of the images."""
    output: Path | None = None
    """The archive; None: RUN/comp6_test_cls.tar.gz."""
    partial: bool = False
    """Take a list other than VOC's 1,456 test images, to try it out; the server refuses the archive. The word alone
    will do."""
    weights: str = "last"
    """last or best."""
    data_root: str = ""
    """Folder of VOC, if it has moved; it must hold the test photographs."""
    bfloat16: bool = False
    """Compute in bfloat16 where the device does."""
    longest: int | None = None
    """Only with --partial: photographs with a longer side above this are scaled down, their labels scaled back."""
    save: Path | None = None
    """Folder of the PNGs; None: RUN/predictions/PROTOCOL-SPLIT."""
    batch: int = 1
    """Images of one size that go through the network at once."""
    workers: int | None = None
    """Processes for the CRF; None: one a core, or fewer where memory is small; 0: none beside this one, which hears a
    stop only between two steps of a CRF."""

    def __call__(self) -> None:
        from wsss.inference import runs

        if self.longest and not self.partial:
            raise UserError(
                "--longest departs from the protocol of VOC's test; leave it out, or add --partial to try it out"
            )
        shared = {
            name: getattr(self, name) for name in ("weights", "data_root", "split", "bfloat16", "longest", "save")
        }
        request = runs.Request(self.run, batch=self.batch, workers=self.workers, **shared)
        check = None if self.partial else require_voc_test
        done = runs.run(request, truth=False, check=check)
        if is_first():
            output = self.output or self.run / "comp6_test_cls.tar.gz"
            pack(done.folder, done.images, output)
            print(f"{len(done.images.ids)} predictions, all checked: {output}")
            if done.other_data:
                note(f"note: {done.images.kit.root} is not the data of the run: {done.other_data} differ")


def require_voc_test(images: Split) -> None:
    """Raise UserError unless these are VOC's test images and classes."""
    known = records.split_ids("voc-test")
    others = sorted(set(known) ^ set(images.ids))
    if others:
        where = "is not in the list" if others[0] in set(known) else "is none of them"
        raise UserError(
            f"VOC's test has {len(known):,} images, but {images.kit.root} lists {len(images.ids):,} in {images.name}, "
            f"and {others[0]} {where}; --partial packs it all the same"
        )
    if images.kit.classes != VOC_CLASSES:
        raise UserError(f"{images.kit.root} has other classes than VOC; the server knows VOC's alone")


def _validate(folder: Path, images: Split) -> None:
    """Raise UserError, naming up to three faults, unless `folder` holds just one right PNG for each image: of its size,
    with VOC's palette, its values classes."""
    classes, faults = len(images.kit.classes) + 1, []
    for name, file in zip(images.ids, tqdm(images.files, desc="check", unit="image", leave=False), strict=True):
        faults.append(predictions.fault(folder / f"{name}.png", read_image(file).size, classes))
    there = names.files(folder, names.MASKS)
    faults += [f"{path} is of no image in the list" for name, path in there.items() if name not in set(images.ids)]
    faults = [fault for fault in faults if fault]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"nothing was packed: {'; '.join(faults[:3])}{more}")


def pack(folder: Path, images: Split, output: Path) -> None:
    """Check the PNGs of `folder` and write them to the .tar.gz `output`, whole or not at all.

    The same PNGs give the same bytes: members in the order of their names, without times and owners. Raises UserError.
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
