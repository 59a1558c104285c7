"""The log of a training: one JSON object a line, whole lines only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.paths import UserError, atomic


@dataclass(frozen=True)
class Log:
    """The file log.jsonl of a run."""

    path: Path

    def lines(self, last: int) -> list[str]:
        """The whole lines of the steps from 1 to `last`. Raises UserError."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            return [line for line in lines if line.endswith("\n") and 0 < json.loads(line)["step"] <= last]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.path} is no log of training ({error}); move it away to go on without it") from error

    def validations(self, last: int) -> list[dict[str, Any]]:
        """The validations up to step `last`. Raises UserError."""
        return [row for row in map(json.loads, self.lines(last)) if "validation" in row]

    def begin(self, first: dict[str, Any], last: int) -> None:
        """Keep what is whole of the steps up to `last`, after a first row of step 0."""
        lines = self.lines(last) if self.path.exists() else []
        with atomic(self.path) as temporary:
            temporary.write_text("".join([json.dumps({"step": 0, **first}) + "\n", *lines]), encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
