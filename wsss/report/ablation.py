"""Tables of an experiment: its rows by their numbers, and each against one of them on the same images. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsss.paths import UserError
from wsss.report import records
from wsss.report.experiments import Experiment, Row
from wsss.report.records import Record
from wsss.report.statistics import (
    Pairs,
    bounds,
    holm,
    measured,
    over_seeds,
    paired,
    paired_runs,
    probability,
    signed,
    summarise,
)
from wsss.report.table import ABSENT, MISSING, NOT_MEASURED, Table

TRAINING = "training"
QUANTITIES = (
    ("mAP", "classification.map_headline"),
    ("CAM", "cam.miou_headline"),
    ("CAM, best threshold", "sweep.cam.best_headline"),
    ("CAM, pixel AUC", "auc.cam"),
    ("aux CAM", "aux_cam.miou_headline"),
    ("segmentation", "segmentation.miou_headline"),
)
"""What a run's own record says, by the protocol of evaluation in training."""
SEGMENTATION = "segmentation.miou_headline"
UNLIKE = " No seed is common to all on one processor, so that each shows its own seeds: they are not to be compared."
BRACKETS = "In brackets: 95 % bootstrap interval over images, from the lowest to the highest bound of the seeds."


def columns(experiment: Experiment) -> tuple[tuple[str, str, str], ...]:
    """Title, protocol and key of each quantity of the experiment."""
    own = tuple((title, TRAINING, key) for title, key in QUANTITIES)
    return own + tuple((final.label, final.name, SEGMENTATION) for final in experiment.finals)


def numbers(name: str, experiment: Experiment, runs: Sequence[Record]) -> Table:
    """A line for each row: mean and deviation over the seeds that all rows share, and a bootstrap interval over images.

    Raises UserError if records of the experiment were not all measured on the same images.
    """
    own = [r for r in runs if r["dataset"] == experiment.dataset]
    _require_one_list(experiment, own)
    groups = {protocol: groups_of(own, experiment, protocol) for _, protocol, _ in columns(experiment)}
    rows: list[tuple[str, ...]] = []
    left: list[str] = []
    for number, row in enumerate(experiment.rows):
        cells = (
            cell(groups[protocol][number], key) if row.segments or protocol == TRAINING else ABSENT
            for _, protocol, key in columns(experiment)
        )
        rows.append((row.label, *cells))
        if MISSING in rows[-1]:
            time = minutes(experiment, row.variant, runs)
            left.append(f"{row.label} ({'not timed' if time is None else f'{time:.0f} minutes a seed'})")
    note = (
        "mIoU, mAP and AUC in percent, mIoU and mAP of the headline classes; mean ± sample standard deviation over the "
    )
    note += "seeds that all rows have on one processor"
    where = records.processors(record for by_row in groups.values() for group in by_row for record in group)
    note += f": {where}." if where else "."
    note += "" if all(map(share_draws, groups.values())) else UNLIKE
    note += f" Best threshold: of the sweep on these masks. {BRACKETS}"
    prior = [records.value(record, "auc.centre") for record in own if records.has(record, "auc.centre")]
    note += f" Pixel AUC of a centre prior on these images: {prior[0]:.1f}." if prior else ""
    note += f" Not run: {', '.join(left)}; to run them: `wsss sweep {name}`." if left else ""
    heads, shown = ("", *(title for title, *_ in columns(experiment))), sum(sum(groups.values(), []), [])
    return Table(_title(experiment, own), heads, tuple(rows), note, shown)


@dataclass(frozen=True)
class Difference:
    """How far a row of an experiment lies above the row `against`: pairs of runs of one draw, by one protocol."""

    row: str
    endpoint: str
    kind: str
    pairs: Pairs
    primary: bool
    """Whether it is tested: segmentation and CAM by the protocol of evaluation in training, which has no CRF."""

    @property
    def points(self) -> list[float]:
        """The differences of headline mIoU in points of percent, one a pair."""
        key = f"{self.kind}.miou_headline"
        return [records.value(first, key) - records.value(second, key) for first, second in self.pairs]


def compared(experiment: Experiment, runs: Sequence[Record]) -> list[Difference]:
    """Every other row against the row `against`, a `Difference` for each endpoint that both have, over all runs of one
    seed on one kind of processor with one number of threads.

    Raises UserError if records of a pair differ in images, masks or protocol.
    """
    relevant = [r for r in runs if r["dataset"] == experiment.dataset]
    base = next(row for row in experiment.rows if row.label == experiment.against)
    compared_rows = []
    for row in experiment.rows:
        endpoints = [("CAM", TRAINING, "cam")]
        if row.segments and base.segments:
            endpoints.insert(0, ("segmentation", TRAINING, "segmentation"))
            endpoints += [(f"segmentation, {final.label}", final.name, "segmentation") for final in experiment.finals]
        for title, protocol, kind in endpoints if row is not base else ():
            pairs = paired_runs(
                _group(relevant, experiment, row, protocol), _group(relevant, experiment, base, protocol), kind
            )
            if pairs:
                compared_rows.append(Difference(row.label, title, kind, pairs, protocol == TRAINING))
    return compared_rows


def differences(name: str, experiment: Experiment, runs: Sequence[Record]) -> Table:
    """A line for each other row and endpoint: mean of the paired differences to the row `against`, its t interval over
    seeds and, of the primary endpoints, p over seeds after Holm's correction within the table.

    Raises UserError if records of a pair differ in images, masks or protocol.
    """
    lines = compared(experiment, runs)
    tests = [over_seeds(line.points) for line in lines]
    primary = [place for place, line in enumerate(lines) if line.primary]
    p = dict(zip(primary, holm([tests[place].p for place in primary]), strict=True))
    rows = [
        (line.row, line.endpoint, str(test.n), signed(test.mean), bounds(test), probability(p.get(place)))
        for place, (line, test) in enumerate(zip(lines, tests, strict=True))
    ]
    run = {line.row for line in lines}
    idle = [row.label for row in experiment.rows if row.label not in {*run, experiment.against}]
    rows += [(label, ABSENT, MISSING, ABSENT, ABSENT, ABSENT) for label in idle]
    titles = (f"less {experiment.against}", "mIoU of", "seeds", "mean difference", "95 % interval", "p (Holm)")
    relevant = [r for r in runs if r["dataset"] == experiment.dataset]
    note = _note(lines) + (f" To run what is not: `wsss sweep {name}`." if idle else "")
    shown = [record for line in lines for pair in line.pairs for record in pair]
    return Table(f"{_title(experiment, relevant)}, differences", titles, tuple(rows), note, shown)


def _note(lines: Sequence[Difference]) -> str:
    """What the columns are, where the seeds ran, and as a footnote the test over images with what it cannot tell."""
    note = "Points of percent of headline mIoU, without CRF where the line does not say so. Mean of the differences "
    note += (
        "within pairs: one seed, one kind of processor, one number of threads. Interval: Student's t over seeds. p: "
    )
    note += "t test over seeds of segmentation and CAM, corrected by Holm for all tests of this table."
    where = records.processors(record for line in lines for pair in line.pairs for record in pair)
    note += f" Processors: {where}." * bool(where)
    runs = [record for line in lines for pair in line.pairs for record in pair]
    plain = {record["variant"] for record in runs if record["config"].get("compat", {}).get("plain_squash")}
    note += f" Evaluated on photographs squashed without antialiasing (D18): {', '.join(sorted(plain))}." * bool(plain)
    swapped = [
        f"{line.row}, {line.endpoint} {probability(p)}" for line in lines if (p := _over_images(line)) is not None
    ]
    if swapped:
        note += " Footnote, p over images, the results of each swapped at random in all seeds at once: "
        note += f"{'; '.join(swapped)}. It tells whether these very runs differ on images like these; of other seeds, "
        note += "and so of the method, it tells nothing, and it is corrected for no number of tests."
    return note


def minutes(experiment: Experiment, variant: str, runs: Sequence[Record]) -> float | None:
    """Minutes of a run with its final evaluations: mean over records of the variant, else of the other rows."""
    own = [r for r in runs if r["dataset"] == experiment.dataset]
    variants = {row.variant for row in experiment.rows}
    chosen = [r for r in own if r["variant"] == variant] or [r for r in own if r["variant"] in variants]
    trained = [sum(r["seconds"].values()) for r in chosen if r["protocol"]["name"] == TRAINING]
    if not trained:
        return None
    seconds = sum(trained) / len(trained)
    for final in experiment.finals:
        finals = [r["seconds"].get("evaluate", 0) for r in chosen if r["protocol"]["name"] == final.name]
        seconds += sum(finals) / max(len(finals), 1)
    return seconds / 60


def _title(experiment: Experiment, own: Sequence[Record]) -> str:
    variants = {row.variant for row in experiment.rows}
    found = next((r for r in own if r["variant"] in variants), None)
    if not found:
        return experiment.title
    title = found.get("dataset_title", experiment.dataset)
    return f"{experiment.title} ({title}, {found['images']:,} images of {found['split']})"


def _group(runs: Sequence[Record], experiment: Experiment, row: Row, protocol: str) -> list[Record]:
    return records.select(runs, experiment.dataset, row.variant, protocol)


def groups_of(runs: Sequence[Record], experiment: Experiment, protocol: str = TRAINING) -> list[list[Record]]:
    """For each row its records by `protocol`, of the seeds that all measured rows share."""
    return records.comparable([_group(runs, experiment, row, protocol) for row in experiment.rows])


def share_draws(groups: Iterable[Sequence[Record]]) -> bool:
    """Whether all groups that have runs have those of the same seeds, processor and threads."""
    return len({frozenset(map(records.draw, group)) for group in groups if group}) < 2


def _require_one_list(experiment: Experiment, own: Sequence[Record]) -> None:
    for _, protocol, _ in columns(experiment):
        found = [r for row in experiment.rows for r in _group(own, experiment, row, protocol)]
        if len({r["fingerprint"]["masks"] for r in found}) > 1:
            raise UserError(f"the records of {experiment.title} are not all of the same images; evaluate them anew")


def cell(runs: Sequence[Record], key: str) -> str:
    """Mean and deviation over seeds of the result at `key`, with the widest bootstrap interval where there are any."""
    if not runs:
        return MISSING
    if not all(_trained(record, key) for record in runs):
        return ABSENT
    if not all(records.has(record, key) for record in runs):
        return ABSENT if key.startswith("subspaces.") else NOT_MEASURED  # a run without Module A has no subspaces
    text = measured(summarise(runs, key))
    if not all(records.has(record, f"{key}_interval") for record in runs):
        return text
    lows, highs = zip(*(records.value(record, f"{key}_interval") for record in runs), strict=True)
    return f"{text} [{min(lows):.1f}, {max(highs):.1f}]"


def _trained(record: Record, key: str) -> bool:
    """Whether the run trained what the number is of: classification alone leaves the decoder as it starts."""
    weight = record["config"].get("segmentation", {}).get("weight", 1)
    return bool(weight) or not key.startswith("segmentation.")


def _over_images(line: Difference) -> float | None:
    """p of swapping the results of images, see `statistics.paired`; None where counts by image are missing."""
    counts = [[records.load_counts(record) for record in pair] for pair in line.pairs]
    if not line.primary or not all(line.kind in kinds for pair in counts for kinds in pair):
        return None
    first = line.pairs[0][0]
    wanted = first["config"].get("data", {}).get("headline")
    chosen = [not wanted or name in wanted for name in records.value(first, f"{line.kind}.iou")]
    sides = [np.stack([kinds[line.kind][:, chosen] for kinds in side]) for side in zip(*counts, strict=True)]
    ids = [kinds["ids"].tolist() for pair in counts for kinds in pair]
    if any(other != ids[0] for other in ids):
        raise UserError(f"counts beside {records.describe(first)} are of different images; evaluate them anew")
    return paired(*sides, (ids[0], ids[0])).p
