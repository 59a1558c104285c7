"""The data sets that the project knows by name, one row each; everything else about them derives from it. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """A data set that presets, records and tables know by its name."""

    title: str
    classes: int
    """Number of foreground classes."""
    splits: Mapping[str, int]
    """List -> number of images: those to draw for a drawn set, else those of the published list."""
    names: tuple[str, ...] = ()
    """Names of the classes; empty if the set's classes.txt has them."""
    drawn: bool = False
    """Whether the package draws it at data/NAME; any other set is prepared by `wsss data prepare`."""
    lists: str = ""
    """Folder of its published lists below data/lists, and WHAT in `wsss data prepare WHAT`; empty if drawn."""
    variable: str = ""
    """Environment variable with its root; a drawn set has none."""
    protocol: str = "voc"
    """The final protocol that the literature reports (`wsss.protocols`)."""
    benchmark: bool = False
    """Whether the literature reports numbers on it; the page 'What runs cost' estimates its runs."""
    smoke: bool = False
    """Whether it only shows that everything runs; it is in no table of settings."""


DATASETS: Mapping[str, DataSet] = {
    "voc": DataSet(
        title="PASCAL VOC 2012",
        classes=len(VOC_CLASSES),
        names=VOC_CLASSES,
        splits={"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456},
        lists="voc",
        variable="WSSS_VOC_ROOT",
        benchmark=True,
    ),
    "coco": DataSet(
        title="MS COCO 2014",
        classes=80,
        splits={"train": 82081, "val": 40137, "val_part": 5000},
        lists="coco",
        variable="WSSS_COCO_ROOT",
        protocol="coco",
        benchmark=True,
    ),
    "voc-animals": DataSet(
        title="VOC 2012 animals, 320 px",
        classes=len(VOC_CLASSES),
        names=VOC_CLASSES,
        splits={"train": 437, "train_aug": 3131, "val": 300},
        lists="animals",
        variable="WSSS_ANIMALS_ROOT",
    ),
    "mini": DataSet("mini (drawn)", 9, {"train": 1000, "val": 200, "test": 200}, drawn=True),
    "smoke": DataSet("smoke (drawn, a few images)", 9, {"train": 24, "val": 8, "test": 8}, drawn=True, smoke=True),
    "mini-coco": DataSet(
        "mini as COCO (drawn; a smoke test)", 9, {"train": 160, "val": 40}, drawn=True, protocol="coco", smoke=True
    ),
}
"""Every data set by name."""
BENCHMARKS = tuple(name for name, known in DATASETS.items() if known.benchmark)
"""Names of the data sets that the paper reports."""
SUPERVISED = "-fully-supervised"
"""Suffix of the data set's name in records of runs that learn from masks, so that no table of this task takes them."""


def title(name: str) -> str:
    """Return the title of a data set in tables; a user's own set goes by its name."""
    known = name.removesuffix(SUPERVISED)
    return (DATASETS[known].title if known in DATASETS else known) + ", fully supervised" * (known != name)
