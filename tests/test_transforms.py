"""Training views: the box, padding, the two flips (D2, D3), ranges, and that a seed decides everything."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import QUICK
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsss import datasets, protocols, transforms
from wsss.config import Augment, Compat
from wsss.datasets import Split, TrainingViews, collate
from wsss.inference import multi_scale
from wsss.presets import get

AUGMENT = Augment(crop=32, local_size=16)


def photograph(width=40, height=30):
    """Brightness rises from left to right and no pixel is black."""
    ramp = np.linspace(40, 250, width).astype(np.uint8)
    return Image.fromarray(np.stack([np.broadcast_to(ramp, (height, width))] * 3, 2))


def seeded(seed, function, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(*arguments)


@QUICK
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_random_crop_box_is_where_the_photograph_is(width, height, seed):
    """Black outside the box and never inside it; the pixels inside are a piece of the photograph."""
    source = np.random.RandomState(seed).randint(1, 256, (height, width, 3)).astype(np.uint8)
    crop, (top, bottom, left, right) = seeded(seed, transforms.random_crop, Image.fromarray(source), 32)
    pixels = np.asarray(crop)
    assert pixels.shape == (32, 32, 3)
    assert (bottom - top, right - left) == (min(height, 32), min(width, 32))
    inside = np.zeros((32, 32), bool)
    inside[top:bottom, left:right] = True
    assert not pixels[~inside].any() and pixels[inside].all()
    piece = pixels[top:bottom, left:right]
    windows = np.lib.stride_tricks.sliding_window_view(source, piece.shape)
    assert (windows == piece).all((-1, -2, -3)).any()


def test_random_crop_reaches_every_offset():
    small, large = Image.new("RGB", (30, 32), "white"), photograph(34, 32)
    boxes = {seeded(seed, transforms.random_crop, small, 32)[1] for seed in range(40)}
    assert boxes == {(0, 32, left, left + 30) for left in range(3)}
    starts = {np.asarray(seeded(seed, transforms.random_crop, large, 32)[0])[0, 0, 0] for seed in range(40)}
    assert starts == set(np.asarray(large)[0, :3, 0])


@pytest.mark.parametrize("second_flip", [False, True])
def test_the_mask_of_a_fully_supervised_run_lies_as_view_1_does(second_flip):
    """A photograph whose grey value is its class, no colours changed: view 1 shows the mask, 255 where it is padded."""
    mask = np.repeat(np.arange(40, 240, 5, dtype=np.uint8)[None], 30, 0)
    image, still = Image.fromarray(np.stack([mask] * 3, 2)), replace(AUGMENT, colour=0.0, hue=0.0, blur=(0.0, 0.0))
    still, compat = replace(still, scale=(0.8, 1.2)), Compat(second_flip=second_flip)
    for seed in range(8):
        view, (top, bottom, left, right), *_ = seeded(seed, transforms.views, image, still, compat)
        found = seeded(seed, transforms.mask_view, mask, still, compat).numpy()
        inside = np.zeros((32, 32), bool)
        inside[top:bottom, left:right] = True
        main = inside[:, ::-1] if second_flip and not np.array_equal(inside, found != 255) else inside
        assert np.array_equal(main, found != 255)
        assert np.abs(view[0].numpy().astype(int) - found)[main].max() <= 5, "bilinear beside the nearest"


def test_padding_is_black_before_colours_change():
    """Without colour changes the padding is pixel 0; it is the same in view 1 and the local source."""
    plain = replace(AUGMENT, blur=(0.0, 0.0), scale=(0.5, 0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_colour", lambda image, strength: image)
        view, (top, bottom, left, right), _, local = seeded(1, transforms.views, photograph(), plain, Compat())
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert (bottom - top, right - left) == (15, 20)
    assert view[:, ~inside].max() == 0 and view[:, inside].min() > 30
    assert torch.equal(view, local)


def directions(compat, count=100):
    """For each draw: is the photograph's brightness rising in view 1, in the local source; and where the box lies
    against the black padding of view 1 (True where they agree)."""
    found = []
    narrow = replace(AUGMENT, scale=(0.5, 0.5), blur=(0.0, 0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_colour", lambda image, strength: image)
        for seed in range(count):
            main, box, _, local = seeded(seed, transforms.views, photograph(), narrow, Compat(**compat))
            planes = [x[0, (box[0] + box[1]) // 2] for x in (main, local)]
            shown = [(plane > 5).nonzero().flatten() for plane in planes]
            rising = [bool(plane[s[-1]] > plane[s[0]]) for plane, s in zip(planes, shown, strict=True)]
            found.append((*rising, (shown[0][0].item(), shown[0][-1].item() + 1) == box[2:]))
    return np.array(found)


def test_views_flip_half_the_time_and_the_box_with_them():
    main, local, box_agrees = directions({}).T
    assert 0.35 < main.mean() < 0.65
    assert (main == local).all() and box_agrees.all()


def test_D2_second_flip_leaves_the_box_behind():
    """Half of the draws are mirrored after the crop; their box is right only where the padding is symmetric."""
    main, local, box_agrees = directions({"second_flip": True}).T
    assert 0.35 < main.mean() < 0.65
    assert (main == local).all()
    assert 0.3 < 1 - box_agrees.mean() < 0.6


def test_D3_local_source_flips_on_its_own():
    """View 1 and the source of local crops point in different directions half the time, with D2 as well."""
    main, local, _ = directions({"local_flip": True, "second_flip": True}).T
    assert 0.4 < (main != local).mean() < 0.6


def test_scale_range():
    sizes = {seeded(s, transforms._random_scale, photograph(), (0.5, 2.0)).size for s in range(200)}
    widths, heights = zip(*sizes, strict=True)
    assert min(widths) >= 20 and max(widths) < 80 and min(heights) >= 15 and max(heights) < 60
    assert max(widths) - min(widths) > 50
    assert seeded(0, transforms._random_scale, photograph(1, 1), (0.5, 0.5)).size == (1, 1)


def test_blur_radius_and_probability():
    sharp = Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert seeded(0, transforms.blur, sharp, (1.0, 2.0), 0.0) is sharp
    blurred = [np.asarray(seeded(s, transforms.blur, sharp, (1.0, 2.0), 1.0)).std() for s in range(5)]
    assert max(blurred) < 40 < np.asarray(sharp).std()
    share = np.mean([seeded(s, transforms.blur, sharp, (1.0, 2.0), 0.3) is not sharp for s in range(300)])
    assert 0.2 < share < 0.4


def test_items_are_the_same_for_the_same_index_and_seed(mini_root):
    config = get("mini", class_contrast__weight=0.5)
    items = TrainingViews(Split(mini_root, "train"), config)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = items[(3, 77)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5), items[(2, 5)]
    again, other = items[(3, 77)], items[(3, 78)]
    assert first[0] == again[0] and first[-1] is again[-1] is None, "no mask"
    assert all(torch.equal(a, b) for a, b in zip(first[1:-1], again[1:-1], strict=True))
    assert not torch.equal(first[1], other[1])
    batch = collate([first, other])
    assert batch.ids == [first[0]] * 2 and batch.image.shape == (2, 3, 96, 96) and batch.box.shape == (2, 4)
    assert torch.equal(batch.local[1], other[5]) and torch.equal(batch.view[0], first[4])


def test_without_class_contrast_its_views_are_left_out(mini_root):
    """View 1 and its box are the same with and without."""
    split = Split(mini_root, "train")
    full, lean = (TrainingViews(split, get("mini", class_contrast__weight=weight))[(3, 77)] for weight in (0.5, 0.0))
    assert torch.equal(full[1], lean[1]) and torch.equal(full[3], lean[3])
    assert lean[4] is None and lean[5] is None
    batch = collate([lean, lean])
    assert batch.view is None and batch.local is None


@pytest.mark.parametrize(("size", "shrinks"), [((100, 60), True), ((20, 15), False)])
def test_D18_squash_without_antialiasing_is_the_bases(size, shrinks):
    """The base resizes the normalised image bilinearly, without antialiasing; the default differs where it shrinks."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    mean, deviation = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = (torch.from_numpy(np.asarray(noise) / 255).permute(2, 0, 1).float() - mean) / deviation
    wanted = torch.nn.functional.interpolate(normalised[None], (32, 32), mode="bilinear", align_corners=False)[0]
    plain, smooth = (transforms.resize_square(noise, 32, plain) / 255 for plain in (True, False))
    torch.testing.assert_close((plain - mean) / deviation, wanted, rtol=1e-4, atol=1e-5)
    difference = ((smooth - mean) / deviation - wanted).abs().max()
    assert difference > 0.5 if shrinks else difference < 0.02


@pytest.mark.parametrize("plain", [False, True])
def test_D18_the_switch_reaches_both_evaluations(mini_root, plain):
    """A sample of the evaluation in training, and COCO's final protocol; VOC's squashes nothing."""
    sample = datasets.sample(Split(mini_root, "val"), 0, 32, plain)
    photograph = Image.fromarray(sample.pixels)
    assert torch.equal(sample.image, transforms.resize_square(photograph, 32, plain))
    coco = replace(protocols.get("coco"), size=32, plain_squash=plain)
    assert torch.equal(multi_scale.pixels(photograph, coco), sample.image)
    assert coco.numbers().get("plain_squash", False) == plain
