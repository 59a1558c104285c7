"""The explorer in a notebook: live with a kernel, and in the published book the same without one."""

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from wsss.data.pictures import read_image
from wsss.explore.payload import FOLDER, element, image_entry, payload, runs
from wsss.explore.scene import Example, Seer, refined, scene, with_crf
from wsss.paths import UserError

_SCRIPT = (FOLDER / "explorer.js").read_text(encoding="utf-8")


class Explorer(anywidget.AnyWidget):
    """A view of what models see in images. The browser sets every value below, and Python may set it, too."""

    _esm = f"{_SCRIPT}\nexport default {{ render: globalThis.WsssExplorer.render }};\n"
    _css = FOLDER / "explorer.css"
    payload = traitlets.Dict().tag(sync=True)
    """Content of the page, made by `payload`."""
    image = traitlets.Int(0).tag(sync=True)
    """Index of the image."""
    variant = traitlets.Int(0).tag(sync=True)
    """Index of the model."""
    label = traitlets.Int(0).tag(sync=True)
    """Number of the class; 0 is the background."""
    layer = traitlets.Int(0).tag(sync=True)
    """0 for the last layer, 1 for the aux layer."""
    view = traitlets.Unicode("cam").tag(sync=True)
    """What is drawn over the picture."""
    beside = traitlets.Unicode("").tag(sync=True)
    """What is drawn right of the line; empty: there is no line."""
    split = traitlets.Float(0.5).tag(sync=True)
    """Position of the line, 0..1."""
    alike = traitlets.Int(0).tag(sync=True)
    """Index of the codes by which patches are compared."""
    threshold = traitlets.Float(0.5).tag(sync=True)
    """Background threshold of the pseudo label, 0..1."""
    opacity = traitlets.Float(0.6).tag(sync=True)
    """Opacity of what is drawn over the picture, 0..1."""
    row = traitlets.Int(-1).tag(sync=True)
    """Row of the chosen patch; -1 for none."""
    column = traitlets.Int(-1).tag(sync=True)
    """Column of the chosen patch; -1 for none."""
    request = traitlets.Dict().tag(sync=True)
    """Last request of the browser to Python."""
    answer = traitlets.Dict().tag(sync=True)
    """Last answer of Python."""

    def __init__(self, pictures: Sequence[Example], seers: Sequence[Seer], classes: Sequence[str]):
        self.pictures, self.seers = list(pictures), list(seers)
        self.scenes = [scene(picture, self.seers) for picture in self.pictures]
        content = payload(self.scenes, classes, self.seers[-1].config.cam.background, live=True)
        super().__init__(payload=content, **content["start"])
        self.observe(self._answer, "request")

    def labels(self) -> np.ndarray:
        """Return the last label map that was computed on demand, (h, w) uint8. Raises UserError if there is none."""
        if not self.answer.get("mask"):
            raise UserError("nothing was computed on demand yet; press one of the buttons below the pictures")
        values, counts = np.array(self.answer["mask"]).reshape(-1, 2).T
        return np.repeat(values, counts).astype(np.uint8).reshape(self.payload["images"][self.answer["image"]]["size"])

    def _answer(self, change: Any) -> None:
        request = change["new"]
        picture, seer, where = self.pictures[self.image], self.seers[self.variant], self.scenes[self.image]
        answer = {"image": self.image, "variant": self.variant}
        try:
            if request["what"] == "photograph":
                self._add(request["name"], base64.b64decode(request["data"]))
                return
            if request["what"] == "crf":
                mask, name = with_crf(picture, seer), "segmentation with CRF"
            else:
                present = sorted({*where.present, self.label})
                mask = refined(picture, seer, present, self.threshold, self.layer)
                layer = where.views[self.variant].layers[self.layer].name
                name = f"CAM, {layer}, above {self.threshold:.2f}, refined"
            self.answer = answer | {"name": name, "mask": runs(mask), "message": ""}
        except UserError as error:
            self.answer = answer | {"message": str(error), "number": request["number"]}

    def _add(self, name: str, file: bytes) -> None:
        """Add a photograph that was dropped on the explorer."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photograph"
            path.write_bytes(file)
            picture = Example(name, read_image(path))
        self.pictures.append(picture)
        self.scenes.append(scene(picture, self.seers))
        image = image_entry(self.scenes[-1], self.payload["classes"])
        self.payload = self.payload | {"images": [*self.payload["images"], image]}  # a new dict: only that is synced
        self.label, self.row, self.image = -1, -1, len(self.scenes) - 1  # -1: the browser chooses

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the widget and, for pages without a kernel, the element that explorer.js mounts on."""
        bundle = super()._repr_mimebundle_(**options)
        data, *more = bundle if isinstance(bundle, tuple) else (bundle,)
        if data is None:
            return bundle
        still = element(self.payload | {"live": False, "without": ""})
        return ({**data, "text/html": still}, *more) if more else {**data, "text/html": still}
