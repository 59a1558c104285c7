"""Score predictions on disk against the truth, without a model."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wsss import metrics
from wsss.config import IGNORE
from wsss.data import names
from wsss.data.pictures import read_mask
from wsss.paths import UserError, note


def score(predictions: Path, truth: Path, classes: int, ids: Path | None = None) -> dict[str, Any]:
    """Return the scores, in percent, of the index PNGs in `predictions` against those in `truth`.

    `classes` includes background. `ids` is a list as `names.read_ids` reads it; None: all PNGs at any depth of `truth`.
    Raises UserError for a folder without PNGs, a missing prediction, sizes that differ or values out of range.
    """
    if not 2 <= classes <= IGNORE:
        raise UserError(f"--num-classes is {classes}, but must lie between 2 and {IGNORE}, background included")
    wanted = names.read_ids(ids, truth, names.MASKS) if ids else list(names.files(truth, names.MASKS))
    if not wanted:
        raise UserError(f"{truth} holds no PNG; give the folder of the true masks")
    total = np.zeros((classes, classes), np.int64)
    for name in tqdm(wanted, desc="score", unit="image", leave=False):
        file, mine = (names.find(folder, name, names.MASKS) for folder in (truth, predictions))
        if file is None:
            raise UserError(
                f"{ids} lists {name}, but {truth}/{name}.png does not exist; add its mask, or give another list"
            )
        if mine is None:
            raise UserError(
                f"{predictions}/{name}.png does not exist, but {file} does; predict it, too, or name a list with --ids"
            )
        mask = read_mask(file, None, classes - 1)
        prediction = read_mask(mine, mask.shape[::-1], classes - 1)
        if ((prediction == IGNORE) & (mask != IGNORE)).any():
            raise UserError(f"{mine} holds {IGNORE}, which is not a class; predict one of 0..{classes - 1} everywhere")
        total += metrics.confusion(mask, prediction, classes)
    scores = metrics.segmentation_scores(metrics.counts(total), [str(number) for number in range(classes)])
    del scores["miou_headline"]  # numbered classes have no headline of their own
    if scores["miou"] is None:
        note(f"note: no mask of {truth} shows a class, so the mean IoU is undefined")
    return {**scores, "images": len(wanted)}
