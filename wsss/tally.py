"""Counts of an evaluation, image by image, and the numbers of a record that are made from them.

It needs numpy alone, so that the worker processes that count start fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from wsss import metrics
from wsss.config import IGNORE
from wsss.report import records

KINDS = ("segmentation", "cam", "aux_cam")
"""Label maps that are measured on every image."""
GUESSES = ("background", "centre")
"""Label maps that need no network."""
LAYERS = ("cam", "aux_cam")
"""Kinds whose labels depend on a background threshold."""
_PRIOR = "centre"
"""Map that ignores the image; it is measured beside the layers' CAMs."""
PSEUDO = "pseudo_label"
"""Kind of the pseudo label. Its pixels of 255 count as unlabelled, not as errors."""
_AGREEMENT = "agreement"
"""Kind that compares the last layer's labels with the aux layer's, over all pixels."""


@dataclass
class Counts:
    """Counts of every image, small enough to keep, so that intervals and paired tests need no pixels.

    Fields that were not counted stay empty: a final protocol counts the segmentation alone.
    """

    ids: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Digests of the truth: see `records.mask_digest`."""
    counts: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Kind -> per image (c, 3): true positives, false positives, false negatives."""
    boundary: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Kind -> per image (c, 3) of the boundary bands: see `metrics.boundary_counts`."""
    coverage: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Kind -> per image (4,): see `metrics.coverage_counts`; empty if parts are not known."""
    agreement: list[np.ndarray] = field(default_factory=list)
    """Per image (2,): differences of the layers' CAMs and of their affinities, in percent."""
    auc: list[np.ndarray] = field(default_factory=list)
    """Per image (p, 3): pixel AUC in percent of LAYERS and _PRIOR, a row for each class of its image label."""
    labels: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    sweep: dict[str, np.ndarray] = field(default_factory=dict)
    """Layer -> (c, c, t + 1), summed over images: see `metrics.sweep_counts`."""
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    """Sums over the tokens of all images that `metrics.redundancy` takes: gram, sums, counts."""
    background: float = 0.5
    """The fixed background threshold, which the sweep includes."""
    subspaces: int = 1
    """Number of subspaces in the codes."""

    def merge(self, other: "Counts") -> None:
        """Append the images of `other`."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, list):
                mine.extend(theirs)
            elif isinstance(mine, dict):
                for key, value in theirs.items():
                    if isinstance(value, list):
                        mine.setdefault(key, []).extend(value)
                    else:  # a sum over images
                        mine[key] = mine.get(key, 0) + value

    def sort(self) -> None:
        """Sort images by id, so that the order does not depend on the process that counted them."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        for value in list(vars(self).values()):
            for rows in [value, *(value.values() if isinstance(value, dict) else [])]:
                if isinstance(rows, list) and rows:
                    rows[:] = [rows[place] for place in order]


def guess_labels(label: Float[np.ndarray, " k"], size: tuple[int, int]) -> dict[str, UInt8[np.ndarray, "h w"]]:
    """Return labels that need no model: all background, and the classes of the image label in the centre."""
    return {"background": np.zeros(size, np.uint8), "centre": metrics.centre_guess(label, size)}


@dataclass(frozen=True)
class Predicted:
    """Truth of one image and the outputs that training's evaluation measures, all at the photograph's size."""

    name: str
    mask: UInt8[np.ndarray, "h w"]
    part: UInt8[np.ndarray, "h w"] | None
    """The class where its distinctive part is visible; None if parts are not known."""
    label: Float[np.ndarray, " k"]
    logits: Float[np.ndarray, " k"]
    maps: dict[str, UInt8[np.ndarray, "h w"]]
    """Labels by kind: KINDS and PSEUDO."""
    largest: dict[str, tuple[Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]]
    """Layer -> the largest CAM at each pixel, and the class of that CAM."""
    cams: dict[str, Float[np.ndarray, "p h w"]]
    """Layer -> the CAM in 0..1 of each class of the image label."""
    agreement: Float[np.ndarray, " 2"]
    codes: Float[np.ndarray, "n q"] | None
    """The tokens' codes in all subspaces, side by side; None if no subspaces are trained."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""


def count_labels(
    name: str,
    mask: UInt8[np.ndarray, "h w"],
    maps: dict[str, UInt8[np.ndarray, "h w"]],
    classes: int,
    part: UInt8[np.ndarray, "h w"] | None = None,
) -> Counts:
    """Count one image's labels by kind against its truth; `classes` includes the background."""
    counted = Counts([name], [records.mask_digest(mask)])
    for kind, labels in maps.items():
        # A gap of the pseudo label is no error; its coverage is a number of its own.
        truth = np.where(labels == IGNORE, IGNORE, mask) if kind == PSEUDO else mask
        counted.counts[kind] = [metrics.counts(metrics.confusion(truth, labels, classes))]
        if kind in KINDS:
            counted.boundary[kind] = [metrics.boundary_counts(mask, labels, classes)]
            if part is not None:
                counted.coverage[kind] = [metrics.coverage_counts(labels, mask, part)]
    return counted


def count(image: Predicted, background: float, subspaces: int) -> Counts:
    """Count everything that training's evaluation measures on one image."""
    mask, classes = image.mask, len(image.label) + 1
    maps = {**image.maps, **guess_labels(image.label, mask.shape)}
    counted = count_labels(image.name, mask, maps, classes, image.part)
    counted.background, counted.subspaces = background, subspaces
    counted.labels, counted.logits, counted.agreement = [image.label], [image.logits], [image.agreement]
    agreed = metrics.confusion(image.maps["aux_cam"], image.maps["cam"], classes)
    counted.counts[_AGREEMENT] = [metrics.counts(agreed)]
    levels = metrics.thresholds(background)
    for kind, (value, label) in image.largest.items():
        counted.sweep[kind] = metrics.sweep_counts(mask, value, label, levels, classes)
    prior, rows = metrics.centre_prior(mask.shape), []
    for place, index in enumerate((np.flatnonzero(image.label) + 1).tolist()):
        row = [metrics.pixel_auc(cam, mask, index) for cam in (*(image.cams[kind][place] for kind in LAYERS), prior)]
        rows += [] if None in row else [row]  # a class of no pixel, or of every pixel, has no AUC
    counted.auc = [np.array(rows, float).reshape(-1, len(LAYERS) + 1)]
    if image.codes is not None:
        counted.codes = metrics.code_sums(image.codes, metrics.token_labels(mask, image.grid), classes)
    return counted


def scores(counted: Counts, names: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """Compute the `results` part of a record from what was counted; `names` are the foreground classes."""
    full = ("background", *names)
    totals = {kind: np.sum(rows, 0) for kind, rows in counted.counts.items()}
    results: dict[str, Any] = {}
    for kind in KINDS:
        if kind in totals:
            by_image = np.array(counted.counts[kind])
            results[kind] = {
                **metrics.segmentation_scores(totals[kind], full, headline),
                **metrics.miou_intervals(by_image, full, headline),
                **metrics.activation_errors(totals[kind]),
                "boundary_iou": metrics.boundary_iou(np.sum(counted.boundary[kind], 0)),
            }
    if counted.sweep:
        levels = metrics.thresholds(counted.background)
        results["sweep"] = {
            kind: metrics.sweep_scores(histogram, levels, full, headline) for kind, histogram in counted.sweep.items()
        }
    if PSEUDO in totals:
        pixels = int(totals["segmentation"][:, [0, 2]].sum())
        results[PSEUDO] = metrics.pseudo_label_scores(totals[PSEUDO], pixels, full, headline)
    if counted.agreement:
        results[_AGREEMENT] = metrics.agreement_scores(np.array(counted.agreement), totals[_AGREEMENT])
    if counted.auc:
        results["auc"] = metrics.auc_scores(np.concatenate(counted.auc), (*LAYERS, _PRIOR))
    if counted.labels:
        labels, logits = np.array(counted.labels), np.array(counted.logits)
        results["classification"] = metrics.classification_scores(labels, logits, names, headline)
    if guesses := {kind: guess_scores(totals[kind], full, headline) for kind in GUESSES if kind in totals}:
        results["guesses"] = guesses
    if counted.coverage:
        results["coverage"] = {kind: metrics.coverage_scores(np.array(rows)) for kind, rows in counted.coverage.items()}
    if counted.codes:
        shared = metrics.redundancy(**counted.codes, subspaces=counted.subspaces)
        results["subspaces"] = {"redundancy": shared, "floor": metrics.redundancy_floor(counted.codes["counts"])}
    return results


def guess_scores(
    totals: Int[np.ndarray, "c 3"], names: Sequence[str], headline: Sequence[str]
) -> dict[str, float | None]:
    """Score a guess over the same classes as the results beside it."""
    reached = metrics.segmentation_scores(totals, names, headline)
    return {name: reached[name] for name in ("miou", "miou_headline")}


def counts_by_image(counted: Counts) -> dict[str, np.ndarray]:
    """Return the arrays that lie beside a record: TP, FP, FN per image and class for every kind, and coverage
    counts."""
    counts = {kind: np.array(counted.counts[kind]) for kind in (*KINDS, PSEUDO) if kind in counted.counts}
    return counts | {f"{kind}_coverage": np.array(rows) for kind, rows in counted.coverage.items()}
