"""Settings of earlier versions, and what says the same today.

Configurations, records and variants on disk are read through this table; whoever types an old word is told the new one.
"""

import re
from collections.abc import Mapping
from typing import Any

Changes = dict[str, Any]

_AUTOMATIC = ("model.patch_size", "model.image_size", "model.width", "model.depth", "model.heads")

RENAMED: dict[tuple[str, Any], Changes] = {
    ("msc.level", "class"): {"msc.patch_weight": 0.0},
    ("msc.level", "patch"): {"class_contrast.weight": 0.0},
    ("msc.level", "both"): {},
    ("msc.decoupling", "none"): {"msc.orthogonality_weight": 0.0, "msc.decorrelation_weight": 0.0},
    ("msc.decoupling", "orth"): {"msc.decorrelation_weight": 0.0},
    ("msc.decoupling", "dec"): {"msc.orthogonality_weight": 0.0},
    ("msc.decoupling", "both"): {},
    **{(path, (0,)): {path: None} for path in (*_AUTOMATIC, "model.decoder_width", "augment.evaluation_size")},
    ("schedule.modules_start", (-1,)): {"schedule.modules_start": None},
    ("data.workers", (-1,)): {"data.workers": None},
    ("segmentation.levels", (0, 0)): {"segmentation.levels": None},
}
"""(Path, old value) -> settings of today; numbers stand in tuples."""


def current(changes: Mapping[str, Any]) -> Changes:
    """Settings by dotted path in today's words; those that have not changed as they are."""
    new = {path: replacement(path, value) for path, value in changes.items()}
    kept = {path: changes[path] for path, today in new.items() if today is None}
    return kept | {path: value for today in new.values() for path, value in (today or {}).items()}


def replacement(path: str, value: Any) -> Changes | None:
    """What stands for an old setting and its value today; None if they are no old ones."""
    return RENAMED.get((path, _key(value)))


def advice(path: str, value: Any) -> str:
    """A sentence for whoever types an old setting, with what to type now; empty if it is none."""
    choices = {key: today for (known, key), today in RENAMED.items() if known == path}
    today = replacement(path, value)
    if today == {}:
        return f"{path} is gone: leave it out, since {value} is what happens anyway"
    if today is not None:
        subject = f"{path} {value}" if path in today else path
        return f"{subject} is gone: type {_typed(today)}"
    if all(isinstance(key, str) for key in choices) and choices:
        ways = "; ".join(f"{_typed(today)} for {key}" for key, today in choices.items() if today)
        return f"{path} is gone: type {ways}"
    return ""


def _typed(today: Changes) -> str:
    return " ".join(f"--{path} {value if value is None else format(value, 'g')}" for path, value in today.items())


def _key(value: Any) -> Any:
    """A word as it is, numbers as a tuple, however they are written: 0, "0.0", [0, 0], "(0.0,0.0)"."""
    text = re.sub(r"[\[\]() ]", "", str(value))
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return text
