"""`python -m wsss.tools.distil RUN`: train a small student on the outputs of a finished run, without masks.

The teacher sees each training photograph once, at its own size. Its maps are stored in the student's folder: class
scores of the tokens of both layers, probabilities of the decoder, embeddings in the subspaces.
The student sees training views as in any run. Each of its tokens learns the teacher's values at that place.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from wsss import command, datasets, distributed, finite, method, presets, train, transforms
from wsss.batch import Batch, Output
from wsss.cam import upcast
from wsss.config import Config
from wsss.data import pictures
from wsss.inference import runs
from wsss.inference.runs import Opened
from wsss.method import classification_loss
from wsss.model import SegmentationModel
from wsss.paths import UserError, atomic, read_json, sha256, write_json

PRESET = "voc-animals-student"
_TEACHER = "teacher.json"
WEIGHTS = {"classification": 1.0, "cam": 1.0, "aux_cam": 1.0, "segmentation": 1.0, "codes": 0.5}
"""Weights of the terms."""
_MAPS = ("cam", "aux_cam", "segmentation", "codes")
"""Maps (channels, i, j) on the teacher's token grid; codes are the embeddings in the subspaces, side by side."""


@dataclass(frozen=True)
class Distil:
    """Train a small student of a finished run on the run's photographs, without masks. After a stop, the same command
    goes on."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The teacher's folder."""
    data_root: str = ""
    """Folder of the data set, if it has moved."""
    output: str = ""
    """Folder for runs; empty: runs/ of the project."""
    seed: int = 0
    """The one source of randomness."""
    steps: int | None = None
    """Steps of the student; None: the preset's."""
    start: str = ""
    """File of a ViT-Ti/8 in timm's names to start from; empty: a random start, which learns much more slowly."""

    def __call__(self) -> str:
        opened = runs.open_run(self.run, data_root=self.data_root)
        if opened.config.data.supervision == "masks":
            raise UserError(f"{opened.folder} has learnt from masks, so its student would be fully supervised, too")
        same = {"data": opened.config.data, "msc": opened.config.msc}
        changes = {f"{part}.{name}": value for part, group in same.items() for name, value in vars(group).items()}
        changes |= {"seed": self.seed, "output": self.output, "model.checkpoint": self.start}
        changes |= {} if self.steps is None else {"optim.steps": self.steps}
        record = train.run(presets.get(PRESET, **changes), trainer=partial(Student, opened=opened))
        return f"{record['path']}: segmentation {record['results']['segmentation']['miou_headline']:.1f}"


class _Views(datasets.TrainingViews):
    """Training views, and the pixel of the photograph that each token shows."""

    def __init__(self, split: datasets.Split, config: Config, patch: int):
        super().__init__(split, config)
        self.patch = patch

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        index, seed = key
        width, height = pictures.upright_size(self.split.files[index])
        # The same seed, and so the same draws as for the view below: both show the same crop.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            source = transforms.sources((height, width), self.config.augment, self.config.compat)
        middle = source[self.patch // 2 :: self.patch, self.patch // 2 :: self.patch]
        return *super().__getitem__(key), middle, (height, width)


@dataclass
class _Lesson(Batch):
    """A batch, and the teacher's values at the places that its tokens show."""

    shown: Bool[Tensor, "b i j"] | None = None
    """Tokens whose middle shows the photograph."""
    taught: dict[str, Float[Tensor, "b d i j"]] | None = None
    """The teacher's maps by name; they mean nothing where `shown` is False."""


def sampled(
    taught: Float[Tensor, "d p q"], source: Int[Tensor, "i j"], size: tuple[int, int], patch: int
) -> Float[Tensor, "d i j"]:
    """Sample the teacher's maps at the pixels `source` (row * width + column, -1: none) of a photograph.

    `size` is its (height, width). Between the middles of the teacher's tokens the maps are bilinear.
    """
    height, width = size
    place = torch.stack([source % width, source // width], -1).clamp(min=0) + 0.5
    covered = torch.tensor([taught.shape[2], taught.shape[1]]) * patch  # the remainder, less than a patch, is not seen
    grid = (2 * place / covered - 1)[None].to(taught.dtype)
    return F.grid_sample(taught[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


@torch.inference_mode()
def _teacher_maps(teacher: SegmentationModel, photograph: Tensor, label: Tensor) -> dict[str, Float[Tensor, "d p q"]]:
    """Compute the teacher's maps of a photograph (3, h, w).

    The decoder's probabilities are kept only for background and the classes of the image label, and sum to 1 again.
    """
    maps = _token_maps(teacher, teacher(teacher.normalise(photograph)[None]))
    taught = {name: value[0] for name, value in zip(_MAPS, maps, strict=True)}
    allowed = torch.cat([label.new_ones(1), label])[:, None, None]
    taught["segmentation"] = F.normalize(taught["segmentation"].softmax(0) * allowed, p=1, dim=0)
    return taught


def _token_maps(model: SegmentationModel, output: Output) -> tuple[Float[Tensor, "b d i j"], ...]:
    """Compute the maps: class scores of the tokens of the last and the aux layer, decoder logits, codes."""
    pairs = zip(output.layers[:2], model.class_weights()[:2], strict=True)
    scores = [F.linear(tokens, weight).mT.unflatten(2, output.grid) for tokens, weight in pairs]
    codes = model.proj_head(output.tokens).flatten(2).mT.unflatten(2, output.grid)
    return (*scores, output.segmentation, codes)


def _losses(model: SegmentationModel, lesson: _Lesson) -> dict[str, Float[Tensor, ""]]:
    """Compute the student's losses, each a mean over the tokens that show the photograph.

    classification: both heads by the image label. cam, aux_cam: squared error of the class scores, divided by the
    teacher's mean square. segmentation: cross-entropy with the teacher's probabilities. codes: 1 - cosine, mean over
    the subspaces.
    """
    output = model(model.normalise(lesson.image))
    maps = {name: upcast(value) for name, value in zip(_MAPS, _token_maps(model, output), strict=True)}
    shown, device = lesson.shown, lesson.image.device
    taught = {name: value.to(device).movedim(1, -1)[shown] for name, value in lesson.taught.items()}
    learnt = {name: value.movedim(1, -1)[shown] for name, value in maps.items()}
    both = [classification_loss(logits, lesson.label) for logits in (output.logits, output.aux_logits)]
    codes = [x["codes"].unflatten(1, (model.proj_head.subspaces, -1)) for x in (learnt, taught)]
    return {
        "classification": (both[0] + both[1]) / 2,
        **{name: F.mse_loss(learnt[name], taught[name]) / taught[name].square().mean() for name in ("cam", "aux_cam")},
        "segmentation": -(taught["segmentation"] * learnt["segmentation"].log_softmax(1)).sum(1).mean(),
        "codes": 1 - F.cosine_similarity(*codes, dim=2).mean(),
    }


class Student(train.Trainer):
    """The trainer of a run that learns the outputs of a finished run."""

    def __init__(self, *arguments: Any, opened: Opened):
        if distributed.world_size() > 1:
            raise UserError("a student is trained by one process; start it without torchrun")
        train_split = arguments[1]
        self.teacher = opened.model(len(train_split.kit.classes), torch.device("cpu"))
        self.known = {"run": "/".join(opened.folder.parts[-3:]), "weights": sha256(opened.file)}
        super().__init__(*arguments)
        self.origin, self.kept = {"teacher": self.known}, self.folder / "teacher"
        self._store_maps()

    def _store_maps(self) -> None:
        """Store the teacher's maps of every training photograph that has none yet."""
        known = self.known
        if not (self.kept / _TEACHER).is_file():
            write_json(self.kept / _TEACHER, known)
        if read_json(self.kept / _TEACHER) != known:
            raise UserError(f"{self.kept} holds the maps of another teacher; choose another --output, or delete it")
        split, teacher = self.train_split, self.teacher.to(self.device)
        for place, name in enumerate(tqdm(split.ids, "teacher", unit="image")):
            if not self._file(name).is_file():
                pixels = torch.from_numpy(np.array(pictures.read_image(split.files[place]))).permute(2, 0, 1)
                label = torch.from_numpy(split.labels[place])
                with self._autocast():  # halves the time; the maps are stored in half precision anyway
                    taught = _teacher_maps(teacher, pixels.to(self.device), label.to(self.device))
                with atomic(self._file(name)) as scratch, open(scratch, "wb") as file:
                    np.savez(file, **{kind: value.half().cpu().numpy() for kind, value in taught.items()})

    def _file(self, name: str) -> Path:
        return self.kept / f"{name}.npz"

    def batches(self) -> Iterator[_Lesson]:
        """Yield training views with the teacher's values, without end."""
        order = datasets.TrainSampler(len(self.train_split), self.config, self.step)
        views = _Views(self.train_split, self.config, self.model.patch)
        yield from DataLoader(views, batch_sampler=order, collate_fn=self._lesson)

    def _lesson(self, items: list[tuple]) -> _Lesson:
        batch = datasets.collate([item[:-2] for item in items])
        taught: dict[str, list[Tensor]] = {kind: [] for kind in _MAPS}
        for *_, source, size in items:
            name = batch.ids[len(taught["cam"])]
            with np.load(self._file(name)) as file:
                for kind in _MAPS:
                    taught[kind].append(sampled(torch.from_numpy(file[kind]).float(), source, size, self.teacher.patch))
        shown = torch.stack([source >= 0 for *_, source, _ in items])
        return _Lesson(**vars(batch), shown=shown, taught={kind: torch.stack(rows) for kind, rows in taught.items()})

    def weights(self, step: int) -> dict[str, float]:
        """Return the weights of the terms, the same at every step."""
        return WEIGHTS

    def _update(self, wrapped: nn.Module, batches: Iterator[_Lesson]) -> dict[str, float | None]:
        self.model.train()
        self.optimizer.zero_grad()
        lesson = next(batches).to(self.device)
        with self._autocast():
            terms = _losses(self.model, lesson)
            loss = method.objective(terms, WEIGHTS)
        pending = [(lesson.ids, finite.values(terms))]
        loss.backward()
        means = self._means(pending)
        self.optimizer.step()
        return means


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.distil", Distil))
