"""The command line: `wsss COMMAND`. Every error a user can act on is one sentence and a non-zero exit.

A command is a frozen dataclass: its fields are the flags, their docstrings the help, and calling it does the work. No
torch is loaded before that, so that help is there at once.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wsss import command, presets
from wsss.config import Config
from wsss.paths import UserError, is_first, project_root

_USAGE = """\
usage: wsss COMMAND ...

  train PRESET             train and evaluate one run; the same words again resume it
  evaluate RUN             evaluate a run's weights and write a record: in training's way, or by a final protocol
  predict RUN PHOTOS       write segmentation, CAM and pseudo labels of photographs or of a list as index PNGs
  sweep TABLE              train and evaluate every run of an experiment that is not finished
  explore IMAGES           what a model sees in pictures, as one page to explore in a browser
  export RUN               the network as an ONNX graph, for the explorer's page or any other program
  score PREDICTIONS TRUTH  compare two folders of index PNGs; prints one JSON line
  data WHAT                draw the mini set, prepare VOC or COCO, look through a data set: see wsss data --help
  pretrain ROOT            pretrain a small ViT on a folder of class folders, or on drawn images
  submit RUN               predict the VOC test images and pack them for the PASCAL VOC evaluation server
  tables                   paper, published base and measured numbers, from records
  bench WHAT               time a training step, a part of it or an evaluation: see wsss bench --help
  verify REFERENCE.npz     compare the package with the base's reference numbers, case by case
  publish                  copy finished runs of a clean commit to data/results and book/runs

`wsss COMMAND --help` explains each; the book explains the method."""

_TRAIN_USAGE = """\
usage: wsss train PRESET [--seed N] [--output DIR] [--data.root ROOT] [--no-resume] [--gate] [--SETTING VALUE ...]

Train and evaluate one run. It goes to OUTPUT/DATASET/VARIANT/SEED, its record to the same path with .json. The same
words again resume an interrupted run and return a finished one, on the same data alone (classes, image labels, masks,
photographs; wherever they lie); --no-resume refuses to touch what is there. --gate stops a run of voc-toco after a
fifth of its steps and holds it against the base's published log: exit code 0 if it passes.
`wsss train PRESET --help` lists every setting with its value in that preset: None is automatic, a weight of 0 leaves
its term out, several values of one setting stand apart or are joined by commas.

presets: """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    return command.main("wsss", command.Group(_USAGE, COMMANDS), argv)


@dataclass(frozen=True)
class _Train(Config):
    """One run."""

    preset: Annotated[str, tyro.conf.Suppress] = ""
    """The preset whose values are the defaults."""
    no_resume: bool = False
    """Refuse to touch a run that is there already."""
    gate: bool = False
    """Stop a run of voc-toco after a fifth of its steps and judge it by the base's log; exit code 0 if it passes."""

    @property
    def config(self) -> Config:
        """Return the run's configuration with its variant. Raises UserError."""
        if self.name != self.preset:
            raise UserError("--name is the preset's; give --variant a name of your own for the run")
        return presets.named(Config(**{row.name: getattr(self, row.name) for row in dataclasses.fields(Config)}))

    def __call__(self) -> int | str:
        config = self.config
        if self.gate:
            from wsss.report import gate

            gate.rows(config.name)  # says which presets have a gate
        from wsss import train
        from wsss.tools import gate as gates

        record = train.run(config, not self.no_resume, gates.Gate if self.gate else None)
        if not self.gate:
            return _summary(record)
        if "gate" not in record:
            raise UserError(f"{record['path']} is the record of the whole run, before which a gate comes; see its log")
        if is_first():
            print(record["gate"])
        return int(not record["passed"])


_TRAIN = command.Group(
    _TRAIN_USAGE + ", ".join(presets.PRESETS),
    {name: _Train(**vars(config), preset=name) for name, config in presets.PRESETS.items()},
    "preset",
)


def _summary(record: Mapping[str, Any]) -> str:
    """Say the main numbers of a run's record and where the rest lies."""
    results, path = record["results"], Path(record["path"])

    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.1f}"

    kinds = ("segmentation", "cam", "aux_cam")
    numbers = ", ".join(f"{kind} {number(results[kind]['miou_headline'])}" for kind in kinds)
    run = f"{record['dataset']}/{record['variant']} seed {record['seed']}"
    lines = [
        f"{run}, {record['images']} images of {record['split']}:",
        f"mIoU in percent: {numbers}; classification mAP {number(results['classification']['map_headline'])}",
    ]
    if results["segmentation"]["miou_headline"] is None:
        lines.append(f"undefined: no mask of {record['split']} shows a class that counts")
    if "other_data" in record:
        lines.append(f"other data than the run's: {record['other_data']} differ")
    folder = path.with_name(path.name.partition(".")[0])
    return "\n".join([*lines, f"record: {path}; weights, log and examples: {folder}"])


@dataclass(frozen=True)
class _Evaluate:
    """Evaluate a run's weights and write a record. `training` is the protocol of validation in training; `voc` (native
    size) and `coco` (squashed) are the final ones, with CRF; they write index PNGs, and the same words go on with
    those of an interrupted evaluation."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    checkpoint: Path | None = None
    """Instead of RUN: a file of weights that were trained elsewhere, such as the base's released .pth. It becomes
    the run OUTPUT/DATASET/PRESET-foreign-DIGEST/0, whose records say that the weights are foreign."""
    preset: str = ""
    """With --checkpoint: the preset whose network and way of evaluation fit, such as voc-toco."""
    output: Path | None = None
    """With --checkpoint: the folder OUTPUT."""
    protocol: str = "training"
    """training, voc or coco."""
    weights: str = "last"
    """last or best; records of the best say so in their names (SEED.best.json)."""
    data_root: str = ""
    """Folder of the data set, if it has moved; or of another one with the same classes, whose record stands apart."""
    split: str = ""
    """List to evaluate on; empty: the run's own for training, val for voc and coco."""
    scales: tuple[float, ...] = ()
    """Scales of the image; empty: the protocol's, 1 1.25 1.5."""
    flip: bool | None = None
    """Score the mirror image, too; None: as the protocol does (True)."""
    crf: bool | None = None
    """Refine by the dense CRF; None: as the protocol does (True)."""
    crf_merge: float | None = None
    """Classes whose probability is below this everywhere in the image take part in the CRF as one, which saves time
    (0.05, say); the record says so in its name. None: the whole CRF."""
    bfloat16: bool = False
    """Compute in bfloat16 where the device does; records are made in float32."""
    longest: int | None = None
    """Photographs with a longer side above this are scaled down for network and CRF, their labels scaled back; the
    record says so in its name. None: at their own size, where 12 megapixels take hours and gigabytes: both are said
    before."""
    save: Path | None = None
    """Folder of the PNGs; None: RUN/predictions/PROTOCOL-SPLIT."""
    batch: int = 1
    """Images of one size that go through the network at once; 1 is the same to the last bit anywhere."""
    workers: int | None = None
    """Processes for the CRF; None: one a core, or fewer where memory is small; 0: none beside this one, which hears a
    stop only between two steps of a CRF."""

    def __call__(self) -> str:
        elsewhere = (self.checkpoint, self.preset, self.output)
        if bool(self.run) == any(elsewhere) or any(elsewhere) != all(elsewhere):
            raise UserError("wsss evaluate takes a RUN, or --checkpoint FILE with --preset and --output; see --help")
        of_final = ("scales", "flip", "crf", "crf_merge", "bfloat16", "longest", "save", "batch", "workers")
        final = {name: getattr(self, name) for name in of_final}
        given = [name for name, value in final.items() if value != getattr(_Evaluate, name)]
        if self.protocol == "training" and given:
            raise UserError(f"--{given[0]} is of the protocols voc and coco; add --protocol voc or --protocol coco")
        from wsss.inference import runs

        run = self.run
        if run is None:
            from wsss.inference import foreign

            run = foreign.adopt(self.checkpoint, self.preset, self.output, self.data_root)
        if self.protocol == "training":
            return _summary(runs.evaluate_run(run, self.weights, self.data_root, self.split))
        request = runs.Request(run, self.weights, self.data_root, self.split or "val", self.protocol, **final)
        return runs.run(request).sentence()


@dataclass(frozen=True)
class _Predict:
    """Write what a run's model sees in photographs. DIR/segmentation, DIR/cam and DIR/pseudo_label get index PNGs with
    VOC's palette, of each photograph's size, 255 where the pseudo label is unsure; DIR/scores.csv the probability of
    every class. CAM and pseudo label need the classes of an image: those of the list, or, of other photographs, those
    that the model predicts. The same words go on with an interrupted one."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    photos: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PHOTOS|SPLIT")]
    """A photograph, a folder of photographs, or a list of the run's data set (train_aug, say)."""
    save: Path
    """Folder of what is written."""
    weights: str = "last"
    """last or best."""
    data_root: str = ""
    """Folder of the data set, if it has moved."""

    def __call__(self) -> str:
        from wsss.inference import export

        return export.run(self.run, self.photos, self.save, self.weights, self.data_root)


@dataclass(frozen=True)
class _Score:
    """Compare index PNGs with the truth; prints miou (percent), iou by class, accuracies and the image count."""

    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of ID.png with class numbers."""
    truth: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRUTH")]
    """Folder of ID.png; 255 is not counted. Every mask here, or of --ids, needs its prediction."""
    num_classes: int
    """Classes with background, e.g. 21 for VOC."""
    ids: Path | None = None
    """List of the ids to score, such as ImageSets/Segmentation/val.txt; None: every mask of TRUTH."""

    def __call__(self) -> str:
        from wsss.inference import scoring

        return json.dumps(scoring.score(self.predictions, self.truth, self.num_classes, self.ids))


@dataclass(frozen=True)
class _Tables:
    """Print the tables from records: paper, published base, measured, or the command that is still to be run."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TABLE")] = ()
    """Tables to print; none: all but the experiments that nobody has run, which are named at the end."""
    records: tuple[Path, ...] = ()
    """Folders of records; empty: data/results of the project."""
    format: Literal["text", "markdown", "csv"] = "text"
    """Form of the tables."""

    def __call__(self) -> str:
        from wsss.report import records, tables

        if missing := [str(folder) for folder in self.records if not records.find(folder)]:
            raise UserError(f"{missing[0]} holds no record DATASET/VARIANT/SEED.json; name a folder such as runs")
        chosen = records.find(*self.records) if self.records else records.published()
        built = {name: tables.build(name, chosen) for name in self.names or tables.TABLES}
        idle = [] if self.names else [name for name in tables.REPORTED if not built[name].measured()]
        shown = [table for name, table in built.items() if name.removesuffix("-differences") not in idle]
        texts = [getattr(table, self.format)() for table in shown]
        if idle and self.format == "text":
            does = "`wsss sweep NAME` does, `wsss tables NAME` shows what it would fill"
            texts.append(f"nobody has run: {', '.join(idle)}; {does}")
        return "\n".join(texts)


@dataclass(frozen=True)
class _Publish:
    """Copy finished records of runs/ to data/results and executed notebooks to book/runs; a dirty tree is refused."""

    only: tuple[str, ...] = ()
    """Patterns of DATASET/VARIANT; empty: all."""

    def __call__(self) -> str:
        from wsss.report import publish

        return "\n".join(map(str, publish.publish(project_root() / "runs", project_root(), self.only)))


COMMANDS: dict[str, Any] = {
    "train": _TRAIN,
    "evaluate": _Evaluate,
    "predict": _Predict,
    "sweep": "wsss.tools.sweep:Sweep",
    "explore": "wsss.explore.command:Explore",
    "export": "wsss.explore.command:Export",
    "score": _Score,
    "data": "wsss.data.commands:DATA",
    "pretrain": "wsss.tools.pretrain:Pretrain",
    "submit": "wsss.inference.submit:Submit",
    "tables": _Tables,
    "verify": "wsss.tools.verify:Verify",
    "bench": "wsss.tools.bench:BENCHES",
    "publish": _Publish,
}
