"""Numbers of the literature, and ours beside them: the first table and those of the benchmarks. No torch."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from wsss.paths import UserError, project_root
from wsss.report import records
from wsss.report.experiments import EXPERIMENTS
from wsss.report.records import Record, images
from wsss.report.statistics import interval_text, mean_text, over_seeds, paired_runs, signed, summarise
from wsss.report.table import ABSENT, MISSING, UNPAIRED, Table


def published_rows(name: str) -> list[dict[str, str]]:
    """Read all rows of data/published/NAME.csv."""
    path = project_root() / "data" / "published" / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"there is no table of published numbers {path}; see its folder for the others")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published_number(path: str) -> str:
    """Return a number of data/published as its source prints it, "" if the source has none.

    "segmentation/METHOD/COLUMN", or "toco_logs/DATASET/BACKBONE/COLUMN" for the end of a training log.
    Raises UserError if there is no such row or column.
    """
    file, *names, column = path.split("/")
    rows = published_rows(file)
    if file == "toco_logs":
        wanted = {"dataset": names[0], "backbone": names[1], "class": "mIoU"}
        rows = sorted((row for row in rows if wanted.items() <= row.items()), key=lambda row: int(row["step"]))
    else:
        rows = [row for row in rows if row["method"] == "/".join(names)]
    if not rows or column not in rows[-1]:
        raise UserError(f"data/published has no number {path}; look up its rows and columns in {file}.csv")
    return rows[-1][column]


def single_stage(runs: Sequence[Record]) -> Table:
    """Tabulate single-stage methods from image labels, as printed by their sources. Uses no records."""
    columns = ("method", "venue", "backbone", "voc_val", "voc_test", "coco_val", "source")
    chosen = [r for r in published_rows("segmentation") if (r["stages"], r["supervision"]) == ("1", "I")]
    chosen.sort(key=lambda row: float(row["voc_val"]))
    rows = tuple(tuple(row[column] or ABSENT for column in columns) for row in chosen)
    heads = ("method", "venue", "backbone", "VOC val", "VOC test", "COCO val", "source")
    note = "mIoU in percent, each with its own test protocol; none was measured by this project."
    return Table("Single-stage methods from image labels", heads, rows, note)


# Ours beside them.


@dataclass(frozen=True)
class _Row:
    """One line with a measured number beside published ones; `paper` and `base` are paths of `published_number`."""

    label: str
    dataset: str
    preset: str
    key: str
    paper: str = ""
    base: str = ""
    split: str = ""
    """Benchmark split whose images the records must have; empty: any."""
    protocol: str = "training"
    """Evaluation that the records must come from."""
    missing: str = ""
    """Why it cannot be measured here; empty: it can, by a command."""
    sweep: str = ""
    """The experiment that makes its runs, if no preset does."""


def _final(dataset: str) -> tuple[_Row, ...]:
    """List a benchmark's lines by the final protocol. The paper does not name its ViT; the base has DeiT-B, too."""
    row = partial(_Row, dataset=dataset, key="segmentation.miou", split=f"{dataset}-val", protocol="final")
    paper, base, deit = (f"segmentation/{name}/{dataset}_val" for name in ("This paper", "ToCo (21k)", "ToCo"))
    return (
        row("segmentation, val", preset=dataset, paper=paper, base=base),
        row("segmentation, val, base", preset=f"{dataset}-toco", base=base),
        row("segmentation, val, DeiT-B", preset=f"{dataset}-deit"),
        row("segmentation, val, DeiT-B, base", preset=f"{dataset}-deit-toco", base=deit),
    )


def _training(dataset: str, split: str) -> tuple[_Row, ...]:
    """List a benchmark's lines by the protocol of evaluation in training, beside the base's published log."""
    kinds = (("segmentation", "segmentation"), ("CAM", "cam"), ("aux CAM", "aux_cam"))
    return tuple(
        _Row(
            f"{name}, {split.removeprefix(dataset + '-')}, in training{suffix}",
            dataset,
            preset,
            f"{key}.miou",
            base=f"toco_logs/{dataset}/vit-b/{key}",
            split=split,
            protocol="training",
        )
        for name, key in kinds
        for preset, suffix in ((dataset, ""), (f"{dataset}-toco", ", base"))
    )


_TEST = replace(
    _final("voc")[0],
    label="segmentation, test",
    paper="segmentation/This paper/voc_test",
    base="segmentation/ToCo (21k)/voc_test",
    split="voc-test",
    missing="needs the PASCAL VOC server",
)
VOC_ROWS = (_final("voc")[0], _TEST, *_final("voc")[1:], *_training("voc", "voc-val"))
COCO_ROWS = (*_final("coco"), *_training("coco", "coco-val-part"))
ANIMALS = "VOC 2012 animals, 320 px, CLIP ViT-B/16"
_SHALLOW = "voc-animals-11-blocks"
_VARIANTS = {row.label: row.variant for row in EXPERIMENTS[_SHALLOW].rows}
_animals = partial(_Row, dataset="voc-animals", key="segmentation.miou_headline")
_HEADLINE = (
    (replace(VOC_ROWS[0], label="PASCAL VOC 2012 val"), "voc-base"),
    (replace(VOC_ROWS[1], label="PASCAL VOC 2012 test"), "voc-base"),
    (replace(COCO_ROWS[0], label="MS COCO 2014 val"), "coco-base"),
    (_animals(f"{ANIMALS}, 12 blocks", preset="voc-animals"), "voc-animals-base"),
    (_animals(f"{ANIMALS}, 11 blocks", preset=_VARIANTS["base + both"], sweep=_SHALLOW), _VARIANTS["base"]),
    (_Row("mini (drawn)", "mini", "mini", "segmentation.miou_headline"), "mini-base"),
)
"""Lines of the first table, each with the variant of the base that it is compared with."""


def headline(runs: Sequence[Record]) -> Table:
    """Tabulate paper, published base, base, base + both and their difference, a line for each benchmark.

    Base and base + both have the same seeds on one processor; without such pairs neither has a number.
    Raises UserError if a record of a row was not measured on that row's split.
    """
    rows: list[tuple[str, ...]] = []
    shown: list[Record] = []
    for row, base in _HEADLINE:
        sides = [_records(replace(row, preset=preset), runs) for preset in (row.preset, base)]
        pairs = paired_runs(*sides, row.key.partition(".")[0])
        shown += [record for pair in pairs for record in pair]
        both_runs = "" if row.sweep else f"wsss train {base} --seed 0; "
        command = row.missing or both_runs + _command(row) + " for both" * (row.protocol == "final")
        cells = [UNPAIRED if side else MISSING for side in reversed(sides)] + [ABSENT, ABSENT]
        if pairs:
            both, bases = records.comparable([list(side) for side in zip(*pairs, strict=True)])
            test = over_seeds([records.value(first, row.key) - records.value(other, row.key) for first, other in pairs])
            interval = f" [{interval_text(test)}]" * (test.n > 1)
            gain = f"{signed(test.mean)}{interval} ({test.n} pair{'s' * (test.n > 1)})"
            cells = [*(mean_text(summarise(side, row.key)) for side in (bases, both)), gain, images(both[0])]
        rows.append((row.label, *_printed(row), *cells, command))
    columns = ("segmentation mIoU in percent", "paper", "published base", "base", "base + both", "difference", "images")
    note = "Base, base + both: mean ± sample standard deviation over the seeds that both have on one processor. "
    note += "Difference: mean over all pairs of one seed and processor, with the 95 % t interval over seeds. "
    note += f"Processors: {records.processors(shown)}." if shown else ""
    return Table("Paper, base and measured", (*columns, "to run them"), tuple(rows), note, shown)


def beside_published(title: str, rows: Sequence[_Row], runs: Sequence[Record]) -> Table:
    """Tabulate paper, published base, measured number and difference, a line for each row.

    The difference is to the paper if it has a number, else to the base.
    Raises UserError if a record of a row was not measured on that row's split.
    """
    groups = [records.of_one_processor(_records(row, runs)) for row in rows]
    lines = []
    for row, group in zip(rows, groups, strict=True):
        printed, cells = _printed(row), (MISSING, ABSENT, ABSENT, row.missing or _command(row))
        if group:
            summary = summarise(group, row.key)
            known = [float(number) for number in printed if number != ABSENT]
            difference = f"{summary.mean - known[0]:+.1f}" if known else ABSENT
            cells = (mean_text(summary), images(group[0]), difference, _command(row))
        lines.append((row.label, *printed, *cells))
    columns = ("mIoU in percent", "paper", "published base", "measured", "images", "difference", "to run it")
    note = "Measured: mean ± sample standard deviation over seeds of one processor. "
    note += "Difference: to the paper, or to the base if the paper has no number."
    return Table(title, columns, tuple(lines), note, sum(groups, []))


def _records(row: _Row, runs: Sequence[Record]) -> list[Record]:
    """Select the records of a line. Raises UserError for a record of a split other than the line's."""
    chosen = [] if row.missing else records.select(runs, row.dataset, row.preset, row.protocol)
    chosen = [record for record in chosen if records.has(record, row.key)]
    for record in chosen if row.split else ():
        records.require_split(record, row.split)
    return chosen


def _printed(row: _Row) -> list[str]:
    """Return the numbers of paper and base that their authors print, with one digit; ABSENT if there is none."""
    printed = [published_number(path) if path else "" for path in (row.paper, row.base)]
    return [f"{float(number):.1f}" if number else ABSENT for number in printed]


def _command(row: _Row) -> str:
    if row.sweep:
        return f"wsss sweep {row.sweep}"
    final = f", then wsss evaluate RUN --protocol {row.dataset}" if row.protocol == "final" else ""
    return f"wsss train {row.preset} --seed 0{final}"
