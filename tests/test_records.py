"""Records, their fingerprints, publishing."""

import json
import re

import numpy as np
import pytest

from wsss import paths
from wsss.paths import UserError
from wsss.report import publish, records, statistics


def record(dataset="mini", variant="mini", seed=0, ids=("a", "b"), **fields):
    digests = [records.mask_digest(np.zeros((2, 2), np.uint8))] * len(ids)
    whole = {
        "schema": records.SCHEMA,
        "dataset": dataset,
        "variant": variant,
        "preset": variant,
        "seed": seed,
        "split": "val",
        "images": len(ids),
        "fingerprint": records.fingerprint(list(ids), digests),
        "protocol": {"name": "training"},
        "results": {"segmentation": {"miou": 40.0 + seed, "miou_headline": 40.0 + seed}},
        "config": {},
        "commit": "abc1234",
        "dirty": False,
        "device": "CPU",
        "versions": {},
        "steps": 1,
        "seconds": {"train": 1.0},
        "date": "2026-11-22",
    }
    return whole | fields


def notebook(source="x = 1", tags=(), outputs=(), **metadata):
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}, "outputs": list(outputs)}
    return {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def is_stale(executed, source):
    """Whether the cells of an executed notebook, except papermill's parameters, differ from those of its source."""
    cells = [
        [
            (c["cell_type"], "".join(c["source"]).strip())
            for c in json.loads(path.read_text())["cells"]
            if "injected-parameters" not in c["metadata"].get("tags", [])
        ]
        for path in (executed, source)
    ]
    return cells[0] != cells[1]


def put(path, content):
    paths.write_json(path, content)
    return path


def test_fingerprint_knows_images_and_masks_but_not_their_order():
    ids, digests = ["b", "a"], ["02", "01"]
    mark = records.fingerprint(ids, digests)
    assert mark == records.fingerprint(["a", "b"], ["01", "02"])
    assert mark["images"] == 2 and mark["ids"] == records.ids_digest(["a", "b"])
    assert mark["masks"] != records.fingerprint(ids, ["01", "02"])["masks"]
    with pytest.raises(UserError, match="twice"):
        records.fingerprint(["a", "a"], ["01", "02"])


@pytest.mark.parametrize("field", [*records.FIELDS, "schema"])
def test_a_record_lacking_a_field_is_neither_written_nor_read(tmp_path, field):
    broken = record()
    del broken[field]
    with pytest.raises(UserError):
        records.save(broken, tmp_path / "0.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError):
        records.load(put(tmp_path / "1.json", broken))
    for text in ("", "{", "[]", "3"):
        (tmp_path / "0.json").write_text(text)
        with pytest.raises(UserError, match="0.json"):
            records.load(tmp_path / "0.json")


def test_find_leaves_out_what_must_not_be_averaged_with_the_first_root(tmp_path, capsys):
    """Left out of a later root: the same run again, another size, other images. Another protocol's records are kept."""
    own = {"0.json": record(), "0.voc-crf.json": record(protocol={"name": "final"})}
    others = {
        "0.json": record(commit="two"),
        "1.json": record(seed=1, protocol={"name": "training", "size": 96}),
        "2.json": record(seed=2, ids=("a", "c")),
        "3.json": record(seed=3),
        "3.voc-crf.json": record(seed=3, protocol={"name": "final"}),
    }
    for root, files in (("one", own), ("two", others)):
        for name, content in files.items():
            records.save(content, tmp_path / root / "mini" / "mini" / name)
    found = records.find(tmp_path / "one", tmp_path / "two")
    kinds = ("training", "final")
    assert [(r["seed"], r["protocol"]["name"]) for r in found] == [(seed, kind) for seed in (0, 3) for kind in kinds]
    assert found[0]["commit"] != "two"
    said = r"note: 2 records are left out.* they differ, first \S*1\.json .*\(the protocol\)"
    assert re.search(said, capsys.readouterr().err)
    assert len(records.find(tmp_path / "two")) == 5, "within a root nothing is left out"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 0}, "a seed occurs twice"),
        ({"ids": ("a", "c")}, "differ in fingerprint"),
        ({"protocol": {"name": "final"}}, "differ in protocol"),
        ({"data": {"train": {}, "val": {"classes": "others"}}}, "differ in their data .the classes."),
        ({"device": "another"}, "several processors"),
        ({"threads": 2}, "several processors"),
        ({"config": {"optim": {"lr": 1e-3}}}, r"differ in settings .optim.lr"),
        ({"weights": {"sha256": "b"}}, "differ in their start weights"),
    ],
)
def test_summary_refuses_what_does_not_belong_together(other, says):
    first = record(data={"train": {}, "val": {"classes": "some"}}, weights={"sha256": "a"})
    with pytest.raises(UserError, match=says):
        statistics.summarise([first, record(**{"seed": 1} | other)], "segmentation.miou")


def test_runs_pair_on_one_processor_with_as_many_images_at_once():
    """Losses are over the images of one process: two processes of two images are no peers of one of four."""
    config = {"optim": {"batch": 4, "accumulate": 1}}
    ones = [record(seed=seed, config=config) for seed in range(2)]
    twos = [record(seed=seed, config=config, processes=2) for seed in range(2)]
    assert records.of_one_processor([*ones, twos[0]]) == ones and not statistics.paired_runs(ones, twos, "segmentation")
    assert len(statistics.paired_runs(ones, ones, "segmentation")) == 2
    assert (
        records.processors([ones[0], twos[1]]) == "seed 0 on CPU (4 images at once); seed 1 on CPU (2 images at once)"
    )


def test_the_processor_with_most_seeds_is_taken_else_that_of_the_lowest():
    runs = [record(seed=seed, device=device) for seed, device in ((5, "A"), (0, "A"), (1, "B"), (2, "B"), (7, "C"))]
    assert [r["seed"] for r in records.of_one_processor(runs)] == [0, 5] and records.of_one_processor([]) == []
    assert [r["seed"] for r in records.of_one_processor(runs[2:])] == [1, 2]
    others = [record(variant="other", seed=seed, device=device) for seed, device in ((1, "B"), (5, "A"), (2, "B"))]
    assert [[r["seed"] for r in group] for group in records.comparable([runs, others, []])] == [[1, 2], [1, 2], []]
    said = records.processors(runs[:4])
    assert said == "seeds 0, 5 on A; seeds 1, 2 on B"
    assert records.processors([record(threads=2)]) == "seed 0 on CPU (2 threads)"


def test_guesses_of_old_records(tmp_path):
    """Their number is the mean over all present classes. With other headline classes, the headline was not measured."""
    for seed, headline in ((0, []), (1, ["cup"])):
        old = record(seed=seed, config={"data": {"headline": headline}})
        old["results"] |= {"guesses": {"background": 3.9, "centre": 16.8}}
        path = tmp_path / "mini" / "mini" / f"{seed}.json"
        records.save(old, path)
        found = records.load(path)
        assert records.value(found, "guesses.centre.miou") == 16.8
        assert records.has(found, "guesses.centre.miou_headline") == (not headline)
    new = record(results={"guesses": {"centre": {"miou": 16.8, "miou_headline": 34.4}}})
    records.save(new, path)
    assert records.value(records.load(path), "guesses.centre.miou_headline") == 34.4


def test_one_record_is_found_or_missed_in_words():
    chosen = [record(), record(seed=1)]
    assert records.one(chosen, "mini", 1)["seed"] == 1
    with pytest.raises(UserError, match="wsss train voc --seed 0"):
        records.one(chosen, "voc", 0)
    with pytest.raises(UserError, match="mini/mini/0, other/mini/0"):
        records.one([record(), record("other")], "mini", 0)
    with pytest.raises(KeyError, match="mini/mini/0 has no result cam.miou"):
        records.value(record(), "cam.miou")


def test_counts_lie_beside_the_record(tmp_path):
    path = tmp_path / "mini" / "mini" / "0.json"
    records.save(record(), path)
    assert records.load_counts(records.load(path)) == {} == records.load_counts(record())
    records.save_counts(path.with_suffix(".npz"), ["a", "b"], segmentation=np.ones((2, 3, 3)))
    counts = records.load_counts(records.load(path))
    assert counts["ids"].tolist() == ["a", "b"] and counts["segmentation"].shape == (2, 3, 3)
    whole = path.with_suffix(".npz").read_bytes()
    for broken in (b"", b"no counts", whole[:90], whole[:-9]):
        path.with_suffix(".npz").write_bytes(broken)
        with pytest.raises(UserError, match="counts .*0.npz cannot be read .*evaluate the run again"):
            records.load_counts(records.load(path))


@pytest.fixture
def run(tmp_path):
    """A finished run below `runs`: one record with counts and one notebook."""
    records.save(record(), tmp_path / "runs" / "mini" / "mini" / "0.json")
    records.save_counts(tmp_path / "runs" / "mini" / "mini" / "0.npz", ["a"], cam=np.ones((1, 2, 3)))
    put(tmp_path / "runs" / "notebooks" / "train_voc.ipynb", notebook(wsss={"dirty": False}))
    return tmp_path


FAULTS = {
    "dirty record": lambda run: records.save(record(seed=1, dirty=True), run / "mini" / "mini" / "1.json"),
    "evaluated by a dirty tree": lambda run: records.save(
        record(seed=1, evaluated_by={"dirty": True}), run / "mini" / "mini" / "1.json"
    ),
    "dirty notebook": lambda run: put(run / "notebooks" / "b.ipynb", notebook(wsss={"dirty": True})),
    "error": lambda run: put(run / "notebooks" / "b.ipynb", notebook(outputs=[{"output_type": "error"}])),
    "exception": lambda run: put(run / "notebooks" / "b.ipynb", notebook(papermill={"exception": True})),
    "failed": lambda run: put(run / "notebooks" / "b.failed.ipynb", notebook()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_publish_refuses_all_for_one_fault(run, fault):
    FAULTS[fault](run / "runs")
    with pytest.raises(UserError, match="nothing was published"):
        publish.publish(run / "runs", run)
    assert not (run / "data").exists() and not (run / "book").exists()


def test_publish_copies_what_is_asked_for(run):
    publish.publish(run / "runs", run)
    results = run / "data/results"
    assert records.load(results / "mini/mini/0.json")["images"] == 2 and (results / "mini/mini/0.npz").is_file()
    assert (run / "book/runs/train_voc.ipynb").is_file()
    FAULTS["dirty record"](run / "runs")
    records.save(record("voc"), run / "runs/voc/mini/0.json")
    files = publish.publish(run / "runs", run, only=["voc/*"])
    assert [file.name for file in files] == ["0.json", "train_voc.ipynb"]
    with pytest.raises(UserError, match="no finished run"):
        publish.publish(run / "nothing", run)


def test_records_of_other_protocols_and_weights_stand_beside_the_runs_own(tmp_path):
    """SEED.WORDS.json hides nothing, enters no table of training numbers, and is published under its own name."""
    own = {"0.json": record(), "0.best.json": record(steps=2), "0.voc-crf.json": record(protocol={"name": "final"})}
    for name, content in own.items():
        records.save(content, tmp_path / "runs/mini/mini" / name)
    found = records.find(tmp_path / "runs")
    assert len(found) == 3
    assert [r["path"][-6:] for r in records.select(found, "mini", "mini")] == ["0.json"]
    assert [r["path"][-14:] for r in records.select(found, "mini", "mini", "final")] == ["0.voc-crf.json"]
    assert records.one(found, "mini", 0)["steps"] == 1
    published = publish.publish(tmp_path / "runs", tmp_path / "target")
    assert {path.name for path in published} == set(own)
