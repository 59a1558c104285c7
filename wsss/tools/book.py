"""`wsss book check`: names what the book shows and its sources would no longer give. No torch, no Sphinx.

An executed notebook in book/runs is compared with its source, the package and the records by the stamp that papermill's
engine left in it; the elements of a built book with what they would show now (`wsss.report.elements`).
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.paths import UserError, project_root, read_json
from wsss.report import elements, publish
from wsss.tools import sources

USAGE = """\
usage: wsss book check

Name every element of the book whose record, notebook or source has changed since it was made: the executed notebooks
in book/runs, by their stamps, and all that the built book in _build/html shows. Exit 1 if a notebook's source has
changed or something cannot be read; what else has changed is a warning."""
HTML = "_build/html/elements.json"
PRINTED = "_build/pdf/_build/singlehtml/elements.json"
ANEW = "run it, then `make publish`"


@dataclass(frozen=True, order=True)
class Finding:
    """An element that is no longer what its sources give."""

    page: str
    element: str
    words: str
    failure: bool = False

    def __str__(self) -> str:
        return f"{self.page}: {self.element}: {'failure' if self.failure else 'warning'}: {self.words}"


def run(words: Sequence[str]) -> int:
    """`wsss book check`; returns the exit code. Raises UserError."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if list(words) != ["check"]:
        raise UserError(f"wsss book knows no {' '.join(words)}; the one line is wsss book check")
    root = project_root()
    notebooks = sorted((root / "book" / "runs").glob("*.ipynb"))
    built = read_json(root / HTML) if (root / HTML).is_file() else None
    found = [finding for path in notebooks for finding in _notebook(path, root)]
    found += list(_elements(built, root)) if built else []
    for finding in sorted(found):
        print(finding)
    count = len(notebooks) + (len(built["elements"]) if built else 0)
    left = "" if built else "; there is no book in _build/html, so the executed notebooks alone were looked at"
    print(_sentence(found, count) + left)
    return 1 if any(finding.failure for finding in found) else 0


def _sentence(found: Sequence[Finding], count: int) -> str:
    if not found:
        return f"all {count} elements are what their sources give"
    failures = sum(finding.failure for finding in found)
    kinds = f"{failures} failures, {len(found) - failures} warnings"
    return f"{len(found)} of {count} elements are not what their sources give: {kinds}"


# Executed notebooks.


def _notebook(path: Path, root: Path) -> Iterator[Finding]:
    """What has changed since a notebook was executed."""
    page, source = f"runs/{path.stem}", root / "notebooks" / path.name
    try:
        stamp = read_json(path)["metadata"].get("wsss")
        stale, reads = publish.is_stale(path, source), sources.notebook_imports(source)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding(page, "notebook", f"{path.name} and its source cannot be compared ({error}); {ANEW}", True)
        return
    said = [f"notebooks/{path.name} has changed since it was executed"] if stale else []
    if stamp is None:
        said.append(f"{path.name} does not say what it was made with")
    else:
        said += filter(None, (_package(stamp, reads, root), _records(stamp, reads, root)))
    if said:
        yield Finding(page, "notebook", f"{'; '.join(said)}; {ANEW}", stale)


def _package(stamp: Mapping[str, Any], reads: Sequence[str], root: Path) -> str:
    """What the notebook uses of the package and has changed since its commit; empty if nothing has."""
    package = root / "wsss"
    if stamp.get("package") == sources.files_hash(package.rglob("*.py"), package):
        return ""
    changed = _changed_since(stamp.get("commit", "none"), root)
    if not changed:
        return f"the package has changed since it was executed, at commit {stamp.get('commit')} unknown to git here"
    used = {f"wsss/{file.relative_to(sources.PACKAGE).as_posix()}" for file in sources.code_files(*reads)}
    named = [name for name in changed if name in used]
    return f"the package has changed since commit {stamp['commit']}: {_some(named)}" if named else ""


def _changed_since(commit: str, root: Path) -> list[str]:
    """Modules that differ from those of a commit, new ones too; empty where git does not know it."""
    found: list[str] = []
    for words in (["diff", "--name-only", commit], ["ls-files", "--others", "--exclude-standard"]):
        command = ["git", "-C", str(root), *words, "--", "wsss"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return []
        found += [name for name in done.stdout.splitlines() if name.endswith(".py")]
    return sorted(found)


def _records(stamp: Mapping[str, Any], reads: Sequence[str], root: Path) -> str:
    """Which records differ from those that the notebook found; empty if it reads none."""
    if "wsss.report.results" not in reads:
        return ""
    if "records" not in stamp:
        return "it does not say which records it read (an older run), so they may have changed"
    changed = _differing(stamp["records"], sources.records(root / "data" / "results"))
    return f"records have changed since it was executed: {_some(changed)}" if changed else ""


# The built book.


def _elements(built: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    """What a page would show otherwise now than when it was built."""
    if built["runs"] != os.environ.get("WSSS_RUNS", ""):
        os.environ["WSSS_RUNS"] = built["runs"]  # the reader's own book is compared with the reader's own runs
    changed = _differing(built["files"], elements.inputs())
    for page, kind, words, digest in built["elements"]:
        now = elements.digest_now(kind, words) if changed or not digest else digest
        element = f"{kind} {words}".strip()
        if not now:
            yield Finding(page, element, "cannot be made of its sources; `make strict` says why", True)
        elif now != digest:
            files = _some(elements.behind(kind, words, changed))
            yield Finding(page, element, f"has changed since the book was built ({files}); build the book again")
        elif kind == "pdf" and elements.pdf(words) and _others(root) != _rows(built):
            yield Finding(page, element, "was printed of other pages than these; run `make pdf`")


def _others(root: Path) -> list[Any]:
    return _rows(read_json(root / PRINTED)) if (root / PRINTED).is_file() else []


def _rows(manifest: Mapping[str, Any]) -> list[Any]:
    """The elements that the site and the PDF share."""
    return [row for row in manifest["elements"] if row[1] != "pdf"]


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names that are in one only, or stand for something else."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none that it is known to be made of"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m wsss.tools.book check`, for an environment that has what the book needs and no more."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"wsss: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
