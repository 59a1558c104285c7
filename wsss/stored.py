"""Runs as they lie on disk, those of earlier versions included: configuration, variant, folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss.config import Config
from wsss.paths import UserError
from wsss.presets import LONGEST, PRESETS
from wsss.settings import current, flatten, override, paths


def from_dict(tree: Any) -> Config:
    """The configuration that `config.to_dict` (or its JSON) came from, that of an earlier version in today's words.

    Raises UserError.
    """
    if not isinstance(tree, Mapping):
        raise UserError("the configuration is no mapping of settings; train the run again")
    today = current(paths(tree))
    return override(Config(), today | {"variant": current_variant(str(tree.get("variant", "")))})


def current_variant(variant: str) -> str:
    """A variant's name in today's words; one that is cut off, or no PRESET+PATH=VALUE..., stays as it is."""
    name, *parts = re.split(r"\+(?=[a-z_.]+=)", variant)
    old = dict(part.split("=", 1) for part in parts)
    new = current(old)
    if new == old or name not in PRESETS or len(variant) == LONGEST:
        return variant
    preset = flatten(PRESETS[name])
    changed = [path for path in preset if path in new and new[path] != preset[path]]
    return "+".join([name, *(f"{path}={new[path]}" for path in changed)])


def run_folder(parent: Path, variant: str, seed: int) -> Path:
    """PARENT/VARIANT/SEED, or the folder of that run by the variant's name in an earlier version where that alone is.

    The run's record is the same path with .json.
    """
    folder = parent / variant / str(seed)
    if not (folder.exists() or folder.with_name(f"{seed}.json").exists()):
        for old in sorted(parent.glob("*+*")):
            if current_variant(old.name) == variant and ((old / str(seed)).exists() or (old / f"{seed}.json").exists()):
                return old / str(seed)
    return folder
