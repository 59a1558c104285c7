"""`python -m wsss.tools.pdf`: print the book's single page to a PDF, by Chromium. No torch, no TeX.

`make pdf` builds that page first. It builds the site last, so that the landing page links to the PDF.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from wsss import command
from wsss.paths import UserError, atomic, project_root

PDF = "_build/html/wsss.pdf"
_PAGE = "_build/pdf/_build/singlehtml/index.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless", "--disable-gpu", "--no-pdf-header-footer"),
    "--virtual-time-budget=600000",  # ms of the page's own clock: printing waits for equations, not for real time
    "--disable-pdf-tagging",  # tags are a third of the file; screen readers have the pages of the site
)


def print_page(page: Path, target: Path, seconds: float = 3600.0) -> None:
    """Print a page to `target`, whole or not at all. Raises UserError with the browser's last words if that fails."""
    if not page.is_file():
        raise UserError(f"there is no page {page} to print; `make pdf` builds it")
    program = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if program is None:
        raise UserError(f"there is no Chromium on the PATH ({', '.join(BROWSERS)}); install one to print the book")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # with its sandbox, Chromium refuses to run as root
    with tempfile.TemporaryDirectory() as profile, atomic(target) as temporary:
        options = [*_OPTIONS, *sandbox, f"--user-data-dir={profile}", f"--print-to-pdf={temporary.resolve()}"]
        try:
            done = subprocess.run(
                [program, *options, page.resolve().as_uri()], capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"printing {page} took more than {seconds:.0f} s and was stopped; try again") from error
        if done.returncode or not temporary.is_file() or not temporary.read_bytes().startswith(b"%PDF"):
            reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise UserError(f"the browser printed no PDF of {page} ({reason}); fix that, then run `make pdf` again")


@dataclass(frozen=True)
class Pdf:
    """Print the book's single page, which `make pdf` builds, to the site."""

    def __call__(self) -> str:
        root = project_root()
        print_page(root / _PAGE, root / PDF)
        return f"{PDF}: {(root / PDF).stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.pdf", Pdf))
