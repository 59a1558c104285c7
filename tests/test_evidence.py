"""Figures of experiments: what they draw of records, and the words for those who cannot see them."""

import numpy as np
import pytest
from test_results import record

from wsss import evidence, experiments
from wsss.paths import UserError

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
    assert sorted(map(tuple, over.collections[0].get_offsets().tolist())) == less_seeds
    r = np.corrcoef(np.array(less_seeds).T)[0, 1]
    assert over.get_title() == f"correlation {r:+.2f}, 4 runs" and f"over-activation {r:+.2f}" in picture.alt
    assert redundancy.get_title() == "" and not redundancy.collections, "one run of a seed has nothing beside it"
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["no alignment", "base + both"]
    assert [text.get_text() for text in picture.axes[3].texts] == ["not measured"]
    assert [text.get_text() for text in redundancy.texts] == ["not measured"]
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == 2, "no two rows look alike"


def test_what_a_seed_brings_to_all_rows_is_not_correlated():
    """Seed 1 has 10 more of both in every row; within a seed the CAM falls where over-activation rises."""
    rows = [("mini", 40.0, 20.0), ("mini-msc", 38.0, 22.0)]
    records = [one(name, seed, cam + 10 * seed, over + 10 * seed) for name, cam, over in rows for seed in (0, 1)]
    assert evidence.causes(MINI, records).axes[0].get_title() == "correlation -1.00, 4 runs"


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


@pytest.mark.parametrize("draw", [evidence.causes, evidence.coverage_bars])
def test_without_a_run_there_is_no_figure(draw):
    with pytest.raises(UserError, match="wsss sweep"):
        draw(MINI, [])


def checked(variant, seed, *steps, watch=True):
    def found(step):
        return {"cam": 20.0 + step, "aux_cam": 30.0 + step, "agreement": {"difference": 5.0}}

    rows = [{"step": step, "validation": found(step), "watched": {"train": found(2 * step)}} for step in steps]
    rows = rows if watch else [{name: row[name] for name in ("step", "validation")} for row in rows]
    return record(variant=variant, seed=seed, validations=rows)


def test_cams_over_training_of_the_run_with_most_validations():
    records = [checked("mini", 0, 5, watch=False), checked("mini", 1, 1, 2, 3), checked("mini-base", 2, 1, 2)]
    picture = evidence.over_training(records, "mini", (("base", "mini-base"), ("both", "mini")))
    assert [axis.get_title() for axis in picture.axes] == ["base, seed 2", "both, seed 1"] * 2
    assert [axis.get_ylabel() for axis in picture.axes[::2]] == ["val, %", "train, %"]
    last, aux, apart = picture.axes[3].get_lines()
    assert last.get_xydata().tolist() == [[1, 22], [2, 24], [3, 26]]
    assert aux.get_xydata()[0].tolist() == [1, 32] and apart.get_ydata().tolist() == [5, 5, 5]
    assert "both, train: last layer 22.0 to 26.0, aux layer 32.0 to 36.0." in picture.alt


def test_a_variant_without_validations_is_a_sentence():
    with pytest.raises(UserError, match="mini-base with several validations"):
        evidence.over_training([checked("mini", 0, 1, 2)], "mini", (("base", "mini-base"), ("both", "mini")))
