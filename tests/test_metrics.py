"""Measures: slow loops, closed forms, absent classes, the centre guess, coverage."""

import numpy as np
import pytest
import reference
from builders import IGNORE, QUICK, noise, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsss import metrics

NAMES = ("background", "one", "two", "three")


def pairs():
    """Truth with 255 and without class 3, and a prediction of 0..3, of the same size; at least one pixel counts."""

    def two(shape):
        truth = arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORE]))
        return st.tuples(truth, arrays(np.uint8, shape, elements=st.integers(0, 3)))

    shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
    return shapes.flatmap(two).filter(lambda both: (both[0] != IGNORE).any())


@QUICK
@given(pairs())
def test_segmentation_scores_equal_the_slow_loops(both):
    truth, prediction = both
    matrix = metrics.confusion(truth, prediction, 4)
    np.testing.assert_array_equal(matrix, reference.confusion(truth, prediction, 4))
    scores = metrics.segmentation_scores(metrics.counts(matrix), NAMES)
    wanted = reference.segmentation_scores(truth, prediction, 4)
    for name in ("miou", "pixel_accuracy", "mean_accuracy"):
        assert scores[name] == pytest.approx(wanted[name], abs=1e-4)
    assert scores["miou_headline"] == scores["miou"]
    for mine, theirs in zip(scores["iou"].values(), wanted["iou"], strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or mine == pytest.approx(theirs, abs=1e-4))


@QUICK
@given(pairs(), pairs())
def test_counts_add_over_images_in_any_order(one, two):
    """One summed matrix: the score of two images is that of their pixels laid together, whoever counted them."""
    totals = [metrics.counts(metrics.confusion(*both, 4)) for both in (one, two)]
    together = [np.concatenate([one[k].ravel(), two[k].ravel()])[None] for k in range(2)]
    np.testing.assert_array_equal(totals[0] + totals[1], metrics.counts(metrics.confusion(*together, 4)))


def test_closed_form_2x2():
    truth = np.array([[0, 0], [1, 1]], np.uint8)
    prediction = np.array([[0, 1], [1, 1]], np.uint8)
    scores = metrics.segmentation_scores(metrics.counts(metrics.confusion(truth, prediction, 2)), NAMES[:2])
    assert scores["iou"] == {"background": 50.0, "one": pytest.approx(200 / 3, abs=1e-4)}
    assert scores["miou"] == pytest.approx((50 + 200 / 3) / 2, abs=1e-4)
    assert scores["pixel_accuracy"] == 75.0 and scores["mean_accuracy"] == 75.0


def test_D9_mean_over_classes_present_and_headline():
    """A class that is predicted but absent from the truth has no IoU and does not lower the mean."""
    truth = np.array([[0, 0, 0, 1, 2, IGNORE]], np.uint8)
    prediction = np.array([[0, 0, 3, 1, 0, 3]], np.uint8)
    totals = metrics.counts(metrics.confusion(truth, prediction, 4))
    scores = metrics.segmentation_scores(totals, NAMES, headline=("one", "two", "three"))
    assert scores["iou"] == {"background": 50.0, "one": 100.0, "two": 0.0, "three": None}
    assert scores["miou"] == 50.0 and scores["miou_headline"] == 50.0
    assert metrics.segmentation_scores(totals, NAMES, headline=("one",))["miou_headline"] == 100.0
    assert metrics.iou(totals).tolist() == [50.0, 100.0, 0.0, 0.0]
    assert np.isnan(metrics.iou(np.zeros((1, 3), int))).all()


def test_perfect_and_all_ignored():
    truth = np.array([[0, 1, 2, IGNORE]], np.uint8)
    perfect = metrics.segmentation_scores(metrics.counts(metrics.confusion(truth, truth % IGNORE, 4)), NAMES)
    assert perfect["miou"] == perfect["pixel_accuracy"] == perfect["mean_accuracy"] == 100.0
    nothing = metrics.segmentation_scores(np.zeros((4, 3), int), NAMES)
    assert nothing["miou"] is None and nothing["pixel_accuracy"] == 0.0


@QUICK
@given(seeds(), st.integers(1, 4))
def test_classification_scores_equal_the_slow_loops(seed, classes):
    """One class as well, whose F1 is its own and not the mean with that of its complement."""
    logits, label = noise(seed, 9, classes), (noise(seed + 1, 9, classes) > 0).astype(float)
    label[0] = 1
    scores = metrics.classification_scores(label, logits, NAMES[:classes])
    precision = [100 * reference.average_precision(label[:, k], logits[:, k]) for k in range(classes)]
    f1 = [100 * reference.f1(label[:, k], logits[:, k] > 0) for k in range(classes)]
    assert scores["map"] == pytest.approx(np.mean(precision), abs=1e-4)
    assert scores["f1"] == pytest.approx(np.mean(f1), abs=1e-4)
    assert list(scores["average_precision"].values()) == pytest.approx(precision, abs=1e-4)


def test_classification_leaves_out_classes_without_a_positive():
    label = np.array([[1.0, 0.0], [0.0, 0.0]])
    logits = np.array([[2.0, 3.0], [-1.0, 3.0]])
    perfect = {"map": 100.0, "f1": 100.0, "average_precision": {"one": 100.0}}
    assert metrics.classification_scores(label, logits, ("one", "two")) == perfect
    none = metrics.classification_scores(np.zeros((2, 2)), logits, ("one", "two"))
    assert none == {"map": None, "f1": None, "average_precision": {}}


@QUICK
@given(st.integers(0, 3), st.integers(4, 20), st.integers(4, 20))
def test_centre_guess_paints_the_labels_side_by_side(classes, height, width):
    """The central half of both sides, shared evenly from left to right; all background without a label."""
    label = np.zeros(5)
    label[:classes] = 1
    guess = metrics.centre_guess(label, (height, width))
    top, left = height // 4, width // 4
    border = guess.copy()
    border[top : height - top, left : width - left] = 0
    assert not border.any()
    strip = guess[height // 2, left : width - left]
    if classes == 0:
        assert not guess.any()
    elif len(strip) >= classes:
        assert (np.diff(strip.astype(int)) >= 0).all() and set(strip) == set(range(1, classes + 1))
        shares = np.bincount(strip, minlength=classes + 1)[1:]
        assert shares.max() - shares.min() <= 1
    assert (guess[top : height - top] == guess[top]).all()


def test_coverage_counts_and_scores():
    mask = np.array([[1, 1, 1, 0], [2, 2, IGNORE, 0]], np.uint8)
    part = np.array([[1, 0, 0, 0], [2, 0, IGNORE, 0]], np.uint8)
    prediction = np.array([[1, 1, 2, 1], [0, 2, 2, 0]], np.uint8)
    counted = metrics.coverage_counts(prediction, mask, part)
    assert counted.tolist() == [1, 2, 2, 3], "part: 1 of 2; rest: 2 of 3; background and 255 do not count"
    scores = metrics.coverage_scores(np.stack([counted, counted]))
    assert scores["part"] == 50.0 and scores["rest"] == pytest.approx(200 / 3, abs=1e-4)
    assert scores["part_interval"] == [50.0, 50.0]
