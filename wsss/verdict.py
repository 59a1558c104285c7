"""Whether a reader's own run agrees with the published ones. No torch."""

from collections.abc import Sequence
from typing import Any

from wsss import results
from wsss.intervals import bootstrap_miou, prediction_interval, summary
from wsss.results import Record
from wsss.table import ABSENT, Table, measured

KEYS = (
    ("segmentation mIoU", "segmentation.miou"),
    ("CAM mIoU", "cam.miou"),
    ("aux CAM mIoU", "aux_cam.miou"),
    ("classification mAP", "classification.map"),
)

NOTE = (
    "The interval holds one further seed with 95 %: published mean ± t sd sqrt(1 + 1/n) over n seeds "
    "(Student's t, n - 1 degrees of freedom). It is never narrower than the 95 % bootstrap interval over "
    "images of the first published seed, which is the interval where only one seed is published; that one "
    "promises nothing about another seed or processor. Classification has no bootstrap."
)


def interval(published: Sequence[Record], key: str) -> tuple[float, float] | None:
    """Where one further seed should fall (see NOTE); None if one record without counts is all there is."""
    numbers = [results.value(record, key) for record in published]
    counts = results.load_counts(published[0]).get(key.partition(".")[0])
    single = bootstrap_miou(counts) if counts is not None else None
    if len(numbers) == 1:
        return single
    low, high = prediction_interval(numbers)
    half = max(high - low, single[1] - single[0] if single else 0.0) / 2
    mean = summary(numbers).mean
    return mean - half, mean + half


def verdict(published: Sequence[Record], own: Sequence[Record]) -> tuple[list[dict[str, Any]], bool]:
    """One row for each own record and quantity of KEYS, and whether all that can be compared agree.

    A row: what, published, yours, difference, low, high, within (None: nothing published to compare with).
    False also if nothing could be compared. A run on other images than the published one is never within.
    """
    rows = [_row(published, record, label, key) for record in own for label, key in KEYS if results.has(record, key)]
    judged = [row["within"] for row in rows if row["within"] is not None]
    return rows, bool(judged) and all(judged)


def _row(published: Sequence[Record], record: Record, label: str, key: str) -> dict[str, Any]:
    yours = results.value(record, key)
    row = {
        "what": f"{record['variant']}, seed {record['seed']}: {label}",
        "published": ABSENT,
        "yours": yours,
    }
    row |= {"difference": None, "low": None, "high": None, "within": None}
    peers = [r for r in results.select(published, record["dataset"], record["variant"]) if results.has(r, key)]
    bounds = interval(peers, key) if peers else None
    if not peers or bounds is None:
        return row
    over = results.summarise(peers, key)
    same = record["fingerprint"] == peers[0]["fingerprint"] and record["protocol"] == peers[0]["protocol"]
    within = bool(same and bounds[0] <= yours <= bounds[1])
    row |= {"published": measured(over), "difference": yours - over.mean, "within": within}
    return row | {"low": bounds[0], "high": bounds[1]}


def verdict_table(rows: Sequence[dict[str, Any]]) -> Table:
    """*published | yours | difference | within the published interval?*"""
    columns = ("", "published", "yours", "difference", "interval", "within the published interval?")
    return Table("Your run beside the published one", columns, tuple(map(_texts, rows)), NOTE)


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    start = (row["what"], row["published"], f"{row['yours']:.1f}")
    if row["within"] is None:
        return (*start, ABSENT, ABSENT, "nothing published to compare with")
    bounds = f"{row['low']:.1f} to {row['high']:.1f}"
    return (*start, f"{row['difference']:+.1f}", bounds, "yes" if row["within"] else "no")
