"""The network: token order, positions, patches, registers, sizes, heads, teacher, checkpoints, D13."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from builders import tiny

from wsss import model
from wsss.paths import UserError


def network(classes=4, **changes):
    return model.build(tiny(**changes), classes).eval()


def image(*size, images=2):
    return torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("size", [(56, 56), (33, 61), (16, 100)])
def test_any_patch_and_size(patch, size):
    """Sizes that the patch does not divide: the remainder is dropped, so its pixels change nothing."""
    net = network(model__patch_size=patch, model__image_size=4 * patch)
    photographs = image(*size)
    with torch.no_grad():
        output = net(photographs)
    rows, columns = size[0] // patch, size[1] // patch
    assert output.grid == (rows, columns) and net.patch == patch
    assert output.tokens.shape == output.aux_tokens.shape == (2, rows * columns, 24)
    assert output.class_token.shape == (2, 24)
    assert output.logits.shape == output.aux_logits.shape == (2, 4)
    assert output.segmentation.shape == (2, 5, rows, columns)
    changed = photographs.clone()
    changed[:, :, rows * patch :], changed[:, :, :, columns * patch :] = 9.0, 9.0
    with torch.no_grad():
        assert torch.equal(net(changed).tokens, output.tokens)


@pytest.mark.parametrize(
    ("backbone", "registers"),
    [("vit_base_patch16_224", 0), ("vit_small_patch14_reg4_dinov2", 4), ("deit3_small_patch16_224", 0)],
)
def test_plain_vits_of_timm(backbone, registers):
    """With register tokens, and with positions that leave the class token out (both of timm's layouts)."""
    net = network(model__backbone=backbone, model__image_size=32)
    assert net.encoder.num_prefix_tokens == 1 + registers
    photographs = image(32, 32)
    with torch.no_grad():
        encoded = net.encode(photographs)
        tokens, class_token = encoded.tokens, encoded.class_token
        whole = net.encoder.forward_features(photographs)
    torch.testing.assert_close(class_token, whole[:, 0])
    torch.testing.assert_close(tokens, whole[:, 1 + registers :])


def test_aux_tokens_are_those_before_the_last_two_blocks_without_norm():
    net = network(model__depth=5)
    photographs = image(32, 32)
    with torch.no_grad():
        aux = net.encode(photographs).aux_tokens
        theirs = net.encoder.forward_intermediates(photographs, indices=[5 - 3], intermediates_only=True, norm=False)
    torch.testing.assert_close(aux, theirs[0].flatten(2).mT)
    assert net.aux_block == 3


def test_patches_as_a_linear_layer_are_the_convolution():
    embed, x = network().encoder.patch_embed, image(16, 24)
    width, _, rows, columns = embed.proj.weight.shape
    expected = embed.proj(x).movedim(1, 3)
    assert embed(x).shape == expected.shape == (len(x), 16 // rows, 24 // columns, width)
    torch.testing.assert_close(embed(x), expected)
    pull = torch.randn(expected.shape, generator=torch.manual_seed(0))
    one, two = (torch.autograd.grad((out * pull).sum(), embed.proj.weight)[0] for out in (embed(x), expected))
    torch.testing.assert_close(one, two)


def test_fused_and_plain_attention_agree():
    """The number of tokens, 16 here, decides which of the two is used."""
    nets = [network(model__fused_from=start) for start in (0, 16, 17)]
    with torch.no_grad():
        tokens = [net(image(32, 32)).tokens for net in nets]
    assert [net.encoder.blocks[0].attn.fused_attn for net in nets] == [True, True, False]
    torch.testing.assert_close(tokens[0], tokens[2])


def test_a_view_beside_the_image_gives_the_class_token_of_its_own_pass():
    net, x = network(), image(32, 32)
    tokens, grads = [], []
    for token in (net.encode(x).class_token, net.encode(x / 2, x).view_token):
        net.zero_grad()
        tokens.append(token)
        token.square().sum().backward()
        grads.append([p.grad.clone() for p in net.encoder.parameters() if p.grad is not None])
    torch.testing.assert_close(tokens[0], tokens[1])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)
    alone, beside = net(x), net(x, view=x / 2)
    for name in ("tokens", "aux_tokens", "class_token", "logits", "aux_logits", "segmentation"):
        torch.testing.assert_close(getattr(beside, name), getattr(alone, name))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs g++")
@pytest.mark.filterwarnings("default")  # the compiler has its own
def test_a_compiled_encoder_gives_the_same_tokens_and_gradients():
    nets, found = [network(), network(model__compile=True)], []
    for net in nets:
        output = net(image(32, 32))
        output.logits.sum().backward()
        found.append((output.tokens.detach(), net.encoder.blocks[0].attn.qkv.weight.grad))
    assert nets[1].encoder.blocks[0]._compiled_call_impl is not None
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("start", [500, 16])
def test_activation_checkpointing_changes_nothing_but_memory(start):
    """Nor where a shorter pass, with another kind of attention, comes between forward and backward."""
    one, two = (network(model__activation_checkpointing=on, model__fused_from=start) for on in (False, True))
    for net in (one, two):
        output = net(image(32, 32))
        net(image(16, 16))
        (output.logits.sum() + output.aux_logits.sum() + output.segmentation.square().sum()).backward()
    grads = [{name: p.grad for name, p in net.named_parameters() if p.grad is not None} for net in (one, two)]
    assert grads[0].keys() == grads[1].keys() and all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_an_aligned_layer_beyond_the_aux_has_its_own_classifier():
    net = network(model__depth=5, csa__layers=(1, 3))
    assert net.extra_blocks == (4, 2) and len(net.extra_classifiers) == 2
    output = net(image(32, 32))
    taps = []
    for number in net.extra_blocks:
        hook = net.encoder.blocks[number - 1].register_forward_hook(lambda _, __, out: taps.append(out[:, 1:]))
        net(image(32, 32))
        hook.remove()
    for mine, theirs, logits, head in zip(
        output.extra_tokens, taps, output.extra_logits, net.extra_classifiers, strict=True
    ):
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(logits, theirs.amax(1) @ head.weight[:, :, 0, 0].T)
    assert network(model__depth=5, csa__layers=(1, 3), csa__weight=0).extra_blocks == ()
    with pytest.raises(UserError, match="the ViT has 3 blocks"):
        network(csa__layers=(3,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__backbone": "vit_huge_patch3"}, "timm knows no such architecture"),
        (
            {"model__backbone": "resnet18", "model__width": None},
            "backbone resnet18: timm cannot build it as a plain ViT",
        ),
        ({"model__heads": 5}, "timm cannot build it as a plain ViT of this shape"),
        ({"model__backbone": "deit_tiny_distilled_patch16_224"}, "not a plain ViT with a class token"),
        ({"model__backbone": "vit_small_patch16_18x2_224"}, "not a plain ViT with a class token"),
        ({"model__depth": 2}, "model.depth is 2, but must lie between 3 and"),
        ({}, "7x20 pixels is smaller than one patch of 8"),
    ],
)
def test_backbones_that_cannot_be_used(changes, words):
    with pytest.raises(UserError, match=words):
        network(**changes)(image(7, 20))


def added_positions(net, size):
    """What the encoder adds to the patches of an image of `size`, on the grid; and to the class token."""
    rows, columns = net.grid(torch.zeros(1, 3, *size))
    with torch.no_grad():
        x = net._with_positions(torch.zeros(1, rows, columns, 24))
    prefix = net.encoder.num_prefix_tokens
    return x[0, prefix:].unflatten(0, (rows, columns)), x[0, 0]


@pytest.mark.parametrize("size", [(64, 48), (16, 16), (16, 64)])
def test_D13_positions_resampled_with_antialiasing(size):
    """Fixed: with antialiasing; predecessor: without. They agree where the grid grows and differ where it shrinks.
    16 x 64 has as many tokens as the trained grid, in another shape."""
    grids = {}
    for plain in (True, False):
        net = network(compat__plain_positions=plain)
        grids[plain], class_token = added_positions(net, size)
        stored = net.encoder.pos_embed[0, 1:].mT.unflatten(1, (4, 4))[None]
        target = (size[0] // 8, size[1] // 8)
        by_hand = F.interpolate(stored, target, mode="bicubic", align_corners=False, antialias=not plain)
        torch.testing.assert_close(grids[plain], by_hand[0].permute(1, 2, 0))
        assert torch.equal(class_token, net.encoder.pos_embed[0, 0] + net.encoder.cls_token[0, 0])
    difference = (grids[True] - grids[False]).square().mean() / grids[True].square().mean()
    assert difference > 1e-2 if min(size) < 32 else difference < 0.1


def test_classifier_scale_multiplies_the_start():
    one, tenth = (network(model__classifier_scale=scale) for scale in (1.0, 0.1))
    torch.testing.assert_close(tenth.classifier.weight, 0.1 * one.classifier.weight)
    torch.testing.assert_close(tenth.aux_classifier.weight, 0.1 * one.aux_classifier.weight)
    assert torch.equal(tenth.decoder.conv6.weight, one.decoder.conv6.weight)


def test_teacher_starts_as_a_copy_and_follows_by_its_momentum():
    net = network()
    start = copy.deepcopy(net.proj_head_t.state_dict())
    assert all(torch.equal(start[name], value) for name, value in net.proj_head.state_dict().items())
    with torch.no_grad():
        for parameter in net.proj_head.parameters():
            parameter.add_(torch.ones_like(parameter))
    for _ in range(2):
        net.update_teacher(0.9)
    for name, value in net.proj_head_t.state_dict().items():
        student = net.proj_head.state_dict()[name]
        by_hand = 0.9 * (0.9 * start[name] + 0.1 * student) + 0.1 * student
        torch.testing.assert_close(value, by_hand)
    before = copy.deepcopy(net.proj_head_t.state_dict())
    net.update_teacher(1.0)
    assert all(torch.equal(before[name], value) for name, value in net.proj_head_t.state_dict().items())
