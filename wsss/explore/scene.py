"""What models see in an image, computed for the explorer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from wsss import cam, evaluate, method, refine, transforms
from wsss.batch import Output, present_classes
from wsss.config import AUX, Config
from wsss.explore.payload import LARGEST, MOST, LayerCam, Scene, View
from wsss.inference import crf
from wsss.model import SegmentationModel
from wsss.paths import UserError

_FINER = 3
"""Values per patch and side at which CAMs of several scales are kept; odd, so that one lies in the patch's middle."""


@dataclass(frozen=True)
class Seer:
    """A trained model with its configuration and its description."""

    name: str
    about: str
    model: SegmentationModel
    config: Config
    digest: str = ""
    """sha256 of the file of its weights."""


@dataclass(frozen=True)
class Example:
    """An image to look at, with its image labels and truth where they are known."""

    name: str
    image: Image.Image
    label: Float[Tensor, " k"] | None = None
    truth: UInt8[np.ndarray, "h w"] | None = None
    """255 is ignored."""


@torch.inference_mode()
def scene(photo: Example, seers: Sequence[Seer]) -> Scene:
    """Return what each of the models sees in a photograph; all models know the same classes.

    If the image labels are unknown, the *last* model predicts them for all models (above one half, else the most
    probable). All models show the same classes, each in its own order: those in the image, those that any model
    predicts, and the most probable ones of the last model.
    """
    if not seers:
        raise UserError("there is nothing to explore: give at least one model")
    small, truth = _small(photo), photo.truth
    if truth is not None and truth.shape != small.size[::-1]:
        truth = np.asarray(Image.fromarray(truth).resize(small.size, Image.Resampling.NEAREST))
    pixels = [_pixels(photo.image, seer) for seer in seers]
    outputs = [seer.model(seer.model.normalise(image)) for seer, image in zip(seers, pixels, strict=True)]
    scores = torch.cat([output.logits for output in outputs]).sigmoid()
    predicted = evaluate.probable_label(scores)
    label = photo.label if photo.label is not None else predicted[-1]
    shown = label + predicted.sum(0)
    shown[(scores[-1] + label).topk(min(MOST, len(label))).indices] = 1.0  # + label: those in the image first
    views = tuple(
        _view(seer, image, output, label, shown > 0, size=small.size[::-1])
        for seer, image, output in zip(seers, pixels, outputs, strict=True)
    )
    present = tuple(int(place) + 1 for place in label.nonzero()[:, 0])
    return Scene(photo.name, np.asarray(small), present, photo.label is not None, truth, views)


def shrunk(pictures: Sequence[Example], seers: Sequence[Seer]) -> str:
    """Return a text with the sizes at which pictures are shown and seen; empty if all are shown as they are."""
    largest = max(pictures, key=lambda photo: math.prod(photo.image.size))
    width, height = largest.image.size
    if max(width, height) <= LARGEST:
        return ""
    sides = sorted({seer.config.augment.squashed for seer in seers})
    seen = " and ".join(f"{side} x {side}" for side in sides)
    return (
        f"explore: the largest picture, {largest.name}, has {width} x {height} pixels; the page scales the "
        f"longer side down to {LARGEST}, and the models see pictures at {seen}"
    )


def _view(
    seer: Seer,
    pixels: evaluate.Images,
    output: Output,
    label: Float[Tensor, " k"],
    shown: Bool[Tensor, " k"],
    *,
    size: tuple[int, int],
) -> View:
    """Return what one model sees; masks have `size` (rows, columns)."""
    model, config = seer.model, seer.config
    score = output.logits[0].sigmoid()
    order = (score + label).argsort(descending=True)  # those in the image first
    order = order[shown[order]]
    image, wanted = model.normalise(pixels), present_classes(shown[None].float())
    several = method.multi_scale_cams(model, image, output, config, wanted)
    finer, layers = tuple(_FINER * side for side in output.grid), []
    for name, maps in zip(_layer_names(model), several, strict=True):
        small = F.interpolate(maps[:, order], finer, mode="bilinear", align_corners=False)
        layers.append(LayerCam(name, _numpy(small[0])))
    codes = {"tokens": _numpy(output.tokens[0]), "tokens, aux layer": _numpy(output.layers[1][0])}
    if config.trains_subspaces:
        embeddings = model.proj_head(output.tokens)[0]
        codes |= {f"subspace {k + 1}": _numpy(embeddings[:, k]) for k in range(embeddings.shape[1])}
    segmentation = pseudo_label = None
    if config.segmentation.weight:
        logits = F.interpolate(output.segmentation, size, mode="bilinear", align_corners=False)
        segmentation = logits[0].argmax(0).byte().cpu().numpy()
        maps = cam.masked(several[0], label[None])
        pseudo_label = _nearest(method.pseudo_label(pixels, maps, label[None], config), size)
    return View(
        seer.name,
        seer.about,
        tuple(int(place) + 1 for place in order),
        tuple(float(score[place]) for place in order),
        output.grid,
        tuple(layers),
        codes,
        segmentation,
        pseudo_label,
    )


def _layer_names(model: SegmentationModel) -> list[str]:
    blocks = len(model.encoder.blocks)
    numbers = {"last layer": blocks, "aux layer": blocks - AUX}
    further = [f"further layer (block {number})" for number in model.extra_blocks]
    return [*(f"{name} (block {number})" for name, number in numbers.items()), *further]


def page_model(seer: Seer) -> dict[str, Any]:
    """Describe a network for a page that runs it by itself."""
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


def _nearest(labels: Tensor, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[0, 0].byte().cpu().numpy()


def _numpy(value: Tensor) -> np.ndarray:
    return value.float().cpu().numpy()


def _small(photo: Example) -> Image.Image:
    """Scale the photograph to the size at which it is shown."""
    scale = min(1, LARGEST / max(photo.image.size))
    width, height = (max(1, int(side * scale + 0.5)) for side in photo.image.size)
    return photo.image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def _pixels(photograph: Image.Image, seer: Seer) -> evaluate.Images:
    size = seer.config.augment.squashed
    return transforms.resize_square(photograph.convert("RGB"), size, seer.config.compat.plain_squash)[None]


# On demand.


@torch.inference_mode()
def refined(
    photo: Example, seer: Seer, present: Sequence[int], threshold: float, layer: int
) -> UInt8[np.ndarray, "h w"]:
    """Return labels of the CAM with one background level, `threshold`, refined by the photograph's colours (PAR)."""
    pixels = _pixels(photo.image, seer)
    image = seer.model.normalise(pixels)
    label = torch.zeros(1, seer.model.classifier.weight.shape[0])
    label[0, [number - 1 for number in present]] = 1.0
    whole = method.multi_scale_cams(seer.model, image, seer.model(image), seer.config, present_classes(label))[layer]
    maps = cam.masked(whole, label)
    box = cam.whole_box(1, (pixels.shape[2], pixels.shape[3]), pixels.device)
    return _nearest(
        refine.segmentation_labels(pixels, maps, label, box, threshold, threshold), _small(photo).size[::-1]
    )


@torch.inference_mode()
def with_crf(photo: Example, seer: Seer) -> UInt8[np.ndarray, "h w"]:
    """Return the segmentation after a dense CRF with the final protocol's numbers."""
    logits = seer.model(seer.model.normalise(_pixels(photo.image, seer))).segmentation
    pixels = np.asarray(_small(photo))
    probability = F.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)[0].softmax(0)
    return crf.dense_crf(pixels, _numpy(probability)).argmax(0).astype(np.uint8)
