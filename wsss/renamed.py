"""Settings of earlier versions and their replacements today.

Configurations, records and variants on disk are read through this table; whoever types an old setting is told the new
one.
"""

import re
from collections.abc import Mapping
from typing import Any

Changes = dict[str, Any]

_SIZES = (
    *(f"model.{name}" for name in ("patch_size", "image_size", "width", "depth", "heads", "decoder_width")),
    "augment.evaluation_size",
)

RENAMED: dict[tuple[str, Any], Changes] = {
    ("msc.level", "class"): {"msc.patch_weight": 0.0},
    ("msc.level", "patch"): {"class_contrast.weight": 0.0},
    ("msc.level", "both"): {},
    ("msc.decoupling", "none"): {"msc.orthogonality_weight": 0.0, "msc.decorrelation_weight": 0.0},
    ("msc.decoupling", "orth"): {"msc.decorrelation_weight": 0.0},
    ("msc.decoupling", "dec"): {"msc.orthogonality_weight": 0.0},
    ("msc.decoupling", "both"): {},
    **{(path, (0,)): {path: None} for path in _SIZES},
    ("schedule.modules_start", (-1,)): {"schedule.modules_start": None},
    ("data.workers", (-1,)): {"data.workers": None},
    ("segmentation.levels", (0, 0)): {"segmentation.levels": None},
}
"""(Path, old value) -> settings of today; numbers stand in tuples."""


def current(changes: Mapping[str, Any]) -> Changes:
    """Settings by dotted path in today's words; those that have not changed as they are."""
    new = {path: replacement(path, value) for path, value in changes.items()}
    kept = {path: changes[path] for path, ways in new.items() if ways is None}
    return kept | {path: value for ways in new.values() for path, value in (ways or {}).items()}


def replacement(path: str, value: Any) -> Changes | None:
    """Today's settings for an old setting and its value; None if they are not old."""
    return RENAMED.get((path, _key(value)))


def advice(path: str, value: Any) -> str:
    """A sentence for whoever types a setting that is gone, with what to type now; empty for any other path."""
    new = replacement(path, value)
    ways = {key: changes for (known, key), changes in RENAMED.items() if known == path and path not in changes}
    if new is not None and ways:
        return f"{path} is gone: {_typed(new)}"
    return f"{path} is gone: " + "; ".join(f"for {key} {_typed(way)}" for key, way in ways.items()) if ways else ""


def _typed(changes: Changes) -> str:
    """What to type for settings of today."""
    return "type " + " ".join(f"--{path} {value:g}" for path, value in changes.items()) if changes else "leave it out"


def _key(value: Any) -> Any:
    """A word as it is, numbers as a tuple, however they are written: 0, "0.0", [0, 0], "(0.0,0.0)"."""
    text = re.sub(r"[\[\]() ]", "", str(value))
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return text
