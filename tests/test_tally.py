"""Counts image by image: put together in any order they are the same, and they fit beside a record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference

from wsss import paths, presets, tally
from wsss.data import voc
from wsss.report import records

CLASSES, SIZE, NAMES = 3, (9, 11), ("cup", "jug")


def image(number, part=True):
    rng = np.random.default_rng(number)
    mask = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
    label = np.array([float((mask == c).any()) for c in (1, 2)], np.float32)
    visible = np.where(rng.random(SIZE) < 0.5, mask, 0).astype(np.uint8) if part else None
    largest = {
        kind: (rng.random(SIZE, np.float32), rng.integers(1, CLASSES, SIZE).astype(np.uint8)) for kind in tally.LAYERS
    }
    maps = {
        kind: np.where(value > np.float32(0.5), which, 0).astype(np.uint8) for kind, (value, which) in largest.items()
    }
    maps["segmentation"] = rng.integers(0, CLASSES, SIZE).astype(np.uint8)
    maps["pseudo_label"] = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
    apart, logits = rng.random(2), rng.standard_normal(2)
    cams = {kind: rng.random((int(label.sum()), *SIZE), np.float32) for kind in tally.LAYERS}
    codes = rng.standard_normal((4, 6))
    return tally.Predicted(
        f"image_{number:02d}", mask, visible, label, logits, maps, largest, cams, apart, codes, (2, 2)
    )


def tallied(*numbers, background=0.5):
    found = tally.Counts(background=background, subspaces=2)
    for number in numbers:
        found.merge(tally.count(image(number), background, 2))
    return found


def test_the_scores_of_processes_put_together_are_those_of_one():
    whole, both = tallied(*range(6)), tallied(5, 1, 3)
    both.merge(tallied(4, 0))
    both.merge(tally.Counts())
    both.merge(tallied(2))
    both.sort()
    assert both.ids == whole.ids
    assert tally.scores(both, NAMES, ()) == tally.scores(whole, NAMES, ())
    for name, counted in tally.counts_by_image(whole).items():
        np.testing.assert_array_equal(tally.counts_by_image(both)[name], counted)
    np.testing.assert_array_equal(both.agreement, whole.agreement)
    np.testing.assert_array_equal(np.concatenate(both.auc), np.concatenate(whole.auc))
    np.testing.assert_allclose(both.codes["gram"], whole.codes["gram"])
    for kind in tally.KINDS:
        np.testing.assert_array_equal(both.boundary[kind], whole.boundary[kind])


def test_pseudo_labels_count_where_they_label_and_their_coverage_where_truth_is_known():
    found = tally.scores(tallied(0, 1), NAMES, ())["pseudo_label"]
    shown = [image(number) for number in (0, 1)]
    truth, guess = np.stack([x.mask for x in shown]), np.stack([x.maps["pseudo_label"] for x in shown])
    wanted = reference.segmentation_scores(np.where(guess == 255, 255, truth), guess, CLASSES)
    assert found["miou"] == pytest.approx(wanted["miou"], abs=1e-4)
    assert found["precision"] == pytest.approx(wanted["pixel_accuracy"], abs=1e-4)
    assert found["coverage"] == pytest.approx(100 * (guess[truth != 255] != 255).mean(), abs=1e-4)


def test_agreement_of_labels_counts_all_pixels():
    """Labels of two layers need no truth: pixels of truth 255 count like others."""
    found = tally.scores(tallied(0, 1), NAMES, ())["agreement"]
    overlaps = []
    for label in range(CLASSES):
        shared = either = 0
        for number in (0, 1):
            one, two = (image(number).maps[kind] == label for kind in tally.LAYERS)
            shared, either = shared + (one & two).sum(), either + (one | two).sum()
        overlaps.append(100 * shared / either)
    assert found["label_iou"] == pytest.approx(sum(overlaps) / CLASSES, abs=1e-4)
    assert found["difference"] == pytest.approx(np.mean([image(n).agreement[0] for n in (0, 1)]), abs=1e-4)


# Guesses stand over the same classes as the results beside them: on the photographs over the headline classes.


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
