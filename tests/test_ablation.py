"""Tables of an experiment: cells from records, differences on the same images; what does not belong is refused."""

import numpy as np
import pytest
from scipy import stats
from test_records import record

from wsss.paths import UserError
from wsss.report import ablation, experiments, records, statistics, tables
from wsss.report.table import ABSENT, NOT_MEASURED

NAME = "mini-csa"
MINI, ANIMALS = experiments.get(NAME), experiments.get("voc-animals-components")
IDS = [f"image_{n}" for n in range(30)]


def put(tmp_path, variant, seed, right, kinds=("segmentation", "cam"), ids=IDS, **fields):
    """A saved record of 30 images with its counts; the same masks for every variant."""
    path = tmp_path / "mini" / variant / f"{seed}.json"
    hit = np.random.default_rng([seed, len(variant)]).binomial(100, right, (30, 2))
    counts = np.stack([hit, 100 - hit[:, ::-1], 100 - hit], 2)
    one = {"miou": statistics.miou(counts), "iou": {"background": 1.0, "cup": 1.0}}
    one |= {"miou_headline": one["miou"], "miou_headline_interval": list(statistics.bootstrap_miou(counts))}
    records.save(record(variant=variant, seed=seed, results=dict.fromkeys(kinds, one), **fields), path)
    records.save_counts(path.with_suffix(".npz"), ids, **dict.fromkeys(kinds, counts))
    return records.load(path), counts


def line(table, *start):
    """The cells after the first ones."""
    return next(row[len(start) :] for row in table.rows if row[: len(start)] == start)


def test_a_cell_is_mean_deviation_and_the_widest_interval(tmp_path):
    own = [put(tmp_path, "mini", seed, 0.8) for seed in (0, 1, 2)]
    table = ablation.numbers(NAME, MINI, [one for one, _ in own])
    mious = [statistics.miou(counts) for _, counts in own]
    bounds = [statistics.bootstrap_miou(counts) for _, counts in own]
    shown = f"{np.mean(mious):.1f} ± {np.std(mious, ddof=1):.1f} (3 seeds) "
    shown += f"[{min(low for low, _ in bounds):.1f}, {max(high for _, high in bounds):.1f}]"
    absent = NOT_MEASURED
    assert line(table, "base + both") == (absent, shown, absent, absent, absent, shown)
    assert line(table, "no alignment") == ("not run",) * 6
    assert "seeds 0, 1, 2 on CPU." in table.note
    assert "no alignment (0 minutes a seed)" in table.note and f"`wsss sweep {NAME}`" in table.note
    assert "30 images" not in table.title and "2 images of val" in table.title


def test_a_decoder_that_nothing_trained_has_no_number(tmp_path):
    weights = {"mini-plain": 0.0, "mini-base": 0.1}
    own = [put(tmp_path, name, 0, 0.8, config={"segmentation": {"weight": w}})[0] for name, w in weights.items()]
    experiment = experiments.get("mini-components")
    table = ablation.numbers("mini-components", experiment, own)
    assert line(table, "plain classification")[-1] == ABSENT != line(table, "base")[-1]
    assert ablation.cell(own[:1], "coverage.segmentation.rest") == ABSENT
    rows = ablation.differences("mini-components", experiment, own).rows
    assert [row[1] for row in rows if row[0] == "plain classification"] == ["CAM"]


def test_a_mean_with_a_rare_class_has_no_interval_over_images(tmp_path):
    """Earlier records hold one, which lies apart from the mean."""
    one, counts = put(tmp_path, "mini", 0, 0.8)
    one["results"]["segmentation"]["miou_interval"] = [1.0, 2.0]
    assert ablation.interval_over_images(one, "segmentation.miou") == [1.0, 2.0]
    counts[2:, 1] = 0  # the second class is in two images
    records.save_counts(tmp_path / "mini" / "mini" / "0.npz", IDS, segmentation=counts)
    assert ablation.interval_over_images(one, "segmentation.miou") is None
    assert ablation.cell([one], "segmentation.miou") == f"{one['results']['segmentation']['miou']:.1f} (1 seed)"


def test_a_final_evaluation_fills_its_own_column():
    final = {"name": "final-without-crf-s0.6+0.8+1"}
    numbers = {"segmentation": {"miou_headline": 33.0}}
    chosen = [record("voc-animals", "voc-animals-base", protocol=final, results=numbers)]
    table = ablation.numbers("voc-animals-components", ANIMALS, chosen)
    assert line(table, "base") == (*["not run"] * 6, "33.0 (1 seed)", "not run")


def test_a_column_of_other_seeds_is_said_to_be_no_comparison():
    """A final result of one seed and a training result of another seed tell nothing about the protocol."""
    final = {"name": "final-without-crf-s0.6+0.8+1"}

    def table(*seeds: int) -> str:
        numbers = {"segmentation": {"miou_headline": 12.34}}
        chosen = [record("voc-animals", "voc-animals-base", seed, results=numbers) for seed in (0, 1)]
        chosen += [record("voc-animals", "voc-animals-base", seed, results=numbers, protocol=final) for seed in seeds]
        return ablation.numbers("x", experiments.EXPERIMENTS["voc-animals-components"], chosen).note

    assert "final, no CRF: only seed 1 on" in table(1) and "Do not compare it" in table(1)
    assert "Do not compare it" not in table(0, 1)


def test_a_difference_is_over_the_seeds_that_both_have(tmp_path):
    own = [put(tmp_path, "mini-msc", seed, 0.7) for seed in (0, 1, 2)]
    base = [put(tmp_path, "mini", seed, 0.8) for seed in (1, 2, 3)]
    chosen = [one for one, _ in own + base]
    table = ablation.differences(NAME, MINI, chosen)
    sides = np.stack([counts for _, counts in own[1:]]), np.stack([counts for _, counts in base[:2]])
    each = [statistics.miou(one) - statistics.miou(other) for one, other in zip(*sides, strict=True)]
    test = stats.ttest_1samp(each, 0)
    low, high = test.confidence_interval(0.95)
    p = min(1, 2 * test.pvalue)  # Holm: of two tests of equal p both are doubled
    shown = ("2", f"{np.mean(each):+.1f}", f"{low:+.1f} to {high:+.1f}", f"{p:.3f}")
    assert line(table, "no alignment", "CAM") == line(table, "no alignment", "segmentation") == shown
    assert line(table, "intensity alone") == (ABSENT, "not run", ABSENT, ABSENT, ABSENT)
    assert table.columns == ("minus base + both", "mIoU of", "seeds", "mean difference", "95 % interval", "p (Holm)")
    assert "seeds 1, 2 on CPU" in table.note


def test_the_test_over_images_is_a_footnote_that_says_what_it_cannot_tell(tmp_path):
    chosen = [put(tmp_path, name, 0, right)[0] for name, right in (("mini-msc", 0.7), ("mini", 0.8))]
    table = ablation.differences(NAME, MINI, chosen)
    assert line(table, "no alignment", "CAM")[2:] == (ABSENT, ABSENT), "one seed has no interval"
    footnote = table.note.partition("Footnote: p over images")[2]
    assert "no alignment, CAM < 0.001" in footnote
    assert "It says nothing about other seeds, and so about the method" in footnote


def test_holm_counts_the_primary_endpoints_of_the_table_alone():
    """Two rows have four primary endpoints: the smallest p is multiplied by four. Final evaluations add none."""
    noise = {"voc-animals-msc": (1.0, 1.1, 1.3), "voc-animals-csa": (-1.0, 2.0, 0.5), "voc-animals-base": (0, 0, 0)}
    final = {"name": "final-without-crf-s0.6+0.8+1"}
    chosen = []
    for variant, gains in noise.items():
        for seed, gain in enumerate(gains):
            numbers = {"cam": {"miou_headline": 30 - gain}, "segmentation": {"miou_headline": 20 + gain + seed}}
            chosen.append(record("voc-animals", variant, seed, results=numbers))
            chosen.append(record("voc-animals", variant, seed, results=numbers, protocol=final))
    table = ablation.differences("voc-animals-components", ANIMALS, chosen)
    p = stats.ttest_1samp(noise["voc-animals-msc"], 0).pvalue
    assert line(table, "base + MSC", "segmentation")[-1] == f"{4 * p:.3f}" == line(table, "base + MSC", "CAM")[-1]
    assert line(table, "base + CSA", "segmentation")[-1] == "1.000"
    assert line(table, "base + MSC", "segmentation, final, no CRF")[-1] == ABSENT


def test_pairs_of_all_processors_have_a_mean_difference_and_a_mean_is_of_one():
    """Three seeds on two processors, with another level on each: differences are over all three seeds."""
    level = {0: 40.0, 3: 60.0, 4: 61.0}
    chosen = []
    for variant, gain in (("mini", 0.0), ("mini-msc", 1.0)):
        for seed, own in level.items():
            where = "Xeon" if seed < 3 else "EPYC"
            chosen.append(record("mini", variant, seed, results={"cam": {"miou_headline": own + gain}}, device=where))
    assert line(ablation.differences(NAME, MINI, chosen), "no alignment", "CAM")[:2] == ("3", "+1.0")
    table = ablation.numbers(NAME, MINI, chosen)
    assert line(table, "base + both")[1].startswith("60.5 ± 0.7 (2 seeds)") and "seeds 3, 4 on EPYC" in table.note
    where = ablation.differences(NAME, MINI, chosen).note
    assert "seed 0 on Xeon; seeds 3, 4 on EPYC" in where


def test_other_images_are_refused():
    numbers = {"cam": {"miou_headline": 40.0}}
    chosen = [record(results=numbers), record(variant="mini-msc", results=numbers, ids=("a", "c"))]
    for table, says in ((ablation.differences, "differ in"), (ablation.numbers, "same images")):
        with pytest.raises(UserError, match=says):
            table(NAME, MINI, chosen)


@pytest.mark.parametrize(("seed", "device", "alike"), [(0, "CPU", True), (1, "CPU", False), (0, "another", False)])
def test_a_table_says_where_its_rows_share_no_seed(seed, device, alike):
    numbers = {"cam": {"miou_headline": 40.0}}
    chosen = [
        record(variant="mini", results=numbers, device="CPU"),
        *(record(variant=name, seed=seed, results=numbers, device=device) for name in ("mini-msc", "mini-base")),
    ]
    assert (ablation.UNLIKE not in ablation.numbers(NAME, MINI, chosen).note) == alike
    assert (ablation.UNLIKE not in tables.build("mini", chosen).note) == alike


def test_the_base_as_released_is_compared_as_it_is_evaluated_and_the_note_says_so():
    """Its COCO preset squashes without antialiasing (D18), and its final protocol says so."""
    coco, numbers = experiments.get("coco-components"), {"segmentation": {"miou_headline": 40.0}}
    protocol = {"name": "final", "kind": "coco"}
    squash = {"plain_squash": True}
    chosen = [record("coco", "coco-base", protocol=protocol, results=numbers)]
    chosen += [record("coco", "coco-toco", protocol=protocol | squash, config={"compat": squash}, results=numbers)]
    table = ablation.differences("coco-components", coco, chosen)
    assert line(table, "base as released", "segmentation, final, with CRF")
    assert "squashed without antialiasing (D18): coco-toco." in table.note
