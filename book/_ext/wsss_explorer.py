"""The explorer in the book: its scripts, and a page that runs the network in the reader's browser.

```{explorer} data/photographs/explorer.json        what `wsss explore FOLDER --output X.json` wrote
:model: data/weights/vit_tiny_voc_animals.onnx      the graph of the last model in it, its weights beside it
:compare: data/photographs/base_and_ours.json       the same photographs by two other models, loaded on demand
```
"""

import json
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from wsss_book import ROOT

from wsss.explore import engine, payload
from wsss.paths import sha256

log = logging.getLogger(__name__)
FILES = (*payload.SCRIPTS, "explorer.css")
PARTS = "_static/explorer-model/"


class ExplorerDirective(SphinxDirective):
    """{explorer}: the photographs of a JSON file in the explorer, with the model if its runtime could be fetched."""

    required_arguments = 1
    option_spec = {"model": directives.unchanged_required, "compare": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return raw HTML; builders of other formats leave it out."""
        path, graph = ROOT / self.arguments[0], ROOT / self.options["model"]
        self.env.note_reread()  # the parts are written here, perhaps to a new folder
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["model"]["weights"] != sha256(graph.with_suffix(".safetensors")):
            message = "%s was made with other weights than %s; make it again with wsss explore"
            log.warning(message, path.name, graph.name, location=self.get_location(), type="wsss", subtype="result")
        source, scripts = "../" * self.env.docname.count("/") + PARTS, {}
        if packed := engine.pack(graph):
            content["engine"] = packed[0] | {"source": source}
            scripts |= enumerate(packed[1])
        if "compare" in self.options:
            other = json.loads((ROOT / self.options["compare"]).read_text(encoding="utf-8"))
            content["more"], scripts["more"] = payload.more(content, other, f"{source}more.js")
        engine.write(scripts, Path(self.env.app.outdir) / PARTS)
        return [nodes.raw("", payload.element(content, compressed=True), format="html")]


def copy_scripts(app: Sphinx) -> None:
    """Copy the explorer's scripts and style from the package to the site's files."""
    folder = Path(app.outdir) / "_static"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES if app.builder.format == "html" else ():
        shutil.copyfile(payload.FOLDER / name, folder / name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("explorer", ExplorerDirective)
    app.connect("builder-inited", copy_scripts)
    app.add_css_file("explorer.css")
    for name in payload.SCRIPTS[::-1]:
        app.add_js_file(name, loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
