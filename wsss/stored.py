"""Read the configuration and the variant of runs on disk, also of runs by earlier versions."""

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
"""Change in the words of an earlier version -> the same change in today's words."""
_SHAPE = ("patch_size", "image_size", "width", "depth", "heads", "decoder_width")
_AUTOMATIC = {f"model.{name}": 0 for name in _SHAPE} | {"data.workers": -1, "segmentation.levels": [0.0, 0.0]}
"""Setting -> number that meant automatic in an earlier version; today that is None."""


def from_dict(tree: Any) -> Config:
    """Return the configuration from what `config.to_dict` gave, or from its JSON. Raises UserError.

    Settings of an earlier version are translated.
    """
    if not isinstance(tree, Mapping):
        raise UserError("the configuration is not a mapping of settings; train the run again")
    flat = paths(tree) | {"variant": current_variant(str(tree.get("variant", "")))}
    flat |= {path: None for path, number in _AUTOMATIC.items() if flat.get(path) == number}
    for path in ("msc.level", "msc.decoupling"):
        change = _RENAMED.get(f"{path}={flat.pop(path, 'both')}", "")
        flat |= dict(part.split("=") for part in change.split("+") if part)
    return override(Config(), flat)


def current_variant(variant: str) -> str:
    """Return a variant's name with its changes in today's words."""
    return "+".join(_RENAMED.get(part, part) for part in variant.split("+"))
