"""The training loop: one run from a configuration to its record. It uses only a few functions of the method."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from wsss import (
    checkpoint,
    datasets,
    distributed,
    evaluate,
    finite,
    guards,
    method,
    optim,
    process,
    provenance,
    schedule,
    tally,
)
from wsss import config as configuration
from wsss.batch import Batch
from wsss.config import Config
from wsss.data import identity, sets
from wsss.data.voc import Split
from wsss.model import SegmentationModel, build
from wsss.paths import UserError, project_root, write_json
from wsss.process import Interrupted, stop_signals
from wsss.report import records


def run(config: Config, resume: bool = True, trainer: Callable[..., "Trainer"] | None = None) -> dict[str, Any]:
    """Train and evaluate one run; return its record.

    A finished run of the same configuration returns its record at once; an interrupted one goes on where it stopped.
    `resume=False` starts anew, and refuses to overwrite what is there. `trainer` takes the place of `Trainer` (gate,
    distillation). Raises UserError.
    """
    with distributed.group() as device:
        root = distributed.main_first(lambda: sets.root_of(config.data))  # process 0 draws a set, the others wait
        supervised = config.data.supervision == "masks"
        train_split = Split(root, config.data.train_split, masks=supervised)
        val_split, *watched = (Split(root, name, masks=True) for name in (config.data.val_split, *config.data.watch))
        evaluate.require_headline(config.data, train_split.kit.classes)
        data = distributed.from_main(lambda: _digests(train_split, val_split, watched))
        folder = run_folder(config, root)
        done = guards.finished(folder, config, resume, root, data)
        distributed.barrier()  # before anything is written: all processes find a finished run, or none does
        if done:
            return done
        datasets.require_labels(train_split, val_split)
        data = distributed.from_main(lambda: identity.claim(folder, data, checkpoint.latest(folder) is not None))
        made = (trainer or Trainer)(config, train_split, val_split, folder, device, watched)
        made.fit()
        return made.finish(data)


def _digests(train: Split, val: Split, watched: Sequence[Split]) -> records.Digests:
    digests = {"train": identity.digests(train), "val": identity.digests(val)}
    return digests | {identity.WATCHED + split.name: identity.digests(split) for split in watched}


def run_folder(config: Config, root: Path) -> Path:
    """Return the folder OUTPUT/DATASET/VARIANT/SEED; the record has the same path with .json."""
    output = Path(config.output) if config.output else project_root() / "runs"
    return output / sets.name_of(config.data, root) / config.variant / str(config.seed)


class Trainer:
    """State of a run: model, optimizer, step. `fit` trains to the end or until interrupted."""

    def __init__(
        self,
        config: Config,
        train: Split,
        val: Split,
        folder: Path,
        device: torch.device,
        watched: Sequence[Split] = (),
    ):
        self.config, self.train_split, self.val_split, self.watched = config, train, val, watched
        self.folder, self.device, self.step, self.best, self.seconds = folder, device, 0, -1.0, 0.0
        self.last = config.optim.steps
        """Step after which `fit` ends: the schedule's length, unless a caller sets an earlier one."""
        self.undefined, self.log = 0, checkpoint.Log(folder / "log.jsonl")
        self.origin: dict[str, Any] = {}  # further fields of the record
        self.model = self.build(len(train.kit.classes)).to(device)
        parts = (self.model.trunk_parameters(), self.model.head_parameters(), self.model.decoder.parameters())
        self.optimizer = optim.build(*parts, config.optim)
        self.main, self.stamp = distributed.rank() == 0, evaluate.stamp()
        self.places: list[dict[str, Any]] = []  # where the run was trained, in order
        datasets.micro_batches(config)  # refuses a batch that the processes cannot share, before anything is written
        guards.require_sizes(config, self.model.patch)
        step = checkpoint.latest(folder)
        if step is not None:
            self._restore(step)
        if self.step < self.last:
            self.places = provenance.arrive(self.places, self.stamp, torch.get_num_threads(), folder)
        if self.main:
            write_json(folder / "config.json", configuration.to_dict(config))
            self._start_log()
        distributed.barrier()

    def build(self, classes: int) -> SegmentationModel:
        """Build the network before its first step."""
        return build(self.config, classes)

    def fit(self) -> None:
        """Train to the last step.

        SIGTERM and Ctrl-C save and raise Interrupted. Raises UserError at a loss that is not finite, before the
        optimizer sees its gradient.
        """
        config, total = self.config.optim, self.last
        process.keep_freed()
        wrapped = method.Forward(self.model, self.config)
        if distributed.world_size() > 1:
            # Steps of classification alone leave parameters unused, and so do runs that never train the contrast head.
            # DDP then has to search for them. static_graph would not do: DDP does not see into an `Output`, so each
            # process would keep its own gradients in the first step.
            wrapped = DistributedDataParallel(
                wrapped,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=schedule.classification_only(0, self.config) or not self.config.trains_head,
            )
        batches = self.batches()
        save_every = max(1, round(self.config.save_every * config.steps))
        self._validate_if_due()  # a resumed run may have stopped between saving and validating
        shown = {"desc": f"train {self.config.variant}", "unit": "step", "disable": not self.main}
        with stop_signals() as stop, tqdm(total=total, initial=self.step, **shown) as bar:
            while self.step < total:
                started = time.monotonic()
                optim.set_rate(self.optimizer, self.step, config)
                terms = self._update(wrapped, batches)
                self.step += 1
                self.seconds += time.monotonic() - started
                self._log(terms, bar)
                (stopping,) = distributed.all_reduce_sum(stop.is_set())  # a signal may reach one process only
                if stopping or self.step % save_every == 0 or self.step == total:
                    self._save()  # before the validation, so that a failure there costs no step
                if not stopping or self.step == total:
                    self._validate_if_due()
                if stopping and self.step < total:
                    raise Interrupted(
                        f"stopped at step {self.step} of {total}, saved in {self.folder}; run the command again to "
                        "continue"
                    )

    def batches(self) -> Iterator[Batch]:
        """Yield this process's micro-batches from the current step on."""
        return datasets.training_batches(self.train_split, self.config, self.step)

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of every term at a step."""
        return schedule.term_weights(step, self.config)

    def _update(self, wrapped: nn.Module, batches: Iterator[Batch]) -> dict[str, float | None]:
        """Make one optimizer step over the process's micro-batches; return every term's mean, None if never defined."""
        config, pending = self.config, []
        self.model.train()
        self.model.update_teacher(config.class_contrast.momentum)  # before the forward pass, as in the base
        self.optimizer.zero_grad()
        table = self.weights(self.step)
        for part in range(config.optim.accumulate):
            batch = next(batches).to(self.device)
            place = part * distributed.world_size() + distributed.rank()
            # Derived from seed, step and place: two processes draw what one process with two micro-batches draws.
            seed = datasets.derive_seed(config.seed, datasets.STEP, self.step, place)
            generator = torch.Generator(self.device).manual_seed(seed)
            last = part == config.optim.accumulate - 1
            # Gradients are averaged over the processes once, with the last micro-batch.
            with nullcontext() if last or distributed.world_size() == 1 else wrapped.no_sync():
                with self._autocast():
                    output, targets = wrapped(batch, self.step, generator)
                    terms = method.losses(output, targets, config)
                    loss = method.objective(terms, table) / config.optim.accumulate
                pending.append((batch.ids, finite.values(terms)))  # copied while the backward pass runs
                loss.backward()  # outside autocast, in the types that the forward pass had
        means = self._means(pending)  # raises before the optimizer sees gradients that are not finite
        method.complete_gradients(self.model, config)
        self.optimizer.step()
        return means

    def _means(self, pending: Sequence[finite.Pending]) -> dict[str, float | None]:
        """Average the step's terms; count steps whose segmentation loss is undefined.

        Raises UserError if another term is not finite.
        """
        undefined = self.config.compat.undefined_segmentation
        means, without = finite.means(pending, undefined, self.step, self.folder)
        self.undefined += without
        return means

    def _autocast(self) -> torch.autocast:
        """Return the context in which layers run in bfloat16, if the device computes in it.

        Tokens, CAMs, labels and losses stay float32: `cam.upcast` and blocks without autocast see to that. Validation
        is in float32.
        """
        enabled = self.config.optim.bfloat16 and distributed.computes_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _log(self, terms: dict[str, float | None], bar: tqdm) -> None:
        bar.update()
        if self.main and (self.step % self.config.log_every == 0 or self.step == self.config.optim.steps):
            # `step` counts done steps, weights count from 0. Group 0 is the backbone.
            table, rate = self.weights(self.step - 1), self.optimizer.param_groups[0]["lr"]
            bar.set_postfix(cls=f"{terms['classification']:.3f}")
            row = {"step": self.step, "lr": rate, "seconds": round(self.seconds, 3), **terms, "weights": table}
            self.log.write(row | self._left_out())

    def _start_log(self) -> None:
        """Begin the log with a row on the sources of labels and weights; remove what a killed run was writing."""
        kit = self.train_split.kit
        for scratch in self.folder.glob(".*.*"):  # folders of `paths.atomic`
            shutil.rmtree(scratch, ignore_errors=True)
        sources = {"labels": kit.label_source, "masks": kit.mask_source, "classes": len(kit.classes)}
        splits = {split.name: len(split) for split in (self.train_split, self.val_split)}
        self.log.begin({"data": {**sources, **splits}, "start": self.model.origin()}, self.step)

    def _left_out(self) -> dict[str, int]:
        """Return, with compat D5 only, the number of steps so far whose segmentation loss was undefined."""
        return {"undefined_segmentation": self.undefined} if self.config.compat.undefined_segmentation else {}

    def is_due(self) -> bool:
        """Return whether a validation follows this step.

        After the last step the record takes its place, unless there are watched lists.
        """
        total, every = self.config.optim.steps, max(1, round(self.config.validate_every * self.config.optim.steps))
        return self.step > 0 and self.step % every == 0 and (self.step < total or bool(self.watched))

    def _validate_if_due(self) -> None:
        """Validate if it is due and not yet in the log; take the best result so far from the log."""
        if not self.is_due():
            return
        done = self.log.validations(self.step)
        distributed.barrier()  # until all processes have read, since process 0 may write next
        self.best = max([self.best, *(row["validation"]["segmentation"] or -1.0 for row in done)])
        if all(row["step"] < self.step for row in done):
            self._validate()

    def _validate(self) -> None:
        finite.require_weights(self.model, self.step, self.folder)
        row = {"step": self.step, "validation": self._measure(self.val_split)}
        if self.watched:
            row["watched"] = {split.name: self._measure(split) for split in self.watched}
        if self.main:
            self._keep_best(row["validation"]["segmentation"])
            self.log.write(row)

    def _measure(self, split: Split) -> dict[str, Any]:
        """Measure a list for the log.

        Mean IoU by kind (of CAMs also at their best threshold), mAP, agreement of the layers and pixel AUC of their
        CAMs, redundancy of the subspaces.
        """
        counted = evaluate.tally(self.model, split, self.config, self.device)
        results = tally.scores(counted, split.kit.classes, self.config.data.headline)
        row = {kind: results[kind]["miou_headline"] for kind in tally.KINDS}
        row["map"] = results["classification"]["map_headline"]
        row["best"] = {kind: results["sweep"][kind]["best_headline"] for kind in tally.LAYERS}
        return row | {name: results[name] for name in ("agreement", "auc", "subspaces") if name in results}

    def _keep_best(self, miou: float | None) -> None:
        if miou is not None and miou > self.best:
            self.best = miou
            checkpoint.write_weights(self.model, self.folder / "best.safetensors", self.model.metadata())

    def _save(self) -> None:
        finite.require_weights(self.model, self.step, self.folder)
        if self.main:
            state = {"optimizer": self.optimizer.state_dict(), "best": self.best, "seconds": self.seconds}
            state |= {"undefined": self.undefined, "images": records.ids_digest(self.train_split.ids)}
            state["processes"], state["places"] = distributed.world_size(), self.places
            checkpoint.save(self.folder, self.step, self.model, state)
        distributed.barrier()

    def _restore(self, step: int) -> None:
        state = checkpoint.load(self.folder, step, self.model)
        if state.get("images") != records.ids_digest(self.train_split.ids):
            raise UserError(
                f"{self.folder} was trained on other images than {self.train_split.kit.root} lists in "
                f"{self.train_split.name}; choose another --output"
            )
        before, now = state.get("processes", distributed.world_size()), distributed.world_size()
        if before != now and step < self.config.optim.steps:
            raise UserError(
                f"{self.folder} was trained by {before} process{'es' * (before > 1)}, not {now}, and each process "
                f"computes losses over its own images; continue with {before}, or choose another --output"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = step, state["best"], state["seconds"]
        self.undefined, self.places = state.get("undefined", 0), state.get("places", [])

    def finish(self, data: records.Digests) -> dict[str, Any]:
        """Evaluate the last weights and write the record, with its data and the results of the validations.

        The last weights are also kept as the best, unless a validation found better ones.
        """
        path, seconds = self.folder.with_suffix(".json"), {"train": round(self.seconds, 1)}
        origin = self.stamp | provenance.made_on(self.places) | {"seconds": seconds}
        origin |= {"data": data, **self._left_out(), **self.origin}
        origin["validations"] = self.log.validations(self.step) if self.main else []
        record = evaluate.write_record(self.model, self.val_split, self.config, self.device, path, origin)
        if self.main:
            self._keep_best(record["results"]["segmentation"]["miou_headline"])
        return record
