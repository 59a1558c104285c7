"""`wsss explore`: what a model sees in your pictures, as one HTML file."""

import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from wsss.paths import UserError, atomic

_INTRODUCTION = (
    "What a network that was trained by image labels alone sees in a picture: choose a class, a layer and a threshold; "
    "click on a picture, or move the two sliders at the end, to choose a patch and see which others are like it."
)


@dataclass(frozen=True)
class Explore:
    """Write one self-contained HTML page, in which CAMs, labels and affinities of your pictures can be explored without
    a kernel or a network, and open it. Of a data set in VOC format it shows truth, too."""

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE_OR_FOLDER")]
    """A picture, a folder of pictures, or the root of a data set in VOC format."""
    run: tuple[Path, ...] = ()
    """Folders of finished runs, OUTPUT/DATASET/VARIANT/SEED, that know the same classes; empty: the shipped model."""
    output: Path = Path("explore.html")
    """The page."""
    limit: int = 8
    """Pictures at most."""
    split: str = "val"
    """List of a data set."""
    open: bool = True
    """Open the page in the browser."""

    def __call__(self) -> None:
        if self.limit < 1:
            raise UserError(f"--limit is {self.limit}; it must be at least 1")
        if not self.images.exists():
            raise UserError(f"{self.images} does not exist; name a picture, a folder of pictures or a data set")
        if self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder; name a file for the page")
        from wsss.explore import payload, scene, sources

        seers, classes = sources.of_runs(self.run)
        if (self.images / "JPEGImages").is_dir():
            pictures = sources.of_set(self.images, self.split, classes, self.limit)
        else:
            pictures = sources.of_folder(self.images, self.limit)
        if shrunk := scene.shrunk(pictures, seers):
            print(shrunk, file=sys.stderr)
        scenes = [scene.scene(picture, seers) for picture in tqdm(pictures, desc="explore", unit="image")]
        data = payload.payload(scenes, classes, seers[-1].config.cam.background)
        with atomic(self.output) as temporary:
            temporary.write_text(payload.page(data, "Class activation maps", [_INTRODUCTION]), encoding="utf-8")
        print(f"{self.output}: {len(scenes)} pictures, {self.output.stat().st_size / 1e6:.1f} MB")
        if self.open:
            webbrowser.open(self.output.resolve().as_uri())
