"""The command line: `wsss COMMAND`. Every error a user can act on is one sentence and a non-zero exit."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wsss.command import parse
from wsss.config import Config
from wsss.interrupt import Interrupted
from wsss.paths import Echo, UserError, did_you_mean

USAGE = """\
usage: wsss COMMAND ...

  train PRESET             train and evaluate one run; the same words again resume it
  evaluate RUN             evaluate a run's weights and write a record: in training's way, or by a final protocol
  predict RUN PHOTOS       write segmentation, CAM and pseudo labels of photographs or of a list as index PNGs
  sweep TABLE              train and evaluate every run of an experiment that is not finished
  explore IMAGES           what a model sees in pictures, as one page to explore in a browser
  score PREDICTIONS TRUTH  compare two folders of index PNGs; prints one JSON line
  data WHAT                draw the mini set, prepare VOC or COCO, look through a data set: see wsss data --help
  pretrain ROOT            pretrain a small ViT on a folder of class folders, or on drawn images
  submit RUN               predict the VOC test images and pack them for the PASCAL VOC evaluation server
  tables                   paper, published base and measured numbers, from records
  bench WHAT               time a training step, a part of it or an evaluation: see wsss bench --help
  verify REFERENCE.npz     compare the package with the base's reference numbers, case by case
  publish                  copy finished runs of a clean commit to data/results and book/runs

`wsss COMMAND --help` explains each; the book explains the method."""

TRAIN_USAGE = """\
usage: wsss train PRESET [--seed N] [--output DIR] [--data.root ROOT] [--no-resume] [--gate] [--SETTING VALUE ...]

Train and evaluate one run. It goes to OUTPUT/DATASET/VARIANT/SEED, its record to the same path with .json. The same
words again resume an interrupted run and return a finished one, on the same data alone (classes, image labels, masks,
photographs; wherever they lie); --no-resume refuses to touch what is there. --gate stops a run of voc-toco after a
fifth of its steps and holds it against the base's published log: exit code 0 if it passes.
`wsss train PRESET --help` lists every setting with its value in that preset: None is automatic, a weight of 0 leaves
its term out, several values of one setting stand apart or are joined by commas.

presets: """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    try:
        if words[0] not in COMMANDS:
            raise UserError(f"there is no command named {words[0]}{did_you_mean(words[0], COMMANDS)}; see wsss --help")
        return _command(words[0])(words[1:])
    except Echo:
        return 1
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}; what was there is untouched")
    except Interrupted as stopped:
        print(f"wsss: {stopped}", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("wsss: stopped", file=sys.stderr)
        return 130


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """The function of a command: of this module, or named as module:function and imported when it is asked for."""
    found = COMMANDS[name]
    if not isinstance(found, str):
        return found
    module, _, function = found.partition(":")
    return getattr(importlib.import_module(module), function)


def _fail(sentence: str) -> int:
    print(f"wsss: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def _train(words: Sequence[str]) -> int:
    from wsss import presets

    if not words or words[0] in ("-h", "--help"):
        print(TRAIN_USAGE + ", ".join(presets.PRESETS))
        return 0 if words else 2
    name, resume, gated = words[0], not {"--no-resume", "--no_resume"} & set(words), "--gate" in words
    settings = [word for word in words[1:] if word not in ("--no-resume", "--no_resume", "--gate")]
    config = train_config(name, settings)
    if gated:
        from wsss.report import gate

        gate.rows(name)  # says which presets have a gate
    from wsss import gate as gates
    from wsss import train

    record = train.run(config, resume, gates.Gate if gated else None)
    if gated and "gate" not in record:
        raise UserError(f"{record['path']} is the record of the whole run, before which a gate comes; see its log")
    if os.environ.get("RANK", "0") == "0":
        print(record["gate"]) if gated else _report(record)
    return int(gated and not record["passed"])


def train_config(name: str, words: Sequence[str]) -> Config:
    """The preset `name` with the settings that the words after `wsss train NAME` change. Raises UserError."""
    from wsss import presets

    presets.get(name)  # says which presets there are
    config = parse(Config, words, f"train {name}", presets.PRESETS[name])
    if config.name != name:
        raise UserError("--name is the preset's; give --variant a name of your own for the run")
    return presets.named(config)


def _report(record: dict[str, Any]) -> None:
    found, path = record["results"], Path(record["path"])
    kinds = ("segmentation", "cam", "aux_cam")
    numbers = ", ".join(f"{kind} {_number(found[kind]['miou_headline'])}" for kind in kinds)
    run = f"{record['dataset']}/{record['variant']} seed {record['seed']}"
    print(f"{run}, {record['images']} images of {record['split']}:")
    print(f"mIoU in percent: {numbers}; classification mAP {_number(found['classification']['map_headline'])}")
    if found["segmentation"]["miou_headline"] is None:
        print(f"undefined: no mask of {record['split']} shows a class that counts")
    if "other_data" in record:
        print(f"other data than the run's: {record['other_data']} differ")
    print(f"record: {path}; weights, log and examples: {path.with_name(path.name.partition('.')[0])}")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1f}"


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run's weights and write a record. `training` is the protocol of validation in training; `voc` (native
    size) and `coco` (squashed) are the final ones, with CRF; they write index PNGs, and the same words go on with
    those of an interrupted evaluation."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    checkpoint: Path | None = None
    """In the place of RUN: a file of weights that were trained elsewhere, such as the base's released .pth. It becomes
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
    """Where the data set lies now, if it has moved; or another one with the same classes, whose record stands apart."""
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


def _evaluate(words: Sequence[str]) -> int:
    asked = parse(Evaluate, words, "evaluate")
    names = ("scales", "flip", "crf", "crf_merge", "bfloat16", "longest", "save", "batch", "workers")
    final = {name: getattr(asked, name) for name in names}
    if asked.protocol == "training":
        given = [name for name, value in final.items() if value != getattr(Evaluate, name)]
        if given:
            raise UserError(f"--{given[0]} is of the protocols voc and coco; add --protocol voc or --protocol coco")
    elsewhere = (asked.checkpoint, asked.preset, asked.output)
    if bool(asked.run) == any(elsewhere) or any(elsewhere) != all(elsewhere):
        raise UserError("wsss evaluate takes a RUN, or --checkpoint FILE with --preset and --output; see its --help")
    from wsss.inference import runs

    folder = asked.run
    if folder is None:
        from wsss.inference import foreign

        folder = foreign.adopt(asked.checkpoint, asked.preset, asked.output, asked.data_root)
    if asked.protocol == "training":
        record = runs.evaluate_run(folder, asked.weights, asked.data_root, asked.split)
        _report(record)
        return 0
    shared = {"weights": asked.weights, "data_root": asked.data_root, "split": asked.split or "val"}
    done = runs.run(runs.Request(folder, protocol=asked.protocol, **shared, **final))
    if os.environ.get("RANK", "0") == "0":
        print(done.words())
    return 0


@dataclass(frozen=True)
class Predict:
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
    """Where the data set lies now, if it has moved."""


def _predict(words: Sequence[str]) -> int:
    asked = parse(Predict, words, "predict")
    from wsss.inference import export

    print(export.run(asked.run, asked.photos, asked.save, asked.weights, asked.data_root))
    return 0


@dataclass(frozen=True)
class Score:
    """Compare index PNGs with the truth; prints miou (percent), iou by class, accuracies and the image count."""

    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of ID.png with class numbers."""
    truth: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRUTH")]
    """Folder of ID.png; 255 is not counted. Every mask here, or of --ids, needs its prediction."""
    num_classes: int
    """Classes with background, e.g. 21 for VOC."""
    ids: Path | None = None
    """List of the ids to score, such as ImageSets/Segmentation/val.txt; None: every mask of TRUTH."""


def _score(words: Sequence[str]) -> int:
    asked = parse(Score, words, "score")
    from wsss.inference import scoring

    print(json.dumps(scoring.score(asked.predictions, asked.truth, asked.num_classes, asked.ids)))
    return 0


def _pretrain(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: wsss pretrain ROOT [--SETTING VALUE ...]\n\nROOT is a folder of class folders, or the word drawn."
        )
    from wsss.tools import pretrain

    root = words[0] if words and not words[0].startswith("-") else ""
    asked = parse(pretrain.Pretrain, words[1:] if root else (words or ["--help"]), "pretrain ROOT")
    if not root:
        raise UserError("wsss pretrain needs a folder of class folders, or the word drawn")
    pretrain.run(root, asked)
    return 0


@dataclass(frozen=True)
class Tables:
    """Print the tables from records: paper, published base, measured, or the command that is still to be run."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TABLE")] = ()
    """Tables to print; none: all but the experiments that nobody has run, which are named at the end."""
    records: tuple[Path, ...] = ()
    """Folders of records; empty: data/results of the project."""
    format: str = "text"
    """text, markdown or csv."""


def _tables(words: Sequence[str]) -> int:
    asked = parse(Tables, words, "tables")
    from wsss.report import records, tables

    if asked.format not in ("text", "markdown", "csv"):
        raise UserError(f"--format is {asked.format}; it is one of text, markdown, csv")
    chosen = records.find(*asked.records) if asked.records else records.published()
    found = {name: tables.build(name, chosen) for name in asked.names or tables.TABLES}
    idle = [] if asked.names else [name for name in tables.REPORTED if not found[name].measured()]
    for name, table in found.items():
        if name.removesuffix("-differences") not in idle:
            print(getattr(table, asked.format)())
    if idle and asked.format == "text":
        print(f"nobody has run: {', '.join(idle)}; `wsss sweep NAME` does, `wsss tables NAME` shows what it would fill")
    return 0


@dataclass(frozen=True)
class Publish:
    """Copy finished records of runs/ to data/results and executed notebooks to book/runs; a dirty tree is refused."""

    only: tuple[str, ...] = ()
    """Patterns of DATASET/VARIANT; empty: all."""


def _publish(words: Sequence[str]) -> int:
    asked = parse(Publish, words, "publish")
    from wsss.paths import project_root
    from wsss.report import publish

    for path in publish.publish(project_root() / "runs", project_root(), asked.only):
        print(path)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int] | str] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "sweep": "wsss.tools.sweep:run",
    "explore": "wsss.explore.command:run",
    "score": _score,
    "data": "wsss.data.commands:run",
    "pretrain": _pretrain,
    "submit": "wsss.inference.submit:run",
    "tables": _tables,
    "verify": "wsss.tools.verify:run",
    "bench": "wsss.tools.bench:run",
    "publish": _publish,
}
