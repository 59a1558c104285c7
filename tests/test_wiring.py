"""Every setting reaches the term, the weight or the view that it is said to change, and nothing else."""

import pytest
import torch
from builders import forward, tiny, training_batch
from running import own_set, run
from running import tiny as tiny_run

from wsss import datasets, method, model, presets, schedule, subspace, transforms
from wsss.config import Config
from wsss.model import SegmentationModel
from wsss.settings import get, override

CONTRAST = {"patch_subspace", "decorrelation"}
INTENSITY, STRUCTURE = {"intensity_last", "intensity_aux"}, {"structure_last", "structure_aux"}
LABELS = {"segmentation", "energy"}
BASE = {"cam__low": 0.6, "csa__direction": "both", "augment__crop": 64, "model__image_size": 64}

TERMS = (
    ("class_contrast.temperature", 0.5, {"class_contrast"}),
    ("compat.raw_exponentials", True, {"class_contrast"}),
    ("compat.extra_contrast_term", True, {"class_contrast"}),
    ("compat.padding_in_crops", True, {"class_contrast"}),
    ("msc.patch_temperature", 0.5, {"patch_subspace"}),
    ("msc.anchors_per_class", 1, CONTRAST),
    ("msc.anchors", 7, CONTRAST),
    ("msc.across_images", False, {"patch_subspace"}),
    ("msc.across_backgrounds", True, {"patch_subspace"}),
    ("msc.centring", "all", {"decorrelation"}),
    ("csa.smooth", 0.9, INTENSITY),
    ("csa.floor", 1.0, INTENSITY | STRUCTURE),
    ("csa.sampling", "area", INTENSITY | STRUCTURE),
    ("csa.background", False, STRUCTURE),
    ("csa.balance", False, STRUCTURE),
    ("csa.similar", 0.95, STRUCTURE),
    ("segmentation.levels", (0.5, 0.9), LABELS),
    ("segmentation.refinements", 0, LABELS),
    ("energy.sigma_xy", 3.0, {"energy"}),
    ("energy.sigma_rgb", 90.0, {"energy"}),
    ("energy.scale", 1e-5, {"energy"}),
    ("compat.energy_across_box", True, {"energy"}),
)


def terms(config: Config) -> dict[str, torch.Tensor]:
    batch = training_batch(tiny(**BASE), images=3)
    net = model.build(tiny(**BASE), batch.label.shape[1])
    _, output, targets = forward(config, batch, 4, net)
    return method.losses(output, targets, config)


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return terms(tiny(**BASE))


@pytest.mark.parametrize(("path", "value", "changed"), TERMS, ids=[row[0] for row in TERMS])
def test_a_setting_changes_its_own_terms(plain, path, value, changed):
    found = terms(override(tiny(**BASE), {path: value}))
    assert found.keys() == plain.keys()
    assert {name for name in plain if found[name] != plain[name]} == changed


@pytest.mark.parametrize(("raw", "extra"), [(True, False), (False, True)])
def test_D6_and_D7_are_not_taken_for_each_other(raw, extra):
    config = tiny(**BASE, compat__raw_exponentials=raw, compat__extra_contrast_term=extra)
    batch = training_batch(config)
    _, output, targets = forward(config, batch)
    views = (output.student, targets.teacher, targets.flags, config.class_contrast.temperature)
    found = method.losses(output, targets, config)["class_contrast"]
    assert found == subspace.subspace_contrast_loss(*views, raw_exponentials=raw, extra_term=extra)


WEIGHTS = (
    ("patch_contrast.weight", {"patch_contrast"}),
    ("class_contrast.weight", {"class_contrast"}),
    ("msc.patch_weight", {"patch_subspace"}),
    ("msc.orthogonality_weight", {"orthogonality"}),
    ("msc.decorrelation_weight", {"decorrelation"}),
    ("csa.weight", INTENSITY | STRUCTURE),
    ("csa.intensity", INTENSITY),
    ("csa.structure", STRUCTURE),
    ("segmentation.weight", {"segmentation"}),
    ("energy.weight", {"energy"}),
)


@pytest.mark.parametrize(("path", "doubled"), WEIGHTS, ids=[row[0] for row in WEIGHTS])
def test_a_weight_is_that_of_its_own_terms(path, doubled):
    config = presets.get("voc", csa__direction="both", csa__layers=(2, 3))
    both = config, override(config, {path: 2 * get(config, path)})
    before, after = (schedule.term_weights(config.optim.steps - 1, each) for each in both)
    assert all(before.values())
    assert {name: after[name] / before[name] for name in before} == {
        name: pytest.approx(2.0 if name in doubled else 1.0) for name in before
    }


def test_the_ramp_of_the_schedule_is_the_settings():
    steps = 1000
    config = presets.get("voc", optim__steps=steps, csa__crossing=0.5, csa__ramp=0.4)
    tables = [schedule.term_weights(step, config) for step in (300, 400, 500, 600, 700)]
    shares = [table["intensity_last"] / config.csa.weight for table in tables]
    assert shares == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_the_modules_may_start_apart_from_the_contrast_of_the_base():
    config = presets.get("voc", optim__steps=100, schedule__contrast_start=0.2, schedule__modules_start=0.5)
    joined = CONTRAST | {"orthogonality", "intensity_last", "structure_last"}
    for step, base, modules in ((20, False, False), (21, True, False), (50, True, False), (51, True, True)):
        table = schedule.term_weights(step, override(config, {"csa.direction": "aux_to_last"}))
        assert bool(table["patch_contrast"]) == bool(table["class_contrast"]) == base
        assert {bool(table[name]) for name in joined} == {modules}


def test_projections_start_orthogonal_where_they_are_asked_to():
    started = {on: model.build(tiny(msc__orthogonal_start=on), 4).proj_head.projection() for on in (True, False)}
    gram = {on: (rows := p.flatten(0, 1)) @ rows.mT - torch.eye(len(rows)) for on, p in started.items()}
    assert gram[True].abs().max() < 1e-5 < 0.1 < gram[False].abs().max()


def test_the_gradient_of_a_student_reaches_its_classifier_where_it_is_asked_to():
    batch, reached = training_batch(tiny()), {}
    for asked in (True, False):
        config = tiny(csa__through_classifier=asked, csa__direction="both")
        net, output, targets = forward(config, batch)
        loss = method.alignment_terms(output, targets, config)["intensity_last"]
        reached[asked] = torch.autograd.grad(loss, net.classifier.weight, allow_unused=True)[0]
    assert reached[False] is None and reached[True].any()


def test_every_step_of_training_moves_the_teacher_by_the_settings_momentum(tmp_path, monkeypatch):
    seen, update = [], SegmentationModel.update_teacher
    monkeypatch.setattr(
        SegmentationModel, "update_teacher", lambda net, momentum: seen.append(momentum) or update(net, momentum)
    )
    assert run(*tiny_run(own_set(tmp_path / "own"), tmp_path / "runs", "--class_contrast.momentum", "0.37")) == 0
    assert seen == [0.37] * 4


def test_views_of_training_follow_the_compat_switches(tmp_path, monkeypatch):
    config, seen = tiny(compat__second_flip=True, compat__local_flip=True, augment__hue=0.123), []
    views = transforms.views
    monkeypatch.setattr(transforms, "views", lambda *words: seen.append(words[1:]) or views(*words))
    split = datasets.Split(own_set(tmp_path / "own"), "train", masks=False)
    assert datasets.TrainingViews(split, config)[0, 5][0] == "train_0"
    assert seen == [(config.augment, config.compat, True)]
