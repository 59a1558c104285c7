"""Tables of an experiment: cells from records, differences on the same images; what does not belong is refused."""

import numpy as np
import pytest
from test_results import record

from wsss import ablation, experiments, intervals, results
from wsss.paths import UserError
from wsss.table import ABSENT

NAME = "mini-csa"
MINI, ANIMALS = experiments.get(NAME), experiments.get("voc-animals-components")
IDS = [f"image_{n}" for n in range(30)]


def counts_of(seed, right):
    rng = np.random.default_rng(seed)
    hit = rng.binomial(100, right, (30, 2))
    return np.stack([hit, 100 - hit[:, ::-1], 100 - hit], 2)


def put(tmp_path, variant, seed, right, kinds=("segmentation", "cam"), ids=IDS, **fields):
    """A saved record of 30 images with its counts; the same masks for every variant."""
    path, counts = tmp_path / "mini" / variant / f"{seed}.json", counts_of([seed, len(variant)], right)
    one = {"miou": intervals.miou(counts), "iou": {"background": 1.0, "cup": 1.0}}
    one |= {"miou_headline": one["miou"], "miou_headline_interval": list(intervals.bootstrap_miou(counts))}
    results.save(record(variant=variant, seed=seed, results=dict.fromkeys(kinds, one), **fields), path)
    results.save_counts(path.with_suffix(".npz"), ids, **dict.fromkeys(kinds, counts))
    return results.load(path), counts


def line(table, *start):
    """The cells after the first ones."""
    return next(row[len(start) :] for row in table.rows if row[: len(start)] == start)


def test_a_cell_is_mean_deviation_and_the_widest_interval(tmp_path):
    own = [put(tmp_path, "mini", seed, 0.8) for seed in (0, 1, 2)]
    table = ablation.numbers(NAME, MINI, [one for one, _ in own])
    mious = [intervals.miou(counts) for _, counts in own]
    bounds = [intervals.bootstrap_miou(counts) for _, counts in own]
    shown = f"{np.mean(mious):.1f} ± {np.std(mious, ddof=1):.1f} (3 seeds) "
    shown += f"[{min(low for low, _ in bounds):.1f}, {max(high for _, high in bounds):.1f}]"
    assert line(table, "base + both") == (ABSENT, shown, ABSENT, shown)
    assert line(table, "no alignment") == ("not run",) * 4
    assert "no alignment (0 minutes a seed)" in table.note and f"`wsss sweep {NAME}`" in table.note
    assert "30 images" not in table.title and "2 images of val" in table.title


def test_a_decoder_that_nothing_trained_has_no_number(tmp_path):
    own = [
        put(tmp_path, name, 0, 0.8, config={"segmentation": {"weight": w}})[0]
        for name, w in (("mini-plain", 0.0), ("mini-base", 0.1))
    ]
    experiment = experiments.get("mini-components")
    table = ablation.numbers("mini-components", experiment, own)
    assert line(table, "plain classification")[-1] == ABSENT != line(table, "base")[-1]
    kinds = [
        row[1]
        for row in ablation.differences("mini-components", experiment, own).rows
        if row[0] == "plain classification"
    ]
    assert kinds == ["CAM"]


def test_a_final_evaluation_fills_its_own_column():
    final = {"name": "final-without-crf-s0.6+0.8+1"}
    numbers = {"segmentation": {"miou_headline": 33.0}}
    records = [record("voc-animals", "voc-animals-base", protocol=final, results=numbers)]
    table = ablation.numbers("voc-animals-components", ANIMALS, records)
    assert line(table, "base") == (*["not run"] * 4, "33.0 (1 seed)", "not run")


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path):
    own = [put(tmp_path, "mini-msc", seed, 0.7) for seed in (0, 1, 2)]
    base = [put(tmp_path, "mini", seed, 0.8) for seed in (1, 2, 3)]
    records = [one for one, _ in own + base]
    table = ablation.differences(NAME, MINI, records)
    sides = np.stack([counts for _, counts in own[1:]]), np.stack([counts for _, counts in base[:2]])
    test = intervals.paired(*sides, (IDS, IDS))
    each = [intervals.miou(one) - intervals.miou(other) for one, other in zip(*sides, strict=True)]
    shown = f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} (2 seeds)"
    assert test.high < 0 and test.p < 0.001
    assert line(table, "no alignment", "CAM") == (shown, f"{test.low:+.1f} to {test.high:+.1f}", "< 0.001")
    assert line(table, "intensity alone") == (ABSENT, "not run", ABSENT, ABSENT)
    assert [row[0] for row in table.rows].count("no alignment") == 2, "CAM and segmentation"
    assert table.columns[0] == "less base + both"


def test_rows_are_shown_over_the_seeds_that_they_share():
    numbers = {"cam": {"miou_headline": 40.0}}
    own = [record(variant=v, seed=s, results=numbers) for v, s in (("mini", 0), ("mini", 1), ("mini-msc", 1))]
    shown = {row[0]: row[2] for row in ablation.numbers(NAME, MINI, own).rows}
    assert shown["no alignment"] == shown["base + both"] == "40.0 (1 seed)" and shown["intensity alone"] == "not run"
    apart = [record(variant=v, seed=s, results=numbers) for v, s in (("mini", 0), ("mini-msc", 1))]
    assert [row[2] for row in ablation.numbers(NAME, MINI, apart).rows].count("40.0 (1 seed)") == 2


def test_runs_of_a_seed_on_two_kinds_of_machine_are_no_pair(tmp_path):
    own = [put(tmp_path, "mini-msc", seed, 0.7)[0] for seed in (0, 1)]
    base = [put(tmp_path, "mini", 0, 0.8)[0], put(tmp_path, "mini", 1, 0.8, device="another CPU")[0]]
    assert line(ablation.differences(NAME, MINI, own + base), "no alignment", "CAM")[0].endswith("(1 seed)")
    assert line(ablation.numbers(NAME, MINI, own + base), "base + both")[1].count("(1 seed)") == 1


@pytest.mark.parametrize("rows", [MINI.rows, MINI.rows[:-1]])
def test_a_note_of_differences_says_what_to_run_as_long_as_something_is_left(tmp_path, rows):
    records = [put(tmp_path, row.variant, 0, 0.7)[0] for row in rows]
    left = len(rows) < len(MINI.rows)
    assert (f"`wsss sweep {NAME}`" in ablation.differences(NAME, MINI, records).note) == left


def test_a_gain_is_written_with_its_sign_and_a_headline_is_its_classes_alone(tmp_path):
    config = {"config": {"data": {"headline": ["cup"]}}}
    (one, first), (other, second) = (
        put(tmp_path, name, 0, right, **config) for name, right in (("mini-msc", 0.76), ("mini", 0.74))
    )
    test = intervals.paired(first[None, :, 1:], second[None, :, 1:], (IDS, IDS))
    shown = line(ablation.differences(NAME, MINI, [one, other]), "no alignment", "CAM")
    assert shown[0].startswith("+") and shown[1:] == (f"{test.low:+.1f} to {test.high:+.1f}", f"{test.p:.3f}")


def test_without_counts_there_is_no_test():
    numbers = {"cam": {"miou_headline": 40.0}}
    records = [record(variant=name, results=numbers) for name in ("mini", "mini-msc")]
    assert line(ablation.differences(NAME, MINI, records), "no alignment", "CAM") == ("+0.0 (1 seed)", ABSENT, ABSENT)
    assert [row[1] for row in ablation.differences(NAME, MINI, records).rows if row[0] == "no alignment"] == ["CAM"]


@pytest.mark.parametrize("change", [{"protocol": {"name": "training", "size": 96}}, {"ids": ("a", "c")}])
def test_other_images_and_other_protocols_are_refused(change):
    numbers = {"cam": {"miou_headline": 40.0}}
    records = [record(results=numbers), record(variant="mini-msc", results=numbers, **change)]
    with pytest.raises(UserError, match="differ in"):
        ablation.differences(NAME, MINI, records)
    if "ids" in change:
        with pytest.raises(UserError, match="same images"):
            ablation.numbers(NAME, MINI, records)


def test_counts_of_other_images_are_refused(tmp_path):
    pair = [put(tmp_path, name, 0, 0.8, ids=[f"{name}_{n}" for n in range(30)])[0] for name in ("mini", "mini-msc")]
    with pytest.raises(UserError, match="different images"):
        ablation.differences(NAME, MINI, pair)
