"""Runs of earlier versions: records, configurations, variants and folders in today's words."""

import json

import pytest
from running import folder, hashes, own_set, run, tiny

from wsss import presets, settings, stored
from wsss.cli import main
from wsss.config import Config, to_dict
from wsss.paths import UserError, project_root, read_json, write_json
from wsss.presets import NOT_IN_VARIANT, PRESETS
from wsss.report import experiments, records
from wsss.settings import flatten, override, paths
from wsss.stored import current_variant, from_dict, run_folder
from wsss.tools import sweep

RECORDS = sorted((project_root() / "data" / "results").glob("*/*/*.json"))
TRIES = sorted((project_root() / "data" / "tries").glob("*/*/*.json"))


@pytest.mark.parametrize("path", [*RECORDS, *TRIES], ids=lambda path: "/".join(path.parts[-3:]))
def test_every_published_record_opens(path):
    """Its name is that of its folder, and nothing of its configuration is lost: what differs are old words."""
    record = records.load(path)
    assert records.describe(record) == "/".join((*path.parts[-3:-1], path.name.split(".")[0]))
    config, raw = from_dict(record["config"]), paths(record["config"])
    today = json.loads(json.dumps(flatten(config)))
    changed = {key for key, value in raw.items() if key not in today or today[key] != value} - {"variant"}
    old = {key for key, value in raw.items() if settings.replacement(key, value) is not None}
    assert changed <= old | {key for name in old for key in settings.replacement(name, raw[name])}


SINCE: dict[str, set[str]] = {}
"""Preset -> settings whose value in it has changed since runs of it were published."""


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_published_record_is_its_preset_of_today_with_the_changes_of_its_name(path):
    """What was added since has the value today that the old run used; else the same words would make another run."""
    record = records.load(path)
    name, *changes = record["variant"].split("+")
    wanted = flatten(presets.get(name, **dict(part.split("=") for part in changes)))
    used = flatten(from_dict(record["config"]))
    differ = {path: (used[path], wanted[path]) for path in used if used[path] != wanted[path]}
    unlisted = differ.keys() - {*NOT_IN_VARIANT} - SINCE.get(name, set())
    assert not unlisted, {path: differ[path] for path in unlisted}


@pytest.mark.parametrize("scale", ["mini", "voc-animals"])
def test_sweep_finds_no_published_run_missing(scale, tmp_path):
    """Every published run but a student's is that of some row, and no row would train it again."""
    published = {(r["variant"], r["seed"]) for r in records.published() if r["dataset"] == scale and "teacher" not in r}
    seeds, met = tuple({seed for _, seed in published}), set()
    for name, experiment in experiments.EXPERIMENTS.items():
        if experiment.dataset == scale:
            asked = sweep.Sweep(name, seeds=seeds, output=tmp_path, published=True, only_list=True)
            for job in sweep.plan(experiment, asked):
                if (job.variant, job.seed) in published:
                    met.add((job.variant, job.seed))
                    assert not [command for command in job.left() if command[0] == "train"], f"{name}: {job.label}"
    assert met == published


OLD = {
    "mini+msc.level=class": "mini+msc.patch_weight=0.0",
    "mini+msc.level=patch": "mini",
    "voc+msc.level=patch": "voc+class_contrast.weight=0.0",
    "mini+msc.decoupling=none": "mini+msc.orthogonality_weight=0.0+msc.decorrelation_weight=0.0",
    "mini+msc.decoupling=orth+optim.lr=1e-05": "mini+msc.decorrelation_weight=0.0+optim.lr=1e-05",
    "mini-base+msc.level=both": "mini-base",
    "mini+model.width=0": "mini+model.width=None",
    "voc+segmentation.levels=(0.0,0.0)": "voc",
    "mini+schedule.modules_start=-1.0": "mini",
    "mini": "mini",
    "mini+csa.layers=(3,1)": "mini+csa.layers=(3,1)",
    "mine+msc.level=class": "mine+msc.level=class",
    "F1": "F1",
}


@pytest.mark.parametrize("old", OLD)
def test_a_variant_in_todays_words(old):
    assert current_variant(old) == OLD[old] == current_variant(OLD[old])
    name, *parts = old.split("+")
    if name in PRESETS and "(" not in old:
        changes = settings.current(dict(part.split("=") for part in parts))
        assert presets.get(name, **changes).variant == OLD[old], "the name that today's words make"


def test_an_old_configuration_is_read_and_its_sentinels_are_none():
    tree = json.loads(json.dumps(to_dict(PRESETS["mini"])))
    tree["msc"] |= {"level": "class", "decoupling": "orth"}
    tree["model"] |= {"width": 0, "decoder_width": 0}
    tree["schedule"]["modules_start"], tree["data"]["workers"], tree["segmentation"]["levels"] = -1.0, -1, [0.0, 0.0]
    tree["variant"] = "mini+msc.level=class+msc.decoupling=orth"
    config = from_dict(tree)
    assert (config.msc.patch_weight, config.msc.decorrelation_weight, config.msc.orthogonality_weight) == (0, 0, 0.05)
    automatic = (config.model.width, config.model.decoder_width, config.schedule.modules_start, config.data.workers)
    assert automatic == (None,) * 4 and config.segmentation.levels is None
    assert config.variant == "mini+msc.patch_weight=0.0+msc.decorrelation_weight=0.0"
    tree["msc"]["level"] = "nonsense"
    with pytest.raises(UserError, match="msc.level is gone"):
        from_dict(tree)


GONE = {
    "--msc.level class": "type --msc.patch_weight 0",
    "--msc.level=patch": "type --class_contrast.weight 0",
    "--msc.level both": "leave it out",
    "--msc.level": "for class type --msc.patch_weight 0; for patch type --class_contrast.weight 0; "
    "for both leave it out",
    "--msc.decoupling none": "type --msc.orthogonality_weight 0 --msc.decorrelation_weight 0",
    "--msc.decoupling orth": "type --msc.decorrelation_weight 0",
}


@pytest.mark.parametrize("typed", GONE)
def test_an_old_setting_ends_in_a_sentence_that_says_what_to_type(typed, capsys):
    assert main(["train", "mini", *typed.split()]) == 1
    path = typed[2:].replace("=", " ").split()[0]
    assert capsys.readouterr().err == f"wsss: error: {path} is gone: {GONE[typed]}\n"


def test_every_old_setting_has_words_that_todays_settings_take():
    for ways in settings.RENAMED.values():
        assert all(isinstance(override(Config(), changes), Config) for changes in ways.values())
    assert isinstance(override(Config(), dict.fromkeys(settings.AUTOMATIC)), Config)


def test_a_run_in_a_folder_of_its_old_name_counts(tmp_path):
    """For its record and its folder alike; where the new name is there, too, that is the run."""
    old, new = tmp_path / "mini+msc.level=class", tmp_path / "mini+msc.patch_weight=0.0"
    assert run_folder(tmp_path, new.name, 3) == new / "3"
    write_json(old / "3.json", {})
    assert run_folder(tmp_path, new.name, 3) == old / "3"
    assert run_folder(tmp_path, new.name, 4) == new / "4"
    (new / "3").mkdir(parents=True)
    assert run_folder(tmp_path, new.name, 3) == new / "3"


def test_a_finished_run_of_an_earlier_version_is_returned(tmp_path):
    """The same run in today's words: its old folder, record and configuration are taken as they are."""
    output, new, old = tmp_path / "runs", "smoke+msc.patch_weight=0.0", "smoke+msc.level=class"
    words = tiny(own_set(tmp_path / "own"), output, "--msc.patch_weight", "0", "--variant", new)
    assert run(*words) == 0
    place = folder(output).parent
    earlier = place.rename(place.with_name(old))
    for path in (earlier / "0.json", earlier / "0" / "config.json"):
        text = path.read_text().replace(new, old)
        text = text.replace('"patch_weight": 0.0', '"level": "class", "patch_weight": 0.1')
        path.write_text(text.replace('"modules_start": null', '"modules_start": -1.0'))
    before = hashes(output)
    assert run(*words) == 0
    assert hashes(output) == before and not place.exists()
    assert records.load(earlier / "0.json")["variant"] == new
    assert stored.from_dict(read_json(earlier / "0/config.json")).variant == new


def test_an_old_record_of_ones_own_is_found_by_tables_and_sweep(tmp_path):
    record = json.loads(next(path for path in RECORDS if "patch_weight=0.0" in str(path)).read_text())
    variant = "mini+class_contrast.weight=0.5+msc.level=class"
    write_json(tmp_path / "mini" / variant / "0.json", record | {"variant": variant, "seed": 0})
    found = records.find(tmp_path)
    for name in (variant, current_variant(variant)):
        assert [one["seed"] for one in records.select(found, "mini", name)] == [0]
    asked = sweep.Sweep("mini-level", seeds=(0, 1), output=tmp_path, only_list=True)
    jobs = sweep.plan(experiments.get("mini-level"), asked)
    assert [job.seed for job in jobs if job.label == "class tokens" and not job.left()] == [0]
