"""The explorer in a notebook: live with a kernel, and in the published book the same without one."""

from collections.abc import Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets

from wsss.explore.payload import FOLDER, element, payload, runs
from wsss.explore.scene import Picture, Seer, refined, scene, with_crf
from wsss.paths import UserError

SCRIPT = (FOLDER / "explorer.js").read_text(encoding="utf-8")


class Explorer(anywidget.AnyWidget):
    """What models see in images. Every value below is the one that is set in the browser, and may be set from here."""

    _esm = f"{SCRIPT}\nexport default {{ render: globalThis.WsssExplorer.render }};\n"
    _css = FOLDER / "explorer.css"
    payload = traitlets.Dict().tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    variant = traitlets.Int(0, help="Which model.").tag(sync=True)
    label = traitlets.Int(0, help="Class by number, background being 0.").tag(sync=True)
    layer = traitlets.Int(0, help="0 the last layer, 1 the aux layer.").tag(sync=True)
    scales = traitlets.Enum(("multi", "single"), "multi").tag(sync=True)
    colours = traitlets.Unicode("cividis").tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    opacity = traitlets.Float(0.6).tag(sync=True)
    row = traitlets.Int(-1, help="Of the chosen patch.").tag(sync=True)
    column = traitlets.Int(-1).tag(sync=True)
    request = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, pictures: Sequence[Picture], seers: Sequence[Seer], classes: Sequence[str]):
        self.pictures, self.seers = list(pictures), list(seers)
        self.scenes = [scene(picture, self.seers) for picture in self.pictures]
        threshold = self.seers[-1].config.cam.background if self.seers else 0.5
        found = payload(self.scenes, classes, threshold, live=True)
        super().__init__(payload=found, **found["start"])
        self.observe(self._answer, "request")

    def labels(self) -> np.ndarray:
        """The label map that was computed last on demand (h, w), uint8. Raises UserError where none was."""
        if not self.answer.get("mask"):
            raise UserError("nothing was computed on demand yet; press one of the buttons below the pictures")
        values, counts = np.array(self.answer["mask"]).reshape(-1, 2).T
        return np.repeat(values, counts).astype(np.uint8).reshape(self.payload["images"][self.answer["image"]]["size"])

    def _answer(self, change: Any) -> None:
        picture, seer, where = self.pictures[self.image], self.seers[self.variant], self.scenes[self.image]
        size, answer = where.pixels.shape[:2], {"image": self.image, "variant": self.variant}
        try:
            if change["new"]["what"] == "crf":
                mask, name = with_crf(picture, seer, size), "segmentation with CRF"
            else:
                present = sorted({*where.present, self.label})
                mask = refined(picture, seer, present, self.threshold, self.layer, size)
                layer = where.views[self.variant].layers[self.layer].name
                name = f"CAM, {layer}, above {self.threshold:.2f}, refined"
            self.answer = answer | {"name": name, "mask": runs(mask), "words": ""}
        except UserError as error:
            self.answer = answer | {"words": str(error), "number": change["new"]["number"]}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for pages without a kernel the element that explorer.js mounts on."""
        found = super()._repr_mimebundle_(**options)
        data, *more = found if isinstance(found, tuple) else (found,)
        if data is None:
            return found
        still = element(self.payload | {"live": False})
        return ({**data, "text/html": still}, *more) if more else {**data, "text/html": still}
