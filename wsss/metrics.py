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
    """Counts of (truth, prediction) over pixels whose truth is not 255; `classes` counts background too."""
    kept = truth != IGNORE
    # One number a pair of classes, so that one bincount is the whole matrix.
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


def _in_truth(totals: Int[np.ndarray, "c 3"]) -> Bool[np.ndarray, " c"]:
    """Classes with a pixel of truth."""
    return totals[:, 0] + totals[:, 2] > 0


def segmentation_scores(
    totals: Int[np.ndarray, "c 3"], names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores in percent from summed counts.

    `miou` and `mean_accuracy` are means over the classes present in the truth (Deviations D9), `miou_headline` over
    the classes of `headline` (all present ones if empty); a class absent from the truth has IoU None. Row 0 is the
    background: a mean over it alone, and any accuracy without a foreground class in the truth, is None.
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
    """95 % bootstrap intervals over images, in percent, of `miou` and `miou_headline`; without those undefined, and
    those that classes of very few images leave undefined."""
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
    """Errors of the foreground in percent, its classes pooled: over-activation FP / (TP + FP), the share of pixels
    given a foreground class that are wrong, and under-activation FN / (TP + FN), the share of foreground pixels
    that lack their class. One foreground class taken for another counts in both; None without such pixels, and both
    None without foreground in the truth."""
    hit, extra, missed = (int(column) for column in totals[1:].sum(0))
    shown = hit + extra if hit + missed else 0
    return {"over_activation": _share(extra, shown), "under_activation": _share(missed, hit + missed)}


def pseudo_label_scores(
    totals: Int[np.ndarray, "c 3"], pixels: int, names: Sequence[str], headline: Sequence[str] = ()
) -> dict[str, float | None]:
    """Score labels with gaps, in percent: mean IoU over labelled pixels (classes present in their truth), coverage (the
    share of the `pixels` of known truth that are labelled) and precision (the share of those that are right)."""
    scores = segmentation_scores(totals, names, headline)
    labelled = int(totals[:, [0, 2]].sum())
    return {
        "miou": scores["miou"],
        "miou_headline": scores["miou_headline"],
        "coverage": _share(labelled, pixels),
        "precision": _share(int(totals[:, 0].sum()), labelled),
    }


def agreement_scores(pairs: Float[np.ndarray, "m 2"], totals: Int[np.ndarray, "c 3"]) -> dict[str, float | None]:
    """Agreement of two layers' CAMs, in percent: difference of the maps and of their affinities (`pairs`, mean over
    images; not a number for an image without a class), IoU of their labels (`totals`), mean over classes of either;
    None where both are background alone."""
    known = pairs[np.isfinite(pairs).all(1)]
    by_class = iou(totals)
    return {
        "difference": _mean(known[:, 0]),
        "affinity": _mean(known[:, 1]),
        "label_iou": _class_mean(by_class, np.isfinite(by_class)),
    }


# Boundaries.


def boundary_width(size: tuple[int, int]) -> int:
    """Width of the boundary band in pixels: 2 % of the image's diagonal, at least 1 (Cheng et al., CVPR 2021)."""
    return max(1, round(0.02 * math.hypot(*size)))


def boundary(labels: UInt8[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Find the inner bands of all masks at once: pixels that `width` erosions by 3 x 3 take from the mask of their own
    label. The image's edge is a boundary too, as in the definition."""
    side = 2 * width + 1
    # A pixel is in a band if another label lies within `width`. Beyond the edge there is 255, a label like any other.
    low = ndimage.minimum_filter(labels, side, mode="nearest")
    return low != ndimage.maximum_filter(labels, side, mode="constant", cval=IGNORE)


def boundary_counts(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "c 3"]:
    """True positives, false positives and false negatives of the boundary bands by class, background among them.

    Boundary IoU (Cheng et al., CVPR 2021): IoU of the inner bands of truth and prediction. Pixels whose truth is 255
    are cut out of both, so that what is unlabelled moves both boundaries alike.
    """
    width = boundary_width(truth.shape)
    cut = np.where(truth == IGNORE, IGNORE, prediction).astype(np.uint8)
    bands = [np.where(boundary(labels, width) & (labels != IGNORE), labels, classes) for labels in (truth, cut)]
    # `classes` stands for "in no band"; its row and column are dropped at the end.
    pairs = bands[0].astype(np.int64) * (classes + 1) + bands[1]
    matrix = np.bincount(pairs.ravel(), minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
    return counts(matrix)[:classes]


def boundary_iou(totals: Int[np.ndarray, "c 3"]) -> float | None:
    """Mean over classes present in the truth of the IoU of summed boundary counts, in percent; None for background
    alone."""
    return _class_mean(iou(totals), _in_truth(totals))


# The sweep of background thresholds.


def thresholds(background: float) -> Float[np.ndarray, " t"]:
    """0.05, 0.10, ..., 0.95 and the fixed one, in order."""
    return np.array(sorted({*(step / 20 for step in range(1, 20)), background}))


def sweep_counts(
    truth: UInt8[np.ndarray, "h w"],
    value: Float[np.ndarray, "h w"],
    label: UInt8[np.ndarray, "h w"],
    levels: Float[np.ndarray, " t"],
    classes: int,
) -> Int[np.ndarray, "c c u"]:
    """Pixels by truth, by label of the largest CAM and by how many of the `levels` its value is above (u = t + 1),
    where the truth is not 255. The confusion matrix of every threshold follows from it (`sweep_totals`)."""
    kept = truth != IGNORE
    above = np.searchsorted(levels.astype(value.dtype), value[kept])  # levels < value: equal is still background
    shape = (classes, classes, len(levels) + 1)
    places = (truth[kept].astype(np.int64) * classes + label[kept]) * shape[2] + above
    return np.bincount(places, minlength=math.prod(shape)).reshape(shape)


def sweep_totals(histogram: Int[np.ndarray, "c c u"]) -> Int[np.ndarray, "t c 3"]:
    """TP, FP, FN by class at every threshold: a pixel is background unless its CAM is above it."""
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
    """Compute the curve of the mean IoU in percent over the background thresholds, its best and where that lies; the
    best over the classes of `headline` too, at a threshold of its own; None where the mean IoU is."""
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
"""Values of a map in 0..1 that count as different; ties within a bin count one half."""


def pixel_auc(value: Float[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], index: int) -> float | None:
    """Area under the ROC curve of a map in percent: how often a pixel of class `index` has a larger value than a pixel
    of another class, ties one half; 50 is chance. Pixels of truth 255 are left out; None where all others are of the
    class or none is. `value` lies in 0..1."""
    known = truth != IGNORE
    # Counting in bins instead of sorting: a photograph has 10^5 pixels, and the map has grey levels anyway.
    bins = np.clip(value[known] * _AUC_BINS, 0, _AUC_BINS - 1).astype(np.int64)
    counted = np.bincount(2 * bins + (truth[known] == index), minlength=2 * _AUC_BINS)
    outside, inside = counted.reshape(_AUC_BINS, 2).T
    pairs = int(inside.sum()) * int(outside.sum())
    below = outside.cumsum() - outside  # pixels of other classes with a smaller value
    return 100 * float((inside * (below + outside / 2)).sum()) / pairs if pairs else None


def centre_prior(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Make a map without looking: 1 in the middle of the image, 0 in its corners, falling with the squared distance,
    each side counted in its own length."""
    rows, columns = ((2 * np.arange(side) + 1 - side) / side for side in size)  # middles of the pixels, in -1..1
    return 1 - (rows[:, None] ** 2 + columns**2) / 2


def auc_scores(pairs: Float[np.ndarray, "p n"], names: Sequence[str]) -> dict[str, float | None]:
    """Mean over pairs of image and class of each map's pixel AUC in percent; None without a pair."""
    return {name: _mean(column) for name, column in zip(names, pairs.T, strict=True)}


def classification_scores(
    label: Float[np.ndarray, "m k"],
    logits: Float[np.ndarray, "m k"],
    names: Sequence[str],
    headline: Sequence[str] = (),
) -> dict[str, Any]:
    """Mean average precision and F1 (macro, at probability 0.5) in percent, over classes with a positive; the former
    over the headline classes as well (empty: all)."""
    from sklearn.metrics import average_precision_score  # not for the CRF's workers, who start without it

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
    """Take the labels in the middle of every patch, row by row."""
    middles = [(np.arange(n) + 0.5) * side / n for n, side in zip(grid, mask.shape, strict=True)]
    rows, columns = (places.astype(int) for places in middles)
    return mask[rows[:, None], columns].ravel()


def code_sums(
    codes: Float[np.ndarray, "n q"], label: Integer[np.ndarray, " n"], classes: int
) -> dict[str, Float[np.ndarray, "..."]]:
    """Compute the sums that `redundancy` and `correlation` take, over tokens with their labels; IGNORE is left out."""
    member, codes = (label[:, None] == np.arange(classes)).astype(float), codes.astype(float)
    known = codes[label != IGNORE]
    return {"gram": known.T @ known, "sums": member.T @ codes, "counts": member.sum(0)}


def correlation(
    gram: Float[np.ndarray, "q q"], sums: Float[np.ndarray, "c q"], counts: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "q q"]:
    """Correlation of every dimension of the codes with every other, each code centred by the mean of its label; from
    the sums that `redundancy` takes."""
    known = counts > 0
    # Sum of z z^T over all tokens less, for each label, n times mean mean^T.
    centred = gram - (sums[known].T / counts[known]) @ sums[known]
    deviation = np.sqrt(np.clip(np.diag(centred), 0, None) / counts.sum()) + 1e-5
    return centred / counts.sum() / np.outer(deviation, deviation)


def redundancy(
    gram: Float[np.ndarray, "q q"], sums: Float[np.ndarray, "c q"], counts: Float[np.ndarray, " c"], subspaces: int
) -> float | None:
    """L_dec of Module A in percent over any number of tokens, from sums over them: of z z^T (`gram`), and by label of
    z (`sums`) and of one (`counts`), the codes z of all subspaces side by side.

    Squared correlation of a dimension of one subspace with a dimension of another, mean over all such pairs, each code
    centred by the mean of its label. None for one subspace or no token.
    """
    if subspaces < 2 or not counts.any():
        return None
    width = len(gram) // subspaces
    blocks = np.square(correlation(gram, sums, counts)).reshape(subspaces, width, subspaces, width).mean((1, 3))
    return round(100 * float(blocks[~np.eye(subspaces, dtype=bool)].mean()), 4)


def redundancy_floor(counts: Float[np.ndarray, " c"]) -> float | None:
    """Expected `redundancy` of independent codes, in percent: the mean squared correlation of two variables over n
    tokens that are independent of one another is 1 / (n - c), where c labels have a mean of their own. Tokens of one
    photograph are alike, so that the true floor is somewhat higher. None below."""
    free = counts.sum() - np.count_nonzero(counts)
    return round(100 / float(free), 4) if free > 0 else None


def named_share(label: Float[np.ndarray, "m k"], logits: Float[np.ndarray, "m k"]) -> float | None:
    """Images whose most probable class is one of their image label, in percent; those without a label are left out."""
    known = label.any(1)
    return _share(int(label[known, logits[known].argmax(1)].sum()), int(known.sum()))


def outlined_share(counted: Int[np.ndarray, "m c 3"], classes: Sequence[int]) -> float | None:
    """Images of which the largest of some `classes`, by its pixels of truth, is segmented with an IoU of one half or
    more, in percent; of images that show any of them."""
    counted = counted[:, list(classes)]
    sizes = counted[..., 0] + counted[..., 2]
    shown = sizes.any(1)
    chosen = np.take_along_axis(counted, sizes.argmax(1)[:, None, None], 1)[shown, 0]
    return _share(int((2 * chosen[:, 0] >= chosen.sum(1)).sum()), int(shown.sum()))


def centre_guess(label: Float[np.ndarray, " k"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Make a guess without looking: the image's classes side by side in the central half of both sides."""
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
    bootstrap intervals over images; None without such pixels."""
    scores: dict[str, Any] = {}
    for name, columns in (("part", (0, 1)), ("rest", (2, 3))):
        right, pixels = (counted[:, column] for column in columns)
        scores[name] = _share(int(right.sum()), int(pixels.sum()))
        if pixels.any():
            scores[f"{name}_interval"] = [round(100 * bound, 4) for bound in bootstrap(right, pixels)]
    return scores


def _share(part: int, whole: int) -> float | None:
    """Percent; None of nothing."""
    return round(100 * part / whole, 4) if whole else None


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _class_mean(values: Float[np.ndarray, " c"], chosen: Bool[np.ndarray, " c"]) -> float | None:
    """Mean over the chosen classes; None where none of them is a foreground class: all but the first are."""
    return _mean(values[chosen]) if chosen[1:].any() else None
