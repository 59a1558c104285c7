"""Figures of records: what they draw, and the words for those who cannot see them."""

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab
from test_records import record

from wsss.paths import UserError
from wsss.report import figures, speed
from wsss.report import picture as forms

KINDS = ("cam", "aux_cam", "segmentation")


@pytest.fixture
def run():
    """A record with two validations, the second at its end."""
    scores = {kind: {"miou": 9.0, "miou_headline": 40.0 + number} for number, kind in enumerate(KINDS)}
    checks = [{"step": step, "validation": dict.fromkeys(KINDS, value)} for step, value in ((25, 10.0), (100, 20.0))]
    return record(results=scores, steps=100, validations=checks)


def test_a_run_stands_before_the_published_curves(run):
    """Own validations and the record in colour, over the grey logs of the base, which end at 100 % like the run."""
    picture = figures.curves_beside_base(run)
    assert [axis.get_title() for axis in picture.axes] == ["CAM", "aux CAM", "segmentation"]
    for axis, kind in zip(picture.axes, KINDS, strict=True):
        *behind, own = axis.get_lines()
        assert own.get_xydata().tolist() == [[25, 10], [100, run["results"][kind]["miou_headline"]]]
        assert len(behind) == 4 and len({line.get_linestyle() for line in behind}) == 4
        assert all(to_rgb(line.get_color()) == to_rgb("0.6") != to_rgb(own.get_color()) for line in behind)
        assert all(line.get_xdata()[-1] == 100 and 0 < line.get_xdata()[0] <= 10 for line in behind)
    assert behind[0].get_label() == "base: VOC, ViT-B (published)"
    assert behind[0].get_ydata()[-1] == pytest.approx(69.2, abs=0.1), "as the base's log ends"
    assert "CAM 10.0 at 25 %, 40.0 at 100 %" in picture.alt and "compare shapes, not levels" in picture.alt
    (legend,) = picture.legends
    assert "compare shapes, not levels" in legend.get_title().get_text()
    assert picture.png().startswith(b"\x89PNG")


def test_a_picture_takes_the_form_that_suits_it_and_says_which():
    """Lines as PNG, what looks like a photograph as JPEG, which saves most of it; both decode to what was drawn."""
    drawn = forms.Picture(figsize=(2, 2)), forms.Picture(figsize=(2, 2))
    drawn[0].subplots().plot([0, 1])
    drawn[1].add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(0).random((12, 12, 3)), interpolation="bicubic")
    for picture, kind in zip(drawn, ("png", "jpeg"), strict=True):
        found = picture.encoded()
        assert forms.suffix(found) == kind and f'src="data:image/{kind};base64,' in picture.html()
        images = [PIL.Image.open(io.BytesIO(data)).convert("RGB") for data in (found, picture.png())]
        assert images[0].size == images[1].size == (220, 220)
        assert np.abs(np.subtract(*(np.asarray(image, float) for image in images))).mean() < 3


def test_a_drawing_for_the_page_takes_its_colours_and_shares_no_id():
    """Black ink is the page's own; the background is clear; ids are those of what the drawing itself refers to."""
    drawing = figures.published_curves().svg()
    tree = ElementTree.fromstring(drawing)
    assert tree.get("role") == "img" and tree.get("aria-label").startswith("mIoU over steps")
    assert "#000000" not in drawing and "#ffffff" not in drawing and drawing.count("currentColor") > 10
    referred = re.findall(r'(?:href="|url\()#(\w+)', drawing)
    assert {node.get("id") for node in tree.iter() if node.get("id")} == set(referred)


def test_examples_that_are_missing_are_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no file of examples .*cams\.npz; `wsss train mini-base --seed 2` writes it"):
        figures.load_samples(tmp_path / "mini" / "mini-base" / "2" / "cams.npz")


def test_no_weight_is_cut_off(tmp_path):
    """The area of a weight of 4 and that of .003 both end below the top of their axis."""
    weights = {"classification": 1.0, "patch_contrast": 4.0, "energy": 0.003, "off": 0.0}
    rows = [{"step": step, **dict.fromkeys(weights, 2.0), "weights": weights} for step in (1, 2)]
    rows.append({"step": 2, "validation": dict.fromkeys(KINDS, 30.0)})
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    axes = figures.learning_curves(tmp_path / "log.jsonl").axes
    filled = [axis for axis in axes if axis.collections]
    assert len(filled) == 4
    for axis, weight in zip(filled, weights.values(), strict=True):
        assert axis.get_ylim()[0] == 0 and weight <= axis.get_ylim()[1], "nothing is cut off"
        assert not weight or weight / axis.get_ylim()[1] > 0.9, "and nothing looks like nothing"


def test_classes_background_and_what_is_ignored_have_colours_of_their_own():
    """All 80 of COCO; the twenty of VOC are far apart, no class is as dark as the background."""
    table = figures.class_colours(np.array([[0, 255, *range(1, 81)]], np.uint8))[0]
    apart = np.linalg.norm(table[:, None] - table, axis=2) + 9 * np.eye(len(table))
    assert apart.min() > 0.1 and apart[:22, :22].min() > 0.25 and apart[0].min() > 0.4
    assert to_rgb(figures.PALETTE[0]) == tuple(table[2])


SIGHT = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""How an eye sees linear red, green and blue: Machado, Oliveira and Fernandes (2009), table 1, severity 1."""
ANIMALS = (8, 10, 12, 13, 15, 17)
"""VOC's cat, cow, dog, horse, person, sheep."""


@pytest.mark.parametrize("eye", SIGHT)
def test_animals_and_drawn_objects_are_told_apart_by_every_eye(eye):
    """Distances in CIELAB, where 2 is just noticed; background and ignored pixels included."""
    for classes, least in ((ANIMALS, 30), (range(1, 10), 16)):
        rgb = figures.class_colours(np.array([0, 255, *classes]))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = (linear @ np.transpose(SIGHT[eye])).clip(0, 1)
        lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
        apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 99 * np.eye(len(lab))
        assert apart.min() > least


def test_on_a_phone_panels_stand_in_one_column_and_long_names_take_more_lines():
    picture = figures.published_curves()
    wide, phone = picture.svg(), picture.stacked().svg()
    assert picture.get_figwidth() < 4
    assert {axis.get_subplotspec().get_geometry()[:2] for axis in picture.axes} == {(4, 1)}
    assert not set(re.findall(r' id="([^"]+)"', wide)) & set(re.findall(r' id="([^"]+)"', phone))
    bars = forms.Picture(figsize=(6, 2))
    axis = bars.subplots()
    axis.set_yticks([0, 1], ["base", "base + both, without patch contrast"])
    bars.legend_below(axis.plot([0, 1], [0, 1], label="a line"))
    bars.stacked()
    assert axis.get_yticklabels()[1].get_text() == "base + both,\nwithout patch\ncontrast"
    assert [text.get_text() for text in bars.legends[0].get_texts()] == ["a line"]


def test_a_waterfall_says_which_bars_were_not_measured(tmp_path):
    bench = {"units": 14.5, "dtype": "float32"}
    (tmp_path / "base-float32.json").write_text(json.dumps(bench))
    picture = speed.waterfall(tmp_path)
    assert "the base's step, float32: 14.5;" in picture.alt
    assert picture.alt.count("not measured") == 7
