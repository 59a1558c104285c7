"""Figures of experiments, from records: what a gain may come from, and CAMs over training. No torch."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
from matplotlib import lines
from matplotlib.axes import Axes

from wsss.paths import UserError, project_root, read_json
from wsss.report import ablation, benches, experiments, figures, records
from wsss.report.experiments import Experiment
from wsss.report.figures import PALETTE, Picture
from wsss.report.records import Record
from wsss.report.statistics import bounds, over_seeds, signed

CAUSES = (
    ("CAM over-activation, %", "cam.over_activation"),
    ("CAM under-activation, %", "cam.under_activation"),
    ("difference of the layers' CAMs, %", "agreement.difference"),
    ("difference of their affinities, %", "agreement.affinity"),
    ("IoU of their labels, %", "agreement.label_iou"),
    ("redundancy of the subspaces, %", "subspaces.redundancy"),
)
"""What the modules act on."""
MARKERS = ["o", "s", "D", "^", "v", "P", "*", "X", "h", "<", ">", "p"]


class NotMeasured(UserError):
    """There is no record to draw; says the command that makes one."""


def causes(experiment: Experiment, runs: Sequence[Record], key: str = "cam.miou_headline") -> Picture:
    """A panel for each cause, with the result at `key` over it: a dot a run, a colour and marker a row; the seeds
    that all rows have.

    Every value is less its mean over the runs of the same seed and device, so that what a seed brings to all rows is
    neither seen nor correlated. Raises NotMeasured if no run of the experiment has the result.
    """
    groups = _measured(experiment, runs, key)
    picture, said = Picture(figsize=(9, 5.6), layout="constrained"), []
    panels = picture.subplots(2, 3, sharey=True)
    for axis, (title, cause) in zip(panels.flat, CAUSES, strict=True):
        x, y = _scatter(axis, groups, cause, key)
        axis.set_xlabel(title, fontsize=9)
        if len(x) > 2 and np.std(x) > 0 and np.std(y) > 0:
            r = float(np.corrcoef(x, y)[0, 1])
            axis.set_title(f"correlation {r:+.2f}, {len(x)} runs", fontsize=8)
            said.append(f"{title.removesuffix(', %')} {r:+.2f}")
    for axis in panels[:, 0]:
        axis.set_ylabel("CAM mIoU, %" if key.startswith("cam") else "mIoU, %", fontsize=9)
    looks = zip(groups, palette(len(groups)), MARKERS, strict=False)
    handles = [
        lines.Line2D([], [], color=colour, marker=marker, linestyle="", markeredgecolor="0.2", label=label)
        for label, colour, marker in looks
        if groups[label]
    ]
    picture.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    picture.suptitle("every value less its mean over the runs of its seed", fontsize=9)
    found = "; ".join(said) or "too few runs to correlate"
    picture.alt = f"{experiment.title}: CAM mIoU of every run over six causes, a panel each, less the means of seeds. "
    picture.alt += f"Correlations: {found}."
    picture.records = sum(groups.values(), [])
    return picture


def _scatter(axis: Axes, groups: dict[str, list[Record]], cause: str, key: str) -> tuple[list[float], list[float]]:
    """Draw the runs that have the cause, where another of their seed has it; returns its values and the result's."""
    runs = [(label, run) for label, group in groups.items() for run in group if records.has(run, cause)]
    sizes = Counter(records.draw(run) for _, run in runs)
    known = [(label, run) for label, run in runs if sizes[records.draw(run)] > 1]
    x, y = (_less_seed_means([run for _, run in known], name) for name in (cause, key))
    names, labels = list(groups), [label for label, _ in known]
    if known:
        looks = {
            "hue_order": names,
            "style_order": names,
            "palette": palette(len(names)),
            "markers": MARKERS[: len(names)],
        }
        seaborn.scatterplot(x=x, y=y, hue=labels, style=labels, **looks, s=45, edgecolor="0.2", legend=False, ax=axis)
    else:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, fontsize=9)
        axis.set_xticks([])
    axis.tick_params(labelsize=8)
    return x, y


def _less_seed_means(runs: Sequence[Record], key: str) -> list[float]:
    """Of each run the result at `key` less its mean over those of the runs that share seed and device."""
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    for run in runs:
        values[records.draw(run)].append(records.value(run, key))
    return [records.value(run, key) - float(np.mean(values[records.draw(run)])) for run in runs]


def coverage_bars(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Share of the distinctive part and of the rest of objects that each row's CAM covers, in percent: mean over the
    seeds that all rows have, a dot a seed.

    Raises NotMeasured if no run of the experiment has it.
    """
    groups = _measured(experiment, runs, "coverage.cam.part")
    shown = [(label, group) for label, group in groups.items() if group]
    picture, said = Picture(figsize=(7, 0.9 + 0.45 * len(shown)), layout="constrained"), []
    axis = picture.subplots()
    for place, (label, group) in enumerate(shown):
        for shift, part, colour in ((-0.2, "part", PALETTE[1]), (0.2, "rest", PALETTE[0])):
            shares = [records.value(record, f"coverage.cam.{part}") for record in group]
            axis.barh(place + shift, np.mean(shares), 0.36, color=colour, label=part if place == 0 else None)
            axis.plot(shares, [place + shift] * len(shares), "o", color="black", markersize=4)
            said.append(f"{label}, {part} {np.mean(shares):.1f}")
    axis.set_yticks(range(len(shown)), [label for label, _ in shown])
    axis.invert_yaxis()
    axis.set(xlabel="covered by the CAM, %", xlim=(0, 100))
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    picture.alt = f"Share of the distinctive part and of the rest that the CAM covers, percent: {'; '.join(said)}."
    picture.records = sum(groups.values(), [])
    return picture


def differences(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """How far each row lies above the row `against`, a panel for each primary endpoint: a dot a seed, and in black the
    mean of the paired differences with its 95 % t interval over seeds.

    Raises NotMeasured if no pair of runs is on record.
    """
    gains = [line for line in ablation.compared(experiment, runs) if line.primary]
    if not gains:
        raise NotMeasured(f"no pair of runs of {experiment.title} is on record; `wsss sweep` makes them")
    rows = list(dict.fromkeys(line.row for line in gains))
    titles = sorted({line.endpoint for line in gains}, reverse=True)  # segmentation, CAM
    picture, sentences = Picture(figsize=(9, 1.3 + 0.42 * len(rows)), layout="constrained"), []
    panels = picture.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for axis, title in zip(panels, titles, strict=True):
        axis.axvline(0, color="0.6", linewidth=1)
        for line in (line for line in gains if line.endpoint == title):
            sentences.append(_interval(axis, rows.index(line.row), line))
        axis.set_title(f"{title} mIoU", fontsize=10)
        axis.set_xlabel(f"points above {experiment.against}")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    looks = {"linestyle": "", "markersize": 5}
    dots = lines.Line2D([], [], marker="o", color=PALETTE[0], alpha=0.7, label="a seed", **looks)
    mean = lines.Line2D([], [], marker="D", color="black", label="mean with 95 % interval over seeds", **looks)
    picture.legend(handles=[dots, mean], loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    picture.alt = f"{experiment.title}, paired differences to {experiment.against} in points: {'; '.join(sentences)}."
    picture.records = [record for line in gains for pair in line.pairs for record in pair]
    return picture


def _interval(axis: Axes, place: int, line: ablation.Difference) -> str:
    """One line of the figure; returns it in words."""
    points = line.points
    test = over_seeds(points)
    axis.plot(points, [place - 0.18] * len(points), "o", color=PALETTE[0], markersize=5, alpha=0.7)
    axis.plot([test.low, test.high], [place + 0.12] * 2, color="black", linewidth=1.6)  # nothing of one seed: nan
    axis.plot([test.mean], [place + 0.12], "D", color="black", markersize=5)
    interval = f", 95 % {bounds(test)}" if test.n > 1 else ""
    return f"{line.row}, {line.endpoint} {signed(test.mean)}{interval} ({test.n} seeds)"


SWEPT = (("last layer's CAM", "cam"), ("aux layer's CAM", "aux_cam"))


def threshold_curves(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Headline mIoU over the background threshold, a panel for each layer and a colour and line a row: the mean over
    the seeds that all rows have; a dot at the fixed threshold.

    Raises NotMeasured if no run of the experiment has a sweep.
    """
    groups = {label: group for label, group in _measured(experiment, runs, "sweep.cam.miou_headline").items() if group}
    picture, sentences = Picture(figsize=(9, 4.2), layout="constrained"), []
    panels = picture.subplots(1, 2, sharey=True)
    for axis, (title, kind) in zip(panels, SWEPT, strict=True):
        for place, (label, group) in enumerate(groups.items()):
            levels = records.value(group[0], f"sweep.{kind}.thresholds")
            curve = np.mean([records.value(run, f"sweep.{kind}.miou_headline") for run in group], 0)
            fixed = levels.index(group[0]["protocol"]["background"])
            look = {"color": LINE_COLOURS[place % len(LINE_COLOURS)], "linestyle": STYLES[place % len(STYLES)]}
            axis.plot(levels, curve, label=label, **look)
            axis.plot(levels[fixed], curve[fixed], MARKERS[place], color=look["color"], markeredgecolor="0.2")
            sentences.append(f"{label}, {title} {curve[fixed]:.1f} at {levels[fixed]:g}, at best {curve.max():.1f}")
        axis.set(xlabel="background threshold", title=title, xlim=(0, 1))
        axis.set_ylim(0, None)
    panels[0].set_ylabel("mIoU, %")
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    picture.alt = f"{experiment.title}: mIoU over the background threshold, both layers. {'; '.join(sentences)}."
    picture.records = sum(groups.values(), [])
    return picture


STYLES = ("-", "--", "-.", ":")
LINE_COLOURS = (*PALETTE[:-1], "black")
"""Without yellow, whose lines nobody sees on white."""


def extent(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """How much of the objects beyond their distinctive part a CAM covers, over how much of the CAM lies beside objects:
    a dot a run, a colour and marker a row. A better CAM is further up and to the left.

    Raises NotMeasured if no run of the experiment has it.
    """
    groups = {label: group for label, group in _measured(experiment, runs, "coverage.cam.rest").items() if group}
    picture, sentences = Picture(figsize=(7, 4.4), layout="constrained"), []
    axis = picture.subplots()
    for (label, group), colour, marker in zip(groups.items(), palette(len(groups)), MARKERS, strict=False):
        beside, covered = (
            [records.value(r, key) for r in group] for key in ("cam.over_activation", "coverage.cam.rest")
        )
        axis.plot(beside, covered, marker, color=colour, markeredgecolor="0.2", markersize=7, label=label)
        sentences.append(f"{label} {np.mean(beside):.1f} and {np.mean(covered):.1f}")
    axis.set(
        xlabel="of the CAM beside the objects (over-activation), %", ylabel="of the objects beyond the part covered, %"
    )
    picture.legend(loc="outside right center", fontsize=8, frameon=False)
    picture.alt = (
        f"{experiment.title}: share of the CAM beside objects and of objects covered beyond the part, percent, "
    )
    picture.alt += f"means by row: {'; '.join(sentences)}."
    picture.records = sum(groups.values(), [])
    return picture


def _measured(experiment: Experiment, runs: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """For each row its runs that have the result at `key`, of the seeds that all rows have; NotMeasured if none has."""
    pairs = zip(experiment.rows, ablation.groups_of(runs, experiment), strict=True)
    groups = {row.label: [record for record in group if records.has(record, key)] for row, group in pairs}
    if not any(groups.values()):
        raise NotMeasured(f"no run of {experiment.title} is on record; `wsss sweep` makes them")
    return groups


def palette(count: int) -> list[str]:
    """Colours of so many rows; beyond seven they come again, with other markers."""
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


LAYERS = (("last layer", "cam", PALETTE[0], "o-"), ("aux layer", "aux_cam", PALETTE[5], "s--"))


def over_training(runs: Sequence[Record], dataset: str, variants: Sequence[tuple[str, str]]) -> Picture:
    """CAM mIoU of both layers, and how far they lie apart, over the steps of a run: a column for each variant (label,
    name), lists in rows: the validation list and those that the run watched.

    The run is the variant's one with most validations. Raises NotMeasured if there is none.
    """
    chosen = [(label, _most_checked(runs, dataset, name)) for label, name in variants]
    lists = ["validation", *sorted({name for _, run in chosen for row in run["validations"] for name in _lists(row)})]
    picture, said = Picture(figsize=(4.6 * len(chosen), 2.6 * len(lists) + 0.6), layout="constrained"), []
    panels = picture.subplots(len(lists), len(chosen), squeeze=False, sharex=True, sharey=True)
    for panel_row, name in zip(panels, lists, strict=True):
        for axis, (label, run) in zip(panel_row, chosen, strict=True):
            said.append(_progress(axis, label, name, run))
    for axis in panels[-1]:
        axis.set_xlabel("step")
    for panel_row, name in zip(panels, lists, strict=True):
        panel_row[0].set_ylabel(f"{'val' if name == 'validation' else name}: mIoU or difference, %", fontsize=9)
    picture.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    picture.alt = f"CAM mIoU of the last and the aux layer over training. {' '.join(said)}"
    picture.records = [run for _, run in chosen]
    return picture


def _lists(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row.get("watched", {}))


def _most_checked(runs: Sequence[Record], dataset: str, variant: str) -> Record:
    own = records.select(runs, dataset, variant)
    own = [record for record in own if len(record.get("validations", ())) > 1]
    if not own:
        command = f"wsss train {variant} --validate-every .1 --data.watch train"
        raise NotMeasured(f"no run of {variant} with several validations is on record; `{command}` makes one")
    return max(own, key=lambda record: (len(record["validations"]), -record["seed"]))


def _progress(axis: Axes, label: str, name: str, run: Record) -> str:
    """One panel; returns it in words."""
    rows = [row for row in run["validations"] if name == "validation" or name in _lists(row)]
    found = [(row["step"], row["validation"] if name == "validation" else row["watched"][name]) for row in rows]
    steps = [step for step, _ in found]
    for layer, kind, colour, style in LAYERS:
        axis.plot(steps, [one[kind] for _, one in found], style, color=colour, markersize=4, label=f"CAM, {layer}")
    apart = [one.get("agreement", {}).get("difference") for _, one in found]
    axis.plot(steps, apart, "^:", color="0.35", markersize=4, label="mean difference of the two CAMs")
    axis.set_title(f"{label}, seed {run['seed']}", fontsize=9)
    ends = ", ".join(f"{layer} {found[0][1][kind]:.1f} to {found[-1][1][kind]:.1f}" for layer, kind, *_ in LAYERS)
    return f"{label}, {name}: {ends}." if found else f"{label}, {name}: not measured."


MEMORY = "data/results/bench/evaluation-memory.json"
OF_EXPERIMENTS = {"causes-": causes, "differences-": differences, "thresholds-": threshold_curves, "extent-": extent}
"""Figures of an experiment: how their names begin -> what draws them."""


def build(name: str, runs: Sequence[Record]) -> Picture:
    """The figure of that name. Raises UserError for an unknown name, and NotMeasured without records."""
    if name == "published_curves":
        return figures.published_curves()
    if name == "coverage_bars":
        return coverage_bars(experiments.get("mini-components"), runs)
    for start, draw in OF_EXPERIMENTS.items():
        if name.startswith(start):
            return draw(experiments.get(name.removeprefix(start)), runs)
    if name.startswith("over-training-"):
        scale = name.removeprefix("over-training-")
        return over_training(runs, scale, (("base", f"{scale}-base"), ("base + both", scale)))
    if name == "step_waterfall":
        return benches.waterfall(project_root() / "data" / "results" / "bench")
    if name != "evaluation_memory":
        raise UserError(f"no figure named {name} is made of records")
    if not (project_root() / MEMORY).is_file():
        raise NotMeasured("there is no record of `wsss bench memory`")
    return figures.evaluation_memory(read_json(project_root() / MEMORY))
