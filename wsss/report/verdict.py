"""The verdict: whether a reader's own runs agree with the published ones, and what that can tell. No torch."""

import math
from collections.abc import Sequence
from typing import Any

from wsss.registry import DATASETS
from wsss.report import records
from wsss.report.records import Record
from wsss.report.statistics import bootstrap_miou, headline_counts, paired, paired_runs, prediction_interval, signed
from wsss.report.table import ABSENT, Table

_KEYS = (
    ("segmentation mIoU", "segmentation.miou_headline"),
    ("CAM mIoU", "cam.miou_headline"),
    ("aux CAM mIoU", "aux_cam.miou_headline"),
    ("classification mAP", "classification.map_headline"),
)
_SMOKE = frozenset(name for name, known in DATASETS.items() if known.smoke)
"""Data sets of smoke tests: their runs show that the code works, and their numbers are no results."""


def interval(peers: Sequence[tuple[Record, ...]], key: str) -> tuple[float, float] | None:
    """Return the interval where one further run's result should fall, or a further pair's difference (see `table`).

    `peers` are published records, each in a tuple of its own, or pairs of them. None if there is only one, and it has
    no counts or has classes of very few images.
    """
    kind, single = key.partition(".")[0], None
    counts = [headline_counts(record, kind) for record in peers[0]]
    if all(counts):
        ids, of_images = zip(*counts, strict=True)
        if len(of_images) == 1:
            single = bootstrap_miou(of_images[0])
        else:
            test = paired(*(of_image[None] for of_image in of_images), ids)
            single = test.low, test.high
        single = single if math.isfinite(single[0]) else None
    numbers = [_number(runs, key) for runs in peers]
    if len(numbers) == 1:
        return single
    low, high = prediction_interval(numbers)
    # Few seeds can lie close by chance: never narrower than the interval over images.
    half = max(high - low, single[1] - single[0] if single else 0.0) / 2
    return (low + high) / 2 - half, (low + high) / 2 + half


def _number(runs: tuple[Record, ...], key: str) -> float:
    """Return the result of one run, or of two runs the first result minus the second."""
    first, *others = (records.value(record, key) for record in runs)
    return first - sum(others)


def judge(published: Sequence[Record], yours: Sequence[Record]) -> tuple[list[dict[str, Any]], bool]:
    """Judge the reader's runs; return a row for each run or pair and quantity, and whether all that counts agrees.

    The second is False if nothing could be compared. A run is paired with that of PRESET-base of the same seed and
    processor, unless their data differ. Runs of smoke tests have no row.
    A row: what, published, yours, low, high, within (None: nothing published to compare with), counts (whether it
    counts for the verdict), other_data (what is known to differ in the data). A run on other images is never within.
    """
    yours = [record for record in yours if record["dataset"] not in _SMOKE]
    known = {(record["variant"], records.pairing_key(record)): record for record in yours}
    pairs = [(record, known.get((f"{variant}-base", key))) for (variant, key), record in known.items()]
    pairs = [(run, base) for run, base in pairs if base and not records.differences(*map(records.data_of, (run, base)))]
    judged = [((record,), label, key) for record in yours for label, key in _KEYS]
    judged += [(pair, label, key) for pair in pairs for label, key in _KEYS[:2]]
    rows = [_row(published, *line) for line in judged if all(records.has(record, line[2]) for record in line[0])]
    answers = [row["within"] for row in rows if row["counts"] and row["within"] is not None]
    return rows, bool(answers) and all(answers)


def _row(published: Sequence[Record], runs: tuple[Record, ...], label: str, key: str) -> dict[str, Any]:
    first, pair = runs[0], len(runs) == 2
    groups = [records.select(published, record["dataset"], record["variant"]) for record in runs]
    peers: Sequence[tuple[Record, ...]] = [(record,) for record in groups[0] if records.has(record, key)]
    if pair:
        peers = paired_runs(*groups, key.partition(".")[0])
    title = " minus ".join(record["variant"] for record in runs)
    row = {"what": f"{title}, seed {first['seed']}: {label}", "yours": _number(runs, key), "counts": not pair}
    row |= {"published": ABSENT, "low": None, "high": None, "within": None, "other_data": ""}
    if peers and not pair:
        row["other_data"] = records.differences(records.data_of(peers[0][0]), records.data_of(first))
    limits = interval(peers, key) if peers else None
    if limits is None:
        return row
    same = all(record[name] == peers[0][0][name] for record in runs for name in ("fingerprint", "protocol"))
    numbers = [_number(peer, key) for peer in peers]
    ends = dict.fromkeys((signed if pair else "{:.1f}".format)(end) for end in (min(numbers), max(numbers)))
    row["published"] = f"{' to '.join(ends)} ({len(numbers)} seed{'s' * (len(numbers) > 1)})"
    return row | {"low": limits[0], "high": limits[1], "within": bool(same and limits[0] <= row["yours"] <= limits[1])}


def reach(published: Sequence[Record], dataset: str, variant: str) -> str:
    """Return what the intervals of a variant can exclude: the other published variants of the data set that lie outside
    an interval on every seed, for at least one number. The text also says whether the base is excluded."""
    peers = [(record,) for record in records.select(published, dataset, variant)]
    keys = [key for _, key in _KEYS if peers and all(records.has(peer, key) for (peer,) in peers)]
    intervals = {key: interval(peers, key) for key in keys}
    others = sorted({record["variant"] for record in published if record["dataset"] == dataset} - {variant})
    outside = []
    for other in others:
        group = records.select(published, dataset, other)
        for key, known in intervals.items():
            numbers = [records.value(record, key) for record in group if records.has(record, key)]
            if numbers and known and not any(known[0] <= number <= known[1] for number in numbers):
                outside.append(other)
                break
    base = f"{variant}-base"
    alike = base in others and base not in outside
    return (
        f"These intervals can exclude a broken run: one without its decoder or with a broken CAM. Of the {len(others)} "
        f"other published variants of {dataset} they exclude {', '.join(outside) or 'none'}; the other "
        f"{len(others) - len(outside)}{f', {base} among them,' * alike} could pass as well"
        f"{': the intervals cannot tell the modules from the base' * alike}."
    )


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Tabulate the rows of `judge`: *published | yours | interval | within the published interval?*"""
    lines = []
    for row in rows:
        write = "{:.1f}".format if row["counts"] else signed
        limits, answer = ABSENT, "nothing published to compare with"
        if row["within"] is not None:
            limits, answer = f"{write(row['low'])} to {write(row['high'])}", "yes" if row["within"] else "no"
            answer += "" if row["counts"] else ", does not count"
            answer += f" (other data: {row['other_data']} differ)" if row.get("other_data") else ""
        lines.append((row["what"], row["published"], write(row["yours"]), limits, answer))
    columns = ("", "published", "yours", "interval", "within the published interval?")
    note = (
        "Published: lowest and highest of the seeds. The interval holds one more seed with 95 % probability: "
        "mean ± t sd sqrt(1 + 1/n) over the n published seeds (Student's t, n - 1 degrees of freedom). It is never "
        "narrower than the 95 % bootstrap interval over images of the first published seed. If only one seed is "
        "published, it is that bootstrap interval, which says nothing about another seed or processor. Classification "
        "has no bootstrap. A difference is between two runs of one seed on one processor. It is shown, but does not "
        "count for the verdict, since its interval comes from few pairs, all of one processor."
    )
    return Table("Your run beside the published one", columns, tuple(lines), note)
