"""Means, intervals and tests over seeds and images, and the verdict on a reader's runs. No torch.

First the arithmetic, then what it is applied to: records of one variant, pairs of runs, a run beside published ones.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t and its quantile, without all of scipy.stats

from wsss.paths import UserError
from wsss.report import records
from wsss.report.records import Record
from wsss.report.table import ABSENT, Table

_ROUNDING = 1e-9
"""Differences below this come of floating point alone: records have four decimals."""


class Summary(NamedTuple):
    """A quantity over seeds; `sd` is the sample deviation, nan for one seed."""

    mean: float
    sd: float
    n: int


class Paired(NamedTuple):
    """Difference of two mean IoUs on the same images, in points of percent; it says nothing about other seeds."""

    difference: float
    low: float
    high: float
    """Bounds of the 95 % interval of the difference."""
    p: float
    """Two-sided probability of a difference at least as large if the two were exchangeable."""


class OverSeeds(NamedTuple):
    """The mean of paired differences over seeds, in points of percent."""

    mean: float
    low: float
    high: float
    """Bounds of the 95 % interval of the mean."""
    p: float
    """Two-sided probability of a mean at least as far from none, if there were no difference."""
    n: int
    """Number of seeds."""


def _summary(numbers: Sequence[float]) -> Summary:
    """Mean and sample deviation of at least one number."""
    array = np.asarray(numbers, dtype=float)
    return Summary(array.mean().item(), array.std(ddof=1).item() if len(array) > 1 else math.nan, len(array))


def prediction_interval(numbers: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval that holds one further draw: mean -+ t sd sqrt(1 + 1/n), with Student's t of n - 1 degrees.

    For normal draws; at least two numbers.
    """
    mean, sd, n = _summary(numbers)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def over_seeds(differences: Sequence[float]) -> OverSeeds:
    """Student's t test of paired differences, one a seed, against none: mean -+ t sd / sqrt(n) holds the mean over all
    seeds with 95 %.

    For normal differences. Of one seed neither interval nor p is defined, of equal differences no p but that of none;
    equal are those that lie within the rounding of what they are taken of.
    """
    mean, sd, n = _summary(differences)
    if n < 2:
        return OverSeeds(mean, math.nan, math.nan, math.nan, n)
    error = sd / math.sqrt(n)
    if np.ptp(differences) < _ROUNDING:  # equal but for rounding, so that t would be a quotient of two roundings
        return OverSeeds(mean, mean, mean, 1.0 if abs(mean) < _ROUNDING else math.nan, n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return OverSeeds(mean, mean - half, mean + half, float(2 * stdtr(n - 1, -abs(mean) / error)), n)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Correct the p of several tests as Holm did: with them in order, the k-th smallest of m is multiplied by
    m - k + 1 and is at least the one before. Those that are not numbers stay so and are not counted among the m."""
    known = sorted((p, place) for place, p in enumerate(probabilities) if not math.isnan(p))
    corrected, largest = list(probabilities), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[place] = largest
    return corrected


def bootstrap(numerators: np.ndarray, denominators: np.ndarray, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of sum(numerators) / sum(denominators), images (first axis) redrawn."""
    weights = _redraws(len(numerators), n, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (weights @ np.asarray(numerators, float)) / (weights @ np.asarray(denominators, float))
    return _percentiles(ratios)


def miou(counts: np.ndarray) -> float:
    """Mean IoU in percent of TP, FP, FN counts (..., classes, 3), over the classes present in the truth."""
    return float(_mean_iou(counts.reshape(-1, *counts.shape[-2:]).sum(0)[None])[0])


def bootstrap_miou(counts: np.ndarray, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean IoU (percent) of counts (images, classes, 3), images redrawn."""
    sums = np.tensordot(_redraws(len(counts), n, seed).astype(float), counts.astype(float), axes=1)
    return _percentiles(_mean_iou(sums))


def paired(
    first: np.ndarray, second: np.ndarray, ids: tuple[Sequence[str], Sequence[str]], n: int = 2000, seed: int = 0
) -> Paired:
    """Test the mean IoU of `first` less that of `second`, mean over runs.

    Both are (runs, images, classes, 3) counts of the same images in the same order, run by run of the same seed.

    Interval: percentiles over `n` bootstrap samples, each of which draws the same images for all runs of both. p: the
    results of every image are swapped with probability one half, in all runs at once, `n` times; (1 + differences at
    least as large) / (1 + n). Swapping the arguments flips the signs and keeps p. Raises UserError if ids or truth
    differ: the number of pixels of every class in every image must be the same.
    """
    if list(ids[0]) != list(ids[1]) or first.shape != second.shape or first.shape[1] != len(ids[0]):
        raise UserError("the two results are of different images; evaluate both on the same list")
    first, second = first.astype(float), second.astype(float)
    if (first[..., 0] + first[..., 2] != second[..., 0] + second[..., 2]).any():
        raise UserError("the two results are of the same images with different masks; evaluate both anew")

    def difference(minuend: np.ndarray, subtrahend: np.ndarray) -> np.ndarray:
        return np.asarray((_mean_iou(minuend) - _mean_iou(subtrahend)).mean(-1))

    draws = _redraws(len(ids[0]), n, seed).astype(float)
    low, high = _percentiles(difference(*(np.tensordot(draws, counts, axes=(1, 1)) for counts in (first, second))))
    swaps = np.random.default_rng(seed).integers(0, 2, (n, len(ids[0]))).astype(float)
    moved, sums = np.tensordot(swaps, second - first, axes=(1, 1)), (first.sum(1), second.sum(1))
    observed = float(difference(*sums))
    # A swap moves an image's counts from one sum to the other. The 1 counts the observed order as one of the draws.
    extreme = (np.abs(difference(sums[0] + moved, sums[1] - moved)) >= abs(observed) - 1e-9).sum()
    return Paired(observed, low, high, float((1 + extreme) / (1 + n)))


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """(*n, classes, 3) -> (*n) in percent; not a number where the truth has no class at all."""
    present = sums[..., 0] + sums[..., 2] > 0
    union = np.where(present, sums.sum(-1), 1)
    total, classes = (np.where(present, sums[..., 0], 0) / union).sum(-1), present.sum(-1)
    return 100 * np.divide(total, classes, out=np.full(classes.shape, math.nan), where=classes > 0)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Take the middle 95 % of the defined ones; not numbers if there is none."""
    defined = values[np.isfinite(values)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (math.nan, math.nan)
    return float(low), float(high)


def _redraws(images: int, n: int, seed: int) -> np.ndarray:
    """(n, images): how often each image is drawn in each of n samples with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=n)


# Numbers as text.


def signed(points: float) -> str:
    """Write a difference with its sign; what rounds to nothing is "+0.0"."""
    return f"{round(points, 1) + 0.0:+.1f}"


def measured(summary: Summary, digits: int = 1) -> str:
    """ "41.2 ± 0.9 (3 seeds)", or "41.2 (1 seed)"."""
    spread = "" if math.isnan(summary.sd) else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread} ({summary.n} seed{'s' if summary.n > 1 else ''})"


def bounds(test: OverSeeds) -> str:
    """Write the interval over seeds as text; ABSENT of one seed. A bound of -0.0 lies below zero, by less than .05."""
    return ABSENT if math.isnan(test.low) else f"{test.low:+.1f} to {test.high:+.1f}"


# Records of several seeds, and pairs of runs.

Pairs = tuple[tuple[Record, Record], ...]


def summarise(runs: Sequence[Record], key: str) -> Summary:
    """Mean and sample deviation of one result over seeds.

    Raises UserError if a seed occurs twice or the records differ in images, masks, protocol, processor, threads or,
    where both know it, in any other of their data.
    """
    if not runs:
        raise UserError(f"there is no record to take {key} from; run the preset first")
    _require_alike(runs, "do not average them")
    where = records.describe(runs[0])
    if len({records.draw(record)[1:] for record in runs}) > 1:
        raise UserError(f"the seeds of {where} ran on several processors; take a mean over one of them")
    if len({record["seed"] for record in runs}) != len(runs):
        raise UserError(f"a seed occurs twice among the records of {where}; keep one of them")
    return _summary([records.value(record, key) for record in runs])


def paired_runs(first: Sequence[Record], second: Sequence[Record], kind: str) -> Pairs:
    """Runs of both of one draw that have the headline mIoU of a kind, by seed.

    Raises UserError if they differ in images, masks, protocol (but for the squash of the base as released, D18) or,
    where both know it, in any other of their data.
    """
    firsts, seconds = ({records.draw(record): record for record in group} for group in (first, second))
    draws = sorted(firsts.keys() & seconds.keys(), key=lambda draw: (draw[0], str(draw)))
    pairs = [(firsts[draw], seconds[draw]) for draw in draws]
    pairs = [pair for pair in pairs if all(records.has(record, f"{kind}.miou_headline") for record in pair)]
    shown = [record | {"protocol": {**record["protocol"], "plain_squash": False}} for pair in pairs for record in pair]
    _require_alike(shown, "train both on one set of data, and evaluate them alike")
    return tuple(pairs)


def _require_alike(runs: Sequence[Record], advice: str) -> None:
    """Raise UserError, with advice, if records differ in images, masks, protocol or what is known of their data."""
    for record in runs[1:]:
        pair = f"{records.describe(record)} and {records.describe(runs[0])}"
        for name in ("fingerprint", "protocol"):
            if record[name] != runs[0][name]:
                raise UserError(f"{pair} differ in {name}; {advice}")
        if differ := records.differences(records.data_of(record), records.data_of(runs[0])):
            raise UserError(f"{pair} differ in their data ({differ}); {advice}")


# The verdict: whether a reader's own runs agree with the published ones, and what that can tell.

_KEYS = (
    ("segmentation mIoU", "segmentation.miou"),
    ("CAM mIoU", "cam.miou"),
    ("aux CAM mIoU", "aux_cam.miou"),
    ("classification mAP", "classification.map"),
)
_SMOKE = ("smoke", "mini-coco")
"""Data sets of smoke tests: their runs show that a path works, and their numbers are no results."""


def interval(peers: Sequence[tuple[Record, ...]], key: str) -> tuple[float, float] | None:
    """Interval where one further run's result should fall, or a further pair's difference (see `verdict_table`).

    `peers` are published records, each in a tuple of its own, or pairs of them. None if a single one without counts is
    all there is.
    """
    kind, single = key.partition(".")[0], None
    counts = [records.load_counts(record) for record in peers[0]]
    if all(kind in of_run for of_run in counts):
        if len(counts) == 1:
            single = bootstrap_miou(counts[0][kind])
        else:
            test = paired(*(c[kind][None] for c in counts), tuple(c["ids"].tolist() for c in counts))
            single = test.low, test.high
    numbers = [_number(runs, key) for runs in peers]
    if len(numbers) == 1:
        return single
    low, high = prediction_interval(numbers)
    # Few seeds can lie close by chance: never narrower than the interval over images.
    half = max(high - low, single[1] - single[0] if single else 0.0) / 2
    return (low + high) / 2 - half, (low + high) / 2 + half


def _number(runs: tuple[Record, ...], key: str) -> float:
    """Look up the result of one run, or that of the first of two less that of the second."""
    first, *others = (records.value(record, key) for record in runs)
    return first - sum(others)


def verdict(published: Sequence[Record], yours: Sequence[Record]) -> tuple[list[dict[str, Any]], bool]:
    """Judge the reader's runs: a row for each run and quantity, then for each pair of a run and its base's.

    A run is paired with that of PRESET-base of the same seed and processor, unless their data differ. Also returns
    whether all that is judged agrees; False if nothing could be compared. Runs of smoke tests have no row.
    A row: what, published, yours, low, high, within (None: nothing published to compare with), counts (whether the
    verdict takes it), and in other_data what of the data is known to differ. A run on other images is never within.
    """
    yours = [record for record in yours if record["dataset"] not in _SMOKE]
    known = {(record["variant"], records.draw(record)): record for record in yours}
    pairs = [(record, known.get((f"{variant}-base", draw))) for (variant, draw), record in known.items()]
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
    title = " less ".join(record["variant"] for record in runs)
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
    """Say what the intervals of a variant can exclude: the other published variants of the data set that lie outside
    them on every seed, by one number at least; and whether the base does."""
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
    among = f", {base} among them," * (base in others and base not in outside)
    return (
        f"These intervals can exclude a broken run: one without its decoder or with a broken CAM. Of the {len(others)} "
        f"other published variants of {dataset} they exclude {', '.join(outside) or 'none'}; the other "
        f"{len(others) - len(outside)}{among} could pass as well: they cannot tell the modules from the base."
    )


def verdict_table(rows: Sequence[dict[str, Any]]) -> Table:
    """*published | yours | interval | within the published interval?*"""
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
        "Published: lowest and highest of the seeds. The interval holds one further seed with 95 %: mean ± t sd "
        "sqrt(1 + 1/n) over the n published seeds (Student's t, n - 1 degrees of freedom). It is never narrower than "
        "the 95 % bootstrap interval over images of the first published seed, which is the interval where only one "
        "seed is published; that one promises nothing about another seed or processor. Classification has no "
        "bootstrap. A difference is that of two runs of one seed on one processor; it is shown and does not count for "
        "the verdict, since few pairs, all of one processor, bound it."
    )
    return Table("Your run beside the published one", columns, tuple(lines), note)
