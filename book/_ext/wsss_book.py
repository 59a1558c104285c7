"""What the book adds to Sphinx: numbers, tables and figures from records, and pages that need no network.

    {result}`mini/mini#segmentation.miou`               mean over seeds, with deviation, from data/results
    {result}`mini/mini/0#images:,`                      one seed; any field of the record; a format after the colon
    {tested}`D5`                                        the names of the tests of deviation D5
    {tested}`test_name`                                 that test, with its file
    {result}`published#segmentation/ToCo/voc_val`       a number of the literature, from data/published
    ```{results-table} headline                         a table of wsss.report.tables; :commands: links its commands
    ```{results-figure} published_curves                a figure of wsss.report.figures
    ```{results-figure} cam_figures#2                   the third picture of an executed notebook
    ```{verdict}                                        the reader's own run beside the published one
    ```{bench-table}                                    measured steps, or `infer`: evaluations
    ```{gpu-table} runs                                 a table of wsss.report.gpu: estimates for the benchmarks
    {printed}`words`                                    a link to the PDF of the book, where there is one

What they show is made by `wsss.report.elements`; a page is read again when that changes (wsss_fresh). A missing number
is a warning, which the strict build turns into a failure. With WSSS_RUNS set to a folder of runs, the pages of
runs show that folder's notebooks, and `{verdict}` its verdict.
"""

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

from wsss_fresh import show  # noqa: E402  (the package may not be installed)

from wsss import stored  # noqa: E402
from wsss.report.elements import FAULTS, PDF  # noqa: E402
from wsss.report.evidence import NotMeasured  # noqa: E402
from wsss.report.figures import suffix  # noqa: E402
from wsss.report.table import Table  # noqa: E402

log = logging.getLogger(__name__)
MISSING = "n/a"
RECORDS = "records"
"""The page that lists all records; measured numbers lead to it."""

# Numbers.


def record_id(name: str) -> str:
    """Where the table of records has the first one of DATASET/VARIANT/SEED's variant."""
    return nodes.make_id("record-" + "/".join(map(stored.current_variant, name.split("/")[:2])))


class ResultRole(SphinxRole):
    """{result}: a number with its origin as a tooltip."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            text, origin = show(self.env, "number", self.text)
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
    """{tested}: the tests of a deviation, which are those named test_D5_... for D5; or one test by its whole name."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            found = show(self.env, "tests", self.text)
        except FAULTS as error:
            log.warning("%s", error, location=self.get_location(), type="wsss", subtype="test")
            found = (MISSING,)
        return [node for name in found for node in (nodes.literal(name, name), nodes.Text(" "))], []


class PrintedRole(SphinxRole):
    """{printed}: a link to the PDF on the landing page, where the site holds one; nothing in the PDF itself."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        there = show(self.env, "pdf", PDF) and self.env.app.builder.name == "html"
        return [nodes.reference("", self.text, refuri=Path(PDF).name)] if there else [], []


# Tables.


def table_node(table: Table, caption: Sequence[nodes.Node]) -> list[nodes.Node]:
    """A captioned table and its note."""
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
    """A command as code; else text that breaks between the parts that WHOLE finds, not within them."""
    if text.startswith(("wsss ", "torchrun ")):
        return [nodes.literal(text, text)]
    parts = ["", text] if len(text) <= SHORT else WHOLE.split(text)
    whole = {"classes": ["wsss-whole"]}
    return [nodes.inline(part, part, **whole) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]


SHORT = len("40.0 (1 seed)")
WHOLE = re.compile(r"(\S+ ± \S+|\[[^]]+\]|\(\d+ seeds?\))")


def _code(text: str) -> list[nodes.Node]:
    """Text with `code` in it."""
    return [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


def not_measured(missing: NotMeasured) -> list[nodes.Node]:
    """Words in the place of what nobody has measured."""
    return [nodes.paragraph("", "", *_code(f"Not measured yet: {missing}."))]


class Captioned(SphinxDirective):
    """Base of the directives below: a caption, a name to refer to, and warnings in place of exceptions."""

    required_arguments = 1
    option_spec = {"caption": directives.unchanged, "name": directives.unchanged, "alt": directives.unchanged}

    def caption(self, otherwise: str) -> Sequence[nodes.Node]:
        """Parsed :caption:, else the given words."""
        return self.state.inline_text(self.options.get("caption", otherwise), self.lineno)[0]

    def origin(self, words: str) -> list[nodes.Node]:
        """The line under a table or figure that says where it comes from; none where there is nothing to say."""
        return [nodes.paragraph("", words, classes=["wsss-origin"])] if words else []

    def failed(self, error: Exception) -> list[nodes.Node]:
        """A warning, and words on the page."""
        place = (self.env.docname, self.lineno)
        log.warning("%s: %s", self.name, error, location=place, type="wsss", subtype="result")
        return [nodes.paragraph("", f"{MISSING}: {error}")]


class ResultsTable(Captioned):
    """{results-table}: a table of `wsss.report.tables`, of published records. With :commands: PAGE its commands lead
    to the page that says what they take."""

    option_spec = Captioned.option_spec | {"commands": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        try:
            table, origin = show(self.env, "table", self.arguments[0])
        except FAULTS as error:
            return self.failed(error)
        found = table_node(table, self.caption(table.title))
        if self.arguments[0] == "records":
            self._name_rows(found[0])
            if self.env.app.builder.name == "html":  # the PDF has no files beside it
                self._open_records(found[0])
        if "commands" in self.options:
            self._lead(found[0], self.options["commands"])
        self.set_source_info(found[0])
        self.add_name(found[0])
        return [*found, *self.origin(origin)]

    def _name_rows(self, table: nodes.table) -> None:
        """Let numbers lead to the first record of their variant."""
        named: set[str] = set()
        for row in table.findall(nodes.row):
            name = record_id(row[0].astext())
            row["ids"] += {name} - named
            named.add(name)

    def _open_records(self, table: nodes.table) -> None:
        """Make the name of every record a link to its file."""
        page = Path(self.env.doc2path(self.env.docname))
        for row in table.findall(nodes.row):
            words = row[0][0]
            file = ROOT / "data" / "results" / f"{words.astext()}.json"
            if file.is_file():
                target = os.path.relpath(file, page.parent)
                words[:] = [addnodes.download_reference("", "", *words, reftarget=target, refdoc=self.env.docname)]

    def _lead(self, table: nodes.table, page: str) -> None:
        """Make every command of the table a link to the page."""
        if page not in self.env.found_docs:
            words = "there is no page %s for the commands of this table to lead to"
            log.warning(words, page, location=self.get_location(), type="wsss", subtype="result")
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        for command in list(table.findall(nodes.literal)):
            command.replace_self(nodes.reference("", "", command.deepcopy(), internal=True, refuri=uri))


class BenchTable(Captioned):
    """{bench-table}: steps and their phases, or evaluations; a sentence where none was measured."""

    required_arguments, optional_arguments = 0, 1

    def run(self) -> list[nodes.Node]:
        try:
            first, *more = show(self.env, "bench", self.arguments[0] if self.arguments else "step")
        except NotMeasured as missing:
            return not_measured(missing)
        except FAULTS as error:
            return self.failed(error)
        shown = table_node(first, self.caption(first.title))
        self.set_source_info(shown[0])
        self.add_name(shown[0])
        return [*shown, *(node for table in more for node in table_node(table, [nodes.Text(f"{table.title}.")]))]


class GpuTable(Captioned):
    """{gpu-table}: a table of the page 'On a GPU', from published times, counted operations and benches."""

    def run(self) -> list[nodes.Node]:
        try:
            table = show(self.env, "gpu", self.arguments[0])
        except FAULTS as error:
            return self.failed(error)
        shown = table_node(table, self.caption(table.title))
        self.set_source_info(shown[0])
        self.add_name(shown[0])
        return shown


class Verdict(Captioned):
    """{verdict}: WSSS_RUNS/verdict.json as a table; words where there is none."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        try:
            words, table = show(self.env, "verdict", "")
        except NotMeasured:
            words = "Nothing was run yet, or this is the published book: there is no run of yours to show."
            return [nodes.note("", nodes.paragraph("", words))]
        except FAULTS as error:
            return self.failed(error)
        return [nodes.paragraph("", words), *table_node(table, self.caption(table.title))]


# Figures.


class ResultsFigure(Captioned):
    """{results-figure}: a picture by `wsss.report.figures` or from an executed notebook, with its alternative text."""

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        try:
            picture, alt, origin = show(self.env, "figure", name)
        except NotMeasured as missing:
            return not_measured(missing)
        except FAULTS as error:
            return self.failed(error)
        folder = ROOT / "_build" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name)}.{suffix(picture)}"
        if not path.is_file() or path.read_bytes() != picture:  # else other pages with this figure would be read again
            path.write_bytes(picture)
        uri = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
        figure = nodes.figure("", nodes.image(uri=uri, alt=self.options.get("alt", alt), classes=["wsss-figure"]))
        figure += nodes.caption("", "", *self.caption(alt))
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure, *self.origin(origin)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_role("result", ResultRole())
    app.add_role("tested", TestedRole())
    app.add_role("printed", PrintedRole())
    app.add_directive("results-table", ResultsTable)
    app.add_directive("results-figure", ResultsFigure)
    app.add_directive("verdict", Verdict)
    app.add_directive("bench-table", BenchTable)
    app.add_directive("gpu-table", GpuTable)
    app.setup_extension("wsss_fresh")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
