"""Start weights as they are published: every kind of file, prefix and container, and the normalisation they bring."""

import argparse
import json

import pytest
import safetensors.torch
import timm
import torch
from builders import tiny
from running import run
from running import tiny as tiny_run

from wsss import checkpoint, model, normalisation, weights
from wsss.normalisation import IMAGENET, parse
from wsss.paths import UserError, sha256
from wsss.presets import PRESETS
from wsss.report import records

WIDTH, DEPTH, CLIP = 24, 3, "0.48145466 0.4578275 0.40821073; 0.26862954 0.26130258 0.27577711"


def published(depth: int = DEPTH, seed: int = 1) -> dict[str, torch.Tensor]:
    """What timm gives for a ViT with its classifier of ten classes."""
    torch.manual_seed(seed)
    shape = {"patch_size": 8, "img_size": 32, "embed_dim": WIDTH, "depth": depth, "num_heads": 3}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=10, **shape)
    return {name: value.clone() for name, value in vit.state_dict().items()}


def built(path, **changes):
    changes = {"model__backbone": "vit_tiny_patch16_224", **changes}
    return model.build(tiny(model__checkpoint=str(path), **changes), 2)


def holds(net, tensors) -> bool:
    return all(torch.equal(value, tensors[name].float()) for name, value in net.encoder.state_dict().items())


# The kind of file, the container, the prefix.


def zipped(tensors, path):
    torch.save(tensors, path)


def legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def safe(tensors, path):
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("write", "name"), [(zipped, "w.safetensors"), (legacy, "best.pth.tar"), (safe, "pytorch_model.bin"), (safe, "w")]
)
def test_a_file_is_known_by_its_first_bytes_and_the_head_is_left_out(tmp_path, capsys, write, name, dtype):
    tensors = {name: value.to(dtype) for name, value in published().items()}
    write(tensors, tmp_path / name)
    assert holds(built(tmp_path / name), tensors)
    assert "left out head.bias, head.weight" in capsys.readouterr().err


@pytest.mark.parametrize("first", [b"\x80", b"P"])
def test_a_header_of_any_length_is_safetensors(tmp_path, first):
    """The file begins with that length: its first byte may be the one that pickles or archives begin with."""
    tensors, path = published(), tmp_path / "w.safetensors"
    for more in range(2048):
        data = safetensors.torch.save(tensors, {"card": "x" * more})
        if data.startswith(first):
            break
    path.write_bytes(data)
    assert data[:1] == first and holds(built(path), tensors)


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


PUBLISHED = {
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "model with its arguments": lambda t: {"model": t, "args": argparse.Namespace(lr=1e-3)},
    "DataParallel": lambda t: {"state_dict": prefixed("module.", t)},
    "compiled": lambda t: prefixed("_orig_mod.", t),
    "backbone.": lambda t: {"state_dict": {**prefixed("backbone.", t), "decode_head.conv.weight": torch.zeros(2)}},
    "encoder.": lambda t: prefixed("encoder.", {k: v for k, v in t.items() if not k.startswith("head.")}),
    "image tower": lambda t: {**prefixed("visual.trunk.", t), "text.ln_final.weight": torch.zeros(3)},
    "DINO": lambda t: {
        "student": prefixed("module.backbone.", published(seed=2)),
        "teacher": {**prefixed("backbone.", t), "head.last_layer.weight_v": torch.zeros(4, 2)},
        "epoch": 100,
    },
    "teacher and student by prefix": lambda t: {
        **prefixed("student.backbone.", published(seed=2)),
        **prefixed("teacher.backbone.", t),
        "teacher.dino_head.mlp.0.weight": torch.zeros(2, 2),
    },
    "average of the weights": lambda t: {"state_dict": published(seed=2), "state_dict_ema": t},
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_containers_and_prefixes(tmp_path, capsys, kind):
    tensors, path = published(), tmp_path / "weights.pth"
    torch.save(PUBLISHED[kind](tensors), path)
    assert holds(built(path), tensors)
    if kind == "DINO":
        said = capsys.readouterr().err
        assert "weights.pth: teacher is used, not student" in said and "left out backbone.head.bias" in said
        assert "head.last_layer.weight_v" in said


FAULTS = {
    "a distilled one": (
        lambda t: {**t, "dist_token": torch.zeros(1, 1, WIDTH), "pos_embed": torch.zeros(1, 18, WIDTH)},
        "a dist_token beside the class token, which a plain ViT lacks",
    ),
    "another width": (
        lambda t: {**t, "cls_token": torch.zeros(1, 1, 48)},
        "its width is 48: give --model.width 48",
    ),
    "two networks": (
        lambda t: {**prefixed("first.", t), **prefixed("second.", t)},
        r"several networks \(first., second.\); save only the one to start from",
    ),
    "no ViT": (
        lambda t: {"conv1.weight": torch.zeros(2)},
        "no patch_embed.proj.weight, so it is not a ViT in timm's names",
    ),
    "another grid": (
        lambda t: {**t, "pos_embed": torch.zeros(1, 1 + 36, WIDTH)},
        "its positions are those of 6 x 6 patches: give --model.image-size 48",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_files_that_do_not_fit_end_in_one_sentence(tmp_path, kind):
    change, words = FAULTS[kind]
    torch.save(change(published()), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=words) as fault:
        built(tmp_path / "weights.pth")
    assert "\n" not in str(fault.value)


def test_fewer_blocks_than_the_file_has(tmp_path, capsys):
    tensors, path = published(depth=5), tmp_path / "deep.pth"
    torch.save(tensors, path)
    assert holds(built(path), tensors)
    assert "its first 3 of 5 blocks and the last norm are used" in capsys.readouterr().err
    with pytest.raises(UserError, match="24 missing .*blocks.5"):
        built(path, model__depth=7)


def test_without_a_network_the_message_names_a_way_that_works(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.delenv("WSSS_WEIGHTS", raising=False)
    with pytest.raises(UserError, match=r"huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k on another .* "
                                        r"call it vit_tiny_patch16_224.safetensors .* WSSS_WEIGHTS"):  # fmt: skip
        model.build(tiny(model__backbone="vit_tiny_patch16_224", model__pretrained=True), 2)


def test_a_tags_weights_come_from_a_folder(tmp_path, monkeypatch, capsys):
    """TAG.safetensors of $WSSS_WEIGHTS, where the preset asks for the tag's weights."""
    tensors, tag = published(depth=5), TAGGED["model__backbone"]
    safetensors.torch.save_file(tensors, tmp_path / f"{tag}.safetensors")
    monkeypatch.setenv("WSSS_WEIGHTS", str(tmp_path))
    net = model.build(tiny(model__pretrained=True, **TAGGED), 2)
    assert holds(net, tensors) and "its first 3 of 5 blocks" in capsys.readouterr().err
    source = {"sha256": sha256(tmp_path / f"{tag}.safetensors"), "source": f"{tag}.safetensors in WSSS_WEIGHTS"}
    assert net.start == source and net.normalisation.text() == "half", "of timm's configuration of the tag"


def test_weights_that_were_int8_say_so():
    """At most 255 values in a row of 768, as the blocks' matrices of a package that ships them so."""
    whole = torch.randn(8, 768, generator=torch.manual_seed(0))
    scale = whole.abs().amax(1, keepdim=True) / 127
    rounded = ((whole / scale).round() * scale).half()
    assert weights.is_int8({"blocks.0.attn.qkv.weight": rounded, "norm.weight": whole[0]})
    assert not weights.is_int8({"blocks.0.attn.qkv.weight": rounded, "blocks.0.mlp.fc1.weight": whole.half()})
    assert not weights.is_int8({"patch_embed.proj.weight": rounded}) and not weights.is_int8({})


def test_a_folded_and_an_unfolded_file_give_the_same_tokens(tmp_path):
    """(x - m) / d through W is (x - M) / D through W D / d, with the bias moved: a file with CLIP's numbers in its
    patch embedding takes ImageNet's."""
    tensors, (clip, imagenet) = published(), (parse("clip", ""), IMAGENET)
    safetensors.torch.save_file(tensors, tmp_path / "clip.safetensors", {"normalisation": "clip"})
    m, d, big_m, big_d = (
        torch.tensor(x).double()[:, None, None] for x in (clip.mean, clip.deviation, imagenet.mean, imagenet.deviation)
    )
    weight = tensors["patch_embed.proj.weight"].double()
    tensors["patch_embed.proj.weight"] = (weight * big_d / d).float()
    tensors["patch_embed.proj.bias"] += (weight * (big_m - m) / d).sum((1, 2, 3)).float()
    safetensors.torch.save_file(tensors, tmp_path / "folded.safetensors", {"normalisation": "imagenet"})
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.manual_seed(0)).byte()
    nets = [built(tmp_path / f"{name}.safetensors").eval() for name in ("clip", "folded")]
    with torch.no_grad():
        one, two = (net(net.normalise(pixels)) for net in nets)
        wrong = nets[0](nets[1].normalise(pixels))
    torch.testing.assert_close(one.tokens, two.tokens, rtol=1e-4, atol=1e-4)
    assert (wrong.tokens - two.tokens).abs().max() > 0.01, "the test can tell them apart"
    assert [net.normalisation.text() for net in nets] == ["clip", "imagenet"]


TAGGED = {"model__backbone": "vit_tiny_patch16_224.augreg_in21k_ft_in1k"}


@pytest.mark.parametrize(
    ("metadata", "changes", "text"),
    [
        ({}, {}, "imagenet"),
        ({}, TAGGED, "half"),
        ({}, TAGGED | {"model__normalisation": "imagenet"}, "imagenet"),
        ({}, {"model__normalisation": "clip"}, "clip"),
        ({"normalisation": "clip"}, TAGGED, "clip"),
        ({"normalisation": CLIP}, {"model__normalisation": "imagenet"}, "clip"),
        ({"normalisation": "0.1, 0.2, 0.3, 0.4, 0.5, 0.6"}, {}, "0.1 0.2 0.3; 0.4 0.5 0.6"),
    ],
)
def test_who_decides_on_the_normalisation(tmp_path, metadata, changes, text):
    """The file's metadata, else the setting. Its value `tag` means timm's configuration of the named tag."""
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(published(), path, metadata or None)
    net = built(path, **changes)
    assert net.normalisation.text() == text and net.normalisation.source
    torch.testing.assert_close(net.mean.flatten(), torch.tensor(net.normalisation.mean))
    assert net.start["sha256"] == sha256(path) and net.start["source"] == str(path)


OF_255 = "123.675, 116.28, 103.53, 58.395, 57.12, 57.375"


@pytest.mark.parametrize("text", ["imagnet", "", "1 2 3", "0 0 0 1 1 0", "0 0 0 1 1 nan", "0 0 0 1 1 -1", OF_255])
def test_a_normalisation_that_is_none(text):
    with pytest.raises(UserError, match="it must be imagenet, clip, half or six numbers"):
        parse(text, "the file")


def test_the_presets_of_the_base_keep_imagenets():
    for name, config in PRESETS.items():
        base = name.startswith(("voc", "coco")) and not name.startswith("voc-animals")
        assert config.model.normalisation == ("imagenet" if base else "tag"), name
        found = normalisation.start_normalisation(config.model, None, False)
        wanted = parse("clip", "") if name.startswith("voc-animals") and config.model.pretrained else IMAGENET
        assert (found.mean, found.deviation) == (wanted.mean, wanted.deviation), name


def test_a_run_keeps_its_normalisation_and_start_weights(own, tmp_path):
    """They are in its files, its log and its records: of training, of the final protocol, and of an evaluation later
    on, when the start weights are gone."""
    path = tmp_path / "clip.safetensors"
    shape = {"patch_size": 8, "img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape)
    safetensors.torch.save_file(vit.state_dict(), path, {"normalisation": CLIP})
    wanted = {"sha256": sha256(path), "source": str(path)}
    words = tiny_run(own, tmp_path, "--model.checkpoint", str(path))
    assert run(*words) == 0
    path.unlink()
    folder = next(tmp_path.rglob("config.json")).parent
    assert run("evaluate", folder, "--data-root", own) == 0
    assert run("evaluate", folder, "--data-root", own, "--protocol", "voc", "--crf", "False") == 0
    chosen = [records.load(folder.with_name(f"0{kind}.json")) for kind in ("", ".voc")]
    chosen.append(json.loads((folder / "log.jsonl").read_text().splitlines()[0])["start"])
    for record in chosen:
        assert record["weights"] == wanted
        assert record["normalisation"]["mean"][0] == 0.48145466 and "metadata" in record["normalisation"]["source"]
    assert checkpoint.metadata(folder / "best.safetensors")["normalisation"] == "clip"


def test_a_run_is_not_continued_on_other_start_weights(own, tmp_path, capsys, refused):
    """Neither a finished run nor one without its record goes on if the file of that name holds other weights. A run
    whose file is gone is returned."""
    path, shape = tmp_path / "w.pth", {"patch_size": 8, "img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape)
    torch.save(vit.state_dict(), path)
    words = tiny_run(own, tmp_path, "--model.checkpoint", str(path))
    assert run(*words) == 0 and run(*words) == 0
    record = next(tmp_path.rglob("config.json")).parent.with_suffix(".json")
    kept = record.read_bytes()
    vit.norm.bias.data += 1
    torch.save(vit.state_dict(), path)
    capsys.readouterr()
    assert f"the weights in {path} are not those that the run in" in refused(*words)
    record.unlink()
    assert "are not those that the run in" in refused(*words)
    record.write_bytes(kept)
    path.unlink()
    assert run(*words) == 0
