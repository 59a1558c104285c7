"""`make reproduce`: train, build the reader's own book, and compare its numbers with the published ones. No torch.

A step is skipped if its output exists and is newer than all that it reads. A finished run is never trained again
(`wsss train` returns it); an unfinished one goes on. Only runs/, _build/ and data/mini are written: the published
copies in book/runs and data/results stay as they are.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from wsss import command
from wsss.paths import UserError, project_root, read_json, write_json
from wsss.presets import PRESETS
from wsss.report import records, verdict

_ENVIRONMENT = {"WSSS_RUNS": "runs", "TQDM_MININTERVAL": "15"}
"""The book shows the reader's own runs. Progress is a line every 15 s, since papermill passes on whole lines."""
_JUDGED = ("runs/mini/mini/0.json", "runs/mini/mini-base/0.json")
"""Records that are always compared. mini-coco is not among them: it is a smoke test, and its numbers say nothing."""
_PACKAGE = "wsss/**/*.py"


@dataclass(frozen=True)
class Stage:
    """One command, the file that it makes, and patterns of the files it reads. Paths are relative to the project."""

    name: str
    command: tuple[str, ...]
    makes: str
    reads: tuple[str, ...] = ()

    def _is_done(self) -> bool:
        """Return whether its output exists and is newer than all that it reads."""
        made, read = Path(self.makes), [file for pattern in self.reads for file in Path().glob(pattern)]
        return made.is_file() and all(file.stat().st_mtime <= made.stat().st_mtime for file in read if file.is_file())

    def run(self) -> None:
        """Run the command unless its output is up to date. Raises UserError if it fails or makes no output."""
        if self._is_done():
            print(f"[{self.name}] {self.makes} is newer than its sources: skipped", flush=True)
            return
        print(f"[{self.name}] {' '.join((Path(self.command[0]).name, *self.command[1:]))}", flush=True)
        started = time.monotonic()
        if subprocess.run(self.command, env=os.environ | _ENVIRONMENT).returncode:
            raise UserError(
                f"{self.name} failed (see above); fix it, then run `make reproduce` to continue; if a run of an "
                "earlier version is in the way, move it out of runs/"
            )
        if not Path(self.makes).is_file():  # jupyter-book 2 builds nothing and exits 0
            raise UserError(f"{self.name} finished, but did not write {self.makes}")
        os.utime(self.makes)  # Sphinx does not write a page again that would be the same
        print(f"[{self.name}] {time.monotonic() - started:.0f} s", flush=True)


def steps() -> list[Stage]:
    """List the stages before the verdict, in order."""

    def train(preset: str) -> Stage:
        dataset = PRESETS[preset].data.name
        training = (sys.executable, "-m", "wsss", "train", preset, "--seed", "0")
        return Stage(preset, training, f"runs/{dataset}/{preset}/0.json")

    def notebook(name: str, *reads: str) -> Stage:
        source, output = f"notebooks/{name}.ipynb", f"runs/notebooks/{name}.ipynb"
        execution = (sys.executable, "-m", "papermill", source, output, "--log-output", "--no-progress-bar")
        return Stage(name, execution, output, (source, _PACKAGE, *reads))

    photographs = [train("voc-animals"), train("voc-animals-base")]  # half an hour more
    root, folder = (os.environ.get(name, "") for name in ("WSSS_ANIMALS_ROOT", "WSSS_WEIGHTS"))
    weights = Path(folder) / f"{PRESETS['voc-animals'].model.backbone}.safetensors"
    if not root or not folder or not weights.is_file():
        print(f"photographs are left out: WSSS_ANIMALS_ROOT must be their folder, WSSS_WEIGHTS that of {weights.name}")
        photographs = []
    return [
        Stage("mini set", (sys.executable, "-m", "wsss", "data", "mini"), "data/mini/mini.json"),
        notebook("train_voc", "data/mini/mini.json"),
        train("mini-base"),
        notebook("train_coco"),
        *photographs,
        notebook("cam_figures", "runs/mini/mini/0.json"),
        notebook("results", "runs/*/*/*.json", "data/results/*/*/*.json"),
    ]


def judge(started: float) -> tuple[list[dict[str, Any]], bool]:
    """Compare the runs made here with the published ones; return the rows, and whether they pass.

    Compared are base + both and the base, which the stages train. Other runs, such as those of `wsss sweep`, are
    compared if their variant is published. The answer goes to runs/verdict.json for the book.
    """
    published, yours = records.published(), [records.load(path) for path in _JUDGED]
    known = {(record["dataset"], record["variant"]) for record in published}
    for dataset, variant in sorted(known):
        others = records.select(records.find("runs"), dataset, variant)
        yours += [record for record in others if record["path"] not in _JUDGED]
    rows, passed = verdict.judge(published, yours)
    answer = {"rows": rows, "passed": passed, "reach": verdict.reach(published, "mini", "mini")}
    path = Path("runs/verdict.json")
    before = read_json(path) if path.is_file() else {}
    if answer != {name: before.get(name) for name in answer}:  # else the new date alone would rebuild the book
        seconds = round(time.monotonic() - started, 1)
        write_json(path, answer | {"date": date.today().isoformat(), "seconds": seconds})
    commits = sorted({record["commit"] for record in yours})
    if len(commits) > 1:
        print(f"runs of commits {', '.join(commits)} are compared; move a run away to train it with today's code")
    return rows, passed


@dataclass(frozen=True)
class Reproduce:
    """Run what is not done, compare, build the book. Exit code 1 if a number is outside the published interval."""

    def __call__(self) -> int:
        started = time.monotonic()
        os.chdir(project_root())
        index = "_build/html/index.html"
        pages = ("_config.yml", "book/**/*", _PACKAGE, "data/**/*.json", "data/**/*.csv", "runs/notebooks/*.ipynb")
        builder = str(Path(sys.executable).with_name("jupyter-book"))
        try:
            Path("runs/notebooks").mkdir(parents=True, exist_ok=True)
            for step in steps():
                step.run()
            rows, passed = judge(started)
            Stage("book", (builder, "build", "book"), index, (*pages, "runs/verdict.json")).run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; run `make reproduce` to continue") from None
        print(f"\n{verdict.table(rows).text()}")
        print(f"{verdict.reach(records.published(), 'mini', 'mini')} mini-coco is a smoke test: it finished.\n")
        print(f"your book: {Path(index).resolve().as_uri()}")
        outside = [row["what"] for row in rows if row["counts"] and row["within"] is False]
        if passed:
            answer = "every number that is judged lies within its published interval"
        elif outside:
            answer = f"outside the published interval: {', '.join(outside)}"
        else:
            answer = "nothing is published to compare with"
        print(f"{(time.monotonic() - started) / 60:.1f} minutes; {answer}")
        return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.reproduce", Reproduce))
