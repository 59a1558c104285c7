"""The order of training data: every image once an epoch, any number of processes and workers."""

import pytest
import torch
from builders import QUICK, tiny
from hypothesis import given
from hypothesis import strategies as st

from wsss import datasets, distributed
from wsss.paths import UserError


def order(length, steps, batch, seed=0, accumulate=1):
    changes = {"optim__steps": steps, "optim__batch": batch, "seed": seed, "optim__accumulate": accumulate}
    return datasets.TrainSampler(length, tiny(**changes), 0)


@QUICK
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_every_image_once_an_epoch(length, batch, steps, seed):
    places = [item for part in order(length, steps, batch, seed=seed) for item in part]
    assert len(places) == steps * batch
    for start in range(0, len(places), length):
        epoch = [index for index, _ in places[start : start + length]]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(length))
    assert len({item_seed for _, item_seed in places}) == len(places), "no two views share their random numbers"


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_a_step(monkeypatch, world, accumulate):
    """Together they take the images of one process, each once; micro-batch m is the same whoever computes it."""
    whole = list(order(10, 3, 8))
    parts = {}
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = order(10, 3, 8, accumulate=accumulate)
        found = list(mine)
        assert len(found) == len(mine) == 3 * accumulate
        for place, items in enumerate(found):
            step, part = divmod(place, accumulate)
            parts[step, part * world + rank] = items
    for step in range(3):
        assert [item for number in range(world * accumulate) for item in parts[step, number]] == whole[step]


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match=r"optim.batch \(8\) cannot be shared by 1 processes with 3"):
        order(10, 3, 8, accumulate=3)


@pytest.mark.parametrize(
    ("wanted", "gpu", "there", "processes", "expected"),
    [(3, False, 2, 1, 3), (0, True, 8, 1, 0), (None, False, 8, 1, 0), (None, True, 8, 1, 4), (None, True, 2, 1, 2)]
    + [(None, True, 6, 2, 3), (None, True, 6, 4, 1), (None, True, 6, 8, 1), (7, True, 6, 8, 7)],
)
def test_a_gpu_has_loader_processes_without_being_asked(monkeypatch, wanted, gpu, there, processes, expected):
    """They are divided among the processes of a machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(datasets, "cores", lambda: there)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert datasets.num_workers(wanted) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(mini_root, workers):
    config = tiny(optim__steps=3, data__workers=workers)
    split = datasets.Split(mini_root, "train")
    alone = list(datasets.training_batches(split, tiny(optim__steps=3), 0))
    shared = list(datasets.training_batches(split, config, 0))
    later = list(datasets.training_batches(split, config, 2))
    for one, two in [*zip(alone, shared, strict=True), (alone[2], later[0])]:
        assert one.ids == two.ids
        for name in ("image", "label", "box", "view", "local"):
            assert torch.equal(getattr(one, name), getattr(two, name))
    assert len(later) == 1
