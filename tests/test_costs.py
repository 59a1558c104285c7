"""Costs by arithmetic: passes that a step makes, operations that the benches counted, tensors that there are."""

import json
from pathlib import Path

import pytest
import torch
from builders import UNDECOUPLED, forward, tiny, training_batch

from wsss import model, schedule
from wsss.encoder import build_encoder
from wsss.presets import PRESETS
from wsss.protocols import PROTOCOLS
from wsss.registry import DATASETS
from wsss.report import cost_tables, costs
from wsss.settings import override
from wsss.tools.machine import record_passes

ROOT = Path(__file__).resolve().parents[1]
BENCHES = [
    json.loads(path.read_text()) | {"file": path.stem} for path in sorted(ROOT.glob("data/results/bench/*.json"))
]
SMALL = costs.Vit(24, 3, 8, 4)
"""The ViT of `builders.tiny`."""


def test_the_sizes_of_the_backbones_are_timms():
    for backbone, size in costs.VITS.items():
        assert backbone in {PRESETS[name].model.backbone.partition(".")[0] for name in ("voc", "voc-deit")}
        with torch.device("meta"):
            vit = build_encoder(override(PRESETS["voc"].model, {"backbone": backbone, "pretrained": False}))
        grid = vit.patch_embed.grid_size[0]
        assert (vit.embed_dim, len(vit.blocks), vit.patch_embed.patch_size[0], grid) == (*vars(size).values(),)


CHANGES = {
    "all terms": {},
    "patch tokens alone": {"class_contrast__weight": 0.0},
    "another scale": {"cam__scales": (0.5, 1.5)},
    "classification alone": {f"{name}__weight": 0.0 for name in ("patch_contrast", "class_contrast", "csa")}
    | {"segmentation__weight": 0.0, "energy__weight": 0.0, "msc__patch_weight": 0.0, **UNDECOUPLED},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_passes_counted_are_those_that_a_step_makes(name):
    config = tiny(**CHANGES[name])
    net, batch, seen = model.build(config, 4), training_batch(config), []
    hook = record_passes(net, seen)
    forward(config, batch, net=net)
    hook.remove()
    made, counted = {}, {}
    for images, tokens, gradient in seen:
        made[tokens, gradient] = made.get((tokens, gradient), 0) + images // 2
    for one in costs.Run(config).passes():
        key = (one.tokens(8), one.gradient)
        counted[key] = counted.get(key, 0) + one.images
    assert counted == made


def test_the_base_and_the_package_differ_by_the_repeated_passes():
    assert costs.Run(PRESETS["voc"]).tokens() == (6560, 1856)
    assert costs.Run(PRESETS["voc-toco"], repeated=True).tokens() == (9696, 2640)


@pytest.mark.parametrize("bench", [one for one in BENCHES if one["bench"] == "step"], ids=lambda one: one["file"])
def test_operations_of_a_step_are_those_that_the_bench_counted(bench):
    config = override(PRESETS[bench["preset"]], {"optim.batch": bench["batch"], "augment.crop": bench["crop"]})
    run = costs.Run(config)
    assert run.step_tflop() == pytest.approx(bench["tflop"], rel=0.02)
    assert tuple(bench["batch"] * count for count in run.tokens()) == tuple(bench["tokens"].values())


@pytest.mark.parametrize("bench", [one for one in BENCHES if one["bench"] == "infer"], ids=lambda one: one["file"])
def test_operations_of_an_evaluation_are_those_that_the_bench_counted(bench):
    side = PROTOCOLS[bench["protocol"]].size  # COCO's photographs are squashed
    found = costs.evaluation_passes(side or bench["height"], side or bench["width"], tuple(bench["scales"]), 16)
    one = costs.tflop(found, costs.VITS[bench["backbone"]], DATASETS[bench["protocol"]].classes)
    assert bench["images"] * one == pytest.approx(bench["tflop"], rel=0.02)


STARTS = [(name, None) for name in ("voc", "voc-plain", "coco", "coco-toco", "mini", "voc-animals")]


@pytest.mark.parametrize(("name", "modules_start"), [*STARTS, ("coco", 0.05), ("coco", 0.9), ("mini", 0.05)])
def test_first_steps_of_classification_alone_are_those_of_the_schedule(name, modules_start):
    config = override(PRESETS[name], {"optim.steps": 400, "schedule.modules_start": modules_start})
    plain = [schedule.classification_only(step, config) for step in range(400)]
    assert schedule.classification_steps(config) == sum(plain)
    assert all(plain[: sum(plain)])


@pytest.mark.parametrize("layers", [(2,), (1, 2)])
def test_parameters_are_those_of_the_model(layers):
    config = tiny(csa__layers=layers)
    net = model.build(config, 4)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert costs.parameters(config, SMALL, 4) == (sum(p.numel() for p in net.parameters()), trained)


def test_an_estimate_is_a_share_of_the_stated_time():
    run, base = costs.Run(PRESETS["voc"]), costs.Run(PRESETS["voc-toco"], repeated=True)
    (low, high), stated = run.hours(), costs.base_time("coco")
    assert high == pytest.approx(3 + 43 / 60) and (stated.gpus, stated.gpu, stated.hours) == (4, "A100", 27.0)
    assert low / high == pytest.approx(run.step_tflop() / base.step_tflop())
    assert costs.Run(PRESETS["voc-plain"]).hours()[0] < low


@pytest.mark.parametrize("name", cost_tables.COST_TABLES)
def test_every_table_builds_with_and_without_benches(name):
    for benches in (BENCHES, []):
        table = cost_tables.COST_TABLES[name](benches)
        assert all(len(row) == len(table.columns) for row in table.rows) and table.note
        assert table.rows or (name == "memory" and not benches)
    coco, of = {"bench": "infer", "protocol": "coco", "crf": True}, cost_tables.COST_TABLES["evaluation"]
    assert of([coco, *BENCHES]) == of(BENCHES), "the CRF of VOC has fewer classes"
