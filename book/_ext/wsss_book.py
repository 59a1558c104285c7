"""What the book adds to Sphinx: numbers, tables and figures from records, and pages that need no network.

    {result}`mini/mini#segmentation.miou`               mean over seeds, with deviation, from data/results
    {result}`mini/mini/0#images:,`                      one seed; any field of the record; a format after the colon
    {tested}`D5`                                        a badge with the names of the tests of deviation D5
    {tested}`test_name`                                 the same for one test
    {result}`published#segmentation/ToCo/voc_val`       a number of the literature, from data/published
    ```{results-table} headline                         a table of wsss.report.tables; :commands: links its commands
    ```{results-figure} published_curves                a figure of wsss.report.figures
    ```{results-figure} cam_figures#2                   the third picture of an executed notebook
    ```{verdict}                                        the reader's own run beside the published one
    ```{bench-table}                                    measured steps; with `infer`, evaluations
    ```{cost-table} runs                                 estimates for the benchmarks (wsss.report.cost_tables)
    {printed}`words`                                    a link to the PDF of the book, if there is one

The site offers the data of a table or figure of records as CSV. A page that shows any of these is read again at every
build (Sphinx's `note_reread`), so that it is never older than its records. A missing number is a warning, which the
strict build turns into a failure. If WSSS_RUNS names a folder of runs, the pages of runs show its notebooks, and
`{verdict}` its verdict.
"""

import base64
import dataclasses
import html
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from wsss import stored  # noqa: E402  (the package may not be installed)
from wsss.paths import UserError, project_root, read_json  # noqa: E402
from wsss.report import cost_tables, evidence, records, speed, tables, verdict  # noqa: E402
from wsss.report.evidence import NotMeasured  # noqa: E402
from wsss.report.experiments import EXPERIMENTS  # noqa: E402
from wsss.report.picture import suffix  # noqa: E402
from wsss.report.table import Table  # noqa: E402
from wsss.tools.pdf import PDF  # noqa: E402

log = logging.getLogger(__name__)
MISSING = "n/a"
RECORDS = "records"
"""The page that lists all records; measured numbers link to it."""
FAULTS = (UserError, OSError, KeyError, IndexError, TypeError, ValueError)
"""Errors that are raised if a file, number, table or figure does not exist."""


def runs_folder() -> Path | None:
    """Return the folder of the reader's own runs, $WSSS_RUNS in the project; None if the book is built without."""
    return project_root() / os.environ["WSSS_RUNS"] if os.environ.get("WSSS_RUNS") else None


def notebook_path(name: str) -> Path:
    """Return the executed notebook that the page runs/NAME shows: the reader's own if there is one."""
    folder = runs_folder()
    path = folder / "notebooks" / f"{name}.ipynb" if folder else None
    return path if path and path.is_file() else project_root() / "book" / "runs" / f"{name}.ipynb"


# Numbers and names in the text.


def record_id(name: str) -> str:
    """Return the id of the place in the table of records where the variant of DATASET/VARIANT/SEED begins."""
    return nodes.make_id("record-" + "/".join(map(stored.current_variant, name.split("/")[:2])))


class ResultRole(SphinxRole):
    """{result}: a number with its origin as a tooltip."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_reread()
        try:
            text, origin = tables.number(self.text)
        except FAULTS as error:
            log.warning("result %s: %s", self.text, error, location=self.get_location(), type="wsss", subtype="result")
            text, origin = MISSING, "no such result"
        number = nodes.abbreviation(text, text, explanation=origin, classes=["wsss-result"])
        if origin.startswith(("printed by others", "a guess")) or RECORDS not in self.env.found_docs:
            return [number], []
        uri = self.env.app.builder.get_relative_uri(self.env.docname, RECORDS)
        place = record_id(self.text.partition("#")[0])
        return [nodes.reference("", "", number, internal=True, refuri=f"{uri}#{place}")], []


class TestedRole(SphinxRole):
    """{tested}: a badge with the names of the tests of a deviation, test_D5_... for D5, or of one test."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_reread()
        name = self.text if self.text.startswith("test_") else rf"test_{self.text}_\w+"
        pattern = re.compile(rf"^def ({name})\(", re.MULTILINE)
        files = sorted((project_root() / "tests").glob("test_*.py"))
        tests = [f"{f.name}::{test}" for f in files for test in pattern.findall(f.read_text(encoding="utf-8"))]
        if not tests:
            log.warning("there is no test %s", name, location=self.get_location(), type="wsss", subtype="test")
        text = (f"{len(tests)} tests" if len(tests) > 1 else "tested") if tests else MISSING
        badge = nodes.abbreviation("", text, explanation="; ".join(tests), classes=["wsss-tested"])
        return [badge], []


class PrintedRole(SphinxRole):
    """{printed}: a link to the PDF on the landing page, where the site holds one; nothing in the PDF itself."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_reread()
        there = (project_root() / PDF).is_file() and self.env.app.builder.name == "html"
        return [nodes.reference("", self.text, refuri=Path(PDF).name)] if there else [], []


# Tables.


def table_node(table: Table, caption: Sequence[nodes.Node]) -> list[nodes.Node]:
    """Return a captioned table and its note."""
    node = nodes.table("", nodes.title("", "", *caption), classes=["wsss-table"])
    group = nodes.tgroup(cols=len(table.columns))
    group += [nodes.colspec(colwidth=1) for _ in table.columns]
    head, body = nodes.thead(), nodes.tbody()
    head += _row(table.columns)
    body += [_row(line) for line in table.rows]
    group += [head, body]
    node += group
    note = nodes.paragraph("", "", *_code(table.note), classes=["wsss-note"])
    return [node, note] if table.note else [node]


def _row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *_cell(cell))) for cell in cells))


def _cell(text: str) -> list[nodes.Node]:
    """Return a command or a setting as code. Other text may break between the parts that WHOLE finds, not in them."""
    if text.startswith(("wsss ", "torchrun ", "--")):
        return [nodes.literal(text, text)]
    parts = WHOLE.split(text)
    if len(parts) == 1 and len(text) <= SHORT:
        parts = ["", text]
    whole = {"classes": ["wsss-whole"]}
    return [nodes.inline(part, part, **whole) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


MACHINES = re.compile(r"\bProcessors: .*?\.(?= [A-Z]|$)")
"""The sentence of a note that is shown only behind the "i" below the table."""
SHORT = len("40.0 (1 seed)")
"""Cells of at most this many letters do not break."""
WHOLE = re.compile(r"(\S+ ± \S+|\[[^]]+\]|\(\d+ seeds?\))")


def _code(text: str) -> list[nodes.Node]:
    """Turn the parts of a text in backticks into code."""
    return [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


class Captioned(SphinxDirective):
    """Base of the directives below: a caption, a name for references, and a sentence in place of an exception."""

    required_arguments = 1
    option_spec = {"caption": directives.unchanged, "name": directives.unchanged, "alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        try:
            return self.show(self.arguments[0] if self.arguments else "")
        except NotMeasured as missing:
            return [nodes.paragraph("", "", *_code(f"Not measured yet: {missing}."))]
        except FAULTS as error:
            place = (self.env.docname, self.lineno)
            log.warning("%s: %s", self.name, error, location=place, type="wsss", subtype="result")
            return [nodes.paragraph("", f"{MISSING}: {error}")]

    def show(self, name: str) -> list[nodes.Node]:
        """Return the nodes of the thing with this name. Raises NotMeasured or one of FAULTS."""
        raise NotImplementedError

    def caption(self, otherwise: str) -> Sequence[nodes.Node]:
        """Return the parsed :caption:, or `otherwise` if there is none."""
        return self.state.inline_text(self.options.get("caption", otherwise), self.lineno)[0]

    def named(self, node: nodes.Element) -> nodes.Element:
        """Give the node the directive's name, for references, and return it."""
        self.set_source_info(node)
        self.add_name(node)
        return node

    def table(self, table: Table) -> list[nodes.Node]:
        """Return a table, its note, and a line that names the records it is made of."""
        machines = " ".join(MACHINES.findall(table.note))
        shown = dataclasses.replace(table, note=MACHINES.sub("", table.note).strip())
        node, *note = table_node(shown, self.caption(table.title))
        name = "-".join([self.name.removesuffix("-table"), *self.arguments])
        origin = f"{records.origin(table.records)} {machines}".strip()
        return [self.named(node), *note, *self.origin_line(origin, name, table.csv())]

    def origin_line(self, text: str, name: str = "", data: str = "") -> list[nodes.Node]:
        """Return the line below a table or figure: its origin, and on the site a link to its `data` as NAME.csv."""
        line = nodes.paragraph("", text, classes=["wsss-origin"])
        if data and self.env.app.builder.name == "html":  # the PDF has no files beside it
            link = nodes.inline("", "Data as CSV")
            path = self.made(f"{name}.csv", data.encode())
            line += [nodes.Text(" " * bool(text)), addnodes.download_reference("", "", link, reftarget=path)]
            line[-1]["refdoc"] = self.env.docname
        return [line] if line.children else []

    def made(self, name: str, content: bytes) -> str:
        """Write a file that the page shows or offers to _build/figures; return its path relative to the page."""
        path = ROOT / "_build" / "figures" / re.sub(r"[^a-z0-9.]+", "-", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:  # else Sphinx reads other pages with it again
            path.write_bytes(content)
        return os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)


class ResultsTable(Captioned):
    """{results-table}: a table of `wsss.report.tables`, from published records. With :commands: PAGE, its commands link
    to PAGE, which says what they take."""

    option_spec = Captioned.option_spec | {"commands": directives.unchanged_required}

    def show(self, name: str) -> list[nodes.Node]:
        table = tables.build(name)
        shown = self.table(_measured(table, name) if name.removesuffix("-differences") in EXPERIMENTS else table)
        if name == "records":
            self._name_rows(shown[0])
            if self.env.app.builder.name == "html":  # the PDF has no files beside it
                self._open_records(shown[0])
        if "commands" in self.options:
            self._lead(shown[0], self.options["commands"])
        return shown

    def _name_rows(self, table: nodes.table) -> None:
        """Give the first record of each variant an id, so that numbers can link to it."""
        named: set[str] = set()
        for row in table.findall(nodes.row):
            name = record_id(row[0].astext())
            row["ids"] += {name} - named
            named.add(name)

    def _open_records(self, table: nodes.table) -> None:
        """Make the name of every record a link to its file."""
        page = Path(self.env.doc2path(self.env.docname))
        for row in table.findall(nodes.row):
            name = row[0][0]
            file = ROOT / "data" / "results" / f"{name.astext()}.json"
            if file.is_file():
                target = os.path.relpath(file, page.parent)
                name[:] = [addnodes.download_reference("", "", *name, reftarget=target, refdoc=self.env.docname)]

    def _lead(self, table: nodes.table, page: str) -> None:
        """Make every command of the table a link to the page."""
        if page not in self.env.found_docs:
            raise UserError(f"there is no page {page} for the commands of this table to link to")
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        for command in list(table.findall(nodes.literal)):
            command.replace_self(nodes.reference("", "", command.deepcopy(), internal=True, refuri=uri))


def _measured(table: Table, name: str) -> Table:
    """Keep the rows of an experiment that hold a number; the note names the others. If none does, show the command."""
    rows = tuple(row for row in table.rows if Table("", table.columns, (row,)).measured())
    if rows:
        return dataclasses.replace(table, rows=rows)
    command = f"wsss sweep {name.removesuffix('-differences')}"
    return Table(table.title, ("not run yet", "the command that runs it"), (("no record", command),))


class BenchTable(Captioned):
    """{bench-table}: steps and their phases, or evaluations; a sentence if none was measured."""

    required_arguments, optional_arguments = 0, 1

    def show(self, name: str) -> list[nodes.Node]:
        kind = name or "step"
        measured = speed.read(project_root() / "data" / "results" / "bench", kind)
        if not measured:
            raise NotMeasured(f"there is no record of `wsss bench {kind}`")
        first, *others = (make(measured) for make in speed.SPEED_TABLES[kind])
        more = [table for table in others if table.rows]  # older records lack the numbers of later tables
        return [*self.table(first), *(n for table in more for n in table_node(table, [nodes.Text(f"{table.title}.")]))]


class CostTable(Captioned):
    """{cost-table}: a table of estimates, from published times, counted operations and benches."""

    def show(self, name: str) -> list[nodes.Node]:
        if name not in cost_tables.COST_TABLES:
            raise UserError(f"there is no table {name}; there are {', '.join(cost_tables.COST_TABLES)}")
        folder = project_root() / "data" / "results" / "bench"
        measured = [bench for kind in speed.SPEED_TABLES for bench in speed.read(folder, kind)]
        return self.table(cost_tables.COST_TABLES[name](measured))


class Verdict(Captioned):
    """{verdict}: WSSS_RUNS/verdict.json as a table; a sentence if there is none."""

    required_arguments = 0

    def show(self, name: str) -> list[nodes.Node]:
        folder = runs_folder()
        if folder is None or not (folder / "verdict.json").is_file():
            text = "There is no run of yours to show: nothing has been run yet, or this is the published book."
            return [nodes.note("", nodes.paragraph("", text))]
        answer = read_json(folder / "verdict.json")
        outcome = ("All" if answer["passed"] else "Not all") + " judged numbers lie within the interval."
        date = f" Run on {answer['date']}." if "date" in answer else ""
        text = f"{outcome} {answer.get('reach', '')}".strip() + date
        table = verdict.table(answer["rows"])
        return [nodes.paragraph("", text), *table_node(table, self.caption(table.title))]


# Figures.

IMAGE = r'<img class="wsss-figure" alt="([^"]*)" src="data:image/(?:png|jpeg);base64,([^"]+)"'


class ResultsFigure(Captioned):
    """{results-figure}: a figure of records, or NOTEBOOK#2, the third picture of an executed notebook; with alternative
    text. A figure takes the page's own colours and fonts, and has a second form for a phone. With :strip:, a picture is
    cut into two halves on a phone. :strip: 12 says that titles take the first 12 % of its width; :cut: 45 that the cut
    lies at 45 %, not in the middle."""

    option_spec = Captioned.option_spec | {"strip": directives.percentage, "cut": directives.percentage}

    def show(self, name: str) -> list[nodes.Node]:
        if "#" in name:
            notebook = json.loads(notebook_path(name.partition("#")[0]).read_text(encoding="utf-8"))
            outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", []) if "data" in output]
            texts = ("".join(output["data"].get("text/html", "")) for output in outputs)
            pictures = [picture for text in texts for picture in re.findall(IMAGE, text)]
            alt, encoded = pictures[int(name.partition("#")[2])]
            alt, picture, data = html.unescape(alt), base64.b64decode(encoded), ""
            origin = records.notebook_origin(notebook["metadata"].get("wsss", {}))
            uri = self.made(f"{name}.{suffix(picture)}", picture)
            alt = self.options.get("alt", alt)
            strip = [f"wsss-{name}-{self.options[name]}" for name in ("strip", "cut") if name in self.options]
            strip += ["wsss-strip"] * bool(strip)
            image: nodes.Node = nodes.image(uri=uri, alt=alt, classes=["wsss-figure", *strip])
        else:
            drawn = evidence.build(name, records.published())
            drawn.alt = alt = self.options.get("alt", drawn.alt)
            data, origin, wide, phone = drawn.csv(), records.origin(drawn.records), drawn.svg(), drawn.stacked().svg()
            both = f'<div class="wsss-wide">{wide}</div><div class="wsss-phone">{phone}</div>'
            image = nodes.raw("", both, format="html")
        figure = nodes.figure("", image)
        figure += nodes.caption("", "", *self.caption(alt))
        return [self.named(figure), *self.origin_line(origin, name, data)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_config_value("wsss_runs", os.environ.get("WSSS_RUNS", ""), "env")  # a new value makes Sphinx read all pages
    app.add_role("result", ResultRole())
    app.add_role("tested", TestedRole())
    app.add_role("printed", PrintedRole())
    app.add_directive("results-table", ResultsTable)
    app.add_directive("results-figure", ResultsFigure)
    app.add_directive("verdict", Verdict)
    app.add_directive("bench-table", BenchTable)
    app.add_directive("cost-table", CostTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
