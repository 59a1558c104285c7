"""Commands of the final protocols and of predictions: evaluate, predict, score and submit. No torch before a call."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from wsss import protocols
from wsss.inference.request import Choice, Request
from wsss.paths import UserError, is_first, note


def summary(record: Mapping[str, Any]) -> str:
    """Return a text with the main numbers of a run's record and the place of the rest."""
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
class Evaluate(Choice, Request):
    """Evaluate a run's weights and write a record. The protocol `training` is that of validation in training. The final
    protocols, `voc` (native size) and `coco` (squashed), have a CRF and also write index PNGs. To resume an interrupted
    evaluation, run the same command again."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    split: str = ""
    """List of images to evaluate on; empty: the run's own for `training`, val for `voc` and `coco`."""
    protocol: str = "training"
    """training, voc or coco."""
    checkpoint: Path | None = None
    """Instead of RUN: a file of weights that were trained elsewhere, such as the base's released .pth. It becomes
    the run OUTPUT/DATASET/PRESET-foreign-DIGEST/0, whose records say that the weights are foreign."""
    preset: str = ""
    """With --checkpoint: the preset with the right network and way of evaluation, such as voc-toco."""
    output: Path | None = None
    """With --checkpoint: the folder OUTPUT."""

    def __call__(self) -> str:
        elsewhere = (self.checkpoint, self.preset, self.output)  # all three, or none of them and a RUN
        if bool(self.run) == any(elsewhere) or any(elsewhere) != all(elsewhere):
            raise UserError("wsss evaluate takes a RUN, or --checkpoint FILE with --preset and --output; see --help")
        of_final = ("scales", "flip", "crf", "crf_merge", "bfloat16", "longest", "save", "batch", "workers")
        # The class has each field's default as an attribute.
        given = [name for name in of_final if getattr(self, name) != getattr(Evaluate, name)]
        training = self.protocol == "training"
        if training and given:
            flag = given[0].replace("_", "-")
            raise UserError(f"--{flag} belongs to the protocols voc and coco; add --protocol voc or --protocol coco")
        protocol = None if training else self.chosen(self.longest)
        from wsss.inference import runs

        run = self.run
        if run is None:
            from wsss.inference import foreign

            run = foreign.adopt(self.checkpoint, self.preset, self.output, self.data_root)
        if protocol is None:
            return summary(runs.evaluate_run(run, self.weights, self.data_root, self.split))
        return runs.run(replace(self, run=run, split=self.split or "val"), protocol).sentence()


@dataclass(frozen=True)
class Predict:
    """Predict photographs with a run's model. DIR/segmentation, DIR/cam and DIR/pseudo_label get an index PNG of each
    photograph, with its size and VOC's palette; 255 marks where the pseudo label is unsure. DIR/scores.csv gets the
    probability of every class. CAM and pseudo label need the classes of an image: a list of the data set has them, for
    other photographs the model predicts them. To resume an interrupted prediction, run the same command again."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    photos: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PHOTOS|SPLIT")]
    """A photograph, a folder of photographs, or a list of the run's data set (train_aug, say)."""
    save: Path
    """Folder to write to, DIR."""
    weights: str = "last"
    """last or best."""
    data_root: str = ""
    """Folder of the data set, if it has moved."""

    def __call__(self) -> str:
        from wsss.inference import photographs

        return photographs.run(self.run, self.photos, self.save, self.weights, self.data_root)


@dataclass(frozen=True)
class Score:
    """Compare index PNGs with the truth. Prints miou (percent), iou by class, accuracies and the number of images."""

    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of ID.png with class numbers."""
    truth: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRUTH")]
    """Folder of ID.png; pixels of 255 are not counted. Every mask here, or in --ids, needs a prediction."""
    num_classes: int
    """Number of classes, background included, e.g. 21 for VOC."""
    ids: Path | None = None
    """List of the ids to score, such as ImageSets/Segmentation/val.txt; None: every mask of TRUTH."""

    def __call__(self) -> str:
        from wsss.inference import scoring

        return json.dumps(scoring.score(self.predictions, self.truth, self.num_classes, self.ids))


@dataclass(frozen=True)
class Submit(Request):
    """Predict VOC's test images by the protocol voc with CRF, check every PNG, and pack them for the PASCAL VOC
    evaluation server: results/VOC2012/Segmentation/comp6_test_cls/ID.png in a .tar.gz. To resume an interrupted
    prediction, run the same command again."""

    split: str = "test"
    """List of the images; the folder of the data set must hold their photographs."""
    output: Path | None = None
    """The archive; None: RUN/comp6_test_cls.tar.gz."""
    partial: bool = False
    """Allow a list other than VOC's 1,456 test images, or --longest, to try the command out; the server refuses such an
    archive. The flag needs no value."""

    def __call__(self) -> str:
        if self.longest and not self.partial:
            raise UserError(
                "--longest changes the protocol of VOC's test; leave it out, or add --partial to try it out"
            )
        from wsss.inference import runs, submit

        check = None if self.partial else submit.require_voc_test
        done = runs.run(self, protocols.get("voc", longest=self.longest), truth=False, check=check)
        output = self.output or self.run / "comp6_test_cls.tar.gz"
        if is_first():
            submit.pack(done.folder, done.images, output)
            if done.other_data:
                note(f"note: {done.images.kit.root} is not the data of the run: {done.other_data} differ")
        return f"{len(done.images.ids)} predictions, all checked: {output}"
