"""Evaluation as in the base's training: squashed images, one scale, no CRF. Each image counts once over all
processes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from wsss import alignment, cam, datasets, distributed, method, provenance
from wsss import config as configuration
from wsss.batch import present_classes
from wsss.config import Config, Data
from wsss.data import names, sets, voc
from wsss.data.pool import stream
from wsss.data.voc import Devkit, Split
from wsss.model import SegmentationModel, describe
from wsss.paths import UserError, atomic
from wsss.registry import title
from wsss.report import records
from wsss.tally import Counts, Predicted, count, counts_by_image, scores

BATCH = 8
"""Images evaluated at once; all are squashed to one size."""

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


def require_headline(config: Data, classes: tuple[str, ...]) -> None:
    """Raise UserError if a class of the headline is not a class of the set."""
    wrong = next((name for name in config.headline if name not in ("background", *classes)), None)
    if wrong is not None:
        raise UserError(f"data.headline names {names.unknown_class(wrong, classes)}; --data.headline '' means all")


@dataclass
class Prediction:
    """Outputs of a model for a batch of squashed images."""

    cam: Float[Tensor, "b k h w"]
    """Normalised multi-scale CAM of the last layer, masked by the image labels."""
    aux_cam: Float[Tensor, "b k h w"]
    """The same of the aux layer."""
    segmentation: Float[Tensor, "b c i j"]
    """Logits on the token grid, background first."""
    logits: Float[Tensor, "b k"]
    """Logits of the classifier."""
    pseudo_label: Int[Tensor, "b h w"]
    """Refined pseudo label of the last layer's CAM, 255 where it is unsure."""
    codes: Float[Tensor, "b n q"] | None = None
    """Embeddings of the tokens in all subspaces, side by side; None if no subspaces are trained."""

    def of(self, row: int) -> "Prediction":
        """Return the prediction of one image, as a batch of one."""
        rows = {name: value if value is None else value[row : row + 1] for name, value in vars(self).items()}
        return Prediction(**rows)

    @property
    def layers(self) -> dict[str, Float[Tensor, "b k h w"]]:
        """Return the CAMs by the names of `tally.LAYERS`."""
        return {"cam": self.cam, "aux_cam": self.aux_cam}


@torch.inference_mode()
def predict(model: SegmentationModel, image: Images, label: Float[Tensor, "b k"], config: Config) -> Prediction:
    """Predict a batch of images; their image labels `label` mask the CAMs."""
    normalised = model.normalise(image)
    output = model(normalised)
    main, aux, *_ = method.multi_scale_cams(model, normalised, output, config, present_classes(label))
    maps = {name: cam.masked(whole, label) for name, whole in (("cam", main), ("aux_cam", aux))}
    pseudo = method.pseudo_label(image, maps["cam"], label, config)
    codes = model.proj_head(output.tokens).flatten(2) if config.trains_subspaces else None
    return Prediction(**maps, segmentation=output.segmentation, logits=output.logits, pseudo_label=pseudo, codes=codes)


@torch.inference_mode()
def predicted_label(model: SegmentationModel, image: Images) -> Float[Tensor, "b k"]:
    """Predict image labels: the classes with a probability above one half, and always the most probable one."""
    return probable_label(model(model.normalise(image), segment=False).logits.sigmoid())


def probable_label(probability: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Return the classes with a probability above one half, and always the most probable one."""
    return ((probability > 0.5) | (probability == probability.amax(1, keepdim=True))).float()


@torch.inference_mode()
def agreement(prediction: Prediction, label: Float[Tensor, "b k"]) -> Float[Tensor, "b 2"]:
    """Measure how much the CAMs of the last and the aux layer differ on the token grid, in percent per image.

    First column: mean |M^12 - M^10| over present classes and tokens. Second: mean |A^12 - A^10| over pairs of different
    tokens; A are the structure affinities of Module B. NaN for an image without a class.
    """
    grid, present = prediction.segmentation.shape[2:], label > 0
    layers = [alignment.teacher_cam(maps, tuple(grid)) for maps in prediction.layers.values()]
    difference = (layers[0] - layers[1]).abs().mean((2, 3))
    difference = (difference * present).sum(1) / present.sum(1)
    affinities = [alignment.cam_affinity(maps, label).double() for maps in layers]
    tokens = affinities[0].shape[1]
    apart = (affinities[0] - affinities[1]).abs().sum((1, 2)) / max(tokens * (tokens - 1), 1)
    apart = apart.masked_fill(~present.any(1), torch.nan)
    return 100 * torch.stack([difference, apart.to(difference.dtype)], 1)


_Largest = dict[str, tuple[Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]]
"""Layer -> the largest CAM at each pixel, and the class of that CAM."""


def _largest_cams(prediction: Prediction, size: tuple[int, int]) -> _Largest:
    """Return by layer the largest CAM at each pixel of `size`, and its class, for the prediction of one image.

    Classes without any response are left out: they are never above a threshold.
    """
    largest: _Largest = {}
    for kind, maps in prediction.layers.items():
        present = maps[0].amax((1, 2)) > 0
        present[0] |= ~present.any()  # keep one class, since a maximum over none is an error
        classes = present.nonzero()[:, 0]
        value, slot = _resized(maps[:, classes], size)[0].max(0)
        largest[kind] = value.cpu().numpy(), (classes[slot] + 1).byte().cpu().numpy()
    return largest


def to_labels(
    prediction: Prediction, size: tuple[int, int], config: Config, largest: _Largest | None = None
) -> dict[str, UInt8[np.ndarray, "h w"]]:
    """Return labels at `size` by kind, for the prediction of one image.

    segmentation: argmax of the logits. cam and aux_cam: the largest CAM against the background level. pseudo_label: 255
    where it is unsure. `largest` is `_largest_cams` at that size, if it is known already.
    """
    largest = _largest_cams(prediction, size) if largest is None else largest
    above = {kind: value > np.float32(config.cam.background) for kind, (value, _) in largest.items()}
    maps = {kind: np.where(above[kind], label, 0).astype(np.uint8) for kind, (_, label) in largest.items()}
    maps["segmentation"] = _resized(prediction.segmentation, size)[0].argmax(0).byte().cpu().numpy()
    pseudo = F.interpolate(prediction.pseudo_label[:, None].float(), size, mode="nearest-exact")
    return {**maps, "pseudo_label": pseudo[0, 0].byte().cpu().numpy()}


def _resized(value: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(value.float(), size, mode="bilinear", align_corners=False)


def tally(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, workers: int | None = None
) -> Counts:
    """Count a split and return all counts in every process. Process r of w takes the images r, r + w, ....

    `workers` processes measure while the network predicts. None means the number of `datasets.num_workers`, so none
    without a GPU.
    """
    # Sums over images do not depend on the number of processes, since each image is counted once.
    was_training, counted = model.training, Counts(background=config.cam.background, subspaces=config.msc.subspaces)
    model.eval()
    places = range(distributed.rank(), len(split), distributed.world_size())
    work = partial(count, background=config.cam.background, subspaces=config.msc.subspaces)
    items = _predicted(model, split, config, device, places)
    with tqdm(total=len(places), desc=f"evaluate {split.name}", unit="image", disable=distributed.rank() > 0) as bar:
        for image in stream(work, items, datasets.num_workers(workers)):
            counted.merge(image)
            bar.update()
    model.train(was_training)
    first, *others = distributed.all_gather(counted)
    for other in others:
        first.merge(other)
    first.sort()
    return first


def _predicted(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, places: Sequence[int]
) -> Iterator[Predicted]:
    """Yield the predictions of the images at `places`; squashed images of one size are predicted in batches."""
    size, plain = config.augment.squashed, config.compat.plain_squash
    for start in range(0, len(places), BATCH):
        samples = [datasets.sample(split, place, size, plain) for place in places[start : start + BATCH]]
        image, label = (torch.stack([getattr(x, name) for x in samples]) for name in ("image", "label"))
        prediction = predict(model, image.to(device), label.to(device), config)
        apart = agreement(prediction, label.to(device)).cpu().numpy()
        for row, sample in enumerate(samples):
            single, shape = prediction.of(row), sample.mask.shape  # measured at the photograph's own size
            largest, classes = _largest_cams(single, shape), sample.label.nonzero()[:, 0]
            yield Predicted(
                name=sample.id,
                mask=sample.mask,
                part=sample.part,
                label=sample.label.numpy(),
                logits=single.logits[0].float().cpu().numpy(),
                maps=to_labels(single, shape, config, largest),
                largest=largest,
                cams={
                    kind: _resized(maps[:, classes], shape)[0].cpu().numpy() if len(classes) else np.zeros((0, *shape))
                    for kind, maps in single.layers.items()
                },
                agreement=apart[row],
                codes=None if single.codes is None else single.codes[0].float().cpu().numpy(),
                grid=tuple(single.segmentation.shape[2:]),
            )


def _examples(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, count: int = 8
) -> dict[str, np.ndarray]:
    """Return arrays for figures: evenly spaced images with CAMs (0..255, the largest over classes), labels, prediction,
    truth."""
    size = config.augment.squashed
    rows: list[dict[str, np.ndarray]] = []
    model.eval()
    for place in np.linspace(0, len(split) - 1, min(count, len(split))).astype(int):
        sample = datasets.sample(split, int(place), size, config.compat.plain_squash)
        label = sample.label[None].to(device)
        prediction = predict(model, sample.image[None].to(device), label, config)
        labels = to_labels(prediction, (size, size), config)
        rows.append(
            {
                "ids": np.array(sample.id),
                "images": _squashed(sample.pixels, size, nearest=False),
                "cam": _quantised(prediction.cam),
                "aux_cam": _quantised(prediction.aux_cam),
                "pseudo_label": labels["pseudo_label"],
                "prediction": labels["segmentation"],
                "truth": _squashed(sample.mask, size, nearest=True),
            }
        )
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {**arrays, "class_names": np.array(["background", *split.kit.classes])}


def _quantised(maps: Tensor) -> np.ndarray:
    return (maps[0].amax(0).clamp(0, 1) * 255).round().byte().cpu().numpy()


def _squashed(pixels: np.ndarray, size: int, nearest: bool) -> np.ndarray:
    tensor = torch.from_numpy(pixels.copy()).float()
    tensor = tensor[None, None] if nearest else tensor.movedim(2, 0)[None]
    mode = {"mode": "nearest"} if nearest else {"mode": "bilinear", "antialias": True}
    array = F.interpolate(tensor, (size, size), **mode)[0].byte().numpy()
    return array[0] if nearest else np.moveaxis(array, 0, 2)


def record(counted: Counts, config: Config, kit: Devkit, dataset: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a record that every protocol has: numbers, configuration and provenance."""
    return {
        "schema": records.SCHEMA,
        "dataset": dataset,
        "dataset_title": title(dataset),
        "variant": config.variant,
        "preset": config.name,
        "seed": config.seed,
        "images": len(counted.ids),
        "fingerprint": records.fingerprint(counted.ids, counted.digests),
        "protocol": {**protocol, "mask_source": kit.mask_source},
        "results": scores(counted, kit.classes, config.data.headline),
        # Paths of this machine stay out of records.
        "config": configuration.to_dict(config) | {"output": "", "data": vars(config.data) | {"root": ""}},
        "backbone": describe(config.model),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        **stamp(),
    }


def _protocol(config: Config, kit: Devkit) -> dict[str, Any]:
    """Return the protocol of training's evaluation, for records."""
    return {
        "name": "training",
        "size": config.augment.squashed,
        "scales": [1.0],
        "flip": False,
        "crf": None,
        "cam_scales": list(config.cam.scales),
        "cam_flip": True,
        "background": config.cam.background,
        "label_source": kit.label_source,
        "train_images": len(voc.read_ids(kit.root, config.data.train_split)),
        "train_split": config.data.train_split,
    }


def stamp() -> dict[str, Any]:
    """Return commit, device (the accelerator, if there is one), versions, date, and whether float32 may run as TF32."""
    known = provenance.stamp() | {"tf32": torch.cuda.is_available() and torch.backends.cudnn.allow_tf32}
    return known | {"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else known


def write_record(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, path: Path, origin: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate and return the record; write examples for figures (RUN/cams.npz), per-image counts and, last, the
    record.

    `origin`: further fields of the record, such as the seconds of training and the stamp of the code that trained.
    """
    started, protocol = time.monotonic(), _protocol(config, split.kit)
    counted = tally(model, split, config, device)
    if distributed.rank() == 0:
        seconds = {**origin.get("seconds", {}), "evaluate": round(time.monotonic() - started, 1)}
        with atomic(path.with_suffix("") / "cams.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **_examples(model, split, config, device))
        dataset = sets.name_of(config.data, split.kit.root)
        records.save_counts(path.with_suffix(".npz"), counted.ids, **counts_by_image(counted))
        made = record(counted, config, split.kit, dataset, protocol)
        of_run = {"split": split.name, "steps": config.optim.steps, "seconds": seconds}
        records.save(made | model.origin() | origin | of_run, path)
    distributed.barrier()
    return records.load(path)
