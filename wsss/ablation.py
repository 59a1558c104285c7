"""Tables of an experiment: its rows by their numbers, and each against one of them on the same images. No torch."""

from collections.abc import Iterator, Sequence

import numpy as np

from wsss import results
from wsss.experiments import Experiment, Row
from wsss.intervals import paired, summary
from wsss.paths import UserError
from wsss.results import Record
from wsss.table import ABSENT, MISSING, Table, measured

TRAINING = "training"
QUANTITIES = (
    ("mAP", "classification.map_headline"),
    ("CAM", "cam.miou_headline"),
    ("aux CAM", "aux_cam.miou_headline"),
    ("segmentation", "segmentation.miou_headline"),
)
"""What a run's own record says, by the protocol of evaluation in training."""
SEGMENTATION = "segmentation.miou_headline"
BRACKETS = "In brackets: 95 % bootstrap interval over images, from the lowest to the highest bound of the seeds."


def columns(experiment: Experiment) -> tuple[tuple[str, str, str], ...]:
    """Title, protocol and key of each quantity of the experiment."""
    own = tuple((title, TRAINING, key) for title, key in QUANTITIES)
    return own + tuple((final.label, final.name, SEGMENTATION) for final in experiment.finals)


def numbers(name: str, experiment: Experiment, records: Sequence[Record]) -> Table:
    """A line for each row: mean and deviation over the seeds that all rows share, and a bootstrap interval over images.

    Raises UserError if records of the experiment were not all measured on the same images.
    """
    own = [r for r in records if r["dataset"] == experiment.dataset]
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
            time = minutes(experiment, row.variant, records)
            left.append(f"{row.label} ({'not timed' if time is None else f'{time:.0f} minutes a seed'})")
    note = "mIoU and mAP in percent, headline classes; mean ± sample standard deviation over the seeds that all rows "
    note += f"have. {BRACKETS}"
    note += f" Not run: {', '.join(left)}; to run them: `wsss sweep {name}`." if left else ""
    return Table(_title(experiment, own), ("", *(title for title, *_ in columns(experiment))), tuple(rows), note)


def differences(name: str, experiment: Experiment, records: Sequence[Record]) -> Table:
    """A line for each other row and measured kind of labels: how far it lies above the row `against`, over pairs of one
    seed on one device.

    Raises UserError if records of a seed differ in images, masks or protocol.
    """
    own = [r for r in records if r["dataset"] == experiment.dataset]
    base = next(row for row in experiment.rows if row.label == experiment.against)
    titles = (f"less {base.label}", "mIoU of", "difference", "95 % interval", "p")
    rows: list[tuple[str, ...]] = []
    for row in experiment.rows:
        if row is not base:
            rows += list(_against(experiment, own, row, base)) or [(row.label, ABSENT, MISSING, ABSENT, ABSENT)]
    note = "Points of percent; mean ± sample standard deviation over seeds, each on one kind of machine. Interval: "
    note += "paired bootstrap over images, the mean over seeds. p: two-sided, the results of images swapped at random, "
    note += "all seeds at once; it says nothing about seeds that were not run."
    note += f" To run what is not: `wsss sweep {name}`." if any(MISSING in row for row in rows) else ""
    return Table(f"{_title(experiment, own)}, differences", titles, tuple(rows), note)


def minutes(experiment: Experiment, variant: str, records: Sequence[Record]) -> float | None:
    """Minutes of a run with its final evaluations: mean over records of the variant, else of the other rows."""
    own = [r for r in records if r["dataset"] == experiment.dataset]
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


def _group(records: Sequence[Record], experiment: Experiment, row: Row, protocol: str) -> list[Record]:
    return results.select(records, experiment.dataset, row.variant, protocol)


def groups_of(records: Sequence[Record], experiment: Experiment, protocol: str = TRAINING) -> list[list[Record]]:
    """For each row its records by `protocol`, of the seeds that all measured rows share."""
    return results.comparable([_group(records, experiment, row, protocol) for row in experiment.rows])


def _require_one_list(experiment: Experiment, own: Sequence[Record]) -> None:
    for _, protocol, _ in columns(experiment):
        found = [r for row in experiment.rows for r in _group(own, experiment, row, protocol)]
        if len({r["fingerprint"]["masks"] for r in found}) > 1:
            raise UserError(f"the records of {experiment.title} are not all of the same images; evaluate them anew")


def cell(records: Sequence[Record], key: str) -> str:
    """Mean and deviation over seeds of the result at `key`, with the widest bootstrap interval where there are any."""
    if not records:
        return MISSING
    if not all(results.has(record, key) and _trained(record, key) for record in records):
        return ABSENT
    text = measured(results.summarise(records, key))
    if not all(results.has(record, f"{key}_interval") for record in records):
        return text
    bounds = [results.value(record, f"{key}_interval") for record in records]
    return f"{text} [{min(low for low, _ in bounds):.1f}, {max(high for _, high in bounds):.1f}]"


def _trained(record: Record, key: str) -> bool:
    """Whether the run trained what the number is of: classification alone leaves the decoder as it starts."""
    weight = record["config"].get("segmentation", {}).get("weight", 1)
    return bool(weight) or not key.startswith("segmentation.")


def _against(experiment: Experiment, own: Sequence[Record], row: Row, base: Row) -> Iterator[tuple[str, ...]]:
    """The lines of one row, of the kinds that were measured of both."""
    kinds = [("CAM", TRAINING, "cam")]
    if row.segments:
        kinds += [("segmentation", TRAINING, "segmentation")]
        kinds += [(f"segmentation, {final.label}", final.name, "segmentation") for final in experiment.finals]
    for title, protocol, kind in kinds:
        one, other = ({results.draw(r): r for r in _group(own, experiment, line, protocol)} for line in (row, base))
        key = f"{kind}.miou_headline"
        both = [(one[draw], other[draw]) for draw in sorted(one.keys() & other.keys())]
        pairs = [pair for pair in both if all(results.has(record, key) for record in pair)]
        if not pairs:
            continue
        over = summary([results.value(first, key) - results.value(second, key) for first, second in pairs])
        yield row.label, title, f"{'+' * (over.mean >= 0)}{measured(over)}", *_tested(pairs, kind)


def _tested(pairs: Sequence[tuple[Record, Record]], kind: str) -> tuple[str, str]:
    """Interval and p of the mean difference; ABSENT where counts by image are missing."""
    for record in (record for pair in pairs for record in pair):
        for name in ("fingerprint", "protocol"):
            if record[name] != pairs[0][0][name]:
                named = f"{results.describe(record)} and {results.describe(pairs[0][0])}"
                raise UserError(f"{named} differ in {name}; evaluate them anew")
    counts = [[results.load_counts(record) for record in pair] for pair in pairs]
    if not all(kind in one for pair in counts for one in pair):
        return ABSENT, ABSENT
    wanted = pairs[0][0]["config"].get("data", {}).get("headline")
    chosen = [not wanted or name in wanted for name in results.value(pairs[0][0], f"{kind}.iou")]
    sides = [np.stack([one[kind][:, chosen] for one in side]) for side in zip(*counts, strict=True)]
    ids = [one["ids"].tolist() for pair in counts for one in pair]
    if any(other != ids[0] for other in ids):
        raise UserError(f"counts beside {results.describe(pairs[0][0])} are of different images; evaluate them anew")
    test = paired(*sides, (ids[0], ids[0]))
    return f"{test.low:+.1f} to {test.high:+.1f}", "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
