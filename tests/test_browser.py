"""The built book in a real browser: no errors, no other host, WCAG A and AA, a phone's width, the dark, the search."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from browser import axe, opened, served, set_theme
from bs4 import BeautifulSoup

TOC = (Path(__file__).resolve().parents[1] / "book" / "_toc.yml").read_text()
PAGES = [f"{page}.html" for page in ("index", *re.findall(r"file: (\S+)", TOC), "search")]
KINDS = {"index.html", "method.html", "results.html", "explore.html", "api/method.html", "search.html"}
"""A page of each kind: with cards, formulas, tables and figures, the explorer, source, and the search."""
WIDTHS = (1280, 390)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    with served(book) as address:
        yield address


@cache
def markup(path: Path) -> Any:
    """A page's elements as they are in the file."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# In the browser.


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page(browser: Any, address: str, page: str, width: int) -> None:
    with opened(browser, f"{address}/{page}", width) as (tab, faults):
        found = [*faults, *seen(tab, width, narrow=page in KINDS)]
    assert not found, "\n".join(found)


def seen(tab: Any, width: int, narrow: bool = True) -> list[str]:
    """Faults of a page in the browser. axe takes seconds, so that on a phone it checks only one page of each kind, and
    the dark theme at only one width."""
    found = [*formulas(tab), *(axe(tab) if width == WIDTHS[0] or narrow else ())]
    if (room := tab.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"{room} px wide: {widest(tab, width)}")
    if width == WIDTHS[0]:
        set_theme(tab, "dark")
        found += [f"in the dark, {fault}" for fault in axe(tab, colours_only=True)]
    return found


BROKEN = {
    "console: wrong": "<script>console.error('wrong')</script>",
    "script: wrong": "<script>throw new Error('wrong')</script>",
    "asks http://elsewhere.invalid/a.png": '<img alt="a" src="http://elsewhere.invalid/a.png">',
    "404: ": '<img alt="a" src="absent.png">',
    "formula not drawn: ": '<span class="math">\\(x\\)</span>',
    "color-contrast: p": '<p style="color: #ccc">Pale.</p>',
    "in the dark, color-contrast: p": "<style>[data-theme=dark] p { color: #ccc }</style><p>Pale in the dark.</p>",
    "1500 px wide: <p": '<p style="width: 1500px; margin: 0">Wide.</p>',
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_found(browser: Any, tmp_path: Path, fault: str) -> None:
    sound = f"<title>t</title><body style='margin: 0; background: #fff'><article>{BROKEN[fault]}</article>"
    (tmp_path / "a.html").write_text(f"<!doctype html><html lang='en'>{sound}")
    with served(tmp_path) as address, opened(browser, f"{address}/a.html") as (tab, faults):
        found = [*faults, *seen(tab, WIDTHS[0])]
    assert any(one.startswith(fault) for one in found), found


@pytest.mark.parametrize("page", sorted(KINDS - {"search.html"}))
def test_a_page_from_a_file(browser: Any, book: Path, page: str) -> None:
    with opened(browser, (book / page).as_uri()) as (tab, faults):
        found = [*faults, *formulas(tab)]
    assert not found, "\n".join(found)


def formulas(tab: Any) -> list[str]:
    """Formulas that MathJax has not drawn, and formulas that are cut off: one that is too wide must scroll."""
    plain = tab.locator(".math:not(:has(mjx-container))").all_text_contents()
    wrong = tab.locator("mjx-merror, [data-mjx-error]").all_text_contents()
    raw = re.findall(r"\$\$.*|\\\(.*?\\\)", tab.locator("main, article").first.inner_text())
    cut = tab.evaluate(
        """() => [...document.querySelectorAll(".math > mjx-container")]
        .map(drawn => [drawn, drawn.getBoundingClientRect(), drawn.parentElement.getBoundingClientRect()])
        .filter(([, own, room]) => own.left < room.left - 1 || own.right > room.right + 1)
        .map(([drawn]) => drawn.textContent.slice(0, 80))"""
    )
    found = [f"formula not drawn: {text.strip()[:80]}" for text in (*plain, *wrong, *raw)]
    return found + [f"formula cut off: {text}" for text in cut]


def widest(tab: Any, width: int) -> str:
    """The elements of the article that reach furthest beyond the width."""
    return tab.evaluate(
        """width => [...document.querySelectorAll("article *")]
        .map(element => [element.getBoundingClientRect().right, element.outerHTML.slice(0, 80)])
        .filter(([right]) => right > width).sort(([a], [b]) => b - a)
        .slice(0, 3).map(([right, html]) => html).join("; ")""",
        width,
    )


def test_the_dark_theme_is_dark(browser: Any, address: str) -> None:
    """As the reader's system asks for it, without a click."""
    with browser.new_context(color_scheme="dark") as context:
        tab = context.new_page()
        tab.goto(f"{address}/index.html")
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 64, background


def test_the_search_finds_a_page(browser: Any, address: str) -> None:
    with opened(browser, f"{address}/index.html") as (tab, faults):
        tab.keyboard.press("Control+k")
        tab.keyboard.type("permutohedral")
        tab.keyboard.press("Enter")
        tab.wait_for_url(re.compile(r"/search\.html\?q=permutohedral"))
        tab.wait_for_selector("#search-results li a")
        links = tab.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert not faults and any("/method.html" in link for link in links), (faults, links)


# In the files.


def test_all_pages_are_tested(book: Path) -> None:
    built = {path.relative_to(book).as_posix() for path in book.rglob("*.html")}
    assert {name for name in built if not name.startswith("_static/")} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_markup(book: Path, page: str) -> None:
    tree = markup(book / page)
    ids = [element["id"] for element in tree.find_all(id=True)]
    found = [f"id {name} twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    found += [f"no words: {str(image)[:120]}" for image in tree.find_all("img") if not image.get("alt", "").strip()]
    for kind, title in (("table", "caption"), ("figure", "figcaption")):
        bare = [one for one in tree.find_all(kind) if not one.find(title) or not one.find(title).get_text(strip=True)]
        found += [f"{kind} without {title}: {one.get_text(' ', strip=True)[:80]}" for one in bare]
    left = [
        text for text in tree.find_all(string=re.compile("```|:::")) if not text.find_parent(["pre", "code", "script"])
    ]
    found += [f"not read as a directive: {text.strip()[:80]}" for text in left]
    found += re.findall(r'(?:src|<link[^>]+href)="(?:https?:)?//[^"]+', (book / page).read_text())
    # The theme puts the title a second time outside the article, for print only.
    titles = [tree.find("title"), *tree.select("main h1" if page == "search.html" else "article h1")]
    assert not found, "\n".join(found)
    assert [bool(title and title.get_text(strip=True)) for title in titles] == [True, True]


MODEL = "_static/explorer-model"
"""Loaded only when the reader gives a photograph."""
LARGER = {"runs/explore.html": 1.6e6}
"""Six images, seen by three models."""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_small(book: Path, page: str) -> None:
    """A page with its pictures takes at most 1.5 MB; the scripts and styles that all pages share, 5 MB."""
    tree, folder = markup(book / page), (book / page).parent
    pictures = {image["src"] for image in tree.find_all("img") if not image["src"].startswith("data:")}
    common = {script["src"] for script in tree.find_all("script", src=True)}
    common |= {link["href"] for link in tree.find_all("link", rel="stylesheet")}
    own, shared = (
        sum((folder / unquote(name.partition("?")[0])).stat().st_size for name in names) for names in (pictures, common)
    )
    assert (book / page).stat().st_size + own <= LARGER.get(page, 1.5e6)
    assert shared <= 5e6 and not any(MODEL in name for name in common)


def test_the_site_is_small(book: Path) -> None:
    assert sum(path.stat().st_size for path in book.rglob("*") if path.is_file()) <= 60e6


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(book: Path, page: str) -> None:
    found = []
    for element in markup(book / page).find_all(["a", "link", "script", "img"]):
        link = element.get("href") or element.get("src") or ""
        target, fragment = urldefrag(link)
        if re.match(r"(https?:)?//|data:|mailto:|javascript:", link) or not link:
            continue
        path = ((book / page).parent / unquote(target.partition("?")[0])).resolve() if target else book / page
        if not path.is_file():
            found.append(link)
        elif fragment and path.suffix == ".html":
            names = {other.get("id") or other.get("name") for other in markup(path).find_all(True)}
            found += [] if unquote(fragment) in names else [link]
    assert not found, f"links of {page} that lead nowhere: {found}"
