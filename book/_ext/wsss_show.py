"""What the book adds to Sphinx for readers: folded source of the package, drawings, and what experiments found.

    ```{source} alignment.structure_loss          functions, classes or constants of the package, without docstrings
    ```{drawing} pipeline                         a drawing of book/_static/drawings, inlined so that it takes the
                                                  theme's colours; NAME-phone.svg stands in for it on a phone
    ```{paper-table}                              every setting of the reconstruction, with room for the paper's value
    {difference}`mini-components/base + MSC/CAM`  paired difference to the experiment's row `against`, its interval and
                                                  verdict, by the rules of the page "What was found"
    {answer}`mini-components/base + MSC/CAM`      the verdict alone
    {answer}`mini-subspaces`                      the verdict on a whole experiment, short enough for a heading
    {difference}`mini-components/base + MSC/CAM#under_activation`  the same for another measure, without a verdict
    {missed}`base + both`                         whether its CAMs miss less of the objects than the base's, in words
    ```{shown}                                    every difference whose verdict is "shown", of all experiments
    ```{model-card} data/weights/NAME.json              what a shipped model measured, from its card

All of them are made when the book is built. Anything missing is a warning, which the strict build turns into a failure.
For an experiment that was not run, the page says so.
"""

import ast
import base64
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from wsss_book import FAULTS, MISSING, ROOT, Captioned

from wsss.paths import UserError, read_json
from wsss.presets import PRESETS
from wsss.report import ablation, experiments, records
from wsss.report.statistics import OverSeeds, holm, interval_text, over_seeds, signed
from wsss.report.table import NOT_MEASURED, UNPAIRED, Table
from wsss.settings import flatten

log = logging.getLogger(__name__)
LEVEL = 0.05
"""Level of p, after Holm's correction: below it, a difference is shown."""
SMALLEST = 1.0
"""Smallest difference of interest, in points."""
SHORT = 2
"""Number of differences that a heading names."""
TAGS = re.compile(r"\((?:eqs?\. )?((?:[ABRE]\d*[a-z]?|\d+)(?:(?:, | and )(?:[ABRE]\d*[a-z]?|\d+))*)\)")
"""Equations that the first paragraph of a docstring names."""


# Source.


class Source(SphinxDirective):
    """{source}: objects of the package, named MODULE.OBJECT, in one folded block with their equations in its title."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {"title": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        blocks, titles, files = [], [], []
        for name in self.arguments[0].split():
            try:
                file, code, tags = source_of(name)
            except (OSError, KeyError, SyntaxError) as error:
                log.warning("source %s: %s", name, error, location=self.get_location(), type="wsss", subtype="source")
                continue
            self.env.note_dependency(str(ROOT / file))
            blocks.append(code)
            titles.append(f"{f'({tags}): ' if tags else ''}`{name.rpartition('.')[2]}`")
            files.append(f"`{file}`")
        title = self.options.get("title") or f"{', '.join(titles)} in {', '.join(dict.fromkeys(files))}"
        lines = [f":::{{dropdown}} Source of {title}", ":class-container: wsss-source", "```{code-block} python"]
        lines += [*"\n\n\n".join(blocks).splitlines(), "```", ":::"]
        folded = nodes.Element()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, folded)
        return folded.children


def source_of(name: str) -> tuple[str, str, str]:
    """Return file, source without docstrings, and equations of MODULE.OBJECT. Raises KeyError if it does not exist."""
    *parts, last = ("wsss", *name.split("."))
    while parts and not ROOT.joinpath(*parts).with_suffix(".py").is_file():
        parts, last = parts[:-1], f"{parts[-1]}.{last}"
    if not parts:
        raise KeyError(f"the package has no module of {name}")
    file = Path(*parts).with_suffix(".py")
    text = (ROOT / file).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in last.split("."):
        node = next((child for child in node.body if part in _names(child)), None)
        if node is None:
            raise KeyError(f"{file} has no {last}")
    lines, hidden = text.splitlines(), set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            hidden |= set(range(inner.body[0].lineno, inner.body[0].end_lineno + 1))
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
    kept = [lines[number - 1] for number in range(first, node.end_lineno + 1) if number not in hidden]
    indent = len(kept[0]) - len(kept[0].lstrip())
    docstring = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
    tags = TAGS.search((docstring or "").partition("\n\n")[0])
    return str(file), "\n".join(line[indent:] for line in kept), tags[1].strip() if tags else ""


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {getattr(node, "name", ""), *(getattr(target, "id", "") for target in targets)} - {""}


# Settings of the reconstruction.

CHOSEN = {"msc": "Msc", "csa": "Csa", "class_contrast": "ClassContrast", "schedule": "Schedule"}
"""Groups of settings that hold our own choices -> their class in wsss/config.py."""
NOT_OURS = {"schedule.contrast_start", "schedule.segmentation_start", "schedule.final_cam_start"}


class PaperTable(Captioned):
    """{paper-table}: every setting of the reconstruction, its value in `voc`, and an empty column."""

    required_arguments = 0

    def show(self, name: str) -> list[nodes.Node]:
        values, lines = flatten(PRESETS["voc"]), []
        for path, text in described().items():
            value = values[path]
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            lines.append((f"--{path}", text, shown, ""))
        return self.table(
            Table("Choices of the reconstruction", ("setting", "what it is", "ours", "the paper"), tuple(lines))
        )


def described() -> dict[str, str]:
    """Return the path of each setting of CHOSEN -> its documentation."""
    tree = ast.parse((ROOT / "wsss" / "config.py").read_text(encoding="utf-8"))
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    texts = {}
    for group, name in CHOSEN.items():
        for field, text in pairwise(classes[name]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[f"{group}.{field.target.id}"] = " ".join(text.value.value.replace("`", "").split())
    return {path: text for path, text in texts.items() if path not in NOT_OURS}


# Drawings.


class Drawing(Captioned):
    """{drawing}: an SVG of book/_static/drawings, inlined in the page as a figure with a caption."""

    def show(self, name: str) -> list[nodes.Node]:
        folder = ROOT / "book" / "_static" / "drawings"
        files = [folder / f"{name}{form}.svg" for form in ("", "-phone")]
        shown = [inlined(file, name + file.stem.removeprefix(name)) for file in files if file.is_file()]
        if not shown:
            raise UserError(f"there is no drawing {name}.svg")
        kinds = ("wide", "phone") if len(shown) > 1 else ("both",)
        body = "".join(f'<div class="wsss-{kind}">{svg}</div>' for kind, svg in zip(kinds, shown, strict=True))
        alt = re.search(r"<desc[^>]*>(.*?)</desc>", shown[0], re.DOTALL)
        figure = nodes.figure("", nodes.raw("", body, format="html"), classes=["wsss-drawing"])
        figure += nodes.caption("", "", *self.caption(alt[1] if alt else name))
        return [self.named(figure)]


def inlined(file: Path, name: str) -> str:
    """Return the drawing as an element of a page: pictures embedded, ids unique, its description for screen readers."""
    svg = re.sub(r"<\?xml.*?\?>|<!--.*?-->", "", file.read_text(encoding="utf-8"), flags=re.DOTALL).strip()

    def embedded(match: re.Match[str]) -> str:
        picture = (file.parent / match[1]).read_bytes()
        kind = "jpeg" if match[1].endswith(".jpg") else "png"
        return f'href="data:image/{kind};base64,{base64.b64encode(picture).decode()}"'

    svg = re.sub(r'href="((?!data:|#)[^"]+\.(?:png|jpg))"', embedded, svg)
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\1{name}-", svg)
    svg = svg.replace('aria-labelledby="t d"', f'aria-labelledby="{name}-t {name}-d"')
    return re.sub(r"\s*\n\s*", "\n", svg)


# What was found.


@cache
def compared(name: str) -> list[tuple[ablation.Difference, OverSeeds, float]]:
    """Return an experiment's primary differences, each with its test over seeds and its p after Holm's correction."""
    lines = [line for line in ablation.compared(experiments.get(name), records.published()) if line.primary]
    tests = [over_seeds(line.points) for line in lines]
    return list(zip(lines, tests, holm([test.p for test in tests]), strict=True))


def judged(test: OverSeeds, p: float) -> str:
    """Judge a difference by the rule that was fixed beforehand: shown, small, no effect or open."""
    if p < LEVEL:
        return "shown" if abs(test.mean) >= SMALLEST else "shown, but small"
    return "no effect" if test.low > -SMALLEST and test.high < SMALLEST else "open"


def one_of(text: str) -> tuple[ablation.Difference, OverSeeds, float] | None:
    """Return the difference EXPERIMENT/ROW/ENDPOINT; None if it was not run. Raises UserError for an unknown row."""
    name, row, endpoint = text.split("/")
    experiment = experiments.get(name)
    labels = {known.label for known in experiment.rows}
    if row not in labels or endpoint not in ("CAM", "segmentation"):
        raise UserError(f"{name} has no row {row} or endpoint {endpoint}; rows are {', '.join(sorted(labels))}")
    return next((line for line in compared(name) if (line[0].row, line[0].endpoint) == (row, endpoint)), None)


def without_pairs(text: str) -> str:
    """Say why there is no difference EXPERIMENT/ROW/ENDPOINT."""
    name, label, _ = text.split("/")
    experiment = experiments.get(name)
    variant = next(row.variant for row in experiment.rows if row.label == label)
    return UNPAIRED if records.select(records.published(), experiment.dataset, variant) else "not run yet"


def difference(text: str) -> str:
    """Write a difference as +0.5 [-0.4 to +1.4] (3 seeds, open). Measures other than mIoU have no test, no verdict."""
    text, _, measure = text.partition("#")
    known = one_of(text)
    if known is None:
        return without_pairs(text)
    line, test, p = known
    if measure:
        if not (points := further(line, measure)):
            return NOT_MEASURED
        test = over_seeds(points)
    interval = f" [{interval_text(test)}]" if test.n > 1 else ""
    verdict = "" if measure else f", {judged(test, p)}"
    return f"{signed(test.mean)}{interval} ({test.n} seed{'s' * (test.n > 1)}{verdict})"


def further(line: ablation.Difference, measure: str) -> list[float]:
    """Return the differences of the pairs in another measure of the same labels; pairs that lack it are left out."""
    key = f"{line.kind}.{measure}"
    known = [pair for pair in line.pairs if all(records.has(run, key) for run in pair)]
    return [records.value(first, key) - records.value(second, key) for first, second in known]


SETS = {
    "mini-components": "drawn images",
    "voc-animals-components": "photographs with 12 blocks",
    "voc-animals-11-blocks": "photographs with 11 blocks",
}
"""Experiments at the scale of a CPU that have all modules -> their images."""


def missed(row: str) -> str:
    """Say on which of SETS the CAMs of a row miss less of the objects than the base's, by the rule of the verdicts."""
    known = {images: one_of(f"{name}/{row}/CAM") for name, images in SETS.items()}
    points = {images: further(line[0], "under_activation") for images, line in known.items() if line}
    tests = {images: over_seeds(numbers) for images, numbers in points.items() if numbers}
    shown = [
        test for test, p in zip(tests.items(), holm([test.p for test in tests.values()]), strict=True) if p < LEVEL
    ]
    falls, rises = ([images for images, test in shown if sign * test.mean > 0] for sign in (-1, 1))
    words = f"falls on {' and '.join(falls)}" if falls else "is not shown to fall"
    return words + f"; it rises on {' and '.join(rises)}" * bool(rises)


def answer(text: str) -> str:
    """Write the verdict on one difference, or on a whole experiment."""
    if "/" in text:
        known = one_of(text)
        if known is None:
            return without_pairs(text)
        line, test, p = known
        seeds = f"{test.n} seed{'s' * (test.n > 1)}{' so far' * (test.n < line.planned)}"
        return f"{signed(test.mean)}, {judged(test, p)} ({seeds})"
    lines = compared(text)
    if not lines:
        return "not run yet"
    so_far = " so far" * any(test.n < line.planned for line, test, _ in lines)
    verdicts = {kind: [] for kind in ("shown", "shown, but small", "no effect", "open")}
    for line, test, p in lines:
        verdicts[judged(test, p)].append(f"{line.row} {signed(test.mean)} in {line.endpoint}")
    if shown := verdicts["shown"] + verdicts["shown, but small"]:
        return "; ".join(shown[:SHORT]) + f"; {len(shown) - SHORT} more" * (len(shown) > SHORT) + so_far
    return ("no difference is shown" if verdicts["open"] else "no effect") + so_far


class Shown(Captioned):
    """{shown}: the differences that are shown, one per line; a sentence if there is none."""

    required_arguments = 0

    def show(self, name: str) -> list[nodes.Node]:
        known = [(experiments.get(name), *found) for name in experiments.EXPERIMENTS for found in compared(name)]
        known = [found for found in known if found[-1] < LEVEL]
        if not known:
            return [nodes.paragraph("", "No difference is shown yet.")]
        rows = [
            (
                each.title,
                f"{line.row} against {each.against}",
                line.endpoint,
                signed(test.mean),
                interval_text(test),
                f"{test.n}",
            )
            for each, line, test, _ in known
        ]
        titles = ("experiment", "what changes", "mIoU of", "points", "95 % interval", "seeds")
        runs = [run for _, line, *_ in known for pair in line.pairs for run in pair]
        return self.table(Table("Differences that are shown", titles, tuple(rows), "", runs))


MEASURES = {
    "classification.map_headline": "names the classes (mAP)",
    "segmentation.miou_headline": "segmentation (mIoU)",
    "cam.miou_headline": "CAM (mIoU)",
    "aux_cam.miou_headline": "aux CAM (mIoU)",
    "named": "photographs whose most probable class is one of theirs",
    "outlined": "photographs whose largest animal is outlined (IoU of at least 0.5)",
}
"""Numbers of a card that the table shows -> their names."""


class ModelCard(Captioned):
    """{model-card}: numbers of a shipped model, from its card, on photographs that it did not learn from."""

    def show(self, name: str) -> list[nodes.Node]:
        card = read_json(ROOT / name)
        measured = card["this_file"] | card["images_in_percent"]
        rows = tuple((label, f"{measured[key]:.1f}") for key, label in MEASURES.items())
        note = (
            f"{card['backbone'].partition(',')[0]}, {card['steps']:,} steps on {card['train_images']:,} photographs. "
        )
        note += f"Measured on {card['evaluated_on']}, squashed to {card['protocol']['size']} pixels. Card: `{name}`."
        self.env.note_dependency(str(ROOT / name))
        return self.table(Table("The model in the page", ("what", "percent"), rows, note))


class Found(SphinxRole):
    """{difference}, {answer} and {missed}."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_reread()
        try:
            text = {"difference": difference, "answer": answer, "missed": missed}[self.name](self.text)
        except FAULTS as error:
            log.warning("%s %s: %s", self.name, self.text, error, location=self.get_location(), type="wsss")
            text = MISSING
        return [nodes.Text(text)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.setup_extension("wsss_book")
    app.connect("builder-inited", lambda app: compared.cache_clear())  # records may differ from the last build's
    app.add_directive("source", Source)
    app.add_directive("drawing", Drawing)
    app.add_directive("paper-table", PaperTable)
    app.add_directive("shown", Shown)
    app.add_directive("model-card", ModelCard)
    for name in ("difference", "answer", "missed"):
        app.add_role(name, Found())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
