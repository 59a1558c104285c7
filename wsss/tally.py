"""Counts of an evaluation, image by image: the way from predictions to a record's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from wsss import metrics
from wsss.config import IGNORE
from wsss.data import voc
from wsss.datasets import Sample, Split
from wsss.report import records

KINDS = ("segmentation", "cam", "aux_cam")
GUESSES = ("background", "centre")
LAYERS = ("cam", "aux_cam")
"""Kinds whose labels hang on a background threshold."""
PRIOR = "centre"
"""The map that knows nothing of the image, beside the layers'."""
PSEUDO = "pseudo_label"
"""Labels with gaps, counted over the pixels that they label."""
AGREEMENT = "agreement"
"""The last layer's labels against the aux layer's, over all pixels."""


def guess_labels(label: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Labels (h, w) that need no model, of an image label (k,): all background, and its classes in the centre."""
    return {"background": np.zeros(size, np.uint8), "centre": metrics.centre_guess(label, size)}


@dataclass
class Tally:
    """Counts by image; small enough to keep for every image, so that intervals and paired tests need no pixels."""

    ids: list[str] = field(default_factory=list)
    counts: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {kind: [] for kind in (*KINDS, *GUESSES, PSEUDO, AGREEMENT)}
    )
    """Kind -> per image (c, 3): true positives, false positives, false negatives."""
    coverage: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Kind -> per image (4,): see `metrics.coverage_counts`; empty where parts are not known."""
    boundary: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Kind -> per image (c, 3) of the boundary bands: see `metrics.boundary_counts`."""
    background: float = 0.5
    """The fixed background threshold, which the sweep takes in."""
    subspaces: int = 1
    """Number of subspaces that codes lie in."""
    sweep: dict[str, np.ndarray] = field(default_factory=dict)
    """Layer -> (c, c, t + 1), summed over images: see `metrics.sweep_counts`."""
    agreement: list[np.ndarray] = field(default_factory=list)
    """Per image (2,): difference of the layers' CAMs and of their affinities in percent."""
    auc: list[np.ndarray] = field(default_factory=list)
    """Per image (p, 3): pixel AUC in percent of LAYERS and PRIOR, a row for each class of its image label."""
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    """Sums over the tokens of all images that `metrics.redundancy` takes: gram, sums, counts."""
    labels: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def add(self, sample: Sample, predictions: dict[str, np.ndarray], logits: np.ndarray, classes: int) -> None:
        """Count one image: `predictions` by kind, each (h, w) uint8."""
        label = sample.label.numpy()
        guesses = guess_labels(label, sample.mask.shape)
        self.ids.append(sample.id)
        self.labels.append(label)
        self.logits.append(logits)
        self.digests.append(records.mask_digest(sample.mask))
        for kind, prediction in {**predictions, **guesses}.items():
            truth = np.where(prediction == IGNORE, IGNORE, sample.mask) if kind == PSEUDO else sample.mask
            self.counts[kind].append(metrics.counts(metrics.confusion(truth, prediction, classes)))
        for kind in KINDS:
            self.boundary[kind].append(metrics.boundary_counts(sample.mask, predictions[kind], classes))
        self.counts[AGREEMENT].append(
            metrics.counts(metrics.confusion(predictions["aux_cam"], predictions["cam"], classes))
        )
        if sample.part is not None:
            for kind in KINDS:
                self.coverage[kind].append(metrics.coverage_counts(predictions[kind], sample.mask, sample.part))

    def add_layers(
        self,
        mask: np.ndarray,
        ranked: dict[str, tuple[np.ndarray, np.ndarray]],
        agreement: np.ndarray,
        classes: int,
    ) -> None:
        """Count one image's CAMs: by layer the largest value (h, w) and its label (h, w); the layers' agreement."""
        self.agreement.append(agreement)
        levels = metrics.thresholds(self.background)
        for kind, (value, label) in ranked.items():
            counted = metrics.sweep_counts(mask, value, label, levels, classes)
            self.sweep[kind] = self.sweep.get(kind, 0) + counted

    def add_maps(self, mask: np.ndarray, maps: dict[str, np.ndarray], indices: Sequence[int]) -> None:
        """Rank one image's pixels: by layer the CAM (p, h, w) in 0..1 of each class of its image label, whose values in
        the mask are `indices`. A class that no pixel has, or every one, has no AUC."""
        prior, rows = metrics.centre_prior(mask.shape), []
        for place, index in enumerate(indices):
            row = [metrics.pixel_auc(one, mask, index) for one in (*(maps[kind][place] for kind in LAYERS), prior)]
            rows += [] if None in row else [row]
        self.auc.append(np.array(rows, float).reshape(-1, len(LAYERS) + 1))

    def add_codes(self, codes: np.ndarray, grid: tuple[int, int], mask: np.ndarray, classes: int) -> None:
        """Count one image's codes in the subspaces, (n, q) on the token grid, by the true label at each token."""
        found = metrics.code_sums(codes, metrics.token_labels(mask, grid), classes)
        for name, total in found.items():
            self.codes[name] = self.codes.get(name, 0) + total

    def merge(self, other: "Tally") -> None:
        """Append another process's images."""
        for name in ("ids", "labels", "logits", "digests", "agreement", "auc"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("counts", "coverage", "boundary"):
            for kind, rows in getattr(other, name).items():
                getattr(self, name)[kind].extend(rows)
        for own, others in ((self.sweep, other.sweep), (self.codes, other.codes)):
            for name, counted in others.items():
                own[name] = own.get(name, 0) + counted

    def sort(self) -> None:
        """Order images by id, whatever process counted them."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        for rows in (
            self.ids,
            self.labels,
            self.logits,
            self.digests,
            self.agreement,
            self.auc,
            *self.counts.values(),
            *self.coverage.values(),
            *self.boundary.values(),
        ):
            rows[:] = [rows[place] for place in order] if rows else rows


def scores(counted: Tally, names: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """The `results` part of a record."""
    full = ("background", *names)
    guesses = {kind: guess_scores(np.sum(counted.counts[kind], 0), full, headline) for kind in GUESSES}
    parts = {
        kind: metrics.coverage_scores(np.array(counted.coverage[kind])) for kind in KINDS if counted.coverage[kind]
    }
    return {
        **{kind: _kind_scores(counted, kind, full, headline) for kind in KINDS},
        **_layer_scores(counted, full, headline),
        "classification": metrics.classification_scores(
            np.array(counted.labels), np.array(counted.logits), names, headline
        ),
        "guesses": guesses,
        **({"coverage": parts} if parts else {}),
        **_code_scores(counted),
    }


def guesses_of(root: Path, split: str, headline: Sequence[str]) -> dict[str, Any]:
    """What the guesses reach on a list, counted without a network: an entry of data/results/guesses.json."""
    opened = Split(root, split, need_masks=True)
    full, counts, digests = ("background", *opened.kit.classes), dict.fromkeys(GUESSES, 0), []
    for place, name in enumerate(opened.ids):
        _, mask = voc.read_pair(opened.kit, name)
        digests.append(records.mask_digest(mask))
        for kind, guess in guess_labels(opened.labels[place].numpy(), mask.shape).items():
            counts[kind] = counts[kind] + metrics.counts(metrics.confusion(mask, guess, len(full)))
    reached = {kind: guess_scores(total, full, headline) for kind, total in counts.items()}
    return {
        "split": split,
        "headline": list(headline),
        "fingerprint": records.fingerprint(opened.ids, digests),
        **reached,
    }


def guess_scores(
    totals: Int[np.ndarray, "c 3"], names: Sequence[str], headline: Sequence[str]
) -> dict[str, float | None]:
    """What a guess reaches over the same classes as the results beside it."""
    reached = metrics.segmentation_scores(totals, names, headline)
    return {name: reached[name] for name in ("miou", "miou_headline")}


def _code_scores(counted: Tally) -> dict[str, Any]:
    """What the subspaces share, where codes were counted."""
    if not counted.codes:
        return {}
    shared = metrics.redundancy(**counted.codes, subspaces=counted.subspaces)
    return {"subspaces": {"redundancy": shared, "floor": metrics.redundancy_floor(counted.codes["counts"])}}


def _kind_scores(counted: Tally, kind: str, full: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """What every kind of labels without gaps is measured by."""
    by_image = np.array(counted.counts[kind])
    return {
        **metrics.segmentation_scores(by_image.sum(0), full, headline),
        **metrics.miou_intervals(by_image, full, headline),
        **metrics.activation_errors(by_image.sum(0)),
        "boundary_iou": metrics.boundary_iou(np.sum(counted.boundary[kind], 0)),
    }


def _layer_scores(counted: Tally, full: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """Sweep, pseudo label and agreement of the layers, as far as they were counted."""
    found: dict[str, Any] = {}
    levels = metrics.thresholds(counted.background)
    if counted.sweep:
        found["sweep"] = {
            kind: metrics.sweep_scores(one, levels, full, headline) for kind, one in counted.sweep.items()
        }
    if counted.counts[PSEUDO]:
        pixels = int(np.sum(counted.counts["segmentation"], 0)[:, [0, 2]].sum())
        totals = np.sum(counted.counts[PSEUDO], 0)
        found[PSEUDO] = metrics.pseudo_label_scores(totals, pixels, full, headline)
    if counted.agreement:
        totals = np.sum(counted.counts[AGREEMENT], 0)
        found[AGREEMENT] = metrics.agreement_scores(np.array(counted.agreement), totals)
    if counted.auc:
        found["auc"] = metrics.auc_scores(np.concatenate(counted.auc), (*LAYERS, PRIOR))
    return found


def counts_by_image(counted: Tally) -> dict[str, np.ndarray]:
    """What goes beside a record: per image TP/FP/FN by class of every kind, and its coverage counts."""
    counts = {kind: np.array(counted.counts[kind]) for kind in (*KINDS, PSEUDO) if counted.counts[kind]}
    coverage = {f"{kind}_coverage": np.array(counted.coverage[kind]) for kind in KINDS if counted.coverage[kind]}
    return counts | coverage
