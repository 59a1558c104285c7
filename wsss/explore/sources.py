"""Where the explorer's models and images come from: runs, the shipped model, folders, data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsss import datasets, stored
from wsss.config import Config
from wsss.data import identity, voc
from wsss.data.pictures import read_image
from wsss.explore.scene import Example, Seer
from wsss.inference import photographs, runs
from wsss.model import build
from wsss.paths import UserError, note, project_root, read_json, sha256
from wsss.report import experiments, records
from wsss.report.records import Record

SHIPPED = "data/weights/vit_tiny_voc_animals.json"
"""Card of the model that comes with the project, for use without any training."""


def of_run(folder: Path, weights: str = "last") -> tuple[Seer, tuple[str, ...]]:
    """Return the model of a finished run, and the names of its classes. Raises UserError."""
    opened = runs.open_run(folder, weights)
    return _seer(opened, opened.record())


def _seer(opened: runs.Opened, record: Record) -> tuple[Seer, tuple[str, ...]]:
    """Build the model of a run with its record, and name its classes."""
    classes = runs.classes_of(record)
    model = opened.model(len(classes), torch.device("cpu"))
    return Seer(_name(opened.config), _about(record), model, opened.config, sha256(opened.file)), classes


def of_runs(folders: Sequence[Path]) -> tuple[list[Seer], tuple[str, ...]]:
    """Return the models of finished runs (without any run, the shipped model) and the names of their classes. Raises
    UserError if these differ."""
    models = [of_run(Path(folder)) for folder in folders] or [shipped()]
    seers, classes = [seer for seer, _ in models], models[0][1]
    for seer, known in models:
        if known != classes:
            raise UserError(f"{seer.about} It knows other classes than the first run; compare runs of one data set")
    names = [seer.name for seer in seers]
    if len(set(names)) < len(names):
        seers = [replace(seer, name=f"{seer.name} ({number})") for number, seer in enumerate(seers, 1)]
    for folder in folders[1:]:
        if differ := records.differences(identity.of_run(Path(folders[0])), identity.of_run(Path(folder))):
            note(f"note: {folder} used other data than {folders[0]}: {differ} differ")
    return seers, classes


def before_training(seer: Seer) -> Seer:
    """Return the same network with the weights that its run started from."""
    model = build(seer.config, seer.model.classifier.weight.shape[0]).eval()
    return Seer(f"{seer.name}, before training", "Start weights, heads drawn from the seed.", model, seer.config)


def shipped() -> tuple[Seer, tuple[str, ...]]:
    """Return the model in data/weights, trained on photographs of animals, and its classes. Raises UserError."""
    path = project_root() / SHIPPED
    if not path.is_file():
        raise UserError(f"the shipped model's card {path} is not there; name a finished run with --run")
    card = read_json(path)
    record = records.load(project_root() / card["record"])
    config = stored.from_dict(record["config"])
    seer, classes = _seer(runs.Opened(path.parent, config, path.with_suffix(".safetensors"), record["steps"]), record)
    return replace(seer, name="the small model"), classes


def _name(config: Config) -> str:
    """Return the name of a run in the experiments' tables, or else its variant."""
    known = experiments.EXPERIMENTS.get(f"{config.data.name}-components")
    labels = {row.variant: row.label for row in known.rows} if known else {}
    return labels.get(config.variant, config.variant)


def _about(record: Record) -> str:
    """Return a sentence that says where a model comes from."""
    seconds = record["seconds"].get("train")
    teacher = f"student of {record['teacher']['run']}, " if "teacher" in record else ""
    return (
        f"{records.describe(record)}: {teacher}{record['steps']:,} steps on {record['dataset_title']}, "
        f"{record['backbone']}, commit {record['commit']}, {record['device']}"
        + (f", {seconds:.0f} s." if seconds else ".")
    )


def of_folder(path: Path, limit: int) -> list[Example]:
    """Read the picture at `path`, or the first `limit` pictures of a folder, sorted by name. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path} does not exist; name a picture or a folder of pictures")
    files = photographs.of_folder(path, deep=False)[:limit] if path.is_dir() else [path]
    if not files:
        raise UserError(
            f"{path} holds no picture ({', '.join(photographs.SUFFIXES)}); name a picture or a folder of pictures"
        )
    return [Example(file.stem, read_image(file)) for file in files]


def of_set(root: Path, split: str, classes: Sequence[str], count: int) -> list[Example]:
    """Read `count` images of a data set's list, evenly spaced, with image labels and truth. Raises UserError if the set
    has other classes than the model."""
    listed = datasets.Split(root, split, masks=True)
    if tuple(listed.kit.classes) != tuple(classes):
        raise UserError(
            f"{root} has other classes than the model, which knows {', '.join(classes)}; see its classes.txt"
        )
    pictures = []
    for place in np.linspace(0, len(listed) - 1, min(count, len(listed))).astype(int):
        photograph, mask = voc.read_pair(listed.kit, listed.ids[place])
        label = torch.from_numpy(listed.labels[place])
        pictures.append(Example(listed.ids[place], photograph, label, mask))
    return pictures


_PUBLIC_DOMAIN = {"cat": "chelsea", "astronaut": "astronaut", "cameraman": "camera"}
"""Name here -> function of skimage.data, whose docstrings say that these pictures are in the public domain."""


def public_domain() -> list[Example]:
    """Read photographs that come with scikit-image and may be shown anywhere; they have no truth."""
    from skimage import data

    return [Example(name, Image.fromarray(getattr(data, known)())) for name, known in _PUBLIC_DOMAIN.items()]
