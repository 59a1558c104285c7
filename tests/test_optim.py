"""The learning rate and the two groups of AdamW."""

import pytest
import reference
import torch
from builders import tiny

from wsss import model, optim
from wsss.config import Optim
from wsss.presets import PRESETS


@pytest.mark.parametrize("name", ["voc", "voc-deit-toco", "coco", "coco-deit"])
def test_warm_up_is_1500_steps_at_full_scale(name):
    config = PRESETS[name].optim
    for step in (0, 1, 1499, 1500, 1501, config.steps - 1):
        wanted = reference.learning_rate(step, steps=config.steps)
        assert config.lr * optim.rate_factor(step, config) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_very_short_runs(steps):
    factors = [optim.rate_factor(step, Optim(steps=steps)) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert optim.rate_factor(0, Optim(steps=steps, warmup=0.0)) == 1


def test_adamw_is_the_predecessors():
    config = tiny()
    net = model.build(config, 4)
    optimizer = optim.build(net.trunk_parameters(), net.head_parameters(), net.decoder.parameters(), config.optim)
    optim.set_rate(optimizer, 3, config.optim)
    trunk, *others = optimizer.param_groups
    for group in others:
        assert group["lr"] == pytest.approx(10 * trunk["lr"])
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8 and group["weight_decay"] == 0.01
    parts = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(parts) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_a_restart_is_two_runs_one_after_the_other():
    whole = Optim(steps=100, warmup=0.1, restart=0.6, restart_factor=0.3)
    first, second = Optim(steps=60, warmup=0.1), Optim(steps=40, warmup=0.1)
    wanted = [optim.rate_factor(n, first) for n in range(60)] + [0.3 * optim.rate_factor(n, second) for n in range(40)]
    assert [optim.rate_factor(n, whole) for n in range(100)] == pytest.approx(wanted, rel=1e-12)


def test_a_restart_forgets_the_moments():
    weight = torch.nn.Parameter(torch.ones(1))
    config = Optim(steps=10, warmup=0.0, restart=0.5, lr=0.1)
    optimizer = optim.build([weight], [], [], config)
    for step in range(6):
        optim.set_rate(optimizer, step, config)
        before = weight.item()
        weight.grad = torch.full((1,), 1e-3 if step < 5 else 10.0)
        optimizer.step()
    assert before - weight.item() == pytest.approx(0.1 * (1 + 0.01 * before), rel=1e-3), "a first step of one rate"
