"""`wsss explore`: what a model sees in your pictures, as one HTML file; `wsss export`: the model as a graph."""

import json
import sys
import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from wsss.paths import UserError, atomic

_INTRODUCTION = (
    "This network learnt from photographs and the names of what they show, nothing else. What does it see in yours? "
    "Choose what to draw over the picture. Point at a patch to see which others are like it."
)


@dataclass(frozen=True)
class Explore:
    """Write one self-contained HTML page and open it. In it you explore CAMs, labels and affinities of your pictures,
    without a kernel or an internet connection. For a data set in VOC format it shows the truth, too."""

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE_OR_FOLDER")]
    """A picture, a folder of pictures, or the root of a data set in VOC format."""
    run: tuple[Path, ...] = ()
    """Folders of finished runs, OUTPUT/DATASET/VARIANT/SEED, of the same classes; empty: the shipped model."""
    output: Path = Path("explore.html")
    """The page; with a name that ends in .json, only the data that it shows."""
    limit: int = 8
    """Number of pictures at most."""
    split: str = "val"
    """List of images, for a data set."""
    drop: bool = False
    """Put the last model into the page, so that further photographs can be dropped on it: about 20 MB more."""
    open: bool = True
    """Open the page in the browser."""

    def __call__(self) -> None:
        if self.limit < 1:
            raise UserError(f"--limit is {self.limit}; it must be at least 1")
        if not self.images.exists():
            raise UserError(f"{self.images} does not exist; name a picture, a folder of pictures or a data set")
        if self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder; name a file for the page")
        from wsss.explore import engine, onnx_graph, payload, scene, sources

        seers, classes = sources.of_runs(self.run)
        if (self.images / "JPEGImages").is_dir():
            pictures = sources.of_set(self.images, self.split, classes, self.limit)
        else:
            pictures = sources.of_folder(self.images, self.limit)
        if shrunk := scene.shrunk(pictures, seers):
            print(shrunk, file=sys.stderr)
        scenes = [scene.scene(picture, seers) for picture in tqdm(pictures, desc="explore", unit="image")]
        model = scene.page_model(seers[-1])
        content, parts = payload.payload(scenes, classes, seers[-1].config.cam.background, model=model), []
        if self.drop:
            with tempfile.TemporaryDirectory() as folder:
                onnx_graph.write(seers[-1], Path(folder) / "model.onnx")
                packed = engine.pack(Path(folder) / "model.onnx")
            if packed is None:
                raise UserError("the page cannot hold a model without its runtime; install npm, or leave --drop out")
            content["engine"], parts = packed
        alone = self.output.suffix == ".json"
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        with atomic(self.output) as temporary:
            page = text if alone else payload.page(content, "Class activation maps", [_INTRODUCTION], parts)
            temporary.write_text(page, encoding="utf-8")
        print(f"{self.output}: {len(scenes)} pictures, {self.output.stat().st_size / 1e6:.1f} MB")
        if self.open and not alone:
            webbrowser.open(self.output.resolve().as_uri())


@dataclass(frozen=True)
class Export:
    """Write a finished run's network as an ONNX graph, NAME.onnx, with its weights in half precision beside it,
    NAME.safetensors. Inputs: pixels of the squashed photograph, and the image label (zeros: the classes that the
    network predicts). Outputs: what the explorer shows."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """The run's folder, OUTPUT/DATASET/VARIANT/SEED; none: the shipped model."""
    output: Path = Path("model.onnx")
    """File of the graph."""
    weights: Literal["last", "best"] = "last"
    """Which of the run's weights."""

    def __call__(self) -> str:
        if self.output.suffix != ".onnx":
            raise UserError(f"--output is {self.output}; the graph's name must end in .onnx")
        from wsss.explore import onnx_graph, sources

        seer, _ = sources.of_run(self.run, self.weights) if self.run else sources.shipped()
        weights = onnx_graph.write(seer, self.output)
        sizes = [f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in (self.output, weights)]
        return "; ".join(sizes)
