"""`wsss sweep`: make the runs of an experiment, one by one or side by side, and list what is left. No torch."""

import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from wsss.data import identity, sets, voc
from wsss.paths import UserError, atomic, note, project_root
from wsss.process import Interrupted, cores, stop_signals
from wsss.registry import DATASETS
from wsss.report import ablation, experiments, records
from wsss.report.experiments import Experiment
from wsss.report.records import Record
from wsss.report.table import ABSENT, Table

_PAUSE = 0.2
"""Seconds between two checks of the running processes."""


@dataclass(frozen=True)
class Sweep:
    """Train and evaluate every unfinished run of an experiment, seed by seed. After an interruption, the same command
    goes on. First it prints what is left, and writes it to OUTPUT/sweeps/TABLE.txt, one run per line, for other hosts
    or a SLURM array."""

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """Name of the experiment, such as mini-components."""
    jobs: Annotated[int, tyro.conf.arg(aliases=["-j"])] = 1
    """Runs side by side. Each gets its share of the idle cores, or as many threads as the finished runs had.
    OMP_NUM_THREADS overrides both."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every row; None: those that the table sets for each row."""
    output: Path | None = None
    """Folder for runs; None: runs/ of the project."""
    data_root: str = ""
    """Folder that holds JPEGImages; empty: where the presets look."""
    launcher: str = "wsss"
    """Command that starts a process in the list, such as torchrun --nproc_per_node 2 -m wsss."""
    published: bool = False
    """Count runs whose records are in data/results as finished."""
    only_list: bool = False
    """Print and write what is left, and run nothing."""

    def __call__(self) -> None:
        if self.jobs < 1 or self.seeds == ():
            raise UserError("--jobs must be at least 1, and --seeds must name at least one seed")
        experiment = experiments.get(self.table)
        jobs = plan(experiment, self)
        _require_same_data(experiment, self, jobs)
        known = records.find(project_root() / "data" / "results", self.folder)
        print(overview(experiment, jobs, known, self.jobs).text())
        left = [job for job in jobs if job.left()]
        listed = self.folder / "sweeps" / f"{self.table}.txt"
        with atomic(listed) as temporary:
            temporary.write_text("".join(f"{job.line(self.launcher)}\n" for job in left), encoding="utf-8")
        print(f"{len(jobs) - len(left)} of {len(jobs)} runs are finished; commands of the others: {listed}")
        if left and not self.only_list:
            threads, why = threads_for(self.jobs, jobs, cores(), os.getloadavg()[0])
            note(f"{threads} thread{'s' * (threads > 1)} for each run: {why}")
            work(left, self.jobs, threads)

    @property
    def folder(self) -> Path:
        """Folder of the runs."""
        return self.output or project_root() / "runs"


@dataclass(frozen=True)
class PlannedRun:
    """One run: a row of the experiment and a seed."""

    label: str
    variant: str
    seed: int
    folder: Path
    """OUTPUT/DATASET/VARIANT/SEED."""
    commands: Mapping[Path, tuple[str, ...]]
    """Record -> the arguments of `wsss` that make it, in order."""

    def left(self) -> list[tuple[str, ...]]:
        """List the commands whose records do not exist yet."""
        return [arguments for record, arguments in self.commands.items() if not record.is_file()]

    def line(self, launcher: str) -> str:
        """Write the commands that are left as one line for a shell."""
        return " && ".join(f"{launcher} {shlex.join(arguments)}" for arguments in self.left())

    @property
    def log(self) -> Path:
        """File that takes the output of the run's processes."""
        return self.folder.with_suffix(".log")


def threads_for(side_by_side: int, jobs: Sequence[PlannedRun], available: int, load: float) -> tuple[int, str]:
    """Choose the threads of each run, and say why.

    OMP_NUM_THREADS comes first. Next is the number that most finished runs of the sweep had: another number changes the
    order of sums and so the results, and such runs are not compared. Else it is a share of the cores that `load`, the
    system's mean over a minute, leaves free. Threads that share a core wait for one another: on two cores, a step of
    two busy processes took fifteen times as long with two threads each as with one.
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return int(os.environ["OMP_NUM_THREADS"]), "set by OMP_NUM_THREADS"
    finished = [path for job in jobs for path in job.commands if path.is_file()]
    known = Counter(threads for path in finished if (threads := records.load(path).get("threads")))
    if known:
        return known.most_common(1)[0][0], "as in the finished runs"
    busy = min(available, round(load))
    why = f"{side_by_side} side by side on {available} cores, of which {busy} are busy with other work"
    crowded = side_by_side > max(1, available - busy)
    return max(1, (available - busy) // side_by_side), why + "; they will wait for one another" * crowded


def plan(experiment: Experiment, sweep: Sweep) -> list[PlannedRun]:
    """List the runs: all rows of the first seed, then of the next. With `published`, commands whose records are in
    data/results are left out."""
    known = {(r["dataset"], r["variant"], Path(r["path"]).name) for r in records.published()} if sweep.published else ()
    output, root = sweep.folder, ["--data.root", sweep.data_root] * bool(sweep.data_root)
    dataset, _ = _place(experiment, sweep)
    moved = ["--output", str(sweep.output)] * (sweep.output is not None)
    jobs: list[PlannedRun] = []
    for seed in sweep.seeds or sorted({seed for row in experiment.rows for seed in row.seeds}):
        for row in experiment.rows:
            if sweep.seeds is None and seed not in row.seeds:
                continue
            folder = output / dataset / row.variant / str(seed)
            commands = {folder.with_name(f"{seed}.json"): ("train", *row.arguments(seed), *root, *moved)}
            # With CRF first: that evaluation also gives the results without CRF.
            finals = sorted(experiment.finals, key=lambda final: not final.protocol.crf)
            for final in finals if row.segments else ():
                if final.seeds and seed not in final.seeds:
                    continue
                name = f"{seed}.{final.protocol.stem()}.json"
                commands[folder.with_name(name)] = ("evaluate", str(folder), *final.arguments())
            wanted = {
                record: tuple(arguments)
                for record, arguments in commands.items()
                if (dataset, row.variant, record.name) not in known
            }
            jobs.append(PlannedRun(row.label, row.variant, seed, folder, wanted))
    return jobs


def _place(experiment: Experiment, sweep: Sweep) -> tuple[str, Path | None]:
    """Return the data set's name in the paths of its runs, and its root, or None: nothing is drawn here. Raises
    UserError if `sweep.data_root` is no root of a data set."""
    data = replace(experiment.rows[0].config.data, root=sweep.data_root)
    if DATASETS[data.name].drawn and not sweep.data_root:
        root = project_root() / "data" / data.name
        return data.name, root if root.is_dir() else None
    try:
        root = sets.locate(data)
    except UserError:
        if sweep.data_root:
            raise
        return data.name, None
    return sets.name_of(data, root), root


def _require_same_data(experiment: Experiment, sweep: Sweep, jobs: Sequence[PlannedRun]) -> None:
    """Raise UserError if runs, finished or begun, used other data than the sweep would use. Nothing is compared if
    there are no such runs or no data, or if an older run does not name its data."""
    _, root = _place(experiment, sweep)
    begun = [(job, known) for job in jobs if (known := identity.of_run(job.folder)).get("train")]
    if not begun or root is None:
        return
    lists = {row.variant: row.config.data for row in experiment.rows}
    digests = cache(lambda split, masks: identity.digests(voc.Split(root, split, masks)))
    faults = []
    for job, known in begun:
        data = lists[job.variant]
        now = {"train": digests(data.train_split, False), "val": digests(data.val_split, True)}
        if differ := records.differences(known, now):
            faults.append(f"{job.folder} ({differ} differ)")
    if faults:
        raise UserError(
            f"{len(faults)} of the {len(jobs)} runs exist, but used other data than {root}, first {faults[0]}; "
            "choose another --output, or name the data of these runs with --data-root"
        )


def overview(experiment: Experiment, jobs: Sequence[PlannedRun], known: Sequence[Record], side_by_side: int) -> Table:
    """Make a table *run | seed | state | minutes*. Its note tells the time that is left, by the minutes in records."""
    rows: list[tuple[str, ...]] = []
    total, unknown, finals_unknown = 0.0, 0, False
    for job in jobs:
        minutes, finals = ablation.minutes(experiment, job.variant, known)
        if job.left():
            total, unknown = total + (minutes or 0), unknown + (minutes is None)
            finals_unknown |= finals is None
        begun = len(job.left()) < len(job.commands) or (job.folder / "log.jsonl").is_file()
        state = "finished" if not job.left() else "begun" if begun else "left"
        rows.append((job.label, str(job.seed), state, ABSENT if minutes is None else f"{minutes:.0f}"))
    note = f"Left: {total:.0f} minutes of computing, {total / side_by_side:.0f} with {side_by_side} side by side"
    note += f", and {unknown} runs that nobody has timed" * bool(unknown)
    note += ", without final evaluations, which nobody has timed" * finals_unknown
    return Table(experiment.title, ("run", "seed", "state", "minutes"), tuple(rows), f"{note}. Minutes: from records.")


# Running.


class _Worker:
    """A job's processes, one after the other; their output goes to its log."""

    def __init__(self, job: PlannedRun, threads: int):
        self.job, self.commands = job, iter(job.commands.items())
        self.environment = {"OMP_NUM_THREADS": str(threads)} | os.environ  # a number set by the user wins
        self.process: subprocess.Popen | None = None
        self.advance()

    def advance(self) -> bool:
        """Start the next command; return False if there is none."""
        arguments = next((arguments for record, arguments in self.commands if not record.is_file()), None)
        if arguments is None:
            return False
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.job.log, "ab") as log:
            # A session of its own, so that Ctrl-C reaches it only once, through `stop`.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wsss", *arguments],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return True

    def done(self) -> bool:
        """Start the next command if one has ended; return whether the job is finished or failed."""
        code = self.process.poll()
        return code is not None and (code != 0 or not self.advance())

    def stop(self) -> None:
        """Ask the process to save what it has, and wait for it."""
        self.process.terminate()
        self.process.wait()


def work(jobs: Sequence[PlannedRun], side_by_side: int, threads: int) -> None:
    """Run the jobs; a failure does not stop the others. Raises UserError at the end if any failed. Raises Interrupted
    after a stop signal, once all have saved."""
    waiting, running, failed = list(jobs), [], []
    with stop_signals() as stop, tqdm(total=len(jobs), desc="sweep", unit="run") as bar, ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = waiting.pop(0)
                running.append(_Worker(job, threads))
                stack.callback(running[-1].stop)  # no worker outlives this block
                tqdm.write(f"{job.label}, seed {job.seed}: {job.log}", file=sys.stderr)
            for worker in [worker for worker in running if worker.done()]:
                running.remove(worker)
                failed += [worker.job] * bool(worker.process.returncode)
                bar.update()
            if stop.is_set():
                raise Interrupted(f"stopped; {bar.n} of {len(jobs)} runs have ended; run the command again to continue")
            time.sleep(_PAUSE)
    if failed:
        named = "; ".join(f"{job.label}, seed {job.seed} (see {job.log})" for job in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {named}; fix it, then run the command again")
