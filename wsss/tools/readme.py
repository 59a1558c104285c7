"""`python -m wsss.tools.readme`: write README.md's table from records, its picture from the examples of a run."""

import sys
from dataclasses import dataclass

from wsss import command
from wsss.paths import UserError, atomic, project_root
from wsss.report import figures, records, tables

_START, _END = "<!-- table headline: written by python -m wsss.tools.readme -->", "<!-- end of table -->"


def refreshed(text: str) -> str:
    """Return `text` with its table, between _START and _END, made anew from the published records. Raises UserError."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: a line {_START} and a line {_END}")
    return f"{before}{_START}\n\n{tables.build('headline').markdown()}\n{_END}{after}"


@dataclass(frozen=True)
class Readme:
    """Write README.md's table from records, and its picture where the published run's examples are at hand."""

    def __call__(self) -> None:
        root = project_root()
        examples = root / "runs" / "mini" / "mini" / "0" / "cams.npz"
        text = refreshed((root / "README.md").read_text(encoding="utf-8"))
        if examples.is_file():
            if records.load(examples.parent.with_suffix(".json"))["dirty"]:
                raise UserError(
                    f"{examples.parent} was run on a tree with uncommitted changes; commit and run it again, or move "
                    "it away to keep the picture as it is"
                )
            with atomic(root / "book" / "_static" / "overview.png") as temporary:
                temporary.write_bytes(figures.cam_rows(figures.load_samples(examples)).png())
        with atomic(root / "README.md") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(command.main("python -m wsss.tools.readme", Readme))
