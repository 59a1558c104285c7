"""Guesses stand over the same classes as the results beside them: on the photographs over the headline classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss import metrics, paths, presets, tally
from wsss.data import voc
from wsss.report import records


def guesses_of(root: Path, split: str, headline: Sequence[str]) -> dict[str, Any]:
    """What the guesses reach on a list, counted without a network: an entry of data/results/guesses.json."""
    opened, counted = voc.Split(root, split, masks=True), tally.Counts()
    full = ("background", *opened.kit.classes)
    for name, label in zip(opened.ids, opened.labels, strict=True):
        _, mask = voc.read_pair(opened.kit, name)
        counted.merge(tally.count_labels(name, mask, tally.guess_labels(label, mask.shape), len(full)))
    reached = {kind: tally.guess_scores(np.sum(counted.counts[kind], 0), full, headline) for kind in tally.GUESSES}
    mark = records.fingerprint(counted.ids, counted.digests)
    return {"split": split, "headline": list(headline), "fingerprint": mark, **reached}


def test_guesses_on_the_photographs(shared):
    """All 300 validation photographs; the numbers were counted beforehand by another program."""
    headline = presets.get("voc-animals").data.headline
    assert set(headline) == {"background", "cat", "cow", "dog", "horse", "sheep", "person"}
    found = guesses_of(shared / "data/voc12_animals/VOC2012", "val", headline)
    for kind, over_all, over_headline in (("background", 3.9, 10.1), ("centre", 16.8, 34.4)):
        assert found[kind]["miou"] == pytest.approx(over_all, abs=0.05)
        assert found[kind]["miou_headline"] == pytest.approx(over_headline, abs=0.05)
    assert found == paths.read_json(paths.project_root() / "data/results/guesses.json")["voc-animals"]
    for record in records.select(records.published(), "voc-animals", "voc-animals-base"):
        assert record["fingerprint"] == found["fingerprint"], "on the images and masks of the published records"
        assert records.value(record, "guesses.centre.miou") == pytest.approx(found["centre"]["miou"], abs=1e-4)


def test_without_headline_classes_both_means_are_the_same():
    counts = np.random.default_rng(0).integers(1, 100, (3, 3))
    for headline in ((), ("background", "cup", "jug")):
        found = tally.guess_scores(counts, ("background", "cup", "jug"), headline)
        assert found["miou"] == found["miou_headline"]
    alone = tally.guess_scores(counts, ("background", "cup", "jug"), ("jug",))
    assert alone["miou_headline"] == pytest.approx(metrics.iou(counts)[2], abs=1e-4) != alone["miou"]
