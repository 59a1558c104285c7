"""A figure with an alternative text, and its forms: PNG, JPEG, SVG for pages and phones, CSV. No torch."""

import base64
import csv
import html
import io
import re
import textwrap
from collections.abc import Sequence

import PIL.Image
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wsss.report.records import Record

_PHONE, _LONG = 3.7, 18
"""Width of a figure on a phone, in inches; letters in one line of a name there."""
_LINEAR = 5
"""Distance from zero, in points, up to which an axis stays linear."""
_TICKS = (-100, -20, -5, -2, 0, 2, 5, 20, 100)


class Picture(Figure):
    """A figure with an alternative text, and the records that it shows."""

    alt: str = ""
    records: Sequence[Record] = ()

    def png(self, dpi: int = 110) -> bytes:
        """Return the figure as PNG."""
        file = io.BytesIO()
        # Without matplotlib's version in it, the same figure gives the same bytes.
        self.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
        return file.getvalue()

    def encoded(self) -> bytes:
        """Return the figure as PNG, or as JPEG if that takes less than two thirds of the bytes, as with photographs.
        Lines and words stay sharp."""
        png, file = self.png(), io.BytesIO()
        with PIL.Image.open(io.BytesIO(png)) as image:
            image.convert("RGB").save(file, "jpeg", quality=85, subsampling=0, optimize=True)
        jpeg = file.getvalue()
        return jpeg if 3 * len(jpeg) < 2 * len(png) else png

    def svg(self) -> str:
        """Return the figure as an <svg> element with its alternative text. It is transparent and uses the page's fonts.
        Black and dark grey become the colour of the page's text, so that it suits a light and a dark theme."""
        file = io.StringIO()
        # A salt of its own: the same figure gets the same ids, and another one other ids.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{self.alt} {self.get_figwidth()}"}):
            self.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue().partition("<svg")[2], flags=re.DOTALL)
        text = re.sub(r'<g id="[^"]*"', "<g", text)  # two figures of a page may not share ids
        text = re.sub(r"#([0-6][0-9a-f])\1\1\b", "currentColor", text)  # black, and grey up to #6f6f6f
        text = re.sub(r" font-family: [^;\"]*;?|<style.*?</style>", "", text, flags=re.DOTALL)
        start = f'class="wsss-figure" role="img" aria-label="{html.escape(self.alt)}"'
        return f'<svg {start} fill="currentColor" stroke-linejoin="round"{text}'

    def stacked(self) -> "Picture":
        """Make this figure as narrow as a phone: panels in one column, legend below, long names in several lines.
        Returns the figure itself."""
        places = sorted({axis.get_subplotspec().num1 for axis in self.axes})
        rows, column = self.axes[0].get_gridspec().nrows, self.add_gridspec(len(places), 1)
        height = self.get_figheight() * (1 if len(places) == rows else 0.9 * len(places) / rows)
        for axis in self.axes:
            place = places.index(axis.get_subplotspec().num1)
            if len(places) > rows:  # panels of a row shared their tick labels
                axis.tick_params(labelleft=True, labelbottom=True)
                axis.set_subplotspec(column[place])
            axis.set_xlabel(_wrapped(axis.get_xlabel(), 2 * _LONG))
            axis.set_ylabel(_wrapped(axis.get_ylabel(), 2 * _LONG))
            names = [_wrapped(label.get_text()) for label in axis.get_yticklabels()]
            most = max((name.count("\n") for name in names), default=0)
            if most:
                axis.set_yticks(axis.get_yticks(), names)
                height = max(height, len(places) * (1 + 0.19 * (1 + most) * len(names)))
        self.set_size_inches(_PHONE, height)
        for legend in list(self.legends):
            names = [text.get_text() for text in legend.get_texts()]
            legend.remove()
            self.legend_below(legend.legend_handles, ncols=1 if max(map(len, names)) > _LONG else 2, labels=names)
        return self

    def csv(self) -> str:
        """Return, as CSV, the points of every line with a name (its gid, else its label): panel, series, x, y."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("panel", "series", "x", "y"))
        for axis in self.axes:
            for line in axis.get_lines():
                series = line.get_gid() or str(line.get_label())
                if not series.startswith("_"):  # matplotlib's name for a line without one
                    panel = ", ".join(filter(None, (axis.get_title(), axis.get_xlabel())))
                    writer.writerows((panel, series, f"{x:g}", f"{y:g}") for x, y in line.get_xydata())
        return file.getvalue()

    def legend_below(self, handles: Sequence[Artist], ncols: int = 3, labels: Sequence[str] | None = None) -> None:
        """Add a legend of these lines and patches below all panels, with `labels` or else their own."""
        labels = labels or [str(handle.get_label()) for handle in handles]
        self.legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False)

    def html(self) -> str:
        """Return an <img> element that holds the picture and its alternative text."""
        picture = self.encoded()
        source = f"data:image/{suffix(picture)};base64,{base64.b64encode(picture).decode()}"
        return f'<img class="wsss-figure" alt="{html.escape(self.alt)}" src="{source}">'

    def _ipython_display_(self) -> None:
        from IPython.display import display  # present wherever this is called

        display({"text/html": self.html(), "text/plain": self.alt}, raw=True)


def compress(panels: Sequence[Axes]) -> bool:
    """Compress the panels' common x axis beyond _LINEAR on either side of zero, and mark that part in grey. Do so only
    if something lies more than twice as far; return whether it does."""
    low, high = panels[0].get_xlim()
    if max(-low, high) <= 2 * _LINEAR:
        return False
    low, high = (bound * (1.3 if abs(bound) > _LINEAR else 1) for bound in (low, high))
    panels[0].set_xscale("symlog", linthresh=_LINEAR)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    panels[0].set_xticks(ticks, [f"{tick:+}" if tick else "0" for tick in ticks])
    for axis in panels:
        axis.axvspan(min(low, -_LINEAR), -_LINEAR, color="0.5", alpha=0.15, linewidth=0)
        axis.axvspan(_LINEAR, max(high, _LINEAR), color="0.5", alpha=0.15, linewidth=0)
    panels[0].set_xlim(low, high)
    panels[0].minorticks_off()
    return True


def _wrapped(name: str, width: int = _LONG) -> str:
    return "\n".join(textwrap.wrap(name, width))


def suffix(picture: bytes) -> str:
    """Return the kind of an encoded picture, "png" or "jpeg"."""
    return "png" if picture.startswith(b"\x89PNG") else "jpeg"
