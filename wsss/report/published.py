"""Numbers of the literature, from data/published. No torch."""

import csv

from wsss import paths
from wsss.paths import UserError


def reference(path: str) -> str:
    """A number of data/published as its source prints it, "" where the source has none.

    "segmentation/METHOD/COLUMN", or "toco_logs/DATASET/BACKBONE/COLUMN" for the end of a training log.
    Raises UserError if there is no such row or column.
    """
    file, *names, column = path.split("/")
    found = rows(file)
    if file == "toco_logs":
        match = {"dataset": names[0], "backbone": names[1], "class": "mIoU"}
        found = sorted((r for r in found if match.items() <= r.items()), key=lambda r: int(r["step"]))[-1:]
    else:
        found = [row for row in found if row["method"] == "/".join(names)]
    if not found or column not in found[-1]:
        raise UserError(f"data/published has no number {path}; look up its rows and columns in {file}.csv")
    return found[-1][column]


def rows(name: str) -> list[dict[str, str]]:
    """All rows of data/published/NAME.csv."""
    path = paths.project_root() / "data" / "published" / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"there is no table of published numbers {path}; its folder lists those there are")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
