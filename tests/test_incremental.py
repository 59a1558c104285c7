"""Incremental builds of the book: exactly the pages that show what has changed are written again."""

import base64
import io
import json

import PIL.Image
import pytest
from test_book import build, one_record
from test_results import put, record

from wsss.report import results

PAGES = {
    "number": ":result:`mini/mini#segmentation.miou`",
    "table": ".. results-table:: headline",
    "other": ":result:`other/other#segmentation.miou`",
    "printed": ":result:`published#segmentation/ToCo/voc_val`",
    "picture": ".. results-figure:: demo#0",
    "tests": ":tested:`D1`",
    "bench": ".. results-figure:: evaluation_memory",
    "code": ".. literalinclude:: ../wsss/losses.py\n   :pyobject: classification_loss",
    "prose": "Words.",
}
MEMORY = {
    "bench": "memory",
    "done": [0, 1],
    "process_mb": [9.0] * 2,
    "workers_mb": [5.0] * 2,
    "workers": 2,
    "images": 1,
}


def picture(colour):
    """An executed notebook that shows one pixel."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (1, 1), colour).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    shown = {"data": {"text/html": f'<img class="wsss-figure" alt="a pixel" src="data:image/png;base64,{data}">'}}
    return {"cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [shown]}], "metadata": {}}


@pytest.fixture
def book(tmp_path):
    """Nine pages, each with one element, built once; the project and a function that builds them again and says which
    were written."""
    project = one_record(tmp_path)
    for name, text in PAGES.items():
        (project / "book" / f"{name}.rst").write_text(f"{name}\n=======\n\n{text}\n")
    save(project, record(dataset="other", variant="other"))
    save(project, record(variant="mini-base"))  # the headline shows base and modules together or not at all
    put(project / "book" / "runs" / "demo.ipynb", picture("red"))
    put_tests(project, "test_D1_a")

    def written(text=""):
        before = {page: page.stat().st_mtime_ns for page in (project / "_html").glob("*.html")}
        code, said, _ = build(project, text)
        assert code == 0, said
        after = {page: page.stat().st_mtime_ns for page in (project / "_html").glob("*.html")}
        return {page.stem for page in after if after[page] != before.get(page) and page.stem in PAGES}

    assert written(".. toctree::\n\n   " + "\n   ".join(PAGES)) == set(PAGES)
    return project, written


def save(project, one):
    results.save(one, project / "data" / "results" / one["dataset"] / one["variant"] / f"{one['seed']}.json")


def put_tests(project, *names):
    (project / "tests").mkdir(exist_ok=True)
    (project / "tests" / "test_x.py").write_text("".join(f"def {name}():\n    pass\n\n\n" for name in names))


def test_exactly_the_pages_that_show_a_changed_record_are_written_again(book):
    project, written = book
    assert written() == set()
    save(project, record(results={"segmentation": {"miou": 50.0, "miou_headline": 50.0}}))
    assert written() == {"number", "table"}
    added = record(dataset="other", variant="other", seed=1)
    save(project, added)
    assert written() == {"other"}
    save(project, added | {"date": "2000-01-01"})
    assert written() == set()
    (project / "data" / "results" / "other" / "other" / "1.json").unlink()
    assert written() == {"other"}


def test_exactly_the_pages_that_show_other_changed_files_are_written_again(book):
    project, written = book
    table = project / "data" / "published" / "segmentation.csv"
    table.write_text(table.read_text().replace("71.1", "71.2"))
    put(project / "book" / "runs" / "demo.ipynb", picture("blue"))
    assert written() == {"picture", "table"}
    put_tests(project, "test_D1_a", "test_D2_b")
    put(project / "data" / "results" / "bench" / "evaluation-memory.json", MEMORY)
    assert written() == {"bench"}
    put_tests(project, "test_D1_a", "test_D1_b")
    assert written() == {"tests"}


def test_the_build_writes_down_every_element(book):
    project, written = book
    manifest = json.loads((project / "_html" / "elements.json").read_text())
    shown = {(page, kind, words) for page, kind, words, digest in manifest["elements"] if digest}
    assert {("number", "number", "mini/mini#segmentation.miou"), ("tests", "tests", "D1")} <= shown
    assert {("code", "code", "wsss/losses.py"), ("picture", "figure", "demo#0")} <= shown
    assert {(page, "text", f"book/{page}.rst") for page in PAGES} <= shown
    assert {"data/results/mini/mini/0.json", "tests/test_x.py", "wsss/losses.py"} <= set(manifest["files"])


def test_what_could_not_be_shown_is_tried_and_said_again(tmp_path):
    project = one_record(tmp_path)
    for text in (":result:`mini/nobody#cam.miou`", ""):
        code, said, _ = build(project, text)
        assert code != 0 and "no published record of mini/nobody" in said
