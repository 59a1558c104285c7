"""One table: cells as text, and its forms. No torch."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from wsss.report.records import Record

ABSENT = "–"
MISSING = "not run"
UNPAIRED = "run, not paired"
"""Cell of runs without a partner of the same seed on the same processor."""
NOT_MEASURED = "not measured"
"""Cell of a run that was made before the measure existed."""


@dataclass(frozen=True, repr=False)
class Table:
    """Cells as text, with a title, a note that says what the numbers are, and the records that they come from."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    records: Sequence[Record] = ()

    def measured(self) -> bool:
        """Return whether any cell after the first column says more than that a number is missing."""
        return any(set(row[1:]) - {ABSENT, MISSING, UNPAIRED, NOT_MEASURED} for row in self.rows)

    def text(self) -> str:
        """Write aligned columns for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        lines.insert(1, tuple("-" * width for width in widths))
        body = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return f"{self.title}\n{body}\n" + (f"{self.note}\n" if self.note else "")

    def markdown(self) -> str:
        """Write a GitHub table, with the title above and the note below."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def as_html(self) -> str:
        """Write a <table> with a caption, and the note below; notebooks show this."""

        def cells(line: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)

        body = "".join(f"<tr>{cells(row[:1], 'th')}{cells(row[1:], 'td')}</tr>" for row in self.rows)
        head = f"<caption>{html.escape(self.title)}</caption><thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        note = f"<p><small>{html.escape(self.note)}</small></p>" if self.note else ""
        return f'<table class="wsss-table">{head}<tbody>{body}</tbody></table>{note}'

    _repr_html_ = as_html

    def __repr__(self) -> str:
        return self.text()

    def csv(self) -> str:
        """Write header and rows as CSV."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.columns, *self.rows])
        return file.getvalue()
