"""Every row of the presets: it exists, it is what the tables name, it takes a training step."""

import dataclasses
import inspect
import re

import pytest
import torch
from builders import forward, tiny, training_batch

from wsss import method, model, optim, presets, schedule
from wsss.config import TOCO, Compat
from wsss.paths import project_root
from wsss.presets import PRESETS
from wsss.report import records
from wsss.settings import flatten


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_its_name_and_its_compat(name):
    assert PRESETS[name].name == name
    cpu = name.startswith(("mini", "smoke", "voc-animals"))
    twin = dataclasses.replace(TOCO, undefined_segmentation=not cpu, plain_squash=not cpu)
    assert PRESETS[name].compat == (twin if name.endswith("-toco") else Compat())


MODULES = {
    "msc.subspaces": 1,
    "msc.normalise": False,
    "msc.patch_weight": 0.0,
    "msc.orthogonality_weight": 0.0,
    "msc.decorrelation_weight": 0.0,
    "csa.weight": 0.0,
}
"""Settings of the modules -> the value that leaves them out, as in the base."""
SCALES = ("smoke", "mini", "voc-animals", "voc", "voc-deit", "coco", "coco-deit")


def changed(one, other):
    """Paths whose values differ, except the name."""
    own, base = flatten(PRESETS[one]), flatten(PRESETS[other])
    return {path for path in own if own[path] != base[path]} - {"name"}


@pytest.mark.parametrize("name", SCALES)
def test_the_base_is_without_the_modules(name):
    """It lacks the modules, and its temperature is for outputs that are not normalised. Its twin differs in compat."""
    own, base = flatten(PRESETS[name]), flatten(PRESETS[f"{name}-base"])
    assert changed(f"{name}-base", name) <= {*MODULES, "msc.dimension", "class_contrast.temperature"}
    assert {path: base[path] for path in MODULES} == MODULES
    ratio = base["class_contrast.temperature"] / own["class_contrast.temperature"]
    assert ratio == pytest.approx(4), "two outputs of norm 2"
    assert {path.split(".")[0] for path in changed(f"{name}-toco", f"{name}-base")} == {"compat"}


@pytest.mark.parametrize("name", SCALES)
def test_each_module_is_one_step_from_the_base_and_one_from_both(name):
    assert changed(f"{name}-csa", f"{name}-base") == changed(f"{name}-msc", name) == {"csa.weight"}
    assert PRESETS[f"{name}-csa"].csa.weight == PRESETS[name].csa.weight > 0
    assert not PRESETS[f"{name}-plain"].needs


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_a_training_step(name):
    """Made tiny by overrides, past every start of the schedule."""
    own = {} if PRESETS[name].msc.subspaces > 1 else {"msc__dimension": 12}
    config = tiny(PRESETS[name], **own)
    net, batch = model.build(config, 4), training_batch(config)
    optimizer = optim.build(net.trunk_parameters(), net.head_parameters(), net.decoder.parameters(), config.optim)
    optim.set_rate(optimizer, 3, config.optim)
    before = {part: p.detach().clone() for part, p in net.named_parameters()}
    net.update_teacher(config.class_contrast.momentum)
    _, output, targets = forward(config, batch, net=net)
    terms = method.losses(output, targets, config)
    loss = method.objective(terms, schedule.term_weights(3, config))
    assert loss.isfinite(), f"terms are {terms}"
    loss.backward()
    optimizer.step()
    moved = {part for part, p in net.named_parameters() if not torch.equal(before[part], p)}
    assert {"classifier.weight", "aux_classifier.weight", "encoder.cls_token"} <= moved
    assert "encoder.pos_embed" not in moved and not any(part.startswith("proj_head_t") for part in moved)
    assert ("decoder.conv8.weight" in moved) == (not name.endswith("-plain"))


def test_full_scale_presets_have_the_published_numbers():
    voc, coco = PRESETS["voc"], PRESETS["coco"]
    assert (voc.optim.steps, voc.optim.batch, voc.augment.crop, voc.optim.lr) == (20_000, 4, 448, 6e-5)
    assert (coco.optim.steps, coco.optim.batch, coco.augment.crop, coco.optim.lr) == (80_000, 8, 448, 6e-5)
    assert (voc.cam.high, voc.cam.low, voc.cam.background) == (0.7, 0.25, 0.5)
    assert (coco.cam.high, coco.cam.low, coco.cam.background) == (0.65, 0.25, 0.45)
    assert [PRESETS[f"{x}-toco"].class_contrast.temperature for x in ("voc", "coco")] == [0.5, 1.0]
    assert (PRESETS["voc-toco"].msc.dimension, PRESETS["coco-toco"].msc.dimension) == (1024, 1024)
    assert voc.cam.scales == (1.0, 0.5, 1.5) and voc.class_contrast.momentum == 0.9
    for name in ("voc", "voc-deit", "coco", "coco-deit"):
        assert PRESETS[name].model.pretrained and "." in PRESETS[name].model.backbone, "always with timm's weight tag"


def test_the_number_that_mini_expects_is_that_of_its_records():
    expected = float(re.search(r"Expected: segmentation ([\d.]+) on val", inspect.getsource(presets))[1])
    runs = [record for record in records.select(records.published(), "mini", "mini") if record["seed"] < 3]
    assert len(runs) == 3
    mean = sum(record["results"]["segmentation"]["miou_headline"] for record in runs) / 3
    assert mean == pytest.approx(expected, abs=0.5)


def test_a_variant_is_named_by_what_differs():
    assert presets.get("mini").variant == "mini"
    assert presets.get("mini", seed=4, data__workers=2, output="elsewhere").variant == "mini"
    changed = presets.get("mini", patch_contrast__weight=0, optim__steps=7)
    assert changed.variant == "mini+patch_contrast.weight=0.0+optim.steps=7"
    assert presets.get("mini", variant="own", optim__steps=7).variant == "own"
    assert "/" not in presets.get("mini", model__checkpoint="a/b").variant
    many = {path: value / 2 for path, value in flatten(PRESETS["voc"]).items() if path.endswith("weight") and value}
    assert len(presets.get("voc", **many).variant) == presets.LONGEST, "what a disk takes"


def test_the_book_names_every_setting_in_which_the_photographs_differ_from_voc():
    page = (project_root() / "book" / "experiments.md").read_text()
    table = page.partition("(photographs-preset)=")[2].partition("\n:::\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    told = {name.strip("`"): value for name, _, value, reason in rows if reason}
    voc, ours = (flatten(presets.get(name)) for name in ("voc", "voc-animals"))
    differ = {path: value for path, value in ours.items() if value != voc[path] and path not in ("name", "variant")}
    written = {
        path: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value) for path, value in differ.items()
    }
    assert told == written
