"""`wsss train voc-toco --gate`: compare the first fifth of a run with the base's own log, before days on GPUs."""

import math
from typing import Any

from wsss import config as configuration
from wsss import distributed, presets, train
from wsss.config import Config
from wsss.data import sets
from wsss.paths import UserError, write_json
from wsss.registry import title
from wsss.report import gate, records


class Gate(train.Trainer):
    """A run that stops at the last evaluation of the gate. Its folder is that of the whole run, which goes on from its
    checkpoint. Its record is gate.json in that folder; tables, figures and `publish` ignore it."""

    def __init__(self, config: Config, *parts: Any):
        self.rows, whole = gate.rows(config.name)
        self.due = {row.step: round(row.step / whole * config.optim.steps) for row in self.rows}
        super().__init__(config, *parts)
        self.last = max(self.due.values())

    def is_due(self) -> bool:
        """Return whether the base's log has an evaluation at this step; only these steps are validated."""
        return self.step in self.due.values()

    def finish(self, data: records.Digests) -> dict[str, Any]:
        """Judge the run's validations at these steps, and write gate.json. Raises UserError if one is missing."""
        distributed.barrier()  # until process 0 has written the last validation
        known = {row["step"]: row["validation"] for row in self.log.validations(self.last)}
        if missing := sorted(set(self.due.values()) - known.keys()):
            raise UserError(
                f"{self.folder} is trained beyond step {self.last} without a validation at step {missing[0]}; start "
                "again with another --output"
            )
        measured = [
            gate.GateRow(**vars(row) | {"measured": math.nan if value is None else value})
            for row in self.rows
            for value in [known[self.due[row.step]][row.kind]]
        ]
        unlike = self._unlike()
        passed, causes = (None, [f"not judged, {unlike}"]) if unlike else gate.verdict(measured)
        record = {
            "kind": "gate",
            "preset": self.config.name,
            "seed": self.config.seed,
            "passed": passed,
            "verdict": causes,
            # JSON has no NaN.
            "numbers": [vars(r) | {"measured": None if math.isnan(r.measured) else r.measured} for r in measured],
            "step": self.last,
            "config": configuration.to_dict(self.config),
            "data": data,
            **self.model.origin(),
            "processes": distributed.world_size(),
            "seconds": round(self.seconds, 1),
            **self.stamp,
        }
        path = self.folder / "gate.json"
        if self.main:
            write_json(path, record)
        distributed.barrier()
        return {"gate": gate.verdict_table(measured, passed, causes, path).text(), "passed": passed}

    def _unlike(self) -> str:
        """Say why the numbers must not be compared with the base's log; empty if they may."""
        changed = sorted(presets.changes(self.config).keys() - gate.IRRELEVANT)
        if changed:
            return f"since the run has other settings than the base's ({', '.join(changed[:3])})"
        dataset = gate.LOGS[self.config.name][0]
        if sets.name_of(self.config.data, self.train_split.kit.root) != dataset or (
            records.ids_digest(self.val_split.ids) != records.ids_digest(records.split_ids(f"{dataset}-val"))
        ):
            return f"since the images are not those of {title(dataset)}"
        return ""
