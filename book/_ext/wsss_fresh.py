"""Precise incremental builds: a page is read again when one of its elements would show something else, and only then.

Every number, table and figure is shown through `show`, which keeps its digest with the page; a page's text, notebook
and included code are elements, too. After the build they stand in elements.json, which `wsss book check` reads.
"""

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors import EnvironmentCollector

from wsss.paths import project_root, read_json, write_json
from wsss.report import elements
from wsss.report.evidence import NotMeasured

Kept = dict[tuple[str, str], str]
"""Digests of a page's elements; empty for one that could not be shown, which is tried again at every build."""


def kept(env: BuildEnvironment) -> dict[str, Kept]:
    """Of each page, its elements."""
    if not hasattr(env, "wsss_elements"):
        env.wsss_elements = {}
    return env.wsss_elements


def show(env: BuildEnvironment, kind: str, words: str) -> Any:
    """What an element of the page that is being read shows; raises one of `elements.FAULTS`."""
    page = kept(env).setdefault(env.docname, {})
    page[kind, words] = ""
    try:
        shown = elements.SHOWS[kind](words)
    except NotMeasured as missing:
        page[kind, words] = elements.digest(missing)
        raise
    page[kind, words] = elements.digest(shown)
    return shown


class Elements(EnvironmentCollector):
    """Keeps the elements of every page, and finds the pages whose elements would show something else now."""

    def clear_doc(self, app: Sphinx, env: BuildEnvironment, docname: str) -> None:
        """A page that is read anew or is gone."""
        kept(env).pop(docname, None)

    def merge_other(self, app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
        """Pages that another process has read."""
        kept(env).update({page: kept(other)[page] for page in docnames if page in kept(other)})

    def process_doc(self, app: Sphinx, doctree: nodes.document) -> None:
        """What a page is made of beside what is shown by `show`."""
        page = app.env.docname
        folder, _, name = page.rpartition("/")
        found = [("notebook", name)] if folder == "runs" else [("text", _inside(app.env.doc2path(page)))]
        found += [("code", path) for path in _modules(app, page)]
        for kind, words in found:
            show(app.env, kind, words)

    def get_updated_docs(self, app: Sphinx, env: BuildEnvironment) -> list[str]:
        """None: what is read again is written again."""
        return []

    def get_outdated_docs(
        self, app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
    ) -> list[str]:
        """Pages with an element that would show something else. Nothing is made anew if no file has changed."""
        memory, env.wsss_inputs = _memory(app), elements.inputs()  # before anything is read: files may change meanwhile
        if memory.is_file() and read_json(memory) == env.wsss_inputs:
            return [page for page, found in kept(env).items() if "" in found.values()]
        memory.unlink(missing_ok=True)  # until this build has come to its end
        waiting = {page: found for page, found in kept(env).items() if page not in changed}
        return [page for page, found in waiting.items() if _differs(found)]


def _differs(found: Kept) -> bool:
    return any(not digest or elements.digest_now(*element) != digest for element, digest in found.items())


def _memory(app: Sphinx) -> Path:
    """Digests of the files of which the pages read so far were made."""
    return Path(app.doctreedir) / "wsss-inputs.json"


def _modules(app: Sphinx, page: str) -> list[str]:
    """Files of the package of which the page shows code or documentation."""
    paths = [_inside(os.path.join(app.srcdir, path)) for path in app.env.dependencies.get(page, ())]
    documented = [name for name, entry in app.env.get_domain("py").modules.items() if entry.docname == page]
    files = [f"{name.replace('.', '/')}{end}" for name in documented for end in (".py", "/__init__.py")]
    return sorted(path for path in {*paths, *files} if path.startswith("wsss/") and (project_root() / path).is_file())


def _inside(path: str) -> str:
    """A path relative to the project."""
    return Path(os.path.relpath(os.path.normpath(path), project_root())).as_posix()


def write_manifest(app: Sphinx, error: Exception | None) -> None:
    """elements.json beside the pages: every element with the digest of what it shows, and of each file behind them."""
    if error or app.builder.format != "html":
        return
    files = app.env.wsss_inputs
    write_json(_memory(app), files)
    rows = [[page, *element, digest] for page, found in kept(app.env).items() for element, digest in found.items()]
    manifest = {"runs": app.config.wsss_runs, "files": files, "elements": sorted(rows)}
    write_json(Path(app.outdir) / "elements.json", manifest)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_config_value("wsss_runs", os.environ.get("WSSS_RUNS", ""), "env")
    app.add_config_value("wsss_extension", _extension(), "env")
    app.add_env_collector(Elements)
    app.connect("build-finished", write_manifest)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _extension() -> str:
    """Digest of this folder: all pages are read again when it changes."""
    return elements.digest([path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))])
