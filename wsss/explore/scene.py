"""What models see in an image, computed for the explorer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from wsss import cam, evaluate, method, refine, transforms
from wsss.batch import Output, present_classes
from wsss.config import AUX, Config
from wsss.explore.payload import LARGEST, MOST, LayerCam, Scene, View
from wsss.inference import crf
from wsss.model import SegmentationModel

FINER = 3
"""The maps of several scales are kept at this many values per patch and side; odd, so that one lies in its middle."""


@dataclass(frozen=True)
class Seer:
    """A trained model with its configuration and the words for it."""

    name: str
    about: str
    model: SegmentationModel
    config: Config
    digest: str = ""
    """sha256 of the file of its weights."""


@dataclass(frozen=True)
class Picture:
    """An image to look at, with its image labels and truth where they are known."""

    name: str
    photograph: Image.Image
    label: Float[Tensor, " k"] | None = None
    truth: UInt8[np.ndarray, "h w"] | None = None
    """255 is ignored."""


def scene(picture: Picture, seers: Sequence[Seer]) -> Scene:
    """The picture with what each of the models, which know the same classes, sees in it.

    Where the image labels are not known, those that the *last* model predicts (above one half, else the most probable)
    take their place for all of them.
    """
    small = picture.photograph.convert("RGB")
    scale = min(1, LARGEST / max(small.size))
    width, height = (max(1, int(side * scale + 0.5)) for side in small.size)
    small = small.resize((width, height), Image.Resampling.BICUBIC)
    truth = picture.truth
    if truth is not None and truth.shape != small.size[::-1]:
        truth = np.asarray(Image.fromarray(truth).resize(small.size, Image.Resampling.NEAREST))
    label = picture.label if picture.label is not None else predicted_label(picture.photograph, seers[-1])
    present = tuple(int(place) + 1 for place in label.nonzero()[:, 0])
    views = tuple(view(picture.photograph, small.size[::-1], label, seer) for seer in seers)
    return Scene(picture.name, np.asarray(small), present, picture.label is not None, truth, views)


def shrunk(pictures: Sequence[Picture], seers: Sequence[Seer]) -> str:
    """A sentence on the sizes at which pictures are shown and seen; empty where all are shown as they are."""
    largest = max(pictures, key=lambda picture: math.prod(picture.photograph.size))
    width, height = largest.photograph.size
    if max(width, height) <= LARGEST:
        return ""
    sides = sorted({seer.config.augment.squashed for seer in seers})
    seen = " and ".join(f"{side} x {side}" for side in sides)
    return (
        f"explore: the largest picture, {largest.name}, has {width} x {height} pixels; the page shows pictures "
        f"scaled down to {LARGEST} at most on the longer side, and the models see them at {seen}"
    )


def predicted_label(photograph: Image.Image, seer: Seer) -> Float[Tensor, " k"]:
    """The classes that the model gives more than one half, or the most probable one."""
    return evaluate.predicted_label(seer.model, _pixels(photograph, seer))[0]


@torch.inference_mode()
def view(photograph: Image.Image, size: tuple[int, int], label: Float[Tensor, " k"], seer: Seer) -> View:
    """What one model sees; masks are of `size` (rows, columns)."""
    pixels, (model, config) = _pixels(photograph, seer), (seer.model, seer.config)
    image = model.normalise(pixels)
    output = model(image)
    score = output.logits[0].sigmoid()
    order = (score + label).argsort(descending=True)  # those in the image first
    shown = order[: max(MOST, int(label.sum()))]
    wanted = torch.zeros_like(label).index_fill(0, shown, 1.0)[None]
    several = method.multi_scale_cams(model, image, output, config, present_classes(wanted))
    finer = tuple(FINER * side for side in output.grid)
    layers = tuple(
        LayerCam(name, _numpy(_small(maps[:, shown], finer)[0]))
        for name, maps in zip(_layer_names(model), several, strict=True)
    )
    segments = bool(config.segmentation.weight)
    return View(
        seer.name,
        seer.about,
        tuple(int(place) + 1 for place in shown),
        tuple(float(score[place]) for place in shown),
        output.grid,
        layers,
        _codes(model, output, config),
        _labels(output.segmentation, size) if segments else None,
        _pseudo_label(several, pixels, label, config, size) if segments else None,
    )


def _layer_names(model: SegmentationModel) -> list[str]:
    blocks = len(model.encoder.blocks)
    numbers = {"last layer": blocks, "aux layer": blocks - AUX}
    further = [f"further layer (block {number})" for number in model.extra_blocks]
    return [*(f"{name} (block {number})" for name, number in numbers.items()), *further]


def described(seer: Seer) -> dict[str, Any]:
    """What a page needs to know of a network that it runs by itself, beside the graph."""
    size = seer.config.augment.squashed
    return {
        "name": seer.name,
        "about": seer.about,
        "weights": seer.digest,
        "size": size,
        "plain": seer.config.compat.plain_squash,
        "grid": [size // seer.model.patch] * 2,
        "layers": _layer_names(seer.model)[:2],
        "largest": LARGEST,
        "most": MOST,
    }


def _small(maps: Float[Tensor, "b k h w"], grid: tuple[int, int]) -> Float[Tensor, "b k i j"]:
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def _codes(model: SegmentationModel, output: Output, config: Config) -> dict[str, Float[np.ndarray, "n d"]]:
    codes = {"tokens": _numpy(output.tokens[0]), "tokens, aux layer": _numpy(output.layers[1][0])}
    if config.trains_subspaces:
        embeddings = model.proj_head(output.tokens)[0]
        codes |= {f"subspace {k + 1}": _numpy(embeddings[:, k]) for k in range(embeddings.shape[1])}
    return codes


def _labels(logits: Float[Tensor, "1 c i j"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0).byte().cpu().numpy()


def _pseudo_label(
    several: tuple[Tensor, ...],
    pixels: UInt8[Tensor, "1 3 q q"] | Float[Tensor, "1 3 q q"],
    label: Float[Tensor, " k"],
    config: Config,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "h w"]:
    maps = cam.masked(several[0], label[None])
    return _nearest(method.pseudo_label(pixels, maps, label[None], config), size)


def _nearest(labels: Tensor, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    found = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")
    return found[0, 0].byte().cpu().numpy()


def _numpy(value: Tensor) -> np.ndarray:
    return value.float().cpu().numpy()


def _pixels(photograph: Image.Image, seer: Seer) -> evaluate.Pixels:
    size = seer.config.augment.squashed
    return transforms.resize_square(photograph.convert("RGB"), size, seer.config.compat.plain_squash)[None]


# On demand.


@torch.inference_mode()
def refined(
    picture: Picture, seer: Seer, present: Sequence[int], threshold: float, layer: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """The CAM's labels with one background level, `threshold`, refined by the photograph's colours (PAR)."""
    pixels = _pixels(picture.photograph, seer)
    image = seer.model.normalise(pixels)
    label = torch.zeros(1, seer.model.classifier.weight.shape[0])
    label[0, [number - 1 for number in present]] = 1.0
    whole = method.multi_scale_cams(seer.model, image, seer.model(image), seer.config, present_classes(label))[layer]
    maps = cam.masked(whole, label)
    box = cam.whole_box(1, (pixels.shape[2], pixels.shape[3]), pixels.device)
    return _nearest(refine.segmentation_labels(pixels, maps, label, box, threshold, threshold), size)


@torch.inference_mode()
def with_crf(picture: Picture, seer: Seer, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The segmentation after a dense CRF with the final protocol's numbers."""
    logits = seer.model(seer.model.normalise(_pixels(picture.photograph, seer))).segmentation
    probability = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].softmax(0)
    pixels = np.asarray(picture.photograph.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))
    return crf.dense_crf(pixels, _numpy(probability)).argmax(0).astype(np.uint8)
