"""`wsss bench memory`: what a final evaluation keeps in memory while it goes through its list."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from wsss.data import sets
from wsss.data.listing import listing
from wsss.inference import protocols, runs
from wsss.model import describe
from wsss.paths import UserError


@dataclass(frozen=True)
class Memory:
    """Evaluate a run by a final protocol in a process of its own, and look at its memory from time to time."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    data_root: str = ""
    """Where the same data set lies now, if it has moved."""
    split: str = "val"
    """List to evaluate on."""
    protocol: str = "voc"
    """voc or coco."""
    workers: int | None = None
    """Processes for the CRF beside the evaluation's own; 0: none. None: one a core."""
    every: float = 5.0
    """Seconds between two looks."""


def bench_memory(asked: Memory) -> dict[str, Any]:
    """Resident memory in 10^6 bytes of the evaluation's process and of all that it started, and the images done."""
    if not Path("/proc/self/statm").is_file():
        raise UserError("wsss bench memory reads /proc, which this system does not have; run it on Linux")
    opened = runs.open_run(asked.run, data_root=asked.data_root)
    images = listing(sets.locate(opened.config.data), asked.split)
    protocol = protocols.protocol(asked.protocol)
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = Path(scratch) / "predictions", time.monotonic()
        samples = _watch(_command(asked, folder), folder, asked.every)
        seconds = time.monotonic() - started
    done, own, others = (list(column) for column in zip(*samples, strict=True))
    return {
        "bench": "memory",
        "protocol": protocol.kind,
        "scales": list(protocol.scales),
        "workers": runs.crf_workers(asked.workers, protocol),
        "every": asked.every,
        "images": len(images.ids),
        "classes": len(images.classes) + 1,
        "backbone": describe(opened.config.model),
        "seconds": round(seconds, 1),
        "done": done,
        "process_mb": own,
        "workers_mb": others,
    }


def _command(asked: Memory, folder: Path) -> list[str]:
    words = ["--protocol", asked.protocol, "--split", asked.split, "--workers", str(asked.workers)]
    words += ["--data-root", asked.data_root] if asked.data_root else []
    return [sys.executable, "-m", "wsss", "evaluate", str(asked.run.resolve()), *words, "--save", str(folder)]


def _watch(words: list[str], folder: Path, every: float) -> list[tuple[int, float, float]]:
    """Images done, memory of the process, memory of its children, one look after the other until it ends."""
    found = []
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            own, *others = (resident_mb(pid) for pid in family(process.pid))
            found.append((len(list(folder.glob("*.png"))), round(own, 1), round(sum(others, 0.0), 1)))
            try:
                process.wait(every)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        raise UserError("the evaluation failed, see above")
    return found[:-1] or found


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended
        lists = []
    children = [word for text in lists for word in text.split()]
    return [pid, *(one for child in children for one in family(int(child)))]


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process in 10^6 bytes, now or (`field` VmHWM) at most so far; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(lines[0][1]) * 1024 / 1e6 if lines else 0.0
