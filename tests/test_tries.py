"""The log of tries: from records, none of a seed that is reported, nothing of the machine that made them."""

import pytest

from wsss.paths import project_root
from wsss.report import records, tables
from wsss.report.experiments import SEEDS

FOUND = records.find(project_root() / "data" / "tries")


@pytest.mark.parametrize("one", FOUND, ids=lambda one: f"{one['variant']}-{one['seed']}")
def test_a_try_is_no_result(one):
    """Its seed is reported nowhere, its tree was clean, and it names nothing of the machine."""
    assert one["seed"] not in SEEDS and not one["dirty"]
    own = one["config"]
    assert not own["output"] and not own["data"]["root"] and not own["model"]["checkpoint"].startswith("/")


def test_every_record_is_a_line_of_its_table():
    lines = {name: tables.build(f"{name}-tries").rows for name in ("mini", "voc-animals")}
    assert sum(map(len, lines.values())) == len(FOUND) == len(list((project_root() / "data/tries").rglob("*.json")))
    wide = next(row for row in lines["voc-animals"] if row[0] == "c1/100")
    assert wide[1:3] == ("146 train146", "360") and wide[4] == "64.5"
    assert wide[-1].startswith("voc-animals-base, vit_base_patch16_clip_quickgelu_224.openai, model.depth 11")
