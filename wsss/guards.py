"""Checks before a run begins: its image sizes, and what its folder holds."""

from pathlib import Path
from typing import Any

from wsss import checkpoint, settings
from wsss.config import Config
from wsss.data import identity
from wsss.paths import UserError, note
from wsss.presets import NOT_IN_VARIANT
from wsss.report import records


def require_sizes(config: Config, patch: int) -> None:
    """Check every image size of a run against the patch of its network.

    Raises UserError if an image is smaller than one patch, or if the crop is not a whole number of patches. For local
    crops the latter is only a warning on stderr, because only their class token is used.
    """
    augment, least = config.augment, min(1.0, *config.cam.scales)
    sides = {"augment.crop": augment.crop * least, "augment.evaluation_size": augment.squashed * least}
    if "views" in config.needs:
        sides["augment.local_size"] = augment.local_size
    for path, side in sides.items():
        if side < patch:
            raise UserError(f"an image of {side:g} pixels is smaller than one patch of {patch}; raise --{path}")
    for path in [path for path in sides if path != "augment.evaluation_size"]:
        if rest := settings.get(config, path) % patch:
            size = settings.get(config, path)
            sentence = (
                f"{path} is {size}, not a multiple of the patch of {patch} pixels, so the last {rest} rows and columns "
                f"of every crop are dropped; choose {size - rest} or {size - rest + patch} for --{path}"
            )
            if path == "augment.crop":
                raise UserError(sentence)
            note(f"warning: {sentence}")


def finished(folder: Path, config: Config, resume: bool, root: Path, data: records.Digests) -> dict[str, Any] | None:
    """Return the record of a finished run, or None.

    Raises UserError if the folder holds another configuration or other data. A folder with neither record nor
    checkpoint is used as if it were empty.
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
        raise UserError(
            f"{path} is the record of another run; move it away, then run the command again to evaluate this run"
        )
    # A record beside a checkpoint from before the last step is an older version's; the run goes on instead.
    return record if checkpoint.latest(folder) in (None, config.optim.steps) else None


def _comparable(config: Config) -> dict[str, Any]:
    # Folders, loader processes and intervals may change when a run goes on. The seed may not.
    return {
        path: value
        for path, value in settings.flatten(config).items()
        if path in ("seed", "name", "variant") or path not in NOT_IN_VARIANT
    }
