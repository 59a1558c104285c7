"""Where what is shown comes from: the records that a table shows, the line under it, the list of all records."""

import pytest
from test_records import record

from wsss.report import records, tables


def path(found, stem=None):
    where = f"data/results/{found['dataset']}/{found['variant']}/{stem or found['seed']}.json"
    return found | {"path": where}


FIRST, SECOND = path(record()), path(record(seed=1, commit="bbbbbbb", seconds={"train": 120.0, "evaluate": 1.0}))
OTHER = path(record(dataset="other", variant="other"))


BASE = path(record(variant="mini-base"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("headline", [FIRST, BASE]), ("mini", [BASE, FIRST]), ("mini-csa", [FIRST, SECOND]), ("settings", [])],
)
def test_a_table_names_the_records_whose_numbers_it_shows(name, shown):
    table = tables.build(name, [FIRST, SECOND, BASE, OTHER])
    assert list(table.records) == shown


def test_the_line_names_few_things_and_counts_many():
    trained = (FIRST["seconds"]["train"] + 120) / 60
    assert records.origin([FIRST, SECOND]) == (
        f"From 2 records; variant mini; seeds 0, 1; commits {FIRST['commit']}, bbbbbbb; {trained:,.0f} minutes of "
        f"training on {FIRST['device']}."
    )
    many = [path(record(seed=n, commit=f"{n}" * 7)) for n in range(5)]
    assert "From 5 records; variant mini; seeds 0, 1, 2, 3, 4; 5 commits;" in records.origin(many)
    assert records.origin([]) == ""


def test_a_run_evaluated_twice_was_trained_once():
    final = path(FIRST | {"protocol": {"name": "final"}}, "0.voc-crf")
    trained = FIRST["seconds"]["train"] / 60
    assert f"; {trained:,.0f} minutes" in records.origin([FIRST, final])


def test_a_notebook_says_what_ran_where():
    stamp = {"notebook": "notebooks/a.ipynb", "parameters": {"seed": 3}, "date": "2026-01-02", "commit": "abc"}
    stamp |= {"seconds": 4.5, "device": "a processor"}
    assert records.notebook_origin(stamp) == (
        "From notebooks/a.ipynb, seed 3; run 2026-01-02 at commit abc in 4.5 s on a processor."
    )


def test_every_record_is_listed_with_its_protocol_in_its_name():
    final = path(FIRST | {"results": {"segmentation": {"miou_headline": 41.04}}}, "0.voc-crf")
    rows = tables.build("records", [FIRST, final, OTHER]).rows
    assert [row[0] for row in rows] == ["mini/mini/0", "mini/mini/0.voc-crf", "other/other/0"]
    assert rows[1][2:4] == ("–", "41.0") and rows[0][5] == FIRST["commit"]
