"""Measures: slow loops, closed forms, absent classes, coverage, boundaries, the sweep."""

import math

import numpy as np
import pytest
import reference
import torch
from builders import IGNORE, QUICK, noise, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsss import metrics, subspace, tally

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
    wanted, shown = reference.segmentation_scores(truth, prediction, 4), set(truth.ravel()) & {1, 2, 3}
    for name in ("miou", "pixel_accuracy", "mean_accuracy"):
        assert scores[name] == (pytest.approx(wanted[name], abs=1e-4) if shown else None)
    assert scores["miou_headline"] == scores["miou"]
    for mine, theirs in zip(scores["iou"].values(), wanted["iou"], strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or mine == pytest.approx(theirs, abs=1e-4))


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


@pytest.mark.parametrize("guess", [0, 1], ids=["background", "object"])
@pytest.mark.parametrize("truth", [0, IGNORE], ids=["background", "ignored"])
def test_without_foreground_in_the_truth_no_mean_is_defined(truth, guess):
    """Whatever is predicted: a mean that can only be the score of the background is no score of the method."""
    mask, prediction = np.full((4, 5), truth, np.uint8), np.full((4, 5), guess, np.uint8)
    totals = metrics.counts(metrics.confusion(mask, prediction, 3))
    scores = metrics.segmentation_scores(totals, NAMES[:3])
    means = {"miou", "miou_headline", "pixel_accuracy", "mean_accuracy"}
    assert {scores[name] for name in means} == {None} and scores["iou"]["one"] is scores["iou"]["two"] is None
    assert scores["iou"]["background"] == (None if truth else 100.0 * (guess == 0))
    assert not metrics.miou_intervals(totals[None], NAMES[:3])
    assert set(metrics.activation_errors(totals).values()) == {None}
    assert metrics.boundary_iou(metrics.boundary_counts(mask, prediction, 3)) is None
    pseudo = metrics.pseudo_label_scores(totals, mask.size, NAMES[:3])
    assert pseudo["miou"] is pseudo["miou_headline"] is None
    histogram = metrics.sweep_counts(mask, np.full((4, 5), 0.5), np.ones_like(mask), metrics.thresholds(0.5), 3)
    sweep = metrics.sweep_scores(histogram, metrics.thresholds(0.5), NAMES[:3])
    assert sweep["best"] is sweep["best_headline"] is sweep["best_threshold"] is None and set(sweep["miou"]) == {None}
    coverage = metrics.coverage_scores(metrics.coverage_counts(prediction, mask, prediction)[None])
    assert coverage == {"part": None, "rest": None}


def test_a_headline_without_truth_is_undefined_beside_a_mean_that_is_not():
    truth, both = np.array([[0, 0, 1]], np.uint8), ("background", "two")
    totals = metrics.counts(metrics.confusion(truth, truth, 3))
    scores, intervals = (
        metrics.segmentation_scores(totals, NAMES[:3], both),
        metrics.miou_intervals(totals[None], NAMES[:3], both),
    )
    assert (scores["miou"], scores["miou_headline"]) == (100.0, None) and list(intervals) == ["miou_interval"]


@QUICK
@given(seeds(), st.integers(1, 4))
def test_classification_scores_equal_the_slow_loops(seed, classes):
    """Also for one class, whose F1 is its own and not the mean with that of its complement."""
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
    perfect = {"map": 100.0, "map_headline": 100.0, "f1": 100.0, "average_precision": {"one": 100.0}}
    assert metrics.classification_scores(label, logits, ("one", "two")) == perfect
    none = metrics.classification_scores(np.zeros((2, 2)), logits, ("one", "two"))
    assert none == {"map": None, "map_headline": None, "f1": None, "average_precision": {}}
    label, logits = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[2.0, -3.0], [-1.0, 3.0]])
    scores = metrics.classification_scores(label, logits, ("one", "two"), ("background", "one"))
    assert (scores["map"], scores["map_headline"]) == (75.0, 100.0), "the headline's is over its classes alone"


@QUICK
@given(seeds(), st.integers(1, 4), st.integers(2, 3))
def test_redundancy_is_the_decorrelation_loss_of_all_tokens(seed, classes, subspaces):
    """Added up image by image, the unlabelled tokens left out; 4 dimensions a subspace."""
    z, label = noise(seed, 30, subspaces * 4), np.random.default_rng(seed).integers(0, classes + 1, (5, 6))
    label[0, 0], label[0, 1] = 0, 255
    counted = tally.Counts()
    for codes, rows in ((z[:18], label[:3]), (z[18:], label[3:])):
        tokens = metrics.token_labels(rows.repeat(4, 0).repeat(3, 1), rows.shape)
        counted.merge(tally.Counts(codes=metrics.code_sums(codes, tokens, classes + 1)))
    found = metrics.redundancy(**counted.codes, subspaces=subspaces)
    known = label.ravel() != 255
    codes = torch.from_numpy(z[known]).unflatten(1, (subspaces, 4))
    loss = subspace.decorrelation_loss(codes, torch.from_numpy(label.ravel()[known]))
    assert found == pytest.approx(100 * loss.item(), rel=1e-4, abs=1e-4)


def test_the_floor_of_redundancy_is_what_independent_codes_have():
    """1 / (n - c): 60 tokens of 3 labels with means of their own, 2 subspaces of 40 dimensions."""
    generator, label = np.random.default_rng(0), np.arange(60) % 3
    codes = generator.normal(size=(60, 80)) + generator.normal(size=(3, 80))[label]
    sums = metrics.code_sums(codes, label, 3)
    found, floor = metrics.redundancy(**sums, subspaces=2), metrics.redundancy_floor(sums["counts"])
    assert floor == pytest.approx(100 / 57, abs=1e-4) and found == pytest.approx(floor, rel=0.1)
    assert metrics.redundancy_floor(np.array([1.0, 1.0])) is None


def test_images_that_are_named_and_outlined():
    """Four images; the third has no label and the fourth, a person alone, nothing to outline."""
    label = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], float)
    logits = np.array([[2, 1, 0], [0, 1, 2], [0, 0, 1], [0, 0, 1]], float)
    assert metrics.named_share(label, logits) == pytest.approx(200 / 3, abs=1e-3)
    assert metrics.named_share(label[2:3], logits[2:3]) is None
    counted = np.zeros((4, 4, 3), int)
    counted[0, 1] = (5, 3, 2)  # IoU .5
    counted[1, 1], counted[1, 2] = (9, 0, 0), (4, 3, 6)  # the larger, of 10 pixels, has 4 of 13
    counted[3, 3] = (9, 9, 0)
    assert metrics.outlined_share(counted, (1, 2)) == 50
    assert metrics.outlined_share(counted[3:], (1, 2)) is None


def test_coverage_counts_and_scores():
    mask = np.array([[1, 1, 1, 0], [2, 2, IGNORE, 0]], np.uint8)
    part = np.array([[1, 0, 0, 0], [2, 0, IGNORE, 0]], np.uint8)
    prediction = np.array([[1, 1, 2, 1], [0, 2, 2, 0]], np.uint8)
    counted = metrics.coverage_counts(prediction, mask, part)
    assert counted.tolist() == [1, 2, 2, 3], "part: 1 of 2; rest: 2 of 3; background and 255 do not count"
    scores = metrics.coverage_scores(np.stack([counted, counted]))
    assert scores["part"] == 50.0 and scores["rest"] == pytest.approx(200 / 3, abs=1e-4)
    assert scores["part_interval"] == [50.0, 50.0]


# Errors of activation, pseudo labels, agreement, intervals.


@QUICK
@given(pairs())
def test_activation_errors_equal_the_slow_loops(both):
    found = metrics.activation_errors(metrics.counts(metrics.confusion(*both, 4)))
    hit = extra = missed = 0
    for truth, guess in zip(both[0].flat, both[1].flat, strict=True):
        if truth != IGNORE:
            hit += truth == guess != 0
            extra += guess not in (0, truth)
            missed += truth not in (0, guess)
    wanted = (
        100 * extra / (hit + extra) if hit + extra and hit + missed else None,
        100 * missed / (hit + missed) if hit + missed else None,
    )
    for mine, theirs in zip(found.values(), wanted, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or mine == pytest.approx(theirs, abs=1e-4))


def test_agreement_leaves_out_images_without_a_class():
    pairs_of = np.array([[10.0, 2.0], [math.nan, math.nan], [30.0, 4.0]])
    totals = np.array([[6, 2, 2], [0, 0, 0], [5, 0, 0]])
    found = metrics.agreement_scores(pairs_of, totals)
    assert found == {"difference": 20.0, "affinity": 3.0, "label_iou": (60 + 100) / 2}
    assert metrics.agreement_scores(pairs_of[1:2], totals[1:2]) == dict.fromkeys(found)
    background_alone = metrics.agreement_scores(np.zeros((1, 2)), np.array([[9, 0, 0], [0, 0, 0]]))
    assert background_alone["label_iou"] is None, "they agree on nothing"


def test_miou_intervals_hold_the_mean_of_their_classes():
    counted = np.random.default_rng(0).integers(1, 100, (40, 4, 3))
    found = metrics.miou_intervals(counted, NAMES, headline=("one",))
    scores = metrics.segmentation_scores(counted.sum(0), NAMES, ("one",))
    for name in ("miou", "miou_headline"):
        low, high = found[f"{name}_interval"]
        assert low < scores[name] < high
    assert found["miou_interval"] != found["miou_headline_interval"]
    every = metrics.miou_intervals(counted, NAMES)
    assert every["miou_interval"] == every["miou_headline_interval"] == found["miou_interval"]
    assert metrics.miou_intervals(np.zeros((5, 4, 3), int), NAMES) == {}


# Boundaries.


def eroded(mask, times):
    """In each round a pixel stays if all nine around it are in the mask; nothing beyond the edge is."""
    for _ in range(times):
        kept = np.zeros_like(mask)
        for row, column in np.ndindex(*mask.shape):
            around = [(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            kept[row, column] = all(0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] for y, x in around)
        mask = kept
    return mask


@QUICK
@given(seeds(), st.sampled_from([((7, 9), 1), ((60, 80), 2)]))
def test_boundary_counts_equal_bands_class_by_class(seed, case):
    """Nine blocks of labels, so that there is something inside the bands, which are 2 % of the diagonal wide."""
    assert [metrics.boundary_width(size) for size in ((3, 4), (300, 400), (448, 448))] == [1, 10, 13]
    rng, (size, width) = np.random.default_rng(seed), case
    block = np.ones((-(-size[0] // 3), -(-size[1] // 3)), int)
    truth, guess = (
        np.kron(rng.choice([0, 1, 2, last], (3, 3)), block)[: size[0], : size[1]].astype(np.uint8)
        for last in (IGNORE, 3)
    )
    found = metrics.boundary_counts(truth, np.roll(guess, 3, 1), 4)
    for label in range(4):
        bands = []
        for labels in (truth, np.roll(guess, 3, 1)):
            mask = (labels == label) & (truth != IGNORE)
            bands.append(mask & ~eroded(mask, width))
        one, two = bands
        assert found[label].tolist() == [(one & two).sum(), (two & ~one).sum(), (one & ~two).sum()]


# The sweep.


def strengths():
    """Truth, largest CAM (values between thresholds and on them) and its label."""
    values = np.float32([0, 0.05, 0.3, 0.45, 0.5, 0.501, 0.77, 0.95, 1])

    def three(shape):
        return st.tuples(
            arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORE])),
            arrays(np.int64, shape, elements=st.integers(0, len(values) - 1)).map(values.__getitem__),
            arrays(np.uint8, shape, elements=st.integers(1, 3)),
        )

    shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
    return shapes.flatmap(three).filter(lambda all_three: (all_three[0] != IGNORE).any())


@QUICK
@given(strengths(), st.sampled_from([0.5, 0.45, 0.37]))
def test_the_sweep_equals_labels_made_at_every_threshold(maps, background):
    truth, value, label = maps
    levels = metrics.thresholds(background)
    histogram = metrics.sweep_counts(truth, value, label, levels, 4)
    totals = metrics.sweep_totals(histogram)
    scores = metrics.sweep_scores(histogram, levels, NAMES, ("background", "one"))
    assert len(scores["thresholds"]) == len(totals) == (20 if background == 0.37 else 19)
    for place, level in enumerate(levels):
        guess = np.where(value > np.float32(level), label, 0).astype(np.uint8)
        matrix = reference.confusion(truth, guess, 4)
        np.testing.assert_array_equal(totals[place], metrics.counts(matrix))
        direct = metrics.segmentation_scores(totals[place], NAMES, ("background", "one"))
        for name in ("miou", "miou_headline"):
            assert scores[name][place] == direct[name], "not nearly: the same"
    fixed = scores["miou"][scores["thresholds"].index(background)]
    if not set(truth.ravel()) & {1, 2, 3}:
        assert set(scores["miou"]) == {scores["best"], scores["best_threshold"]} == {None}
        return
    assert scores["best"] == max(scores["miou"]) >= fixed
    assert scores["miou"][scores["thresholds"].index(scores["best_threshold"])] == scores["best"]
    headline = [one for one in scores["miou_headline"] if one is not None]
    assert scores["best_headline"] == max(headline, default=None)


# Pixel AUC.


def squeezed(seed, low, high, levels=0):
    """A random map in low..high, of so many different values (0: any), and a mask of 0, 1, 2 and 255."""
    rng = np.random.default_rng(seed)
    value = rng.random((60, 80))
    value = np.round(value * (levels - 1)) / (levels - 1) if levels else value
    mask = rng.choice([0, 1, 2, IGNORE], (60, 80), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
    value[mask == 1] = np.sqrt(value[mask == 1])  # larger where the class is, else all would be near chance
    return (low + value * (high - low)).astype(np.float32), mask


@pytest.mark.parametrize(
    "low, high, levels", [(0, 1, 0), (0, 1, 5), (0, 0.02, 0), (0.5, 0.51, 0), (0, 0, 2), (0, 1, 2)]
)
def test_pixel_auc_is_that_of_scikit_learn(low, high, levels):
    """Exact for maps of few values, ties among them; else as fine as the bins, also where a map uses few of these."""
    from sklearn.metrics import roc_auc_score

    for seed in range(3):
        value, mask = squeezed(seed, low, high, levels)
        known = mask != IGNORE
        for index in (1, 2):
            wanted = 100 * roc_auc_score(mask[known] == index, value[known])
            assert metrics.pixel_auc(value, mask, index) == pytest.approx(wanted, abs=1e-9 if levels else 0.02)


def test_the_centre_prior_falls_from_the_middle_to_the_corners():
    prior = metrics.centre_prior((31, 51))
    assert np.unravel_index(prior.argmax(), prior.shape) == (15, 25) and prior[15, 25] == 1
    assert 0 < prior[0, 0] == prior.min() < 0.06 and np.array_equal(prior, prior[::-1, ::-1])
    assert prior[0, 25] == pytest.approx(prior[15, 0], abs=0.02), "the middles of all four sides are alike"
    disc = np.zeros((31, 51), np.uint8)
    disc[10:21, 17:34] = 1
    assert metrics.pixel_auc(prior, disc, 1) > 97 and metrics.pixel_auc(1 - prior, disc, 1) < 3


def test_auc_is_a_mean_over_pairs_of_image_and_class():
    """Three pairs in two images; a class of the label that no pixel has makes none."""
    rng = np.random.default_rng(0)
    masks = [np.array([[0, 1], [2, 0]], np.uint8), np.array([[0, 1], [IGNORE, 1]], np.uint8)]
    maps = [{kind: rng.random((2, 2, 2), np.float32) for kind in tally.LAYERS} for _ in masks]
    counted = tally.Counts()
    for mask, layers in zip(masks, maps, strict=True):
        largest = {kind: (values.max(0), values.argmax(0).astype(np.uint8) + 1) for kind, values in layers.items()}
        labels = {kind: np.zeros_like(mask) for kind in (*tally.KINDS, tally.PSEUDO)}
        label, nothing = np.ones(2, np.float32), np.zeros(2)
        shown = tally.Predicted("a", mask, None, label, nothing, labels, largest, layers, nothing, None, (1, 1))
        counted.merge(tally.count(shown, 0.5, 1))
    assert [rows.shape for rows in counted.auc] == [(2, 3), (1, 3)]
    wanted = [metrics.pixel_auc(maps[i]["aux_cam"][c - 1], masks[i], c) for i, c in ((0, 1), (0, 2), (1, 1))]
    found = metrics.auc_scores(np.concatenate(counted.auc), ("cam", "aux_cam", "centre"))
    assert found["aux_cam"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert metrics.auc_scores(np.zeros((0, 3)), ("cam", "aux_cam", "centre")) == dict.fromkeys(
        ("cam", "aux_cam", "centre")
    )
