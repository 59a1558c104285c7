"""`python -m wsss.tools.ship RUN NAME`: write a run's weights to data/weights, in half precision, with a card."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from wsss import checkpoint, command, datasets, evaluate, metrics, presets, stored, tally
from wsss.data import identity, sets
from wsss.inference import runs
from wsss.paths import UserError, project_root, write_json
from wsss.report import records
from wsss.report.records import Record

_LIMIT = 13_000_000
"""Bytes of a file that may be shipped."""
_NUMBERS = (
    *("classification.map_headline", "cam.miou_headline", "aux_cam.miou_headline", "segmentation.miou_headline"),
    *("pseudo_label.miou_headline", "segmentation.miou"),
)
_OUTLINED = ("cat", "cow", "dog", "horse", "sheep")
"""Classes that count in the card's share of images whose largest object is outlined; all, if the set has none of
them."""


@dataclass(frozen=True)
class Ship:
    """Write a finished run's last weights in half precision, evaluate them, and write a card that says where they come
    from. It refuses a run without a record or from an uncommitted tree, data other than the run's, and weights of more
    than 13 MB."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the files NAME.safetensors and NAME.json."""
    data_root: str = ""
    """Folder of the data set, if it has moved."""
    output: Path | None = None
    """Folder of the files; None: data/weights of the project."""

    def __call__(self) -> str:
        opened = runs.open_run(self.run, data_root=self.data_root)
        record, split = _checked(opened)
        model = opened.model(len(split.kit.classes), torch.device("cpu")).for_inference()
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        if size > _LIMIT:
            raise UserError(f"the weights of {records.describe(record)} take {size / 1e6:.0f} MB; the limit is 13")
        path = (self.output or project_root() / "data" / "weights") / f"{self.name}.safetensors"
        digest = checkpoint.write_weights(model, path, model.metadata())
        # Read back, so that the half precision of the file is what is measured.
        model = replace(opened, file=path).model(len(split.kit.classes), torch.device("cpu"))
        counted = evaluate.tally(model, split, opened.config, torch.device("cpu"))
        measured = record | {"results": tally.scores(counted, split.kit.classes, opened.config.data.headline)}
        objects = [place for place, name in enumerate(split.kit.classes, 1) if name in _OUTLINED]
        objects = objects or list(range(1, len(split.kit.classes) + 1))
        card = {
            "sha256": digest,
            "record": f"data/results/{records.describe(record)}.json",
            "made_by": _command(record),
            **{name: record[name] for name in ("dataset", "variant", "seed", "steps", "backbone", "commit", "date")},
            "train_images": record["protocol"]["train_images"],
            "evaluated_on": f"{record['images']} images of {record['split']}",
            "protocol": record["protocol"],
            "run": {key: records.value(record, key) for key in _NUMBERS},
            "this_file": {key: records.value(measured, key) for key in _NUMBERS},
            "images_in_percent": {
                "named": metrics.named_share(np.array(counted.labels), np.array(counted.logits)),
                "outlined": metrics.outlined_share(np.array(counted.counts["segmentation"]), objects),
            },
        }
        write_json(path.with_suffix(".json"), card)
        return str(path)


def _command(record: Record) -> str:
    """Return the command that made a run."""
    config = stored.from_dict(record["config"])
    if "teacher" in record:
        start = f"--start {config.model.checkpoint} " * bool(config.model.checkpoint)
        options = f"--seed {config.seed} --steps {config.optim.steps} {start}--data-root ROOT"
        return f"python -m wsss.tools.distil runs/{record['teacher']['run']} {options}"
    return " ".join(["wsss train", *presets.words(config), "--data.root ROOT"])


def _checked(opened: runs.Opened) -> tuple[Record, datasets.Split]:
    """Return the run's record and its validation images. Raises UserError if the run must not be shipped."""
    record = opened.record()
    if record["dirty"]:
        raise UserError(
            f"{records.describe(record)} was made on a tree with uncommitted changes; commit and run it again"
        )
    root = sets.locate(opened.config.data)
    split = datasets.Split(root, opened.config.data.val_split, masks=True)
    digests = identity.digests(split)
    data = identity.evaluated(opened.folder, opened.config.data, (root, split.name), digests, opened.path())
    if data.differ:
        raise UserError(f"{root} holds other data than {opened.folder} used: {data.differ} differ; see --data-root")
    return record, split


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.ship", Ship))
