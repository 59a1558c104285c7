"""Score predictions on disk against the truth, without a model."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsss import metrics
from wsss.data import voc
from wsss.paths import UserError


def score(predictions: Path, truth: Path, classes: int, ids: Path | None = None) -> dict[str, Any]:
    """Scores in percent of index PNGs in `predictions` against those of `truth` that the list `ids` names, or all;
    `classes` counts background.

    Raises UserError for a folder without PNGs, a missing prediction, sizes that differ and values out of range.
    """
    if not 1 <= classes <= voc.IGNORE:
        raise UserError(f"--num-classes is {classes}, but must lie between 1 and {voc.IGNORE}, background included")
    names = dict.fromkeys(line.split()[0] for line in voc.read_lines(ids)) if ids else {}
    files = [truth / f"{name}.png" for name in names] if ids else sorted(truth.glob("*.png"))
    if not files:
        raise UserError(f"{ids} is empty" if ids else f"{truth} holds no PNG; give the folder of the true masks")
    total = np.zeros((classes, classes), np.int64)
    for file in tqdm(files, desc="score", unit="image", leave=False):
        mine = predictions / file.name
        if not mine.is_file():
            raise UserError(f"{mine} does not exist, but {file} does; predict it, too, or name a list by --ids")
        mask = voc.read_mask(file, None, classes - 1)
        prediction = voc.read_mask(mine, mask.shape[::-1], classes - 1)
        if ((prediction == voc.IGNORE) & (mask != voc.IGNORE)).any():
            raise UserError(f"{mine} holds {voc.IGNORE}, which is no class; predict one of 0..{classes - 1} everywhere")
        total += metrics.confusion(mask, prediction, classes)
    found = metrics.segmentation_scores(metrics.counts(total), [str(number) for number in range(classes)])
    del found["miou_headline"]
    return {**found, "images": len(files)}
