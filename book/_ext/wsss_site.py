"""The book as a site: pages of executed notebooks, the API, links to the project; nothing from the network."""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from wsss_book import ROOT, notebook_path

log = logging.getLogger(__name__)

# Pages of runs.


def own_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Show the reader's own executed notebook in their own book."""
    folder, _, name = docname.rpartition("/")
    if folder != "runs":
        return
    path = notebook_path(name)
    app.env.note_dependency(str(path))
    source[0] = json.dumps(with_captions(json.loads(path.read_text(encoding="utf-8"))))


def with_captions(notebook: dict[str, Any]) -> dict[str, Any]:
    """Add a caption to each table of pandas in the notebook; pandas makes none."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if 'class="dataframe"' in "".join(shown.get("text/html", "")):
                text = "".join(shown["text/html"])
                shown["text/html"] = re.sub(r"(<table\b[^>]*>)(?!\s*<caption)", rf"\1{CAPTION}", text)
    return notebook


CAPTION = "<caption>What the cell above returns</caption>"


def stamp_run(app: Sphinx, doctree: nodes.document) -> None:
    """Say at the top of a run's page what ran, on what and when (metadata.wsss, stamped by papermill's engine)."""
    folder, _, name = app.env.docname.rpartition("/")
    if folder != "runs":
        return
    path = notebook_path(name)
    stamp = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("wsss")
    title = next(doctree.findall(nodes.title), None)
    if stamp is None or title is None:
        log.warning("%s has no provenance", path.name, location=app.env.docname, type="wsss", subtype="result")
        return
    whose = "The published run" if path.is_relative_to(ROOT / "book") else "Your run"
    given = ", ".join(f"{key} = {value!r}" for key, value in stamp.get("parameters", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in stamp.get("versions", {}).items())
    words = (
        f"{whose} of {stamp.get('notebook', name)}, {stamp.get('date', 'undated')}: "
        f"the notebook took {stamp.get('seconds', '?')} s on {stamp.get('device', 'an unknown device')}; "
        f"{versions or 'unknown versions'}; commit {stamp.get('commit')}"
        f"{', with uncommitted changes' if stamp.get('dirty') else ''}; {given}."
    )
    below = [nodes.paragraph("", words, classes=["wsss-stamp"]), *elsewhere(app.config.html_theme_options)]
    title.parent.insert(title.parent.index(title) + 1, below)


def elsewhere(options: dict[str, Any]) -> list[nodes.Node]:
    """Say what a notebook opened in Colab needs before its first cell. Empty while the project has no address."""
    address = options.get("repository_url")
    if not address:
        return []
    cell = f"!git clone {address} companion\n%cd companion\n%pip install -q -e ."
    words = "In Colab (the rocket above), the notebook needs the project. Run this first, in a separate cell:"
    return [nodes.paragraph("", words), nodes.literal_block(cell, cell, language="text")]


PHONE_LINE = 30
"""Letters of code on a line of a phone, with room to spare."""


def mark_short(app: Sphinx, doctree: nodes.document) -> None:
    """Mark code whose words all fit on a phone's line, so that the style sheet does not break them."""
    if app.env.docname.startswith("api/"):  # made from the package's source, which Sphinx does not watch
        app.env.note_reread()
    for literal in doctree.findall(nodes.literal):
        if all(len(word) <= PHONE_LINE for word in literal.astext().split()):
            literal["classes"].append("wsss-short")


# The API.


def tidy_api(app: Sphinx) -> None:
    """Document each object only where it is defined, and keep |P| in a docstring from being read as a substitution."""
    for item in app.env.autoapi_all_objects.values():
        item.docstring = item.docstring.replace("|", "\\|")
        item.children = [child for child in item.children if not child.imported]


# The project's address, and scripts of other hosts.


def set_address(app: Sphinx, config: Config) -> None:
    """Show buttons, badges and Colab links only if repository.url in _config.yml is set."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options.update(use_repository_button=True, use_issues_button=True)
        options["launch_buttons"] = {
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        }
    else:
        options.pop("repository_url", None)
        options["launch_buttons"] = {}


def choose_scripts(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out scripts that a page does not need: sphinx-thebe, which loads a script from another host and fails
    without it; the explorer on pages without one; the second copy of MathJax."""
    unused = ("thebe",) if "data-wsss-explorer" in context.get("body", "") else ("thebe", "explorer")
    for kind in ("css_files", "script_files"):
        wanted = [asset for asset in context[kind] if not any(name in _text(asset) for name in unused)]
        context[kind] = list({_text(asset): asset for asset in wanted}.values())


def _text(asset: Any) -> str:
    return f"{getattr(asset, 'filename', asset)} {getattr(asset, 'attributes', {}).get('body', '')}"


def quote_shapes(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Put the shapes of arrays into quotes again. autoapi drops the quotes, without which Sphinx links nothing."""

    def quoted(match: re.Match[str]) -> str:
        return f"{match[1]}[{match[2]}, '{match[3].strip()}']" if match[3] else f"{match[1]}[{match[2]}]"

    def tidied(text: str | None) -> str | None:
        return text and re.sub(r"jaxtyping\.(\w+)\[(?:torch|numpy|np)\.(\w+)(?:, ([^\]]+))?\]", quoted, text)

    return tidied(arguments), tidied(returns)


def plain_roles(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove two roles that Sphinx gives a bibliography: one is deprecated, the other is a list of more than items."""
    if "body" in context:
        context["body"] = context["body"].replace(' role="doc-biblioentry"', "").replace(LIST_OF_CITATIONS, PLAIN_LIST)


LIST_OF_CITATIONS, PLAIN_LIST = '<div role="list" class="citation-list">', '<div class="citation-list">'


def drop_source_maps(app: Sphinx, error: Exception | None) -> None:
    """Leave out the theme's source maps, megabytes that only its own developers need."""
    for path in (Path(app.outdir) / "_static").rglob("*.map"):
        path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("config-inited", set_address)
    app.connect("builder-inited", tidy_api, priority=900)  # after autoapi has read the package
    app.connect("autodoc-process-signature", quote_shapes)
    app.connect("source-read", own_notebook)
    app.connect("doctree-read", stamp_run)
    app.connect("doctree-read", mark_short)
    app.connect("html-page-context", choose_scripts, priority=900)  # after the others have added theirs
    app.connect("html-page-context", plain_roles)
    app.connect("build-finished", drop_source_maps)
    app.add_css_file("wsss.css")
    app.add_js_file("wsss.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
