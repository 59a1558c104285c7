"""Runs of earlier versions: records, configurations and variants in today's words."""

import json

import pytest

from wsss import presets
from wsss.config import to_dict
from wsss.paths import UserError, project_root
from wsss.presets import NOT_IN_VARIANT, PRESETS
from wsss.report import experiments, records
from wsss.settings import flatten, paths
from wsss.stored import current_variant, from_dict
from wsss.tools import sweep

RECORDS = sorted((project_root() / "data" / "results").glob("*/*/*.json"))
TRIES = sorted((project_root() / "data" / "tries").glob("*/*/*.json"))
OLD_SETTINGS = {"variant", "msc.level", "msc.decoupling", "data.workers", "segmentation.levels"}
OLD_SETTINGS |= {f"model.{name}" for name in ("patch_size", "image_size", "width", "depth", "heads", "decoder_width")}
OF_MSC = {"msc.patch_weight", "class_contrast.weight", "msc.orthogonality_weight", "msc.decorrelation_weight"}
"""Settings that the old msc.level and msc.decoupling set."""


@pytest.mark.parametrize("path", [*RECORDS, *TRIES], ids=lambda path: "/".join(path.parts[-3:]))
def test_every_published_record_opens(path):
    """Its name is that of its folder, and nothing of its configuration is lost but the old words for it."""
    record = records.load(path)
    assert records.describe(record) == "/".join((*path.parts[-3:-1], path.name.split(".")[0]))
    raw = paths(record["config"])
    today = json.loads(json.dumps(flatten(from_dict(record["config"]))))
    changed = {key for key, value in raw.items() if key not in today or today[key] != value}
    plain = {raw.get("msc.level", "both"), raw.get("msc.decoupling", "both")} == {"both"}
    assert changed <= OLD_SETTINGS | (set() if plain else OF_MSC)


SINCE: dict[str, set[str]] = {}
"""Preset -> settings whose value in it has changed since runs of it were published."""


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_published_record_is_its_preset_of_today_with_the_changes_of_its_name(path):
    """A setting added since has the value today that the old run used; else the same command would make another run."""
    record = records.load(path)
    name, *changes = record["variant"].split("+")
    used = flatten(from_dict(record["config"]))
    if "teacher" not in record:
        named = dict(part.split("=") for part in changes)
    else:  # its name is too long and cut; the contrast is that of its teacher
        taught = records.load(path.parents[2] / f"{record['teacher']['run']}.json")["config"]
        named = {key: value for key, value in flatten(from_dict(taught)).items() if key.startswith("msc.")}
        named["model.checkpoint"] = used["model.checkpoint"]
    wanted = flatten(presets.get(name, **named))
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
    "voc+msc.level=patch": "voc+class_contrast.weight=0.0",
    "mini+msc.decoupling=none": "mini+msc.orthogonality_weight=0.0+msc.decorrelation_weight=0.0",
    "mini+msc.decoupling=orth+optim.lr=1e-05": "mini+msc.decorrelation_weight=0.0+optim.lr=1e-05",
    "mini": "mini",
    "mini+csa.layers=(3,1)+optim.lr=1e+00": "mini+csa.layers=(3,1)+optim.lr=1e+00",
    "F1": "F1",
}


@pytest.mark.parametrize("old", OLD)
def test_a_variant_in_todays_words(old):
    assert current_variant(old) == OLD[old] == current_variant(OLD[old])


def test_an_old_configuration_is_read_and_its_sentinels_are_none():
    tree = json.loads(json.dumps(to_dict(PRESETS["mini"])))
    tree["msc"] |= {"level": "class", "decoupling": "orth"}
    tree["model"]["decoder_width"], tree["data"]["workers"], tree["segmentation"]["levels"] = 0, -1, [0.0, 0.0]
    tree["variant"] = "mini+msc.level=class+msc.decoupling=orth"
    config = from_dict(tree)
    assert (config.msc.patch_weight, config.msc.decorrelation_weight, config.msc.orthogonality_weight) == (0, 0, 0.05)
    assert (config.model.decoder_width, config.data.workers, config.segmentation.levels) == (None,) * 3
    assert config.variant == "mini+msc.patch_weight=0.0+msc.decorrelation_weight=0.0"
    with pytest.raises(UserError, match="there is no setting named msc.depth"):
        from_dict({"msc": {"depth": 1}})
