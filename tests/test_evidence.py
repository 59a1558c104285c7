"""Figures of experiments: what they draw of records, and the words for those who cannot see them."""

import numpy as np
import pytest
from scipy import stats
from test_records import record

from wsss.paths import UserError
from wsss.report import evidence, experiments

MINI = experiments.get("mini-csa")


def one(variant, seed, cam, over, redundancy=None):
    numbers = {"cam": {"miou_headline": cam, "over_activation": over, "under_activation": 10.0}}
    numbers |= {"subspaces": {"redundancy": redundancy}} if redundancy is not None else {}
    return record(variant=variant, seed=seed, results=numbers)


def test_a_panel_holds_the_runs_that_have_the_cause():
    records = [one("mini", 0, 40.0, 20.0, 1.0), one("mini", 1, 42.0, 18.0)]
    records += [one("mini-msc", 0, 36.0, 26.0), one("mini-msc", 1, 37.0, 25.0)]
    records += [one("mini", 2, 50.0, 5.0), one("mini-elsewhere", 0, 99.0, 99.0)]  # a seed, a variant that others lack
    picture = evidence.causes(MINI, records)
    over, *_, redundancy = picture.axes
    less_seeds = [(-3.5, 2.5), (-3, 2), (3, -2), (3.5, -2.5)]  # means: 23 and 38 of seed 0, 21.5 and 39.5 of seed 1
    drawn = [point for line in over.get_lines() for point in line.get_xydata().tolist()]
    assert sorted(map(tuple, drawn)) == less_seeds
    r = np.corrcoef(np.array(less_seeds).T)[0, 1]
    assert over.get_title() == f"correlation {r:+.2f}, 4 runs" and f"over-activation {r:+.2f}" in picture.alt
    assert redundancy.get_title() == "", "one run of a seed has nothing beside it"
    assert not any(len(line.get_xdata()) for line in redundancy.get_lines())
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["no alignment", "base + both"]
    assert [text.get_text() for text in picture.axes[3].texts] == ["not measured"]
    assert [text.get_text() for text in redundancy.texts] == ["not measured"]
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == 2, "no two rows look alike"


def test_bars_are_means_over_shared_seeds_row_by_row():
    def covers(variant, seed, part, rest):
        return record(variant=variant, seed=seed, results={"coverage": {"cam": {"part": part, "rest": rest}}})

    records = [covers("mini-msc", 0, 90.0, 40.0), covers("mini-msc", 1, 80.0, 60.0), covers("mini-csa", 0, 1.0, 1.0)]
    records += [covers("mini", seed, 95.0, 70.0 + seed) for seed in (0, 1, 2)]
    picture = evidence.coverage_bars(MINI, records)
    (axis,) = picture.axes
    assert [bar.get_width() for bar in axis.patches] == [85.0, 50.0, 95.0, 70.5]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["no alignment", "base + both"]
    assert "no alignment, rest 50.0; base + both, part 95.0" in picture.alt


DRAWN = [evidence.causes, evidence.coverage_bars, evidence.differences, evidence.threshold_curves, evidence.extent]


@pytest.mark.parametrize("draw", DRAWN)
def test_without_a_run_there_is_no_figure(draw):
    with pytest.raises(UserError, match="wsss sweep"):
        draw(MINI, [])


def checked(variant, seed, *steps):
    def scores(step):
        layers = {"cam": 20.0 + step, "aux_cam": 30.0 + step}
        return {"best": layers, "auc": {**layers, "centre": 50.0}, "agreement": {"difference": 5.0}}

    rows = [{"step": step, "validation": scores(step)} for step in steps]
    last = scores(9)
    results = {"auc": last["auc"], "agreement": last["agreement"]}
    results["sweep"] = {kind: {"best_headline": value} for kind, value in last["best"].items()}
    return record(variant=variant, seed=seed, validations=rows, results=results, config={"optim": {"steps": 9}})


def test_cams_over_training_of_the_run_with_most_validations():
    records = [checked("mini", 0, 5), checked("mini", 1, 1, 2, 3), checked("mini-base", 2, 1, 2)]
    picture = evidence.over_training(records, "mini", (("base", "mini-base"), ("both", "mini")))
    best, auc, apart = picture.axes
    for axis in (best, auc):
        base_last, base_aux, last, aux = axis.get_lines()
        assert base_last.get_xydata().tolist() == [[1, 21], [2, 22], [9, 29]]
        assert last.get_xydata().tolist() == [[1, 21], [2, 22], [3, 23], [9, 29]]
        assert base_aux.get_ydata().tolist() == [31, 32, 39] and aux.get_ydata()[0] == 31
    assert apart.get_lines()[1].get_ydata().tolist() == [5, 5, 5, 5]
    with pytest.raises(UserError, match="mini-base with several validations"):
        evidence.over_training(records[:2], "mini", (("base", "mini-base"), ("both", "mini")))
    assert "base seed 2, both seed 1" in picture.alt and "both, aux layer, auc 31.0 to 39.0" in picture.alt


def test_differences_are_a_dot_a_seed_with_mean_and_interval():
    def both(variant, seed, cam, segmentation, **fields):
        numbers = {"cam": {"miou_headline": cam}, "segmentation": {"miou_headline": segmentation}}
        return record(variant=variant, seed=seed, results=numbers, **fields)

    records = [both("mini", seed, 40.0 + seed, 30.0) for seed in (0, 1, 2)]
    records += [both("mini-msc", seed, 40.0 + seed + gain, 29.0) for seed, gain in enumerate((1.0, 2.0, 4.5))]
    records.append(both("mini+csa.balance=False", 0, 39.0, 30.5))
    records.append(both("mini+csa.balance=False", 1, 0.0, 0.0, device="other"))
    segmentation, cam = evidence.differences(MINI, records).axes
    assert [text.get_text() for text in segmentation.get_yticklabels()] == ["no alignment", "without balance"]
    _, dots, interval, mean, one, none, alone = cam.get_lines()  # the first is the line of no difference
    assert dots.get_xdata().tolist() == [1.0, 2.0, 4.5] and mean.get_xdata() == [2.5]
    assert interval.get_xdata() == pytest.approx(stats.ttest_1samp([1.0, 2.0, 4.5], 0).confidence_interval(0.95))
    assert one.get_xdata().tolist() == [-1.0] == alone.get_xdata() and np.isnan(none.get_xdata()).all(), "one seed"
    low, high = cam.get_xlim()
    assert low < interval.get_xdata()[0] and interval.get_xdata()[1] < high, "nothing is cut off"
    assert segmentation.get_lines()[1].get_xdata().tolist() == [-1.0] * 3


def test_a_large_difference_hides_no_small_one_and_what_was_not_measured_says_so():
    def run(variant, cam, **more):
        numbers = {"cam": {"miou_headline": cam}} | {kind: {"miou_headline": value} for kind, value in more.items()}
        return record(variant=variant, seed=0, results=numbers)

    records = [run("mini", 40.0, segmentation=30.0), run("mini-msc", 41.0), run("mini+csa.balance=False", 82.0)]
    records += [run("mini+csa.background=False", 39.0, segmentation=29.0)]
    segmentation, cam = evidence.differences(MINI, records).axes
    zero, one = cam.transData.transform([(0, 0), (1, 0)])[:, 0]
    assert one - zero > cam.bbox.width / 20 and cam.get_xlim()[1] > 42, "one point beside 42"
    assert [text.get_text() for text in cam.texts] == ["+1.0", "-1.0", "+42.0"]
    assert [text.get_text() for text in segmentation.texts].count("not measured") == 2
    assert "compressed" in cam.get_xlabel()


def test_curves_over_thresholds_are_means_with_a_dot_at_the_fixed_one():
    def swept(variant, seed, curve):
        sweep = {"thresholds": [0.1, 0.5, 0.9], "miou_headline": curve}
        numbers = {"sweep": {"cam": sweep, "aux_cam": sweep}}
        return record(variant=variant, seed=seed, results=numbers, protocol={"name": "training", "background": 0.5})

    records = [swept("mini", seed, [20.0, 30.0 + seed, 10.0]) for seed in (0, 1)]
    records += [swept("mini-msc", seed, [40.0, 20.0, 10.0]) for seed in (0, 1)]
    picture = evidence.threshold_curves(MINI, records)
    without, dot, curve, fixed = picture.axes[0].get_lines()
    assert curve.get_ydata().tolist() == [20.0, 30.5, 10.0] and fixed.get_xydata().tolist() == [[0.5, 30.5]]
    assert without.get_color() != curve.get_color() and without.get_linestyle() != curve.get_linestyle()
    assert dot.get_ydata() == [20.0] and picture.axes[0].get_ylim()[1] > 40
    assert "no alignment, last layer's CAM 20.0 at 0.5, at best 40.0" in picture.alt


def test_extent_sets_coverage_over_over_activation():
    def shown(variant, seed, covered, beside):
        cam = {"over_activation": beside}
        return record(variant=variant, seed=seed, results={"cam": cam, "coverage": {"cam": {"rest": covered}}})

    records = [shown("mini", 0, 50.0, 20.0), shown("mini-msc", 0, 70.0, 40.0)]
    picture = evidence.extent(MINI, records)
    points = [line.get_xydata().tolist() for line in picture.axes[0].get_lines()]
    assert points == [[[40.0, 70.0]], [[20.0, 50.0]]] and "no alignment 40.0 and 70.0" in picture.alt
    under = [record(variant="mini", seed=0, results={"cam": {"over_activation": 30.0, "under_activation": 25.0}})]
    assert evidence.extent(MINI, under).axes[0].get_lines()[0].get_xydata().tolist() == [[30.0, 75.0]]
