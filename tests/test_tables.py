"""Tables are made of records and published numbers; what does not belong is refused."""

import csv
import io
import subprocess
import sys

import numpy as np
import pytest
from test_results import record

from wsss import intervals, paths, presets, published, results, tables, verdict
from wsss.paths import UserError


def with_results(numbers, **fields):
    return record(results=numbers, **fields)


def seg(miou):
    return {"segmentation": {"miou": miou, "miou_headline": miou}}


def test_numbers_of_the_paper_come_from_the_published_file():
    assert published.reference("segmentation/This paper/voc_val") == "71.8"
    assert published.reference("segmentation/ToCo (21k)/voc_test") == "72.2"
    assert published.reference("toco_logs/voc/vit-b/cam") == "72.334"


@pytest.mark.parametrize("path", ["segmentation/Nobody/voc_val", "segmentation/ToCo/x", "nothing/a/b"])
def test_an_unknown_published_number_is_an_error(path):
    with pytest.raises(UserError, match="published"):
        published.reference(path)


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_builds_from_no_records(name):
    table = tables.build(name, [])
    assert all(len(row) == len(table.columns) for row in table.rows)
    if name != "literature":
        assert "not run" in table.text() and "wsss train" in table.text()


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(UserError, match="headline"):
        tables.build("headlines", [])


def test_the_three_forms_hold_the_same_cells():
    table = tables.build("headline", [])
    assert list(csv.reader(io.StringIO(table.csv()))) == [list(table.columns), *map(list, table.rows)]
    for row in table.rows:
        assert "| " + " | ".join(row) + " |" in table.markdown()
        assert all(cell in table.text() for cell in row)


def voc(ids=None, name="final", seed=0, miou=71.0):
    ids = results.split_ids("voc-val") if ids is None else ids
    return with_results(seg(miou), dataset="voc", variant="voc", ids=ids, protocol={"name": name}, seed=seed)


def test_a_voc_table_takes_voc_val():
    records = [voc(seed=seed, miou=miou) for seed, miou in ((0, 71.0), (1, 73.0))]
    row = tables.build("voc", records).rows[0]
    assert row == (
        "segmentation, val",
        "71.8",
        "71.1",
        "72.0 ± 1.4 (2 seeds)",
        "1,449 val",
        "+0.2",
        tables.ABSENT,
    )


@pytest.mark.parametrize("name", ["voc", "headline"])
@pytest.mark.parametrize("ids", [("a", "b"), results.split_ids("voc-val")[1:]], ids=["mini", "short"])
def test_a_voc_table_refuses_a_mini_record_and_a_short_list(name, ids):
    with pytest.raises(UserError, match="voc-val"):
        tables.build(name, [voc(ids)])


def test_a_number_by_the_training_protocol_is_not_set_beside_the_papers():
    rows = {row[0]: row for row in tables.build("voc", [voc(name="training")]).rows}
    assert rows["segmentation, val"][3] == "not run"
    assert rows["segmentation, val, in training"][1:4] == (tables.ABSENT, "69.2", "71.0 (1 seed)")


def test_side_by_side_shows_intervals_and_what_was_not_run():
    part = {"cam": {"part": 70.0, "rest": 25.0, "rest_interval": [22.0, 28.0]}}
    table = tables.build("mini", [with_results(seg(40.0) | {"coverage": part}, variant="mini-plain")])
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["CAM covers beyond the part"] == ("25.0 (1 seed) [22.0, 28.0]", "not run", "not run")
    assert rows["segmentation mIoU"][0] == "40.0 (1 seed)"
    assert "classification mAP" not in rows
    assert "wsss train mini --seed 0" in table.note and "mini-plain" not in table.note


def test_side_by_side_refuses_other_images():
    with pytest.raises(UserError, match="same images"):
        tables.build("mini", [record(), record(variant="mini-plain", ids=("a", "c"))])


def test_the_table_of_a_run_says_what_it_was_measured_on():
    part = {"cam": {"part": 70.0, "rest": 25.0, "rest_interval": [22.0, 28.0]}}
    table = tables.of_run(with_results(seg(40.0) | {"coverage": part}))
    assert ("CAM covers beyond the part", "25.0", "22.0 to 28.0") in table.rows
    assert "2 val images" in table.title and "abc1234" in table.note and "Protocol training" in table.note
    assert "<caption>mini/mini/0" in table.as_html()


def test_the_presets_of_a_table_are_its_columns():
    """Presets and tables stand in rows of the house that may not import one another."""
    for name in ("mini", "voc-animals"):
        table = tables.build(name, [])
        assert set(presets.TABLES[name]) <= set(table.columns)
        assert set(table.columns[1:]) <= set(presets.PRESETS)
    assert {name for _, *names in tables.COMPARED for name in names} <= set(presets.PRESETS)


def test_records_of_before_these_measures_still_tabulate():
    """A new record beside an old one: what the old one lacks is absent, and nothing fails."""
    new = {"cam": {"miou": 30.0, "miou_headline": 30.0, "over_activation": 20.0, "boundary_iou": None}}
    new |= seg(40.0) | {"sweep": {"cam": {"best_headline": 33.0}}, "agreement": {"difference": 12.0}}
    records = [with_results(seg(38.0), variant="mini-plain"), with_results(new)]
    rows = {row[0]: row[1:] for row in tables.build("mini", records).rows}
    assert rows["CAM over-activation"] == (tables.ABSENT, "not run", "20.0 (1 seed)")
    assert rows["CAM mIoU, best threshold"] == (tables.ABSENT, "not run", "33.0 (1 seed)")
    assert rows["CAM and aux CAM, difference"] == (tables.ABSENT, "not run", "12.0 (1 seed)")
    assert "CAM boundary IoU" not in rows
    for one in results.find(paths.project_root() / "data" / "results"):
        assert len(tables.of_run(one).rows) >= 4


# Two variants held against one another.


def counts_of(seed, right):
    rng = np.random.default_rng(seed)
    hit = rng.binomial(100, right, (30, 2))
    return np.stack([hit, 100 - hit[:, ::-1], 100 - hit], 2)


def put_pair(tmp_path, seed, variant, right, ids=None, **fields):
    """A saved record of 30 images with its counts; the same masks for every variant."""
    path, counts = tmp_path / "mini" / variant / f"{seed}.json", counts_of([seed, len(variant)], right)
    names = [f"image_{n}" for n in range(30)] if ids is None else ids
    miou = intervals.miou(counts)
    numbers = {"segmentation": {"miou": miou, "miou_headline": miou, "iou": {"background": 1.0, "cup": 1.0}}}
    results.save(with_results(numbers, variant=variant, seed=seed, **fields), path)
    results.save_counts(path.with_suffix(".npz"), names, segmentation=counts)
    return results.load(path), counts


PAIR = (("mini", "mini", "mini-toco"),)


def test_compare_takes_the_seeds_that_both_have(tmp_path):
    own = [put_pair(tmp_path, seed, "mini", 0.8) for seed in (0, 1, 2)]
    base = [put_pair(tmp_path, seed, "mini-toco", 0.7) for seed in (1, 2, 3)]
    table = tables.compare("x", PAIR, [one for one, _ in own + base], ("segmentation",))
    assert [row[1] for row in table.rows] == ["1", "2", "all"]
    ids = [f"image_{n}" for n in range(30)]
    tests = [intervals.paired(own[seed][1], base[seed - 1][1], (ids, ids)) for seed in (1, 2)]
    for row, test in zip(table.rows, tests, strict=False):
        shown = f"{test.low:+.1f} to {test.high:+.1f}"
        assert row[2:] == (f"{test.difference:+.1f}", shown, "< 0.001") and test.low > 0
    over = intervals.summary([test.difference for test in tests])
    assert table.rows[-1][2] == f"+{over.mean:.1f} ± {over.sd:.1f} (2 seeds)"
    turned = tables.compare("x", (("mini", "mini-toco", "mini"),), [one for one, _ in own + base], ("segmentation",))
    assert turned.rows[0][2] == f"{-tests[0].difference:+.1f}" and turned.rows[-1][2].startswith("-")


def test_compare_of_the_headline_classes_alone(tmp_path):
    config = {"config": {"data": {"headline": ["cup"]}}}
    (one, first), (other, second) = (put_pair(tmp_path, 0, name, 0.75, **config) for name in ("mini", "mini-toco"))
    test = intervals.paired(first[:, 1:], second[:, 1:], (["a"] * 30, ["a"] * 30))
    row = tables.compare("x", PAIR, [one, other], ("segmentation",)).rows[0]
    assert row[3:] == (f"{test.low:+.1f} to {test.high:+.1f}", f"{test.p:.3f}")
    assert test.p > 0.01


def test_compare_without_counts_without_the_kind_and_without_a_run():
    records = [with_results(seg(40.0)), with_results(seg(38.5), variant="mini-toco")]
    table = tables.compare("x", PAIR, records)
    assert table.rows[0][1:] == ("0", "+1.5", tables.ABSENT, tables.ABSENT)
    assert table.rows[1][1:3] == ("all", "+1.5 (1 seed)")
    assert table.rows[2] == ("cam: mini less mini-toco", *[tables.ABSENT] * 4), "run, but not measured"
    alone = tables.compare("x", PAIR, records[:1])
    assert [row[2] for row in alone.rows] == ["not run"] * 2
    assert "wsss train mini-toco --seed 0" in alone.note and "train mini " not in alone.note


def test_compare_refuses_other_images_other_protocols_and_counts_of_others(tmp_path):
    for change in ({"ids": ("a", "c")}, {"protocol": {"name": "training", "size": 96}}):
        records = [with_results(seg(40.0)), with_results(seg(38.5), variant="mini-toco", **change)]
        with pytest.raises(UserError, match="differ in"):
            tables.compare("x", PAIR, records)
    pair = [put_pair(tmp_path, 0, name, 0.8, [f"{name}_{n}" for n in range(30)])[0] for name in ("mini", "mini-toco")]
    with pytest.raises(UserError, match="different images"):
        tables.compare("x", PAIR, pair)


# The verdict.


def test_verdict_by_seeds():
    peers = [with_results(seg(miou), seed=seed) for seed, miou in enumerate((40.0, 41.0, 42.0))]
    half = 4.3027 * np.sqrt(4 / 3)
    for yours, within in (
        (41.0 + half - 0.01, True),
        (41.0 + half + 0.01, False),
        (41.0 - half - 0.01, False),
    ):
        rows, passed = verdict.verdict(peers, [with_results(seg(yours))])
        assert passed is within is rows[0]["within"]
        assert rows[0]["published"] == "41.0 ± 1.0 (3 seeds)"
        assert rows[0]["difference"] == pytest.approx(yours - 41.0)


def saved(tmp_path, seed, miou, counts):
    path = tmp_path / "mini" / "mini" / f"{seed}.json"
    results.save(with_results(seg(miou), seed=seed), path)
    results.save_counts(path.with_suffix(".npz"), ["a", "b"], segmentation=counts)
    return results.load(path)


def test_verdict_is_never_narrower_than_the_bootstrap(tmp_path):
    counts = np.random.default_rng(0).integers(0, 100, (30, 4, 3))
    low, high = results.bootstrap_miou(counts)
    one = [saved(tmp_path, 0, 40.0, counts)]
    assert verdict.interval(one, "segmentation.miou") == (low, high)
    both = [*one, saved(tmp_path, 1, 40.0, counts)]  # no spread between the seeds
    half = (high - low) / 2
    assert verdict.interval(both, "segmentation.miou") == pytest.approx((40 - half, 40 + half))


def test_verdict_without_anything_to_compare_does_not_pass():
    for peers in ([], [record()], [record(variant="mini-plain"), record(variant="mini-plain", seed=1)]):
        rows, passed = verdict.verdict(peers, [record()])
        assert not passed and rows[0]["within"] is None
    assert "nothing published" in verdict.verdict_table(rows).text()
    assert verdict.verdict([record()], []) == ([], False)


def test_verdict_refuses_a_run_on_other_images():
    rows, passed = verdict.verdict([record(), record(seed=1)], [record(ids=("a", "c"))])
    assert not passed and rows[0]["within"] is False


def test_verdict_table_reads_as_the_readme_says():
    rows, _ = verdict.verdict([record(), record(seed=1)], [record()])
    table = verdict.verdict_table(rows)
    assert table.columns[-1] == "within the published interval?" and table.rows[0][-1] == "yes"


def test_tables_need_no_torch():
    code = "import sys, wsss.tables, wsss.verdict, wsss.publish, wsss.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
