"""What the book adds to Sphinx: numbers, tables and figures from records, and pages that need no network.

    {result}`mini/mini#segmentation.miou`               mean over seeds, with deviation, from data/results
    {result}`mini/mini/0#images:,`                      one seed; any field of the record; a format after the colon
    {tested}`D5`                                        the names of the tests of deviation D5
    {tested}`test_name`                                 that test, with its file
    {result}`published#segmentation/ToCo/voc_val`       a number of the literature, from data/published
    ```{results-table} headline                         a table of wsss.tables; :commands: PAGE links its commands
    ```{results-figure} published_curves                a figure of wsss.figures
    ```{results-figure} cam_figures#2                   the third picture of an executed notebook
    ```{verdict}                                        the reader's own run beside the published one
    ```{bench-table}                                    measured steps, or `infer`: evaluations (wsss_bench)
    ```{gpu-table} runs                                 a table of wsss.gpu: estimates for the benchmarks (wsss_bench)

A missing number is a warning, which the strict build turns into a failure. With WSSS_RUNS set to a folder of runs,
the pages of runs show that folder's notebooks, and `{verdict}` its verdict.
"""

import base64
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
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from wsss import evidence, experiments, figures, published, results, tables, verdict  # noqa: E402  (the package may not be installed)
from wsss.evidence import NotMeasured  # noqa: E402
from wsss.paths import UserError, read_json  # noqa: E402
from wsss.table import Table, measured  # noqa: E402

log = logging.getLogger(__name__)
MISSING = "n/a"
MEMORY = "data/results/bench/evaluation-memory.json"


# Files that a page is made of: it is built again when one of them changes.


def depend(env: Any, pattern: str) -> None:
    """Note all files of the project that match, and their folder, since one may be added."""
    for path in sorted(ROOT.glob(pattern)):
        env.note_dependency(str(path))
    env.note_reread() if "*" in pattern else None


def records(env: Any) -> list[results.Record]:
    """The published records."""
    depend(env, "data/results/*/*/*.json")
    return results.find(ROOT / "data" / "results")


def runs_folder() -> Path | None:
    """The reader's own runs, if the book is built with them."""
    return ROOT / os.environ["WSSS_RUNS"] if os.environ.get("WSSS_RUNS") else None


def notebook_path(name: str) -> Path:
    """The executed notebook shown on the page runs/NAME: the reader's own in their own book."""
    own = runs_folder()
    path = own / "notebooks" / f"{name}.ipynb" if own else None
    return path if path and path.is_file() else ROOT / "book" / "runs" / f"{name}.ipynb"


# Numbers.


class ResultRole(SphinxRole):
    """{result}: a number with its origin as a tooltip."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        reference, _, form = self.text.partition(":")
        source, _, key = reference.partition("#")
        try:
            text, origin = self._published(key) if source == "published" else self._record(source, key, form)
        except (UserError, KeyError, IndexError, TypeError, ValueError) as error:
            log.warning("result %s: %s", self.text, error, location=self.get_location(), type="wsss", subtype="result")
            text, origin = MISSING, "no such result"
        return [nodes.abbreviation(text, text, explanation=origin, classes=["wsss-result"])], []

    def _published(self, key: str) -> tuple[str, str]:
        depend(self.env, "data/published/*.csv")
        text = published.reference(key)
        if not text:
            raise UserError(f"{key} is empty")
        return text, f"printed by others: data/published/{key.partition('/')[0]}.csv"

    def _record(self, source: str, key: str, form: str) -> tuple[str, str]:
        dataset, variant, *seed = source.split("/")
        found = results.select(records(self.env), dataset, variant)
        if seed:
            found = [record for record in found if record["seed"] == int(seed[0])]
        if not found:
            raise UserError(f"there is no published record of {source}")
        if key in found[0]:
            return format(found[0][key], form), f"data/results: {results.describe(found[0])}"
        summary = results.summarise(found, key)
        text = format(summary.mean, form) if form else measured(summary)
        return text, f"{tables.images(found[0])} images, {summary.n} seed(s), commit {found[0]['commit']}"


class TestedRole(SphinxRole):
    """{tested}: the tests of a deviation, which are those named test_D5_... for D5; or one test by its whole name."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        depend(self.env, "tests/test_*.py")
        names = self.text if self.text.startswith("test_") else rf"test_{self.text}_\w+"
        pattern = re.compile(rf"^def ({names})\(", re.MULTILINE)
        found = [
            f"{f.name}::{name}"
            for f in sorted((ROOT / "tests").glob("test_*.py"))
            for name in pattern.findall(f.read_text())
        ]
        if not found:
            words = "%s: there is no test of this name"
            log.warning(words, names, location=self.get_location(), type="wsss", subtype="test")
        return [node for name in found or [MISSING] for node in (nodes.literal(name, name), nodes.Text(" "))], []


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
    return [nodes.literal(text, text)] if text.startswith(("wsss ", "torchrun ")) else [nodes.Text(text)]


def _code(text: str) -> list[nodes.Node]:
    """Text with `code` in it."""
    return [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


class Captioned(SphinxDirective):
    """Base of the directives below: a caption, a name to refer to, and warnings in place of exceptions."""

    required_arguments = 1
    option_spec = {"caption": directives.unchanged, "name": directives.unchanged, "alt": directives.unchanged}

    def caption(self, otherwise: str) -> Sequence[nodes.Node]:
        """Parsed :caption:, else the given words."""
        return self.state.inline_text(self.options.get("caption", otherwise), self.lineno)[0]

    def failed(self, error: Exception) -> list[nodes.Node]:
        """A warning, and words on the page."""
        place = (self.env.docname, self.lineno)
        log.warning("%s: %s", self.name, error, location=place, type="wsss", subtype="result")
        return [nodes.paragraph("", f"{MISSING}: {error}")]


class ResultsTable(Captioned):
    """{results-table}: a table of `wsss.tables`, made of the published records. With :commands: PAGE its commands lead
    to the page that says what they take."""

    option_spec = Captioned.option_spec | {"commands": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        depend(self.env, "data/published/*.csv")
        try:
            table = tables.build(self.arguments[0], records(self.env))
        except UserError as error:
            return self.failed(error)
        found = table_node(table, self.caption(table.title))
        if "commands" in self.options:
            self._lead(found[0], self.options["commands"])
        self.set_source_info(found[0])
        self.add_name(found[0])
        return found

    def _lead(self, table: nodes.table, page: str) -> None:
        """Make every command of the table a link to the page."""
        if page not in self.env.found_docs:
            words = "there is no page %s for the commands of this table to lead to"
            log.warning(words, page, location=self.get_location(), type="wsss", subtype="result")
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        for command in list(table.findall(nodes.literal)):
            command.replace_self(nodes.reference("", "", command.deepcopy(), internal=True, refuri=uri))


class Verdict(Captioned):
    """{verdict}: WSSS_RUNS/verdict.json as a table; words where there is none."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        folder = runs_folder()
        path = folder / "verdict.json" if folder else None
        if path is None or not path.is_file():
            words = "Nothing was run yet, or this is the published book: there is no run of yours to show."
            return [nodes.note("", nodes.paragraph("", words))]
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))
        table = verdict.verdict_table(found["rows"])
        words = "All numbers lie within." if found["passed"] else "Not all numbers lie within the published interval."
        date = f" Run on {found['date']}." if "date" in found else ""
        return [nodes.paragraph("", words + date), *table_node(table, self.caption(table.title))]


# Figures.


class ResultsFigure(Captioned):
    """{results-figure}: a picture by `wsss.figures` or from an executed notebook, with its alternative text."""

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        try:
            png, alt = self._from_notebook(name) if "#" in name else self._drawn(name)
        except NotMeasured as missing:
            self.env.note_reread()
            return [nodes.paragraph("", f"Not measured yet: {missing}.")]
        except (UserError, OSError, KeyError, IndexError) as error:
            return self.failed(error)
        folder = ROOT / "_build" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name)}.png"
        path.write_bytes(png)
        uri = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
        figure = nodes.figure("", nodes.image(uri=uri, alt=self.options.get("alt", alt)))
        figure += nodes.caption("", "", *self.caption(alt))
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]

    def _drawn(self, name: str) -> tuple[bytes, str]:
        depend(self.env, "data/published/*.csv")
        if name == "published_curves":
            picture = figures.published_curves()
        elif name == "coverage_bars":
            picture = figures.coverage_bars(records(self.env))
        elif name.startswith("causes-"):
            experiment = experiments.get(name.removeprefix("causes-"))
            picture = evidence.causes(experiment, records(self.env))
        elif name.startswith("over-training-"):
            scale = name.removeprefix("over-training-")
            variants = (("base", f"{scale}-base"), ("base + both", scale))
            picture = evidence.over_training(records(self.env), scale, variants)
        elif name == "evaluation_memory":
            if not (ROOT / MEMORY).is_file():
                raise NotMeasured("there is no record of `wsss bench memory`")
            depend(self.env, MEMORY)
            picture = figures.evaluation_memory(read_json(ROOT / MEMORY))
        else:
            raise UserError(f"no figure named {name} is made of records")
        return picture.png(), picture.alt

    def _from_notebook(self, name: str) -> tuple[bytes, str]:
        notebook, _, number = name.partition("#")
        path = notebook_path(notebook)
        self.env.note_dependency(str(path))
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shown = [out["data"].get("text/html", "") for cell in cells for out in cell.get("outputs", []) if "data" in out]
        pictures = [found for text in shown for found in re.findall(IMAGE, "".join(text))]
        alt, data = pictures[int(number)]
        return base64.b64decode(data), html.unescape(alt)


IMAGE = r'<img class="wsss-figure" alt="([^"]*)" src="data:image/png;base64,([^"]+)"'


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_config_value("wsss_runs", os.environ.get("WSSS_RUNS", ""), "env")
    app.add_role("result", ResultRole())
    app.add_role("tested", TestedRole())
    app.add_directive("results-table", ResultsTable)
    app.add_directive("results-figure", ResultsFigure)
    app.add_directive("verdict", Verdict)
    app.setup_extension("wsss_bench")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
