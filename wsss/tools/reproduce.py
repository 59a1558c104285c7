"""`make reproduce`: from nothing to the reader's own book, and whether its numbers are the published ones.

A step runs only if its command, its notebook, the code it uses or the files it reads have changed since it last
came through, or if what it makes is gone; `runs/reproduce.json` remembers. It writes to runs/, _build/ and
data/mini alone: the published copies in book/runs and data/results stay as they are. No torch here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from wsss.paths import UserError, project_root, read_json, write_json
from wsss.presets import PRESETS
from wsss.report import results, verdict
from wsss.tools import sources

PYTHON = sys.executable
BOOK = (str(Path(PYTHON).with_name("jupyter-book")), "build", "book")
ENVIRONMENT = {"WSSS_RUNS": "runs", "TQDM_MININTERVAL": "15"}
"""The book shows the reader's own runs; progress is a line now and then, since papermill passes on lines."""
RECORD = "runs/mini/mini/0.json"
WEIGHTS = "data/weights/*mini*"
BASE_RECORD = "runs/mini/mini-base/0.json"
TRAINING = ("wsss.train", "wsss.presets")
"""Modules that a trained run depends on."""
COCO_RECORD = "runs/mini-coco/mini-coco/0.json"
"""Of a smoke test: that it was written shows that COCO's path works, and its numbers are not judged."""


@dataclass(frozen=True)
class Step:
    """One command, what it depends on and what it leaves behind; paths are patterns relative to the project."""

    name: str
    command: tuple[str, ...]
    makes: tuple[str, ...]
    """Files that exist after it."""
    reads: tuple[str, ...] = ()
    """Files whose contents it depends on."""
    code: tuple[str, ...] = ()
    """Modules whose code, with all that they import, it depends on."""
    record: str = ""
    """Record of the run that it trains, if it trains one."""


def notebook(name: str, reads: Sequence[str], record: str = "") -> Step:
    """The step that runs notebooks/NAME.ipynb through papermill, which says what the notebook prints."""
    source, output = f"notebooks/{name}.ipynb", f"runs/notebooks/{name}.ipynb"
    modules = tuple(sources.notebook_imports(project_root() / source))
    command = (PYTHON, "-m", "papermill", source, output, "--log-output", "--no-progress-bar")
    makes = (output, record) if record else (output,)
    return Step(name, command, makes, (source, *reads), modules, record)


def train(preset: str, reads: Sequence[str], record: str) -> Step:
    """The step that trains a preset by the command line."""
    command = (PYTHON, "-m", "wsss", "train", preset, "--seed", "0")
    return Step(preset, command, (record,), tuple(reads), TRAINING, record)


def photographs() -> tuple[Step, ...]:
    """One seed of the photographs, base and base + both, where WSSS_ANIMALS_ROOT and WSSS_WEIGHTS name them and their
    start weights; some half an hour more."""
    root, folder = (os.environ.get(name, "") for name in ("WSSS_ANIMALS_ROOT", "WSSS_WEIGHTS"))
    weights = Path(folder) / f"{PRESETS['voc-animals'].model.backbone}.safetensors"
    if not root or not folder or not weights.is_file():
        print(f"photographs are left out: WSSS_ANIMALS_ROOT must name them, and WSSS_WEIGHTS hold {weights.name}")
        return ()
    names = ("voc-animals", "voc-animals-base")
    return tuple(train(name, (), f"runs/voc-animals/{name}/0.json") for name in names)


def steps() -> tuple[Step, ...]:
    """All that comes before the verdict, in order."""
    drawn, records = ("data/mini/mini.json",), ("runs/*/*/*.json", "data/results/*/*/*.json")
    return (
        Step("mini set", (PYTHON, "-m", "wsss", "data", "mini"), drawn, code=("wsss.data.drawn.generate",)),
        notebook("train_voc", (*drawn, WEIGHTS), RECORD),
        train("mini-base", (*drawn, WEIGHTS), BASE_RECORD),
        notebook("train_coco", (*drawn, WEIGHTS), COCO_RECORD),
        *photographs(),
        notebook("cam_figures", (RECORD, "runs/mini/mini/0/cams.npz", "runs/mini/mini/0/log.jsonl")),
        notebook("results", records),
    )


def book() -> Step:
    """The reader's own book, made after the verdict, which is one of its pages."""
    own = ("runs/notebooks/*.ipynb", "runs/verdict.json", "runs/*/*/*.json")
    pages = ("_config.yml", "book/**/*", "wsss/**/*.py", "data/**/*.json", "data/**/*.csv")
    return Step("book", BOOK, ("_build/html/index.html",), (*own, *pages))


def main() -> int:
    """Run what changed, build the book, print the verdict; 1 if a number is outside the published interval."""
    started = time.monotonic()
    os.chdir(project_root())
    try:
        Path("runs/notebooks").mkdir(parents=True, exist_ok=True)
        for step in steps():
            follow(step)
        rows, passed = judge(started)
        follow(book())
    except (UserError, OSError) as error:
        print(f"wsss: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("wsss: stopped; `make reproduce` goes on from there", file=sys.stderr)
        return 130
    print(f"\n{verdict.verdict_table(rows).text()}")
    print(f"{verdict.reach(results.published(), 'mini', 'mini')} mini-coco is a smoke test: it came to its end.\n")
    print(f"your book: {Path(book().makes[0]).resolve().as_uri()}")
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; {_sentence(rows, passed)}")
    return 0 if passed else 1


def judge(started: float) -> tuple[list[dict[str, Any]], bool]:
    """Compare the runs made here with the published ones: base + both and the base that the steps train, and of others,
    such as those of `wsss sweep`, whatever has a published variant. runs/verdict.json has the answer for the book."""
    published, own = results.published(), [results.load(path) for path in (RECORD, BASE_RECORD)]
    known = {(record["dataset"], record["variant"]) for record in published}
    for dataset, variant in sorted(known):
        found = results.select(results.find("runs"), dataset, variant)
        own += [record for record in found if record["path"] not in (RECORD, BASE_RECORD)]
    rows, passed = verdict.verdict(published, own)
    answer = {"rows": rows, "passed": passed, "reach": verdict.reach(published, "mini", "mini")}
    path = Path("runs/verdict.json")
    before = read_json(path) if path.is_file() else {}
    if answer != {name: before.get(name) for name in answer}:  # else the book would be built anew for its date
        seconds = round(time.monotonic() - started, 1)
        write_json(path, answer | {"date": date.today().isoformat(), "seconds": seconds})
    return rows, passed


def _sentence(rows: Sequence[dict[str, Any]], passed: bool) -> str:
    if passed:
        return "every number that is judged lies within its published interval"
    outside = [row["what"] for row in rows if row["counts"] and row["within"] is False]
    if outside:
        return f"outside the published interval: {', '.join(outside)}"
    return "nothing is published to compare with"


# Steps.


def follow(step: Step, memory: Path = Path("runs/reproduce.json")) -> None:
    """Run a step if anything that it depends on changed. Raises UserError if it fails or leaves nothing behind."""
    known = read_json(memory) if memory.is_file() else {}
    before, key = known.get(step.name, {}), fingerprint(step)
    if before.get("key") == key and not missing(step):
        print(f"[{step.name}] nothing changed since {before['date']}: skipped", flush=True)
        return
    print(f"[{step.name}] {' '.join((Path(step.command[0]).name, *step.command[1:]))}", flush=True)
    started, training = time.monotonic(), training_key(step)
    if before.get("training", training) != training:
        set_aside(Path(step.record))
    write_json(memory, known | {step.name: {"training": training}})
    done = subprocess.run(step.command, env=os.environ | ENVIRONMENT)
    if done.returncode:
        raise UserError(f"{step.name} failed (see above); mend it, and `make reproduce` goes on from there")
    if missing(step):  # jupyter-book 2 builds nothing and exits 0
        raise UserError(f"{step.name} came to its end but left no {', '.join(missing(step))}")
    seconds = round(time.monotonic() - started, 1)
    row = {"training": training, "key": key, "date": date.today().isoformat(), "seconds": seconds}
    write_json(memory, known | {step.name: row})
    print(f"[{step.name}] {seconds:.0f} s", flush=True)


def set_aside(record: Path) -> None:
    """Move a run that other code, data or weights made to runs/earlier, so that it is trained anew."""
    kept = Path("runs/earlier") / record.parent.relative_to("runs")
    for path in (record.with_suffix(""), record, record.with_suffix(".npz")):
        if path.exists():
            target = kept / path.name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            kept.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            print(f"the training code or what it reads has changed: {path} is now {target}", flush=True)


def training_key(step: Step) -> str:
    """sha256 of what a trained run depends on, which is less than its notebook does; empty if none is trained."""
    if not step.record:
        return ""
    reads = tuple(name for name in step.reads if not name.endswith(".ipynb"))
    return fingerprint(replace(step, reads=reads, code=TRAINING))


def fingerprint(step: Step) -> str:
    """sha256 of all that a step depends on: command, code, contents of the files it reads."""
    files = {file for pattern in step.reads for file in Path().glob(pattern) if file.is_file()}
    parts = [step.command[1:], sources.code_hash(*step.code), sources.files_hash(files, Path())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def missing(step: Step) -> list[str]:
    """What a step should have made and is not there."""
    return [name for name in step.makes if not Path(name).is_file()]


if __name__ == "__main__":
    sys.exit(main())
