"""What the elements of the book's pages show, made from the project's files as they are now. No torch, no Sphinx.

An element is a kind and words: ("number", "mini/mini#cam.miou"), ("table", "headline"), ("code", "wsss/cam.py"). The
book's extension puts what it shows on a page and keeps the digest of that with the page. A page is built again when
one of its elements would show something else; `wsss book check` names the elements of a built book that would.
"""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from wsss.paths import UserError, project_root, read_json
from wsss.report import benches, benchmarks, evidence, experiments, figures, gpu, origins, published, results, tables
from wsss.report import verdict as verdicts
from wsss.report.evidence import NotMeasured
from wsss.report.table import Table, measured

MEMORY = "data/results/bench/evaluation-memory.json"
PDF = "_build/html/wsss.pdf"
FAULTS = (UserError, OSError, KeyError, IndexError, TypeError, ValueError)
"""What making an element raises where its file, number, table or figure does not exist."""


# The files behind the elements.

RECORDS = ("data/results/*/*/*", "data/results/guesses.json", "data/published/*.csv", "data/lists/*/*.txt")
PACKAGE = ("wsss/*.py",)
READS = {
    "number": (*RECORDS, *PACKAGE),
    "table": (*RECORDS, "data/tries/*/*/*.json", *PACKAGE),
    "figure": (*RECORDS, MEMORY, "book/runs/*.ipynb", *PACKAGE),
    "bench": ("data/results/bench/*.json", *PACKAGE),
    "gpu": ("data/results/bench/*.json", "data/published/*.csv", *PACKAGE),
    "verdict": ("*/verdict.json", *PACKAGE),
    "tests": ("tests/test_*.py",),
    "notebook": ("book/runs/*.ipynb",),
    "code": PACKAGE,
    "text": ("book/*.md",),
    "pdf": (PDF,),
}
"""Of each kind, patterns of the files that it may be made of; a star stands for folders, too."""
FOLDERS = ("book", "data/lists", "data/published", "data/results", "data/tries", "tests", "wsss")


def inputs() -> dict[str, str]:
    """sha256 of each file that any element may be made of, by its path in the project."""
    root, own = project_root(), runs_folder()
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(root).as_posix(): path for path in found}
    kept = {name: path for name, path in names.items() if _matches(name, {p for ps in READS.values() for p in ps})}
    if (root / PDF).is_file():
        kept[PDF] = root / PDF
    if own:
        mine = (*own.glob("notebooks/*.ipynb"), own / "verdict.json")
        kept |= {Path(os.path.relpath(path, root)).as_posix(): path for path in mine if path.is_file()}
    return {name: hashlib.sha256(kept[name].read_bytes()).hexdigest() for name in sorted(kept)}


def behind(kind: str, words: str, files: Iterable[str]) -> list[str]:
    """Those of the files that an element may be made of."""
    if kind in ("code", "text", "pdf"):
        return [words] if words in files else []
    if kind == "notebook" or (kind == "figure" and "#" in words):
        return [name for name in files if name.endswith(f"/{words.partition('#')[0]}.ipynb")]
    return [name for name in files if _matches(name, READS[kind]) and not name.endswith(".ipynb")]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def runs_folder() -> Path | None:
    """The reader's own runs, where the book is built with them: WSSS_RUNS, a folder of the project."""
    return project_root() / os.environ["WSSS_RUNS"] if os.environ.get("WSSS_RUNS") else None


def notebook_path(name: str) -> Path:
    """The executed notebook shown on the page runs/NAME: the reader's own in their own book."""
    own = runs_folder()
    path = own / "notebooks" / f"{name}.ipynb" if own else None
    return path if path and path.is_file() else project_root() / "book" / "runs" / f"{name}.ipynb"


# What is shown. Each takes the element's words and raises one of FAULTS where there is nothing to show.


def number(words: str) -> tuple[str, str]:
    """A number as text, and its origin: SOURCE#KEY[:FORMAT], as the role {result} takes it."""
    reference, _, form = words.partition(":")
    source, _, key = reference.partition("#")
    if source == "published":
        if not published.reference(key):
            raise UserError(f"{key} is empty")
        return published.reference(key), f"printed by others: data/published/{key.partition('/')[0]}.csv"
    if source == "guesses":
        return format(guess(key), form or ".1f"), "a guess, counted without a network: data/results/guesses.json"
    dataset, variant, *seed = source.split("/")
    found = results.select(results.published(), dataset, variant)
    if seed:
        found = [record for record in found if record["seed"] == int(seed[0])]
    if not found:
        raise UserError(f"there is no published record of {source}")
    if key in found[0]:
        return format(found[0][key], form), f"data/results: {results.describe(found[0])}"
    found = results.of_one_processor(found)
    summary = results.summarise(found, key)
    text = format(summary.mean, form) if form else measured(summary)
    where = f"{benchmarks.images(found[0])} images, {results.processors(found)}"
    return text, f"{where}, commit {found[0]['commit']}"


def guess(path: str) -> float:
    """A number of data/results/guesses.json, DATASET/KIND/MEASURE: what a guess reaches on the validation masks, which
    was counted without a network. Raises UserError if it is not there."""
    node: Any = read_json(project_root() / "data" / "results" / "guesses.json")
    for part in path.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            raise UserError(f"data/results/guesses.json has no number {path}")
        node = node[part]
    return float(node)


def tests(words: str) -> tuple[str, ...]:
    """File and name of the tests of a deviation, those named `test_D5_...` for D5, or of one test by its whole name."""
    names = words if words.startswith("test_") else rf"test_{words}_\w+"
    pattern = re.compile(rf"^def ({names})\(", re.MULTILINE)
    files = sorted((project_root() / "tests").glob("test_*.py"))
    found = tuple(f"{f.name}::{name}" for f in files for name in pattern.findall(f.read_text(encoding="utf-8")))
    if not found:
        raise UserError(f"{names}: there is no test of this name")
    return found


def table(words: str) -> tuple[Table, str]:
    """A table of `wsss.report.tables`, and the records that it is made of in a line."""
    made, used = origins.traced(partial(tables.build, words), results.published())
    return made, origins.line(used)


def bench(words: str) -> tuple[Table, ...]:
    """The tables of `wsss bench KIND`; raises NotMeasured where there is no record of it."""
    found = benches.read(project_root() / "data" / "results" / "bench", words)
    if not found:
        raise NotMeasured(f"there is no record of `wsss bench {words}`")
    return tuple(make(found) for make in benches.TABLES[words])


def estimates(words: str) -> Table:
    """A table of `wsss.report.gpu`, whose estimates take all lines of `wsss bench`."""
    if words not in gpu.TABLES:
        raise UserError(f"there is no table {words}; there are {', '.join(gpu.TABLES)}")
    folder = project_root() / "data" / "results" / "bench"
    return gpu.TABLES[words]([one for kind in benches.TABLES for one in benches.read(folder, kind)])


def verdict(words: str = "") -> tuple[str, Table]:
    """The reader's own run beside the published one; raises NotMeasured where nothing was run."""
    own = runs_folder()
    if own is None or not (own / "verdict.json").is_file():
        raise NotMeasured("nothing was run, or this is the published book")
    found = read_json(own / "verdict.json")
    said = "All judged numbers lie within." if found["passed"] else "Not all judged numbers lie within the interval."
    date = f" Run on {found['date']}." if "date" in found else ""
    return f"{said} {found.get('reach', '')}".strip() + date, verdicts.verdict_table(found["rows"])


def figure(words: str) -> tuple[bytes, str, str]:
    """Picture, alternative text and origin: drawn from records, or NOTEBOOK#2, the third picture of a notebook."""
    if "#" in words:
        return _of_notebook(*words.split("#"))
    picture, used = origins.traced(partial(_drawn, words), results.published())
    return picture.encoded(), picture.alt, origins.line(used)


OF_EXPERIMENTS = {
    "causes-": evidence.causes,
    "differences-": evidence.differences,
    "thresholds-": evidence.threshold_curves,
    "extent-": evidence.extent,
}
"""Figures of an experiment: how their names begin -> what draws them."""


def _drawn(name: str, records: Sequence[results.Record]) -> figures.Picture:
    if name == "published_curves":
        return figures.published_curves()
    if name == "coverage_bars":
        return evidence.coverage_bars(experiments.get("mini-components"), records)
    for start, draw in OF_EXPERIMENTS.items():
        if name.startswith(start):
            return draw(experiments.get(name.removeprefix(start)), records)
    if name.startswith("over-training-"):
        scale = name.removeprefix("over-training-")
        variants = (("base", f"{scale}-base"), ("base + both", scale))
        return evidence.over_training(records, scale, variants)
    if name != "evaluation_memory":
        raise UserError(f"no figure named {name} is made of records")
    if not (project_root() / MEMORY).is_file():
        raise NotMeasured("there is no record of `wsss bench memory`")
    return figures.evaluation_memory(read_json(project_root() / MEMORY))


IMAGE = r'<img class="wsss-figure" alt="([^"]*)" src="data:image/(?:png|jpeg);base64,([^"]+)"'


def _of_notebook(name: str, place: str) -> tuple[bytes, str, str]:
    notebook = json.loads(notebook_path(name).read_text(encoding="utf-8"))
    cells = notebook["cells"]
    shown = [out["data"].get("text/html", "") for cell in cells for out in cell.get("outputs", []) if "data" in out]
    alt, data = [found for text in shown for found in re.findall(IMAGE, "".join(text))][int(place)]
    return base64.b64decode(data), html.unescape(alt), origins.of_notebook(notebook["metadata"].get("wsss", {}))


def text(words: str) -> str:
    """A file of the project: a page's own text, a module of which a page shows code or documentation."""
    return (project_root() / words).read_text(encoding="utf-8")


def notebook(words: str) -> str:
    """An executed notebook, which is a page."""
    return notebook_path(words).read_text(encoding="utf-8")


def pdf(words: str) -> bool:
    """Whether the site holds the book as a PDF."""
    return (project_root() / words).is_file()


SHOWS: dict[str, Callable[[str], Any]] = {
    "number": number,
    "tests": tests,
    "table": table,
    "figure": figure,
    "bench": bench,
    "gpu": estimates,
    "verdict": verdict,
    "notebook": notebook,
    "code": text,
    "text": text,
    "pdf": pdf,
}


def digest(shown: Any) -> str:
    """sha256 of what an element shows, or of the words that stand for what nobody has measured."""
    said = str(shown) if isinstance(shown, NotMeasured) else repr(shown)
    return hashlib.sha256(said.encode()).hexdigest()


def digest_now(kind: str, words: str) -> str:
    """The digest of what an element would show now; empty where it cannot be shown."""
    try:
        return digest(SHOWS[kind](words))
    except NotMeasured as missing:
        return digest(missing)
    except FAULTS:
        return ""
