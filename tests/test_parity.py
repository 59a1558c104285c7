"""Equal to the predecessor's numbers (tests/golden/README.md): the small copy always, the whole file where it is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss import cam, contrast, losses, method, metrics, model, optim
from wsss.batch import Batch, Output
from wsss.config import TOCO, Config
from wsss.presets import TOCO_TWIN
from wsss.settings import override

GOLDEN = Path(__file__).parent / "golden" / "toco.npz"


@pytest.fixture(scope="module", params=["copy", "whole"])
def reference(request):
    """`reference("case/in")` -> name -> tensor, floats as they are and whole numbers as int64."""
    path = GOLDEN if request.param == "copy" else request.getfixturevalue("shared") / "reference" / "toco.npz"
    with np.load(path) as arrays:
        stored = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}

    def group(prefix):
        found = {name.removeprefix(prefix + "/"): x for name, x in stored.items() if name.startswith(prefix + "/")}
        return {name: x if x.is_floating_point() else x.long() for name, x in found.items()}

    return group


def close(mine, theirs, tolerance=1e-5):
    mine, theirs = torch.as_tensor(mine), torch.as_tensor(theirs)
    assert mine.shape == theirs.shape
    assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


def same_labels(mine, theirs):
    assert mine.shape == theirs.shape
    assert (mine != theirs).float().mean() <= 1e-3


def test_labels(reference):
    given, wanted = reference("labels/in"), reference("labels/out")
    maps, label, box = given["cam"], given["image_label"], given["box"]
    same_labels(cam.evaluation_labels(maps, label, 0.5), wanted["evaluation_label"])
    same_labels(cam.training_labels(maps, label, box, 0.7, 0.25), wanted["training_label"])
    same_labels(cam.roi_codes(maps, label, 0.7, 0.25), wanted["roi"])
    close(cam.masked(maps, label), wanted["valid_cam"])


def test_normalise(reference):
    close(cam.normalise(reference("normalise/in")["raw"]), reference("normalise/out")["cam"])


@pytest.mark.parametrize("case", ["ptc", "ptc_all_ignored"])
def test_patch_contrast(reference, case):
    given, wanted = reference(f"{case}/in"), reference(f"{case}/out")
    tokens = given["tokens"].requires_grad_()
    affinity = contrast.affinity_labels(given["label"])
    loss = contrast.patch_contrast_loss(tokens.flatten(2).mT, affinity)
    loss.backward()
    close(loss.detach(), wanted["loss"])
    if case == "ptc":
        same_labels(affinity, wanted["affinity"])
        close(tokens.grad, reference("ptc/grad")["tokens"])
    else:
        assert loss == 0.5 and not tokens.grad.any()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_class_contrast(reference, temperature):
    case = f"ctc_T{temperature}"
    given = reference(f"{case}/in")
    student, flags = given["student"].requires_grad_(), given["flags"].long()
    views = [x.unflatten(0, (-1, len(flags))) for x in (student, given["teacher"])]
    loss = contrast.class_contrast_loss(*views, flags, temperature, TOCO.raw_exponentials, TOCO.extra_contrast_term)
    loss.backward()
    close(loss.detach(), reference(f"{case}/out")["loss"])
    close(student.grad, reference(f"{case}/grad")["student"])


def test_segmentation(reference):
    given = reference("seg/in")
    logits = given["logits"].requires_grad_()
    loss = losses.segmentation_loss(logits, given["label"], TOCO.undefined_segmentation)
    loss.backward()
    close(loss.detach(), reference("seg/out")["loss"])
    close(logits.grad, reference("seg/grad")["logits"])


def test_schedule(reference):
    steps, rates = reference("schedule/in")["step"], reference("schedule/out")["lr"]
    optimizer = optim.build(
        [torch.nn.Parameter(torch.ones(1))], [torch.nn.Parameter(torch.ones(1))], [], Config().optim
    )
    for step, rate in zip(steps.tolist(), rates.tolist(), strict=True):
        assert optim.set_rate(optimizer, step, Config().optim) == pytest.approx(rate, rel=1e-5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [rate, 10 * rate, 10 * rate], rel=1e-5
        )


def test_metrics(reference):
    given, wanted = reference("metrics/in"), reference("metrics/out")
    truth, prediction = (given[name].numpy().astype(np.uint8) for name in ("truth", "prediction"))
    classes = len(wanted["iou"])
    images = zip(truth, prediction, strict=True)
    totals = sum(metrics.counts(metrics.confusion(one, two, classes)) for one, two in images)
    scores = metrics.segmentation_scores(totals, [str(c) for c in range(classes)])
    close(metrics.iou(totals), 100 * wanted["iou"])
    for name in ("miou", "pixel_accuracy", "mean_accuracy"):
        assert scores[name] == pytest.approx(100 * float(wanted[name]), abs=1e-4)


def test_token_affinity_of_a_whole_step(reference):
    """The pair targets of L_ptc by way of `method`: the CAM is sampled to the grid before the thresholds."""
    given = reference("labels/in")
    maps, label = given["cam"], given["image_label"]
    images, _, height, width = maps.shape
    whole = torch.tensor([[0, height, 0, width]]).expand(images, 4)
    blank = torch.zeros(images, 3, height, width)
    batch = Batch([""] * images, blank, label, whole, blank, blank)
    tokens = torch.zeros(images, 12, 2)
    output = Output(tokens, tokens, (), tokens[:, 0], (4, 3), 16, label, label, aux_cam=maps)
    affinity = contrast.affinity_labels(method.token_labels(output, batch, override(Config(), TOCO_TWIN)))
    small = torch.nn.functional.interpolate(maps, (4, 3), mode="bilinear", align_corners=False)
    labels = cam.training_labels(small, label, whole * 0 + torch.tensor([0, 4, 0, 3]), 0.7, 0.25)
    assert torch.equal(affinity, contrast.affinity_labels(labels))


def test_encoder(shared):
    """Tokens of the predecessor's encoder, positions resampled without antialiasing, on three sizes."""
    with np.load(shared / "reference" / "toco.npz") as arrays:
        stored = {
            name.removeprefix("encoder/"): torch.from_numpy(arrays[name]) for name in arrays.files if "encoder/" in name
        }
    weights = {name.removeprefix("weight/"): x for name, x in stored.items() if name.startswith("weight/")}
    width, depth = weights["cls_token"].shape[2], sum(name.endswith("attn.qkv.weight") for name in weights)
    patch = weights["patch_embed.proj.weight"].shape[2]
    side = patch * round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    shape = {"width": width, "depth": depth, "heads": 3, "patch_size": patch, "image_size": side}
    config = override(Config(), {f"model.{name}": value for name, value in shape.items()} | TOCO_TWIN)
    network = model.build(config, 2).eval()
    network.encoder.load_state_dict(weights)
    for name in ("same", "wider", "small"):
        with torch.no_grad():
            encoded = network.encode(stored[f"in/{name}"])
            tokens, aux_tokens, class_token = encoded.tokens, encoded.aux_tokens, encoded.class_token
        close(class_token, stored[f"out/{name}_class_token"])
        close(tokens, stored[f"out/{name}_tokens"])
        close(aux_tokens, stored[f"out/{name}_aux_tokens"])
