"""Tables of an experiment: the numbers of its rows, and their differences to one of them on the same images. No
torch."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from wsss.paths import UserError
from wsss.report import records
from wsss.report.experiments import Experiment
from wsss.report.records import Record
from wsss.report.statistics import (
    Pairs,
    has_rare_class,
    headline_counts,
    holm,
    interval_text,
    mean_text,
    over_seeds,
    paired,
    paired_runs,
    signed,
    summarise,
)
from wsss.report.table import ABSENT, MISSING, NOT_MEASURED, UNPAIRED, Table

_TRAINING = "training"
_QUANTITIES = (
    ("mAP", "classification.map_headline"),
    ("CAM", "cam.miou_headline"),
    ("CAM, best threshold", "sweep.cam.best_headline"),
    ("CAM, pixel AUC", "auc.cam"),
    ("aux CAM", "aux_cam.miou_headline"),
    ("segmentation", "segmentation.miou_headline"),
)
"""Columns from a run's own record, made by the protocol of evaluation in training: title and result."""
UNLIKE = " No seed is common to all on one processor, so each shows its own seeds; do not compare them."
BRACKETS = "In brackets: 95 % bootstrap interval over images, from the lowest to the highest bound of the seeds."


def numbers(name: str, experiment: Experiment, runs: Sequence[Record]) -> Table:
    """Tabulate the rows: mean and deviation over the seeds that all rows share, and a bootstrap interval over images.

    Raises UserError if the records of the experiment were not all measured on the same images.
    """
    columns = [(title, _TRAINING, key) for title, key in _QUANTITIES]
    columns += [(final.label, final.name, "segmentation.miou_headline") for final in experiment.finals]
    groups = {protocol: groups_of(runs, experiment, protocol) for _, protocol, _ in columns}
    for protocol in groups:
        chosen = [records.select(runs, experiment.dataset, row.variant, protocol) for row in experiment.rows]
        if len({record["fingerprint"]["masks"] for record in sum(chosen, [])}) > 1:
            raise UserError(f"the records of {experiment.title} are not all of the same images; evaluate them again")
    rows: list[tuple[str, ...]] = []
    idle: list[str] = []
    for place, row in enumerate(experiment.rows):
        cells = (
            cell(groups[protocol][place], key) if row.segments or protocol == _TRAINING else ABSENT
            for _, protocol, key in columns
        )
        rows.append((row.label, *cells))
        if MISSING in rows[-1]:
            trained = MISSING not in rows[-1][1 : len(_QUANTITIES) + 1]
            time = minutes(experiment, row.variant, runs)[trained]  # of what is still to run: all, or the finals
            finals = " by the final protocol" * trained
            idle.append(f"{row.label}{finals} ({'not timed' if time is None else f'{time:.0f} minutes a seed'})")
    shown = sum(sum(groups.values(), []), [])
    where = f": {records.processors(shown)}." if shown else "."
    note = (
        "mIoU, mAP and AUC in percent, mIoU and mAP of the headline classes; mean ± sample standard deviation over the "
        f"seeds that all rows have on one processor{where}"
    )
    note += "" if all(map(share_draws, groups.values())) else UNLIKE
    for final in experiment.finals:
        trained, evaluated = (sum(groups[protocol], []) for protocol in (_TRAINING, final.name))
        if not share_draws((trained, evaluated)):
            of = records.processors(evaluated)
            note += f" {final.label}: only {of}. Do not compare it with columns of other seeds."
    note += f" Best threshold: the best of a sweep on these masks. {BRACKETS}"
    prior = [r for r in runs if r["dataset"] == experiment.dataset and records.has(r, "auc.centre")]
    if prior:
        note += f" Pixel AUC of a centre prior on these images: {records.value(prior[0], 'auc.centre'):.1f}."
    note += f" Not run: {', '.join(idle)}; to run them: `wsss sweep {name}`." if idle else ""
    return Table(_title(experiment, runs), ("", *(title for title, *_ in columns)), tuple(rows), note, shown)


@dataclass(frozen=True)
class Difference:
    """The difference of a row of an experiment to the row `against`, by one protocol, from pairs of runs."""

    row: str
    endpoint: str
    kind: str
    pairs: Pairs
    planned: int
    """Number of seeds that the experiment asks of the row."""
    primary: bool
    """Whether it is tested. Only segmentation and CAM by the protocol of training are; that protocol has no CRF."""

    @property
    def points(self) -> list[float]:
        """Return the differences of headline mIoU in points of percent, one for each pair."""
        key = f"{self.kind}.miou_headline"
        return [records.value(first, key) - records.value(second, key) for first, second in self.pairs]


def compared(experiment: Experiment, runs: Sequence[Record]) -> list[Difference]:
    """Compare every other row with the row `against`: a `Difference` for each endpoint that both have.

    A pair is two runs of one seed on one kind of processor with one number of threads. Raises UserError if records of
    a pair differ in images, masks or protocol.
    """
    base = next(row for row in experiment.rows if row.label == experiment.against)
    gains = []
    for row in experiment.rows:
        endpoints = [("CAM", _TRAINING, "cam")]
        if row.segments and base.segments:
            endpoints.insert(0, ("segmentation", _TRAINING, "segmentation"))
            endpoints += [(f"segmentation, {final.label}", final.name, "segmentation") for final in experiment.finals]
        for title, protocol, kind in endpoints if row is not base else ():
            sides = (records.select(runs, experiment.dataset, side.variant, protocol) for side in (row, base))
            if pairs := paired_runs(*sides, kind):
                gains.append(Difference(row.label, title, kind, pairs, len(row.seeds), protocol == _TRAINING))
    return gains


def differences(name: str, experiment: Experiment, runs: Sequence[Record]) -> Table:
    """Tabulate the differences to the row `against`, a line for each other row and endpoint.

    A line has the mean of the paired differences and its t interval over seeds. Primary endpoints also have p over
    seeds, after Holm's correction within the table. The note says where the seeds ran. Its footnote gives the test over
    images, and what that cannot tell. Raises UserError if records of a pair differ in images, masks or protocol.
    """
    lines = compared(experiment, runs)
    tests = [over_seeds(line.points) for line in lines]
    primary = [place for place, line in enumerate(lines) if line.primary]
    p = dict(zip(primary, holm([tests[place].p for place in primary]), strict=True))
    rows = [
        (line.row, line.endpoint, str(test.n), signed(test.mean), interval_text(test), _probability(p.get(place)))
        for place, (line, test) in enumerate(zip(lines, tests, strict=True))
    ]
    measured_rows = {line.row for line in lines} | {experiment.against}
    unpaired = [row for row in experiment.rows if row.label not in measured_rows]
    idle = [row.label for row in unpaired if not records.select(runs, experiment.dataset, row.variant)]
    known = {row.label: MISSING if row.label in idle else UNPAIRED for row in unpaired}
    rows += [(label, ABSENT, cell, ABSENT, ABSENT, ABSENT) for label, cell in known.items()]
    shown = [record for line in lines for pair in line.pairs for record in pair]
    note = (
        "Percentage points of headline mIoU, without CRF unless the line names it. Mean difference over pairs of "
        "runs with the same seed, kind of processor and number of threads. Interval: Student's t over seeds. p: t test "
        "over seeds for segmentation and CAM, Holm-corrected over all tests of this table."
    )
    note += f" Processors: {records.processors(shown)}." if shown else ""
    plain = {record["variant"] for record in shown if record["config"].get("compat", {}).get("plain_squash")}
    note += f" Evaluated on photographs squashed without antialiasing (D18): {', '.join(sorted(plain))}." * bool(plain)
    over_images = [(line, p) for line in lines if (p := _over_images(line)) is not None]
    if over_images:
        note += " Footnote: p over images, from random swaps of each image's two results in all seeds at once: "
        note += "; ".join(f"{line.row}, {line.endpoint} {_probability(p)}" for line, p in over_images)
        note += ". It says whether these runs differ on images like these. It says nothing about other "
        note += "seeds, and so about the method, and it is not corrected for multiple tests."
    note += f" To run the missing rows: `wsss sweep {name}`." if idle else ""
    titles = (f"minus {experiment.against}", "mIoU of", "seeds", "mean difference", "95 % interval", "p (Holm)")
    return Table(f"{_title(experiment, runs)}, differences", titles, tuple(rows), note, shown)


def _probability(p: float | None) -> str:
    return ABSENT if p is None or math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _title(experiment: Experiment, runs: Sequence[Record]) -> str:
    variants = {row.variant for row in experiment.rows}
    first = next((r for r in runs if r["dataset"] == experiment.dataset and r["variant"] in variants), None)
    if not first:
        return experiment.title
    title = first.get("dataset_title", experiment.dataset)
    return f"{experiment.title} ({title}, {first['images']:,} images of {first['split']})"


def minutes(experiment: Experiment, variant: str, runs: Sequence[Record]) -> tuple[float | None, float | None]:
    """Return the minutes of a run with its final evaluations (if timed), and those of the final evaluations alone; None
    if nobody has timed one. These are means over records of the variant, or else of the other rows."""
    variants = {row.variant for row in experiment.rows}
    known = [r for r in runs if r["dataset"] == experiment.dataset and r["variant"] in {variant, *variants}]
    chosen = [r for r in known if r["variant"] == variant] or known
    trained = [sum(r["seconds"].values()) for r in chosen if r["protocol"]["name"] == _TRAINING]
    finals = [
        [r["seconds"]["evaluate"] for r in chosen if r["protocol"]["name"] == final.name and "evaluate" in r["seconds"]]
        for final in experiment.finals
    ]
    alone = sum(map(mean, finals)) / 60 if all(finals) else None
    return mean(trained) / 60 + (alone or 0) if trained else None, alone


def groups_of(runs: Sequence[Record], experiment: Experiment, protocol: str = _TRAINING) -> list[list[Record]]:
    """Return each row's records by `protocol`, of the seeds that all measured rows share."""
    return records.comparable(
        [records.select(runs, experiment.dataset, row.variant, protocol) for row in experiment.rows]
    )


def share_draws(groups: Iterable[Sequence[Record]]) -> bool:
    """Return whether all groups have runs of the same seeds, processor and threads; empty groups are ignored."""
    return len({frozenset(map(records.pairing_key, group)) for group in groups if group}) < 2


def cell(runs: Sequence[Record], key: str) -> str:
    """Write the result at `key`: mean and deviation over seeds, and a bootstrap interval if every run has one."""
    if not runs:
        return MISSING
    decoders = (record["config"].get("segmentation", {}).get("weight", 1) for record in runs)
    if "segmentation" in key.split(".") and not all(decoders):
        return ABSENT  # plain classification trains no decoder
    if not all(records.has(record, key) for record in runs):
        return ABSENT if key.startswith("subspaces.") else NOT_MEASURED  # a run without Module A has no subspaces
    text = mean_text(summarise(runs, key))
    intervals = [interval for record in runs if (interval := interval_over_images(record, key))]
    if len(intervals) < len(runs):
        return text
    lows, highs = zip(*intervals, strict=True)
    return f"{text} [{min(lows):.1f}, {max(highs):.1f}]"


def interval_over_images(record: Record, key: str) -> Sequence[float] | None:
    """Return the 95 % bootstrap interval of the result at `key`; None if it is not defined.

    Earlier records have an interval of the mean over all present classes even if a class is rare. It is left out.
    """
    kind, _, last = key.partition(".")
    if not records.has(record, f"{key}_interval"):
        return None
    counts = records.load_counts(record) if last == "miou" else {}
    return None if kind in counts and has_rare_class(counts[kind]) else records.value(record, f"{key}_interval")


def _over_images(line: Difference) -> float | None:
    """Return p of the test that swaps the results of images (`statistics.paired`); None without per-image counts."""
    if not line.primary:
        return None
    counts = [[headline_counts(record, line.kind) for record in pair] for pair in line.pairs]
    if not all(known for pair in counts for known in pair):
        return None
    sides = [np.stack([of_image for _, of_image in side]) for side in zip(*counts, strict=True)]
    ids = [names for pair in counts for names, _ in pair]
    if any(other != ids[0] for other in ids):
        where = records.describe(line.pairs[0][0])
        raise UserError(f"counts beside {where} are of different images; evaluate them again")
    return paired(*sides, (ids[0], ids[0])).p
