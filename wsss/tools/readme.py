"""`python -m wsss.tools.readme`: write README.md's table anew from records, its picture from the examples of a run."""

import sys

from wsss.paths import UserError, atomic, project_root
from wsss.report import figures, records, tables

_START, _END = "<!-- table headline: written by python -m wsss.tools.readme -->", "<!-- end of table -->"


def refreshed(text: str) -> str:
    """text with the table between _START and _END made of the published records. Raises UserError without them."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: a line {_START} and a line {_END}")
    return f"{before}{_START}\n\n{tables.build('headline').markdown()}\n{_END}{after}"


def main() -> int:
    """Write README.md anew; its picture too, where the published run's examples are at hand. Returns the exit code."""
    root = project_root()
    examples = root / "runs" / "mini" / "mini" / "0" / "cams.npz"
    try:
        text = refreshed((root / "README.md").read_text(encoding="utf-8"))
        if examples.is_file():
            record = records.load(examples.parent.with_suffix(".json"))
            if record["dirty"]:
                raise UserError(
                    f"{examples.parent} was run on a tree with uncommitted changes; commit and run it again, or move "
                    "it away to keep the picture as it is"
                )
            with atomic(root / "book" / "_static" / "overview.png") as temporary:
                temporary.write_bytes(figures.cam_rows(figures.load_samples(examples)).png())
        with atomic(root / "README.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except UserError as error:
        print(f"wsss: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
