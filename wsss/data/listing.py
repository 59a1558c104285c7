"""The images of a split and, where it is there, their truth; their image labels stay unread: a test split has none."""

from dataclasses import dataclass
from pathlib import Path

from wsss.data import identity, names, voc


@dataclass(frozen=True)
class Listing:
    """Ids and files of a split, and its truth where all of it is there."""

    split: str
    root: Path
    classes: tuple[str, ...]
    """Without background."""
    ids: list[str]
    files: list[Path]
    masks: list[Path]
    """One an id, or none at all."""
    mask_source: str
    """Folder of the masks; empty where there are none."""

    def digests(self) -> identity.Digests:
        """Of the list's ids, classes and photographs, and of its masks where they are there."""
        return identity.digests(self.classes, dict(zip(self.ids, self.files, strict=True)), masks=self.masks)


def listing(root: Path, split: str, truth: bool = True) -> Listing:
    """A split of a VOC-format root; without `truth` its masks are left alone, too.

    Raises UserError, also where some of the masks are missing, but not all.
    """
    bare = (root / "JPEGImages").is_dir() and not any((root / name).exists() for name in _LABELLED)
    kit = voc.Devkit(root, voc.read_classes(root), "", "") if bare else voc.open_devkit(root)
    ids = voc.read_ids(root, split)
    files = [voc.image_file(root, name) for name in ids]
    folder = root / kit.mask_source
    there = kit.mask_source and any(names.find(folder, name, names.MASKS) for name in ids)
    masks = [voc.mask_file(kit, name) for name in ids] if truth and there else []
    return Listing(split, root, kit.classes, ids, files, masks, kit.mask_source if masks else "")


_LABELLED = (*voc.MASK_FOLDERS, voc.LABEL_FILE, "Annotations")
