"""The explorer's Python side: what is kept of maps, codes and masks, pages, `wsss explore`, answers on demand."""

import base64
import dataclasses
import json
import re
import webbrowser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from running import one_thread, own_set, record, run

from wsss import evaluate, metrics
from wsss.explore import payload as kept
from wsss.explore import pictures, sources, widget
from wsss.explore import scene as scenes
from wsss.paths import UserError


@pytest.fixture(scope="module")
def looked(models):
    """The set's images, both models and what they see."""
    root, *runs = models
    seers, classes = sources.of_runs(runs)
    pictures = sources.of_set(root, "val", classes, 3)
    with one_thread():
        return pictures, seers, classes, [scenes.scene(picture, seers) for picture in pictures]


def decoded(text, kind=np.uint8):
    return np.frombuffer(base64.b64decode(text), kind)


# What is kept.


@given(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=40))
def test_a_mask_is_kept_as_runs(values):
    found = np.array(kept.runs(np.array([values], np.uint8))).reshape(-1, 2)
    assert np.repeat(found[:, 0], found[:, 1]).tolist() == values
    assert (found[1:, 0] != found[:-1, 0]).all() and (found[:, 1] > 0).all()


def test_maps_are_kept_in_steps_of_a_255th():
    maps = np.random.default_rng(0).random((2, 3, 4))
    assert np.abs(kept.quantised_maps(maps) / 255 - maps).max() <= 0.5 / 255 + 1e-9
    assert kept.quantised_maps(np.array([[[-1.0, 2.0]]])).tolist() == [[[0, 255]]]


def test_cosines_of_codes_stay():
    rows = np.random.default_rng(1).normal(size=(50, 16)) * np.arange(1, 51)[:, None]
    small = kept.quantised_codes(rows).astype(float)

    def cosines(x):
        return (x @ x.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(x, axis=1)

    assert np.abs(cosines(small) - cosines(rows)).max() < 0.01
    fewer = kept.compact(rows[:, :4] @ np.random.default_rng(2).normal(size=(4, 40)))
    assert fewer.shape == (50, 8), "rows of rank 4 need no more than the first eight directions"
    noise = np.random.default_rng(3).normal(size=(90, 32))
    small = kept.quantised_codes(kept.compact(noise)).astype(float)
    assert np.abs(cosines(small) - cosines(noise)).max() < 0.03
    assert kept.quantised_codes(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]


# What the models see.


def test_a_view_holds_the_models_maps_codes_and_labels(models, looked):
    images, seers, classes, found = looked
    view, seer = found[0].views[0], seers[0]
    config, size = seer.config, seer.config.augment.squashed
    pixels = scenes._pixels(images[0].image, seer)
    image = seer.model.normalise(pixels)
    with one_thread(), torch.inference_mode():
        label = images[0].label[None]
        prediction = evaluate.predict(seer.model, pixels, label, config)
        output = seer.model(image)
    place = view.shown.index(found[0].present[0])
    assert view.shown[0] in found[0].present and sorted(view.shown) == [1, 2]
    assert view.grid == output.grid == (size // 8, size // 8)
    both = [maps[:, [view.shown[place] - 1]] for maps in prediction.layers.values()]
    for layer, maps in zip(view.layers, both, strict=True):
        smaller = torch.nn.functional.interpolate(maps, (3 * size // 8, 3 * size // 8), mode="bilinear")
        assert np.allclose(layer.maps[place], smaller[0, 0].numpy(), atol=1e-6)
    labels = evaluate.to_labels(prediction, found[0].pixels.shape[:2], config)
    assert np.array_equal(view.segmentation, labels["segmentation"])
    assert np.array_equal(view.pseudo_label, labels["pseudo_label"])
    assert np.allclose(view.codes["tokens"], output.tokens[0].numpy())
    names = [f"subspace {k + 1}" for k in range(config.msc.subspaces)]
    assert list(view.codes) == ["tokens", "tokens, aux layer", *names]
    assert np.allclose(view.codes["subspace 2"], prediction.codes[0].unflatten(1, (len(names), -1))[:, 1].numpy())


def test_a_plain_model_has_neither_labels_of_a_decoder_nor_subspaces(looked):
    view = looked[3][0].views[1]
    assert (
        view.segmentation is None and view.pseudo_label is None and list(view.codes) == ["tokens", "tokens, aux layer"]
    )


def test_labels_that_are_not_known_are_predicted_by_the_last_model(looked):
    images, seers, _, _ = looked
    unknown = scenes.Example("mine", images[0].image)
    with one_thread():
        found = scenes.scene(unknown, seers)
        score = seers[-1].model(seers[-1].model.normalise(scenes._pixels(unknown.image, seers[-1]))).logits[0].sigmoid()
    expected = {int(place) + 1 for place in range(2) if score[place] > 0.5 or score[place] == score.max()}
    assert set(found.present) == expected and not found.known and found.truth is None


def test_large_photographs_are_shown_smaller_and_their_truth_with_them(looked):
    truth = np.zeros((1200, 900), np.uint8)
    truth[:600] = 1
    picture = scenes.Example("large", Image.new("L", (900, 1200)), torch.tensor([1.0, 0.0]), truth)
    with one_thread():
        found = scenes.scene(picture, looked[1][:1])
    assert found.pixels.shape == (400, 300, 3)
    assert found.truth.shape == (400, 300) and found.truth[:200].all() and not found.truth[200:].any()


def test_the_payload_is_plain_and_whole(looked):
    _, _, classes, found = looked
    plain = json.loads(json.dumps(kept.payload(found, classes, 0.4), allow_nan=False))
    assert plain["classes"] == ["background", "cup", "jug"] and plain["start"]["threshold"] == 0.4
    image, scene = plain["images"][1], found[1]
    assert image["alt"] == f"{scene.name}, showing jug" and image["size"] == list(scene.pixels.shape[:2])
    assert plain["palette"] == [[0, 0, 0], [0, 114, 178], [230, 159, 0], [217, 217, 217]], "a colour a class"
    layer, view = image["variants"][0]["layers"][1], scene.views[0]
    maps = kept.quantised_maps(view.layers[1].maps)
    assert decoded(layer["data"]).reshape(2, *layer["grid"]).tolist() == maps.tolist()
    codes = image["variants"][0]["codes"][2]
    assert decoded(codes["data"], np.int8).reshape(-1, codes["width"]).shape[0] == len(view.codes["subspace 1"])


# Pictures.


@pytest.fixture(scope="module")
def all_seen(models):
    """All images of the list, as the model with both modules and the same before training see them."""
    seers, classes = sources.of_runs([models[1]])
    with one_thread():
        start = sources.before_training(seers[0])
        return [scenes.scene(one, [start, *seers]) for one in sources.of_set(models[0], "val", classes, 99)]


def test_the_gram_picture_has_the_redundancy_of_the_record(models, all_seen):
    found = record(models[1].parents[2])["results"]["subspaces"]["redundancy"]
    picture = pictures.gram(all_seen)
    words = re.search(r"before training ([\d.]+) %; tiny ([\d.]+) %", picture.alt)
    assert float(words.group(2)) == pytest.approx(found, abs=0.06) and words.group(1) != words.group(2)
    assert [axis.get_title().partition(":")[0] for axis in picture.axes[:2]] == ["tiny, before training", "tiny"]


def test_a_patch_is_most_like_itself_and_the_words_are_the_means(all_seen):
    scene, view = all_seen[0], all_seen[0].views[1]
    place = pictures.peak(scene)
    labels = metrics.token_labels(scene.truth, view.grid)
    index = place[0] * view.grid[1] + place[1]
    assert labels[index] == scene.present[0]
    values = pictures.likeness(view.codes["subspace 1"], index)
    rows = view.codes["subspace 1"].astype(float)
    slow = [rows[index] @ row / np.linalg.norm(rows[index]) / np.linalg.norm(row) for row in rows]
    assert np.allclose(values, slow, atol=1e-5) and values.argmax() == index
    own = values[labels == scene.present[0]].mean(), values[labels != scene.present[0]].mean()
    assert f"tiny, subspace 1: {own[0]:.2f} and {own[1]:.2f}" in pictures.like_a_patch(scene).alt


def test_the_layers_picture_has_the_agreement_of_the_evaluation(models, all_seen):
    (seer,), classes = sources.of_runs([models[1]])
    image, label = sources.of_set(models[0], "val", classes, 99)[2], all_seen[2].present
    with one_thread(), torch.inference_mode():
        pixels = scenes._pixels(image.image, seer)
        prediction = evaluate.predict(seer.model, pixels, image.label[None], seer.config)
        expected = evaluate.agreement(prediction, image.label[None])[0]
    words = re.search(r"; tiny ([\d.]+) % and ([\d.]+) %", pictures.layers(all_seen[2]).alt)
    assert len(label) == 2
    assert float(words.group(1)) == pytest.approx(float(expected[0]), abs=0.06)
    assert float(words.group(2)) == pytest.approx(float(expected[1]), abs=0.06)


def test_a_comparison_has_a_row_an_image_and_leaves_out_what_is_not_known(looked):
    images, seers, _, found = looked
    picture = pictures.comparison(found)
    drawn = [axis for axis in picture.axes if axis.images]
    assert len(drawn) == 3 * (2 + 4 + 2), "image, truth; CAMs, pseudo label, prediction; CAMs of the plain model"
    assert "rows: image, truth, tiny: CAM, aux" in picture.alt and picture.alt.count("prediction") == 1
    with one_thread():
        unknown = [scenes.scene(scenes.Example("mine", images[0].image), seers[:1])]
    assert "truth" not in pictures.comparison(unknown).alt


def test_pictures_that_need_truth_say_so(all_seen, looked):
    unknown = dataclasses.replace(all_seen[0], truth=None)
    with pytest.raises(UserError, match="name the patch"):
        pictures.like_a_patch(unknown)
    assert "row 1, column 2" in pictures.like_a_patch(unknown, (0, 1)).alt
    with pytest.raises(UserError, match="none of these models has subspaces"):
        pictures.gram([dataclasses.replace(looked[3][0], views=looked[3][0].views[1:])])


# Pages.


def test_an_element_closes_only_its_own_script(looked):
    found = kept.payload(looked[3][:1], looked[2]) | {"classes": ["background", "</script><b>", "jug"]}
    text = kept.element(found)
    assert text.count("</script>") == 1 and "<b>" not in text
    inner = re.search(r'<script type="application/json">(.*)</script>', text).group(1)
    assert json.loads(inner) == json.loads(json.dumps(found))


def test_the_command_writes_one_page_that_needs_no_network(models, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    root, both, plain = models
    page = tmp_path / "page.html"
    assert run("explore", root, "--run", plain, both, "--output", page, "--limit", "2") == 0
    text = page.read_text()
    inner = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text).group(1))
    assert [image["name"] for image in inner["images"]] == ["val_0", "val_3"]
    assert [len(image["variants"]) for image in inner["images"]] == [2, 2]
    assert inner["images"][0]["truth"] and inner["start"]["threshold"] == sources.of_run(both)[0].config.cam.background
    assert record(both.parents[2])["commit"] in inner["images"][0]["variants"][1]["about"]
    addresses = re.findall(r'(?:src|href)="(?!data:)[^"]*"|https?://[^\s"<]+', re.sub(r"<script.*?</script>", "", text))
    assert not addresses and opened == [page.resolve().as_uri()]
    assert "2 pictures" in capsys.readouterr().out


def test_the_command_takes_a_picture_or_a_folder(models, tmp_path):
    root, both, _ = models
    photographs = root / "JPEGImages"
    for what, count in ((photographs / "val_1.jpg", 1), (photographs, 3)):
        page = tmp_path / "page.html"
        assert run("explore", what, "--run", both, "--output", page, "--open", "False", "--limit", "3") == 0
        inner = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page.read_text()).group(1))
        assert len(inner["images"]) == count and all(not image["known"] for image in inner["images"])


def test_a_camera_picture_is_shown_smaller_and_that_is_said_before(models, tmp_path, capsys):
    """24 megapixels: the page stays small, and nothing takes longer than for other pictures."""
    Image.new("RGB", (6000, 4000), (200, 30, 30)).save(tmp_path / "camera.jpg")
    _, both, _ = models
    words = ("explore", tmp_path / "camera.jpg", "--run", both, "--output", tmp_path / "page.html", "--open", "False")
    assert run(*words) == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert "the largest picture, camera, has 6000 x 4000 pixels" in said
    assert "scales the longer side down to 400" in said and "the models see pictures at 32 x 32" in said
    page = (tmp_path / "page.html").read_text()
    assert '"size":[267,400]' in page and len(page) < 500_000
    Image.new("RGB", (400, 300)).save(tmp_path / "small.png")
    assert run(*words[:1], tmp_path / "small.png", *words[2:]) == 0
    assert "scaled down" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere"], "nowhere does not exist"),
        (["{empty}"], "holds no picture"),
        (["{root}/classes.txt"], "cannot be decoded"),
        (["{root}", "--split", "other"], "the list"),
        (["{root}", "--limit", "0"], "at least 1"),
        (["{root}", "--output", "{empty}"], "is a folder"),
        (["{root}", "--run", "{empty}"], "config.json"),
    ],
)
def test_what_cannot_be_explored_is_said(models, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    places = {"root": models[0], "empty": tmp_path / "empty"}
    words = [word.format(**places) for word in words]
    page = [] if "--output" in words else ["--output", str(tmp_path / "page.html")]
    model = [] if "--run" in words else ["--run", str(models[1])]
    assert run("explore", *words, *page, *model, "--open", "False") == 1
    assert said in capsys.readouterr().err and not (tmp_path / "page.html").exists()


def test_a_run_that_is_not_finished_and_a_set_of_other_classes_are_refused(models, tmp_path):
    root, both, _ = models
    other = own_set(tmp_path / "other", names=("cup", "pot"))
    with pytest.raises(UserError, match="other classes than the model, which knows cup, jug"):
        sources.of_set(other, "val", ("cup", "jug"), 2)
    path = both.with_suffix(".json")
    text = path.read_text()
    path.unlink()
    try:
        with pytest.raises(UserError, match="is not finished"):
            sources.of_run(both)
    finally:
        path.write_text(text)


def test_two_runs_of_one_name_are_told_apart(models):
    assert [seer.name for seer in sources.of_runs([models[1], models[1]])[0]] == ["tiny (1)", "tiny (2)"]


def test_without_a_run_the_shipped_model_is_taken(monkeypatch):
    seer, classes = sources.shipped()
    assert {"cat", "dog"} <= set(classes) and not seer.model.training
    monkeypatch.setattr(sources, "SHIPPED", "data/weights/nothing.json")
    with pytest.raises(UserError, match="name a finished run with --run"):
        sources.shipped()


# Live.


@pytest.fixture
def live(looked):
    images, seers, classes, _ = looked
    with one_thread():
        return widget.Explorer(images[:2], seers, classes)


def test_the_kernel_answers_with_refined_labels(live, looked):
    images, seers, _, found = looked
    live.image, live.variant, live.layer, live.threshold, live.label = 1, 0, 1, 0.37, 1
    with one_thread():
        live.request = {"what": "refine", "number": 1}
        expected = scenes.refined(images[1], seers[0], (1, 2), 0.37, 1)
    assert live.answer["name"] == "CAM, aux layer (block 1), above 0.37, refined"
    assert (live.answer["image"], live.answer["variant"], live.answer["message"]) == (1, 0, "")
    assert np.array_equal(live.labels(), expected) and set(np.unique(expected)) <= {0, 1, 2}


def test_one_background_level_leaves_nothing_ignored_and_a_higher_one_more_background(looked):
    images, seers, _, found = looked
    with one_thread():
        low, high = (scenes.refined(images[2], seers[0], (1, 2), level, 0) for level in (0.05, 0.95))
    assert 255 not in low and (low == 0).sum() < (high == 0).sum()


def test_the_kernel_answers_with_a_crf(live, looked):
    with one_thread():
        live.request = {"what": "crf", "number": 1}
    assert live.answer["name"] == "segmentation with CRF"
    assert live.labels().shape == looked[3][0].pixels.shape[:2]


def test_a_fault_on_demand_is_said_in_the_page(live, monkeypatch):
    monkeypatch.setattr(widget, "with_crf", lambda *_: (_ for _ in ()).throw(UserError("it has diverged")))
    live.request = {"what": "crf", "number": 1}
    assert live.answer["message"] == "it has diverged"
    with pytest.raises(UserError, match="nothing was computed"):
        live.labels()


def test_a_notebook_keeps_an_element_that_needs_no_kernel(live):
    data = live._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert "application/vnd.jupyter.widget-view+json" in data
    inner = json.loads(re.search(r'<script type="application/json">(.*?)</script>', data["text/html"]).group(1))
    assert inner["live"] is False and live.payload["live"] is True
    assert inner["images"] == json.loads(json.dumps(live.payload["images"]))
