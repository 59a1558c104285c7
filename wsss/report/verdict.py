"""Whether a reader's own runs agree with the published ones, and what that can tell. No torch."""

from collections.abc import Callable, Sequence
from typing import Any

from wsss.report import ablation, records
from wsss.report.records import Record
from wsss.report.statistics import bootstrap_miou, paired, prediction_interval
from wsss.report.table import ABSENT, Table, signed

KEYS = (
    ("segmentation mIoU", "segmentation.miou"),
    ("CAM mIoU", "cam.miou"),
    ("aux CAM mIoU", "aux_cam.miou"),
    ("classification mAP", "classification.map"),
)
PAIRED = KEYS[:2]
"""Quantities whose difference between a method and its base is compared."""
SMOKE = ("smoke", "mini-coco")
"""Data sets of smoke tests: their runs show that a path works, and their numbers are no results."""

NOTE = (
    "Published: lowest and highest of the seeds. The interval holds one further seed with 95 %: mean ± t sd "
    "sqrt(1 + 1/n) over the n published seeds (Student's t, n - 1 degrees of freedom). It is never narrower than the "
    "95 % bootstrap interval over images of the first published seed, which is the interval where only one seed is "
    "published; that one promises nothing about another seed or processor. Classification has no bootstrap. A "
    "difference is that of two runs of one seed on one processor; it is shown and does not count for the verdict, "
    "since few pairs, all of one processor, bound it."
)


def interval(published: Sequence[Record], key: str) -> tuple[float, float] | None:
    """Where one further seed should fall (see NOTE); None if one record without counts is all there is."""
    counts = records.load_counts(published[0]).get(key.partition(".")[0])
    single = bootstrap_miou(counts) if counts is not None else None
    return _widened([records.value(record, key) for record in published], single)


def interval_of_difference(pairs: ablation.Pairs, kind: str) -> tuple[float, float] | None:
    """Where one further paired difference of mIoU should fall, as `interval`; the bootstrap is that of `paired`."""
    counts = [records.load_counts(record) for record in pairs[0]]
    single = None
    if all(kind in kinds for kinds in counts):
        test = paired(*(kinds[kind][None] for kinds in counts), tuple(kinds["ids"].tolist() for kinds in counts))
        single = test.low, test.high
    return _widened(differences(pairs, f"{kind}.miou"), single)


def differences(pairs: ablation.Pairs, key: str) -> list[float]:
    """The result at `key` of the first of each pair less that of the second."""
    return [records.value(first, key) - records.value(second, key) for first, second in pairs]


def _widened(numbers: Sequence[float], single: tuple[float, float] | None) -> tuple[float, float] | None:
    """The prediction interval of a further number, at least as wide as `single`, which stands for one number alone."""
    if len(numbers) == 1:
        return single
    low, high = prediction_interval(numbers)
    half = max(high - low, single[1] - single[0] if single else 0.0) / 2
    return (low + high) / 2 - half, (low + high) / 2 + half


def verdict(published: Sequence[Record], own: Sequence[Record]) -> tuple[list[dict[str, Any]], bool]:
    """A row for each own record and quantity of KEYS, then for each pair of an own record and its base's; and whether
    all that is judged agrees. Runs of smoke tests have no row.

    A row: what, published, yours, low, high, within (None: nothing published to compare with), counts (whether the
    verdict takes it), and in other_data what of the data is known to differ. False also if nothing could be compared.
    A run on other images is never within.
    """
    own = [record for record in own if record["dataset"] not in SMOKE]
    rows = [_row(published, record, label, key) for record in own for label, key in KEYS if records.has(record, key)]
    rows += [
        _paired_row(published, pair, label, key)
        for pair in own_pairs(own)
        for label, key in PAIRED
        if all(records.has(record, key) for record in pair)
    ]
    judged = [row["within"] for row in rows if row["counts"] and row["within"] is not None]
    return rows, bool(judged) and all(judged)


def own_pairs(own: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Each own run with that of its base, PRESET-base, of the same seed on the same processor, unless their data are
    known to differ."""
    known = {(record["variant"], records.draw(record)): record for record in own}
    pairs = [(record, known.get((f"{variant}-base", draw))) for (variant, draw), record in known.items()]
    pairs = [(record, base) for record, base in pairs if base is not None]
    return [pair for pair in pairs if not records.differences(*map(records.data_of, pair))]


def _row(published: Sequence[Record], record: Record, label: str, key: str) -> dict[str, Any]:
    what = f"{record['variant']}, seed {record['seed']}: {label}"
    peers = [r for r in records.select(published, record["dataset"], record["variant"]) if records.has(r, key)]
    bounds = interval(peers, key) if peers else None
    same = bool(peers) and all(record[name] == peers[0][name] for name in ("fingerprint", "protocol"))
    row = {"what": what, "yours": records.value(record, key), "counts": True}
    row["other_data"] = records.differences(records.data_of(peers[0]), records.data_of(record)) if peers else ""
    return row | _compared([records.value(peer, key) for peer in peers], bounds, row["yours"], same)


def _paired_row(published: Sequence[Record], pair: tuple[Record, Record], label: str, key: str) -> dict[str, Any]:
    kind, (method, base) = key.partition(".")[0], pair
    groups = [records.select(published, record["dataset"], record["variant"]) for record in pair]
    peers = ablation.paired_runs(*groups, kind)
    bounds = interval_of_difference(peers, kind) if peers else None
    same = bool(peers) and all(r[name] == peers[0][0][name] for r in pair for name in ("fingerprint", "protocol"))
    row = {"what": f"{method['variant']} less {base['variant']}, seed {method['seed']}: {label}", "counts": False}
    row["yours"] = differences((pair,), key)[0]
    return row | _compared(differences(peers, key), bounds, row["yours"], same, difference=True)


def _compared(
    numbers: Sequence[float], bounds: tuple[float, float] | None, yours: float, same: bool, difference: bool = False
) -> dict[str, Any]:
    """The part of a row that comes from published numbers."""
    if not numbers or bounds is None:
        return {"published": ABSENT, "low": None, "high": None, "within": None}
    ends = dict.fromkeys(map(_written(difference), (min(numbers), max(numbers))))
    text = f"{' to '.join(ends)} ({len(numbers)} seed{'s' * (len(numbers) > 1)})"
    low, high = bounds
    return {"published": text, "low": low, "high": high, "within": bool(same and low <= yours <= high)}


def reach(published: Sequence[Record], dataset: str, variant: str) -> str:
    """What the intervals of a variant can exclude and what not: which other published variants of the data set lie
    outside them on every seed, by one number at least, and whether the base does."""
    peers = records.select(published, dataset, variant)
    bounds = {key: interval(peers, key) for _, key in KEYS if peers and all(records.has(peer, key) for peer in peers)}
    others = sorted({record["variant"] for record in published if record["dataset"] == dataset} - {variant})
    outside = []
    for other in others:
        group = records.select(published, dataset, other)
        for key, known in bounds.items():
            numbers = [records.value(record, key) for record in group if records.has(record, key)]
            if numbers and known and not any(known[0] <= number <= known[1] for number in numbers):
                outside.append(other)
                break
    rest = len(others) - len(outside)
    text = (
        f"These intervals can exclude a broken run: one without its decoder or with a broken CAM. Of the {len(others)} "
    )
    text += f"other published variants of {dataset} they exclude {', '.join(outside) or 'none'}"
    base = f"{variant}-base"
    text += f"; the other {rest}{f', {base} among them,' * (base in others and base not in outside)} could pass as well"
    return f"{text}: they cannot tell the modules from the base."


def verdict_table(rows: Sequence[dict[str, Any]]) -> Table:
    """*published | yours | interval | within the published interval?*"""
    columns = ("", "published", "yours", "interval", "within the published interval?")
    return Table("Your run beside the published one", columns, tuple(map(_texts, rows)), NOTE)


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    write = _written(difference=not row["counts"])
    start = (row["what"], row["published"], write(row["yours"]))
    if row["within"] is None:
        return (*start, ABSENT, "nothing published to compare with")
    answer = ("yes" if row["within"] else "no") + ("" if row["counts"] else ", does not count")
    answer += f" (other data: {row['other_data']} differ)" if row.get("other_data") else ""
    return (*start, f"{write(row['low'])} to {write(row['high'])}", answer)


def _written(difference: bool) -> Callable[[float], str]:
    """How a number is written: a difference with its sign."""
    return signed if difference else "{:.1f}".format
