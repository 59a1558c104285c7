"""Runs for tests: the smoke preset at its smallest, and small data sets of one's own on disk."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from wsss.cli import main
from wsss.data import voc

TINY = {
    "variant": "tiny",
    "augment.crop": 32,
    "augment.evaluation_size": 32,
    "augment.local_size": 16,
    "cam.scales": 1.0,
    "model.depth": 3,
    "optim.steps": 4,
    "optim.batch": 2,
    "save_every": 0.5,
}
"""Settings that make smoke even smaller: a run on an own set takes less than a second."""


def tiny(root: Path, output: Path, *more: str) -> list[str]:
    """Words of a tiny smoke run; later words win over earlier ones."""
    settings = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    return ["train", "smoke", *settings, "--data.root", str(root), "--output", str(output), *more]


def run(*words: str) -> int:
    """Run the command in this process, on one thread; return its exit code."""
    with one_thread():
        return main([str(word) for word in words])


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, so that the machine is shared fairly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def command(*words: str, processes: int = 0) -> list[str]:
    """The command as a process of its own, or under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *launcher, "-m", "wsss", *map(str, words)]


def environment(**extra: str) -> dict[str, str]:
    """One thread per process, this package whatever the working folder is, gloo over the machine's loopback."""
    package = str(Path(voc.__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": package, **extra}


def process(*words: str, processes: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a real process to its end."""
    done = command(*words, processes=processes)
    return subprocess.run(done, capture_output=True, text=True, env=environment(**extra), timeout=600)


def stop_when(holds: Callable[[], object], words: list[str], number: int) -> tuple[int, str]:
    """Start a command, send it a signal once `holds()` is true, and return its exit code and stderr after its end.
    SIGKILL also goes to all processes that torchrun started, which would outlive it."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment(), **streams) as child:
        below = []
        try:
            wait_until(lambda: holds() or child.poll() is not None, 400)
            assert child.poll() is None, f"it ended before: {child.stderr.read()}"
            if "torch.distributed.run" in words:
                below = psutil.Process(child.pid).children(recursive=True)
            child.send_signal(number)
            for each in below if number == signal.SIGKILL else ():
                each.kill()
            err = child.communicate(timeout=200)[1]
        finally:
            for each in (child, *below):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
    return child.returncode, err


def sentence(err: str, alone: bool = False) -> str:
    """Return the one error sentence on stderr. `alone`: it must be the last line, after nothing but progress bars."""
    lines = [line.strip() for line in re.split(r"[\r\n]", err) if line.strip()]
    errors = [f"wsss: error: {part}" for line in lines for part in line.split("wsss: error: ")[1:]]
    assert len(errors) == 1 and len(errors[0]) > 30 and "Traceback" not in err, err
    bars = r"(train|evaluate|check|read|score|pretrain)\b.*\d"
    assert not alone or (lines[-1:] == errors and all(re.match(bars, line) for line in lines[:-1])), err
    return errors[0]


def wait_until(holds: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited for {seconds} seconds"
        time.sleep(0.005)


def cut(path: Path | str, share: float = 0.5) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


class Hostile:
    """Makes a folder when it is unpickled by a reader that runs what it reads."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def folder(output: Path) -> Path:
    """The one run's folder below `output`."""
    found = [path.parent for path in output.glob("*/*/*/config.json")]
    assert len(found) == 1, found
    return found[0]


def redraw(place: Path, seed: int) -> None:
    """Draw new position embeddings and decoders for the last and the best weights of a run."""
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(place.glob("*.safetensors")):
        tensors = load_file(path)
        for name in [name for name in tensors if name.startswith(("decoder.", "encoder.pos_embed"))]:
            tensors[name] = torch.randn(tensors[name].shape, generator=generator)
        save_file(tensors, path)


def record(output: Path) -> dict:
    return json.loads(folder(output).with_suffix(".json").read_text())


def log(output: Path) -> list[dict]:
    """Rows of the one run's log, without the time they took."""
    rows = [json.loads(line) for line in (folder(output) / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def answer(capsys: pytest.CaptureFixture) -> dict:
    """What a command printed: one line of JSON."""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def hashes(output: Path) -> dict[str, str]:
    """Relative path -> digest of every file below `output`."""
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, best weights, optimizer and log of two runs are equal to the bit; so are their numbers."""
    first, second = folder(one), folder(other)
    names = sorted(path.name for path in first.glob("*.safetensors"))
    assert names == sorted(path.name for path in second.glob("*.safetensors")) and len(names) == 2
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    states = [torch.load(next(path.glob("*.pt")), weights_only=True) for path in (first, second)]
    for state in states:
        state.pop("seconds")
    assert_same(*states)
    assert log(one) == log(other)
    assert record(one)["results"] == record(other)["results"]


def assert_same(one: object, other: object) -> None:
    """Equal trees of tensors and plain values."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


@dataclass
class Photo:
    """One image of an own data set; its mask shows the classes side by side, the background at the left."""

    size: tuple[int, int] = (48, 40)
    mode: str = "RGB"
    suffix: str = ".jpg"
    classes: tuple[int, ...] = (1,)
    background: bool = True


PHOTOS = (Photo(), Photo(classes=(2,)), Photo(classes=(1, 2)), Photo(classes=(2,), size=(31, 57)))


def own_set(
    root: Path,
    photos: Sequence[Photo] = PHOTOS,
    names: Sequence[str] = ("cup", "jug"),
    labels: Sequence[str] = (),
) -> Path:
    """Make a data set in the VOC layout with its own classes.txt. Its labels come from the masks, or from a text file
    with `labels`. Both train and val have one image for each of `photos`."""
    random = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    for split in ("train", "val"):
        ids = [f"{split}_{number}" for number in range(len(photos))]
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids) + "\n")
        for name, photo in zip(ids, photos, strict=True):
            write_photo(root, name, photo, random)
    if labels:
        write_labels(root, *labels)
    return root


def write_labels(root: Path, *labels: str) -> None:
    """image_labels.txt: the classes of each photograph of train and of val."""
    rows = (f"{split}_{number} {names}\n" for split in ("train", "val") for number, names in enumerate(labels))
    (root / voc.LABEL_FILE).write_text("".join(rows))


def write_annotations(root: Path, labels: Mapping[str, Sequence[str]]) -> None:
    """Annotations/NAME.xml with the classes of each image."""
    (root / "Annotations").mkdir(exist_ok=True)
    for name, classes in labels.items():
        objects = "".join(f"<object><name>{label}</name></object>" for label in classes)
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def paint(root: Path, pattern: str, value: int) -> None:
    """Write one value to every pixel of the masks that match `pattern`."""
    for path in (root / "SegmentationClass").glob(pattern):
        with Image.open(path) as mask:
            size = mask.size
        write_mask(path, np.full(size[::-1], value, np.uint8))


def write_photo(root: Path, name: str, photo: Photo, random: np.random.Generator) -> None:
    width, height = photo.size
    pixels = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    pixels.convert(photo.mode).save(root / "JPEGImages" / (name + photo.suffix))
    values = np.array([*([0] if photo.background else []), *photo.classes], np.uint8)
    mask = np.broadcast_to(values[np.arange(width) * len(values) // width], (height, width)).copy()
    mask[0, 0] = voc.IGNORE
    write_mask(root / "SegmentationClass" / f"{name}.png", mask)


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", mask.shape[::-1], np.ascontiguousarray(mask).tobytes())
    image.putpalette([value for index in range(256) for value in (index, 255 - index, index)])
    image.save(path)
