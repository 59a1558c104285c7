"""`wsss book check`: a changed notebook source fails; what else has changed since is named, and is a warning."""

import subprocess
from pathlib import Path

import pytest
from test_results import notebook, put, record

import wsss
from wsss import cli
from wsss.report import elements, results
from wsss.tools import book, sources

NUMBER = "mini/mini#segmentation.miou"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one record, one notebook that reads it, executed just now, and one page; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSSS_RUNS", "")
    (tmp_path / "_config.yml").touch()
    for name in ("cam", "submitted"):
        put_text(tmp_path / "wsss" / f"{name}.py", "x = 1\n")
    results.save(record(), tmp_path / "data" / "results" / "mini" / "mini" / "0.json")
    put_text(tmp_path / "book" / "index.md", "# Title\n")
    execute(tmp_path)
    return tmp_path


def put_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def execute(root, source="from wsss import cam\nfrom wsss.report import results", **stamp):
    """Write a notebook and its executed copy, stamped as the engine does it."""
    package = sources.files_hash((root / "wsss").rglob("*.py"), root / "wsss")
    known = {"package": package, "commit": "abc1234", "records": sources.records(root / "data" / "results")}
    whole = {name: value for name, value in (known | stamp).items() if value is not None}
    put(root / "notebooks" / "demo.ipynb", notebook(source))
    put(root / "book" / "runs" / "demo.ipynb", notebook(source, wsss=whole))


def build(root, *rows):
    """The manifest that a build leaves behind."""
    found = [[page, kind, words, elements.digest_now(kind, words)] for page, kind, words in rows]
    put(root / book.HTML, {"runs": "", "files": elements.inputs(), "elements": found})
    return found


def check(capsys, *words):
    """Exit code, the lines of elements, the closing sentence."""
    code = cli.main(["book", "check", *words])
    *lines, last = capsys.readouterr().out.splitlines()
    return code, lines, last


def test_what_was_just_made_is_fresh(project, capsys):
    build(project, ("index", "number", NUMBER), ("index", "text", "book/index.md"))
    assert check(capsys) == (0, [], "all 3 elements are what their sources give")


def test_a_changed_notebook_source_fails(project, capsys):
    put(project / "notebooks" / "demo.ipynb", notebook("from wsss import losses"))
    code, lines, last = check(capsys)
    assert code == 1 and lines[0].startswith("runs/demo: notebook: failure: notebooks/demo.ipynb has changed")
    assert last.startswith("1 of 1 elements are not what their sources give: 1 failures, 0 warnings; there is no book")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_cannot_be_read_fails(project, capsys, text):
    (project / "book" / "runs" / "demo.ipynb").write_text(text)
    code, lines, _ = check(capsys)
    assert code == 1 and "cannot be compared" in lines[0] and "make publish" in lines[0]


def test_a_notebook_without_a_source_fails(project, capsys):
    (project / "notebooks" / "demo.ipynb").unlink()
    assert check(capsys)[0] == 1


def test_a_changed_package_is_a_warning_also_where_git_does_not_know_the_commit(project, capsys):
    put_text(project / "wsss" / "cam.py", "x = 2\n")
    code, lines, _ = check(capsys)
    assert code == 0 and "commit abc1234 unknown to git here" in lines[0] and ": warning: " in lines[0]


def test_a_changed_package_is_named_by_the_modules_that_the_notebook_uses(project, capsys):
    def git(*words):
        who = ["-c", "user.name=nobody", "-c", "user.email=nobody"]
        done = subprocess.run(["git", *who, *words], cwd=project, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "all")
    execute(project, commit=git("rev-parse", "--short", "HEAD"))
    put_text(project / "wsss" / "submitted.py", "x = 2\n")
    assert check(capsys)[:2] == (0, [])
    put_text(project / "wsss" / "cam.py", "x = 2\n")
    code, lines, _ = check(capsys)
    assert code == 0 and ": wsss/cam.py; run it" in lines[0] and "submitted" not in lines[0]


def test_changed_records_are_named(project, capsys):
    results.save(record(seed=1), project / "data" / "results" / "mini" / "mini" / "1.json")
    code, lines, _ = check(capsys)
    assert code == 0 and "records have changed since it was executed: mini/mini/1;" in lines[0]
    execute(project, source="from wsss import cam", records={})
    assert check(capsys)[:2] == (0, [])


def test_older_notebooks_without_stamps_say_so(project, capsys):
    execute(project, records=None)
    assert "does not say which records it read" in check(capsys)[1][0]
    put(project / "book" / "runs" / "demo.ipynb", notebook("from wsss import cam\nfrom wsss.report import results"))
    code, lines, _ = check(capsys)
    assert code == 0 and "does not say what it was made with" in lines[0]


def test_the_changed_elements_of_a_built_book_are_named_by_page(project, capsys):
    rows = [("method", "code", "wsss/cam.py"), ("index", "text", "book/index.md"), ("results", "number", NUMBER)]
    build(project, *rows, ("deviations", "tests", "D1"), ("tried", "number", "published#none"))
    manifest = wsss.paths.read_json(project / book.HTML)
    manifest["elements"][3][3] = elements.digest(("gone.py::test_D1_x",))
    put(project / book.HTML, manifest)
    (project / "book" / "index.md").write_text("# Another title\n")
    put_text(project / "wsss" / "cam.py", "x = 2\n")
    results.save(record(results={"segmentation": {"miou": 1.0}}), project / "data/results/mini/mini/0.json")
    execute(project)
    code, lines, last = check(capsys)
    assert code == 1  # for the two that cannot be made
    assert [line.partition(": has")[0] for line in lines if "built" in line] == [
        "index: text book/index.md: warning",
        "method: code wsss/cam.py: warning",
        f"results: number {NUMBER}: warning",
    ]
    assert "(data/results/mini/mini/0.json, wsss/cam.py)" in lines[-2] and "build the book again" in lines[-2]
    assert lines[0].startswith("deviations: tests D1: failure: cannot be made") and lines == sorted(lines)
    assert last == "5 of 6 elements are not what their sources give: 2 failures, 3 warnings"


def test_a_change_that_no_element_shows_is_none(project, capsys):
    build(project, ("results", "number", NUMBER))
    results.save(record(versions={"torch": "another"}), project / "data" / "results" / "mini" / "mini" / "0.json")
    execute(project)
    assert check(capsys)[:2] == (0, [])


def test_the_readers_own_book_is_compared_with_their_runs(project, capsys, monkeypatch):
    put(project / "runs" / "verdict.json", {"rows": [], "passed": True})
    monkeypatch.setenv("WSSS_RUNS", "runs")
    build(project, ("your_run", "verdict", ""))
    put(project / book.HTML, wsss.paths.read_json(project / book.HTML) | {"runs": "runs"})
    monkeypatch.setenv("WSSS_RUNS", "")
    assert check(capsys)[:2] == (0, [])
    put(project / "runs" / "verdict.json", {"rows": [], "passed": False})
    assert check(capsys)[1][0].startswith("your_run: verdict: warning: has changed")


def test_a_pdf_of_other_pages_is_named(project, capsys):
    put_text(project / elements.PDF, "%PDF")
    rows = build(project, ("index", "text", "book/index.md"), ("index", "pdf", elements.PDF))
    put(project / book.PRINTED, {"elements": rows[:1]})
    assert check(capsys)[:2] == (0, [])
    put(project / book.PRINTED, {"elements": []})
    code, lines, _ = check(capsys)
    assert code == 0 and "was printed of other pages" in lines[0]


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["chek"], 1)])
def test_words_that_are_no_check(project, capsys, words, code):
    assert cli.main(["book", *words]) == code
    said = capsys.readouterr()
    assert "wsss book check" in said.out + said.err


def test_a_broken_manifest_is_one_sentence(project, capsys):
    put_text(project / book.HTML, "{")
    assert book.main(["check"]) == 1
    assert "elements.json is not valid JSON" in capsys.readouterr().err


def test_the_real_package_is_what_the_real_notebooks_use():
    files = sources.code_files("wsss.report.tables")
    assert Path(wsss.__file__).parent / "report" / "table.py" in files
