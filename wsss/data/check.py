"""Look through a VOC-format data set: everything its lists name is decoded, every fault is named."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsss.data import voc
from wsss.paths import UserError


def check(root: Path, splits: Sequence[str] = ()) -> tuple[str, list[str]]:
    """A summary with a class histogram, and one sentence a fault. Raises UserError where there is nothing to check."""
    kit = voc.open_devkit(root)
    names = splits or sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not names:
        raise UserError(f"{root}/ImageSets/Segmentation holds no list; put one image id on each line of a NAME.txt")
    ids = {name: voc.read_ids(root, name) for name in names}
    histogram: Counter[str] = Counter()
    faults: list[str] = []
    for one in tqdm(sorted({name for split in ids.values() for name in split}), desc="check", unit="image"):
        try:
            labels = _look(kit, one)
        except UserError as error:
            faults.append(str(error))
        else:
            histogram.update(labels)
    faults += _shared(ids)
    lists = ", ".join(f"{name} {len(rows)}" for name, rows in ids.items())
    source = f"labels from {kit.label_source}, masks from {kit.mask_source or 'nowhere'}"
    rows = "\n".join(f"  {name:16} {histogram[name]:6} images" for name in kit.classes)
    return f"{root}: {lists}; {source}\n{rows}\n{len(faults)} faults", faults


def _look(kit: voc.Devkit, name: str) -> list[str]:
    """The image's labels; UserError at its first fault."""
    image = voc.read_image(voc.image_file(kit.root, name))
    labels = voc.read_labels(kit, [name])[0]
    path = kit.root / kit.mask_source / f"{name}.png"
    if kit.mask_source and path.is_file():
        present = np.unique(voc.read_mask(path, image.size, len(kit.classes)))
        seen = {int(value) - 1 for value in present if value not in (0, voc.IGNORE)}
        missing = seen - set(np.flatnonzero(labels).tolist())
        if missing:
            names = ", ".join(kit.classes[k] for k in sorted(missing))
            raise UserError(f"the mask {path} shows {names}, which the image labels of {name} do not name")
    return [kit.classes[k] for k in np.flatnonzero(labels)]


def _shared(ids: dict[str, list[str]]) -> list[str]:
    """Images that a training list shares with an evaluation list."""
    training = {one for name, split in ids.items() if name.startswith("train") for one in split}
    return [
        f"{len(both)} images of the list {name} are also trained on, first {min(both)}; take them out of one list"
        for name, split in ids.items()
        if name in ("val", "test") and (both := training & set(split))
    ]
