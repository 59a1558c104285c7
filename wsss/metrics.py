"""Measures from counts: IoU by class, means, errors of activation, boundaries, the sweep of CAM thresholds, pixel AUC
of a map, classification scores, the two guesses and coverage of objects."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from scipy import ndimage

from wsss.config import IGNORE
from wsss.report.statistics import bootstrap, bootstrap_miou


def confusion(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Count pixels by (truth, prediction), without pixels whose truth is 255; `classes` includes the background."""
    kept = truth != IGNORE
    # Each pair of classes is one number, so that a single bincount gives the whole matrix.
    pairs = truth[kept].astype(np.int64) * classes + prediction[kept]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def counts(matrix: Int[np.ndarray, "c c"]) -> Int[np.ndarray, "c 3"]:
    """Return true positives, false positives and false negatives by class."""
    hit = np.diag(matrix)
    return np.stack([hit, matrix.sum(0) - hit, matrix.sum(1) - hit], 1)


def iou(totals: Int[np.ndarray, "c 3"]) -> Float[np.ndarray, " c"]:
    """Return the intersection over union by class, in percent; NaN for a class that is absent from truth and
    prediction."""
    union = totals.sum(1)
    return 100 * np.divide(totals[:, 0], union, out=np.full(len(totals), np.nan), where=union > 0)


def _in_truth(totals: Int[np.ndarray, "c 3"]) -> Bool[np.ndarray, " c"]:
    """Return which classes have a pixel of truth."""
    return totals[:, 0] + totals[:, 2] > 0


def segmentation_scores(
    totals: Int[np.ndarray, "c 3"], names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, Any]:
    """Compute scores in percent from summed counts.

    `miou` and `mean_accuracy` are means over the classes present in the truth (Deviations D9). `miou_headline` is the
    mean over those of them that are in `headline` (empty: all). A class that is absent from the truth has IoU None. Row
    0 is the background. A mean over it alone is None; so is every accuracy without a foreground class in the truth.
    """
    present = _in_truth(totals)
    by_class = iou(totals)
    accuracy = 100 * totals[:, 0] / np.maximum(totals[:, 0] + totals[:, 2], 1)
    chosen = present & np.array([not headline or name in headline for name in names])
    pixels = int(totals[:, [0, 2]].sum()) if present[1:].any() else 0
    return {
        "miou": _class_mean(by_class, present),
        "miou_headline": _class_mean(by_class, chosen),
        "iou": {
            name: round(float(value), 4) if here else None
            for name, value, here in zip(names, by_class, present, strict=True)
        },
        "pixel_accuracy": _share(int(totals[:, 0].sum()), pixels),
        "mean_accuracy": _class_mean(accuracy, present),
    }


def miou_intervals(
    counted: Int[np.ndarray, "m c 3"], names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return the 95 % bootstrap intervals of `miou` and `miou_headline` over images, in percent.

    An interval is left out if its score is undefined, or if classes of very few images leave the interval undefined.
    """
    chosen, present = np.array([not headline or name in headline for name in names]), _in_truth(counted.sum(0))
    if not present[1:].any():
        return {}
    intervals = {"miou_interval": bootstrap_miou(counted)}
    if (chosen & present)[1:].any():
        whole = intervals["miou_interval"]
        intervals["miou_headline_interval"] = whole if chosen.all() else bootstrap_miou(counted[:, chosen])
    defined = {name: both for name, both in intervals.items() if math.isfinite(both[0])}
    return {name: [round(bound, 4) for bound in both] for name, both in defined.items()}


def activation_errors(totals: Int[np.ndarray, "c 3"]) -> dict[str, float | None]:
    """Return over- and under-activation of the foreground in percent, its classes pooled.

    Over-activation FP / (TP + FP) is the share of wrong pixels among those given a foreground class. Under-activation
    FN / (TP + FN) is the share of foreground pixels that lack their class. One foreground class taken for another
    counts in both. A score is None without such pixels; both are None without foreground in the truth.
    """
    hit, extra, missed = (int(column) for column in totals[1:].sum(0))
    shown = hit + extra if hit + missed else 0
    return {"over_activation": _share(extra, shown), "under_activation": _share(missed, hit + missed)}


def pseudo_label_scores(
    totals: Int[np.ndarray, "c 3"], pixels: int, names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, float | None]:
    """Score labels with gaps, in percent.

    `miou` is the mean IoU over labelled pixels, for classes present in their truth. `coverage` is the share of the
    `pixels` of known truth that are labelled. `precision` is the share of labelled pixels that are right.
    """
    scores = segmentation_scores(totals, names, headline)
    labelled = int(totals[:, [0, 2]].sum())
    return {
        "miou": scores["miou"],
        "miou_headline": scores["miou_headline"],
        "coverage": _share(labelled, pixels),
        "precision": _share(int(totals[:, 0].sum()), labelled),
    }


def agreement_scores(pairs: Float[np.ndarray, "m 2"], totals: Int[np.ndarray, "c 3"]) -> dict[str, float | None]:
    """Score how well the CAMs of two layers agree, in percent.

    `difference` (of the maps) and `affinity` (of their affinities) are means of `pairs` over images. Images without a
    class are NaN and left out. `label_iou` is the mean IoU of their labels (`totals`) over classes of either layer;
    None if both are background alone.
    """
    known = pairs[np.isfinite(pairs).all(1)]
    by_class = iou(totals)
    return {
        "difference": _mean(known[:, 0]),
        "affinity": _mean(known[:, 1]),
        "label_iou": _class_mean(by_class, np.isfinite(by_class)),
    }


# Boundaries.


def boundary_width(size: tuple[int, int]) -> int:
    """Return the width of the boundary band in pixels: 2 % of the image's diagonal, at least 1 (Cheng et al., CVPR
    2021)."""
    return max(1, round(0.02 * math.hypot(*size)))


def boundary(labels: UInt8[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Return the inner boundary bands of all masks at once.

    A pixel is in a band if `width` erosions by 3 x 3 remove it from the mask of its own label. The image's edge is a
    boundary too, as in the definition.
    """
    side = 2 * width + 1
    # A pixel is in a band if another label lies within `width`. Beyond the edge there is 255, a label like any other.
    low = ndimage.minimum_filter(labels, side, mode="nearest")
    return low != ndimage.maximum_filter(labels, side, mode="constant", cval=IGNORE)


def boundary_counts(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "c 3"]:
    """Count true positives, false positives and false negatives of the boundary bands by class, with background.

    Boundary IoU (Cheng et al., CVPR 2021) is the IoU of the inner bands of truth and prediction. Pixels whose truth is
    255 are cut out of both, so that unlabelled pixels move both boundaries alike.
    """
    width = boundary_width(truth.shape)
    cut = np.where(truth == IGNORE, IGNORE, prediction).astype(np.uint8)
    bands = [np.where(boundary(labels, width) & (labels != IGNORE), labels, classes) for labels in (truth, cut)]
    # `classes` stands for "in no band"; its row and column are dropped at the end.
    pairs = bands[0].astype(np.int64) * (classes + 1) + bands[1]
    matrix = np.bincount(pairs.ravel(), minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
    return counts(matrix)[:classes]


def boundary_iou(totals: Int[np.ndarray, "c 3"]) -> float | None:
    """Return the mean IoU of summed boundary counts over classes in the truth, in percent; None for background
    alone."""
    return _class_mean(iou(totals), _in_truth(totals))


# The sweep of background thresholds.


def thresholds(background: float) -> Float[np.ndarray, " t"]:
    """Return the thresholds 0.05, 0.10, ..., 0.95 and the fixed one, in ascending order."""
    return np.array(sorted({*(step / 20 for step in range(1, 20)), background}))


def sweep_counts(
    truth: UInt8[np.ndarray, "h w"],
    value: Float[np.ndarray, "h w"],
    label: UInt8[np.ndarray, "h w"],
    levels: Float[np.ndarray, " t"],
    classes: int,
) -> Int[np.ndarray, "c c u"]:
    """Count pixels by truth, label of the largest CAM, and number of `levels` below its value (u = t + 1).

    Pixels whose truth is 255 are left out. `sweep_totals` makes the confusion matrix of every threshold from it.
    """
    kept = truth != IGNORE
    above = np.searchsorted(levels.astype(value.dtype), value[kept])  # levels < value: equal is still background
    shape = (classes, classes, len(levels) + 1)
    places = (truth[kept].astype(np.int64) * classes + label[kept]) * shape[2] + above
    return np.bincount(places, minlength=math.prod(shape)).reshape(shape)


def sweep_totals(histogram: Int[np.ndarray, "c c u"]) -> Int[np.ndarray, "t c 3"]:
    """Return TP, FP, FN by class at every threshold: a pixel is background unless its CAM is above the threshold."""
    # At threshold t the pixels above it keep their class (a sum from the right); all others join the background.
    foreground = histogram[..., ::-1].cumsum(2)[..., ::-1][..., 1:]
    matrices = np.moveaxis(foreground, 2, 0).copy()
    matrices[:, :, 0] += histogram.sum((1, 2)) - matrices.sum(2)
    return np.stack([counts(matrix) for matrix in matrices])


def sweep_scores(
    histogram: Int[np.ndarray, "c c u"],
    levels: Float[np.ndarray, " t"],
    names: Sequence[str],
    headline: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the curve of the mean IoU in percent over the background thresholds, its best value and that value's
    threshold.

    `best_headline` is the best over the classes of `headline`, at a threshold of its own. A value is None where the
    mean IoU is None.
    """
    reached = [segmentation_scores(totals, names, headline) for totals in sweep_totals(histogram)]
    curves = {name: [scores[name] for scores in reached] for name in ("miou", "miou_headline")}
    best = {name: max((value for value in curve if value is not None), default=None) for name, curve in curves.items()}
    place = curves["miou"].index(best["miou"])
    return {
        "thresholds": levels.tolist(),
        **curves,
        "best": best["miou"],
        "best_headline": best["miou_headline"],
        "best_threshold": None if best["miou"] is None else float(levels[place]),
    }


# Localisation without a threshold.

_AUC_BINS = 2**16
"""Number of bins for the values of a map in 0..1; values in one bin are ties and count one half."""


def pixel_auc(value: Float[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], index: int) -> float | None:
    """Return the area under the ROC curve of a map for the class `index`, in percent; 50 is chance.

    It is the share of pairs where a pixel of the class has a larger value than a pixel of another class; ties count one
    half. `value` lies in 0..1. Pixels of truth 255 are left out. None if all other pixels are of the class, or none is.
    """
    known = truth != IGNORE
    # Counting in bins instead of sorting: a photograph has 10^5 pixels, and the map has grey levels anyway.
    bins = np.clip(value[known] * _AUC_BINS, 0, _AUC_BINS - 1).astype(np.int64)
    counted = np.bincount(2 * bins + (truth[known] == index), minlength=2 * _AUC_BINS)
    outside, inside = counted.reshape(_AUC_BINS, 2).T
    pairs = int(inside.sum()) * int(outside.sum())
    below = outside.cumsum() - outside  # pixels of other classes with a smaller value
    return 100 * float((inside * (below + outside / 2)).sum()) / pairs if pairs else None


def centre_prior(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Return a map that ignores the image: 1 in its middle, 0 in its corners.

    It falls with the squared distance from the middle; each side is measured in its own length.
    """
    rows, columns = ((2 * np.arange(side) + 1 - side) / side for side in size)  # middles of the pixels, in -1..1
    return 1 - (rows[:, None] ** 2 + columns**2) / 2


def auc_scores(pairs: Float[np.ndarray, "p n"], names: Sequence[str]) -> dict[str, float | None]:
    """Return each map's mean pixel AUC over pairs of image and class, in percent; None without a pair."""
    return {name: _mean(column) for name, column in zip(names, pairs.T, strict=True)}


def classification_scores(
    label: Float[np.ndarray, "m k"],
    logits: Float[np.ndarray, "m k"],
    names: Sequence[str],
    headline: Sequence[str] = (),
) -> dict[str, Any]:
    """Return mean average precision and F1 (macro, at probability 0.5) in percent, over classes with a positive.

    `map_headline` is the mean over the headline classes alone (empty: all).
    """
    from sklearn.metrics import average_precision_score  # imported late: the CRF's workers start without it

    present = label.any(0)
    precision = [average_precision_score(label[:, k], logits[:, k]) for k in np.flatnonzero(present)]
    # A logit above 0 is a probability above one half.
    predicted, right = logits[:, present] > 0, label[:, present] > 0
    f1 = 2 * (predicted & right).sum(0) / (predicted.sum(0) + right.sum(0))
    by_class = dict(zip(np.array(names)[present].tolist(), (round(100 * float(p), 4) for p in precision), strict=True))
    return {
        "map": _mean(100 * np.array(precision)),
        "map_headline": _mean(np.array([p for name, p in by_class.items() if not headline or name in headline])),
        "f1": _mean(100 * f1),
        "average_precision": by_class,
    }


def token_labels(mask: Integer[np.ndarray, "h w"], grid: tuple[int, int]) -> Integer[np.ndarray, " n"]:
    """Return the label in the middle of every patch, row by row."""
    middles = [(np.arange(n) + 0.5) * side / n for n, side in zip(grid, mask.shape, strict=True)]
    rows, columns = (places.astype(int) for places in middles)
    return mask[rows[:, None], columns].ravel()


def code_sums(
    codes: Float[np.ndarray, "n q"], label: Integer[np.ndarray, " n"], classes: int
) -> dict[str, Float[np.ndarray, "..."]]:
    """Compute the sums over labelled tokens that `redundancy` and `correlation` take; tokens of label IGNORE are left
    out."""
    member, codes = (label[:, None] == np.arange(classes)).astype(float), codes.astype(float)
    known = codes[label != IGNORE]
    return {"gram": known.T @ known, "sums": member.T @ codes, "counts": member.sum(0)}


def correlation(
    gram: Float[np.ndarray, "q q"], sums: Float[np.ndarray, "c q"], counts: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "q q"]:
    """Return the correlation of every pair of dimensions of the codes, each code centred by the mean of its label.

    The arguments are the sums that `redundancy` takes.
    """
    known = counts > 0
    # Sum of z z^T over all tokens less, for each label, n times mean mean^T.
    centred = gram - (sums[known].T / counts[known]) @ sums[known]
    # Rounding may leave a variance just below 0. 1e-5 is added as in L_dec.
    deviation = np.sqrt(np.clip(np.diag(centred), 0, None) / counts.sum()) + 1e-5
    return centred / counts.sum() / np.outer(deviation, deviation)


def redundancy(
    gram: Float[np.ndarray, "q q"], sums: Float[np.ndarray, "c q"], counts: Float[np.ndarray, " c"], subspaces: int
) -> float | None:
    """Return L_dec of Module A over any number of tokens, in percent: a mean squared correlation.

    It is the mean over all pairs of dimensions from different subspaces; each code is centred by the mean of its label.
    A code z holds all subspaces side by side. The arguments are sums over tokens: of z z^T (`gram`), and by label of z
    (`sums`) and of 1 (`counts`). None for one subspace or no token.
    """
    if subspaces < 2 or not counts.any():
        return None
    width = len(gram) // subspaces
    blocks = np.square(correlation(gram, sums, counts)).reshape(subspaces, width, subspaces, width).mean((1, 3))
    return round(100 * float(blocks[~np.eye(subspaces, dtype=bool)].mean()), 4)


def redundancy_floor(counts: Float[np.ndarray, " c"]) -> float | None:
    """Return the expected `redundancy` of independent codes, in percent; None without more tokens than labels.

    Two independent variables over n independent tokens have a mean squared correlation of 1 / (n - c), if c labels have
    a mean of their own. Tokens of one photograph are alike, so the true floor is somewhat higher.
    """
    free = counts.sum() - np.count_nonzero(counts)
    return round(100 / float(free), 4) if free > 0 else None


def named_share(label: Float[np.ndarray, "m k"], logits: Float[np.ndarray, "m k"]) -> float | None:
    """Return the percentage of images whose most probable class is in their image label; unlabelled images are left
    out."""
    known = label.any(1)
    return _share(int(label[known, logits[known].argmax(1)].sum()), int(known.sum()))


def outlined_share(counted: Int[np.ndarray, "m c 3"], classes: Sequence[int]) -> float | None:
    """Return the percentage of images whose largest object has an IoU of at least 0.5.

    An object is all pixels of one class in the truth. Only `classes` count; images without any of them are left out.
    """
    counted = counted[:, list(classes)]
    sizes = counted[..., 0] + counted[..., 2]
    shown = sizes.any(1)
    chosen = np.take_along_axis(counted, sizes.argmax(1)[:, None, None], 1)[shown, 0]
    return _share(int((2 * chosen[:, 0] >= chosen.sum(1)).sum()), int(shown.sum()))


def centre_guess(label: Float[np.ndarray, " k"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return a guess that ignores the image: its classes side by side, in the central half of both sides."""
    guess = np.zeros(size, np.uint8)
    top, left = size[0] // 4, size[1] // 4
    classes = np.flatnonzero(label) + 1
    for strip, value in zip(np.array_split(np.arange(left, size[1] - left), len(classes) or 1), classes, strict=False):
        guess[top : size[0] - top, strip] = value
    return guess


def coverage_counts(
    prediction: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], part: UInt8[np.ndarray, "h w"]
) -> Int[np.ndarray, " 4"]:
    """Count pixels of parts that get their class, pixels of parts, and the same two numbers for the rest of the
    objects."""
    objects = (mask != 0) & (mask != IGNORE)
    inside = objects & (part != 0) & (part != IGNORE)
    rest, right = objects & ~inside, prediction == mask
    return np.array([(inside & right).sum(), inside.sum(), (rest & right).sum(), rest.sum()])


def coverage_scores(counted: Int[np.ndarray, "m 4"]) -> dict[str, Any]:
    """Return the percentage of part pixels, and of object pixels beyond the part, that get their class.

    Each has a 95 % bootstrap interval over images. Without such pixels the percentage is None and has no interval.
    """
    scores: dict[str, Any] = {}
    for name, columns in (("part", (0, 1)), ("rest", (2, 3))):
        right, pixels = (counted[:, column] for column in columns)
        scores[name] = _share(int(right.sum()), int(pixels.sum()))
        if pixels.any():
            scores[f"{name}_interval"] = [round(100 * bound, 4) for bound in bootstrap(right, pixels)]
    return scores


def _share(part: int, whole: int) -> float | None:
    """Return `part` of `whole` in percent; None if `whole` is 0."""
    return round(100 * part / whole, 4) if whole else None


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _class_mean(values: Float[np.ndarray, " c"], chosen: Bool[np.ndarray, " c"]) -> float | None:
    """Return the mean over the chosen classes; None if no foreground class is chosen (class 0 is the background)."""
    return _mean(values[chosen]) if chosen[1:].any() else None
