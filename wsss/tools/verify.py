"""`wsss verify REFERENCE.npz`: compare the package, under compat = TOCO, with the predecessor's numbers, case by case.

A file holds arrays named `case/in/...`, `case/out/...`, `case/grad/...` and, for the encoder, `encoder/weight/...`
(tests/golden/README.md). All sizes are read from these arrays.
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from wsss import cam, checkpoint, contrast, energy, method, metrics, model, optim, refine, subspace
from wsss.config import IGNORE, TOCO, Config
from wsss.inference import crf
from wsss.normalisation import IMAGENET
from wsss.paths import UserError, did_you_mean
from wsss.presets import BASE, RELEASED
from wsss.report.table import ABSENT, Table
from wsss.settings import override

_TOLERANCE = 1e-5
_TOLERANCES = {"energy": 1e-3}
"""Bounds of max|a - b| / max|b|. The energy's is larger, since its lattice sums in float32."""
_LABELS = ("evaluation_label", "training_label", "roi", "affinity", "label")
LABEL_TOLERANCE = 1e-3
"""Tolerance of label maps: the share of places that may differ."""
_ROUNDING = 5e-7
"""The package's scores are rounded to four decimals of a percent; a small one may differ by that much."""
LOW, HIGH, BACKGROUND = 0.25, 0.7, 0.5
_IMPLIED = {"ptc_all_ignored": {"out/affinity": IGNORE, "grad/tokens": 0}}
"""Values that a case implies without storing them."""


@dataclass(frozen=True)
class _Case:
    """The arrays of one case, by the rest of their name: in/cam, out/label, grad/tokens, weight/cls_token."""

    name: str
    arrays: Mapping[str, np.ndarray]

    def array(self, name: str) -> np.ndarray:
        """Return one array. Raises UserError if the file lacks it or it does not hold numbers."""
        if name not in self.arrays:
            raise UserError(f"the file lacks {self.name}/{name}")
        if self.arrays[name].dtype.kind not in "biuf":
            raise UserError(f"{self.name}/{name} holds no numbers")
        return self.arrays[name]

    def real(self, name: str) -> Tensor:
        """Return in/NAME in float32."""
        return torch.from_numpy(self.array(f"in/{name}").astype(np.float32))

    def whole(self, name: str) -> Tensor:
        """Return in/NAME as whole numbers."""
        return torch.from_numpy(self.array(f"in/{name}").astype(np.int64))

    def part(self, kind: str) -> dict[str, Tensor]:
        """Return all arrays of `kind` (in, weight) in float32, by the rest of their name."""
        names = [name for name in self.arrays if name.startswith(f"{kind}/")]
        return {name.partition("/")[2]: torch.from_numpy(self.array(name).astype(np.float32)) for name in names}


_Found = dict[str, Any]


def _labels(case: _Case) -> _Found:
    maps, label = case.real("cam"), case.real("image_label")
    valid = cam.box_mask(case.whole("box"), (maps.shape[2], maps.shape[3]))
    return {
        "out/evaluation_label": cam.evaluation_labels(maps, label, BACKGROUND),
        "out/training_label": cam.training_labels(maps, label, valid, LOW, HIGH),
        "out/roi": cam.foreground_certainty(maps, label, LOW, HIGH),
        "out/valid_cam": cam.masked(maps, label),
    }


def _normalise(case: _Case) -> _Found:
    return {"out/cam": cam.to_unit_range(case.real("raw"))}


def _patch_contrast(case: _Case) -> _Found:
    tokens, affinity = case.real("tokens").requires_grad_(), contrast.affinity_labels(case.whole("label"))
    loss = contrast.patch_contrast_loss(tokens.flatten(2).mT, affinity)
    return {"out/affinity": affinity, **_with_gradient(loss, tokens, "tokens")}


def _class_contrast(case: _Case) -> _Found:
    """Rows are view-major: there are rows / images views. The temperature is in the case's name."""
    student, flags = case.real("student").requires_grad_(), case.whole("flags")
    views = [x.unflatten(0, (-1, len(flags)))[:, :, None] for x in (student, case.real("teacher"))]
    temperature = float(case.name.removeprefix("ctc_T"))
    loss = subspace.subspace_contrast_loss(
        *views,
        flags,
        temperature,
        raw_exponentials=TOCO.raw_exponentials,
        extra_term=TOCO.extra_contrast_term,
    )
    return _with_gradient(loss, student, "student")


def _par(case: _Case) -> _Found:
    return {"out/refined": refine.refine(case.real("image"), case.real("masks"))}


def _refine(case: _Case) -> _Found:
    image = case.real("image")
    maps, label, box = case.real("valid_cam"), case.real("image_label"), case.whole("box")
    return {
        "out/label": refine.segmentation_labels(image, maps, label, box, LOW, HIGH, across_box=TOCO.refine_across_box)
    }


def _segmentation(case: _Case) -> _Found:
    logits = case.real("logits").requires_grad_()
    labels = case.whole("label")
    sure = method.log_probability(logits, labels.shape[1:])
    loss = method.segmentation_loss(sure, labels, TOCO.undefined_segmentation)
    return _with_gradient(loss, logits, "logits")


def _energy(case: _Case) -> _Found:
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (IMAGENET.mean, IMAGENET.deviation))
    image = ((case.real("image_normalised") * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    logits = case.real("logits").requires_grad_()
    valid = cam.box_mask(case.whole("box"), (image.shape[2], image.shape[3]))
    probability = energy.half_probability(method.log_probability(logits, image.shape[2:]))
    filtered = energy.filtered(image, probability, valid, across_box=TOCO.energy_across_box)
    return _with_gradient(energy.energy_loss(probability, filtered, case.whole("label"), valid), logits, "logits")


def _schedule(case: _Case) -> _Found:
    config = Config().optim
    optimizer = optim.build([torch.nn.Parameter(torch.zeros(1))], [], [], config)
    return {"out/lr": np.array([optim.set_rate(optimizer, step, config) for step in case.whole("step").tolist()])}


def _metrics(case: _Case) -> _Found:
    classes = len(case.array("out/iou"))
    truth, prediction = (case.array(f"in/{name}").astype(np.uint8) for name in ("truth", "prediction"))
    totals = metrics.counts(metrics.confusion(truth.reshape(1, -1), prediction.reshape(1, -1), classes))
    scores = metrics.segmentation_scores(totals, [str(number) for number in range(classes)])
    means = {f"out/{name}": scores[name] / 100 for name in ("miou", "pixel_accuracy", "mean_accuracy")}
    return {"out/iou": metrics.iou(totals) / 100, **means}


def _crf(case: _Case) -> _Found:
    image, probability = case.array("in/image").astype(np.uint8), case.array("in/probability").astype(np.float32)
    return {"out/q": crf.dense_crf(image, probability)}


def _encoder(case: _Case) -> _Found:
    """The weights give depth, width, patch and size of the ViT, but not the number of heads, which is three."""
    images, weights = case.part("in"), case.part("weight")
    if not images:
        raise UserError(f"the file lacks {case.name}/in/NAME, an image")
    patch = case.array("weight/patch_embed.proj.weight").shape[2]
    shape = {
        "model.heads": 3,
        "model.width": len(case.array("weight/norm.weight")),
        "model.depth": sum(name.endswith("attn.qkv.weight") for name in case.arrays),
        "model.patch_size": patch,
        "model.image_size": patch * round((case.array("weight/pos_embed").shape[1] - 1) ** 0.5),
    }
    network = model.build(override(Config(), {**BASE, **RELEASED, **shape, "class_contrast.hidden": 1}), 1).eval()
    checkpoint.fill(network.encoder, weights, "encoder/weight")
    outputs: _Found = {}
    for name, image in images.items():
        with torch.no_grad():
            encoded = network.encode(image)
        outputs |= {f"out/{name}_{kind}": getattr(encoded, kind) for kind in ("class_token", "tokens", "aux_tokens")}
    return outputs


def _with_gradient(loss: Tensor, leaf: Tensor, name: str) -> _Found:
    return {"out/loss": loss.detach(), f"grad/{name}": torch.autograd.grad(loss, leaf)[0]}


_CASES: dict[str, Callable[[_Case], _Found]] = {
    "labels": _labels,
    "normalise": _normalise,
    "ptc": _patch_contrast,
    "ptc_all_ignored": _patch_contrast,
    "ctc_T<number>": _class_contrast,
    "par": _par,
    "par_resize": _par,
    "refine": _refine,
    "seg": _segmentation,
    "energy": _energy,
    "schedule": _schedule,
    "metrics": _metrics,
    "crf": _crf,
    "encoder": _encoder,
}


@dataclass(frozen=True)
class Comparison:
    """The error of one output or gradient against the file's, or a sentence that says why there is none."""

    name: str
    error: float = np.nan
    tolerance: float = np.nan
    fault: str = ""

    @property
    def ok(self) -> bool:
        """Return whether the error is within the tolerance; NaN is not."""
        return not self.fault and self.error <= self.tolerance

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        if self.fault:
            return self.name, ABSENT, ABSENT, self.fault
        return self.name, f"{self.error:.1e}", f"{self.tolerance:.0e}", "yes" if self.ok else "NO"


def _read(path: Path) -> list[_Case]:
    """Read the cases of a file, in its order. Raises UserError if it is missing, no npz file, cut off, or holds
    pickles."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the .npz file of reference numbers")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an npz file, or is cut off")
    cases: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for name in stored.files:
                case, _, rest = name.partition("/")
                cases.setdefault(case, {})[rest] = np.asarray(stored[name])
    except Exception as error:  # numpy, zipfile and zlib each raise their own for a broken file
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: {name} is pickled, and code in a file is never run") from error
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); copy it again") from error
    if not cases:
        raise UserError(f"{path} holds no case")
    return [_Case(name, arrays) for name, arrays in cases.items()]


def error(mine: Any, theirs: np.ndarray, labels: bool = False) -> float:
    """Return max|a - b| / max|b|, or for label maps the share of places that differ. It is NaN if a value of either is
    not finite, or if there is nothing to compare. Raises UserError if the shapes differ."""
    mine, theirs = (np.asarray(x, np.float64) for x in (mine, theirs))
    if mine.size == theirs.size == 1:
        mine, theirs = mine.reshape(()), theirs.reshape(())
    if mine.shape != theirs.shape:
        raise UserError(f"has the shape {mine.shape}, but {theirs.shape} in the file")
    if not mine.size or not np.isfinite(mine).all() or not np.isfinite(theirs).all():
        return np.nan
    if labels:
        return float((mine != theirs).mean())
    return float(np.abs(mine - theirs).max() / (np.abs(theirs).max() or 1.0))


def _compare(case: _Case) -> list[Comparison]:
    """Make a row for every output and gradient of one case."""
    kind = re.sub(r"^ctc_T\d+(\.\d+)?$", "ctc_T<number>", case.name)
    if kind not in _CASES:
        return [Comparison(case.name, fault=f"unknown case{did_you_mean(case.name, _CASES)}")]
    try:
        outputs = _CASES[kind](case)
    except Exception as error:  # arrays that do not fit may raise anything; the other cases still count
        return [Comparison(case.name, fault=_sentence(error))]
    unknown = [name for name in case.arrays if name not in outputs and not name.startswith(("in/", "weight/"))]
    rows = [_row(case, name, value) for name, value in outputs.items()]
    return rows + [Comparison(f"{case.name}/{name}", fault="unknown output") for name in unknown]


def _row(case: _Case, name: str, mine: Any) -> Comparison:
    full, implied = f"{case.name}/{name}", _IMPLIED.get(case.name, {})
    labels, tolerance = name.partition("/")[2] in _LABELS, _TOLERANCES.get(case.name, _TOLERANCE)
    try:
        theirs = case.array(name) if name in case.arrays or name not in implied else np.full(mine.shape, implied[name])
        if full == "metrics/out/iou":  # a class in neither truth nor prediction has no IoU here or there
            mine, theirs = (np.where(np.isnan(mine) & np.isnan(theirs), 0, x) for x in (mine, theirs))
        elif case.name == "metrics":
            tolerance = max(tolerance, _ROUNDING / float(np.abs(theirs).max() or 1.0))
        return Comparison(full, error(mine, theirs, labels), LABEL_TOLERANCE if labels else tolerance)
    except Exception as fault:
        return Comparison(full, fault=_sentence(fault))


def _sentence(error: Exception) -> str:
    kind = "" if isinstance(error, UserError) else f"cannot be computed: {type(error).__name__}: "
    return kind + " ".join(str(error).split())[:160]


@dataclass(frozen=True)
class Verify:
    """Compare the package, set like the predecessor (compat all on), with the predecessor's reference numbers: a row
    for every output and gradient. Exit code 1 if one differs, or if a case is unknown or incomplete."""

    reference: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="REFERENCE.npz")]
    """Arrays case/in/..., case/out/..., case/grad/..., encoder/weight/...; see tests/golden/README.md."""

    def __call__(self) -> int:
        rows = [row for case in _read(self.reference) for row in _compare(case)]
        failed = [row.name for row in rows if not row.ok]
        note = f"{len(failed)} of {len(rows)} differ: {', '.join(failed)}" if failed else f"all {len(rows)} agree"
        columns = ("case", "largest error", "tolerance", "ok")
        table = Table(f"{self.reference.name} under compat = TOCO", columns, tuple(row.cells() for row in rows), note)
        print(table.text(), end="")
        return 1 if failed else 0
