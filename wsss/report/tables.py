"""Tables from records and data/published, nothing else: no number is typed here. No torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from wsss import stored
from wsss.paths import UserError, did_you_mean, project_root, read_json
from wsss.presets import NOT_IN_VARIANT, PRESETS
from wsss.registry import DATASETS
from wsss.report import ablation, records
from wsss.report.experiments import EXPERIMENTS
from wsss.report.literature import (
    ANIMALS,
    COCO_ROWS,
    VOC_ROWS,
    beside_published,
    headline,
    published_number,
    single_stage,
)
from wsss.report.records import Record, images
from wsss.report.statistics import mean_text, summarise
from wsss.report.table import ABSENT, MISSING, NOT_MEASURED, Table
from wsss.settings import flatten


def _of_presets(runs: Iterable[Record]) -> Table:
    """Tabulate every setting that makes a new variant, for the presets of all scales. Uses no records."""
    scales = [name for name, known in DATASETS.items() if not known.smoke]
    flat = [flatten(PRESETS[name]) for name in scales]
    paths = (path for path in flat[0] if path not in NOT_IN_VARIANT)
    rows = tuple((f"--{path}", *(_written(values[path]) for values in flat)) for path in paths)
    return Table("Settings of the presets", ("setting", *scales), rows)


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_written, value)) or ABSENT
    return f"{value:g}" if isinstance(value, float) else str(value) or ABSENT


# Our own variants side by side.

_QUANTITIES = (
    ("classification mAP", "classification.map_headline"),
    ("classification mAP, all present classes", "classification.map"),
    ("segmentation mIoU", "segmentation.miou_headline"),
    ("segmentation mIoU, all present classes", "segmentation.miou"),
    ("guess: all background, mIoU", "guesses.background.miou_headline"),
    ("guess: labels painted in the centre, mIoU", "guesses.centre.miou_headline"),
    ("CAM mIoU, fixed threshold", "cam.miou_headline"),
    ("CAM mIoU, best threshold", "sweep.cam.best_headline"),
    ("aux CAM mIoU, fixed threshold", "aux_cam.miou_headline"),
    ("aux CAM mIoU, best threshold", "sweep.aux_cam.best_headline"),
    ("CAM pixel AUC", "auc.cam"),
    ("aux CAM pixel AUC", "auc.aux_cam"),
    ("pixel AUC of a centre prior", "auc.centre"),
    ("pseudo label mIoU over labelled pixels", "pseudo_label.miou_headline"),
    ("pseudo label coverage", "pseudo_label.coverage"),
    ("pseudo label precision", "pseudo_label.precision"),
    *(
        (f"{name} {error}", f"{kind}.{key}")
        for error, key in (("over-activation", "over_activation"), ("under-activation", "under_activation"))
        for name, kind in (("CAM", "cam"), ("aux CAM", "aux_cam"), ("segmentation", "segmentation"))
    ),
    ("CAM boundary IoU", "cam.boundary_iou"),
    ("segmentation boundary IoU", "segmentation.boundary_iou"),
    ("CAM and aux CAM, difference", "agreement.difference"),
    ("CAM and aux CAM, difference of affinities", "agreement.affinity"),
    ("CAM and aux CAM, IoU of labels", "agreement.label_iou"),
    ("redundancy of the subspaces", "subspaces.redundancy"),
    ("CAM covers of the part", "coverage.cam.part"),
    ("CAM covers beyond the part", "coverage.cam.rest"),
    ("aux CAM covers beyond the part", "coverage.aux_cam.rest"),
    ("segmentation covers beyond the part", "coverage.segmentation.rest"),
)


_PRIMARY = {
    *("segmentation.miou_headline", "cam.miou_headline", "sweep.cam.best_headline", "auc.cam", "auc.centre"),
    *("guesses.background.miou_headline", "guesses.centre.miou_headline"),
}
"""Lines that every table has, measured or not."""


def _side_by_side(
    title: str, dataset: str, presets: Sequence[str], runs: Sequence[Record], yours: Sequence[Record] = ()
) -> Table:
    """Tabulate presets in columns, over the seeds that all have; a line for each quantity that any of them has.

    The reader's own runs, `yours`, get a further column for each preset among them, and enter no other.
    """
    groups = records.comparable([records.select(runs, dataset, preset) for preset in presets])
    measured_runs = sum(groups, [])
    marks = {record["fingerprint"]["masks"] for record in measured_runs}
    if len(marks) > 1:
        raise UserError(f"the records of {dataset} were not all measured on the same images; evaluate them again")
    reader = {preset: records.of_one_processor(records.select(yours, dataset, preset)) for preset in presets}
    left = [preset for preset in presets if marks and {r["fingerprint"]["masks"] for r in reader[preset]} - marks]
    reader = {preset: group for preset, group in reader.items() if group and preset not in left}
    shown = [*groups, *reader.values()]
    lines = {key: (label, *(ablation.cell(group, key) for group in shown)) for label, key in _QUANTITIES}
    kept = [line for key, line in lines.items() if key in _PRIMARY or set(line[1:]) - {ABSENT, MISSING, NOT_MEASURED}]
    note = (
        "Percent; mIoU and mAP of the headline classes unless the line says otherwise. Mean ± sample standard "
        "deviation over the seeds that all columns have on one processor. Best threshold: the best of a sweep on these "
        "masks. "
    )
    where = records.processors(measured_runs)
    note += f"Processors: {where}. {ablation.BRACKETS}" if where else ablation.BRACKETS
    note += "" if ablation.share_draws(groups) else ablation.UNLIKE
    idle = [f"`wsss train {preset} --seed 0`" for preset, group in zip(presets, groups, strict=True) if not group]
    note += f" Not run: {', '.join(idle)}." if idle else ""
    note += f" Your runs: {records.processors(sum(reader.values(), []))}." if reader else ""
    note += f" Left out, since measured on other images than the published: your {', '.join(left)}." if left else ""
    heads = ("", *presets, *(f"your {preset}" for preset in reader))
    title += f": {images(measured_runs[0])} images" if measured_runs else ""
    return Table(title, heads, tuple(kept), note, sum(shown, []))


def of_run(record: Record) -> Table:
    """Tabulate one run's numbers; the note has protocol, time, device, versions and commit."""
    rows = []
    for label, key in _QUANTITIES:
        if not records.has(record, key):
            continue
        interval = ablation.interval_over_images(record, key)
        bounds = ABSENT if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
        rows.append((label, f"{records.value(record, key):.1f}", bounds))
    used, changed = record["protocol"], ", with uncommitted changes" if record["dirty"] else ""
    note = (
        f"Protocol {used.get('name')}: {'; '.join(f'{k} {v}' for k, v in used.items() if k != 'name')}. "
        f"{record['steps']} steps, backbone {record.get('backbone', 'see config')}, seed {record['seed']}; "
        f"{', '.join(f'{name} {value:.0f} s' for name, value in record['seconds'].items())} on {record['device']}. "
        f"{', '.join(f'{name} {version}' for name, version in record['versions'].items())}; "
        f"commit {record['commit']}{changed}, {record['date']}."
    )
    title = f"{records.describe(record)}: {images(record)} images of {record.get('dataset_title', record['dataset'])}"
    return Table(title, ("percent", "measured", "95 % interval over images"), tuple(rows), note, (record,))


def _listing(runs: Sequence[Record]) -> Table:
    """Tabulate every record: its name, its main numbers, and where they come from."""
    rows = []
    for record in runs:
        cells = (records.file_name(record), images(record), *_numbers(record, _LISTED))
        seconds = f"{sum(record['seconds'].values()):,.0f}"
        rows.append((*cells, seconds, record["commit"], record["date"], record["device"]))
    columns = ("record", "images", "CAM", "segmentation", "seconds", "commit", "date", "device")
    note = (
        "mIoU in percent, headline classes. Seconds: training and evaluation. Each is a file data/results/RECORD.json, "
        "with protocol, configuration, versions and a fingerprint of the images. `wsss train PRESET --seed SEED` made "
        "DATASET/PRESET/SEED, with options for the settings that differ from PRESET. `wsss evaluate "
        "runs/DATASET/PRESET/SEED --protocol voc` made a final evaluation, with its scales and CRF. "
        "Runs of mini-coco are smoke tests of the code for COCO; their numbers are not results."
    )
    return Table("Published records", columns, tuple(rows), note, runs)


_LISTED = ("cam.miou_headline", "segmentation.miou_headline")
_TRIED = ("classification.map", "cam.miou_headline", "aux_cam.miou_headline", "segmentation.miou_headline")


def _numbers(record: Record, keys: Sequence[str]) -> list[str]:
    return [f"{records.value(record, key):.1f}" if records.has(record, key) else ABSENT for key in keys]


_ASIDE = (
    *NOT_IN_VARIANT,
    *("data.name", "data.val_split", "optim.steps", "model.checkpoint", "model.classifier_scale"),
)
"""Settings that are not named among the changes: free ones, and those with a column of their own."""


def _of_tries(dataset: str, runs: Sequence[Record]) -> Table:
    """Tabulate what was tried when the CPU presets were chosen: steps, results, start, changes from today's preset.
    Uses no `runs`, but the records of data/tries, which are never among the results."""
    rows = []
    tries = [record for record in records.find(project_root() / "data" / "tries") if record["dataset"] == dataset]
    for record in sorted(tries, key=lambda record: (record["date"], record["variant"], record["seed"])):
        preset, used = PRESETS[record["preset"]], flatten(stored.from_dict(record["config"]))
        start = used["model.checkpoint"].removeprefix("data/weights/").removesuffix(".safetensors")
        start = start or (used["model.backbone"] if used["model.pretrained"] else "random weights")
        # In a preset of plain classification these settings do nothing.
        idle = () if preset.needs else ("csa.", "msc.", "class_contrast.", "schedule.", "energy.")
        today, changed = flatten(preset), ""
        for path, value in used.items():
            if value != today[path] and path not in _ASIDE and not path.startswith(idle):
                changed += f", {path} {' '.join(f'{x:g}' for x in value) if isinstance(value, tuple) else value}"
        cells = (f"{record['variant']}/{record['seed']}", f"{record['images']} {record['split']}")
        settings = f"{record['preset']}, {start}{changed}"
        rows.append((*cells, f"{record['steps']:,}", *_numbers(record, _TRIED), settings))
    columns = ("try", "images", "steps", "mAP", "CAM", "aux CAM", "segm.")
    columns += ("preset, start, and settings other than the preset's",)
    note = "mIoU of the headline classes and mAP of all present ones, percent; one run each, named VARIANT/SEED. "
    note += "Records: data/tries."
    return Table(f"{dataset}: what was tried", columns, tuple(rows), note)


REPORTED = {name: experiment for name, experiment in EXPERIMENTS.items() if experiment.dataset != "smoke"}
"""Experiments that have a table; the numbers of smoke tests mean nothing."""

TABLES: dict[str, Callable[[Sequence[Record]], Table]] = {
    "headline": headline,
    "voc": partial(beside_published, "PASCAL VOC 2012", VOC_ROWS),
    "coco": partial(beside_published, "MS COCO 2014", COCO_ROWS),
    "voc-animals": partial(
        _side_by_side,
        ANIMALS,
        "voc-animals",
        ("voc-animals-plain", "voc-animals-base", "voc-animals"),
    ),
    "mini": partial(_side_by_side, "mini (drawn)", "mini", ("mini-plain", "mini-base", "mini")),
    **{name: partial(ablation.numbers, name, experiment) for name, experiment in REPORTED.items()},
    **{f"{name}-differences": partial(ablation.differences, name, experiment) for name, experiment in REPORTED.items()},
    **{f"{dataset}-tries": partial(_of_tries, dataset) for dataset in ("voc-animals", "mini")},
    "literature": single_stage,
    "settings": _of_presets,
    "records": _listing,
}
"""Every table of `wsss tables`, by name: a function of the records."""


def build(name: str, runs: Sequence[Record] | None = None, yours: Sequence[Record] = ()) -> Table:
    """Return the table of that name, made of `runs` (None: the published records). A table of presets side by side also
    shows the reader's runs, `yours`, in columns of their own. Raises UserError for an unknown name."""
    if name not in TABLES:
        hint = did_you_mean(name, TABLES) or f"; there are {', '.join(TABLES)}"
        raise UserError(f"there is no table named {name}{hint}")
    runs, make = records.published() if runs is None else runs, TABLES[name]
    takes = isinstance(make, partial) and make.func is _side_by_side
    return make(runs, yours=yours) if takes else make(runs)


def number(text: str) -> tuple[str, str]:
    """Return a published number as text, and where it comes from.

    `text` is SOURCE#KEY[:FORMAT]. A SOURCE and its KEY are:

    * DATASET/VARIANT (mean over the seeds of one processor) or DATASET/VARIANT/SEED: a result or field of the record
    * published: a number of the literature (`literature.published_number`)
    * guesses: DATASET/KIND/MEASURE of data/results/guesses.json

    Raises UserError or KeyError if there is no such number.
    """
    reference, _, form = text.partition(":")
    source, _, key = reference.partition("#")
    if source == "published":
        if not (printed := published_number(key)):
            raise UserError(f"{key} is empty")
        return printed, f"printed by others: data/published/{key.partition('/')[0]}.csv"
    if source == "guesses":
        node: Any = read_json(project_root() / "data" / "results" / "guesses.json")
        for part in key.split("/"):
            if not isinstance(node, Mapping) or part not in node:
                raise UserError(f"data/results/guesses.json has no number {key}")
            node = node[part]
        return format(float(node), form or ".1f"), "a guess, counted without a network: data/results/guesses.json"
    dataset, variant, *seed = source.split("/")
    chosen = records.select(records.published(), dataset, variant)
    chosen = [record for record in chosen if not seed or record["seed"] == int(seed[0])]
    if not chosen:
        raise UserError(f"there is no published record of {source}")
    if key in chosen[0]:
        return format(chosen[0][key], form), f"data/results: {records.describe(chosen[0])}"
    chosen = records.of_one_processor(chosen)
    mean = summarise(chosen, key)
    where = f"{images(chosen[0])} images, {records.processors(chosen)}, commit {chosen[0]['commit']}"
    return (format(mean.mean, form) if form else mean_text(mean)), where
