"""The paired test of two results on the same images, and intervals at their edges."""

import math

import numpy as np
import pytest

from wsss.paths import UserError
from wsss.report import statistics

IMAGES, CLASSES, PIXELS = 40, 3, 400


def results_of(seed, right=0.7, truth_seed=0, spread=0.1):
    """Counts (1, images, classes, 3) of a result that gets about the share `right` of every class's pixels."""
    pixels = np.random.default_rng(truth_seed).multinomial(PIXELS, np.full(CLASSES, 1 / CLASSES), size=IMAGES)
    rng = np.random.default_rng([seed, 1])
    share = np.clip(rng.normal(right, spread, (IMAGES, CLASSES)), 0, 1)
    hit = np.round(pixels * share).astype(int)
    missed = pixels - hit
    return np.stack([hit, np.roll(missed, 1, 1), missed], 2)[None]  # what one class misses, another is given


IDS = [f"image_{n:02d}" for n in range(IMAGES)]
BOTH = (IDS, list(IDS))


def test_the_difference_is_that_of_the_means_and_swapping_the_results_flips_its_sign():
    one, other = results_of(1), results_of(2, 0.68)
    found, turned = statistics.paired(one, other, BOTH), statistics.paired(other, one, BOTH)
    assert found.difference == pytest.approx(statistics.miou(one) - statistics.miou(other))
    assert found.low < found.difference < found.high and 0.01 < found.p < 0.9
    assert turned == pytest.approx((-found.difference, -found.high, -found.low, found.p))
    assert statistics.paired(one, one, BOTH) == (0.0, 0.0, 0.0, 1.0)
    assert statistics.paired(one, other, BOTH) == found != statistics.paired(one, other, BOTH, seed=1)


def test_p_equals_swapping_in_a_loop():
    """With four images all sixteen swaps can be written down; p is drawn from them."""
    one, other = results_of(1)[:, :4], results_of(2, 0.65)[:, :4]
    found = statistics.paired(one, other, (IDS[:4], IDS[:4]), n=20_000)
    extreme = 0
    for code in range(16):
        sides = [[], []]
        for image in range(4):
            swap = code >> image & 1
            sides[swap].append(one[0, image])
            sides[1 - swap].append(other[0, image])
        difference = statistics.miou(np.array(sides[0])) - statistics.miou(np.array(sides[1]))
        extreme += abs(difference) >= abs(found.difference) - 1e-9
    assert 2 <= extreme < 16
    assert found.p == pytest.approx(extreme / 16, abs=0.02)


def test_the_interval_redraws_the_same_images_for_both():
    """A result that is better by the same in every image has a narrow interval, however much the images differ."""
    one = results_of(1, 0.7, spread=0.25)
    other = one.copy()
    moved = np.minimum(other[..., 0], 4)
    other[..., 0] -= moved
    other[..., 2] += moved
    other[..., 1] += np.roll(moved, 1, 1)
    found = statistics.paired(one, other, BOTH)
    low, high = statistics.bootstrap_miou(one[0])
    assert found.low > 0 and found.high - found.low < (high - low) / 4
    assert found.p == pytest.approx(1 / 2001)


def test_several_runs_are_compared_by_their_mean():
    """Copies of a run give what one run gives. Other runs give the mean of their differences, on shared redraws."""
    one, other = results_of(1), results_of(2, 0.65)
    assert statistics.paired(one.repeat(3, 0), other.repeat(3, 0), BOTH) == pytest.approx(
        statistics.paired(one, other, BOTH)
    )
    more, less = np.concatenate([one, results_of(3, 0.8)]), np.concatenate([other, results_of(4, 0.6)])
    found = statistics.paired(more, less, BOTH)
    each = [statistics.miou(a) - statistics.miou(b) for a, b in zip(more, less, strict=True)]
    assert found.difference == pytest.approx(np.mean(each))
    draws = np.random.default_rng(0).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=2000)
    mious = ([[statistics.miou(run.repeat(draw, 0)) for run in side] for side in (more, less)] for draw in draws[:200])
    low, high = np.percentile([np.subtract(*both).mean() for both in mious], (2.5, 97.5))
    assert (found.low, found.high) == pytest.approx((low, high), abs=(high - low) / 5)


@pytest.mark.parametrize("n", [2, 3, 6, 40])
def test_over_seeds_is_the_t_test_of_scipy(n):
    from scipy import stats

    differences = np.random.default_rng(n).normal(0.4, 0.6, n)
    wanted = stats.ttest_1samp(differences, 0)
    low, high = wanted.confidence_interval(0.95)
    assert statistics.over_seeds(differences.tolist()) == pytest.approx(
        (differences.mean(), low, high, wanted.pvalue, n)
    )
    low, high = statistics.prediction_interval(differences.tolist())
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) * math.sqrt(1 + 1 / n)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_one_seed_has_no_interval_and_equal_differences_have_no_p():
    one = statistics.over_seeds([0.5])
    assert one.mean == 0.5 and one.n == 1 and all(map(math.isnan, (one.low, one.high, one.p)))
    assert statistics.over_seeds([0.0, 0.0]) == (0, 0, 0, 1, 2)
    equal = statistics.over_seeds([0.5, 0.5, 0.5])
    assert (equal.low, equal.high) == (0.5, 0.5) and math.isnan(equal.p)
    rounded = statistics.over_seeds([50.1 - 49.8, 60.1 - 59.8, 40.4 - 40.1])
    assert math.isnan(rounded.p), "0.3 each, but for the last bits"
    assert statistics.over_seeds([0.1 + 0.2 - 0.3, 0.0]).p == 1


def test_holm_by_hand():
    """Holm 1979: .01 times 4, .02 times 3, .03 times 2 at least the one before, .5 times 1."""
    assert statistics.holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert statistics.holm([0.4, 0.6]) == pytest.approx([0.8, 0.8]) and statistics.holm([0.7, 0.8]) == [1, 1]
    assert statistics.holm([0.03]) == [0.03] and statistics.holm([]) == []
    one, other, none = statistics.holm([0.01, 0.04, math.nan])
    assert (one, other) == pytest.approx((0.02, 0.04)) and math.isnan(none)


FAULTS = {
    "another image": (results_of(2), (IDS, [*IDS[:-1], "other"]), "different images"),
    "another order": (results_of(2), (IDS, IDS[::-1]), "different images"),
    "fewer images": (results_of(2)[1:], (IDS, IDS[1:]), "different images"),
    "ids of fewer": (results_of(2), (IDS[1:], IDS[1:]), "different images"),
    "other classes": (results_of(2)[:, 1:], BOTH, "different images"),
    "other masks": (results_of(2, truth_seed=9), BOTH, "different masks"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses_what_is_not_paired(fault):
    other, ids, says = FAULTS[fault]
    with pytest.raises(UserError, match=says):
        statistics.paired(results_of(1), other, ids)


def test_classes_that_the_truth_lacks_do_not_count_and_intervals_of_nothing_are_undefined():
    counts = np.array([[[8, 2, 0], [0, 0, 2], [0, 5, 0]]])  # the last class is only predicted
    assert statistics.miou(counts) == pytest.approx(100 * (0.8 + 0) / 2)
    assert np.isnan(statistics.bootstrap_miou(np.zeros((4, 3, 3)))).all()
    assert np.isnan(statistics.bootstrap(np.zeros(4), np.zeros(4))).all()
    some = np.zeros((4, 2, 3))
    some[:, 1] = (1, 0, 1)
    assert statistics.bootstrap_miou(some) == (50.0, 50.0)


@pytest.mark.parametrize("images", [1, 2, 4, 40])
def test_a_class_of_one_or_two_images_leaves_no_interval(images):
    """Samples without it would have a mean of their own: here 90 instead of 45."""
    counts = np.zeros((60, 2, 3))
    counts[:, 0] = (9, 1, 0)
    counts[:images, 1] = (0, 0, 1)
    assert statistics.miou(counts) == pytest.approx(45)
    low, high = statistics.bootstrap_miou(counts)
    assert math.isnan(low) if images < 3 else low <= 45 <= high
    assert statistics.bootstrap_miou(counts[:, :1]) == pytest.approx((90, 90))


def test_bootstrap_holds_the_ratio_and_narrows_with_images():
    rng = np.random.default_rng(0)
    widths = []
    for images in (20, 2000):
        below = rng.integers(1, 100, images)
        above = below * rng.uniform(0.2, 0.6, images)
        low, high = statistics.bootstrap(above, below)
        assert low < above.sum() / below.sum() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert statistics.bootstrap(np.ones(5), np.full(5, 2)) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (-0.04, "-0.04"),
        (0.049, "+0.05"),
        (-0.05, "-0.1"),
        (-0.001, "+0.0"),
        (0.0, "+0.0"),
    ],
)
def test_a_difference_shows_on_which_side_of_zero_it_lies(points, text):
    assert statistics.signed(points) == text
