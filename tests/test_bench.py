"""Benches: one JSON line, honest counts of tokens and operations, phases that add up. No time is asserted."""

import shutil
from pathlib import Path

import pytest
import torch
from builders import tiny
from running import answer, folder, run

from wsss import distributed, model, train
from wsss.report import costs, speed
from wsss.tools import bench, gpu, machine

STEP = ("bench", "step", "--backbone", "vit_tiny_patch16_224", "--crop", "64", "--repeats", "1")


@pytest.fixture(autouse=True)
def small_unit(monkeypatch):
    monkeypatch.setattr(machine, "GEMM", 512)


def test_step(capsys, refused, monkeypatch):
    """The trainer's own step is timed, by phases; here in bfloat16, with micro-batches and activation checkpointing."""
    steps, update = [], train.Trainer._update
    monkeypatch.setattr(train.Trainer, "_update", lambda *words: steps.append(words) or update(*words))
    monkeypatch.setattr(distributed, "computes_bfloat16", lambda device: True)
    more = ("--dtype", "bfloat16", "--accumulate", "2", "--activation-checkpointing", "True", "--batch", "4")
    assert run(*STEP, *more) == 0
    found = answer(capsys)
    assert len(steps) == 3 + 1 + 3, "warm-up, timed, and one each for the host, the phases and the operations"
    phases = ["main pass", "cam passes", "local crops", "patch codes", "refinement", "other losses", "backward"]
    assert list(found["phases"]) == [*phases, "optimizer"] and all(value > 0 for value in found["phases"].values())
    # 4 x 4 tokens at scale 1, 2 x 2 at 0.5, 6 x 6 at 1.5; local crops are the whole crop: 8 of 16 tokens. A block that
    # is computed again in the backward pass embeds no patches again.
    assert found["tokens"] == {"forward": 4 * (16 + 16 + 4 + 4 + 36 + 36 + 16 + 128), "backward": 4 * (16 + 16 + 128)}
    fastest, slowest = found["spread"]
    assert 0 < fastest <= found["seconds"] <= slowest
    assert found["utilisation"] > 0 and found["peak_memory_gb"] > 0.1 and len(found["host"]) == 5
    assert {"commit", "dirty", "device", "versions", "date"} <= set(found)
    monkeypatch.setattr(distributed, "computes_bfloat16", lambda device: False)
    assert "cannot compute in bfloat16" in refused(*STEP, *more)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile asks for it
def test_a_compiled_step_is_not_compiled_again_after_the_warm_up():
    """The steps see four sizes of image, with gradients and without; the warm-up has seen them all. This is the part of
    `make gpu`."""
    found = gpu.PARTS["compiled"](gpu.Check(toy=True, repeats=1))
    assert found["ok"] and found["recompiled"] == 0 < bench._graphs()


@pytest.mark.parametrize("kind", ["refine", "energy", "crf"])
def test_parts(capsys, kind):
    assert run("bench", kind, "--size", "32", "--repeats", "1") == 0
    assert answer(capsys)["bench"] == kind


@pytest.mark.parametrize("fused_from", [0, 10**9], ids=["fused", "unfused"])
def test_the_arithmetic_of_the_pages_is_what_torch_counts(fused_from):
    """`costs` counts encoder and decoder, whose sizes it knows without torch. PyTorch also counts the classifiers,
    which take little. Attention counts the same, fused or not."""
    net = model.build(tiny(model__fused_from=fused_from, csa__weight=0), 4)
    image = torch.randn(2, 3, 64, 48)
    with machine.counted_flops() as counter:
        output = net(image)
        (output.segmentation.sum() + output.tokens.sum()).backward()
    vit = costs.Vit(24, 3, 8, 4)
    passes = [costs.Pass(64, 48, 2, True, decoder=True)]
    assert counter.get_total_flops() / 1e12 == pytest.approx(costs.tflop(passes, vit, 4), rel=1e-4)


INFER = ("bench", "infer", "--backbone", "vit_tiny_patch16_224", "--images", "3", "--width", "50", "--height", "40")


def test_infer(capsys):
    assert run(*INFER, "--workers", 2) == 0
    found = answer(capsys)
    assert list(found["phases"]) == ["network", "resizing", "reading and softmax", "crf"]
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"], abs=0.003)
    assert all(value >= 0 for value in found["phases"].values()) and found["crf_seconds"] > 0
    # 3 x 2 tokens at 50 x 40, 3 x 3 at 62 x 50, 4 x 3 at 75 x 60, and all of it mirrored
    assert found["tokens"] == 3 * 2 * (6 + 9 + 12)
    passes = costs.evaluation_passes(40, 50, (1.0, 1.25, 1.5), 16)
    assert found["tflop"] == pytest.approx(3 * costs.tflop(passes, costs.Vit(192, 12, 16, 14), 20), abs=6e-4)
    assert found["peak_memory_gb"] > 0.1 and found["workers_memory_gb"] > 0.05
    outside = found["outside"]
    assert outside["base"] > outside["resizing"] < outside["ours"] and found["classes"] == 21
    _, table = (make([found, found | {"outside": None}]) for make in speed.SPEED_TABLES["infer"])
    assert [row[:3] for row in table.rows] == [("voc", "21", "whole")]


def test_merge(capsys, refused, tmp_path):
    """Outputs of the shipped network on photographs, over its classes and over 81."""
    root = machine.draw(tmp_path / "set", 5, (40, 32))
    assert run("bench", "merge", "--data-root", root, "--scales", 1, "--merge", 1e-6, 0.2) == 0
    found = answer(capsys)
    assert list(found["classes"]) == ["21", "81"] and found["photographs"] == 5
    for row in found["classes"].values():
        none, some = row["merge"].values()
        assert row["pixels"] == 5 * 40 * 32 and row["whole_core_seconds"] > 0
        assert none["different_pixels"] == 0 and some["classes_kept"] <= none["classes_kept"]
        assert none["equal"] == 100 and some["equal_in_worst"] <= some["equal"]
    (table,) = (make([found]) for make in speed.SPEED_TABLES["merge"])
    assert [row[:2] for row in table.rows] == [
        (classes, least) for classes in ("21", "81") for least in ("1e-06", "0.2")
    ]
    assert "--classes is 81; 2 photographs allow 21 to 41" in refused(
        "bench", "merge", "--data-root", root, "--images", 2
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc to read memory from")
def test_memory(trained, capsys, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    assert run("bench", "memory", folder(tmp_path / "runs"), "--workers", 2, "--every", 0.05) == 0
    found = answer(capsys)
    assert (found["images"], found["classes"], found["workers"]) == (4, 3, 2)
    assert len(found["done"]) == len(found["process_mb"]) == len(found["workers_mb"]) > 10
    assert found["done"] == sorted(found["done"]) and found["done"][-1] <= 4
    assert max(found["process_mb"]) > 100 and max(found["workers_mb"]) > 100
    assert (folder(tmp_path / "runs").parent / "0.voc-crf.json").is_file()
    assert run("bench", "memory", folder(tmp_path / "runs"), "--split", "nowhere") == 1
    assert "nowhere.txt does not exist" in capsys.readouterr().err
