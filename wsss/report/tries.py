"""What was tried when the CPU presets were chosen: a table from the records of data/tries. No torch."""

from collections.abc import Sequence
from typing import Any

from wsss import presets, stored
from wsss.paths import project_root
from wsss.report import records
from wsss.report.records import Record
from wsss.report.table import ABSENT, Table
from wsss.settings import flatten

MEASURED = ("classification.map", "cam.miou_headline", "aux_cam.miou_headline", "segmentation.miou_headline")
ASIDE = (
    *presets.NOT_IN_VARIANT,
    "data.name",
    "data.val_split",
    "optim.steps",
    "model.checkpoint",
    "model.classifier_scale",
)
"""Settings that are not named among the changes: free ones, and those that have a column of their own."""


def find() -> list[Record]:
    """The records of data/tries."""
    return records.find(project_root() / "data" / "tries")


def table(dataset: str, runs: Sequence[Record]) -> Table:
    """A line for each try: its steps, results, what it started from, and what differs from the preset as it is now.

    `records` are not used: tries are never among the results.
    """
    own = sorted(
        (one for one in find() if one["dataset"] == dataset), key=lambda one: (one["date"], one["variant"], one["seed"])
    )
    rows = tuple(_line(one) for one in own)
    columns = (
        "try",
        "images",
        "steps",
        "mAP",
        "CAM",
        "aux CAM",
        "segm.",
        "preset, start, and settings other than the preset's",
    )
    note = "mIoU of the headline classes and mAP of all present ones, percent; one run each, named VARIANT/SEED. "
    note += "Records: data/tries."
    return Table(f"{dataset}: what was tried", columns, rows, note)


def _line(one: Record) -> tuple[str, ...]:
    model = one["config"]["model"]
    start = model["checkpoint"].removeprefix("data/weights/").removesuffix(".safetensors")
    start = start or (model["backbone"] if model["pretrained"] else "random weights")
    numbers = (f"{records.value(one, key):.1f}" if records.has(one, key) else ABSENT for key in MEASURED)
    changed = "".join(f", {path} {_short(x)}" for path, x in changes(one).items())
    images = f"{one['images']} {one['split']}"
    return (
        f"{one['variant']}/{one['seed']}",
        images,
        f"{one['steps']:,}",
        *numbers,
        f"{one['preset']}, {start}{changed}",
    )


def changes(one: Record) -> dict[str, Any]:
    """Settings of a record that its preset has otherwise today."""
    known = flatten(presets.PRESETS[one["preset"]])
    found = flatten(stored.from_dict(one["config"]))
    dead = () if presets.PRESETS[one["preset"]].needs else ("csa.", "msc.", "class_contrast.", "schedule.", "energy.")
    kept = {path: x for path, x in found.items() if path not in ASIDE and not path.startswith(dead)}
    return {path: x for path, x in kept.items() if x != known[path]}


def _short(value: Any) -> str:
    return " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else f"{value}"
