"""A run from the command line to its record, and what stops one."""

import itertools
import json
import math
import re
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image
from running import assert_same_run, folder, hashes, log, own_set, record, run, tiny, write_mask
from safetensors.torch import load_file

from wsss import checkpoint, method, train
from wsss.paths import UserError, sha256
from wsss.report import figures, records
from wsss.report.records import FIELDS


@pytest.fixture(scope="module")
def drawn(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("drawn")
    assert run("train", "smoke", "--data.root", mini_root, "--output", output, "--augment.local_size", "16") == 0
    return output


def test_the_record_is_whole(drawn):
    found = record(drawn)
    assert records.load(folder(drawn).with_suffix(".json"))["schema"] == 1
    assert set(FIELDS) | {"dataset_title", "backbone", "processes", "threads"} <= found.keys()
    assert (found["dataset"], found["preset"], found["seed"], found["split"]) == ("smoke", "smoke", 0, "val")
    assert found["images"] == found["fingerprint"]["images"] == 8
    protocol = {"label_source": "annotations", "mask_source": "SegmentationClass", "train_images": 16, "size": 64}
    assert protocol.items() <= found["protocol"].items()
    assert found["results"].keys() == {
        *("segmentation", "cam", "aux_cam", "classification", "guesses", "coverage"),
        *("pseudo_label", "sweep", "agreement", "auc", "subspaces"),
    }
    assert found["config"]["optim"]["steps"] == found["steps"] == 8
    assert found["seconds"].keys() == {"train", "evaluate"}
    assert str(drawn) not in json.dumps(found), "no path of this machine in a record"


def test_the_numbers_follow_from_the_counts_beside_the_record(drawn):
    found = records.load(folder(drawn).with_suffix(".json"))
    counts = records.load_counts(found)
    assert counts["ids"].tolist() == sorted(counts["ids"]) and len(counts["ids"]) == 8
    for kind in ("segmentation", "cam", "aux_cam"):
        right, extra, missed = counts[kind].sum(0).T.astype(float)
        present = right + missed > 0
        iou = 100 * right[present] / (right + extra + missed)[present]
        assert found["results"][kind]["miou"] == pytest.approx(iou.mean(), abs=1e-3)
    assert (folder(drawn).with_suffix(".npz")).stat().st_size < 500_000


def test_D11_a_run_leaves_weights_state_log_and_examples_and_no_logits(drawn):
    names = {path.name for path in folder(drawn).iterdir()}
    assert names == {
        *("config.json", "data.json", "log.jsonl", "cams.npz", "best.safetensors"),
        *("step-00000008.safetensors", "step-00000008.pt"),
    }
    rows = log(drawn)
    shown = {"labels": "annotations", "masks": "SegmentationClass", "classes": 9, "train": 16, "val": 8}
    assert rows[0]["data"] == shown and rows[0]["start"]["weights"] == {"sha256": None, "source": "random"}
    assert rows[0]["start"]["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert [row["step"] for row in rows if "weights" in row] == list(range(1, 9))
    assert [row["step"] for row in rows if "validation" in row] == [4]
    with np.load(folder(drawn) / "cams.npz") as arrays:
        assert len(arrays["ids"]) == 8 and arrays["images"].shape == (8, 64, 64, 3)
    assert "step" in figures.learning_curves(folder(drawn) / "log.jsonl").alt


def test_watched_lists_are_measured_at_every_validation_and_at_the_end(own, tmp_path):
    """The same weights and record as without; what was found stands in the record, and evaluating again keeps it."""
    words = ("--validate-every", "0.5", "--seed", "3")
    assert run(*tiny(own, tmp_path / "plain", *words)) == 0
    assert run(*tiny(own, tmp_path / "watched", *words, "--data.watch", "train", "val")) == 0
    plain, found = record(tmp_path / "plain"), record(tmp_path / "watched")
    assert found["results"] == plain["results"] and found["variant"] == plain["variant"]
    assert [row["step"] for row in plain["validations"]] == [2] and "watched" not in plain["validations"][0]
    assert [row["step"] for row in found["validations"]] == [2, 4]
    for row in found["validations"]:
        assert row["watched"].keys() == {"train", "val"} and row["watched"]["val"] == row["validation"]
        assert row["validation"].keys() >= {"cam", "aux_cam", "segmentation", "map", "agreement", "auc"}
        best = row["validation"]["best"]
        assert all(best[layer] >= row["validation"][layer] for layer in ("cam", "aux_cam"))
    last = found["validations"][-1]["validation"]
    assert last["cam"] == found["results"]["cam"]["miou_headline"]
    assert run("evaluate", folder(tmp_path / "watched")) == 0
    assert record(tmp_path / "watched")["validations"] == found["validations"]


def test_a_fully_supervised_run_learns_from_masks_and_is_of_another_data_set(tmp_path, capsys, refused):
    """Other masks are other data and other weights; its record bears a name that no table asks for."""
    own, weights = own_set(tmp_path / "own", labels=["cup jug"] * 4), []
    words = ("--data.supervision", "masks", "--schedule.segmentation_start", "0")
    for number in range(2):
        assert run(*tiny(own, tmp_path / str(number), *words)) == 0
        weights.append(sha256(next(folder(tmp_path / str(number)).glob("step-*.safetensors"))))
        for path in (own / "SegmentationClass").glob("train_*.png"):
            write_mask(path, np.where(np.array(Image.open(path)) == 1, 2, 1).astype(np.uint8))
    found = record(tmp_path / "1")
    assert found["dataset"] == "own-fully-supervised" and found["dataset_title"] == "own, fully supervised"
    assert "masks" in found["data"]["train"] and weights[0] != weights[1]
    assert not records.select([found], "own", found["variant"])
    capsys.readouterr()
    assert "the masks of train differ" in refused(*tiny(own, tmp_path / "0", *words))


def test_best_weights_are_those_of_the_best_validation(trained):
    checks = [row["validation"]["segmentation"] for row in log(trained) if "validation" in row]
    last = load_file(folder(trained) / "step-00000004.safetensors")
    best = load_file(folder(trained) / "best.safetensors")
    same = all(torch.equal(last[name], best[name]) for name in last)
    assert same == (record(trained)["results"]["segmentation"]["miou_headline"] > max(checks))


def test_the_same_words_again_return_at_once(trained, own, monkeypatch, capsys):
    before = hashes(trained)
    monkeypatch.setattr(train.Trainer, "__init__", None)
    assert run(*tiny(own, trained)) == 0
    assert "mIoU in percent" in capsys.readouterr().out
    assert hashes(trained) == before


def test_same_seed_same_bits_another_seed_others(trained, own, tmp_path):
    torch.manual_seed(99)  # whatever was drawn before
    np.random.seed(99)
    assert run(*tiny(own, tmp_path / "same")) == 0
    assert_same_run(trained, tmp_path / "same")
    assert run(*tiny(own, tmp_path / "other", "--seed", "1")) == 0
    one, other = (load_file(folder(x) / "step-00000004.safetensors") for x in (trained, tmp_path / "other"))
    assert not torch.equal(one["encoder.blocks.0.attn.qkv.weight"], other["encoder.blocks.0.attn.qkv.weight"])


def test_D5_batches_without_a_group_are_counted_and_left_out(own, tmp_path, monkeypatch):
    """With the switch on: the step's term is empty in the log, the run goes on, log and record say how often."""
    made = method.pseudo_label

    def labels(*arguments, **options):
        labels.calls += 1
        found = made(*arguments, **options)
        return found * 0 if labels.calls == 2 else found.clamp(max=1).flatten(1).index_fill(1, first, 0).view_as(found)

    first, labels.calls = torch.arange(40), 0
    monkeypatch.setattr(method, "pseudo_label", labels)
    words = tiny(own, tmp_path, "--compat.undefined_segmentation", "True", "--validate_every", "1", "--log_every", "1")
    assert run(*words) == 0
    rows = [row for row in log(tmp_path) if "weights" in row]
    assert [row["undefined_segmentation"] for row in rows] == [0, 0, 1, 1]
    assert [row.get("segmentation", 0) is None for row in rows] == [False, False, True, False]
    assert records.load(folder(tmp_path).with_suffix(".json"))["undefined_segmentation"] == 1


@pytest.mark.parametrize("stop", ["_validate", "_save"])
def test_a_step_is_saved_before_it_is_validated(own, tmp_path, monkeypatch, stop):
    """A validation that fails costs no step, and the run that goes on makes it first: record and log are those of a run
    that nothing stopped."""
    whole, words = tmp_path / "whole", ("--save_every", "0.5", "--validate_every", "0.5")
    assert run(*tiny(own, whole, *words)) == 0
    with monkeypatch.context() as patch:
        work = getattr(train.Trainer, stop)

        def broken(self):
            if self.step == 2:
                if stop == "_save":
                    work(self)
                raise UserError("the disk is full")
            work(self)

        patch.setattr(train.Trainer, stop, broken)
        assert run(*tiny(own, tmp_path / "other", *words)) == 1
    assert checkpoint.latest(folder(tmp_path / "other")) == 2
    assert run(*tiny(own, tmp_path / "other", *words)) == 0
    assert_same_run(whole, tmp_path / "other")


def test_crops_are_whole_numbers_of_patches(own, tmp_path, capsys, refused):
    """A patch of 14 pixels and local crops of 96 see 84 of them, which is said; crops with labels are refused."""
    changes = ("--augment.crop", "48", "--augment.local_size", "20")
    assert run(*tiny(own, tmp_path, *changes)) == 0
    assert "augment.local_size is 20, not a multiple of the patch of 8 pixels, so the last 4" in capsys.readouterr().err
    assert "choose 40 or 48 for --augment.crop" in refused(*tiny(own, tmp_path / "other", "--augment.crop", "45"))


@pytest.mark.parametrize("term", ["classification", "patch_contrast", "segmentation"])
def test_a_loss_that_is_not_finite_stops_the_run(term, own, tmp_path, monkeypatch, capsys):
    losses, calls = method.losses, itertools.count(1)

    def broken(*arguments):
        terms = losses(*arguments)
        return terms | ({term: terms[term] * math.nan} if next(calls) > 3 else {})

    with monkeypatch.context() as patch:
        patch.setattr(method, "losses", broken)
        assert run(*tiny(own, tmp_path)) == 1
    found = re.split(r"[\r\n]", capsys.readouterr().err.strip())[-1]
    assert found.startswith(f"wsss: error: the loss is not finite at step 3: {term} on the images train_")
    assert re.search(r"on the images train_\d, train_\d; the last good checkpoint .* is untouched", found)
    assert checkpoint.latest(folder(tmp_path)) == 2
    assert run(*tiny(own, tmp_path)) == 0, "with the cause gone the run goes on"


@pytest.mark.parametrize("step", [1, 3])
def test_an_update_that_breaks_the_weights_is_never_saved(step, own, tmp_path, monkeypatch, capsys):
    update = train.Trainer._update

    def broken(self, *arguments):
        terms = update(self, *arguments)
        if self.step == step:
            with torch.no_grad():
                self.model.classifier.weight[0, 0] = math.inf
        return terms

    monkeypatch.setattr(train.Trainer, "_update", broken)
    assert run(*tiny(own, tmp_path)) == 1
    found = re.split(r"[\r\n]", capsys.readouterr().err.strip())[-1]
    assert f"the weights are not finite after step {step + 1}, first classifier.weight" in found
    assert checkpoint.latest(folder(tmp_path)) == (None if step == 1 else 2)
    assert not (folder(tmp_path) / "best.safetensors").exists() or step == 3


def test_a_weight_of_zero_keeps_the_term_in_the_log(own, tmp_path):
    assert run(*tiny(own, tmp_path, "--patch_contrast.weight", "0", "--class_contrast.weight", "0")) == 0
    last = log(tmp_path)[-1]
    assert last["weights"]["patch_contrast"] == 0 and last["patch_contrast"] > 0
    assert "class_contrast" not in last


@pytest.mark.slow
def test_a_hundred_steps_run_without_a_warning_and_the_losses_fall(mini_root, tmp_path):
    """Every term on from the tenth step; a warning would be an error here."""
    starts = ("--schedule.contrast-start", "0.1", "--schedule.segmentation-start", "0.1", "--optim.batch", "4")
    words = ("train", "mini", "--optim.steps", "100", *starts, "--data.root", mini_root, "--output", tmp_path)
    small = ("--augment.crop", "64", "--augment.evaluation-size", "64", "--cam.scales", "1")
    assert run(*words, *small, "--variant", "long", "--log-every", "1") == 0
    log = (next(tmp_path.glob("*/long/0")) / "log.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, log) if "weights" in row]
    active = {name for name, weight in rows[-1]["weights"].items() if weight and name in rows[-1]}
    assert {"patch_contrast", "segmentation", "energy"} <= active
    for name in ("classification", "aux_classification", "patch_contrast", "segmentation"):
        seen = [row[name] for row in rows if row["weights"][name] and name in row]
        first, last = mean(seen[:10]), mean(seen[-30:])
        assert last < 0.95 * first, f"{name} falls from {first} to {last} only"
