"""State of a run's folder: empty, interrupted, or finished."""

from pathlib import Path
from typing import Any

from wsss import checkpoint, settings
from wsss.config import Config
from wsss.data import identity
from wsss.paths import UserError
from wsss.report import records


def finished(folder: Path, config: Config, resume: bool, root: Path, data: records.Data) -> dict[str, Any] | None:
    """The record of a finished run; UserError where the folder holds another configuration or other data.

    A folder with neither record nor checkpoint has nothing to lose and is taken over.
    """
    path = folder.with_suffix(".json")
    if not (path.is_file() or checkpoint.latest(folder)):
        return None
    if not resume:
        raise UserError(f"{folder} holds a run already; leave --no-resume out, or choose another --output or --seed")
    before, now = _comparable(checkpoint.configuration(folder)), _comparable(config)
    if before != now:
        changed = [path for path in now if before.get(path) != now[path]]
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed[:3])}); choose another --output or --variant"
        )
    identity.require_same(folder, data, root)
    record = records.load(path) if path.is_file() else None
    checkpoint.require_same_start(folder, config, record)
    run = ("training", config.variant, config.seed)
    if record and (record["protocol"].get("name"), record["variant"], record["seed"]) != run:
        raise UserError(f"{path} is the record of another run; move it away, and the same words evaluate this run anew")
    return record if checkpoint.latest(folder) in (None, config.optim.steps) else None  # older versions evaluated any


def _comparable(config: Config) -> dict[str, Any]:
    return {
        path: value
        for path, value in settings.flatten(config).items()
        if path not in ("output", "data.workers", "data.root", "data.watch")
    }
