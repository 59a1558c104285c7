"""Evaluation of weights and of predictions on disk: numbers equal those counted by hand."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from running import answer, folder, hashes, record, run, write_mask
from safetensors.torch import load_file, save_file

from wsss import cam, datasets, evaluate, presets, refine, tally
from wsss.config import IGNORE
from wsss.model import build
from wsss.report import records
from wsss.weights import metadata


@pytest.fixture
def done(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


def test_evaluating_again_gives_the_same_record(done):
    """A number that was spoilt in the record is measured anew."""
    before, files, path = record(done), hashes(done), folder(done).with_suffix(".json")
    spoilt = json.loads(path.read_text())
    spoilt["results"]["cam"]["miou"] = 1.0
    path.write_text(json.dumps(spoilt))
    assert run("evaluate", folder(done)) == 0
    after = record(done)
    by = after.pop("evaluated_by")
    assert by["threads"] == 1 and by["commit"] == after["commit"] and "evaluated_by" not in before
    assert after["seconds"].pop("evaluate") < 60 and before["seconds"].pop("evaluate") < 60
    assert after == before
    changed = {name for name, value in hashes(done).items() if files.get(name) != value}
    assert {Path(name).name for name in changed} <= {"0.json", "0.npz", "cams.npz"}


def test_best_weights_have_a_record_of_their_own(done):
    """The decoder of the best weights says cup everywhere; it is these weights that are measured."""
    before, file = (folder(done).with_suffix(".json")).read_bytes(), folder(done) / "best.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv8.weight"].zero_()[1] = 1  # its inputs come from a ReLU: never negative
    save_file(tensors, file, metadata(file))
    assert run("evaluate", folder(done), "--weights", "best") == 0
    assert (folder(done).with_suffix(".json")).read_bytes() == before
    best = records.load(folder(done).with_suffix(".best.json"))
    iou = list(best["results"]["segmentation"]["iou"].values())
    assert best["images"] == 4 and iou[1] > 0 and not iou[0] and not iou[2]


@pytest.fixture
def counted(own: Path):
    config = presets.get("smoke", **{"model.depth": 3, "augment.evaluation_size": 32})
    split = datasets.Split(own, "val", masks=True)
    model = build(config, 2)
    return config, split, model, evaluate.tally(model, split, config, torch.device("cpu"))


def test_each_image_counts_once_at_its_own_size(counted):
    config, split, model, found = counted
    assert found.ids == ["val_0", "val_1", "val_2", "val_3"]
    for place, name in enumerate(found.ids):
        sample = datasets.sample(split, split.ids.index(name), 32)
        prediction = evaluate.predict(model.eval(), sample.image[None], sample.label[None], config)
        labels = evaluate.to_labels(prediction, sample.mask.shape, config)
        for kind in tally.KINDS:
            assert labels[kind].shape == sample.mask.shape
            matrix = reference.confusion(sample.mask, labels[kind], 3)
            hit = np.diag(matrix)
            rows = np.stack([hit, matrix.sum(0) - hit, matrix.sum(1) - hit], 1)
            # batches may differ in the last bit of a logit
            assert np.abs(found.counts[kind][place] - rows).sum() <= 8
            assert rows[:, [0, 2]].sum() == (sample.mask != IGNORE).sum()
        assert found.digests[place] == records.mask_digest(sample.mask)


def test_cams_are_masked_by_the_true_image_labels(counted):
    config, split, model, _ = counted
    sample = datasets.sample(split, 0, 32)
    prediction = evaluate.predict(model.eval(), sample.image[None], sample.label[None], config)
    for kind in ("cam", "aux_cam"):
        assert prediction.layers[kind][0, 1].eq(0).all(), "jug is not in the image"
        largest = float(prediction.layers[kind][0, 0].max())  # 1e-5 is added to the raw range
        assert largest == pytest.approx(1, abs=2e-3)
        assert set(np.unique(evaluate.to_labels(prediction, (40, 48), config)[kind])) <= {0, 1}


def test_measures_in_workers_are_the_same(counted):
    config, split, model, found = counted
    shared = evaluate.tally(model, split, config, torch.device("cpu"), workers=2)
    for name, value in vars(found).items():
        np.testing.assert_equal(vars(shared)[name], value)


def test_guesses_are_counted_by_hand(own):
    """All background, and the image's class in the central half, on a 48x40 image whose right half is class 1."""
    split = datasets.Split(own, "val", masks=True)
    sample = datasets.sample(split, 0, 32)
    maps = {"segmentation": np.zeros_like(sample.mask), **tally.guess_labels(sample.label.numpy(), sample.mask.shape)}
    found = tally.scores(tally.count_labels(sample.id, sample.mask, maps, 3), ["cup", "jug"], ())
    half = 48 * 40 // 2
    assert found["guesses"]["background"]["miou"] == pytest.approx(100 * (half - 1) / (2 * half - 1) / 2, abs=1e-3)
    inside, quarter = 12 * 20, half // 2  # the central half is 24x20, and half of it is class 1
    background = 100 * (half - 1 - inside) / (half - 1 + half - inside)
    centre = 100 * inside / (half + quarter - inside)
    assert found["guesses"]["centre"]["miou"] == pytest.approx((background + centre) / 2, abs=1e-3)
    assert found["segmentation"]["iou"]["jug"] is None


def maps_of(seed: int, images: int = 2, classes: int = 3, grid: tuple[int, int] = (3, 4)) -> evaluate.Prediction:
    """CAMs of two layers in 0..1 at twice the token grid, and logits on it."""
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.rand(2, images, classes, 2 * grid[0], 2 * grid[1], generator=generator)
    labels = torch.tensor([[[0, 255], [3, 1]]] * images).repeat_interleave(grid[0], 1).repeat_interleave(grid[1], 2)
    return evaluate.Prediction(one, two, torch.zeros(images, classes + 1, *grid), torch.zeros(images, classes), labels)


def test_agreement_equals_the_slow_loops():
    prediction, label = maps_of(0), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    found = evaluate.agreement(prediction, label)
    for image, present in enumerate(([0, 2], [1])):
        layers = [
            [reference.bilinear(prediction.layers[kind][image, c].numpy(), (3, 4)) for c in present]
            for kind in tally.LAYERS
        ]
        differences = [
            abs(a - b) for one, two in zip(*layers, strict=True) for a, b in zip(one.flat, two.flat, strict=True)
        ]
        assert float(found[image, 0]) == pytest.approx(100 * np.mean(differences), abs=1e-3)
        vectors = [[] for _ in layers]
        for planes, rows in zip(layers, vectors, strict=True):
            for place in np.ndindex(3, 4):
                values = [plane[place] for plane in planes]
                rows.append(np.array([1 - max(values), *values]))
        apart = [
            abs(reference.cosine(vectors[0][i], vectors[0][j]) - reference.cosine(vectors[1][i], vectors[1][j]))
            for i in range(12)
            for j in range(12)
            if i != j
        ]
        assert float(found[image, 1]) == pytest.approx(100 * np.mean(apart), abs=1e-3)


def test_labels_of_cams_equal_the_slow_loops():
    config = presets.get("smoke", **{"cam.background": 0.4})
    label = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    prediction = maps_of(2)
    masked = {kind: cam.masked(maps, label) for kind, maps in prediction.layers.items()}
    prediction = dataclasses.replace(prediction, **masked)
    for image in range(2):
        labels = evaluate.to_labels(prediction.of(image), (4, 6), config)
        for kind in tally.LAYERS:
            planes = np.array([[reference.bilinear(plane.numpy(), (4, 6)) for plane in prediction.layers[kind][image]]])
            wanted = reference.evaluation_labels(planes, np.ones((1, 3)), 0.4)[0]
            np.testing.assert_array_equal(labels[kind], wanted)
            assert wanted.any() == (image == 0)
        assert labels["pseudo_label"].tolist() == [[0] * 3 + [255] * 3] * 2 + [[3] * 3 + [1] * 3] * 2


def test_a_cam_at_the_threshold_is_background_and_the_sweep_takes_it_in(counted):
    config, split, model, _ = counted
    config = presets.get("smoke", **{"model.depth": 3, "augment.evaluation_size": 32, "cam.background": 0.375})
    maps, labels = torch.full((1, 2, 4, 4), 0.375), torch.zeros(1, 4, 4, dtype=torch.long)
    flat = evaluate.Prediction(maps, maps, torch.zeros(1, 3, 4, 4), torch.zeros(1, 2), labels)
    assert not any(evaluate.to_labels(flat, (4, 4), config)[kind].any() for kind in tally.LAYERS)
    found = tally.scores(evaluate.tally(model, split, config, torch.device("cpu")), ["cup", "jug"], ())
    for kind in tally.LAYERS:
        sweep = found["sweep"][kind]
        assert sweep["miou"][sweep["thresholds"].index(0.375)] == found[kind]["miou"]


@pytest.mark.parametrize("refinements", [0, 2])
def test_the_pseudo_label_is_the_one_that_segmentation_learns_from(counted, refinements):
    """Each image is whole, without padding. With no refinement, the label comes from the thresholds alone."""
    config, split, model, _ = counted
    config = presets.get("smoke", **{"model.depth": 3, "segmentation.refinements": refinements})
    samples = [datasets.sample(split, place, 32) for place in range(3)]
    image, label = (torch.stack([getattr(x, name) for x in samples]) for name in ("image", "label"))
    prediction = evaluate.predict(model.eval(), image, label, config)
    box, levels = torch.tensor([[0, 32, 0, 32]] * 3), config.segmentation.levels
    if refinements:
        wanted = refine.segmentation_labels(image, prediction.cam, label, box, *levels, iterations=refinements)
    else:
        arrays = (prediction.cam.numpy(), label.numpy(), box.numpy())
        wanted = torch.from_numpy(reference.training_labels(*arrays, *levels))
    assert torch.equal(prediction.pseudo_label, wanted)
    assert {0, IGNORE} < set(wanted.unique().tolist())


TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 0], [0, 1, 1, 1], [2, 0, 2, 255]], np.uint8)
"""255 is fine where the truth is 255, too."""


def write(folder: Path, **masks: np.ndarray) -> Path:
    for name, mask in masks.items():
        write_mask(folder / f"{name}.png", mask)
    return folder


def test_score_equals_the_numbers_by_hand(tmp_path, capsys):
    truth = write(tmp_path / "truth", a=TRUTH, b=np.zeros((2, 2), np.uint8))
    mine = write(tmp_path / "mine", a=PREDICTION, b=np.zeros((2, 2), np.uint8), extra=TRUTH)
    assert run("score", mine, truth, "--num-classes", 4) == 0
    found = answer(capsys)
    assert list(found) == ["miou", "iou", "pixel_accuracy", "mean_accuracy", "images"]
    iou = {"0": 700 / 10, "1": 300 / 5, "2": 100 / 2, "3": None}
    assert found["iou"] == pytest.approx({k: v for k, v in iou.items() if v} | {"3": None})
    assert found["miou"] == pytest.approx((70 + 60 + 50) / 3, abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(100 * 11 / 14, abs=1e-3)
    assert found["mean_accuracy"] == pytest.approx(100 * (7 / 8 + 3 / 4 + 1 / 2) / 3, abs=1e-3)
    assert found["images"] == 2


FAULTS = {
    "missing": (lambda p: (p / "a.png").unlink(), "a.png does not exist, but"),
    "size": (lambda p: write_mask(p / "a.png", PREDICTION.T), "is 3x4, but its image is 4x3"),
    "ignored": (lambda p: write_mask(p / "a.png", np.full_like(TRUTH, 255)), "holds 255, which is not a class"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_score_refuses(fault, tmp_path, capsys):
    spoil, says = FAULTS[fault]
    truth, mine = write(tmp_path / "truth", a=TRUTH), write(tmp_path / "mine", a=PREDICTION)
    spoil(mine)
    assert run("score", mine, truth, "--num-classes", 3) == 1
    got = capsys.readouterr()
    assert got.out == "" and f"{says}" in got.err and "wsss: error:" in got.err
