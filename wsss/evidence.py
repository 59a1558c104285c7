"""Figures of experiments, from records: what a gain may come from, and CAMs over training. No torch."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn
from matplotlib import lines
from matplotlib.axes import Axes

from wsss import ablation, results
from wsss.experiments import Experiment
from wsss.figures import PALETTE, Picture
from wsss.paths import UserError
from wsss.results import Record

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


def causes(experiment: Experiment, records: Sequence[Record], key: str = "cam.miou_headline") -> Picture:
    """A panel for each cause, with the result at `key` over it: a dot a run, a colour and marker a row; the seeds
    that all rows have.

    Every value is less its mean over the runs of the same seed and device, so that what a seed brings to all rows is
    neither seen nor correlated. Raises NotMeasured if no run of the experiment has the result.
    """
    groups = _measured(experiment, records, key)
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
    return picture


def _scatter(axis: Axes, groups: dict[str, list[Record]], cause: str, key: str) -> tuple[list[float], list[float]]:
    """Draw the runs that have the cause, where another of their seed has it; returns its values and the result's."""
    runs = [(label, run) for label, group in groups.items() for run in group if results.has(run, cause)]
    sizes = Counter(results.draw(run) for _, run in runs)
    known = [(label, run) for label, run in runs if sizes[results.draw(run)] > 1]
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
        values[results.draw(run)].append(results.value(run, key))
    return [results.value(run, key) - float(np.mean(values[results.draw(run)])) for run in runs]


def coverage_bars(experiment: Experiment, records: Sequence[Record]) -> Picture:
    """Share of the distinctive part and of the rest of objects that each row's CAM covers, in percent: mean over the
    seeds that all rows have, a dot a seed.

    Raises NotMeasured if no run of the experiment has it.
    """
    groups = _measured(experiment, records, "coverage.cam.part")
    shown = [(label, group) for label, group in groups.items() if group]
    picture, said = Picture(figsize=(7, 0.9 + 0.45 * len(shown)), layout="constrained"), []
    axis = picture.subplots()
    for place, (label, group) in enumerate(shown):
        for shift, part, colour in ((-0.2, "part", PALETTE[1]), (0.2, "rest", PALETTE[0])):
            shares = [results.value(record, f"coverage.cam.{part}") for record in group]
            axis.barh(place + shift, np.mean(shares), 0.36, color=colour, label=part if place == 0 else None)
            axis.plot(shares, [place + shift] * len(shares), "o", color="black", markersize=4)
            said.append(f"{label}, {part} {np.mean(shares):.1f}")
    axis.set_yticks(range(len(shown)), [label for label, _ in shown])
    axis.invert_yaxis()
    axis.set(xlabel="covered by the CAM, %", xlim=(0, 100))
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    picture.alt = f"Share of the distinctive part and of the rest that the CAM covers, percent: {'; '.join(said)}."
    return picture


def _measured(experiment: Experiment, records: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """For each row its runs that have the result at `key`, of the seeds that all rows have; NotMeasured if none has."""
    pairs = zip(experiment.rows, ablation.groups_of(records, experiment), strict=True)
    groups = {row.label: [record for record in group if results.has(record, key)] for row, group in pairs}
    if not any(groups.values()):
        raise NotMeasured(f"no run of {experiment.title} is on record; `wsss sweep` makes them")
    return groups


def palette(count: int) -> list[str]:
    """Colours of so many rows; beyond seven they come again, with other markers."""
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


LAYERS = (("last layer", "cam", PALETTE[0], "o-"), ("aux layer", "aux_cam", PALETTE[5], "s--"))


def over_training(records: Sequence[Record], dataset: str, variants: Sequence[tuple[str, str]]) -> Picture:
    """CAM mIoU of both layers, and how far they lie apart, over the steps of a run: a column for each variant (label,
    name), lists in rows: the validation list and those that the run watched.

    The run is the variant's one with most validations. Raises NotMeasured if there is none.
    """
    runs = [(label, _most_checked(records, dataset, name)) for label, name in variants]
    lists = ["validation", *sorted({name for _, run in runs for row in run["validations"] for name in _lists(row)})]
    picture, said = Picture(figsize=(4.6 * len(runs), 2.6 * len(lists) + 0.6), layout="constrained"), []
    panels = picture.subplots(len(lists), len(runs), squeeze=False, sharex=True, sharey=True)
    for panel_row, name in zip(panels, lists, strict=True):
        for axis, (label, run) in zip(panel_row, runs, strict=True):
            said.append(_progress(axis, label, name, run))
    for axis in panels[-1]:
        axis.set_xlabel("step")
    for panel_row, name in zip(panels, lists, strict=True):
        panel_row[0].set_ylabel(f"{'val' if name == 'validation' else name}, %")
    picture.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    picture.alt = f"CAM mIoU of the last and the aux layer over training. {' '.join(said)}"
    return picture


def _lists(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row.get("watched", {}))


def _most_checked(records: Sequence[Record], dataset: str, variant: str) -> Record:
    own = results.select(records, dataset, variant)
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
