"""The explorer in a real browser: over file:// and http, with changed pixels, and numbers as Python computes them."""

import base64
import dataclasses
import json
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
import torch
from browser import axe, missing, opened, served
from PIL import Image, ImageCms
from running import one_thread
from torch.nn import functional

from wsss import evaluate, transforms
from wsss.data.pictures import read_image
from wsss.explore import engine, onnx_graph, sources
from wsss.explore import payload as kept
from wsss.explore import scene as scenes
from wsss.paths import UserError

pytestmark = pytest.mark.slow
IGNORE = 255


@pytest.fixture(scope="module")
def made(models):
    """Two models, a plain one last, and what they see in three images."""
    root, *runs = models
    seers, classes = sources.of_runs(runs)
    with one_thread():
        return seers, [scenes.scene(picture, seers) for picture in sources.of_set(root, "val", classes, 3)]


@pytest.fixture(scope="module")
def site(made, tmp_path_factory):
    """A page of three images and two models, and what it was made of."""
    path = tmp_path_factory.mktemp("site") / "explore.html"
    content = kept.payload(made[1], ("cup", "jug"), 0.3)
    assert content["start"]["variant"] == 1, "the last model is shown first"
    content["start"]["variant"] = 0
    path.write_text(kept.page(content, "Class activation maps", ["Words."]))
    return path, made[1]


@pytest.fixture
def explorer(browser, site):
    with opened(browser, site[0].as_uri()) as (page, faults):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        yield page, site[1]
        assert not faults


@contextmanager
def painted(page):
    """Wait until what happens in the block has been drawn."""
    count = "() => document.querySelector('.wsss-explorer').dataset.ready"
    before = page.evaluate(count)
    yield
    page.wait_for_function(f"before => ({count})() !== before", arg=before)


def choose(page, **values):
    with painted(page):
        page.evaluate("values => document.querySelector('.wsss-explorer').explorer.choose(values)", values)


def pixels(page):
    """Colours (h, w, 3) of the picture as it is shown."""
    text = page.evaluate("document.querySelector('.wsss-explorer canvas').toDataURL()").partition(",")[2]
    with Image.open(BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture.convert("RGB"))


def labels(page, key):
    """Label map (h, w) that is drawn under a key."""
    explorer = "document.querySelector('.wsss-explorer').explorer"
    flat = page.evaluate(f"[...{explorer}.labelMap('{key}', {explorer}.at('variant'), {explorer}.at('layer'))]")
    return np.array(flat, np.uint8).reshape(page.evaluate(f"{explorer}.scene.size"))


def numbers(page):
    """The table of numbers: label map -> IoU, outside, missed, covers."""
    rows = page.locator(".wsss-explorer tbody tr")
    cells = [rows.nth(i).locator("th, td").all_text_contents() for i in range(rows.count())]
    return {name: [None if x == "–" else float(x) for x in values] for name, *values in cells}


def enlarged(maps, size):
    """Enlarge the stored maps bilinearly, as the browser does."""
    small = torch.from_numpy(kept.quantised_maps(maps) / 255)[None]
    return functional.interpolate(small, size, mode="bilinear", align_corners=False)[0].numpy()


def expected(scene, view, layer, label, threshold):
    """Label map of the CAM, and its numbers against the truth."""
    size = scene.pixels.shape[:2]
    planes = enlarged(view.layers[layer].maps, size)
    rivals = [place for place, shown in enumerate(view.shown) if shown in (*scene.present, label)]
    best = planes[rivals].max(0)
    winner = np.array(view.shown)[rivals][planes[rivals].argmax(0)]
    cam = np.where(best > threshold, winner, 0)
    here, there, judged = cam == label, scene.truth == label, scene.truth != IGNORE
    both, extra, missed = ((x & judged).sum() for x in (here & there, here & ~there, ~here & there))
    shares = [(both, both + extra + missed), (extra, both + extra), (missed, both + missed), (here.sum(), here.size)]
    return cam, [100 * part / whole if whole else None for part, whole in shares]


def test_numbers_and_labels_are_those_that_python_computes(explorer):
    page, seen = explorer
    for image, variant, layer, threshold in [(2, 0, 0, 0.3), (0, 0, 1, 0.45), (2, 1, 1, 0.2), (1, 1, 0, 0.05)]:
        choose(page, image=image, variant=variant, layer=layer, threshold=threshold)
        label = page.evaluate("document.querySelector('.wsss-explorer').explorer.at('label')")
        scene, view = seen[image], seen[image].views[variant]
        assert label in scene.present, "of another picture"
        cam, wanted = expected(scene, view, layer, label, threshold)
        assert (labels(page, "labels") == cam).mean() > 0.999
        for value, other in zip(numbers(page)["CAM at the threshold"], wanted, strict=True):
            assert (value is None) == (other is None) and (value is None or abs(value - other) <= 0.06)
        assert ("Segmentation" in numbers(page)) == (view.segmentation is not None)
        if view.segmentation is not None:
            assert np.array_equal(labels(page, "segmentation"), view.segmentation)
        assert np.array_equal(labels(page, "truth"), scene.truth)


def test_every_control_changes_the_picture(explorer):
    page, _ = explorer
    for view in ("labels", "pseudo_label", "segmentation", "truth", "alike", "photograph", "cam"):
        before = pixels(page)
        with painted(page):
            page.locator(f".wx-chip:has([value={view}])").click()
        assert (pixels(page) != before).any(), view
    for key, value in {
        "threshold": "0.9",
        "opacity": "0.1",
        "layer": "1",
        "variant": "1",
        "beside": "photograph",
        "split": "0.2",
    }.items():
        before, control = pixels(page), page.locator(f"[data-key={key}]")
        with painted(page):
            control.select_option(value) if key in ("layer", "variant", "beside") else control.fill(value)
        assert (pixels(page) != before).any(), key


def test_a_click_and_arrow_keys_choose_a_patch_and_show_what_is_like_it(explorer):
    page, seen = explorer
    view, frame = seen[0].views[0], page.locator(".wx-frame")
    rows, columns = view.grid
    box = frame.bounding_box()
    with painted(page):
        frame.click(position={"x": box["width"] * (columns - 0.5) / columns, "y": box["height"] * 0.5 / rows})
    state = "['row', 'column', 'view'].map(key => document.querySelector('.wsss-explorer').explorer.at(key))"
    assert page.evaluate(state) == [0, columns - 1, "alike"]
    frame.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(state) == [0, columns - 2, "alike"]
    vectors = [kept.quantised_codes(kept.compact(codes)).astype(float) for codes in view.codes.values()]
    planes = enlarged(view.layers[0].maps, view.grid).reshape(len(view.shown), -1)
    rivals = [place for place, shown in enumerate(view.shown) if shown in seen[0].present]
    vectors.append(np.concatenate([1 - planes[rivals].max(0, keepdims=True), planes[rivals]]).T)
    for number, each in enumerate(vectors):
        unit = each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12)
        alike = page.evaluate(f"[...document.querySelector('.wsss-explorer').explorer.alike({number})]")
        assert np.allclose(alike, unit @ unit[columns - 2], atol=1e-3), number
    with painted(page):
        page.locator("[data-key=beside]").select_option("model 1")
    assert page.locator(".wx-tag").all_text_contents() == [f"tokens ({each.name})" for each in seen[0].views]
    other = kept.quantised_codes(kept.compact(seen[0].views[1].codes["tokens"])).astype(float)
    other /= np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-12)
    alike = page.evaluate("[...document.querySelector('.wsss-explorer').explorer.alike(0, 1)]")
    assert np.allclose(alike, other @ other[columns - 2], atol=1e-3), "the same patch, as the other model has it"


def test_everything_works_by_keyboard(explorer):
    page, _ = explorer
    page.locator("[data-image='0']").focus()
    reached = set()
    for _ in range(30):
        active = "(({dataset, className}) => dataset.key || dataset.do || className)(document.activeElement)"
        reached.add(page.evaluate(active))
        page.keyboard.press("Tab")
    wanted = "label view layer threshold opacity beside variant tour save link wx-frame"
    assert set(wanted.split()) <= reached


DEEDS = {
    "[data-image='1']": ("Enter", "image"),
    "[data-key=label]:checked": ("ArrowDown", "label"),
    "[data-key=layer]": ("ArrowDown", "layer"),
    "[data-key=threshold]": ("ArrowRight", "threshold"),
    "[data-key=opacity]": ("ArrowRight", "opacity"),
    "[data-key=beside]": ("ArrowDown", "beside"),
    "[data-key=split]": ("ArrowRight", "split"),
    "[data-key=view]:checked": ("ArrowRight", "view"),
    ".wx-frame": ("ArrowDown", "view"),
    "[data-key=alike]:checked": ("ArrowRight", "alike"),
    "[data-key=variant]": ("ArrowDown", "variant"),
}
"""Control -> the key that is pressed on it, and the value that it changes."""


def test_every_choice_is_made_by_a_key(explorer):
    page, _ = explorer
    for control, (key, name) in DEEDS.items():
        value = f"document.querySelector('.wsss-explorer').explorer.at('{name}')"
        before = page.evaluate(value)
        page.locator(control).focus()
        with painted(page):
            page.keyboard.press(key)
        assert page.evaluate(value) != before, control


def test_the_tour_has_five_steps_and_gives_the_focus_back(explorer):
    page, _ = explorer
    page.locator("[data-do=tour]").click()
    for number in range(1, 6):
        assert page.locator(".wx-tour p").text_content().startswith(f"{number} of 5.")
        page.keyboard.press("Enter")
    assert not page.locator(".wx-tour").is_visible()
    assert page.evaluate("document.activeElement.dataset.do") == "tour"


def test_a_link_leads_to_the_same_view(browser, explorer, site):
    page, seen = explorer
    choose(page, image=2, view="alike", alike=2, row=1, column=3)
    page.locator("[data-do=link]").press("Enter")
    with opened(browser, page.url) as (other, faults):
        other.wait_for_selector(".wsss-explorer[data-ready]")
        assert np.array_equal(pixels(other), pixels(page)) and not faults
    assert seen[2].name in page.url


def test_the_picture_is_saved_with_words(explorer):
    page, seen = explorer
    with page.expect_download() as download:
        page.locator("[data-do=save]").press("Enter")
    height, width = seen[0].pixels.shape[:2]
    with Image.open(download.value.path()) as saved:
        assert saved.size == (width, height + 22)


def test_what_is_seen_is_said(explorer):
    page, seen = explorer
    choose(page, view="segmentation", beside="labels")
    words = page.locator("canvas").get_attribute("aria-label")
    assert seen[0].name in words and "Segmentation: " in words and "Right: CAM at the threshold" in words
    page.wait_for_function("document.querySelector('.wx-status').textContent.includes('Segmentation')")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_anyone(browser, site, width, theme):
    with opened(browser, site[0].as_uri(), width) as (page, faults):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector(".wsss-explorer[data-ready]")
        page.locator("summary").click()
        page.locator("[data-do=tour]").click()
        assert axe(page) == [] and not faults
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("way", ["file", "http"])
def test_two_further_models_come_when_they_are_asked_for(browser, made, tmp_path, way):
    """By keyboard, from a script beside the page; a link to such a view loads them, too."""
    alone = [dataclasses.replace(scene, views=scene.views[:1]) for scene in made[1]]
    content, other = (kept.payload(scenes, ("cup", "jug"), 0.3) for scenes in (alone, made[1]))
    content["more"], part = kept.more(content, other, "parts/more.js")
    engine.write({"more": part}, tmp_path / "parts")
    (tmp_path / "a.html").write_text(kept.page(content, "Compare"))
    explorer, state = "document.querySelector('.wsss-explorer').explorer", "['variant', 'beside'].map(x => {}.at(x))"
    with served(tmp_path) as server:
        address = (tmp_path / "a.html").as_uri() if way == "file" else f"{server}/a.html"
        with opened(browser, address) as (page, faults):
            page.wait_for_selector(".wsss-explorer[data-ready]")
            assert page.locator("[data-key=beside] option").count() < 8
            with painted(page):
                page.locator("[data-do=more]").press("Enter")
            assert page.evaluate(state.format(explorer)) == [1, "model 2"] and not faults
            assert page.evaluate("document.activeElement.dataset.key") == "beside"
            assert not page.locator("[data-do=more]").is_visible()
            for image, scene in enumerate(made[1]):
                choose(page, image=image, variant=1)
                assert np.array_equal(labels(page, "segmentation"), scene.views[0].segmentation)
            page.locator("[data-do=link]").press("Enter")
            with opened(browser, page.url) as (linked, more_faults):
                linked.wait_for_function(f"{explorer}?.data.more === null && {explorer}.at('variant') === 1")
                linked.wait_for_function(f"{explorer}.scene.name === '{made[1][-1].name}'")
                linked.wait_for_timeout(500)
                assert np.array_equal(pixels(linked), pixels(page)) and not more_faults


def test_models_of_other_images_are_not_put_beside(made):
    content = kept.payload(made[1], ("cup", "jug"))
    for other in (kept.payload(made[1][:2], ("cup", "jug")), kept.payload(made[1], ("cup", "pot"))):
        with pytest.raises(UserError, match="different images or classes"):
            kept.more(content, other, "more.js")


# A photograph of the reader's own.


@pytest.fixture(scope="module")
def taking(made, tmp_path_factory):
    """The page with a model in it, the same with the model beside it, the model, and a photograph."""
    if engine.runtime() is None:
        missing("onnxruntime-web is not in the cache, and npm cannot fetch it")
    seer, place = made[0][0], tmp_path_factory.mktemp("taking")
    onnx_graph.write(seer, place / "model.onnx")
    content = kept.payload(made[1], ("cup", "jug"), 0.3, model=scenes.page_model(seer))
    described, parts = engine.pack(place / "model.onnx")
    (place / "inline.html").write_text(kept.page(content | {"engine": described}, "Try it", [], parts))
    content |= {"engine": described | {"source": "parts/"}}
    page = kept.page(content, "Try it").replace(kept.element(content), kept.element(content, compressed=True))
    (place / "beside.html").write_text(page)
    engine.write(dict(enumerate(parts)), place / "parts")
    noise = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((521, 347), Image.Resampling.BICUBIC).save(place / "mine.png")
    return place, seer


def seen_by_python(path, seer):
    """The scene, and the label maps, of a photograph with weights as the page has them."""
    photograph = read_image(path)
    with one_thread():
        seer.model.half().float()
        scene, pixels = scenes.scene(scenes.Example(path.stem, photograph), [seer]), scenes._pixels(photograph, seer)
        prediction = evaluate.predict(seer.model, pixels, evaluate.predicted_label(seer.model, pixels), seer.config)
    return scene, evaluate.to_labels(prediction, scene.pixels.shape[:2], seer.config)


@contextmanager
def taken(page, name):
    """Wait until the photograph that is given in the block has been looked at and is shown."""
    yield
    page.wait_for_function(f"document.querySelector('.wx-engine').textContent.startsWith('{name}: ')")
    page.wait_for_function(f"document.querySelector('.wsss-explorer').explorer.scene.name === '{name}'")


@pytest.mark.parametrize("way", ["file, inline", "file, beside", "http, beside"])
def test_a_photograph_is_looked_at_in_the_page_as_by_python(browser, taking, way):
    """The same top class, and the same labels of 99.9 % of the pixels; nothing is asked of another host."""
    place, seer = taking
    scene, wanted = seen_by_python(place / "mine.png", seer)
    name = f"{way.rpartition(' ')[2]}.html"
    with served(place) as server:
        address = (place / name).as_uri() if way.startswith("file") else f"{server}/{name}"
        with opened(browser, address) as (page, faults):
            page.wait_for_selector(".wsss-explorer[data-ready]")
            explorer = "document.querySelector('.wsss-explorer').explorer"
            with taken(page, "mine"):
                page.locator("input[type=file]").set_input_files(place / "mine.png")
            assert page.evaluate(f"{explorer}.scene.present") == list(scene.present)
            view, scores = scene.views[0], page.evaluate(f"{explorer}.seen.scores")
            assert page.evaluate(f"{explorer}.seen.shown[0]") == view.shown[0]
            assert np.allclose(scores, view.scores, atol=1e-3)
            page.evaluate(f"{explorer}.choose({{threshold: {seer.config.cam.background}}})")
            for key, kind in (("labels", "cam"), ("segmentation", "segmentation"), ("pseudo_label", "pseudo_label")):
                assert (labels(page, key) == wanted[kind]).mean() >= 0.999, key
            assert not faults


GIVE = """([text, name, kind]) => {
  const data = new DataTransfer(), bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const values = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  const event = kind === "drop" ? new DragEvent("drop", values) : new ClipboardEvent("paste", values);
  document.querySelector(".wsss-explorer").dispatchEvent(event);
}"""


def test_photographs_are_chosen_by_key_pasted_and_dropped(browser, taking, tmp_path):
    """A JPEG, one that lies on its side and one with other primary colours are seen as by Python; the decoders may
    differ in a few pixels."""
    place, seer = taking
    with Image.open(place / "mine.png") as photograph:
        turned = Image.Exif()
        turned[0x0112] = 6
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        swapped = profile.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
        for name, more in {"plain": {}, "turned": {"exif": turned}, "profile": {"icc_profile": swapped}}.items():
            photograph.save(tmp_path / f"{name}.jpg", quality=88, **more)
    explorer = "document.querySelector('.wsss-explorer').explorer"
    with opened(browser, (place / "beside.html").as_uri()) as (page, faults):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        for way, name in (("key", "plain"), ("paste", "turned"), ("drop", "profile")):
            path = tmp_path / f"{name}.jpg"
            with taken(page, name):
                if way == "key":
                    with page.expect_file_chooser() as chooser:
                        page.locator("input[type=file]").press("Enter")
                    chooser.value.set_files(path)
                else:
                    page.evaluate(GIVE, [base64.b64encode(path.read_bytes()).decode(), path.name, way])
            scene, wanted = seen_by_python(path, seer)
            assert page.evaluate(f"{explorer}.scene.size") == list(scene.pixels.shape[:2])
            assert page.evaluate(f"{explorer}.seen.shown[0]") == scene.views[0].shown[0]
            page.evaluate(f"{explorer}.choose({{threshold: {seer.config.cam.background}}})")
            for key, kind in (("labels", "cam"), ("segmentation", "segmentation"), ("pseudo_label", "pseudo_label")):
                share = (labels(page, key) == wanted[kind]).mean()
                assert share >= 0.999, (name, key, share)
        assert not faults


def test_the_page_squashes_a_photograph_as_pillow_does(browser, taking):
    place, _ = taking
    with opened(browser, (place / "beside.html").as_uri()) as (page, _):
        for size in ((521, 347), (20, 90), (32, 50), (90, 20), (480, 640)):
            photograph = read_image(place / "mine.png").resize(size)
            text = base64.b64encode(photograph.convert("RGBA").tobytes()).decode()
            decoded = "Uint8Array.from(atob(text), letter => letter.charCodeAt(0))"
            call = f"([text, width, height]) => [...WsssExplorer.squashed({{data: {decoded}, width, height}}, 32)]"
            planes = np.array(page.evaluate(call, [text, *size])).reshape(3, 32, 32)
            assert np.array_equal(planes, transforms.resize_square(photograph, 32).numpy()), size


def test_what_is_no_picture_is_said(browser, taking, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"none")
    with opened(browser, (taking[0] / "beside.html").as_uri()) as (page, _):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        page.locator("input[type=file]").set_input_files(tmp_path / "broken.png")
        page.wait_for_function(
            "document.querySelector('.wx-engine').textContent.includes('this browser cannot read it')"
        )


def test_the_book_takes_a_photograph(browser, book):
    photograph = kept.FOLDER.parents[1] / "data/photographs/cow.jpg"
    content = json.loads((photograph.parent / "explorer.json").read_text())
    with opened(browser, (book / "explore.html").as_uri()) as (page, faults):
        page.wait_for_selector(".wsss-explorer[data-ready]")
        if not page.evaluate("Boolean(document.querySelector('.wsss-explorer').explorer.data.engine)"):
            missing("the book was built without onnxruntime-web")
        page.locator("input[type=file]").set_input_files(photograph)
        page.wait_for_function("document.querySelector('.wx-engine').textContent.includes('not left')")
        seen = page.evaluate(
            "(({shown, scores}) => [shown, scores])(document.querySelector('.wsss-explorer').explorer.seen)"
        )
    wanted = next(image for image in content["images"] if image["name"] == "cow")["variants"][-1]
    assert not faults and seen[0] == wanted["shown"] and np.allclose(seen[1], wanted["scores"], atol=0.01)
