"""AdamW and its schedule (method page, 'Optimiser')."""

from collections.abc import Iterable

import torch

from wsss.config import Optim

_START = 1e-6
"""Factor on the rate at the first step of the warm-up."""


def rate_factor(step: int, config: Optim) -> float:
    """Return the factor on the learning rate of optimizer step `step`, counted from 0 (eq. 11).

    It rises linearly from 1e-6 over the first `warmup` of the run. Then it is (1 - step / steps) ** power, which counts
    from step 0, so the rate drops where the warm-up ends, as in the base. With `restart` this happens twice: over the
    steps before the restart, and, times `restart_factor`, over those after it.
    """
    start, steps, scale = round(config.restart * config.steps), config.steps, 1.0
    if start and step < start:
        steps = start
    elif start:
        # Count anew from the restart.
        step, steps, scale = step - start, steps - start, config.restart_factor
    warmup = round(config.warmup * steps)
    if step < warmup:
        return scale * (1 - (1 - step / warmup) * (1 - _START))
    return scale * (1 - step / steps) ** config.power


def build(
    trunk: Iterable[torch.nn.Parameter],
    heads: Iterable[torch.nn.Parameter],
    decoder: Iterable[torch.nn.Parameter],
    config: Optim,
) -> torch.optim.AdamW:
    """Build AdamW: heads and decoder learn at `head_factor` and `decoder_factor` times the backbone's rate."""
    parts = ((trunk, 1.0), (heads, config.head_factor), (decoder, config.decoder_factor))
    groups = [{"params": list(part), "factor": factor} for part, factor in parts]
    decay = config.weight_decay
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, step: int, config: Optim) -> float:
    """Set the learning rates of `step` and return the backbone's.

    A restart clears AdamW's moments: those of the terms before it would make the first steps of new, larger terms many
    times too large.
    """
    if config.restart and step == round(config.restart * config.steps):
        optimizer.state.clear()  # AdamW's moments and step counters
    rate = config.lr * rate_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate
