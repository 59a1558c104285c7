"""The book as a site: pages of executed notebooks, the API, links to the project; nothing from the network."""

import json
import re
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
    """The notebook with a caption for each table of pandas, which makes none."""
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
    words = (
        f"{whose} of {stamp.get('notebook', name)}, {stamp.get('date', 'undated')}: "
        f"{stamp.get('seconds', '?')} s on {stamp.get('device', 'an unknown device')}; commit {stamp.get('commit')}"
        f"{', with uncommitted changes' if stamp.get('dirty') else ''}; {given}."
    )
    title.parent.insert(title.parent.index(title) + 1, nodes.paragraph("", words, classes=["wsss-stamp"]))


# The API.


def tidy_api(app: Sphinx) -> None:
    """Document each object where it is defined only, and let |P| in a docstring be a size, not a substitution."""
    for item in app.env.autoapi_all_objects.values():
        item.docstring = item.docstring.replace("|", "\\|")
        item.children = [child for child in item.children if not child.imported]


# The project's address, and scripts of other hosts.


def set_address(app: Sphinx, config: Config) -> None:
    """Buttons, badges and Colab links appear when repository.url in _config.yml is set; only then."""
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
    """Leave out sphinx-thebe, which loads a script from another host and fails without one; MathJax once, not twice."""
    context["css_files"] = [asset for asset in context["css_files"] if "thebe" not in _text(asset)]
    kept: dict[str, Any] = {}
    for asset in context["script_files"]:
        if "thebe" not in _text(asset):
            kept.setdefault(_text(asset), asset)
    context["script_files"] = list(kept.values())


def _text(asset: Any) -> str:
    return f"{getattr(asset, 'filename', asset)} {getattr(asset, 'attributes', {}).get('body', '')}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("config-inited", set_address)
    app.connect("builder-inited", tidy_api, priority=900)  # after autoapi has read the package
    app.connect("source-read", own_notebook)
    app.connect("doctree-read", stamp_run)
    app.connect("html-page-context", choose_scripts, priority=900)
    app.add_css_file("wsss.css")
    app.add_js_file("wsss.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
