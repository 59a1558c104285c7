"""One step of the method: CAM reuse (D8), encoder passes, schedule, objective, deviations D1 and D15 by way of it."""

import dataclasses
import json

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from builders import IGNORE, QUICK, UNDECOUPLED, forward, noise, seeds, tensor, tiny, training_batch
from hypothesis import given
from hypothesis import strategies as st

from wsss import alignment, cam, contrast, energy, method, model, optim, schedule, subspace
from wsss.batch import Targets
from wsss.config import TERMS
from wsss.presets import PRESETS
from wsss.settings import override


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(config, batch, seed=0):
    """Output, targets and losses of a step in which every term has joined."""
    _, output, targets = forward(config, batch, seed)
    return output, targets, method.losses(output, targets, config)


def naive_multi_scale_cam(net, image, scales):
    """Two passes a scale, nothing reused, the scores by a slow loop over classes."""
    sums = [0.0, 0.0]
    for scale in scales:
        scaled = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        outputs = [net(x) for x in (scaled, scaled.flip(3))]
        for layer, (tokens, head) in enumerate((("tokens", "classifier"), ("aux_tokens", "aux_classifier"))):
            weight, grid = getattr(net, head).weight[:, :, 0, 0], outputs[0].grid
            maps = [(getattr(output, tokens) @ weight.T).mT.unflatten(2, grid) for output in outputs]
            maps[1] = maps[1].flip(3)
            large = [F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=False) for x in maps]
            sums[layer] = sums[layer] + torch.maximum(*large).clamp(min=0)
    return sums


@pytest.mark.parametrize("scales", [(1.0, 0.5, 1.5), (0.5, 1.0), (0.75,), (1.0,)])
def test_D8_multi_scale_cam_equals_the_naive_one(scales):
    config = tiny(cam__scales=scales)
    net = model.build(config, 3)
    image = net.normalise(training_batch(config).image)
    with torch.no_grad():
        wanted = naive_multi_scale_cam(net, image, scales)
    computed = method.multi_scale_cams(net, image, net(image), config, torch.arange(3))
    for mine, raw in zip(computed, wanted, strict=True):
        assert not mine.requires_grad and raw.max() > 0
        np.testing.assert_allclose(mine, reference.normalise(raw.double().numpy()), atol=1e-4)


def test_output_of_a_step_has_its_shapes():
    config = tiny()
    batch = training_batch(config)
    net, output, targets = forward(config, batch)
    assert [maps.shape for maps in targets.cams] == [(2, 4, 32, 32)] * 2
    assert output.student.shape == (4, 2, 4, 2) and targets.teacher.shape == (2, 2, 4, 2)
    assert targets.flags.shape == (2, 4) and output.anchor_embeddings.shape == (len(targets.anchors), 4, 2)
    assert output.log_probability.shape == (2, 5, 32, 32) and targets.pseudo_label.shape == (2, 32, 32)
    assert output.probability.shape == targets.filtered().shape == (2, 5, 16, 16)
    assert (targets.flags[:, :2] == 1).all() and set(targets.flags.unique().tolist()) <= {0, 1}
    kept = [x for x in vars(targets).values() if isinstance(x, torch.Tensor)]
    assert not any(x.requires_grad for x in (*kept, *targets.cams, targets.filtered()))
    assert set(method.losses(output, targets, config)) == set(TERMS) - {"extra_classification"}
    plain = net(net.normalise(batch.image))
    torch.testing.assert_close(output.tokens, plain.tokens)
    assert plain.student is None


def test_student_views_are_the_main_pass_view_2_and_the_crops_of_the_local_source():
    config = tiny()
    batch = training_batch(config)
    net, output, targets = forward(config, batch, seed=5)
    certainty = cam.foreground_certainty(targets.cams[1], batch.label, config.cam.low, config.cam.high)
    corners, flags = contrast.choose_crops(certainty, cam.box_mask(batch.box, (32, 32)), 16, 2, generator(5))
    assert torch.equal(targets.flags[:, 2:], flags)
    with torch.no_grad():
        for image in range(2):
            pieces = [batch.image[image], batch.view[image]]
            pieces += [batch.local[image][:, top : top + 16, left : left + 16] for top, left in corners[image].tolist()]
            for place, piece in enumerate(pieces):
                class_token = net.encode(net.normalise(piece[None])).class_token
                torch.testing.assert_close(output.student[place, image], net.proj_head(class_token)[0])
                if place < 2:
                    torch.testing.assert_close(targets.teacher[place, image], net.proj_head_t(class_token)[0])


def test_local_crops_are_chosen_by_the_aux_cam():
    config = tiny()
    batch, valid = training_batch(config), torch.ones(2, 32, 32, dtype=torch.bool)
    nothing, sure = torch.zeros(2, 4, 32, 32), torch.ones(2, 4, 32, 32)
    for aux, final, flag in ((nothing, sure, 0), (sure, nothing, 1)):
        targets = Targets(batch.label, valid, cams=(final, aux))
        assert (method.local_crops(batch, targets, config, generator())[1][:, 2:] == flag).all()


def test_losses_are_the_parts_put_together():
    config = tiny(cam__low=0.6, segmentation__refinements=0)
    batch = training_batch(config)
    output, targets, terms = step(config, batch)
    assert terms["classification"] == method.classification_loss(output.logits, batch.label)
    assert terms["aux_classification"] == method.classification_loss(output.aux_logits, batch.label)
    labels = cam.training_labels(targets.cams[0], batch.label, targets.valid, config.cam.low, config.cam.high)
    assert terms["segmentation"] == method.segmentation_loss(output.log_probability, labels)
    affinity = contrast.affinity_labels(targets.token_labels)
    assert terms["patch_contrast"] == contrast.patch_contrast_loss(output.tokens, affinity)
    contrasted = subspace.subspace_contrast_loss(output.student, targets.teacher, targets.flags, 0.125)
    assert terms["class_contrast"] == contrasted
    images, places, labelled = targets.anchors.T
    assert torch.equal(labelled, targets.token_labels.flatten(1)[images, places])
    assert len(images) and terms["patch_subspace"] == subspace.patch_subspace_loss(
        output.anchor_embeddings, labelled, images, 0.1
    )
    assert terms["decorrelation"] == subspace.decorrelation_loss(output.anchor_embeddings, labelled)
    assert terms["orthogonality"] == subspace.orthogonality_loss(output.projection)
    assert terms["energy"] == energy.energy_loss(output.probability, targets.filtered(), labels, targets.valid)
    final, aux = (alignment.teacher_cam(maps, output.grid) for maps in targets.cams)
    seen = cam.token_mask(batch.box, 8, output.grid)
    assert torch.equal(seen, targets.token_valid)
    for name, student, teacher in (("last", output.student_cams[0], aux), ("aux", output.student_cams[1], final)):
        one, two = (getattr(alignment, f"{kind}_loss") for kind in ("intensity", "structure"))
        assert terms[f"intensity_{name}"] == one(student, teacher, batch.label, seen)
        assert terms[f"structure_{name}"] == two(student, teacher, batch.label, seen)


def test_D16_the_switch_reaches_the_pseudo_label():
    config = tiny(cam__low=0.6)
    batch = training_batch(config)
    _, _, targets = forward(config, batch)
    across = override(config, {"compat.refine_across_box": True})
    box = torch.tensor([[0, 32, 0, 32], [12, 20, 12, 20]])
    given = batch.image, targets.cams[0], batch.label
    one, two = (method.pseudo_label(*given, which, box) for which in (config, across))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1]), "it shows where there is padding"


def test_only_what_is_asked_for_is_a_term():
    batch = training_batch(tiny())
    parts = {
        "patch_subspace": {"msc__patch_weight": 0},
        "class_contrast": {"class_contrast__weight": 0},
        "decorrelation": {"msc__decorrelation_weight": 0},
        "orthogonality": {"msc__orthogonality_weight": 0},
        "energy": {"energy__weight": 0},
    }
    *_, everything = step(tiny(), batch)
    for name, change in parts.items():
        assert set(everything) - set(step(tiny(**change), batch)[2]) == {name}
    weightless = step(tiny(csa__intensity=0.0, csa__structure=0.0), batch)[2]
    assert not [name for name in weightless if name.startswith(("intensity", "structure"))]
    output, targets, terms = step(tiny(csa__weight=0, msc__patch_weight=0, **UNDECOUPLED), batch)
    assert set(terms) == {*FIRST, "patch_contrast", "class_contrast", "segmentation", "energy"}
    assert targets.anchors is None and output.student_cams == () and output.projection is None


@pytest.mark.parametrize("layers", [(2,), (2, 1), (1, 3)])
def test_aligned_layers(layers):
    """Terms are means over the aligned layers; the aux layer is among them only where it is named."""
    config = tiny(model__depth=5, csa__layers=layers)
    batch = training_batch(config)
    output, targets, terms = step(config, batch)
    assert len(output.student_cams) == 2 + len(set(layers) - {2}) == len(targets.cams)
    assert ("extra_classification" in terms) == (set(layers) != {2})
    seen = targets.token_valid
    teachers = [alignment.teacher_cam(maps, output.grid) for maps in targets.cams]
    chosen = [place for place in range(1, len(teachers)) if place > 1 or 2 in layers]
    learned = [alignment.structure_loss(output.student_cams[n], teachers[0], batch.label, seen) for n in chosen]
    assert terms["structure_aux"] == torch.stack(learned).mean()
    taught = [alignment.intensity_loss(output.student_cams[0], teachers[n], batch.label, seen) for n in chosen]
    assert terms["intensity_last"] == torch.stack(taught).mean()


def test_nothing_outside_the_photograph_counts():
    """Fixed: with the network's outputs held, no patch and no pixel loss changes with tokens, CAM, label and pixels
    outside the valid box. Attention is not masked: the tokens inside have seen the padding."""
    config, box = tiny(cam__low=0.6), torch.tensor([[0, 32, 0, 32], [16, 32, 0, 24]])
    batch = dataclasses.replace(training_batch(config), box=box)
    output, targets, before = step(config, batch)
    tokens = targets.token_valid
    outside, beyond = ~targets.valid[:, None], ~tokens.flatten(1)[:, :, None]

    def spoilt(x, where):
        return torch.where(where, 255 - x if x.dtype == torch.uint8 else torch.rand_like(x), x)

    # The teacher of alignment and the labels of tokens are sampled bilinearly, within tokens wholly inside.
    image, cams = spoilt(batch.image, outside), tuple(spoilt(maps, outside) for maps in targets.cams)
    others = dataclasses.replace(targets, cams=cams)
    others.token_labels = method.token_labels(others, output.grid, config)
    assert (targets.token_labels != IGNORE).any() and torch.equal(others.token_labels, targets.token_labels)
    others.pseudo_label = method.pseudo_label(image, cams[0], batch.label, config, box)
    others.filtered = energy.start(image, output.probability, targets.valid)
    other = dataclasses.replace(
        output,
        tokens=spoilt(output.tokens, beyond),
        student_cams=tuple(spoilt(maps, ~tokens[:, None]) for maps in output.student_cams),
        probability=torch.where(targets.valid[:, None, ::2, ::2], output.probability, 0.5),
    )
    after = method.losses(other, others, config)
    for name in before:
        torch.testing.assert_close(after[name], before[name], msg=name)
    across = [energy.filtered(x, output.probability, targets.valid, across_box=True) for x in (batch.image, image)]
    assert torch.equal(targets.filtered(), others.filtered()), "the kernel is built of the photograph's pixels"
    assert not torch.equal(*across), "D17: the base's kernel sees padding"


def test_segmentation_labels_come_from_the_aux_layer_until_the_final_cam_starts():
    config = tiny(cam__low=0.6, segmentation__refinements=0)
    batch = training_batch(config)
    *_, final = step(config, batch)
    output, targets, aux = step(override(config, {"schedule.final_cam_start": 1.0}), batch)
    labels = cam.training_labels(targets.cams[1], batch.label, targets.valid, config.cam.low, config.cam.high)
    assert aux["segmentation"] == method.segmentation_loss(output.log_probability, labels)
    assert aux["segmentation"] != final["segmentation"]
    assert all(aux[name] == final[name] for name in final if name not in ("segmentation", "energy"))


def affinity_case(box, compat=False, grid=(4, 4)):
    """Pair targets of one image of 32 pixels with patch 8, class 1 everywhere, as a map of labelled tokens."""
    config = tiny(compat__box_in_pixels=compat)
    batch = dataclasses.replace(training_batch(config, 1, images=1), box=torch.tensor([box]), label=torch.ones(1, 1))
    _, _, targets = forward(config, batch)
    sure = dataclasses.replace(targets, cams=(torch.ones(1, 1, 32, 32),) * 2)
    return (contrast.affinity_labels(method.token_labels(sure, grid, config))[0] == 1).any(1).unflatten(0, grid)


def test_D1_pixel_box_on_the_token_grid():
    """An image padded above and on the left, as many VOC crops are: the predecessor loses every label of it."""
    box = [9, 32, 8, 32]
    fixed = affinity_case(box)
    np.testing.assert_array_equal(fixed, reference.token_mask(box, 8, (4, 4)))
    assert fixed.sum() == 6
    assert not affinity_case(box, compat=True).any()
    assert affinity_case([0, 20, 0, 32], compat=True).all(), "padding below is labelled as if it were the photograph"
    assert affinity_case([0, 20, 0, 32]).sum() == 8
    assert affinity_case([0, 32, 0, 32], compat=True).all() and affinity_case([0, 32, 0, 32]).all()


@QUICK
@given(seeds(), st.integers(0, 16), st.integers(17, 32))
def test_token_affinity_equals_the_slow_loop(seed, start, stop):
    config = tiny()
    batch = training_batch(config, 3, images=1)
    maps = 1 / (1 + np.exp(-3 * noise(seed, 1, 3, 32, 32)))
    valid = cam.token_mask(torch.tensor([[start, stop, 0, stop]]), 8, (4, 4))
    targets = Targets(batch.label, token_valid=valid, cams=(tensor(maps),) * 2)
    small = np.stack([reference.bilinear(plane, (4, 4)) for plane in maps[0]])[None]
    labels = reference.training_labels(small, batch.label.numpy(), [(0, 4, 0, 4)], config.cam.low, config.cam.high)
    labels[0][~reference.token_mask((start, stop, 0, stop), 8, (4, 4))] = IGNORE
    np.testing.assert_array_equal(method.token_labels(targets, (4, 4), config), labels)


def test_D15_cam_of_a_step_sees_the_photograph_only():
    """Fixed: within the box each present class reaches its maximum; predecessor: the padding may hold it."""
    for padding in (True, False):
        config = tiny(compat__padding_in_cam=padding)
        batch = training_batch(config)
        net, _, targets = forward(config, batch)
        image = net.normalise(batch.image)
        with torch.no_grad():
            raw = naive_multi_scale_cam(net, image, config.cam.scales)
        inside = cam.box_mask(batch.box, (32, 32)).numpy()
        for mine, theirs in zip(targets.cams, raw, strict=True):
            wanted = reference.normalise(theirs.double().numpy(), None if padding else inside)
            np.testing.assert_allclose(mine[:, batch.present], wanted[:, batch.present], atol=1e-4)


def test_gradients_of_a_step_reach_every_learning_parameter():
    config = tiny(cam__low=0.69)
    net, output, targets = forward(config, training_batch(config))
    terms = method.losses(output, targets, config)
    method.objective(terms, dict.fromkeys(terms, 1.0)).backward()
    silent = [name for name, p in net.named_parameters() if p.requires_grad and not p.grad.any()]
    assert not silent, f"no gradient in {silent}"
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_step_under_autocast_is_near_that_in_float32():
    config = tiny(cam__low=0.69)
    batch = training_batch(config)
    *_, exact = step(config, batch)
    with torch.autocast("cpu", torch.bfloat16):
        net, output, targets = forward(config, batch)
        terms = method.losses(output, targets, config)
    outside = method.losses(output, targets, config)
    students = method.student_cams(net, output, targets.token_valid, config)
    log_probability = method.log_probability(output.segmentation, (32, 32))
    probability = energy.half_probability(log_probability)
    label = method.pseudo_label(batch.image, targets.cams[0], batch.label, config, batch.box)
    made = (*output.student_cams, output.log_probability, output.probability, targets.pseudo_label)
    assert all(map(torch.equal, made, (*students, log_probability, probability, label))), "a part is rounded"
    torch.testing.assert_close(output.student.norm(dim=-1), torch.ones(4, 2, 4), rtol=0, atol=1e-6)
    assert targets.cams[0].dtype == torch.float32
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())
    assert all(torch.equal(value, outside[name]) for name, value in terms.items()), "a loss is rounded within autocast"
    method.objective(terms, dict.fromkeys(terms, 1.0)).backward()
    for name in ("classification", "aux_classification"):
        assert terms[name].item() == pytest.approx(exact[name].item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


FIRST = {"classification": 1.0, "aux_classification": 1.0}
CONTRAST = {"patch_contrast": 0.2, "class_contrast": 0.5}
MODULE_A = {"patch_subspace": 0.1, "orthogonality": 0.05, "decorrelation": 0.05}
TO_LAST, TO_AUX = ({f"intensity_{side}": 0.1, f"structure_{side}": 0.1} for side in ("last", "aux"))
SEGMENT = {"segmentation": 0.1, "energy": 0.05}


@pytest.mark.parametrize(
    ("name", "step", "on", "aux_labels"),
    [
        ("voc", 2000, FIRST | CONTRAST | MODULE_A | TO_LAST, False),
        ("voc", 2001, FIRST | CONTRAST | MODULE_A | TO_LAST | SEGMENT, False),
        ("voc", 7900, FIRST | CONTRAST | MODULE_A | TO_LAST | SEGMENT, False),
        ("voc", 10_100, FIRST | CONTRAST | MODULE_A | TO_AUX | SEGMENT, False),
        ("voc-toco", 2000, FIRST | CONTRAST, False),
        ("voc-toco", 2001, FIRST | CONTRAST | SEGMENT, False),
        ("coco", 8000, FIRST, True),
        ("coco", 8001, FIRST | SEGMENT, True),
        ("coco", 12_000, FIRST | SEGMENT, True),
        ("coco-deit", 12_001, FIRST | CONTRAST | MODULE_A | TO_AUX | SEGMENT, False),
        ("coco-toco", 12_001, FIRST | CONTRAST | SEGMENT, False),
    ],
)
def test_weights_are_the_published_schedule(name, step, on, aux_labels):
    config = PRESETS[name]
    table = schedule.term_weights(step, config)
    terms = {"class_contrast", "patch_contrast", *FIRST, *SEGMENT} if name.endswith("-toco") else set(table)
    own = {term: weight for term, weight in table.items() if weight and term in terms}
    own.pop("extra_classification", None)
    assert own == pytest.approx(on)
    assert json.dumps(table) and schedule.uses_aux_labels(step, config) == aux_labels


def test_objective_is_the_weighted_sum_and_keeps_terms_of_weight_zero():
    one, two = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    total = method.objective({"a": one, "b": two}, {"a": 0.5, "b": 0.0})
    total.backward()
    assert total == 1.0 and one.grad == 0.5 and two.grad == 0.0
    for terms, table in (({"a": one}, {"a": 1.0, "b": 0.5}), ({"a": one, "b": two}, {"a": 1.0})):
        with pytest.raises(ValueError, match="b is a term without a weight, or a weight without a term"):
            method.objective(terms, table)
    assert method.objective({"a": one}, {"a": 1.0, "b": 0.0}) == 2.0, "a term that is off need not be there"


def test_a_step_that_needs_no_cam_yet_takes_the_main_pass_and_moves_the_same():
    """COCO's first phase: leaving out what has no weight changes no parameter and no counter of the optimizer."""
    config = tiny(schedule__contrast_start=0.5, schedule__segmentation_start=0.5, optim__steps=8, optim__warmup=0.0)
    batch, nets = training_batch(config), []
    assert [schedule.classification_only(n, config) for n in (0, 4, 5)] == [True, True, False]
    for skip in (True, False):
        net = model.build(config, 4)
        optimizer = optim.build(net.trunk_parameters(), net.head_parameters(), net.decoder.parameters(), config.optim)
        for number in (4, 5):
            optim.set_rate(optimizer, number, config.optim)
            table = schedule.term_weights(number, config)
            optimizer.zero_grad()
            passed = number if skip else 5  # at step 5 every pass runs
            output, targets = method.forward(net, batch, config, passed, generator(number))
            assert (not targets.cams) == (skip and number == 4)
            method.objective(method.losses(output, targets, config), table).backward()
            method.complete_gradients(net, config)
            optimizer.step()
        nets.append(net.state_dict())
    for name, value in nets[0].items():
        torch.testing.assert_close(value, nets[1][name], msg=name)
