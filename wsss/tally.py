"""Counts of an evaluation, image by image: the way from predictions to a record's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsss import metrics, results
from wsss.datasets import Sample

KINDS = ("segmentation", "cam", "aux_cam")
GUESSES = ("background", "centre")


@dataclass
class Tally:
    """Counts by image; small enough to keep for every image, so that intervals and paired tests need no pixels."""

    ids: list[str] = field(default_factory=list)
    counts: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in KINDS + GUESSES})
    """Kind -> per image (c, 3): true positives, false positives, false negatives."""
    coverage: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Kind -> per image (4,): see `metrics.coverage_counts`; empty where parts are not known."""
    labels: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def add(self, sample: Sample, predictions: dict[str, np.ndarray], logits: np.ndarray, classes: int) -> None:
        """Count one image: `predictions` by kind, each (h, w) uint8."""
        label = sample.label.numpy()
        guesses = {
            "background": np.zeros_like(sample.mask),
            "centre": metrics.centre_guess(label, sample.mask.shape),
        }
        self.ids.append(sample.id)
        self.labels.append(label)
        self.logits.append(logits)
        self.digests.append(results.mask_digest(sample.mask))
        for kind, prediction in {**predictions, **guesses}.items():
            self.counts[kind].append(metrics.counts(metrics.confusion(sample.mask, prediction, classes)))
        if sample.part is not None:
            for kind in KINDS:
                self.coverage[kind].append(metrics.coverage_counts(predictions[kind], sample.mask, sample.part))

    def merge(self, other: "Tally") -> None:
        """Append another process's images."""
        for name in ("ids", "labels", "logits", "digests"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("counts", "coverage"):
            for kind, rows in getattr(other, name).items():
                getattr(self, name)[kind].extend(rows)

    def sort(self) -> None:
        """Order images by id, whatever process counted them."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        for rows in (
            self.ids,
            self.labels,
            self.logits,
            self.digests,
            *self.counts.values(),
            *self.coverage.values(),
        ):
            rows[:] = [rows[place] for place in order] if rows else rows


def scores(counted: Tally, names: Sequence[str], headline: Sequence[str]) -> dict[str, Any]:
    """The `results` part of a record."""
    full = ("background", *names)
    found = {
        kind: metrics.segmentation_scores(np.sum(counted.counts[kind], 0), full, headline) for kind in KINDS + GUESSES
    }
    parts = {
        kind: metrics.coverage_scores(np.array(counted.coverage[kind])) for kind in KINDS if counted.coverage[kind]
    }
    return {
        **{kind: found[kind] for kind in KINDS},
        "classification": metrics.classification_scores(np.array(counted.labels), np.array(counted.logits), names),
        "guesses": {kind: found[kind]["miou"] for kind in GUESSES},
        **({"coverage": parts} if parts else {}),
    }


def counts_by_image(counted: Tally) -> dict[str, np.ndarray]:
    """What goes beside a record: per image TP/FP/FN by class of every kind, and its coverage counts."""
    counts = {kind: np.array(counted.counts[kind]) for kind in KINDS}
    coverage = {f"{kind}_coverage": np.array(counted.coverage[kind]) for kind in KINDS if counted.coverage[kind]}
    return counts | coverage
