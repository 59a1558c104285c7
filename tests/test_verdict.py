"""The verdict on a reader's own runs: what it holds against the published ones, and what that can tell."""

import numpy as np
import pytest
from test_records import record
from test_tables import pair, seg, with_results

from wsss.report import records, statistics, verdict


def test_verdict_by_seeds():
    peers = [with_results(seg(miou), seed=seed) for seed, miou in enumerate((40.0, 41.0, 42.0))]
    half = 4.3027 * np.sqrt(4 / 3)
    for yours, within in (
        (41.0 + half - 0.01, True),
        (41.0 + half + 0.01, False),
        (41.0 - half - 0.01, False),
    ):
        rows, passed = verdict.judge(peers, [with_results(seg(yours))])
        assert passed is within is rows[0]["within"]
        assert verdict.table(rows).rows[0][-1] == ("yes" if within else "no")
        assert rows[0]["published"] == "40.0 to 42.0 (3 seeds)" and rows[0]["yours"] == yours


def test_verdict_shows_a_paired_difference_that_does_not_count():
    """Gains of .5, .1 and .3: one further lies within .3 -+ 4.3 * .2 * sqrt(4 / 3). Another machine's is no pair."""
    peers = [*pair(0, 34.0, 34.5), *pair(1, 36.0, 36.1), *pair(2, 35.0, 35.3)]
    half = 4.3027 * 0.2 * np.sqrt(4 / 3)
    for gain, within in ((0.3 + half - 0.01, True), (0.3 + half + 0.01, False)):
        rows, passed = verdict.judge(peers, pair(0, 35.0, 35.0 + gain, device="yours"))
        *levels, difference = rows
        assert [row["what"] for row in levels] == [
            f"{name}, seed 0: segmentation mIoU" for name in ("mini-base", "mini")
        ]
        assert passed and difference["within"] is within and not difference["counts"]
        assert difference["what"] == "mini minus mini-base, seed 0: segmentation mIoU"
        assert difference["published"] == "+0.1 to +0.5 (3 seeds)" and difference["yours"] == pytest.approx(gain)
    shown = verdict.table(rows).rows[-1]
    assert shown[3:] == (f"{0.3 - half:+.1f} to {0.3 + half:+.1f}", "no, does not count")
    base, both = pair(0, 35.0, 36.0)
    data = [{"data": {"train": {"labels": labels}, "val": {}}} for labels in ("some", "others")]
    for first, second in ((base, both | {"device": "another"}), (base | data[0], both | data[1])):
        assert len(verdict.judge(peers, [first, second])[0]) == 2, "no pair"
    assert len(verdict.judge(peers, [base, both | data[0]])[0]) == 3, "an older run does not tell its data"


def test_verdict_leaves_smoke_tests_out():
    smoke = [with_results(seg(8.1), dataset="mini-coco", variant="mini-coco", seed=seed) for seed in (0, 1)]
    assert verdict.judge(smoke, smoke) == ([], False)


def test_the_verdict_says_what_it_can_exclude():
    """The published base lies within and would pass, a run that finds nothing does not."""
    peers = [*pair(0, 34.0, 34.5), *pair(1, 36.0, 36.1), *pair(2, 35.0, 35.3)]
    peers += [with_results(seg(miou), variant="mini-plain", seed=seed) for seed, miou in ((0, 1.0), (1, 2.0))]
    said = verdict.reach(peers, "mini", "mini")
    assert "Of the 2 other published variants of mini they exclude mini-plain" in said
    assert "the other 1, mini-base among them, could pass" in said and "cannot tell the modules from the base" in said
    assert "they exclude none" in verdict.reach(peers[:6], "mini", "mini")


def saved(tmp_path, seed, miou, counts):
    path = tmp_path / "mini" / "mini" / f"{seed}.json"
    records.save(with_results(seg(miou), seed=seed), path)
    records.save_counts(path.with_suffix(".npz"), ["a", "b"], segmentation=counts)
    return records.load(path)


def test_verdict_is_never_narrower_than_the_bootstrap(tmp_path):
    counts = np.random.default_rng(0).integers(0, 100, (30, 4, 3))
    low, high = statistics.bootstrap_miou(counts)
    one = [saved(tmp_path, 0, 40.0, counts)]
    assert verdict.interval([(run,) for run in one], "segmentation.miou") == (low, high)
    both = [*one, saved(tmp_path, 1, 40.0, counts)]  # no spread between the seeds
    half = (high - low) / 2
    assert verdict.interval([(run,) for run in both], "segmentation.miou") == pytest.approx((40 - half, 40 + half))


def test_verdict_without_anything_to_compare_does_not_pass():
    for peers in ([], [record()], [record(variant="mini-plain"), record(variant="mini-plain", seed=1)]):
        rows, passed = verdict.judge(peers, [record()])
        assert not passed and rows[0]["within"] is None
    assert "nothing published" in verdict.table(rows).text()
    assert verdict.judge([record()], []) == ([], False)


def test_verdict_refuses_a_run_on_other_images():
    rows, passed = verdict.judge([record(), record(seed=1)], [record(ids=("a", "c"))])
    assert not passed and rows[0]["within"] is False
