"""The gate before days on GPUs: the base's log, how far a run may lie off it, what a failure can mean. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path

from wsss.paths import UserError
from wsss.report.literature import published_rows
from wsss.report.table import ABSENT, Table

LOGS = {"voc-toco": ("voc", "vit-b"), "voc-deit-toco": ("voc", "deit-b")}
"""Preset -> data set and backbone of its log in data/published/toco_logs.csv."""
_EVALUATIONS = 2
"""The gate ends with the second evaluation of the log: steps 2,000 and 4,000 of 20,000."""
TITLES = {"cam": "CAM", "aux_cam": "aux CAM", "segmentation": "segmentation"}
"""Quantities of the log and the gate -> their names in tables."""
SLACK = 5.0
"""Points of mean IoU by which a right run may differ from the log.

Chosen before any run of ours on VOC. The log is one run of one seed, and so is the gate. In their second half the
base's four logs scatter by .2 to 1.1 points around a straight line through the neighbouring evaluations. Early in a run
seeds differ more: on our drawn set, with a tenth of the images, by 1 to 4.5 points in mid-training (standard deviation
over three seeds). If it is 1 point at VOC's size, 5 points are 3.5 standard deviations of the difference of two runs.
A right run may also be 500 steps ahead of a log that still climbs, or behind it: what the log gains in so many steps is
added. Faults that cost less than the slack pass; only whole runs with several seeds show them."""
_AHEAD = 500
"""Steps that a right run may be ahead or behind (see SLACK)."""
IRRELEVANT = {
    *("optim.accumulate", "optim.bfloat16", "model.compile", "model.activation_checkpointing", "model.fused_from"),
    "model.checkpoint",
}
"""Settings that a run may change and still be judged: how a step is computed, and where the same start weights lie."""
_COLUMNS = ("step of 20,000", "mIoU of", "base's log", "bounds", "this run", "verdict")
CAUSES = {
    "low: cam aux_cam": "both CAMs are low: start weights, normalisation of images, image labels or learning rate; "
    "segmentation learns from them and tells nothing more",
    "low: cam": "the aux CAM is right and the last CAM low: patch and class token contrast, which act on the last "
    "block's tokens, the thresholds that make their labels, or the crops",
    "low: aux_cam": "the last CAM is right and the aux CAM low: the aux classifier or its block (two before the last)",
    "low: segmentation": "the CAMs are right and segmentation low: pixel labels (thresholds, refinement by PAR), the "
    "energy and its dense CRF filter, or the decoder and its rate",
    "early": "segmentation is better than an untrained decoder before its start: the schedule",
    "high": "a number is high: other photographs or masks than VOC's, other start weights, or another schedule",
}
"""Kind of failure -> its possible causes."""


@dataclass(frozen=True)
class GateRow:
    """A number of the base's log, the bounds of the gate, and our number (NaN if undefined)."""

    step: int
    kind: str
    published: float
    low: float
    high: float
    measured: float = math.nan

    @property
    def state(self) -> str:
        """Return low, right or high; NaN is low."""
        return "high" if self.measured > self.high else "right" if self.measured >= self.low else "low"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        ours = ABSENT if math.isnan(self.measured) else f"{self.measured:.1f}"
        bounds = f"{self.low:.1f} to {self.high:.1f}"
        return f"{self.step:,}", TITLES[self.kind], f"{self.published:.1f}", bounds, ours, self.state


def rows(preset: str) -> tuple[list[GateRow], int]:
    """Return the rows of a preset's gate, with nothing measured, and the steps of the base's whole run. Raises
    UserError."""
    if preset not in LOGS:
        raise UserError(f"--gate compares with the base's log, but {preset} has none; use it with {', '.join(LOGS)}")
    dataset, backbone = LOGS[preset]
    log = [r for r in published_rows("toco_logs") if (r["dataset"], r["backbone"]) == (dataset, backbone)]
    means = {int(r["step"]): r for r in log if r["class"] == "mIoU"}
    constant = 100 / (len({r["class"] for r in log}) - 1)  # one class everywhere reaches no more; mIoU is no class
    steps, made = sorted(means), []
    for step, after in zip(steps[:_EVALUATIONS], steps[1:], strict=False):
        for kind in TITLES:
            value, later = float(means[step][kind]), float(means[after][kind])
            slack = SLACK + abs(later - value) * _AHEAD / (after - step)
            bounds = (0.0, constant) if value < constant else (value - slack, value + slack)
            made.append(GateRow(step, kind, value, *bounds))
    return made, steps[-1]


def verdict(judged: list[GateRow]) -> tuple[bool, list[str]]:
    """Return whether every number lies within its bounds, and possible causes, from the last evaluation that fails."""
    failed = [row for row in judged if row.state != "right"]
    if not failed:
        return True, ["every number lies within its bounds: run the command again without --gate to continue"]
    at_last = [row for row in failed if row.step == failed[-1].step]
    low = {row.kind for row in at_last if row.state == "low"}
    causes = [CAUSES["early"]] * any(row.low == 0 and row.state == "high" for row in failed)
    if {"cam", "aux_cam"} <= low:
        causes.append(CAUSES["low: cam aux_cam"])
    elif low:
        causes += [CAUSES[f"low: {kind}"] for kind in TITLES if kind in low]
    causes += [CAUSES["high"]] * any(row.low > 0 and row.state == "high" for row in failed)
    if failed[-1].step < judged[-1].step:
        causes.append("only the first evaluation fails: the warm-up, or a seed that learns early or late (try another)")
    return False, causes


def bounds_table() -> Table:
    """Tabulate *step | mIoU of | base's log | bounds* of voc-toco, with nothing measured."""
    cells = tuple(row.cells()[:4] for row in rows("voc-toco")[0])
    note = f"Bounds: {SLACK:.0f} points to either side of the log, plus the log's gain there in {_AHEAD} steps. A "
    note += "decoder that has not learnt yet must stay below 100 / 21, the most that one class everywhere can reach."
    return Table("The gate of voc-toco", _COLUMNS[:4], cells, note)


def verdict_table(judged: list[GateRow], passed: bool | None, causes: list[str], path: Path) -> Table:
    """Tabulate the numbers beside the log's; the title has the verdict, the note the record's path."""
    cells = tuple(row.cells() if passed is not None else (*row.cells()[:5], ABSENT) for row in judged)
    title = {None: "Gate: not judged", True: "Gate: passed", False: "Gate: FAILED"}[passed]
    return Table(title, _COLUMNS, cells, "\n".join([*causes, f"record: {path}"]))
