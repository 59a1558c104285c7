"""Measured steps as tables: ```{bench-table}``` of data/results/bench/*.json, each what `wsss bench step` printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from wsss_book import ROOT, Captioned, depend, table_node

from wsss.paths import UserError
from wsss.table import ABSENT, Table

FOLDER = "data/results/bench"
Bench = dict[str, Any]


def read(folder: Path) -> list[Bench]:
    """The steps measured, in the order of their files' names. Raises UserError for a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            steps_table([one]), phases_table([one])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path.name} is not a line of wsss bench step ({type(error).__name__}: {error})"
            ) from error
        found.append(one)
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


class BenchTable(Captioned):
    """{bench-table}: steps and their phases; a sentence where none was measured."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        depend(self.env, f"{FOLDER}/*.json")
        try:
            found = read(ROOT / FOLDER)
        except (UserError, OSError) as error:
            return self.failed(error)
        if not found:
            return [nodes.paragraph("", "Not measured yet: there is no record of a step.")]
        steps, phases = steps_table(found), phases_table(found)
        shown = table_node(steps, self.caption(steps.title))
        self.set_source_info(shown[0])
        self.add_name(shown[0])
        return [*shown, *table_node(phases, [nodes.Text(f"{phases.title}.")])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("bench-table", BenchTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
