"""Measured times as tables, from data/results/bench/*.json, each a line that `wsss bench` printed: ```{bench-table}```
shows training steps, ```{bench-table} infer``` evaluations. ```{gpu-table} runs``` is a table of `wsss.gpu`, whose
estimates take such lines, too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from wsss_book import ROOT, Captioned, depend, table_node

from wsss import gpu
from wsss.paths import UserError
from wsss.table import ABSENT, Table

FOLDER = "data/results/bench"
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
    "s of one unit": lambda one: f"{one['gemm_seconds']:.3f}",
    "on": lambda one: f"{one['device']}, {one['threads']} threads",
}


def steps_table(found: Sequence[Bench]) -> Table:
    """A row a step."""
    rows = tuple((name(one), *(show(one) for show in MEASURES.values())) for one in found)
    return Table("Training steps, measured", ("step", *MEASURES), rows)


def phases_table(found: Sequence[Bench]) -> Table:
    """A row a step, a column a phase, in units; phases in the order in which a step comes to them."""
    phases = tuple(dict.fromkeys(phase for one in found for phase in one["phases"]))
    rows = tuple((name(one), *(_units(one, phase) for phase in phases)) for one in found)
    note = "Where the filter of the energy is waited for, the wait counts for the main pass."
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


class BenchTable(Captioned):
    """{bench-table}: steps and their phases, or evaluations; a sentence where none was measured."""

    required_arguments, optional_arguments = 0, 1

    def run(self) -> list[nodes.Node]:
        depend(self.env, f"{FOLDER}/*.json")
        kind = self.arguments[0] if self.arguments else "step"
        try:
            found = read(ROOT / FOLDER, kind)
        except (UserError, OSError) as error:
            return self.failed(error)
        if not found:
            return [nodes.paragraph("", f"Not measured yet: there is no record of `wsss bench {kind}`.")]
        first, *more = (table(found) for table in TABLES[kind])
        shown = table_node(first, self.caption(first.title))
        self.set_source_info(shown[0])
        self.add_name(shown[0])
        return [*shown, *(node for table in more for node in table_node(table, [nodes.Text(f"{table.title}.")]))]


class GpuTable(Captioned):
    """{gpu-table}: a table of the page 'On a GPU', from published times, counted operations and benches."""

    def run(self) -> list[nodes.Node]:
        for pattern in (f"{FOLDER}/*.json", "data/published/*.csv"):
            depend(self.env, pattern)
        try:
            benches = [one for kind in TABLES for one in read(ROOT / FOLDER, kind)]
            if self.arguments[0] not in gpu.TABLES:
                raise UserError(f"there is no table {self.arguments[0]}; there are {', '.join(gpu.TABLES)}")
            table = gpu.TABLES[self.arguments[0]](benches)
        except (UserError, OSError) as error:
            return self.failed(error)
        shown = table_node(table, self.caption(table.title))
        self.set_source_info(shown[0])
        self.add_name(shown[0])
        return shown


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("bench-table", BenchTable)
    app.add_directive("gpu-table", GpuTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
