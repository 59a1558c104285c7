"""Experiments: which runs, with which final evaluations, fill a table. `wsss sweep` runs them. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wsss import presets
from wsss.config import Config
from wsss.paths import UserError, did_you_mean
from wsss.settings import flatten

SEEDS = (0, 1, 2)
FIVE = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One line of an experiment: a preset and what differs from it."""

    label: str
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    @cached_property
    def config(self) -> Config:
        """Its configuration with the variant's name; changes that the preset has anyway make no other variant."""
        return presets.get(self.preset, **self.changes)

    @property
    def variant(self) -> str:
        """The name that its records go by."""
        return self.config.variant

    @property
    def segments(self) -> bool:
        """Whether its decoder learns; a final evaluation of one that does not says nothing."""
        return self.config.segmentation.weight > 0

    def words(self, seed: int) -> list[str]:
        """What follows `wsss train`."""
        return presets.words(presets.get(self.preset, seed=seed, **self.changes))


@dataclass(frozen=True)
class Final:
    """A final evaluation of every run that segments: protocol, scales (empty: its own) and CRF."""

    protocol: str
    crf: bool
    scales: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    """Seeds of the runs that are evaluated so; empty: all."""

    def words(self) -> list[str]:
        """What follows `wsss evaluate RUN`."""
        scales = ["--scales", *(f"{scale:g}" for scale in self.scales)] if self.scales else []
        return ["--protocol", self.protocol, *scales, "--crf", str(self.crf)]

    @property
    def label(self) -> str:
        """In words."""
        return f"final, {'with' if self.crf else 'no'} CRF"

    @property
    def name(self) -> str:
        """The protocol's name in its record."""
        return "-".join(["final", *["without-crf"] * (not self.crf), *self._scaled])

    @property
    def _scaled(self) -> list[str]:
        return ["s" + "+".join(f"{scale:g}" for scale in self.scales)] * bool(self.scales)

    @property
    def stem(self) -> str:
        """What stands between SEED and .json in the name of its record."""
        return "-".join([self.protocol, *["crf"] * self.crf, *self._scaled])


@dataclass(frozen=True)
class Experiment:
    """Runs of one scale that differ in one thing; every row is held against the row `against`."""

    title: str
    dataset: str
    rows: tuple[Row, ...]
    against: str
    """Label of a row."""
    finals: tuple[Final, ...] = ()


FINALS: Mapping[str, tuple[Final, ...]] = {
    "smoke": (Final("voc", False, (1.0,)),),
    "mini": (),
    "voc-animals": tuple(Final("voc", crf, (0.6, 0.8, 1.0), SEEDS) for crf in (False, True)),
    "voc": tuple(Final("voc", crf) for crf in (False, True)),
    "coco": tuple(Final("coco", crf) for crf in (False, True)),
}
"""Final evaluations of each scale, which goes by the name of its preset."""

COMPONENTS = {
    "plain classification": "-plain",
    "base as released": "-toco",
    "base": "-base",
    "base + MSC": "-msc",
    "base + CSA": "-csa",
    "base + both": "",
}

Ablation = Mapping[str, Mapping[str, Any]]
FULL = "base + both"


def _subspaces(scale: str) -> Ablation:
    """K subspaces of as many dimensions as the preset's have together; 1 has nothing to decouple."""
    own = presets.PRESETS[scale].msc
    whole = own.subspaces * own.dimension
    return {f"K = {k}": {"msc.subspaces": k, "msc.dimension": whole // k} for k in (1, 2, 4, 8)}


def _compat(scale: str) -> Ablation:
    return {f"with {name}": {f"compat.{name}": True} for name in vars(presets.PRESETS[scale].compat)}


def _layers(scale: str) -> Ablation:
    """Aligned layers, as blocks before the last: the aux layer, and two pairs where the ViT has as many blocks."""
    depth = presets.PRESETS[scale].model.depth or 12  # None: the backbone's own, 12 in all such presets
    every = {"2 before the last": (2,), "3 and 1 before": (3, 1), "4 and 2 before": (4, 2)}
    return {label: {"csa.layers": layers} for label, layers in every.items() if max(layers) < depth}


def _factors(scale: str, settings: Mapping[str, str]) -> Ablation:
    """Half and twice the preset's value of each setting; `settings`: what it is called -> its path."""
    own = flatten(presets.PRESETS[scale])
    pairs = ((label, path, factor) for label, path in settings.items() for factor in (0.5, 2))
    return {f"{label} x {factor:g}": {path: factor * own[path]} for label, path, factor in pairs}


def _temperatures(scale: str) -> Ablation:
    own = {"temperature of patch tokens": "msc.patch_temperature"}
    if "views" in presets.PRESETS[scale].needs:
        own |= {"temperature of class tokens": "class_contrast.temperature"}
    return _factors(scale, own)


WEIGHTS = {
    "weight of alignment": "csa.weight",
    "weight of patch tokens in subspaces": "msc.patch_weight",
    "weight of orthogonality": "msc.orthogonality_weight",
    "weight of decorrelation": "msc.decorrelation_weight",
}
LEVELS = {
    "class tokens": {**presets.WITHOUT_PATCH_TOKENS, "class_contrast.weight": 0.5},
    "patch tokens": {"class_contrast.weight": 0.0},
    "both": {"class_contrast.weight": 0.5},
}
TERMS = {
    "intensity alone": {"csa.structure": 0.0},
    "structure alone": {"csa.intensity": 0.0},
    "without the background channel": {"csa.background": False},
    "without balance": {"csa.balance": False},
}
DECOUPLING = {
    "decoupling none": presets.UNDECOUPLED,
    "decoupling orth": {"msc.decorrelation_weight": 0.0},
    "decoupling dec": {"msc.orthogonality_weight": 0.0},
    "decoupling both": {},
}
DIRECTION = {kind: {"csa.direction": kind} for kind in ("aux_to_last", "last_to_aux", "both", "scheduled")}


def _called(scale: str) -> str:
    """A scale in titles. Numbers of photographs from CLIP's start say so wherever they stand."""
    return "CLIP ViT-B/16" if scale == "voc-animals" else scale


def _components(scale: str) -> Experiment:
    dataset = presets.PRESETS[scale].data.name
    rows = [Row(label, f"{scale}{suffix}") for label, suffix in COMPONENTS.items()]
    if scale == "voc-animals":  # the rows that are compared have more seeds, and what the base is made of is not asked
        few = ("plain classification", "base as released")
        rows = [row if row.label in few else replace(row, seeds=FIVE) for row in rows]
        return Experiment(f"{_called(scale)}: components", dataset, tuple(rows), "base", FINALS[dataset])
    for term in ("patch_contrast", "class_contrast"):
        row = Row(f"{FULL}, without {term.replace('_', ' ')}", scale, {f"{term}.weight": 0.0})
        rows += [row] * (row.variant != scale)  # a scale may be without it anyway
    return Experiment(f"{_called(scale)}: components", dataset, tuple(rows), "base", FINALS[dataset])


def _steps(scale: str) -> Experiment:
    """From the base to Module A, one change a line."""
    own = presets.PRESETS[scale].msc
    single = {"msc.subspaces": 1, "msc.dimension": own.subspaces * own.dimension}
    level, decoupling = presets.WITHOUT_PATCH_TOKENS, presets.UNDECOUPLED
    lines = (
        ("one subspace, normalised", single | level | decoupling),
        (f"{own.subspaces} subspaces", level | decoupling),
        ("+ decoupling", level),
        ("+ patch tokens", {}),
    )
    rows = tuple(Row(label, f"{scale}-msc", changes) for label, changes in lines)
    return Experiment(
        f"{_called(scale)}: Module A step by step", scale, (Row("base", f"{scale}-base"), *rows), "base", FINALS[scale]
    )


def _ablation(title: str, scale: str, rows: Ablation, *more: Row) -> Experiment:
    """Changes of the whole method, each against it."""
    own = tuple(Row(label, scale, changes) for label, changes in rows.items())
    same = next((row for row in own if row.variant == scale), None)
    full = () if same else (Row(FULL, scale),)
    return Experiment(
        f"{_called(scale)}: {title}", scale, (*more, *own, *full), same.label if same else FULL, FINALS[scale]
    )


def _shallow() -> Experiment:
    """The photographs without the ViT's last block: where no layer lags behind the aux layer."""
    labels = ("base", "base + MSC", "base + CSA", FULL)
    rows = (Row(label, f"voc-animals{COMPONENTS[label]}", {"model.depth": 11}, FIVE) for label in labels)
    return Experiment("CLIP ViT-B/16, 11 of 12 blocks: components", "voc-animals", tuple(rows), "base")


def _choices() -> Experiment:
    """Choices of the reconstruction on photographs, each against the whole method."""
    rows = {f"direction {kind}": DIRECTION[kind] for kind in ("last_to_aux", "both", "scheduled")}
    rows |= {f"{label} alone": LEVELS[label] for label in ("class tokens", "patch tokens")}
    rows |= {"without decoupling": presets.UNDECOUPLED, "K = 1": _subspaces("voc-animals")["K = 1"]}
    rows |= {f"modules from {start:g} on": {"schedule.modules_start": start} for start in (0.1, 0.5)}
    return replace(_ablation("choices", "voc-animals", rows), finals=())


def _all() -> Iterator[tuple[str, Experiment]]:
    for scale in FINALS:
        without = Row("no alignment", f"{scale}-msc")
        yield f"{scale}-components", _components(scale)
        if "views" in presets.PRESETS[scale].needs:
            yield f"{scale}-steps", _steps(scale)
        yield f"{scale}-csa", _ablation("terms of the alignment", scale, TERMS, without)
        yield f"{scale}-level", _ablation("tokens contrasted in the subspaces", scale, LEVELS)
        yield f"{scale}-subspaces", _ablation("number of subspaces", scale, _subspaces(scale))
        yield f"{scale}-decoupling", _ablation("decoupling of the subspaces", scale, DECOUPLING)
        yield f"{scale}-direction", _ablation("direction of the alignment", scale, DIRECTION)
        yield f"{scale}-layers", _ablation("aligned layers", scale, _layers(scale))
        yield f"{scale}-temperature", _ablation("temperatures of contrast in subspaces", scale, _temperatures(scale))
        yield f"{scale}-weights", _ablation("weights of the modules", scale, _factors(scale, WEIGHTS))
        faults = tuple(Row(label, f"{scale}-base", changes) for label, changes in _compat(scale).items())
        rows = (Row("base", f"{scale}-base"), *faults)
        yield (
            f"{scale}-compat",
            Experiment(f"{_called(scale)}: deviations, one by one", scale, rows, "base", FINALS[scale]),
        )
    for backbone in ("voc-deit", "coco-deit"):
        yield f"{backbone}-components", _components(backbone)
    yield "voc-animals-11-blocks", _shallow()
    yield "voc-animals-choices", _choices()


EXPERIMENTS: Mapping[str, Experiment] = dict(_all())
"""SCALE-ABLATION, for every scale and ablation, and the components of the weaker backbone."""


def get(name: str) -> Experiment:
    """The experiment of that name; UserError with the nearest one."""
    if name not in EXPERIMENTS:
        raise UserError(
            f"there is no experiment named {name}{did_you_mean(name, EXPERIMENTS)}; there are {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]
