"""Tables are made of records and published numbers; what does not belong is refused."""

import csv
import io

import pytest
from scipy import stats
from test_records import record

from wsss import cli, paths
from wsss.paths import UserError
from wsss.report import records, tables
from wsss.report.experiments import SEEDS


def with_results(numbers, **fields):
    return record(results=numbers, **fields)


def seg(miou):
    return {"segmentation": {"miou": miou, "miou_headline": miou}}


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_builds_from_no_records(name):
    table = tables.build(name, [])
    assert all(len(row) == len(table.columns) for row in table.rows)
    if name not in ("literature", "records", "settings") and not name.endswith("-tries"):
        assert "not run" in table.text() and ("wsss train" in table.text() or "wsss sweep " in table.text())


def test_experiments_that_nobody_ran_are_named_and_printed_when_asked_for(tmp_path, capsys):
    records.save(with_results(seg(40.0), variant="mini-msc"), tmp_path / "mini" / "mini-msc" / "0.json")
    assert cli.main(["tables", "--records", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "mini: components" in said and "mini: components (mini, 2 images of val), differences" in said
    assert "mini: number of subspaces" not in said and "not run yet: " in said and "mini-subspaces, " in said
    assert "smoke:" not in said and "smoke-" not in said
    assert cli.main(["tables", "mini-subspaces", "--records", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mini: number of subspaces") and said.count("not run") >= 16 and "nobody" not in said


def test_the_three_forms_hold_the_same_cells():
    table = tables.build("headline", [])
    assert list(csv.reader(io.StringIO(table.csv()))) == [list(table.columns), *map(list, table.rows)]
    for row in table.rows:
        assert "| " + " | ".join(row) + " |" in table.markdown()
        assert all(cell in table.text() for cell in row)


def voc(ids=None, name="final", seed=0, miou=71.0):
    ids = records.split_ids("voc-val") if ids is None else ids
    return with_results(seg(miou), dataset="voc", variant="voc", ids=ids, protocol={"name": name}, seed=seed)


def test_a_voc_table_takes_voc_val():
    chosen = [voc(seed=seed, miou=miou) for seed, miou in ((0, 71.0), (1, 73.0))]
    row = tables.build("voc", chosen).rows[0]
    assert row == (
        "segmentation, val",
        "71.8",
        "71.1",
        "72.0 ± 1.4 (2 seeds)",
        "1,449 val",
        "+0.2",
        "wsss train voc --seed 0, then wsss evaluate RUN --protocol voc",
    )


def pair(seed, base, both, **fields):
    return [
        with_results(seg(base), variant="mini-base", seed=seed, **fields),
        with_results(seg(both), seed=seed, **fields),
    ]


def test_the_first_table_holds_base_and_modules_on_the_same_seeds_and_never_one_alone():
    chosen = [*pair(0, 34.0, 34.5), *pair(1, 36.0, 36.1), *pair(3, 50.0, 51.0, device="another")]
    chosen += [with_results(seg(90.0), seed=2)]  # without its base
    row = next(row for row in tables.build("headline", chosen).rows if row[0] == "mini (drawn)")
    low, high = stats.ttest_1samp([0.5, 0.1, 1.0], 0).confidence_interval(0.95)
    gain = f"+0.5 [{low:+.1f} to {high:+.1f}] (3 pairs)"
    assert row[3:6] == ("35.0 ± 1.4 (2 seeds)", "35.3 ± 1.1 (2 seeds)", gain)
    note = tables.build("headline", chosen).note
    assert "seeds 0, 1 on CPU; seed 3 on another" in note
    for alone, cells in ((chosen[:1], ("run, not paired", "not run")), (chosen[1:2], ("not run", "run, not paired"))):
        row = next(row for row in tables.build("headline", alone).rows if row[0] == "mini (drawn)")
        assert row[3:6] == (*cells, tables.ABSENT) and "wsss train mini-base --seed 0; wsss train mini --seed 0" in row
    one = next(row for row in tables.build("headline", chosen[:2]).rows if row[0] == "mini (drawn)")
    assert one[5] == "+0.5 (1 pair)"


def test_settings_of_presets_are_those_that_make_another_run():
    table = tables.build("settings", [])
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["--optim.steps"] == ("20000", "80000", "480", "1600") and "--seed" not in rows
    assert rows["--csa.direction"] == ("scheduled", "scheduled", "aux_to_last", "aux_to_last")
    assert rows["--cam.scales"][0] == "1, 0.5, 1.5" and rows["--optim.lr"][0] == "6e-05"


@pytest.mark.parametrize("name", ["voc", "headline"])
@pytest.mark.parametrize("ids", [("a", "b"), records.split_ids("voc-val")[1:]], ids=["mini", "short"])
def test_a_voc_table_refuses_a_mini_record_and_a_short_list(name, ids):
    with pytest.raises(UserError, match="voc-val"):
        tables.build(name, [voc(ids)])


def test_a_number_by_the_training_protocol_is_not_set_beside_the_papers():
    rows = {row[0]: row for row in tables.build("voc", [voc(name="training")]).rows}
    assert rows["segmentation, val"][3] == "not run"
    assert rows["segmentation, val, in training"][1:4] == (tables.ABSENT, "69.2", "71.0 (1 seed)")


def test_side_by_side_shows_intervals_and_what_was_not_run():
    part = {"cam": {"part": 70.0, "rest": 25.0, "rest_interval": [22.0, 28.0]}}
    table = tables.build("mini", [with_results(seg(40.0) | {"coverage": part}, variant="mini-plain")])
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["CAM covers beyond the part"] == ("25.0 (1 seed) [22.0, 28.0]", "not run", "not run")
    assert rows["segmentation mIoU"][0] == "40.0 (1 seed)"
    assert "classification mAP" not in rows and rows["CAM pixel AUC"] == ("not measured", "not run", "not run")
    assert "wsss train mini --seed 0" in table.note and "mini-plain" not in table.note


def test_own_runs_have_a_column_of_their_own_and_replace_nothing():
    """The reader's seed 0 on another processor stands beside the published seeds, whose column stays as it was."""
    chosen = [*pair(0, 34.0, 34.5), *pair(1, 36.0, 36.1)]
    before = tables.build("mini", chosen)
    after = tables.build("mini", chosen, [with_results(seg(50.0), device="yours")])
    assert after.columns == (*before.columns, "your mini") and "Your runs: seed 0 on yours." in after.note
    assert [row[:-1] for row in after.rows] == list(before.rows)
    assert next(row for row in after.rows if row[0] == "segmentation mIoU")[-1] == "50.0 (1 seed)"
    other = tables.build("mini", chosen, [with_results(seg(50.0), ids=("a", "c"))])
    assert other.columns == before.columns and "published: your mini" in other.note


def test_the_table_of_a_run_says_what_it_was_measured_on():
    part = {"cam": {"part": 70.0, "rest": 25.0, "rest_interval": [22.0, 28.0]}}
    table = tables.of_run(with_results(seg(40.0) | {"coverage": part}))
    assert ("CAM covers beyond the part", "25.0", "22.0 to 28.0") in table.rows
    assert "2 val images" in table.title and "abc1234" in table.note and "Protocol training" in table.note
    assert "<caption>mini/mini/0" in table.as_html()


def test_records_of_before_these_measures_still_tabulate():
    """A new record beside an old one: what the old one lacks is absent, and nothing fails."""
    new = {"cam": {"miou": 30.0, "miou_headline": 30.0, "over_activation": 20.0, "boundary_iou": None}}
    new |= seg(40.0) | {"sweep": {"cam": {"best_headline": 33.0}}, "agreement": {"difference": 12.0}}
    chosen = [with_results(seg(38.0), variant="mini-plain"), with_results(new)]
    rows = {row[0]: row[1:] for row in tables.build("mini", chosen).rows}
    assert rows["CAM over-activation"] == ("not measured", "not run", "20.0 (1 seed)")
    assert rows["CAM mIoU, best threshold"] == ("not measured", "not run", "33.0 (1 seed)")
    assert rows["CAM and aux CAM, difference"] == ("not measured", "not run", "12.0 (1 seed)")
    assert "CAM boundary IoU" not in rows
    for one in records.find(paths.project_root() / "data" / "results"):
        assert len(tables.of_run(one).rows) >= 4


def at(found, stem=None):
    where = f"data/results/{found['dataset']}/{found['variant']}/{stem or found['seed']}.json"
    return found | {"path": where}


FIRST, SECOND = at(record()), at(record(seed=1, commit="bbbbbbb", seconds={"train": 120.0, "evaluate": 1.0}))
OTHER = at(record(dataset="other", variant="other"))


BASE = at(record(variant="mini-base"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("headline", [FIRST, BASE]), ("mini", [BASE, FIRST]), ("mini-csa", [FIRST, SECOND]), ("settings", [])],
)
def test_a_table_names_the_records_whose_numbers_it_shows(name, shown):
    table = tables.build(name, [FIRST, SECOND, BASE, OTHER])
    assert list(table.records) == shown


def test_every_record_is_listed_with_its_protocol_in_its_name_and_trained_once():
    numbers = {"results": {"segmentation": {"miou_headline": 41.04}}, "protocol": {"name": "final"}}
    final = at(SECOND | numbers, "1.voc-crf")
    rows = tables.build("records", [SECOND, final, OTHER]).rows
    assert [row[0] for row in rows] == ["mini/mini/1", "mini/mini/1.voc-crf", "other/other/0"]
    assert rows[1][2:4] == ("–", "41.0") and rows[0][5] == SECOND["commit"]
    assert "; 2 minutes" in records.origin([SECOND, final])


FOUND = records.find(paths.project_root() / "data" / "tries")


def test_every_try_is_a_line_of_its_table_and_none_is_a_result():
    lines = {name: tables.build(f"{name}-tries").rows for name in ("mini", "voc-animals")}
    files = list((paths.project_root() / "data/tries").rglob("*.json"))
    assert sum(map(len, lines.values())) == len(FOUND) == len(files)
    wide = next(row for row in lines["voc-animals"] if row[0] == "c1/100")
    assert wide[1:3] == ("146 train146", "360") and wide[4] == "64.5"
    assert wide[-1].startswith("voc-animals-base, vit_base_patch16_clip_quickgelu_224.openai, model.depth 11")
    for attempt in FOUND:
        config, where = attempt["config"], attempt["path"]
        assert attempt["seed"] not in SEEDS and not attempt["dirty"], where
        assert not config["output"] and not config["data"]["root"], where
        assert not config["model"]["checkpoint"].startswith("/"), where
