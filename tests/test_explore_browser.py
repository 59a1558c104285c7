"""The explorer in a real browser: over file:// and http, with changed pixels, and numbers as Python computes them."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from browser import axe, opened, served
from running import folder, one_thread, own_set, run, tiny
from torch.nn import functional

from wsss.explore import payload as kept
from wsss.explore import scene as scenes
from wsss.explore import sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page of three images and two models, and what it was made of."""
    root, output = own_set(tmp_path_factory.mktemp("data") / "own"), tmp_path_factory.mktemp("runs")
    assert run(*tiny(root, output / "both")) == 0
    plain = [w for n in ("patch_contrast", "csa", "segmentation", "energy") for w in (f"--{n}.weight", "0")]
    assert run(*tiny(root, output / "plain", *plain, "--variant", "plain")) == 0
    models = [sources.of_run(folder(output / name)) for name in ("both", "plain")]
    pictures = sources.of_set(root, "val", models[0][1], 3)
    with one_thread():
        found = [scenes.scene(picture, [seer for seer, _ in models]) for picture in pictures]
    path = tmp_path_factory.mktemp("site") / "explore.html"
    content = kept.payload(found, models[0][1], 0.3)
    assert content["start"]["variant"] == 1, "the last model is shown first"
    content["start"]["variant"] = 0
    path.write_text(kept.page(content, "Class activation maps", ["Words."]))
    return path, found


@pytest.fixture
def explorer(browser, site):
    with opened(browser, site[0].as_uri()) as (page, faults):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        yield page, site[1]
        assert not faults


def change(page, key, value):
    """Set a control as a person does, and wait until the page has been painted anew."""
    control = page.locator(f"[data-key={key}]")
    with painted(page, 0):
        if control.evaluate("x => x.tagName") == "SELECT":
            control.select_option(str(value))
        else:
            control.fill(str(value))


PIXELS = """caption => {
  const figures = [...document.querySelectorAll(".wsss-explorer figure")];
  const canvas = figures.find(x => x.lastChild.textContent.startsWith(caption)).querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, [...data]];
}"""


def pixels(page, caption):
    """Colours (h, w, 3) of the canvas with that caption."""
    found = page.evaluate(PIXELS, caption)
    return np.array(found[2], np.uint8).reshape(found[0], found[1], 4)[..., :3]


def numbers(page):
    """The table of numbers: label map -> IoU, outside, missed, covers."""
    rows = page.locator(".wx-numbers tbody tr")
    cells = [rows.nth(i).locator("th, td").all_text_contents() for i in range(rows.count())]
    return {name: [None if x == "–" else float(x) for x in values] for name, *values in cells}


def enlarged(maps, size):
    """Bilinear, as the browser does it, of what is kept."""
    small = torch.from_numpy(kept.quantised_maps(maps) / 255)[None]
    return functional.interpolate(small, size, mode="bilinear", align_corners=False)[0].numpy()


def expected(scene, view, layer, mode, label, threshold):
    """Label map of the CAM, and its numbers against the truth."""
    size = scene.pixels.shape[:2]
    planes = enlarged(getattr(view.layers[layer], mode), size)
    rivals = [place for place, one in enumerate(view.shown) if one in (*scene.present, label)]
    best = planes[rivals].max(0)
    winner = np.array(view.shown)[rivals][planes[rivals].argmax(0)]
    labels = np.where(best > threshold, winner, 0)
    here, there, judged = labels == label, scene.truth == label, scene.truth != 255
    both, extra, missed = ((x & judged).sum() for x in (here & there, here & ~there, ~here & there))
    share = lambda part, whole: 100 * part / whole if whole else None  # noqa: E731
    found = [share(both, both + extra + missed), share(extra, both + extra), share(missed, both + missed)]
    return labels, [*found, 100 * here.mean()]


def same(one, other, tolerance=0.06):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None) and (a is None or abs(a - b) <= tolerance), (one, other)


def test_numbers_and_labels_are_those_that_python_computes(explorer):
    page, found = explorer
    states = [(0, 0, 0, "multi", 0.3), (2, 0, 1, "single", 0.45), (2, 1, 1, "multi", 0.2), (1, 1, 0, "single", 0.05)]
    for image, variant, layer, mode, threshold in states:
        for key, value in (("image", image), ("variant", variant), ("layer", layer), ("scales", mode)):
            if page.locator(f"[data-key={key}]").input_value() != str(value):
                change(page, key, value)
        if page.locator("[data-key=threshold]").input_value() != str(threshold):
            change(page, "threshold", threshold)
        label = int(page.locator("[data-key=label]").input_value())
        scene, view = found[image], found[image].views[variant]
        labels, wanted = expected(scene, view, layer, mode, label, threshold)
        same(numbers(page)["CAM at the threshold"], wanted)
        palette = np.array(kept._palette(scene, 3), np.uint8)
        shown = pixels(page, "CAM at the threshold")
        assert (shown == palette[labels]).all(2).mean() > 0.9, "all but the outline of the patch"
        if view.segmentation is not None:
            assert (pixels(page, "segmentation") == palette[view.segmentation]).all(2).mean() > 0.9
            here, there = view.segmentation == label, scene.truth == label
            judged = scene.truth != 255
            union = ((here | there) & judged).sum()
            iou = 100 * (here & there & judged).sum() / union if union else None
            same(numbers(page)["segmentation"][:1], [iou])
        assert ("segmentation" in numbers(page)) == (view.segmentation is not None)


@pytest.mark.parametrize(
    "key, value, panel",
    [
        ("threshold", 0.9, "CAM at the threshold"),
        ("opacity", 0.1, "CAM over the image"),
        ("colours", "gray", "CAM over the image"),
        ("label", 2, "CAM over the image"),
        ("layer", 1, "CAM over the image"),
        ("scales", "single", "CAM over the image"),
        ("variant", 1, "CAM over the image"),
        ("image", 1, "image"),
        ("image", 1, "truth"),
        ("row", None, "tokens"),
        ("column", None, "subspace 1"),
        ("row", None, "CAM, aux layer"),
    ],
)
def test_every_control_changes_the_pictures(explorer, key, value, panel):
    page, found = explorer
    if value is None:  # another patch than the one that is chosen
        value = (int(page.locator(f"[data-key={key}]").input_value()) + 1) % found[0].views[0].grid[0]
    before, said = pixels(page, panel), page.locator(".wx-status").text_content()
    change(page, key, value)
    after = pixels(page, panel)
    assert before.shape != after.shape or (before != after).any()
    if key not in ("opacity", "colours"):
        assert page.locator(".wx-status").text_content() != said


def test_a_click_chooses_a_patch_and_shows_what_is_like_it(explorer):
    page, found = explorer
    view, canvas = found[0].views[0], page.locator(".wx-panels canvas").first
    rows, columns = view.grid
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * (columns - 0.5) / columns, "y": box["height"] * 0.5 / rows})
    page.wait_for_function("count => document.querySelector('[data-key=column]').value == count", arg=columns - 1)
    page.wait_for_function("document.querySelector('.wx-status').textContent.includes('row 1, column')")
    assert page.locator("[data-key=row]").input_value() == "0"
    index = columns - 1
    planes = enlarged(view.layers[0].multi, view.grid).reshape(len(view.shown), -1)
    rivals = [place for place, one in enumerate(view.shown) if one in found[0].present]
    vectors = np.concatenate([1 - planes[rivals].max(0, keepdims=True), planes[rivals]]).T
    rows_of = {name: kept.quantised_codes(kept.compact(codes)).astype(float) for name, codes in view.codes.items()}
    rows_of[f"CAM, {view.layers[0].name}"] = vectors
    for name, vectors in rows_of.items():
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        caption = page.locator("figcaption", has_text=re.compile(f"^{re.escape(name)}: mean")).text_content()
        assert abs(float(caption.rpartition(" ")[2]) - (unit @ unit[index]).mean()) < 0.006, caption


def test_it_works_by_keyboard_alone(explorer):
    page, _ = explorer
    page.locator("[data-key=threshold]").focus()
    before = float(page.locator("[data-key=threshold]").input_value())
    page.keyboard.press("ArrowRight")
    assert float(page.locator("[data-key=threshold]").input_value()) == pytest.approx(before + 0.01)
    reached = set()
    page.locator("[data-key=image]").focus()
    for _ in range(12):
        reached.add(page.evaluate("document.activeElement.dataset.key"))
        page.keyboard.press("Tab")
    assert {
        "image",
        "variant",
        "label",
        "layer",
        "scales",
        "colours",
        "threshold",
        "opacity",
        "row",
        "column",
    } <= reached


def test_what_is_seen_is_said(explorer):
    page, found = explorer
    words = page.locator(".wx-panels canvas").evaluate_all("all => all.map(x => x.getAttribute('aria-label'))")
    assert len(words) == 6 and all(words)
    assert found[0].name in words[0] and "largest value" in words[1] and re.search(r"cup \d+ %", words[2])
    assert page.locator(".wx-status").get_attribute("role") == "status"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_anyone(browser, site, width, theme):
    with opened(browser, site[0].as_uri(), width) as (page, faults):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector(".wsss-explorer[data-ready]")
        assert axe(page) == [] and not faults
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_it_works_over_http(browser, site):
    with (
        served(site[0].parent) as address,
        opened(browser, f"{address}/explore.html") as (page, faults),
    ):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        change(page, "threshold", 0.77)
        assert "above 0.77" in page.locator(".wx-status").text_content() and not faults


@pytest.mark.parametrize("way", ["file", "http"])
@pytest.mark.parametrize("number", [0, 1])
def test_those_in_the_built_book_answer(browser, book, way, number):
    """Class, layer, threshold, image, a patch by its slider and by a click: pixels change, and nothing is asked of
    another host."""
    name = "runs/explore.html"
    with (
        served(book) as site,
        opened(browser, (book / name).as_uri() if way == "file" else f"{site}/{name}") as opening,
    ):
        page, faults = opening
        page.wait_for_function("document.querySelectorAll('.wsss-explorer[data-ready]').length === 2")
        explorer = page.locator(".wsss-explorer").nth(number)
        for key, panel in (("threshold", 2), ("layer", 1), ("label", 1), ("image", 0), ("row", 1)):
            control, before = explorer.locator(f"[data-key={key}]"), drawn(explorer, panel)
            with painted(page, number):
                if key in ("threshold", "row"):
                    control.fill("0.21" if key == "threshold" else str((int(control.input_value()) + 5) % 10))
                else:
                    control.select_option(index=1)
            assert drawn(explorer, panel) != before, key
        before = explorer.locator(".wx-status").text_content()
        with painted(page, number):
            explorer.locator(".wx-panels canvas").first.click(position={"x": 9, "y": 9})
        assert explorer.locator(".wx-status").text_content() != before and not faults


@contextmanager
def painted(page, number):
    """Wait until what happens in the block has been drawn."""
    count = "number => document.querySelectorAll('.wsss-explorer')[number].dataset.ready"
    before = page.evaluate(count, number)
    yield
    page.wait_for_function(f"([number, before]) => ({count})(number) !== before", arg=[number, before])


def drawn(explorer, panel):
    """A canvas as text."""
    return explorer.locator(".wx-panels canvas").nth(panel).evaluate("canvas => canvas.toDataURL()")
