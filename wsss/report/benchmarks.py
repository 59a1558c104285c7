"""Our numbers beside published ones: the first table, and those of the benchmarks. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from wsss.report import published, records
from wsss.report.records import Record, images
from wsss.report.statistics import Pairs, bounds, measured, over_seeds, paired_runs, signed, summarise
from wsss.report.table import ABSENT, MISSING, Table


@dataclass(frozen=True)
class Row:
    """One line that sets a measured number beside published ones; `paper` and `base` are references."""

    label: str
    dataset: str
    preset: str
    key: str
    paper: str = ""
    base: str = ""
    split: str = ""
    """Known split whose images the records must have; empty: any."""
    protocol: str = "training"
    """Evaluation that the records must come from."""
    missing: str = ""
    """Why it cannot be measured here; empty: it can, by a command."""


def _final(dataset: str) -> tuple[Row, ...]:
    """A benchmark's lines by the final protocol. The paper does not name its ViT; DeiT-B is the base's."""
    row = partial(Row, dataset=dataset, key="segmentation.miou", split=f"{dataset}-val", protocol="final")
    paper, base, deit = (f"segmentation/{name}/{dataset}_val" for name in ("This paper", "ToCo (21k)", "ToCo"))
    return (
        row("segmentation, val", preset=dataset, paper=paper, base=base),
        row("segmentation, val, base", preset=f"{dataset}-toco", base=base),
        row("segmentation, val, DeiT-B", preset=f"{dataset}-deit"),
        row("segmentation, val, DeiT-B, base", preset=f"{dataset}-deit-toco", base=deit),
    )


def _training(dataset: str, split: str) -> tuple[Row, ...]:
    """A benchmark's lines by the protocol of evaluation in training, beside the base's published log."""
    kinds = (("segmentation", "segmentation"), ("CAM", "cam"), ("aux CAM", "aux_cam"))
    return tuple(
        Row(
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


VOC_TEST = replace(
    _final("voc")[0],
    label="segmentation, test",
    paper="segmentation/This paper/voc_test",
    base="segmentation/ToCo (21k)/voc_test",
    split="voc-test",
    missing="needs the PASCAL VOC server",
)
VOC = (_final("voc")[0], VOC_TEST, *_final("voc")[1:], *_training("voc", "voc-val"))
COCO = (*_final("coco"), *_training("coco", "coco-val-part"))
ANIMALS = "VOC 2012 animals, 320 px, CLIP ViT-B/16"
HEADLINE = (
    (replace(VOC[0], label="PASCAL VOC 2012 val"), "voc-base"),
    (replace(VOC_TEST, label="PASCAL VOC 2012 test"), "voc-base"),
    (replace(COCO[0], label="MS COCO 2014 val"), "coco-base"),
    (Row(ANIMALS, "voc-animals", "voc-animals", "segmentation.miou_headline"), "voc-animals-base"),
    (Row("mini (drawn)", "mini", "mini", "segmentation.miou_headline"), "mini-base"),
)
"""Lines of the first table, each with the preset of the base that it is held against."""


def headline(runs: Sequence[Record]) -> Table:
    """paper | published base | base | base + both | difference | images | command, a line for each benchmark.

    Base and base + both are of the same seeds on one processor; without such pairs neither has a number.
    Raises UserError if a record of a row was not measured on that row's split.
    """
    columns = ("segmentation mIoU in percent", "paper", "published base", "base", "base + both")
    lines = [_against_base(row, base, runs) for row, base in HEADLINE]
    note = "Base, base + both: mean ± sample standard deviation over the seeds that both have on one processor. "
    note += "Difference: mean over all pairs of one seed and processor, with the 95 % t interval over seeds. "
    shown = [record for _, pairs in lines for pair in pairs for record in pair]
    where = records.processors(shown)
    note += f"Processors: {where}." if where else ""
    more = ("difference", "images", "to run them")
    return Table("Paper, base and measured", columns + more, tuple(line for line, _ in lines), note, shown)


def _against_base(row: Row, base: str, runs: Sequence[Record]) -> tuple[tuple[str, ...], Pairs]:
    """A line of the first table, and the pairs that it is made of."""
    groups = [_records(replace(row, preset=preset), runs) for preset in (base, row.preset)]
    kind = row.key.partition(".")[0]
    pairs = paired_runs(groups[1], groups[0], kind)
    commands = row.missing or f"wsss train {base} --seed 0; {_command(row)}" + " of both" * (row.protocol == "final")
    start = (row.label, *_printed(row))
    if not pairs:
        states = ("run, not paired" if group else MISSING for group in groups)
        return (*start, *states, ABSENT, ABSENT, commands), ()
    shown = records.comparable([[one for one, _ in pairs], [other for _, other in pairs]])
    cells = (measured(summarise(group, row.key)) for group in reversed(shown))
    test = over_seeds([records.value(one, row.key) - records.value(other, row.key) for one, other in pairs])
    seeds = f"({test.n} pair{'s' * (test.n > 1)})"
    gain = f"{signed(test.mean)} [{bounds(test)}] {seeds}" if test.n > 1 else f"{signed(test.mean)} {seeds}"
    return (*start, *cells, gain, images(pairs[0][0]), commands), pairs


def beside_published(title: str, rows: Sequence[Row], runs: Sequence[Record]) -> Table:
    """paper | published base | measured | images | difference | command, a line for each row.

    The difference is to the paper where it has a number, else to the base.
    Raises UserError if a record of a row was not measured on that row's split.
    """
    columns = ("mIoU in percent", "paper", "published base", "measured", "images", "difference", "to run it")
    note = (
        "Measured: mean ± sample standard deviation over seeds of one processor. Difference: to the paper, else to the "
    )
    note += "base."
    groups = [records.of_one_processor(_records(row, runs)) for row in rows]
    lines = tuple(map(_line, rows, groups))
    return Table(title, columns, lines, note, sum(groups, []))


def _records(row: Row, runs: Sequence[Record]) -> list[Record]:
    """What a line is made of; UserError for a record of another split than the line's."""
    found = [] if row.missing else records.select(runs, row.dataset, row.preset, row.protocol)
    own = [record for record in found if records.has(record, row.key)]
    for record in own if row.split else ():
        records.require_split(record, row.split)
    return own


def _printed(row: Row) -> list[str]:
    """The numbers of paper and base as their authors print them."""
    printed = [published.reference(path) if path else "" for path in (row.paper, row.base)]
    return [f"{float(number):.1f}" if number else ABSENT for number in printed]


def _line(row: Row, own: Sequence[Record]) -> tuple[str, ...]:
    shown = _printed(row)
    if not own:
        return (
            row.label,
            *shown,
            MISSING,
            ABSENT,
            ABSENT,
            row.missing or _command(row),
        )
    summary = summarise(own, row.key)
    known = [float(number) for number in shown if number != ABSENT]
    difference = f"{summary.mean - known[0]:+.1f}" if known else ABSENT
    return (row.label, *shown, measured(summary), images(own[0]), difference, _command(row))


def _command(row: Row) -> str:
    """What makes a record of the line."""
    final = f", then wsss evaluate RUN --protocol {row.dataset}" if row.protocol == "final" else ""
    return f"wsss train {row.preset} --seed 0{final}"
