"""What several tests build: hypothesis settings, label maps, random arrays, tiny configurations and batches."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsss import method, model
from wsss.batch import Batch, Output, Targets
from wsss.config import Config
from wsss.model import SegmentationModel
from wsss.settings import override

IGNORE = 255

QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None)
"""The same few examples each time."""

TINY = {
    "model.pretrained": False,
    "model.checkpoint": "",
    "model.image_size": 32,
    "model.width": 24,
    "model.depth": 3,
    "model.heads": 3,
    "augment.crop": 32,
    "augment.evaluation_size": 32,
    "augment.local_size": 16,
    "augment.local_crops": 2,
    "class_contrast.hidden": 16,
    "class_contrast.bottleneck": 8,
    "msc.dimension": 2,
    "optim.steps": 4,
    "optim.batch": 2,
}
"""Overrides that make any preset small enough for a step in a fraction of a second."""


UNDECOUPLED = {"msc__orthogonality_weight": 0.0, "msc__decorrelation_weight": 0.0}


def tiny(base: Config | None = None, **changes) -> Config:
    """A small configuration; dots in a setting's path are written as two underscores."""
    own = {} if base else {"model.patch_size": 8}
    return override(base or Config(), TINY | own | {path.replace("__", "."): x for path, x in changes.items()})


def forward(
    config: Config, batch: Batch, seed: int = 0, net: SegmentationModel | None = None
) -> tuple[SegmentationModel, Output, Targets]:
    """A network and its forward pass at the last step, where every term has joined."""
    net = net or model.build(config, batch.label.shape[1])
    generator = torch.Generator(batch.image.device).manual_seed(seed)
    return net, *method.forward(net, batch, config, config.optim.steps - 1, generator)


def label_maps(classes: int, images: int = 3, side: int = 4):
    """(b, i, j) maps of 0..classes and IGNORE, down to one image of one token."""
    shapes = array_shapes(min_dims=3, max_dims=3, max_side=side).map(lambda s: (min(s[0], images), *s[1:]))
    return arrays(np.int64, shapes, elements=st.sampled_from([*range(classes + 1), IGNORE]))


def seeds():
    return st.integers(0, 2**31 - 1)


def noise(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers in float64."""
    return np.random.RandomState(seed).standard_normal(shape)


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def views(seed: int, images: int = 2, crops: int = 4, width: int = 6, scale: float = 1.0, subspaces: tuple = ()):
    """Student and teacher outputs of 2 + crops views, and flags with the global views positive."""
    shape = (images, *subspaces, width)
    flags = (noise(seed + 2, images, 2 + crops) > 0).astype(int)
    flags[:, :2] = 1
    return scale * noise(seed, 2 + crops, *shape), scale * noise(seed + 1, 2, *shape), flags


def pixels(image: torch.Tensor) -> torch.Tensor:
    """Images of mean 0 and deviation 1 as uint8 pixels."""
    return (58 * image + 116).round().clamp(0, 255).byte()


def training_batch(config: Config, classes: int = 4, images: int = 2, seed: int = 0) -> Batch:
    """Random views; the last image is padded at the top and at the right."""
    generator, side = torch.Generator().manual_seed(seed), config.augment.crop
    first, view, local = pixels(torch.randn(3, images, 3, side, side, generator=generator))
    label = torch.zeros(images, classes)
    for image in range(images):
        label[image, [image % classes, (image + 1) % classes]] = 1
    box = torch.tensor([[0, side, 0, side]] * (images - 1) + [[side // 4 + 1, side, 0, side - 2]])
    return Batch([f"image{n}" for n in range(images)], first, label, box, view, local)
