"""Evaluation of runs on disk, by the protocol of training or a final one, and its record."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wsss import checkpoint, distributed, evaluate, process, settings
from wsss.config import Config
from wsss.data import identity, sets
from wsss.data.identity import Evaluated
from wsss.data.pictures import upright_size
from wsss.data.voc import Split
from wsss.inference import predictions, stream, workload
from wsss.inference.request import Request
from wsss.inference.stream import Shard
from wsss.model import SegmentationModel, build
from wsss.paths import UserError, sha256
from wsss.protocols import Protocol, limited
from wsss.registry import DATASETS
from wsss.report import records
from wsss.report.records import Record
from wsss.tally import Counts, counts_by_image


@dataclass(frozen=True)
class Opened:
    """A run's configuration, and the file and step of the chosen weights."""

    folder: Path
    config: Config
    file: Path
    step: int

    def model(self, classes: int, device: torch.device) -> SegmentationModel:
        """Build the network with these weights. The run's start weights are not read, and may be gone."""
        bare = settings.override(self.config, {"model.checkpoint": "", "model.pretrained": False})
        model = build(bare, classes).to(device)
        tensors = checkpoint.read(self.file)
        # A file without a decoder passes here: `fill` says what it lacks.
        known = len(tensors.get("decoder.conv8.weight", range(classes + 1))) - 1
        if known != classes:
            raise UserError(f"{self.file} knows {known} classes, but the data set has {classes}; check its classes.txt")
        checkpoint.fill(model, tensors, str(self.file))
        model.adopt(checkpoint.metadata(self.file))
        return model.eval()

    def path(self, *parts: str) -> Path:
        """Return the path of a record of the run: OUTPUT/DATASET/VARIANT/SEED[.PART ...].json."""
        return self.folder.with_name(".".join([self.folder.name, *parts, "json"]))

    def record(self) -> Record:
        """Read the run's own record. Raises UserError."""
        path = self.path()
        if not path.is_file():
            raise UserError(f"{self.folder} is not finished: there is no {path}; run its `wsss train` again")
        return records.load(path)

    def origin(self) -> dict[str, Any]:
        """Return how the weights were made, from the run's record if there is one: seconds, validations, stamp, ..."""
        known = records.load(self.path()) if self.path().is_file() else {}
        kept = ("seconds", "processes", "threads", "validations", *evaluate.stamp())
        return {name: known[name] for name in kept if name in known}


def classes_of(record: Record) -> tuple[str, ...]:
    """Return the names of the foreground classes that a record's network knows."""
    return tuple(record["results"]["segmentation"]["iou"])[1:]  # the first is the background


def open_run(folder: Path, weights: str = "last", data_root: str = "") -> Opened:
    """Open the run at OUTPUT/DATASET/VARIANT/SEED with its last or best weights. Raises UserError."""
    folder = folder.resolve() if folder.name in ("", "..") else folder  # its record is named after it
    config = checkpoint.configuration(folder)
    if folder.name.isdecimal() and int(folder.name) != config.seed:
        raise UserError(f"{folder}/config.json belongs to seed {config.seed}; restore the one of this run")
    config = settings.override(config, {"data.root": data_root} if data_root else {})
    step = checkpoint.latest(folder)
    file = folder / "best.safetensors" if weights == "best" else checkpoint.weights_file(folder, step or 0)
    if weights not in ("last", "best") or step is None or not file.is_file():
        raise UserError(
            f"{folder} has no {weights} weights; --weights must be last or best, and the run must be trained"
        )
    if step < config.optim.steps:
        raise UserError(
            f"{folder} is not finished: it has stopped after {step:,} of {config.optim.steps:,} steps; run its "
            "`wsss train` again to continue"
        )
    return Opened(folder, config, file, step)


def evaluate_run(folder: Path, weights: str = "last", data_root: str = "", split: str = "") -> dict[str, Any]:
    """Evaluate a run's last or best weights by the protocol of training; return the record.

    The record of the last weights replaces the run's own. That of the best weights goes to SEED.best.json, that of a
    split other than the run's own to SEED.SPLIT.json, that of other data to SEED.other-data-DIGEST.json. Raises
    UserError.
    """
    run = open_run(folder, weights, data_root)
    other = [weights] * (weights != "last") + [split] * (split not in ("", run.config.data.val_split))
    config = settings.override(run.config, {"data.val_split": split} if split else {})
    with distributed.group() as device:
        root = distributed.main_first(lambda: sets.locate(config.data))
        opened = Split(root, config.data.val_split, masks=True)
        digests = distributed.from_main(lambda: identity.digests(opened))
        data = identity.evaluated(run.folder, run.config.data, (root, opened.name), digests, run.path(*other))
        model = run.model(len(opened.kit.classes), device)
        path = run.path(*other, *data.of_record())
        origin = run.origin() | data.fields() | {"evaluated_by": _stamp()}
        return evaluate.write_record(model, opened, config, device, path, origin)


def _stamp() -> dict[str, Any]:
    """Return the stamp of an evaluation; the record's own device, threads and commit are those of the training."""
    return evaluate.stamp() | {"threads": torch.get_num_threads()}


# The final protocols.


@dataclass(frozen=True)
class Outcome:
    """Result of `run`."""

    folder: Path
    """Folder of the PNGs."""
    images: Split
    record: dict[str, Any] | None
    """The record, written by process 0 and read by all; None if the split has no truth or none was wanted."""
    other_data: str
    """Kinds of data that differ from the run's; empty if none is known to differ."""

    def sentence(self) -> str:
        """Return a text that says what was measured and where it lies."""
        split, where = self.images.name, f"predictions: {self.folder}"
        where += f"\nother data than the run's: {self.other_data} differ" if self.other_data else ""
        if self.record is None:
            return f"{len(self.images.ids)} images of {split}, which has no masks to compare with; {where}"
        run, scores = records.describe(self.record), self.record["results"]["segmentation"]
        protocol = self.record["protocol"]
        scored = f"undefined: no mask of {split} shows a class" if scores["miou"] is None else f"{scores['miou']:.1f}"
        return (
            f"{run}, {self.record['images']} images of {split} by the protocol {protocol['kind']} "
            f"({protocol['name']}):\nmIoU in percent: segmentation {scored}\nrecord: {self.record['path']}; {where}"
        )


def run(
    request: Request, protocol: Protocol, truth: bool = True, check: Callable[[Split], None] | None = None
) -> Outcome:
    """Predict a split by a final protocol: write PNGs to RUN/predictions/PROTOCOL-SPLIT (or `save`), then the record.

    The record goes to OUTPUT/DATASET/VARIANT/SEED.PROTOCOL.json, with its counts beside it. Without masks, or with
    `truth` False, there is none. For other data than the run's own, names end in other-data-DIGEST. Process r of w
    takes the images r, r + w, .... Whole PNGs of the same settings, weights and photographs are kept.

    With the CRF, the same pass of the network also gives the results without it: further PNGs and a further record.
    They are left out if there is no truth or PNGs go to `save`. `check` sees the images before anything is predicted.
    Raises UserError, and Interrupted after a request to stop.
    """
    if request.batch < 1 or (request.workers or 0) < 0:
        raise UserError("--batch must be at least 1 and --workers at least 0")
    opened = open_run(request.run, request.weights, request.data_root)
    if protocol.size:
        config = opened.config
        protocol = replace(protocol, size=config.augment.squashed, plain_squash=config.compat.plain_squash)
    with distributed.group() as device:
        root = distributed.main_first(lambda: sets.locate(opened.config.data))
        images = Split(root, request.split, None if truth else False, labels=False)
        if check:
            check(images)
        digests = distributed.from_main(lambda: identity.digests(images))
        before = opened.path(request.stem(protocol, val=""))
        data = identity.evaluated(opened.folder, opened.config.data, (root, images.name), digests, before)
        final = _Final(request, opened, images, data)
        shard = final.shard(protocol, device)
        started = time.monotonic()
        workers = workload.prepare(shard, crf_workers(request.workers, protocol), fixed=request.workers is not None)
        parts = distributed.all_gather(stream.finish(shard, workers))
        if not images.masks:
            return Outcome(shard.folder, images, None, data.differ)
        if distributed.rank() == 0:
            seconds = round(time.monotonic() - started, 1)
            finished = [image for part in parts for image in part]
            final.save(shard, [image.counts for image in finished], seconds)
            if shard.plain:  # its time is counted in the record with the CRF
                without = replace(shard, protocol=replace(protocol, crf=None), folder=shard.plain)
                final.save(without, [image.plain for image in finished], 0.0)
        distributed.barrier()
        return Outcome(shard.folder, images, records.load(final.path(protocol)), data.differ)


@dataclass(frozen=True)
class _Final:
    """A final evaluation, with the comparison of its data and the run's."""

    request: Request
    run: Opened
    images: Split
    data: Evaluated

    def path(self, protocol: Protocol) -> Path:
        """Return the path of its record: OUTPUT/DATASET/VARIANT/SEED.PROTOCOL.json."""
        return self.run.path("-".join([self.request.stem(protocol, val=""), *self.data.of_record()]))

    def shard(self, protocol: Protocol, device: torch.device) -> Shard:
        """Return this process's part of the images, and claim its folders for these weights and this protocol."""
        request, images = self.request, self.images
        bfloat16 = request.bfloat16 and distributed.computes_bfloat16(device)
        model = self.run.model(len(images.kit.classes), device)
        made_by = {"bfloat16": bfloat16, "weights": sha256(self.run.file)}
        made_by |= {"images": self.data.digests["ids"], "photographs": self.data.digests["photographs"]}

        def claimed(protocol: Protocol) -> Path:
            name = "-".join([request.stem(protocol, val="val"), *self.data.of_predictions()])
            folder = request.save or self.run.folder / "predictions" / name
            distributed.main_first(lambda: predictions.claim(folder, protocol.numbers() | made_by))
            return folder

        places: Sequence[int] = range(distributed.rank(), len(images.ids), distributed.world_size())
        if request.batch > 1 and not protocol.size:  # a batch needs images of one size
            places = sorted(places, key=lambda place: limited(upright_size(images.files[place]), protocol.longest))
        both = protocol.crf and images.masks and not request.save
        plain = claimed(replace(protocol, crf=None)) if both else None
        return Shard(model, images, places, protocol, claimed(protocol), device, bfloat16, request.batch, plain)

    def save(self, shard: Shard, images: list[Counts], seconds: float) -> None:
        """Write the record and the counts of all processes; the evaluation took `seconds`.

        A protocol is named final if the tables may show it beside the papers' numbers: the data set's own protocol with
        its scales and flip, the whole CRF, last weights, split val, the run's own data. The name of any other protocol
        lists its departures.
        """
        config, listed, counted = self.run.config, self.images, Counts()
        for image in images:
            counted.merge(image)
        counted.sort()
        usual = DATASETS[config.data.name].protocol if config.data.name in DATASETS else "voc"
        name = self.request.name(shard.protocol, usual) + "-other-data" * bool(self.data.differ)
        described = {"name": name, **shard.protocol.numbers(), "bfloat16": shard.bfloat16}
        dataset, origin = sets.name_of(config.data, listed.kit.root, listed.name), self.run.origin()
        record = {
            **evaluate.record(counted, config, listed.kit, dataset, described),
            **shard.model.origin(),
            "split": listed.name,
            "batch": shard.batch,
            "steps": self.run.step,
            "evaluated_by": _stamp(),
            **self.data.fields(),
            **origin,
            "seconds": {**origin.get("seconds", {}), "evaluate": seconds},
            "processes": distributed.world_size(),
        }
        path = self.path(shard.protocol)
        records.save_counts(path.with_suffix(".npz"), counted.ids, **counts_by_image(counted))
        records.save(record, path)


def crf_workers(wanted: int | None, protocol: Protocol) -> int:
    """Return the number of CRF processes beside this one: as many as `wanted`. None: one for each core, divided among
    the processes on this machine; none without CRF."""
    if wanted is not None or not protocol.crf:
        return wanted or 0
    return max(1, process.cores() // distributed.local_world_size())
