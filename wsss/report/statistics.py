"""Means, intervals and tests over seeds and images. No torch.

First the arithmetic, then its use for records of one variant and for pairs of runs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t and its quantile, without all of scipy.stats

from wsss import settings, stored
from wsss.paths import UserError
from wsss.presets import NOT_IN_VARIANT
from wsss.report import records
from wsss.report.records import Record
from wsss.report.table import ABSENT

_ROUNDING = 1e-9
"""Smaller differences are rounding alone: records have four decimals."""


_RARE = 0.05
"""Share of bootstrap samples that may lack a class."""


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
    """Two-sided probability of a mean at least as far from zero, if there were no difference."""
    n: int
    """Number of seeds."""


def _summary(numbers: Sequence[float]) -> Summary:
    """Return mean and sample deviation of at least one number."""
    array = np.asarray(numbers, dtype=float)
    return Summary(array.mean().item(), array.std(ddof=1).item() if len(array) > 1 else math.nan, len(array))


def prediction_interval(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the interval that holds one further draw with 95 %: mean -+ t sd sqrt(1 + 1/n).

    t is Student's of n - 1 degrees. Draws must be normal, and there must be at least two numbers.
    """
    mean, sd, n = _summary(numbers)
    half = float(stdtrit(n - 1, 0.975)) * sd * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def over_seeds(differences: Sequence[float]) -> OverSeeds:
    """Test paired differences, one for each seed, against zero by Student's t.

    mean -+ t sd / sqrt(n) holds the mean over all seeds with 95 %, for normal differences. For one seed neither
    interval nor p is defined. Differences that are equal up to rounding have no p, unless they are zero: then p is 1.
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
    """Return the p of several tests after Holm's correction: the k-th smallest of m is multiplied by m - k + 1, and is
    at least the one before. NaN stays NaN and is not counted among the m."""
    known = sorted((p, place) for place, p in enumerate(probabilities) if not math.isnan(p))
    corrected, largest = list(probabilities), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[place] = largest
    return corrected


def bootstrap(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(numerators) / sum(denominators), images (first axis) redrawn."""
    weights = _redraws(len(numerators))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (weights @ np.asarray(numerators, float)) / (weights @ np.asarray(denominators, float))
    return _percentiles(ratios)


def miou(counts: np.ndarray) -> float:
    """Return the mean IoU in percent of TP, FP, FN counts (..., classes, 3), over the classes present in the truth."""
    return float(_mean_iou(counts.reshape(-1, *counts.shape[-2:]).sum(0)[None])[0])


def bootstrap_miou(counts: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean IoU (percent) of counts (images, classes, 3), images redrawn.

    NaN if a class is rare (`has_rare_class`).
    """
    if has_rare_class(counts):
        return math.nan, math.nan
    return _percentiles(_mean_iou(np.tensordot(_redraws(len(counts)).astype(float), counts.astype(float), axes=1)))


def has_rare_class(counts: np.ndarray) -> bool:
    """Return whether a class is so rare in the truth that many bootstrap samples would lack it. The mean of such a
    sample is over fewer classes than the mean that the interval is for, and so lies apart from it."""
    share = (counts[..., 0] + counts[..., 2] > 0).mean(0)  # (1 - share)^n of all samples of n images lack the class
    return bool(((1 - share[share > 0]) ** len(counts) > _RARE).any())


def paired(
    first: np.ndarray, second: np.ndarray, ids: tuple[Sequence[str], Sequence[str]], n: int = 2000, seed: int = 0
) -> Paired:
    """Test the mean IoU of `first` minus that of `second`, both averaged over runs.

    Both are (runs, images, classes, 3) counts of the same images in the same order; the r-th runs have the same seed.

    Interval: percentiles over `n` bootstrap samples. Each sample draws the same images for all runs of both. p: `n`
    times the results of every image are swapped with probability one half, in all runs at once; p is (1 + number of
    differences at least as large) / (1 + n). Swapping the arguments flips the signs and keeps p. Raises UserError if
    ids or truth differ: the number of pixels of every class in every image must be the same.
    """
    if list(ids[0]) != list(ids[1]) or first.shape != second.shape or first.shape[1] != len(ids[0]):
        raise UserError("the two results are of different images; evaluate both on the same list")
    first, second = first.astype(float), second.astype(float)
    if (first[..., 0] + first[..., 2] != second[..., 0] + second[..., 2]).any():
        raise UserError("the two results are of the same images with different masks; evaluate both again")

    def difference(minuend: np.ndarray, subtrahend: np.ndarray) -> np.ndarray:
        return np.asarray((_mean_iou(minuend) - _mean_iou(subtrahend)).mean(-1))

    draws = _redraws(len(ids[0]), n, seed).astype(float)
    low, high = _percentiles(difference(*(np.tensordot(draws, counts, axes=(1, 1)) for counts in (first, second))))
    swaps = np.random.default_rng(seed).integers(0, 2, (n, len(ids[0]))).astype(float)
    moved, sums = np.tensordot(swaps, second - first, axes=(1, 1)), (first.sum(1), second.sum(1))
    observed = float(difference(*sums))
    # A swap moves an image's counts from one sum to the other. The 1 counts the observed order as one of the draws.
    # 1e-9: differences that are equal but for rounding count as at least as large.
    extreme = (np.abs(difference(sums[0] + moved, sums[1] - moved)) >= abs(observed) - 1e-9).sum()
    return Paired(observed, low, high, float((1 + extreme) / (1 + n)))


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """Return the mean IoU (...) in percent of counts (..., classes, 3); NaN where the truth has no class at all."""
    present = sums[..., 0] + sums[..., 2] > 0  # TP + FN: pixels of the truth
    union = np.where(present, sums.sum(-1), 1)
    total, classes = (np.where(present, sums[..., 0], 0) / union).sum(-1), present.sum(-1)
    return 100 * np.divide(total, classes, out=np.full(classes.shape, math.nan), where=classes > 0)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of the defined values; NaN if there is none."""
    defined = values[np.isfinite(values)]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (math.nan, math.nan)
    return float(low), float(high)


def _redraws(images: int, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Return (n, images): how often each image is drawn in each of n samples with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=n)


# Numbers as text.


def signed(points: float) -> str:
    """Write a difference with its sign and one digit; with two if one would hide on which side of zero it lies."""
    digits = 2 if 0.005 <= abs(points) < 0.05 else 1
    return f"{round(points, digits) + 0.0:+.{digits}f}"  # -0.0 + 0.0 is 0.0


def mean_text(summary: Summary) -> str:
    """Write mean and deviation: "41.2 ± 0.9 (3 seeds)", or "41.2 (1 seed)"."""
    spread = "" if math.isnan(summary.sd) else f" ± {summary.sd:.1f}"
    return f"{summary.mean:.1f}{spread} ({summary.n} seed{'s' if summary.n > 1 else ''})"


def interval_text(test: OverSeeds) -> str:
    """Write the interval over seeds; ABSENT for one seed."""
    return ABSENT if math.isnan(test.low) else f"{signed(test.low)} to {signed(test.high)}"


# Records of several seeds, and pairs of runs.

Pairs = tuple[tuple[Record, Record], ...]
"""Pairs of runs of one seed on one kind of processor."""


def headline_counts(record: Record, kind: str) -> tuple[list[str], np.ndarray] | None:
    """Return the ids and per-image counts (images, classes, 3) of the headline classes, for one kind of labels; None if
    the record has no such counts beside it."""
    counts = records.load_counts(record)
    if kind not in counts:
        return None
    wanted, of_images = record["config"].get("data", {}).get("headline"), counts[kind]
    if wanted:
        of_images = of_images[:, [name in wanted for name in records.value(record, f"{kind}.iou")]]
    return counts["ids"].tolist(), of_images


def summarise(runs: Sequence[Record], key: str) -> Summary:
    """Return mean and sample deviation of one result over seeds.

    Raises UserError if a seed occurs twice, or the records differ in images, masks, protocol, settings, processor,
    threads or images at once. If both name them, start weights and all other data must be the same, too.
    """
    if not runs:
        raise UserError(f"there is no record to take {key} from; run the preset first")
    _require_alike(runs, "do not average them")
    where = records.describe(runs[0])
    if changed := sorted({path for run in runs[1:] for path in _changed_settings(runs[0], run)}):
        raise UserError(f"the seeds of {where} differ in settings ({', '.join(changed[:3])}); do not average them")
    if len({records.pairing_key(record)[1:] for record in runs}) > 1:
        raise UserError(f"the seeds of {where} ran on several processors; average only those of one")
    if len({record["seed"] for record in runs}) != len(runs):
        raise UserError(f"a seed occurs twice among the records of {where}; keep one of them")
    return _summary([records.value(record, key) for record in runs])


def paired_runs(first: Sequence[Record], second: Sequence[Record], kind: str) -> Pairs:
    """Pair the runs of equal `records.pairing_key` that have the headline mIoU of a kind, sorted by seed.

    Raises UserError if they differ in images, masks or protocol. Only the squash of the base as released (D18) may
    differ. If both name them, start weights and all other data must be the same, too.
    """
    firsts, seconds = ({records.pairing_key(record): record for record in group} for group in (first, second))
    keys = sorted(firsts.keys() & seconds.keys(), key=lambda key: (key[0], str(key)))
    pairs = [(firsts[key], seconds[key]) for key in keys]
    pairs = [pair for pair in pairs if all(records.has(record, f"{kind}.miou_headline") for record in pair)]
    shown = [record | {"protocol": {**record["protocol"], "plain_squash": False}} for pair in pairs for record in pair]
    _require_alike(shown, "train both on the same data, and evaluate them in the same way")
    return tuple(pairs)


def _changed_settings(first: Record, second: Record) -> list[str]:
    """List the settings in which two records of one variant differ, without those that make no new variant."""
    before, after = (settings.paths(record["config"]) for record in (first, second))
    if all(before.get(path) == after.get(path) for path in (before.keys() | after.keys()) - set(NOT_IN_VARIANT)):
        return []  # the usual case; otherwise one of them may use the names of an earlier version
    before, after = (settings.flatten(stored.from_dict(record["config"])) for record in (first, second))
    return [path for path in before if before[path] != after[path] and path not in NOT_IN_VARIANT]


def _require_alike(runs: Sequence[Record], advice: str) -> None:
    """Raise UserError, with advice, if records differ in images, masks, protocol or what is known of their data."""
    for record in runs[1:]:
        pair = f"{records.describe(record)} and {records.describe(runs[0])}"
        for name in ("fingerprint", "protocol"):
            if record[name] != runs[0][name]:
                raise UserError(f"{pair} differ in {name}; {advice}")
        if differ := records.differences(records.data_of(record), records.data_of(runs[0])):
            raise UserError(f"{pair} differ in their data ({differ}); {advice}")
        starts = {run["weights"]["sha256"] for run in (record, runs[0]) if "weights" in run}
        if len(starts) > 1:
            raise UserError(f"{pair} differ in their start weights; {advice}")
