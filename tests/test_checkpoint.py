"""The predecessor's released checkpoints: read safely, loaded strictly and whole, their heads as by hand."""

import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from builders import UNDECOUPLED, tiny
from running import Hostile

from wsss import checkpoint, model, presets
from wsss.paths import UserError
from wsss.presets import PRESETS

CLASSES, WIDTH, HEADS, PATCH = 4, 24, 3, 8


def configuration(preset="voc-toco", **changes):
    changes = {"model__patch_size": PATCH, "msc__dimension": 12, **changes}
    return tiny(PRESETS[preset], **changes)


def predecessors(seed=0):
    """Random tensors under all names of a released checkpoint, `module.` in front, at small widths."""
    generator = torch.Generator().manual_seed(seed + 1)
    heads = {"mlp.0": (16, WIDTH), "mlp.2": (16, 16), "mlp.4": (8, 16)}
    shapes = {
        "classifier.weight": (CLASSES, WIDTH, 1, 1),
        "aux_classifier.weight": (CLASSES, WIDTH, 1, 1),
        "decoder.conv6.weight": (WIDTH, WIDTH, 3, 3),
        "decoder.conv7.weight": (WIDTH, WIDTH, 3, 3),
        "decoder.conv8.weight": (CLASSES + 1, WIDTH, 1, 1),
        "encoder.head.weight": (1000, WIDTH),
        "encoder.head.bias": (1000,),
    }
    for head in ("proj_head", "proj_head_t"):
        for name, shape in heads.items():
            shapes |= {f"{head}.{name}.weight": shape, f"{head}.{name}.bias": shape[:1]}
        shapes |= {f"{head}.last_layer.weight_g": (12, 1), f"{head}.last_layer.weight_v": (12, 8)}
    tensors = {name: 0.3 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    shape = {"patch_size": PATCH, "img_size": 32, "embed_dim": WIDTH, "depth": 3, "num_heads": HEADS}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
    tensors |= {f"encoder.{name}": value for name, value in vit.state_dict().items()}
    return {f"module.{name}": value for name, value in tensors.items()}


def heads_by_hand(stored, output):
    """All that the network says about an image, from its tokens and the tensors of a checkpoint."""
    weights, found = {name.removeprefix("module."): value for name, value in stored.items()}, {}
    for logits, tokens, head in (("logits", "tokens", "classifier"), ("aux_logits", "aux_tokens", "aux_classifier")):
        found[logits] = getattr(output, tokens).max(1).values @ weights[f"{head}.weight"][:, :, 0, 0].T
    x = output.tokens.mT.unflatten(2, output.grid)
    x = F.conv2d(x, weights["decoder.conv6.weight"], padding=5, dilation=5).relu()
    x = F.conv2d(x, weights["decoder.conv7.weight"], padding=5, dilation=5).relu()
    found["segmentation"] = F.conv2d(x, weights["decoder.conv8.weight"])
    for head in ("proj_head", "proj_head_t"):
        x = output.class_token
        for layer in (0, 2, 4):
            x = x @ weights[f"{head}.mlp.{layer}.weight"].T + weights[f"{head}.mlp.{layer}.bias"]
            x = F.gelu(x) if layer < 4 else x / x.norm(dim=1, keepdim=True)
        rows_v = weights[f"{head}.last_layer.weight_v"]
        rows_v = weights[f"{head}.last_layer.weight_g"] * rows_v / rows_v.norm(dim=1, keepdim=True)
        found[head] = x @ rows_v.T
    return found


def test_a_released_checkpoint_is_loaded_whole_and_its_heads_are_those_by_hand(tmp_path, monkeypatch):
    """No hub is asked, though the preset has a tag. The encoder is compared with timm's (test_model) and with the
    base's numbers (test_verify)."""
    stored, path = predecessors(), tmp_path / "released.pth"
    torch.save(stored, path)
    create, asked = timm.create_model, []
    monkeypatch.setattr(timm, "create_model", lambda *a, pretrained, **o: asked.append(pretrained) or create(*a, **o))
    net = model.build(configuration(model__checkpoint=str(path), model__pretrained=True), CLASSES).eval()
    assert asked == [False]
    assert all(torch.equal(value, stored[f"module.{name}"]) for name, value in net.state_dict().items())
    with torch.no_grad():
        output = net(torch.randn(2, 3, 45, 61, generator=torch.Generator().manual_seed(7)))
        heads = {name: getattr(net, name)(output.class_token)[:, 0] for name in ("proj_head", "proj_head_t")}
        for name, wanted in heads_by_hand(stored, output).items():
            found = heads[name] if name in heads else getattr(output, name)
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name
    assert not torch.allclose(heads["proj_head"], heads["proj_head_t"])


SHAPES = {
    "classifier.weight": (20, 768, 1, 1),
    "aux_classifier.weight": (20, 768, 1, 1),
    "decoder.conv6.weight": (512, 768, 3, 3),
    "decoder.conv7.weight": (512, 512, 3, 3),
    "decoder.conv8.weight": (21, 512, 1, 1),
    "encoder.pos_embed": (1, 197, 768),
    "proj_head.mlp.0.weight": (2048, 768),
    "proj_head.mlp.2.weight": (2048, 2048),
    "proj_head.mlp.4.weight": (256, 2048),
    "proj_head_t.last_layer.weight_g": (1024, 1),
    "proj_head_t.last_layer.weight_v": (1024, 256),
}


@pytest.mark.parametrize("preset", ["voc-toco", "voc-deit-toco"])
def test_full_size_shapes_are_the_predecessors(preset):
    config = presets.get(preset, model__pretrained=False)
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in model.SegmentationModel(config, 20).state_dict().items()}
    assert own | SHAPES == own


def test_subspaces_do_not_fit_and_the_settings_that_do_are_named(tmp_path):
    path = tmp_path / "released.pth"
    torch.save(predecessors(), path)
    words = (
        r"does not fit the model: 4 of another shape \(proj_head.last_layer.weight_g \(12, 1\) for \(8, 1\), .*"
        r"--msc.subspaces times --msc.dimension must be 12; for weights of the base use a preset that ends in -toco, "
        r"or --msc.subspaces 1 --msc.dimension 12 --msc.normalise False"
    )
    with pytest.raises(UserError, match=words):
        model.build(configuration("voc", msc__dimension=2, model__checkpoint=str(path)), CLASSES)
    as_told = {"msc__subspaces": 1, "msc__dimension": 12, "msc__normalise": False, **UNDECOUPLED}
    net = model.build(configuration("voc", **as_told, model__checkpoint=str(path)), CLASSES)
    assert torch.equal(net.proj_head_t.last_layer.weight_v, predecessors()["module.proj_head_t.last_layer.weight_v"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("module.decoder.conv8.weight", None, r"1 missing \(decoder.conv8.weight\); check --model"),
        ("module.extra.weight", torch.zeros(2), r"1 unexpected \(extra.weight\); check --model"),
        ("module.encoder.pos_embed", torch.zeros(1, 5, WIDTH), r"encoder.pos_embed \(1, 5, 24\) for \(1, 17, 24\)"),
        ("module.classifier.weight", torch.zeros(9, WIDTH, 1, 1), r"classifier.weight \(9, 24, 1, 1\) for \(4, 24"),
        ("module.decoder.conv8.weight", torch.full((5, WIDTH, 1, 1), torch.nan), "not finite, first in decoder.conv8"),
        ("classifier.bias", torch.zeros(2), "module.classifier.weight"),
    ],
    ids=["missing", "unexpected", "positions", "classes", "nan", "mixed names"],
)
def test_loading_is_strict(tmp_path, name, value, words):
    stored, path = predecessors(), tmp_path / "released.pth"
    stored = {key: x for key, x in stored.items() if key != name} | ({} if value is None else {name: value})
    torch.save(stored, path)
    with pytest.raises(UserError, match=words):
        model.build(configuration(model__checkpoint=str(path)), CLASSES)


@pytest.mark.parametrize("protocol", [None, 2, 4], ids=["torch.save", "pickle", "newer pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, protocol):
    path, trap = tmp_path / "released.pth", tmp_path / "was run"
    content = {"module.classifier.weight": torch.zeros(2), "module.other": Hostile(trap)}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(trap), protocol=protocol))
    # torch's reader of weights gives up at the first instruction of a newer pickle, before it sees a name.
    words = "cannot be read" if protocol == 4 else r"holds \w+.mkdir beside its tensors, .* is never run"
    with pytest.raises(UserError, match=words) as refused:
        checkpoint.read(path)
    assert not trap.exists() and "weights_only" not in str(refused.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path, zipped, kept):
    path = tmp_path / "released.pth"
    torch.save(predecessors(), path, _use_new_zipfile_serialization=zipped)
    assert checkpoint.read(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match="cannot be read as weights of torch.save .* is cut off or of another kind"):
        checkpoint.read(path)
