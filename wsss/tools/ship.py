"""`python -m wsss.tools.ship RUN NAME`: a finished run's weights in half precision, with a card, to data/weights."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from wsss import checkpoint, datasets, evaluate, metrics, presets, stored, tally
from wsss.command import parse
from wsss.data import identity, sets
from wsss.inference import runs
from wsss.paths import UserError, project_root, write_json
from wsss.report import records

LIMIT = 13_000_000
"""Bytes of a file that may be shipped."""
NUMBERS = (
    *("classification.map_headline", "cam.miou_headline", "aux_cam.miou_headline", "segmentation.miou_headline"),
    *("pseudo_label.miou_headline", "segmentation.miou"),
)


OUTLINED = ("cat", "cow", "dog", "horse", "sheep")
"""Of these classes (of all, where the set has none) the card tells in how many images the largest is outlined."""


@dataclass(frozen=True)
class Ship:
    """Write a finished run's last weights in half precision, and a card that says where they come from."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Of the files: NAME.safetensors and NAME.json."""
    data_root: str = ""
    """Where the data set lies, if it has moved."""
    output: Path | None = None
    """Folder of the files; None: data/weights of the project."""


def ship(asked: Ship) -> Path:
    """Write the weights, evaluate what was written, then write the card; returns the weights' path.

    Raises UserError for a run without a record, one of an uncommitted tree, other data than the run's, and weights of
    more than 13 MB.
    """
    opened = runs.open_run(asked.run, data_root=asked.data_root)
    record = records.load(opened.folder.with_name(f"{opened.folder.name}.json"))
    if record["dirty"]:
        raise UserError(
            f"{records.describe(record)} was made on a tree with uncommitted changes; commit and run it again"
        )
    root = sets.locate(opened.config.data)
    split = datasets.Split(root, opened.config.data.val_split, masks=True)
    path = opened.folder.with_name(f"{opened.folder.name}.json")
    digests = identity.digests(split)
    data = identity.evaluated(opened.folder, opened.config.data, (root, split.name), digests, path)
    if data.differ:
        raise UserError(f"{root} holds other data than those of {opened.folder}: {data.differ} differ; see --data-root")
    model = opened.model(len(split.kit.classes), torch.device("cpu")).half()
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size > LIMIT:
        raise UserError(f"the weights of {records.describe(record)} take {size / 1e6:.0f} MB; a file may have 13")
    path = (asked.output or project_root() / "data" / "weights") / f"{asked.name}.safetensors"
    digest = checkpoint.write_weights(model, path, model.metadata())
    checkpoint.fill(model.float(), checkpoint.read(path), str(path))
    model.adopt(checkpoint.metadata(path))
    counted = evaluate.tally(model, split, opened.config, torch.device("cpu"))
    found = {"results": tally.scores(counted, split.kit.classes, opened.config.data.headline)}
    objects = [place for place, name in enumerate(split.kit.classes, 1) if name in OUTLINED]
    objects = objects or list(range(1, len(split.kit.classes) + 1))
    seen = {
        "named": metrics.named_share(np.array(counted.labels), np.array(counted.logits)),
        "outlined": metrics.outlined_share(np.array(counted.counts["segmentation"]), objects),
    }
    write_json(path.with_suffix(".json"), card(record, found, digest) | {"images_in_percent": seen})
    return path


def card(record: dict[str, Any], found: dict[str, Any], digest: str) -> dict[str, Any]:
    """What the file is, how to make it again, and its numbers: of the run, and of the file itself."""
    described, config = dict(record) | found, stored.from_dict(record["config"])
    return {
        "sha256": digest,
        "record": f"data/results/{records.describe(record)}.json",
        "made_by": " ".join(["wsss train", *presets.words(config), "--data.root ROOT"]),
        **{name: record[name] for name in ("dataset", "variant", "seed", "steps", "backbone", "commit", "date")},
        "train_images": record["protocol"]["train_images"],
        "evaluated_on": f"{record['images']} images of {record['split']}",
        "protocol": record["protocol"],
        "run": {key: records.value(record, key) for key in NUMBERS},
        "this_file": {key: records.value(described, key) for key in NUMBERS},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        print(ship(parse(Ship, sys.argv[1:] if argv is None else argv, "python -m wsss.tools.ship")))
    except UserError as error:
        print(f"wsss: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
