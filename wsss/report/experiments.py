"""Experiments: which runs, with which final evaluations, fill a table. `wsss sweep` runs them. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wsss import presets, protocols
from wsss.config import Config
from wsss.paths import UserError, did_you_mean
from wsss.protocols import Protocol
from wsss.settings import flatten

SEEDS = (0, 1, 2)
"""Default seeds of a row."""
_FIVE = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One line of an experiment: a preset and what differs from it."""

    label: str
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    @cached_property
    def config(self) -> Config:
        """Return the configuration, with the variant's name; changes that the preset has anyway make no new variant."""
        return presets.get(self.preset, **self.changes)

    @property
    def variant(self) -> str:
        """Return the variant's name in records."""
        return self.config.variant

    @property
    def segments(self) -> bool:
        """Return whether the decoder is trained; otherwise a final evaluation says nothing."""
        return self.config.segmentation.weight > 0

    def arguments(self, seed: int) -> list[str]:
        """Return the arguments of `wsss train`."""
        return presets.words(presets.get(self.preset, seed=seed, **self.changes))


@dataclass(frozen=True)
class Final:
    """A final evaluation of every run whose decoder is trained."""

    protocol: Protocol
    seeds: tuple[int, ...] = ()
    """Seeds of the runs to evaluate; empty: all."""

    def arguments(self) -> list[str]:
        """Return the arguments of `wsss evaluate RUN`."""
        scales = [f"{scale:g}" for scale in self.protocol.scales]
        given = ["--scales", *scales] * (self.protocol.scales != protocols.SCALES)
        return ["--protocol", self.protocol.kind, *given, "--crf", str(bool(self.protocol.crf))]

    @property
    def label(self) -> str:
        """Return the title of its column."""
        return f"final, {'with' if self.protocol.crf else 'no'} CRF"

    @property
    def name(self) -> str:
        """Return the protocol's name in records."""
        return self.protocol.name(usual=self.protocol.kind)


@dataclass(frozen=True)
class Experiment:
    """Runs of one scale that differ in one thing; every row is compared with the row `against`."""

    title: str
    dataset: str
    rows: tuple[Row, ...]
    against: str
    """Label of that row."""
    finals: tuple[Final, ...] = ()


_FINALS: Mapping[str, tuple[Final, ...]] = {
    "smoke": (Final(protocols.get("voc", (1.0,), crf=False)),),
    "mini": (),
    "voc-animals": tuple(Final(protocols.get("voc", (0.6, 0.8, 1.0), crf=crf), SEEDS) for crf in (False, True)),
    "voc": tuple(Final(protocols.get("voc", crf=crf)) for crf in (False, True)),
    "coco": tuple(Final(protocols.get("coco", crf=crf)) for crf in (False, True)),
}
"""Scale, by the name of its preset -> its final evaluations."""
_FULL = "base + both"
_COMPONENTS = {
    "plain classification": "-plain",
    "base as released": "-toco",
    "base": "-base",
    "base + MSC": "-msc",
    "base + CSA": "-csa",
    _FULL: "",
}
"""Row -> suffix of its preset's name, after the scale."""


_Rows = Mapping[str, Mapping[str, Any]]
"""Name of a row -> its changes to the preset."""
_CHANGES: dict[str, tuple[str, _Rows]] = {
    "csa": (
        "terms of the alignment",
        {
            "intensity alone": {"csa.structure": 0.0},
            "structure alone": {"csa.intensity": 0.0},
            "without the background channel": {"csa.background": False},
            "without balance": {"csa.balance": False},
        },
    ),
    "level": (
        "tokens contrasted in the subspaces",
        {
            "class tokens": {**presets.WITHOUT_PATCH_TOKENS, "class_contrast.weight": 0.5},
            "patch tokens": {"class_contrast.weight": 0.0},
            "both": {"class_contrast.weight": 0.5},
        },
    ),
    "decoupling": (
        "decoupling of the subspaces",
        {
            "decoupling none": presets.UNDECOUPLED,
            "decoupling orth": {"msc.decorrelation_weight": 0.0},
            "decoupling dec": {"msc.orthogonality_weight": 0.0},
            "decoupling both": {},
        },
    ),
    "direction": (
        "direction of the alignment",
        {kind: {"csa.direction": kind} for kind in ("aux_to_last", "last_to_aux", "both", "scheduled")},
    ),
}
"""Ablations that are the same at every scale: name -> title and rows."""
_ORDER = ("csa", "level", "subspaces", "decoupling", "direction", "layers", "temperature", "weights")


def _ablations(scale: str) -> dict[str, tuple[str, _Rows]]:
    """Return the ablations of the whole method: name -> title and rows."""
    preset, values = presets.PRESETS[scale], flatten(presets.PRESETS[scale])
    width = preset.msc.subspaces * preset.msc.dimension  # of all subspaces together; K = 1 has nothing to decouple
    depth = preset.model.depth or 12  # None: the backbone's own, 12 in all such presets
    layers = {"2 before the last": (2,), "3 and 1 before": (3, 1), "4 and 2 before": (4, 2)}
    temperatures = {"temperature of patch tokens": "msc.patch_temperature"}
    if "views" in preset.needs:
        temperatures |= {"temperature of class tokens": "class_contrast.temperature"}
    weights = {
        "weight of alignment": "csa.weight",
        "weight of patch tokens in subspaces": "msc.patch_weight",
        "weight of orthogonality": "msc.orthogonality_weight",
        "weight of decorrelation": "msc.decorrelation_weight",
    }

    def factors(settings: Mapping[str, str]) -> _Rows:
        """Return rows with half and twice the preset's value of each setting."""
        pairs = ((label, path, factor) for label, path in settings.items() for factor in (0.5, 2))
        return {f"{label} x {factor:g}": {path: factor * values[path]} for label, path, factor in pairs}

    subspaces = {f"K = {k}": {"msc.subspaces": k, "msc.dimension": width // k} for k in (1, 2, 4, 8)}
    aligned = {label: {"csa.layers": before} for label, before in layers.items() if max(before) < depth}
    known = _CHANGES | {
        "subspaces": ("number of subspaces", subspaces),
        "layers": ("aligned layers", aligned),
        "temperature": ("temperatures of contrast in subspaces", factors(temperatures)),
        "weights": ("weights of the modules", factors(weights)),
    }
    return {name: known[name] for name in _ORDER}


def _titled(scale: str, title: str) -> str:
    """Return the title with its scale. Every title of runs from CLIP's weights says so."""
    return f"{'CLIP ViT-B/16, 12 blocks' if scale == 'voc-animals' else scale}: {title}"


def _ablation(scale: str, title: str, rows: _Rows, *more: Row) -> Experiment:
    """Return the experiment that compares changes of the whole method with it."""
    changed = tuple(Row(label, scale, changes) for label, changes in rows.items())
    same = next((row for row in changed if row.variant == scale), None)
    full = () if same else (Row(_FULL, scale),)
    rows_of_all = (*more, *changed, *full)
    return Experiment(_titled(scale, title), scale, rows_of_all, same.label if same else _FULL, _FINALS[scale])


def _components(scale: str) -> Experiment:
    dataset = presets.PRESETS[scale].data.name
    rows = [Row(label, f"{scale}{suffix}") for label, suffix in _COMPONENTS.items()]
    if scale == "voc-animals":  # the rows to compare have more seeds; the base's own terms are not ablated
        few = ("plain classification", "base as released")
        rows = [row if row.label in few else replace(row, seeds=_FIVE) for row in rows]
    else:
        for term in ("patch_contrast", "class_contrast"):
            row = Row(f"{_FULL}, without {term.replace('_', ' ')}", scale, {f"{term}.weight": 0.0})
            rows += [row] * (row.variant != scale)  # a scale may lack the term anyway
    return Experiment(_titled(scale, "components"), dataset, tuple(rows), "base", _FINALS[dataset])


def _steps(scale: str) -> Experiment:
    """Return the experiment that goes from the base to Module A, step by step."""
    msc = presets.PRESETS[scale].msc
    single = {"msc.subspaces": 1, "msc.dimension": msc.subspaces * msc.dimension}
    level, decoupling = presets.WITHOUT_PATCH_TOKENS, presets.UNDECOUPLED
    lines = {
        "one subspace, normalised": single | level | decoupling,
        f"{msc.subspaces} subspaces": level | decoupling,
        "+ decoupling": level,
        "+ patch tokens": {},
    }
    rows = (Row("base", f"{scale}-base"), *(Row(label, f"{scale}-msc", line) for label, line in lines.items()))
    return Experiment(_titled(scale, "Module A step by step"), scale, rows, "base", _FINALS[scale])


def _all() -> Iterator[tuple[str, Experiment]]:
    for scale in _FINALS:
        yield f"{scale}-components", _components(scale)
        if "views" in presets.PRESETS[scale].needs:
            yield f"{scale}-steps", _steps(scale)
        for name, (title, changes) in _ablations(scale).items():
            more = (Row("no alignment", f"{scale}-msc"),) if name == "csa" else ()
            yield f"{scale}-{name}", _ablation(scale, title, changes, *more)
        base, faults = f"{scale}-base", vars(presets.PRESETS[scale].compat)
        rows = (Row("base", base), *(Row(f"with {name}", base, {f"compat.{name}": True}) for name in faults))
        title = _titled(scale, "deviations, one by one")
        yield f"{scale}-compat", Experiment(title, scale, rows, "base", _FINALS[scale])
    for backbone in ("voc-deit", "coco-deit"):
        yield f"{backbone}-components", _components(backbone)
    # The photographs with a ViT that lacks its last block. There the last layer's CAM is ahead from the start, so it
    # teaches.
    labels = ("base", "base + MSC", "base + CSA", _FULL)
    shallow = []
    for label in labels:
        variant = f"voc-animals{_COMPONENTS[label]}"
        direction = {"csa.direction": "last_to_aux"} if presets.PRESETS[variant].csa.weight else {}
        shallow.append(Row(label, variant, {"model.depth": 11, **direction}, _FIVE))
    title = "CLIP ViT-B/16, 11 of 12 blocks: components"
    yield "voc-animals-11-blocks", Experiment(title, "voc-animals", tuple(shallow), "base")
    # Choices of the reconstruction on photographs, each compared with the whole method.
    changes = {name: rows for name, (_, rows) in _ablations("voc-animals").items()}
    choices = {f"direction {kind}": changes["direction"][kind] for kind in ("last_to_aux", "both", "scheduled")}
    choices |= {f"{label} alone": changes["level"][label] for label in ("class tokens", "patch tokens")}
    choices |= {"without decoupling": presets.UNDECOUPLED, "K = 1": changes["subspaces"]["K = 1"]}
    choices |= {f"modules from {start:g} on": {"schedule.modules_start": start} for start in (0.1, 0.75)}
    # If the aux layer's CAM is ahead, the base can learn from it without any alignment.
    aux = Row("base, labels from the aux CAM", "voc-animals-base", {"schedule.final_cam_start": 1.0})
    yield "voc-animals-choices", replace(_ablation("voc-animals", "choices", choices, aux), finals=())


EXPERIMENTS: Mapping[str, Experiment] = dict(_all())
"""Experiments by name: SCALE-ABLATION for every scale and ablation, and the components of the weaker backbone."""


def get(name: str) -> Experiment:
    """Return the experiment of that name. Raises UserError, which names the nearest one."""
    if name not in EXPERIMENTS:
        raise UserError(
            f"there is no experiment named {name}{did_you_mean(name, EXPERIMENTS)}; there are {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]
