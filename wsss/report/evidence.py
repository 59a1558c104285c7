"""Figures of experiments, from records: gains, their possible causes, CAMs over training. No torch."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.lines import Line2D

from wsss.paths import UserError, project_root, read_json
from wsss.report import ablation, experiments, figures, records, speed
from wsss.report.experiments import Experiment
from wsss.report.figures import BLACK, PALETTE
from wsss.report.picture import Picture, compress
from wsss.report.records import Record
from wsss.report.statistics import interval_text, over_seeds, signed

_CAUSES = (
    ("CAM over-activation, %", "cam.over_activation"),
    ("CAM under-activation, %", "cam.under_activation"),
    ("difference of the layers' CAMs, %", "agreement.difference"),
    ("difference of their affinities, %", "agreement.affinity"),
    ("IoU of their labels, %", "agreement.label_iou"),
    ("redundancy of the subspaces, %", "subspaces.redundancy"),
)
"""Quantities that the modules act on: title and result."""
_MODULES = ("base + MSC", "base + CSA", "base + both")
_LANDING = {
    "voc-components": "VOC",
    "coco-components": "COCO",
    "voc-animals-components": "photographs, 12 blocks",
    "voc-animals-11-blocks": "photographs, 11 blocks",
    "mini-components": "drawn images",
}
"""Experiments in the figure of the modules -> its name for their images."""
_SPAN = 10
"""Least span of an axis of shares, in points."""


class NotMeasured(UserError):
    """There is no record to draw; the message names the command that makes one."""


def differences(experiment: Experiment, runs: Sequence[Record], *others: Experiment) -> Picture:
    """Draw a forest plot: how far each row lies above the row `against`, a panel for each primary endpoint.

    A dot is a seed; the diamond is the mean of the paired differences, with its 95 % t interval over seeds. With
    `others`, the lines are the modules of each experiment. If some rows reach far, the axis is compressed
    (`compress`), so that small differences stay visible. Raises NotMeasured if no pair of runs is on record.
    """
    lines = []
    for each in (experiment, *others):
        name = f"{each.title.partition(':')[0]}: " * bool(others)
        known = [line for line in ablation.compared(each, runs) if line.primary]
        lines += [(name + line.row, line) for line in known if not others or line.row in _MODULES]
    if not lines:
        raise NotMeasured(f"no pair of runs of {experiment.title} is on record; `wsss sweep` makes them")
    labels = list(dict.fromkeys(label for label, _ in lines))
    endpoints = sorted({line.endpoint for _, line in lines}, reverse=True)  # segmentation before CAM
    measured = {(label, line.endpoint) for label, line in lines}
    height = (0.5 + 0.3 * len(labels)) * len(endpoints) + 0.9
    picture, texts = Picture(figsize=(6.4, height), layout="constrained"), []
    panels = picture.subplots(len(endpoints), 1, squeeze=False, sharex=True)[:, 0]
    for axis, endpoint in zip(panels, endpoints, strict=True):
        axis.axvline(0, color="0.6", linewidth=1)
        for label, line in ((label, line) for label, line in lines if line.endpoint == endpoint):
            place, points, test = labels.index(label), line.points, over_seeds(line.points)
            seeds = ", ".join(str(first["seed"]) for first, _ in line.pairs)
            axis.plot(points, [place - 0.18] * len(points), "o", color=PALETTE[0], gid=f"{label}, seeds {seeds}")
            axis.plot([test.low, test.high], [place + 0.15] * 2, color=BLACK, gid=f"{label}, 95 % interval")  # or nan
            axis.plot([test.mean], [place + 0.15], "D", color=BLACK, markersize=5, gid=f"{label}, mean")
            axis.text(1.02, place, signed(test.mean), transform=axis.get_yaxis_transform(), va="center", fontsize=8)
            interval = f", 95 % {interval_text(test)}" if test.n > 1 else ""
            texts.append(f"{label}, {endpoint} {signed(test.mean)}{interval} ({test.n} seed{'s' * (test.n > 1)})")
        absent = [place for place, label in enumerate(labels) if (label, endpoint) not in measured]
        for place in absent:  # plain classification trains no decoder
            axis.text(0.02, place, "not measured", transform=axis.get_yaxis_transform(), va="center", fontsize=8)
        axis.set_title(f"{endpoint} mIoU", loc="left", fontsize=10)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_title("mean", loc="right", fontsize=8)
        axis.grid(axis="x", color="0.5", alpha=0.25, linewidth=0.6)
    grey = " (grey: compressed)" * compress(picture.axes)
    panels[-1].set_xlabel(f"points above {experiment.against}{grey}")
    dots = Line2D([], [], linestyle="", marker="o", color=PALETTE[0], label="a seed")
    mean = Line2D([], [], marker="D", markersize=5, color=BLACK, label="mean with 95 % interval over seeds")
    picture.legend_below([dots, mean])
    title = "modules" if others else experiment.title
    picture.alt = f"{title}, paired differences to {experiment.against} in points: {'; '.join(texts)}."
    picture.records = [record for _, line in lines for pair in line.pairs for record in pair]
    return picture


def causes(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Draw CAM mIoU over each possible cause, a panel each.

    A dot is a run of a seed that all rows have; colour and marker show its row. The mean over the runs of the same seed
    and device is subtracted from every value, so that no correlation comes from the seeds. Raises NotMeasured if no run
    of the experiment has the result.
    """
    groups = _measured(experiment, runs, "cam.miou_headline")
    picture, texts = Picture(figsize=(7.6, 5.2), layout="constrained"), []
    panels = picture.subplots(2, 3, sharey=True)
    for axis, (title, cause) in zip(panels.flat, _CAUSES, strict=True):
        known = [(label, run) for label, group in groups.items() for run in group if records.has(run, cause)]
        sizes = Counter(records.pairing_key(run) for _, run in known)  # a run without others would lie at zero
        known = [(label, run) for label, run in known if sizes[records.pairing_key(run)] > 1]
        x, y = (_less_seed_means([run for _, run in known], key) for key in (cause, "cam.miou_headline"))
        for place, label in enumerate(groups):
            chosen = [name == label for name, _ in known]
            axis.plot(x[chosen], y[chosen], linestyle="", label=label, **_look(place))
        if not known:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, fontsize=9)
            axis.set_xticks([])
        else:
            axis.locator_params(axis="x", nbins=5)
        if len(x) > 3 and x.std() > 0 and y.std() > 0:
            r = np.corrcoef(x, y)[0, 1]
            axis.set_title(f"correlation {r:+.2f}, {len(x)} runs", fontsize=8)
            texts.append(f"{title.removesuffix(', %')} {r:+.2f}")
        axis.set_xlabel(title, fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in panels[:, 0]:
        axis.set_ylabel("CAM mIoU, %", fontsize=9)
    picture.legend_below(panels[0, 0].get_lines())
    picture.suptitle("every value minus the mean over the runs of its seed", fontsize=9)
    picture.alt = f"{experiment.title}: CAM mIoU of every run over six causes, a panel each, minus the means of seeds. "
    picture.alt += f"Correlations: {'; '.join(texts) or 'too few runs to correlate'}."
    picture.records = sum(groups.values(), [])
    return picture


def _less_seed_means(runs: Sequence[Record], key: str) -> np.ndarray:
    """Subtract from each run's result at `key` the mean over the runs of the same seed and device."""
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    for run in runs:
        values[records.pairing_key(run)].append(records.value(run, key))
    return np.array([records.value(run, key) - np.mean(values[records.pairing_key(run)]) for run in runs])


def coverage_bars(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Draw how much each row's CAM covers of the distinctive part of objects and of the rest, in percent.

    Bars are means over the seeds that all rows have, a dot is a seed. Raises NotMeasured if no run has the result.
    """
    groups = _measured(experiment, runs, "coverage.cam.part")
    picture, texts = Picture(figsize=(7, 0.9 + 0.45 * len(groups)), layout="constrained"), []
    axis = picture.subplots()
    for place, (label, group) in enumerate(groups.items()):
        for shift, part, colour in ((-0.2, "part", PALETTE[1]), (0.2, "rest", PALETTE[0])):
            shares = [records.value(record, f"coverage.cam.{part}") for record in group]
            axis.barh(place + shift, np.mean(shares), 0.36, color=colour, label=part if place == 0 else None)
            axis.plot(shares, [place + shift] * len(shares), "o", color=BLACK, markersize=4, gid=f"{label}, {part}")
            texts.append(f"{label}, {part} {np.mean(shares):.1f}")
    axis.set_yticks(range(len(groups)), groups)
    axis.invert_yaxis()
    axis.set(xlabel="covered by the CAM, %", xlim=(0, 100))
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    picture.alt = f"Share of the distinctive part and of the rest that the CAM covers, percent: {'; '.join(texts)}."
    picture.records = sum(groups.values(), [])
    return picture


def threshold_curves(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Draw headline mIoU over the background threshold: a panel for each layer, a line for each row.

    Lines are means over the seeds that all rows have, with a mark at the fixed threshold. Raises NotMeasured if no run
    of the experiment has a sweep.
    """
    groups = _measured(experiment, runs, "sweep.cam.miou_headline")
    picture, texts = Picture(figsize=(7.4, 4), layout="constrained"), []
    panels = picture.subplots(1, 2, sharey=True)
    colours = (*PALETTE[:-1], BLACK)  # a yellow line is hard to see on white
    for axis, (title, kind) in zip(panels, (("last layer's CAM", "cam"), ("aux layer's CAM", "aux_cam")), strict=True):
        for place, (label, group) in enumerate(groups.items()):
            levels = records.value(group[0], f"sweep.{kind}.thresholds")
            curve = np.mean([records.value(run, f"sweep.{kind}.miou_headline") for run in group], 0)
            fixed = levels.index(group[0]["protocol"]["background"])
            look = _look(place) | {"color": colours[place % len(colours)]}
            axis.plot(levels, curve, ("-", "--", "-.", ":")[place % 4], color=look["color"], label=label)
            axis.plot(levels[fixed], curve[fixed], **look, gid=f"{label}, fixed threshold")
            texts.append(f"{label}, {title} {curve[fixed]:.1f} at {levels[fixed]:g}, at best {curve.max():.1f}")
        axis.set(xlabel="background threshold", title=title, xlim=(0, 1))
        axis.set_ylim(0, None)
    panels[0].set_ylabel("mIoU, %")
    picture.legend_below(panels[0].get_lines()[::2])  # every second line is a mark
    picture.alt = f"{experiment.title}: mIoU over the background threshold, both layers. {'; '.join(texts)}."
    picture.records = sum(groups.values(), [])
    return picture


def extent(experiment: Experiment, runs: Sequence[Record]) -> Picture:
    """Draw the share of the objects that a CAM covers, over the share of the CAM that lies beside objects.

    If records separate an object's distinctive part from the rest, only the rest counts. A dot is a run; colour and
    marker show its row. A better CAM is further up and to the left. Raises NotMeasured if no run has the result.
    """
    parts = any(records.has(run, "coverage.cam.rest") for run in runs if run["dataset"] == experiment.dataset)
    groups = _measured(experiment, runs, "coverage.cam.rest" if parts else "cam.under_activation")
    picture, texts = Picture(figsize=(7, 4.4), layout="constrained"), []
    axis = picture.subplots()
    for place, (label, group) in enumerate(groups.items()):
        x = [records.value(run, "cam.over_activation") for run in group]
        if parts:
            y = [records.value(run, "coverage.cam.rest") for run in group]
        else:
            y = [100 - records.value(run, "cam.under_activation") for run in group]
        axis.plot(x, y, linestyle="", markersize=7, label=label, **_look(place))
        texts.append(f"{label} {np.mean(x):.1f} and {np.mean(y):.1f}")
    for bounds, widen in ((axis.get_xlim(), axis.set_xlim), (axis.get_ylim(), axis.set_ylim)):
        room = max(0, _SPAN - (bounds[1] - bounds[0])) / 2  # show close runs as close
        widen(bounds[0] - room, bounds[1] + room)
    axis.set_xlabel("of the CAM beside the objects (over-activation), %")
    axis.set_ylabel(f"of the objects{' beyond the part' if parts else ''} covered, %")
    picture.legend(loc="outside right center", fontsize=8, frameon=False)
    picture.alt = f"{experiment.title}: share of the CAM beside objects and of objects covered, percent, means by row: "
    picture.alt += f"{'; '.join(texts)}."
    picture.records = sum(groups.values(), [])
    return picture


def _measured(experiment: Experiment, runs: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """Return row -> its runs with a result at `key`, of the seeds that all rows have. Raises NotMeasured."""
    of_rows = ablation.groups_of(runs, experiment)
    pairs = zip(experiment.rows, of_rows, strict=True)
    groups = {row.label: [record for record in group if records.has(record, key)] for row, group in pairs}
    if not any(groups.values()):
        raise NotMeasured(f"no run of {experiment.title} is on record; `wsss sweep` makes them")
    if not ablation.share_draws(of_rows):  # means over different seeds or processors are not comparable
        raise NotMeasured(
            f"the rows of {experiment.title} share no seed on one processor; `wsss sweep` makes the missing runs"
        )
    return {label: group for label, group in groups.items() if group}


def _look(place: int) -> dict[str, str]:
    """Return colour and marker of a row; from the eighth row on the colours repeat, with other markers."""
    return {"color": PALETTE[place % 7], "marker": "osD^vP*Xh<>p"[place % 12], "markeredgecolor": "0.2"}


def over_training(runs: Sequence[Record], dataset: str, variants: Sequence[tuple[str, str]]) -> Picture:
    """Draw the quality of both layers' CAMs and their difference over the steps of a run.

    The panels show mIoU at the best threshold, pixel AUC and the mean difference. Each variant (label, name) is shown
    by its run with most validations. Raises NotMeasured if there is none.
    """
    chosen = [(label, _most_checked(runs, dataset, name)) for label, name in variants]
    picture, texts = Picture(figsize=(7.6, 3.6), layout="constrained"), []
    panels = picture.subplots(1, 3)
    titles = ("CAM mIoU, best threshold, %", "pixel AUC of the CAM, %", "difference of the CAMs, %")
    for place, (label, run) in enumerate(chosen):
        end = run["config"]["optim"]["steps"]
        rows = [row for row in run["validations"] if row["step"] < end]
        final = {name: records.value(run, name) for name in ("auc", "agreement")}  # the record's own, of the last step
        final["best"] = {kind: records.value(run, f"sweep.{kind}.best_headline") for kind in ("cam", "aux_cam")}
        steps, scores = [*(row["step"] for row in rows), end], [*(row["validation"] for row in rows), final]
        look = {"color": PALETTE[(0, 5)[place % 2]], "markersize": 5}
        for layer, kind, style in (("last layer", "cam", "o-"), ("aux layer", "aux_cam", "s--")):
            for axis, measure in zip(panels, ("best", "auc"), strict=False):
                y = [score[measure][kind] for score in scores]
                axis.plot(steps, y, style, label=f"{label}, {layer}", **look)
                texts.append(f"{label}, {layer}, {measure} {y[0]:.1f} to {y[-1]:.1f}")
        apart = [score["agreement"]["difference"] for score in scores]
        panels[2].plot(steps, apart, "^:", label=label, **look)
        texts.append(f"{label}, difference {apart[0]:.1f} to {apart[-1]:.1f}")
    for axis, title in zip(panels, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
    picture.legend_below([*panels[0].get_lines(), *panels[2].get_lines()])
    seeds = ", ".join(f"{label} seed {run['seed']}" for label, run in chosen)
    picture.alt = f"CAMs of both layers over training, {seeds}: {'; '.join(texts)}."
    picture.records = [run for _, run in chosen]
    return picture


def _most_checked(runs: Sequence[Record], dataset: str, variant: str) -> Record:
    def checks(run: Record) -> int:
        return sum("auc" in row["validation"] for row in run.get("validations", ()))

    known = [run for run in records.select(runs, dataset, variant) if checks(run) > 1]
    if not known:
        command = f"wsss train {variant} --validate_every .25"
        raise NotMeasured(f"no run of {variant} with several validations is on record; `{command}` makes one")
    return max(known, key=lambda run: (checks(run), -run["seed"]))


_OF_EXPERIMENTS = {"causes-": causes, "differences-": differences, "thresholds-": threshold_curves, "extent-": extent}
"""Figures of an experiment: prefix of the name -> function that draws it."""


def build(name: str, runs: Sequence[Record]) -> Picture:
    """Draw the figure of that name. Raises UserError for an unknown name, and NotMeasured without records."""
    bench = project_root() / "data" / "results" / "bench"
    for start, draw in _OF_EXPERIMENTS.items():
        if name.startswith(start):
            return draw(experiments.get(name.removeprefix(start)), runs)
    if name.startswith("over-training-"):
        scale = name.removeprefix("over-training-")
        return over_training(runs, scale, (("base", f"{scale}-base"), ("base + both", scale)))
    match name:
        case "modules":
            first, *others = (replace(experiments.get(each), title=title) for each, title in _LANDING.items())
            return differences(first, runs, *others)
        case "coverage_bars":
            return coverage_bars(experiments.get("mini-components"), runs)
        case "published_curves":
            return figures.published_curves()
        case "step_waterfall":
            return speed.waterfall(bench)
        case "evaluation_memory":
            if not (bench / "evaluation-memory.json").is_file():
                raise NotMeasured("there is no record of `wsss bench memory`")
            return figures.evaluation_memory(read_json(bench / "evaluation-memory.json"))
    raise UserError(f"no figure named {name} is made of records")
