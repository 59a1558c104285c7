"""Where what is shown comes from: the records of a table in a line, and all records as a table. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss.report import records
from wsss.report.records import Record
from wsss.report.table import ABSENT, Table

FEW = 3
"""Names that a line lists one by one."""


def line(runs: Iterable[Record]) -> str:
    """Records (each once), seeds, commits, time and devices in a sentence; empty for none."""
    shown = sorted(
        {r["path"]: r for r in runs}.values(), key=lambda r: (r["dataset"], r["variant"], r["seed"], _stem(r))
    )
    if not shown:
        return ""
    trainings = {(r["dataset"], r["variant"], r["seed"]): r for r in shown}
    trained = sum(record["seconds"].get("train", 0) for record in trainings.values()) / 60
    words = [
        _some("record", [records.describe(record) + _stem(record) for record in shown], few=0),
        _some("variant", [variant for _, variant, _ in trainings]),
        _some("seed", [str(seed) for seed in sorted(seed for *_, seed in trainings)], few=9),
        _some("commit", [record["commit"] for record in shown]),
        f"{trained:,.0f} minutes of training on {', '.join(dict.fromkeys(record['device'] for record in shown))}",
    ]
    return f"From {'; '.join(words)}."


def _some(kind: str, names: Iterable[str], few: int = FEW) -> str:
    """ "commit a", "commits a, b", or from more than `few` on "5 commits"."""
    known = list(dict.fromkeys(names))
    plural = kind + "s" * (len(known) > 1)
    return f"{plural} {', '.join(known)}" if len(known) <= few else f"{len(known)} {plural}"


def _stem(record: Record) -> str:
    """What a record's file name says beside its seed."""
    return Path(record["path"]).stem.removeprefix(str(record["seed"]))


def of_notebook(stamp: Mapping[str, Any]) -> str:
    """Notebook, date, commit, time and device of an executed notebook, from its stamp, in a sentence."""
    return (
        f"From {stamp.get('notebook', 'a notebook')}, seed {stamp.get('parameters', {}).get('seed', ABSENT)}; run "
        f"{stamp.get('date', 'without a date')} at commit {stamp.get('commit')} in {stamp.get('seconds', ABSENT)} s on "
        f"{stamp.get('device', 'an unknown device')}."
    )


NUMBERS = (("CAM", "cam.miou_headline"), ("segmentation", "segmentation.miou_headline"))


def listing(runs: Sequence[Record]) -> Table:
    """Every record: what was run and evaluated how, its main numbers, and where they come from."""
    rows = []
    for record in runs:
        found = (f"{records.value(record, key):.1f}" if records.has(record, key) else ABSENT for _, key in NUMBERS)
        images = f"{record['images']:,} {record['split']}"
        rows.append(
            (
                records.describe(record) + _stem(record),
                images,
                *found,
                f"{sum(record['seconds'].values()):,.0f}",
                record["commit"],
                record["date"],
                record["device"],
            )
        )
    columns = ("record", "images", *(title for title, _ in NUMBERS), "seconds", "commit", "date", "device")
    note = (
        "mIoU in percent, headline classes. Seconds: training and evaluation. Each is a file data/results/RECORD.json, "
    )
    note += "with protocol, configuration, versions and a fingerprint of the images. DATASET/PRESET/SEED was made by "
    note += "`wsss train PRESET --seed SEED`, what its configuration changes in PRESET given as options; a final "
    note += "evaluation by `wsss evaluate runs/DATASET/PRESET/SEED --protocol voc` with its scales and CRF. "
    note += "Runs of mini-coco are smoke tests of COCO's path; their numbers are no results."
    return Table("Published records", columns, tuple(rows), note, runs)
