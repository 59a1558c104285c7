"""The book as a PDF: printed whole or not at all, and a clear sentence where it cannot be."""

import os
import re
import shutil
import stat

import pytest

from wsss import command, paths
from wsss.paths import UserError
from wsss.tools import pdf


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("<p>Words.</p>")
    return path


def stand_in(tmp_path, monkeypatch, script):
    """The only browser on the PATH: a shell script."""
    path = tmp_path / "bin" / "google-chrome"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}")


def test_without_a_browser_it_says_what_to_install(page, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium on the PATH"):
        pdf.print_page(page, tmp_path / "book.pdf")


def test_without_a_page_it_says_what_builds_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "wsss").mkdir()
    assert command.main("pdf", pdf.Pdf, []) == 1
    assert "`make pdf` builds it" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["echo no room >&2; exit 3", "echo no room >&2"])
def test_a_browser_that_fails_leaves_the_old_pdf(page, tmp_path, monkeypatch, script):
    stand_in(tmp_path, monkeypatch, script)
    (tmp_path / "book.pdf").write_bytes(b"%PDF old")
    with pytest.raises(UserError, match="no room"):
        pdf.print_page(page, tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_bytes() == b"%PDF old"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_browser_that_hangs_is_stopped(page, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "while :; do :; done")
    with pytest.raises(UserError, match="took more than 1 s"):
        pdf.print_page(page, tmp_path / "book.pdf", seconds=1.0)


def test_what_the_browser_prints_is_the_pdf(page, tmp_path, monkeypatch):
    words = 'for word in "$@"; do case $word in --print-to-pdf=*) printf "%%PDF of $word" > "${word#*=}";; esac; done'
    stand_in(tmp_path, monkeypatch, words)
    pdf.print_page(page, tmp_path / "site" / "book.pdf")
    assert (tmp_path / "site" / "book.pdf").read_bytes().startswith(b"%PDF of")


SECOND_PAGE_WHEN_SET = r"""<script>
MathJax = {startup: {pageReady: () => MathJax.startup.defaultPageReady().then(() => {
  document.body.insertAdjacentHTML("beforeend", "<p style='break-before: page'>set</p>")
})}}
</script><script defer src="tex-svg.js"></script><p>\[\sum_{i=1}^n \frac{a_i}{b_i}\]</p>"""


@pytest.mark.slow
def test_a_real_browser_waits_for_the_equations(tmp_path):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium on the PATH")
    os.symlink(paths.project_root() / "book" / "_static" / "mathjax" / "tex-svg.js", tmp_path / "tex-svg.js")
    (tmp_path / "page.html").write_text(SECOND_PAGE_WHEN_SET)
    pdf.print_page(tmp_path / "page.html", tmp_path / "page.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 2
