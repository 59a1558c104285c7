"""What the explorer shows, as JSON, and the page around it. No torch.

Maps stay on their own grid. Maps and the codes of tokens are quantised to 8 bits a number, masks are written as runs.
The browser enlarges, thresholds and compares them (wsss/explore/explorer.js).
"""

import base64
import gzip
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int8, UInt8
from PIL import Image

from wsss.paths import UserError
from wsss.report.figures import IGNORE, class_colours

FOLDER = Path(__file__).parent
SCRIPTS = ("explorer.js", "explorer_engine.js")
LARGEST = 400
"""Longer side of a picture in the explorer, in pixels; larger photographs are scaled down."""
MOST = 4
"""Number of classes to choose from in an image, unless more are present or predicted."""
_WITHOUT = (
    "This copy of the page holds no model, so it shows these photographs only. For photographs of your own: "
    "wsss explore FOLDER."
)


@dataclass(frozen=True)
class LayerCam:
    """Normalised CAMs of one layer, 0..1, of the k classes that are shown."""

    name: str
    maps: Float[np.ndarray, "k p q"]
    """Made of several scales and mirror images; finer than the token grid."""


@dataclass(frozen=True)
class View:
    """What one model sees in one image."""

    name: str
    about: str
    """Where the model comes from, in a sentence."""
    shown: tuple[int, ...]
    """Classes that can be chosen, by number (background is 0)."""
    scores: tuple[float, ...]
    """Probability of each."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    layers: tuple[LayerCam, ...]
    codes: Mapping[str, Float[np.ndarray, "n d"]]
    """Vectors of the patches, by kind: the tokens, and their codes in each subspace."""
    segmentation: UInt8[np.ndarray, "h w"] | None
    """The decoder's labels; None for a model whose decoder was not trained."""
    pseudo_label: UInt8[np.ndarray, "h w"] | None


@dataclass(frozen=True)
class Scene:
    """One image with what the models see in it."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    present: tuple[int, ...]
    """Classes in the image, by number."""
    known: bool
    """Whether these classes are known; otherwise they are those that the last model predicts."""
    truth: UInt8[np.ndarray, "h w"] | None
    views: tuple[View, ...]


def payload(
    scenes: Sequence[Scene],
    classes: Sequence[str],
    threshold: float = 0.5,
    live: bool = False,
    model: Mapping[str, Any] | None = None,
) -> dict:
    """Return the JSON that the explorer's page shows. `classes` are the names of the foreground classes; `model`
    describes a network that the page runs by itself (`scene.page_model`). Raises UserError without image or model."""
    if not scenes or not all(scene.views for scene in scenes):
        raise UserError("there is nothing to explore: give at least one image and one model")
    names = ["background", *classes]
    colours = class_colours(np.array([*range(len(names)), IGNORE]))
    ramp = (matplotlib.colormaps["cividis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return {
        "classes": names,
        "palette": (colours * 255).round().astype(int).tolist(),
        "ramp": _text(ramp),
        "images": [image_entry(scene, names) for scene in scenes],
        "start": {
            "variant": len(scenes[0].views) - 1,
            "label": scenes[0].views[-1].shown[0],
            "threshold": threshold,
        },
        "live": live,
        "model": model,
        "without": _WITHOUT,
    }


def image_entry(scene: Scene, names: Sequence[str]) -> dict[str, Any]:
    """Return one image of the payload; `names` are those of all classes, background first."""
    seen = ", ".join(names[label] for label in scene.present) or "nothing that the model knows"
    return {
        "name": scene.name,
        "alt": f"{scene.name}, {'showing' if scene.known else 'predicted to show'} {seen}",
        "picture": _picture(scene.pixels),
        "size": list(scene.pixels.shape[:2]),
        "present": list(scene.present),
        "known": scene.known,
        "truth": runs(scene.truth),
        "variants": [_view(view) for view in scene.views],
    }


def more(content: Mapping[str, Any], other: Mapping[str, Any], source: str) -> tuple[dict[str, Any], str]:
    """Pack what the models of `other` see in the images of `content`, for a script `source` beside the page. Return a
    description for the page, and the script's part. Both are payloads. Raises UserError if images or classes differ."""
    names = [[image["name"] for image in each["images"]] for each in (content, other)]
    if names[0] != names[1] or content["classes"] != other["classes"]:
        raise UserError("the two files show different images or classes; make both with wsss explore from one folder")
    views = [[view | {"present": image["present"]} for view in image["variants"]] for image in other["images"]]
    part = _compressed(views)
    return {"source": source, "names": [view["name"] for view in views[0]], "bytes": len(part)}, part


def _compressed(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _view(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "about": view.about,
        "shown": list(view.shown),
        "scores": [round(float(score), 4) for score in view.scores],
        "grid": list(view.grid),
        "layers": [
            {"name": layer.name, "grid": list(layer.maps.shape[1:]), "data": _text(quantised_maps(layer.maps))}
            for layer in view.layers
        ],
        "codes": [
            {"name": name, "width": rows.shape[1], "data": _text(quantised_codes(rows))}
            for name, rows in ((name, compact(rows)) for name, rows in view.codes.items())
        ],
        "segmentation": runs(view.segmentation),
        "pseudo_label": runs(view.pseudo_label),
    }


def quantised_maps(maps: Float[np.ndarray, "*k i j"]) -> UInt8[np.ndarray, "*k i j"]:
    """Quantise values 0..1 in steps of 1/255."""
    return (np.clip(maps, 0, 1) * 255).round().astype(np.uint8)


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divide each row by its norm; rows of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def compact(rows: Float[np.ndarray, "n d"], error: float = 0.02) -> Float[np.ndarray, "n r"]:
    """Reduce rows to the fewest principal directions, a multiple of 8, that keep all cosines to `error`; norm 1."""
    whole = unit(rows)
    left, sizes, _ = np.linalg.svd(whole, full_matrices=False)
    turned, cosines = left * sizes, whole @ whole.T
    for rank in range(8, turned.shape[1], 8):
        fewer = unit(turned[:, :rank])
        if np.abs(fewer @ fewer.T - cosines).max() <= error:
            return fewer
    return turned


def quantised_codes(rows: Float[np.ndarray, "n d"]) -> Int8[np.ndarray, "n d"]:
    """Quantise rows, each scaled so that its largest entry is 127. Cosines stay the same to a hundredth."""
    largest = np.abs(rows).max(1, keepdims=True)
    return (rows / np.where(largest > 0, largest, 1) * 127).round().astype(np.int8)


def runs(mask: UInt8[np.ndarray, "h w"] | None) -> list[int] | None:
    """Write a mask row by row as label, count, label, count, ...; None stays None."""
    if mask is None:
        return None
    flat = mask.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    counts = np.diff(np.r_[starts, len(flat)])
    return np.stack([flat[starts], counts], 1).ravel().tolist()


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _picture(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


# Pages.


def element(content: Mapping[str, Any], compressed: bool = False) -> str:
    """Return the HTML element that explorer.js mounts on; without the script it shows the first image and says so.

    It holds the payload as JSON. `compressed` makes it a quarter smaller, for pages that no other program reads.
    """
    count, first, kind = len(content["images"]), content["images"][0], "json"
    if compressed:
        text, kind = _compressed(content), "gzip"
    else:  # without "<", so that no text can end the <script>
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f"<div data-wsss-explorer><p>The script beside this page lets you explore {count} photographs here.</p>"
        f'<img class="wsss-figure" alt="{html.escape(first["alt"])}" src="{first["picture"]}">'
        f'<script type="application/{kind}">{text}</script></div>'
    )


def page(content: Mapping[str, Any], title: str, paragraphs: Iterable[str] = (), parts: Iterable[str] = ()) -> str:
    """Return a whole page in one file that needs no network or server; `parts` are those of `engine.pack`."""
    style, *scripts = ((FOLDER / name).read_text(encoding="utf-8") for name in ("explorer.css", *SCRIPTS[::-1]))
    above = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    packed = "".join(f'<script type="text/plain" data-wsss-part="{i}">{part}</script>' for i, part in enumerate(parts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_PAGE_STYLE}{style}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{above}{element(content)}</main>{packed}"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>"
    )


_PAGE_STYLE = (
    ":root{color-scheme:light dark}body{font-family:system-ui,sans-serif;margin:0 auto;max-width:75rem;padding:0 1rem}"
)
