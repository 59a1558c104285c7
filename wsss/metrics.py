"""Measures from counts: IoU by class, means, classification scores, the two guesses and coverage of objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.metrics import average_precision_score

from wsss.config import IGNORE
from wsss.intervals import bootstrap


def confusion(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Counts of (truth, prediction) over pixels whose truth is not 255; `classes` counts background too."""
    kept = truth != IGNORE
    pairs = truth[kept].astype(np.int64) * classes + prediction[kept]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def counts(matrix: Int[np.ndarray, "c c"]) -> Int[np.ndarray, "c 3"]:
    """True positives, false positives and false negatives by class."""
    hit = np.diag(matrix)
    return np.stack([hit, matrix.sum(0) - hit, matrix.sum(1) - hit], 1)


def iou(totals: Int[np.ndarray, "c 3"]) -> Float[np.ndarray, " c"]:
    """Intersection over union in percent; not a number for a class that is absent from truth and prediction."""
    union = totals.sum(1)
    return 100 * np.divide(totals[:, 0], union, out=np.full(len(totals), np.nan), where=union > 0)


def segmentation_scores(
    totals: Int[np.ndarray, "c 3"], names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores in percent from summed counts.

    `miou` and `mean_accuracy` are means over the classes present in the truth (Deviations D9), `miou_headline` over
    the classes of `headline` (all present ones if empty); a class absent from the truth has IoU None.
    """
    present = totals[:, 0] + totals[:, 2] > 0
    by_class = iou(totals)
    accuracy = 100 * totals[:, 0] / np.maximum(totals[:, 0] + totals[:, 2], 1)
    chosen = present & np.array([not headline or name in headline for name in names])
    return {
        "miou": _mean(by_class[present]),
        "miou_headline": _mean(by_class[chosen]),
        "iou": {
            name: round(float(value), 4) if here else None
            for name, value, here in zip(names, by_class, present, strict=True)
        },
        "pixel_accuracy": round(100 * float(totals[:, 0].sum() / max(totals[:, [0, 2]].sum(), 1)), 4),
        "mean_accuracy": _mean(accuracy[present]),
    }


def classification_scores(
    label: Float[np.ndarray, "m k"], logits: Float[np.ndarray, "m k"], names: Sequence[str]
) -> dict[str, Any]:
    """Mean average precision and F1 (macro, at probability 0.5) in percent, over classes with a positive."""
    present = label.any(0)
    precision = [average_precision_score(label[:, k], logits[:, k]) for k in np.flatnonzero(present)]
    found, right = logits[:, present] > 0, label[:, present] > 0
    f1 = 2 * (found & right).sum(0) / (found.sum(0) + right.sum(0))
    by_class = dict(zip(np.array(names)[present].tolist(), (round(100 * float(p), 4) for p in precision), strict=True))
    return {
        "map": _mean(100 * np.array(precision)),
        "f1": _mean(100 * f1),
        "average_precision": by_class,
    }


def centre_guess(label: Float[np.ndarray, " k"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """A guess without looking: the image's classes side by side in the central half of both sides."""
    guess = np.zeros(size, np.uint8)
    top, left = size[0] // 4, size[1] // 4
    classes = np.flatnonzero(label) + 1
    for strip, value in zip(np.array_split(np.arange(left, size[1] - left), len(classes) or 1), classes, strict=False):
        guess[top : size[0] - top, strip] = value
    return guess


def coverage_counts(
    prediction: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], part: UInt8[np.ndarray, "h w"]
) -> Int[np.ndarray, " 4"]:
    """Pixels of parts given their class, of parts, of the rest of objects given their class, of that rest."""
    objects = (mask != 0) & (mask != IGNORE)
    inside = objects & (part != 0) & (part != IGNORE)
    rest, right = objects & ~inside, prediction == mask
    return np.array([(inside & right).sum(), inside.sum(), (rest & right).sum(), rest.sum()])


def coverage_scores(counted: Int[np.ndarray, "m 4"]) -> dict[str, Any]:
    """Share in percent of part pixels, and of object pixels beyond the part, that get their class; with 95 %
    bootstrap intervals over images."""
    found: dict[str, Any] = {}
    for name, columns in (("part", (0, 1)), ("rest", (2, 3))):
        right, pixels = (counted[:, column] for column in columns)
        found[name] = round(100 * float(right.sum() / max(pixels.sum(), 1)), 4)
        found[f"{name}_interval"] = [round(100 * bound, 4) for bound in bootstrap(right, pixels)]
    return found


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
