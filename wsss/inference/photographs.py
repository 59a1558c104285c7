"""`wsss predict RUN PHOTOS --save DIR`: segmentation, CAM and pseudo labels as index PNGs, with scores."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from wsss import distributed, evaluate, protocols, transforms
from wsss.config import Config
from wsss.data import names, pictures, sets
from wsss.datasets import Split
from wsss.inference import predictions, runs
from wsss.model import SegmentationModel
from wsss.paths import UserError, atomic, sha256
from wsss.process import Interrupted, stop_signals

SUFFIXES = (*names.PHOTOGRAPHS, ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of photographs outside a data set, in lower case; files may have them in upper case, too."""
_SCORES = "scores.csv"
_LARGEST = 2048
"""Longer side of computed label maps, at most; those of larger photographs are computed at this size and enlarged. The
network sees such photographs smaller still, and the logits of 81 classes at 12 megapixels would take 4 GB."""
_EVERY = 32
"""Number of batches from one writing of the scores to the next."""


def of_folder(folder: Path, deep: bool = True) -> list[Path]:
    """Return the photographs of a folder that is no data set, sorted. With `deep`, those of its subfolders, too."""
    inside = folder.rglob("*") if deep else folder.iterdir()
    listed = (file for file in inside if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in listed if not names.hidden(file.relative_to(folder)))


@dataclass(frozen=True)
class _Photograph:
    """A photograph to predict."""

    name: str
    file: Path
    label: np.ndarray | None
    """(k,) image label; None: the model predicts it."""


def run(folder: Path, photos: str, save: Path, weights: str = "last", data_root: str = "") -> str:
    """Predict the photographs that `photos` names with the run at `folder`; return a text that says what was written.

    `photos` is a file, a folder, or a list of the run's data set. Predictions in `save` that the same weights made of
    the same photographs stay. Raises UserError, and Interrupted after a request to stop.
    """
    opened = runs.open_run(folder, weights, data_root)
    classes, config = runs.classes_of(opened.record()), opened.config
    photographs = _photographs(photos, save, config, classes)
    listed = photographs[0].label is not None
    kinds = ("segmentation", "cam", "pseudo_label") if config.segmentation.weight else ("cam", "pseudo_label")
    made_by = {"command": "predict", "weights": sha256(opened.file), "labels": "list" if listed else "predicted"}
    made_by |= {"size": config.augment.squashed, "background": config.cam.background}
    with distributed.group() as device, stop_signals() as stop:
        if distributed.world_size() > 1:
            raise UserError("wsss predict works in one process; start it without torchrun")
        predictions.claim(save, made_by)
        rows = _read_scores(save / _SCORES, classes)
        todo = [photo for photo in photographs if not _is_done(photo, save, kinds, rows.get(photo.name), classes)]
        model = opened.model(len(classes), device)
        with tqdm(total=len(photographs), initial=len(photographs) - len(todo), desc="predict", unit="image") as bar:
            for start in range(0, len(todo), evaluate.BATCH):
                if stop.is_set():
                    break
                for photo, maps, row in _predict(model, todo[start : start + evaluate.BATCH], config, classes):
                    for kind in kinds:
                        with atomic(save / kind / f"{photo.name}.png") as scratch:
                            pictures.write_mask(scratch, maps[kind])
                    rows[photo.name] = row
                    bar.update()
                if start // evaluate.BATCH % _EVERY == 0:
                    _write_scores(save / _SCORES, rows)
        _write_scores(save / _SCORES, rows)
    if stop.is_set():
        raise Interrupted(f"stopped; all files in {save} are complete; run the command again to continue")
    source = f"the image labels of the list {photos}" if listed else "the classes that the model predicts"
    return (
        f"{len(photographs)} photographs: {', '.join(kinds)} and {_SCORES} in {save}\n"
        f"classes of CAMs and pseudo labels: {source}"
    )


def _photographs(photos: str, save: Path, config: Config, classes: tuple[str, ...]) -> list[_Photograph]:
    """List the photographs that `photos` names. Raises UserError."""
    given = Path(photos)
    if given.is_file():
        return [_Photograph(given.stem, given, None)]
    if given.is_dir():
        if save.resolve().is_relative_to(given.resolve()):
            raise UserError(f"--save {save} lies in the folder of photographs; choose another")
        files: dict[str, Path] = {}
        for path in of_folder(given):
            name = path.relative_to(given).with_suffix("").as_posix()
            if name in files:
                raise UserError(f"{path} and {files[name]} would both give {name}.png; rename one of them")
            files[name] = path
        if not files:
            raise UserError(f"{given} holds no photograph ({', '.join(SUFFIXES)}); name a folder that does")
        return [_Photograph(name, file, None) for name, file in files.items()]
    root = sets.locate(config.data)
    if not (root / f"ImageSets/Segmentation/{photos}.txt").is_file():
        raise UserError(f"{photos} is not a file, a folder or a list of {root}; check its name")
    split = Split(root, photos)
    if split.kit.classes != classes:
        raise UserError(f"{root} has other classes than the run was trained for; check its classes.txt")
    return [
        _Photograph(name, file, label) for name, file, label in zip(split.ids, split.files, split.labels, strict=True)
    ]


def _predict(
    model: SegmentationModel, batch: Sequence[_Photograph], config: Config, classes: tuple[str, ...]
) -> Iterator[tuple[_Photograph, dict[str, np.ndarray], dict[str, str]]]:
    """Yield each photograph with its labels by kind and its row of scores."""
    size, device = config.augment.squashed, next(model.parameters()).device
    read = [pictures.read_image(photo.file) for photo in batch]
    squashed = [transforms.resize_square(image, size, config.compat.plain_squash) for image in read]
    image = torch.stack(squashed).to(device)
    if batch[0].label is None:
        label = evaluate.predicted_label(model, image)
    else:
        label = torch.from_numpy(np.stack([photo.label for photo in batch])).to(device)
    prediction = evaluate.predict(model, image, label, config)
    for number, (photo, photograph) in enumerate(zip(batch, read, strict=True)):
        small = protocols.limited(photograph.size, _LARGEST)
        maps = evaluate.to_labels(prediction.of(number), small[::-1], config)
        if small != photograph.size:
            nearest = Image.Resampling.NEAREST
            maps = {
                kind: np.asarray(Image.fromarray(labels).resize(photograph.size, nearest))
                for kind, labels in maps.items()
            }
        probability = prediction.logits[number].float().sigmoid().tolist()
        present = [name for name, shown in zip(classes, label[number].tolist(), strict=True) if shown]
        row = {"id": photo.name, "photograph": sha256(photo.file), "classes": ";".join(present)}
        row |= {name: f"{value:.4f}" for name, value in zip(classes, probability, strict=True)}
        yield photo, maps, row


def _is_done(
    photo: _Photograph, folder: Path, kinds: Sequence[str], row: Mapping[str, str] | None, classes: tuple[str, ...]
) -> bool:
    """Return whether all PNGs of a photograph are whole and its row of scores is of the same file and classes."""
    if row is None or row["photograph"] != sha256(photo.file):
        return False
    if photo.label is not None:
        present = ";".join(name for name, shown in zip(classes, photo.label, strict=True) if shown)
        if row["classes"] != present:
            return False
    size = pictures.upright_size(photo.file)
    files = {kind: folder / kind / f"{photo.name}.png" for kind in kinds}
    return not any(
        predictions.fault(file, size, len(classes) + 1, kind == "pseudo_label") for kind, file in files.items()
    )


def _read_scores(path: Path, classes: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return the rows of scores by id; none if the file does not exist or has other columns."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"id", "photograph", "classes", *classes}
    # csv.DictReader fills the missing cells of a short row with None.
    return {row["id"]: row for row in rows if row.keys() == wanted and None not in row.values()}


def _write_scores(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    if rows:
        with atomic(path) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(next(iter(rows.values()))), lineterminator="\n")
            table.writeheader()
            table.writerows(rows[name] for name in sorted(rows))
