"""Benches: one JSON line, honest counts of tokens and operations, phases that add up. No time is asserted."""

import json

import pytest
import torch
from builders import tiny, training_batch
from running import run
from torch.utils.flop_counter import FlopCounterMode

from wsss import method, model
from wsss.tools import bench_step, machine

STEP = ("bench", "step", "--backbone", "vit_tiny_patch16_224", "--crop", "64", "--repeats", "2")


@pytest.fixture(autouse=True)
def small_unit(monkeypatch):
    """A unit of time that takes no time."""
    monkeypatch.setattr(machine, "GEMM", 512)
    monkeypatch.setattr(bench_step, "GEMM", 512)


def answer(capsys) -> dict:
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.mark.parametrize("preset", ["voc", "voc-toco"])
def test_step(capsys, preset):
    assert run(*STEP, "--preset", preset) == 0
    found = answer(capsys)
    phases = {
        "main pass",
        "cam passes",
        "view 2 and local crops",
        "refinement",
        "other losses",
        "backward",
        "optimizer",
    }
    assert set(found["phases"]) == phases | ({"patch codes"} if preset == "voc" else set())
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"], rel=0.5)
    # 4 x 4 tokens at scale 1, 2 x 2 at 0.5, 6 x 6 at 1.5; local crops are the whole crop: 8 of 16 tokens.
    assert found["tokens"] == {"forward": 2 * (16 + 16 + 4 + 4 + 36 + 36 + 16 + 128), "backward": 2 * (16 + 16 + 128)}
    assert found["units"] == pytest.approx(found["seconds"] / found["gemm_seconds"], rel=0.2)
    assert found["utilisation"] > 0 and found["peak_memory_gb"] > 0.1 and found["device"]


def test_step_in_bfloat16_by_micro_batches_that_keep_little(capsys):
    more = ("--dtype", "bfloat16", "--accumulate", "2", "--activation-checkpointing", "True", "--batch", "4")
    assert run(*STEP, *more) == 0
    found = answer(capsys)
    assert (found["dtype"], found["accumulate"], found["activation_checkpointing"]) == ("bfloat16", 2, True)
    assert found["tokens"]["backward"] == 4 * (16 + 16 + 128)


@pytest.mark.parametrize("kind", ["refine", "energy", "crf"])
def test_parts(capsys, kind):
    assert run("bench", kind, "--size", "32", "--repeats", "1") == 0
    found = answer(capsys)
    assert found["bench"] == kind and found["images_a_second"] == pytest.approx(2 / found["seconds"], rel=0.1)


def test_operations_are_those_that_torch_counts():
    """Encoder and decoder of a step, backward twice the forward but for the pixels, which need no gradient."""
    config = tiny(
        model__fused_from=10**9, class_contrast__weight=0, msc__patch_weight=0, msc__decoupling="none", csa__weight=0
    )
    net, batch = model.build(config, 4), training_batch(config)
    passes = []
    net.encoder.patch_embed.register_forward_hook(
        lambda _, __, out: passes.append((out.shape[0], out[0, ..., 0].numel(), torch.is_grad_enabled()))
    )
    with FlopCounterMode(display=False) as counter:
        output = method.forward(net, batch, config, torch.Generator())
        (output.segmentation.sum() + output.tokens.sum()).backward()
    own = bench_step.step_flops(net, passes, 1)
    assert own == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_no_such_bench(capsys):
    assert run("bench") == 2 and "usage: wsss bench" in capsys.readouterr().out
    assert run("bench", "stepp") == 1 and "did you mean step?" in capsys.readouterr().err
