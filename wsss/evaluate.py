"""Evaluation as in the base's training: images squashed, one scale, no CRF; each image once over all processes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from wsss import alignment, cam, distributed, method, provenance
from wsss import config as configuration
from wsss.batch import present_classes
from wsss.config import Config, Data
from wsss.data import names, sets, voc
from wsss.datasets import Split
from wsss.model import SegmentationModel, describe
from wsss.paths import UserError, atomic
from wsss.registry import title
from wsss.report import records
from wsss.tally import LAYERS, Tally, counts_by_image, scores

BATCH = 8
"""Images evaluated at once; all are squashed to one size."""

Pixels = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]


def require_headline(config: Data, classes: tuple[str, ...]) -> None:
    """UserError where the classes of the headline are not all among those of the set."""
    wrong = next((name for name in config.headline if name not in ("background", *classes)), None)
    if wrong is not None:
        raise UserError(f"data.headline names {names.unknown_class(wrong, classes)}; --data.headline '' means all")


@torch.inference_mode()
def predict(model: SegmentationModel, image: Pixels, label: Float[Tensor, "b k"], config: Config) -> dict[str, Tensor]:
    """Of a batch: normalised multi-scale CAM and aux CAM, masked by the true image labels; segmentation and class
    logits; the pseudo label that segmentation would learn from the last CAM, refined, with gaps of 255 (b, h, w); and
    the tokens' codes in all subspaces side by side (b, n, q), where subspaces are trained.
    """
    normalised = model.normalise(image)
    output = model(normalised)
    main, aux, *_ = method.multi_scale_cam(model, normalised, output, config, present_classes(label))
    maps = {name: cam.masked(cam.normalise(raw), label) for name, raw in (("cam", main), ("aux_cam", aux))}
    pseudo = pseudo_label(maps["cam"], image, label, config)
    found = {**maps, "segmentation": output.segmentation, "logits": output.logits, "pseudo_label": pseudo}
    if config.trains_subspaces:
        found["codes"] = model.proj_head(output.tokens).flatten(2)
    return found


def pseudo_label(
    maps: Float[Tensor, "b k h w"], image: Pixels, label: Float[Tensor, "b k"], config: Config
) -> Int[Tensor, "b h w"]:
    """Labels that segmentation would learn from a normalised CAM of a whole image, masked by `label`."""
    box = torch.tensor([0, image.shape[2], 0, image.shape[3]], device=image.device).expand(len(image), 4)
    return method.pseudo_label(image, maps, label, box, config)


@torch.inference_mode()
def agreement(prediction: dict[str, Tensor], label: Float[Tensor, "b k"]) -> Float[Tensor, "b 2"]:
    """How far the CAMs of the last and of the aux layer lie apart on the token grid, in percent, image by image: mean
    |M^12 - M^10| over present classes and tokens, and mean |A^12 - A^10| over pairs of different tokens, A the
    structure affinities of Module B. Not a number for an image without a class."""
    grid, present = prediction["segmentation"].shape[2:], label > 0
    layers = [alignment.teacher_cam(prediction[kind], tuple(grid)) for kind in LAYERS]
    difference = (layers[0] - layers[1]).abs().mean((2, 3))
    difference = (difference * present).sum(1) / present.sum(1)
    affinities = [alignment.cam_affinity(maps, label).double() for maps in layers]
    tokens = affinities[0].shape[1]
    apart = (affinities[0] - affinities[1]).abs().sum((1, 2)) / max(tokens * (tokens - 1), 1)
    apart = apart.masked_fill(~present.any(1), torch.nan)
    return 100 * torch.stack([difference, apart.to(difference.dtype)], 1)


def rank(prediction: dict[str, Tensor], size: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer -> the largest CAM at each pixel of `size`, (h, w) float32, and the class + 1 that it is of, (h, w) uint8,
    of one image's prediction. Classes without any response are left out: they are never above a threshold."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for kind in LAYERS:
        present = prediction[kind][0].amax((1, 2)) > 0
        present[0] |= ~present.any()
        classes = present.nonzero()[:, 0]
        value, slot = _resized(prediction[kind][:, classes], size)[0].max(0)
        found[kind] = value.cpu().numpy(), (classes[slot] + 1).byte().cpu().numpy()
    return found


def class_maps(
    prediction: dict[str, Tensor], label: Float[Tensor, " k"], size: tuple[int, int]
) -> dict[str, Float[np.ndarray, "p h w"]]:
    """Layer -> the CAM of each class of one image's label at `size`, in the order of the classes."""
    classes = label.nonzero()[:, 0]
    if not len(classes):
        return {kind: np.zeros((0, *size), np.float32) for kind in LAYERS}
    return {kind: _resized(prediction[kind][:, classes], size)[0].cpu().numpy() for kind in LAYERS}


def to_labels(
    prediction: dict[str, Tensor],
    size: tuple[int, int],
    config: Config,
    ranked: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """Kind -> (h, w) uint8 labels at `size` of one image's prediction: argmax of logits, CAM against background, the
    pseudo label with 255 where it is unsure. `ranked`: what `rank` gives at that size, where it is known already."""
    ranked = rank(prediction, size) if ranked is None else ranked
    above = {kind: value > np.float32(config.cam.background) for kind, (value, _) in ranked.items()}
    maps = {kind: np.where(above[kind], label, 0).astype(np.uint8) for kind, (_, label) in ranked.items()}
    maps["segmentation"] = _resized(prediction["segmentation"], size)[0].argmax(0).byte().cpu().numpy()
    pseudo = F.interpolate(prediction["pseudo_label"][:, None].float(), size, mode="nearest-exact")
    return {**maps, "pseudo_label": pseudo[0, 0].byte().cpu().numpy()}


def _resized(value: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(value.float(), size, mode="bilinear", align_corners=False)


def tally(model: SegmentationModel, split: Split, config: Config, device: torch.device) -> Tally:
    """Counts over the split; process r of w takes the images r, r + w, ... and every process gets all counts."""
    size, classes = evaluation_size(config), len(split.kit.classes) + 1
    was_training, mine = model.training, Tally(background=config.cam.background, subspaces=config.msc.subspaces)
    model.eval()
    places, plain = range(distributed.rank(), len(split), distributed.world_size()), config.compat.plain_squash
    with tqdm(total=len(places), desc=f"evaluate {split.name}", unit="image", disable=distributed.rank() > 0) as bar:
        for start in range(0, len(places), BATCH):
            samples = [split.sample(place, size, plain) for place in places[start : start + BATCH]]
            image, label = (torch.stack([getattr(x, name) for x in samples]) for name in ("image", "label"))
            prediction = predict(model, image.to(device), label.to(device), config)
            apart = agreement(prediction, label.to(device)).cpu().numpy()
            for row, sample in enumerate(samples):
                own = {kind: value[row : row + 1] for kind, value in prediction.items()}
                logits, ranked = own["logits"][0].float().cpu().numpy(), rank(own, sample.mask.shape)
                mine.add(sample, to_labels(own, sample.mask.shape, config, ranked), logits, classes)
                mine.add_layers(sample.mask, ranked, apart[row], classes)
                indices = (sample.label.nonzero()[:, 0] + 1).tolist()
                mine.add_maps(sample.mask, class_maps(own, sample.label, sample.mask.shape), indices)
                if "codes" in own:
                    grid = tuple(own["segmentation"].shape[2:])
                    mine.add_codes(own["codes"][0].float().cpu().numpy(), grid, sample.mask, classes)
            bar.update(len(samples))
    model.train(was_training)
    first, *others = distributed.all_gather(mine)
    for other in others:
        first.merge(other)
    first.sort()
    return first


def evaluation_size(config: Config) -> int:
    """Side in pixels of the squashed image."""
    return config.augment.evaluation_size or config.augment.crop


def examples(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, count: int = 8
) -> dict[str, np.ndarray]:
    """Arrays for figures: evenly spaced images with CAMs (0..255, of present classes), labels, prediction, truth."""
    size = evaluation_size(config)
    rows: list[dict[str, np.ndarray]] = []
    model.eval()
    for place in np.linspace(0, len(split) - 1, min(count, len(split))).astype(int):
        sample = split.sample(int(place), size, config.compat.plain_squash)
        label = sample.label[None].to(device)
        prediction = predict(model, sample.image[None].to(device), label, config)
        labels = to_labels(prediction, (size, size), config)
        rows.append(
            {
                "ids": np.array(sample.id),
                "images": _squashed(sample.pixels, size, nearest=False),
                "cam": _quantised(prediction["cam"]),
                "aux_cam": _quantised(prediction["aux_cam"]),
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


def make_record(counted: Tally, config: Config, split: Split, dataset: str) -> dict[str, Any]:
    """The record of a run: numbers, protocol, configuration and where they come from."""
    kit, size = split.kit, evaluation_size(config)
    return {
        "schema": records.SCHEMA,
        "dataset": dataset,
        "dataset_title": title(dataset),
        "variant": config.variant,
        "preset": config.name,
        "seed": config.seed,
        "split": split.name,
        "images": len(counted.ids),
        "fingerprint": records.fingerprint(counted.ids, counted.digests),
        "protocol": {
            "name": "training",
            "size": size,
            "scales": [1.0],
            "flip": False,
            "crf": None,
            "cam_scales": list(config.cam.scales),
            "cam_flip": True,
            "background": config.cam.background,
            "label_source": kit.label_source,
            "mask_source": kit.mask_source,
            "train_images": len(voc.read_ids(kit.root, config.data.train_split)),
            "train_split": config.data.train_split,
        },
        "results": scores(counted, kit.classes, config.data.headline),
        "config": configuration.to_dict(config) | {"output": "", "data": vars(config.data) | {"root": ""}},
        "backbone": describe(config.model),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "steps": config.optim.steps,
        **stamp(),
    }


def stamp() -> dict[str, Any]:
    """Commit, device, versions, date, and whether float32 was TF32; the device is the accelerator, if there is one."""
    found = provenance.stamp() | {"tf32": torch.cuda.is_available() and torch.backends.cudnn.allow_tf32}
    return found | {"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else found


def write_record(
    model: SegmentationModel, split: Split, config: Config, device: torch.device, path: Path, origin: dict[str, Any]
) -> dict[str, Any]:
    """Evaluate, then write examples for figures (RUN/cams.npz), per-image counts, and the record, which comes last.

    `origin` goes into the record: seconds so far, and the stamp of the code that made the weights.
    """
    started = time.monotonic()
    counted = tally(model, split, config, device)
    if distributed.rank() == 0:
        seconds = {**origin.get("seconds", {}), "evaluate": round(time.monotonic() - started, 1)}
        with atomic(path.with_suffix("") / "cams.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **examples(model, split, config, device))
        dataset = sets.name_of(config.data, split.kit.root)
        records.save_counts(path.with_suffix(".npz"), counted.ids, **counts_by_image(counted))
        records.save(
            make_record(counted, config, split, dataset) | model.origin() | origin | {"seconds": seconds}, path
        )
    distributed.barrier()
    return records.load(path)
