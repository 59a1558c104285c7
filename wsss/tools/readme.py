"""Table and picture of README.md: `python -m wsss.tools.readme` writes them anew, from records and a run's examples."""

from pathlib import Path

from wsss.paths import UserError, atomic, project_root
from wsss.report import figures, tables

START, END = "<!-- table headline: written by python -m wsss.tools.readme -->", "<!-- end of table -->"


def refreshed(text: str) -> str:
    """text with the table between START and END made of the published records. Raises UserError without them."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"README.md has no place for the table: a line {START} and a line {END}")
    return f"{before}{START}\n\n{tables.build('headline').markdown()}\n{END}{after}"


def main() -> None:
    """Write README.md anew; its picture too, where the published run's examples are at hand."""
    examples = project_root() / "runs" / "mini" / "mini" / "0" / "cams.npz"
    if examples.is_file():
        with atomic(project_root() / "book" / "_static" / "overview.png") as temporary:
            temporary.write_bytes(figures.cam_rows(figures.load_samples(examples)).png())
    path: Path = project_root() / "README.md"
    text = refreshed(path.read_text(encoding="utf-8"))
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
