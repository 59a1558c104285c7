"""Data sets in memory: training views as batches in a reproducible order, and images with truth for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsss import distributed, transforms
from wsss.batch import Batch
from wsss.config import Config, Data
from wsss.data import voc
from wsss.data.pictures import read_image, read_mask
from wsss.data.voc import Split
from wsss.paths import UserError, note
from wsss.process import cores, leave_stop_to_parent


def root_of(config: Data) -> Path:
    """Return the folder of the data set, as `data.sets.root_of` does; a missing drawn set is drawn first."""
    from wsss.data import sets  # imported late: a step needs neither the known sets nor the code that draws them

    return sets.root_of(config)


ORDER, VIEWS, STEP = 1, 2, 3
"""Purposes of a derived seed: the order of a pass over the data, the views of an image, the draws of a micro-batch."""


@dataclass
class Sample:
    """One image for evaluation."""

    id: str
    image: Tensor
    """(3, q, q) pixels of the photograph, squashed to the evaluation size: uint8, or float after a plain squash
    (D18)."""
    pixels: np.ndarray
    """(h, w, 3) uint8, the photograph itself."""
    label: Tensor
    """(k,) image-level labels."""
    mask: np.ndarray
    """(h, w) uint8 truth, 255 ignored."""
    part: np.ndarray | None
    """(h, w) uint8, the class where its distinctive part is visible; None if parts are not known."""


def sample(split: Split, index: int, size: int, plain: bool = False) -> Sample:
    """Return image and truth of one id, the image squashed to `size` as `transforms.resize_square` does."""
    kit, name = split.kit, split.ids[index]
    photograph, mask = voc.read_pair(kit, name)
    part = None
    if kit.part_source:
        part = read_mask(kit.root / kit.part_source / f"{name}.png", photograph.size, len(kit.classes))
    image = transforms.resize_square(photograph, size, plain)
    return Sample(name, image, np.asarray(photograph), torch.from_numpy(split.labels[index]), mask, part)


def require_labels(train: Split, val: Split) -> None:
    """Raise UserError if no training image has a label; note on stderr the classes of `val` that no training image
    shows."""
    root, learnt = train.kit.root, train.labels.any(0)
    if not learnt.any():
        raise UserError(
            f"no image of the list {train.name} of {root} has a label, so there is nothing to learn; see wsss data "
            f"check {root}"
        )
    missing = [name for name, here in zip(train.kit.classes, val.labels.any(0) & ~learnt, strict=True) if here]
    if missing:
        note(
            f"warning: no image of the list {train.name} shows {', '.join(missing)}, which {val.name} shows: classes "
            "that are not learnt score near 0"
        )


class TrainingViews(Dataset):
    """Training views of photographs. The key of an item is (index, seed): the same key gives the same views
    anywhere."""

    def __init__(self, split: Split, config: Config):
        self.split, self.config = split, config

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        index, seed = key
        photograph, mask = read_image(self.split.files[index]), None
        augment, compat, contrast = self.config.augment, self.config.compat, "views" in self.config.needs
        # The seed is the item's own: the views depend neither on the loader process nor on what it drew before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, box, second, local = transforms.views(photograph, augment, compat, contrast)
            if self.config.data.supervision == "masks":
                torch.manual_seed(seed)  # the mask is scaled, flipped and cut by the same draws
                mask = transforms.mask_view(voc.read_pair(self.split.kit, self.split.ids[index])[1], augment, compat)
        label = torch.from_numpy(self.split.labels[index])
        return self.split.ids[index], first, label, torch.tensor(box), second, local, mask


def collate(items: list[tuple]) -> Batch:
    """Join items of `TrainingViews` into a batch."""
    ids, *columns = zip(*items, strict=True)
    return Batch(list(ids), *(None if column[0] is None else torch.stack(column) for column in columns))


def micro_batches(config: Config) -> int:
    """Return the number of micro-batches of a step over all processes. Raises UserError if its images do not divide
    evenly."""
    parts = distributed.world_size() * config.optim.accumulate
    if config.optim.batch % parts:
        raise UserError(
            f"optim.batch ({config.optim.batch}) cannot be shared by {distributed.world_size()} processes with "
            f"{config.optim.accumulate} micro-batches each; choose a multiple of {parts}"
        )
    return parts


class TrainSampler:
    """Micro-batches of (index, seed) from a given step on; each depends on seed, step and place alone.

    Every pass over the data is a new permutation, and the passes form one endless sequence. Step s takes its images s *
    batch .. (s + 1) * batch. Process r of w computes the micro-batches r, r + w, ... of a step.
    """

    def __init__(self, length: int, config: Config, first_step: int):
        self.length, self.config, self.first_step = length, config, first_step
        self._epoch, self._permutation = -1, []
        self.parts = micro_batches(config)

    def __len__(self) -> int:
        return (self.config.optim.steps - self.first_step) * self.config.optim.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.config.optim.batch // self.parts
        for step in range(self.first_step, self.config.optim.steps):
            for part in range(distributed.rank(), self.parts, distributed.world_size()):
                start = step * self.config.optim.batch + part * size
                yield [self._item(place) for place in range(start, start + size)]

    def _item(self, place: int) -> tuple[int, int]:
        epoch, offset = divmod(place, self.length)  # a batch may reach over the end of a pass over the data
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, ORDER, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.length, generator=generator).tolist()
        return self._permutation[offset], derive_seed(self.config.seed, VIEWS, place)


def derive_seed(*numbers: int) -> int:
    """Derive a seed from several numbers; near numbers give seeds far apart."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def num_workers(wanted: int | None) -> int:
    """Return the number of loader processes: `wanted`, or a default if it is None.

    The default with a GPU is 4, at most the cores per process; without a GPU it is 0.
    """
    if wanted is not None:
        return wanted
    return min(4, max(1, cores() // distributed.local_world_size())) if torch.cuda.is_available() else 0


def training_batches(split: Split, config: Config, first_step: int) -> Iterator[Batch]:
    """Yield the micro-batches of this process, in order, from `first_step` on. Raises UserError."""
    sampler = TrainSampler(len(split), config, first_step)
    loader = DataLoader(
        TrainingViews(split, config),
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers(config.data.workers),
        worker_init_fn=leave_stop_to_parent,
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except UserError as error:  # the message of a loader process is its whole traceback; the sentence comes last
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
