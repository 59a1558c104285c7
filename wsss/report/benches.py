"""Measured times as tables, from the files of data/results/bench, each a line that `wsss bench` printed. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss.paths import UserError
from wsss.report.figures import BLACK, BLUE, ORANGE, Picture
from wsss.report.table import ABSENT, Table

Bench = dict[str, Any]


def read(folder: Path, kind: str = "step") -> list[Bench]:
    """What was measured by `wsss bench KIND`, in the order of the files' names. Raises UserError for a file that is no
    line of any bench, and for one of this kind that is not whole."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            if one["bench"] == kind:
                [table([one]) for table in TABLES[kind]]
                found.append(one | {"file": path.stem})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path.name} is not a line of wsss bench {kind} ({type(error).__name__}: {error})"
            ) from error
    return found


def name(one: Bench) -> str:
    """What was measured, in a few words: preset, backbone, crop, batch, type and options that are on."""
    words = [one["preset"], one["backbone"], f"crop {one['crop']}", f"batch {one['batch']}"]
    words += [f"in {one['accumulate']} parts"] * (one.get("accumulate", 1) > 1)
    words += [one["dtype"], *(option.replace("_", " ") for option in OPTIONS if one.get(option))]
    return ", ".join(words) + (f" ({one['note']})" if one.get("note") else "")


OPTIONS = ("activation_checkpointing", "compile")
MEASURES = {
    "s": lambda one: f"{one['seconds']:.2f}",
    "units": lambda one: f"{one['units']:.1f}",
    "GB": lambda one: f"{one['peak_memory_gb']:.1f}",
    "tokens forward": lambda one: f"{one['tokens']['forward']:,}",
    "tokens backward": lambda one: f"{one['tokens']['backward']:,}",
    "TFLOP": lambda one: f"{one['tflop']:.2f}",
    "utilisation": lambda one: f"{one['utilisation']:.0%}",
    "product, TFLOP/s": lambda one: f"{product_rate(one):.2f}",
    "s of one unit": lambda one: f"{one['gemm_seconds']:.3f}",
    "on": lambda one: f"{one['device']}, {one['threads']} threads",
}


def product_rate(one: Bench) -> float:
    """TFLOP/s of the matrix product in the step's own type, which the utilisation is over."""
    return one["tflop"] / one["seconds"] / one["utilisation"]


def steps_table(found: Sequence[Bench]) -> Table:
    """A row a step."""
    rows = tuple((name(one), *(show(one) for show in MEASURES.values())) for one in found)
    note = "product: matrices of 4,096 in the step's own type, in the same process; the unit is its time in float32."
    return Table("Training steps, measured", ("step", *MEASURES), rows, note)


def phases_table(found: Sequence[Bench]) -> Table:
    """A row a step, a column a phase, in units; phases in the order in which a step comes to them."""
    phases = tuple(dict.fromkeys(phase for one in found for phase in one["phases"]))
    rows = tuple((name(one), *(_units(one, phase) for phase in phases)) for one in found)
    note = "A wait for the energy's filter counts for the main pass, in newer rows for the other losses."
    return Table("The same steps by phases, in units", ("step", *phases), rows, note)


def _units(one: Bench, phase: str) -> str:
    return f"{one['phases'][phase] / one['gemm_seconds']:.2f}" if phase in one["phases"] else ABSENT


INFER = {
    "images a second": lambda one: f"{one['images_a_second']:.3f}",
    "s": lambda one: f"{one['seconds']:.1f}",
    "network, s": lambda one: f"{one['phases']['network']:.1f}",
    "resizing, reading, s": lambda one: f"{one['phases']['resizing'] + one['phases']['reading and softmax']:.1f}",
    "waiting for CRF, s": lambda one: f"{one['phases']['crf']:.1f}",
    "CRF, core seconds": lambda one: f"{one['crf_seconds']:.1f}",
    "TFLOP": lambda one: f"{one['tflop']:.1f}",
    "ratio": lambda one: f"{one['ratio']:.2f}",
    "GB": lambda one: f"{one['peak_memory_gb']:.1f}",
    "s of one unit": lambda one: f"{one['gemm_seconds']:.3f}",
    "on": lambda one: f"{one['device']}, {one['threads']} threads, {one['workers']} CRF workers",
}


def infer_table(found: Sequence[Bench]) -> Table:
    """A row an evaluation."""

    def words(one: Bench) -> str:
        more = f" ({one['note']})" if one.get("note") else ""
        return f"{one['images']} of {one['width']}x{one['height']}, {one['protocol']}, {one['backbone']}, " + (
            one["dtype"] + more
        )

    rows = tuple((words(one), *(show(one) for show in INFER.values())) for one in found)
    return Table("Evaluations, measured", ("photographs", *INFER), rows)


TABLES = {"step": (steps_table, phases_table), "infer": (infer_table,)}
"""Of each bench; the caption is the first one's."""


WATERFALL = (
    ("the base's step, float32", "base-float32"),
    ("each pass of the encoder once; refinement by look-ups", "voc-toco-float32-pooled-crops"),
    ("crops by running sums; unfused attention for few tokens", "voc-toco-float32-unfused"),
    ("freed memory kept; AdamW fused; view 2 beside view 1", "voc-toco-float32"),
    ("bfloat16 (its freed memory given back)", "voc-toco-bfloat16-given-back"),
    ("freed memory kept; AdamW fused", "voc-toco-bfloat16-convolution"),
    ("patches as a linear layer; view 2 beside view 1", "voc-toco-bfloat16"),
    ("the same on a GPU", "voc-toco-bfloat16-gpu"),
)
"""Bars of the waterfall from top to bottom, and the records that they are made of."""


def waterfall(folder: Path) -> Picture:
    """Units of a step of the base, of ours after each group of changes, and of its operations alone; a bar without a
    record says so."""
    files = {name: folder / f"{name}.json" for _, name in WATERFALL}
    known = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    picture, told, before = Picture(figsize=(9, 4.2), layout="constrained"), [], None
    axis = picture.subplots()
    for row, (label, name) in enumerate(WATERFALL):
        if name not in known:
            axis.text(1, row, "not measured", va="center", style="italic", color="0.35")
            told.append(f"{label}: not measured")
            continue
        units = known[name]["units"]
        if before is not None and before > units:
            axis.barh(row, before - units, left=units, color="0.85")
        axis.barh(row, units, color=BLUE if known[name]["dtype"] == "float32" else ORANGE)
        axis.text(max(units, before or 0) + 1, row, f"{units:.1f}", va="center")
        told.append(f"{label}: {units:.1f}")
        before = units
    last = known[WATERFALL[-2][1]]
    floor = last["tflop"] / product_rate(last) / last["gemm_seconds"]
    axis.axvline(floor, color=BLACK, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(WATERFALL)), [label for label, _ in WATERFALL])
    axis.set(xlabel="units: products of two 4,096 x 4,096 matrices in float32", ylim=(len(WATERFALL) - 0.5, -0.5))
    axis.margins(x=0.1)
    picture.alt = (
        f"Units of a training step, bar by bar: {'; '.join(told)}. The operations alone, in bfloat16: {floor:.1f}."
    )
    return picture
