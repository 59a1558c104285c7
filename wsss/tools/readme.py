"""`python -m wsss.tools.readme`: write README.md's table from records, its picture from the photographs of the book."""

import sys
from dataclasses import dataclass

from wsss import command
from wsss.paths import UserError, atomic, project_root, read_json
from wsss.report import figures, tables

_START, _END = "<!-- table headline: written by python -m wsss.tools.readme -->", "<!-- end of table -->"
_PHOTOGRAPHS = ("cow", "cat", "sheep", "horses")


def refreshed(text: str) -> str:
    """Return `text` with the table between _START and _END rebuilt from the published records. Raises UserError."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: a line {_START} and a line {_END}")
    return f"{before}{_START}\n\n{tables.build('headline').markdown()}\n{_END}{after}"


@dataclass(frozen=True)
class Readme:
    """Write README.md's table from records, and its picture from the photographs shown to the two networks."""

    def __call__(self) -> None:
        root = project_root()
        text = refreshed((root / "README.md").read_text(encoding="utf-8"))
        shown = figures.explored_rows(read_json(root / "data" / "photographs" / "base_and_ours.json"), _PHOTOGRAPHS)
        with atomic(root / "book" / "_static" / "photographs.jpg") as temporary:
            temporary.write_bytes(shown.encoded())
        with atomic(root / "README.md") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.readme", Readme))
