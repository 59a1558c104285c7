"""Refusals of a run: before it begins (image sizes, what its folder holds) and while it goes (losses and weights that
are not finite)."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss import checkpoint, distributed, evaluate, host, settings
from wsss.config import Config
from wsss.data import identity
from wsss.paths import UserError, note
from wsss.report import records


def require_sizes(config: Config, patch: int) -> None:
    """Check every image size of a run against the patch of its network.

    UserError where an image is smaller than one patch, or the crop is no whole number of patches. Local crops that are
    no whole number of patches get a warning on stderr: only their class token is used.
    """
    least = min(1.0, *config.cam.scales)
    squashed = evaluate.evaluation_size(config)
    sides = {"augment.crop": config.augment.crop * least, "augment.evaluation_size": squashed * least}
    if "views" in config.needs:
        sides["augment.local_size"] = config.augment.local_size
    for path, side in sides.items():
        if side < patch:
            raise UserError(f"an image of {side:g} pixels is smaller than one patch of {patch}; raise --{path}")
    for path in [path for path in sides if path != "augment.evaluation_size"]:
        if rest := settings.get(config, path) % patch:
            size = settings.get(config, path)
            sentence = (
                f"{path} is {size}, no multiple of the patch of {patch} pixels, so that {rest} are dropped from every "
                f"crop; choose {size - rest} or {size - rest + patch} for --{path}"
            )
            if path == "augment.crop":
                raise UserError(sentence)
            note(f"warning: {sentence}")


def finished(folder: Path, config: Config, resume: bool, root: Path, data: records.Data) -> dict[str, Any] | None:
    """Return the record of a finished run; UserError where the folder holds another configuration or other data.

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


# Losses and weights.

Pending = tuple[list[str], Callable[[], dict[str, float]]]
"""Ids of a micro-batch, and what waits for the values of its terms."""


def values(terms: Mapping[str, Tensor]) -> Callable[[], dict[str, float]]:
    """Begin to copy all terms at once; the call that is returned waits for them, but not for a backward pass that has
    begun meanwhile."""
    names, copies = list(terms), host.fetch(torch.stack([*terms.values()]))
    return lambda: dict(zip(names, copies()[0].tolist(), strict=True))


def means(pending: Sequence[Pending], undefined: bool, step: int, folder: Path) -> tuple[dict[str, float | None], bool]:
    """Average every term over a step's micro-batches, None where it was never defined; and tell whether the
    segmentation loss was not in any process, which `undefined` allows (compat D5).

    UserError with step, term and image ids where any process has another loss that is not finite.
    """
    rows, broken, without = [(ids, wait()) for ids, wait in pending], [], False
    for ids, row in rows:
        wrong = [name for name, value in row.items() if not math.isfinite(value)]
        if undefined and wrong == ["segmentation"] and math.isnan(row["segmentation"]):
            without = True
        elif wrong:
            broken.append(f"{' and '.join(wrong)} on the images {', '.join(ids)}")
    number, without = distributed.all_reduce_sum(len(broken), without)
    if number:
        raise UserError(
            f"the loss is not finite at step {step}: {(broken or ['a term of another process'])[0]}; the last good "
            f"checkpoint in {folder} is untouched: lower --optim.lr, or look at these images"
        )
    defined = {name: [row[name] for _, row in rows if math.isfinite(row[name])] for name in rows[0][1]}
    return {name: sum(row) / len(row) if row else None for name, row in defined.items()}, bool(without)


def require_weights(model: nn.Module, step: int, folder: Path) -> None:
    """Raise UserError where the last update broke the weights, before they take the place of good ones."""
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"the weights are not finite after step {step}, first {broken[0]}; the last good checkpoint in {folder} is "
            "untouched: lower --optim.lr"
        )
