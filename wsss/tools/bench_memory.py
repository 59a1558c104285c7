"""`wsss bench memory`: what a final evaluation keeps in memory while it goes through its list."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import tyro

from wsss.data import sets
from wsss.data.voc import Split
from wsss.inference import protocols, runs
from wsss.model import describe
from wsss.paths import UserError
from wsss.tools import machine


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
    opened = runs.open_run(asked.run, data_root=asked.data_root)
    images = Split(sets.locate(opened.config.data), asked.split, None, labels=False)
    protocol, samples = protocols.protocol(asked.protocol), []
    with tempfile.TemporaryDirectory() as scratch:
        folder, started = Path(scratch) / "predictions", time.monotonic()
        words = ["--protocol", asked.protocol, "--split", asked.split, "--workers", str(asked.workers)]
        words += ["--data-root", asked.data_root] if asked.data_root else []
        command = [sys.executable, "-m", "wsss", "evaluate", str(asked.run.resolve()), *words, "--save", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as evaluation:
            process = psutil.Process(evaluation.pid)
            while evaluation.poll() is None:
                others = sum(machine.resident_mb(child) for child in machine.children(process))
                samples.append(
                    (len(list(folder.glob("*.png"))), round(machine.resident_mb(process), 1), round(others, 1))
                )
                try:
                    evaluation.wait(asked.every)
                except subprocess.TimeoutExpired:
                    continue
        seconds = time.monotonic() - started
    if evaluation.returncode:
        raise UserError("the evaluation failed, see above")
    done, own, others = (list(column) for column in zip(*(samples[:-1] or samples), strict=True))
    return {
        "bench": "memory",
        "protocol": protocol.kind,
        "scales": list(protocol.scales),
        "workers": runs.crf_workers(asked.workers, protocol),
        "every": asked.every,
        "images": len(images.ids),
        "classes": len(images.kit.classes) + 1,
        "backbone": describe(opened.config.model),
        "seconds": round(seconds, 1),
        "done": done,
        "process_mb": own,
        "workers_mb": others,
    }
