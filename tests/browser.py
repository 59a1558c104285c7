"""A headless Chromium for tests of pages: where it is, a page that asks no other host, axe-core, a server of files."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from wsss.tools.pdf import BROWSERS

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
LOCAL = re.compile(r"(file|data|blob|about):|(http|ws)://127\.0\.0\.1[:/]")
PATIENCE = 180_000
"""Milliseconds to wait for a page; a busy machine needs many of them."""
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
COLOURS = ("color-contrast", "link-in-text-block")


def missing(what: str) -> NoReturn:
    """Skip the test and say why; fail it if the environment says that a browser must be there."""
    if os.environ.get("WSSS_BROWSER") == "required":
        pytest.fail(f"{what}, although WSSS_BROWSER=required", pytrace=False)
    pytest.skip(what)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser. Until it is closed it runs an event loop in this thread, so other tests cannot run their own."""
    try:
        from axe_playwright_python.base import AXE_SCRIPT  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        missing(f"{error.name} is not installed (pip install -e '.[test]')")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing(f"none of {', '.join(BROWSERS)} is on the PATH")
    options = {"executable_path": found, "args": ARGUMENTS, "timeout": PATIENCE}
    with sync_playwright() as playwright, playwright.chromium.launch(**options) as browser:
        yield browser


@contextmanager
def opened(browser: Any, address: str, width: int = 1280) -> Iterator[tuple[Any, list[str]]]:
    """A loaded page, and the list of its faults so far: errors of scripts, failed requests, requests to other hosts
    (which are blocked)."""
    faults: list[str] = []

    def refuse(route: Any) -> None:
        faults.append(f"asks {route.request.url}")
        route.abort()

    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        context.route(lambda url: not LOCAL.match(url), refuse)
        page = context.new_page()
        page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"script: {error.message}"))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("response", lambda got: faults.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
        page.on("websocket", lambda to: None if LOCAL.match(to.url) else faults.append(f"asks {to.url}"))
        page.goto(address, wait_until="load")
        page.evaluate("async () => { await document.fonts.ready; await window.MathJax?.startup?.promise }")
        yield page, faults


def axe(page: Any, colours_only: bool = False) -> list[str]:
    """Violations that axe-core finds, one line per element: of WCAG 2.1 A and AA, or only of the rules on colours."""
    from axe_playwright_python.base import AXE_SCRIPT

    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    only = {"type": "rule", "values": COLOURS} if colours_only else {"type": "tag", "values": RULES}
    found = page.evaluate("options => axe.run(document, options)", {"runOnly": only, "resultTypes": ["violations"]})
    return [
        f"{rule['id']}: {node['target'][-1]}: {node['html'][:120]} ({' '.join(node['failureSummary'].split())[:240]})"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def set_theme(page: Any, theme: str) -> None:
    """Switch to light or dark at once, without fading colours."""
    page.add_style_tag(content="*, *::before, *::after { transition: none !important }")
    page.evaluate("theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})", theme)


SOURCES = ("_config.yml", "CITATION.cff", "book", "data", "notebooks", "tests", "wsss")
"""Files and folders of the project that the book is made of."""


def build_book(folder: Path) -> Path:
    """The book's pages, built below the folder from copies of its sources."""
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without printing a line for each request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folder's files on this machine; yield the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
