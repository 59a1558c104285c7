"""`wsss bench memory`: measure the memory of a final evaluation while it goes through its list."""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import tyro

from wsss import protocols
from wsss.data import sets
from wsss.data.voc import Split
from wsss.inference import runs
from wsss.model import describe
from wsss.paths import UserError
from wsss.tools import machine
from wsss.tools.machine import Bench


@dataclass(frozen=True)
class Memory(Bench):
    """Evaluate a run by a final protocol in a separate process, and sample its memory."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED."""
    data_root: str = ""
    """Folder of the data set, if it has moved."""
    split: str = "val"
    """List to evaluate on."""
    protocol: str = "voc"
    """voc or coco."""
    workers: int | None = None
    """Processes for the CRF beside the evaluation's own; 0: none; None: one per core."""
    every: float = 5.0
    """Seconds between two samples."""

    def measure(self) -> dict[str, Any]:
        """Return, for each sample, the number of images done and the resident memory in 10^6 bytes: that of the
        evaluation's process, and that of all processes it started. Raises UserError if the evaluation fails."""
        opened = runs.open_run(self.run, data_root=self.data_root)
        images = Split(sets.locate(opened.config.data), self.split, None, labels=False)
        protocol, samples = protocols.get(self.protocol), []
        with tempfile.TemporaryDirectory() as scratch:
            folder, started = Path(scratch) / "predictions", time.monotonic()
            flags = ["--protocol", self.protocol, "--split", self.split, "--workers", str(self.workers)]
            flags += ["--data-root", self.data_root] if self.data_root else []
            command = [sys.executable, "-m", "wsss", "evaluate", str(self.run.resolve()), *flags, "--save", str(folder)]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as evaluation:
                process = psutil.Process(evaluation.pid)
                try:
                    while evaluation.poll() is None:
                        others = sum(machine.resident_mb(child) for child in machine.children(process))
                        images_done = len(list(folder.glob("*.png")))
                        samples.append((images_done, round(machine.resident_mb(process), 1), round(others, 1)))
                        with suppress(subprocess.TimeoutExpired):
                            evaluation.wait(self.every)
                finally:
                    evaluation.terminate()  # does nothing after its end
            seconds = time.monotonic() - started
        if evaluation.returncode:
            raise UserError("the evaluation failed, see above")
        # The last sample may have met processes that were ending.
        done, evaluator, others = (list(column) for column in zip(*(samples[:-1] or samples), strict=True))
        return {
            "bench": "memory",
            "protocol": protocol.kind,
            "scales": list(protocol.scales),
            "workers": runs.crf_workers(self.workers, protocol),
            "every": self.every,
            "images": len(images.ids),
            "classes": len(images.kit.classes) + 1,
            "backbone": describe(opened.config.model),
            "seconds": round(seconds, 1),
            "done": done,
            "process_mb": evaluator,
            "workers_mb": others,
        }
