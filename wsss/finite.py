"""Checks that stop a run at losses or weights that are not finite, before a checkpoint keeps them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wsss import distributed, host
from wsss.paths import UserError

Pending = tuple[list[str], Callable[[], dict[str, float]]]
"""Ids of a micro-batch, and a call that waits for the values of its terms."""


def values(terms: Mapping[str, Tensor]) -> Callable[[], dict[str, float]]:
    """Begin to copy all terms at once; return a call that waits for their values.

    The call does not wait for a backward pass that has begun in the meantime.
    """
    names, copies = list(terms), host.fetch(torch.stack([*terms.values()]))
    return lambda: dict(zip(names, copies()[0].tolist(), strict=True))


def means(pending: Sequence[Pending], undefined: bool, step: int, folder: Path) -> tuple[dict[str, float | None], bool]:
    """Average every term over a step's micro-batches; also return whether the segmentation loss was undefined anywhere.

    A term's mean is None if it was never defined. `undefined` allows NaN in the segmentation loss of any process
    (compat D5). Raises UserError with step, term and image ids if any process has another loss that is not finite.
    """
    rows, broken, without = [(ids, wait()) for ids, wait in pending], [], False
    for ids, row in rows:
        wrong = [name for name, value in row.items() if not math.isfinite(value)]
        if undefined and wrong == ["segmentation"] and math.isnan(row["segmentation"]):
            without = True
        elif wrong:
            broken.append(f"{' and '.join(wrong)} on the images {', '.join(ids)}")
    number, without = distributed.all_reduce_sum(len(broken), without)  # all processes raise, or none does
    if number:
        raise UserError(
            f"the loss is not finite at step {step}: {(broken or ['a term of another process'])[0]}; the last good "
            f"checkpoint in {folder} is untouched: lower --optim.lr, or look at these images"
        )
    defined = {name: [row[name] for _, row in rows if math.isfinite(row[name])] for name in rows[0][1]}
    return {name: sum(row) / len(row) if row else None for name, row in defined.items()}, bool(without)


def require_weights(model: nn.Module, step: int, folder: Path) -> None:
    """Raise UserError if the last update broke the weights, before they take the place of good ones."""
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"the weights are not finite after step {step}, first {broken[0]}; the last good checkpoint in {folder} is "
            "untouched: lower --optim.lr"
        )
