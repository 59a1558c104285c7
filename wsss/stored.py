"""Read the configuration and the variant of runs on disk, those of earlier versions too."""

from collections.abc import Mapping
from typing import Any

from wsss.config import Config
from wsss.paths import UserError
from wsss.settings import override, paths

_RENAMED = {
    "msc.level=class": "msc.patch_weight=0.0",
    "msc.level=patch": "class_contrast.weight=0.0",
    "msc.decoupling=none": "msc.orthogonality_weight=0.0+msc.decorrelation_weight=0.0",
    "msc.decoupling=orth": "msc.decorrelation_weight=0.0",
    "msc.decoupling=dec": "msc.orthogonality_weight=0.0",
}
"""Changes in the words of an earlier version -> in today's."""
_SHAPE = ("patch_size", "image_size", "width", "depth", "heads", "decoder_width")
_AUTOMATIC = {f"model.{name}": 0 for name in _SHAPE} | {"data.workers": -1, "segmentation.levels": [0.0, 0.0]}
"""Setting -> the number that once stood for automatic, which is None today."""


def from_dict(tree: Any) -> Config:
    """Rebuild the configuration that `config.to_dict`, or its JSON, came from. Settings of an earlier version are
    translated. Raises UserError."""
    if not isinstance(tree, Mapping):
        raise UserError("the configuration is no mapping of settings; train the run again")
    flat = paths(tree) | {"variant": current_variant(str(tree.get("variant", "")))}
    flat |= {path: None for path, number in _AUTOMATIC.items() if flat.get(path) == number}
    for path in ("msc.level", "msc.decoupling"):
        change = _RENAMED.get(f"{path}={flat.pop(path, 'both')}", "")
        flat |= dict(part.split("=") for part in change.split("+") if part)
    return override(Config(), flat)


def current_variant(variant: str) -> str:
    """Translate the changes in a variant's name to today's words."""
    return "+".join(_RENAMED.get(part, part) for part in variant.split("+"))
