"""The command line: `wsss COMMAND`.

A command is a frozen dataclass. Its fields are the flags, their docstrings are the help, and calling the instance does
the work. torch is loaded only in that call, so that help appears at once. An error that a user can act on is printed as
one sentence, with a non-zero exit code.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wsss import command, presets
from wsss.config import Config
from wsss.inference import commands
from wsss.paths import UserError, is_first, project_root

_USAGE = """\
usage: wsss COMMAND ...

  train PRESET             train and evaluate one run; the same command resumes it
  evaluate RUN             evaluate a run's weights as in training or by a final protocol, and write a record
  predict RUN PHOTOS       write segmentation, CAM and pseudo labels of photographs or of a list as index PNGs
  sweep TABLE              train and evaluate all unfinished runs of an experiment
  explore IMAGES           write one page that shows in a browser what a model sees in pictures
  export RUN               write the network as an ONNX graph, for the explorer's page or any other program
  score PREDICTIONS TRUTH  compare two folders of index PNGs; prints one JSON line
  data WHAT                draw the mini set, prepare VOC or COCO, check a data set: see wsss data --help
  pretrain ROOT            pretrain a small ViT on a folder of class folders, or on drawn images
  submit RUN               predict the VOC test images and pack them for the PASCAL VOC evaluation server
  tables                   print numbers of the paper, of the published base and of records
  bench WHAT               time a training step, a part of it or an evaluation: see wsss bench --help
  verify REFERENCE.npz     compare the package with the base's reference numbers, case by case
  publish                  copy finished runs of a clean commit to data/results and book/runs

`wsss COMMAND --help` explains each; the book explains the method."""

_TRAIN_USAGE = """\
usage: wsss train PRESET [--seed N] [--output DIR] [--data.root ROOT] [--no-resume] [--gate] [--SETTING VALUE ...]

Train and evaluate one run. It is written to OUTPUT/DATASET/VARIANT/SEED, its record to the same path with .json. The
same command again resumes an interrupted run and returns a finished one. The data must be the same (classes, image
labels, masks, photographs), but may have moved. --no-resume refuses to touch an existing run. --gate stops a run of
voc-toco after a fifth of its steps and compares it with the base's published log: exit code 0 if it passes.
`wsss train PRESET --help` lists every setting with its value in that preset: None is automatic, a weight of 0 leaves
its term out; several values of one setting are separated by blanks or commas.

presets: """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    return command.main("wsss", command.Group(_USAGE, COMMANDS), argv)


@dataclass(frozen=True)
class _Train(Config):
    """Train and evaluate one run."""

    preset: Annotated[str, tyro.conf.Suppress] = ""
    """Preset that gives the defaults."""
    no_resume: bool = False
    """Refuse to touch a run that is there already."""
    gate: bool = False
    """Stop a run of voc-toco after a fifth of its steps and judge it by the base's log; exit code 0 if it passes."""

    @property
    def config(self) -> Config:
        """Return the run's configuration with its variant. Raises UserError."""
        if self.name != self.preset:
            raise UserError("--name is the preset's and cannot change; name your run with --variant")
        return presets.named(Config(**{row.name: getattr(self, row.name) for row in dataclasses.fields(Config)}))

    def __call__(self) -> int | str:
        config = self.config
        if self.gate:
            from wsss.report import gate

            gate.rows(config.name)  # raises UserError before training if the preset has no gate
        from wsss import train
        from wsss.tools import gate as gates

        record = train.run(config, not self.no_resume, gates.Gate if self.gate else None)
        if not self.gate:
            return commands.summary(record)
        if "gate" not in record:
            raise UserError(f"{record['path']} is the record of a finished run, too late for a gate; see its log")
        if is_first():
            print(record["gate"])
        return int(not record["passed"])


_TRAIN = command.Group(
    _TRAIN_USAGE + ", ".join(presets.PRESETS),
    {name: _Train(**vars(config), preset=name) for name, config in presets.PRESETS.items()},
    "preset",
)


@dataclass(frozen=True)
class _Tables:
    """Print the tables: numbers of the paper, of the published base and of records, or the command still to be run."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TABLE")] = ()
    """Tables to print. Without names: all, except experiments that nobody has run; the last line lists those."""
    records: tuple[Path, ...] = ()
    """Folders of records; empty: data/results of the project."""
    format: Literal["text", "markdown", "csv"] = "text"
    """Form of the tables."""

    def __call__(self) -> str:
        from wsss.report import records, tables

        if missing := [folder for folder in self.records if not records.files(folder)]:
            raise UserError(f"{missing[0]} holds no record DATASET/VARIANT/SEED.json; name a folder such as runs")
        chosen = records.find(*self.records) if self.records else records.published()
        built = {name: tables.build(name, chosen) for name in self.names or tables.TABLES}
        idle = [] if self.names else [name for name in tables.REPORTED if not built[name].measured()]
        shown = [table for name, table in built.items() if name.removesuffix("-differences") not in idle]
        texts = [getattr(table, self.format)() for table in shown]
        if idle and self.format == "text":
            does = "`wsss sweep NAME` runs one, `wsss tables NAME` shows its empty table"
            texts.append(f"not run yet: {', '.join(idle)}; {does}")
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
    "evaluate": commands.Evaluate,
    "predict": commands.Predict,
    "sweep": "wsss.tools.sweep:Sweep",
    "explore": "wsss.explore.command:Explore",
    "export": "wsss.explore.command:Export",
    "score": commands.Score,
    "data": "wsss.data.commands:DATA",
    "pretrain": "wsss.tools.pretrain:Pretrain",
    "submit": commands.Submit,
    "tables": _Tables,
    "verify": "wsss.tools.verify:Verify",
    "bench": "wsss.tools.bench:BENCHES",
    "publish": _Publish,
}
"""Every command of `wsss`, by name."""
