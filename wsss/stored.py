"""Read the configuration, variant and folder of runs on disk, those of earlier versions too."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss.config import Config
from wsss.paths import UserError
from wsss.presets import LONGEST, PRESETS
from wsss.settings import current, flatten, override, paths


def from_dict(tree: Any) -> Config:
    """Rebuild the configuration that `config.to_dict`, or its JSON, came from. Settings of an earlier version are
    translated. Raises UserError."""
    if not isinstance(tree, Mapping):
        raise UserError("the configuration is no mapping of settings; train the run again")
    today = current(paths(tree))
    return override(Config(), today | {"variant": current_variant(str(tree.get("variant", "")))})


def current_variant(variant: str) -> str:
    """Translate a variant's name into today's settings. A name that is cut off, or not PRESET+PATH=VALUE..., stays."""
    name, *parts = re.split(r"\+(?=[a-z_.]+=)", variant)
    old = dict(part.split("=", 1) for part in parts)
    new = current(old)
    if new == old or name not in PRESETS or len(variant) == LONGEST:
        return variant
    preset = flatten(PRESETS[name])
    changed = [path for path in preset if path in new and new[path] != preset[path]]
    return "+".join([name, *(f"{path}={new[path]}" for path in changed)])


def run_folder(parent: Path, variant: str, seed: int) -> Path:
    """Return the folder PARENT/VARIANT/SEED, or that of the variant's earlier name if only that one exists.

    The run's record is the same path with .json.
    """
    folder = parent / variant / str(seed)
    if not (folder.exists() or folder.with_name(f"{seed}.json").exists()):
        for old in sorted(parent.glob("*+*")):
            if current_variant(old.name) == variant and ((old / str(seed)).exists() or (old / f"{seed}.json").exists()):
                return old / str(seed)
    return folder
