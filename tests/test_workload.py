"""Large photographs by the final protocols: what is said before, the limit, memory, and a stop in the middle of one."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from running import Photo, command, environment, folder, own_set, redraw, run, tiny, write_photo

from wsss import model, protocols
from wsss.data import pictures, voc
from wsss.data.pictures import read_mask
from wsss.inference import multi_scale, runs, stream, workload
from wsss.inference.workload import Plan

SIZE = (300, 200)
"""Of the largest photograph in `made`; patches have 8 pixels."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, whose data set has a photograph larger than the others: val_1. Its decoder was drawn anew,
    so that several classes are predicted."""
    base = tmp_path_factory.mktemp("large")
    root = own_set(base / "own", [Photo(), Photo(size=SIZE), Photo(classes=(2,))])
    assert run(*tiny(root, base / "runs")) == 0
    redraw(folder(base / "runs"), 0)
    return folder(base / "runs")


def plan(*sizes: tuple[int, int], workers: int = 0, **protocol: object) -> Plan:
    """Photographs of these sizes, 21 classes, a ViT-Ti of patches of 16."""
    names = [f"photo_{number}" for number in range(len(sizes))]
    return Plan(names, sizes, protocols.get("voc", **protocol), 21, 16, 192, 1, workers, 1)


def shard_of(place: Path, save: Path) -> stream.Shard:
    images = voc.Split(place.parents[3] / "own", "val", None, labels=False)
    net = runs.open_run(place).model(2, torch.device("cpu"))
    return stream.Shard(net, images, range(3), protocols.get("voc"), save / "png", torch.device("cpu"), False, 1)


def test_size_tokens_time_and_memory_are_said_before_anything_is_predicted(made, tmp_path, capsys, monkeypatch):
    real = multi_scale.scores

    def scores(*words: object) -> object:
        said = capsys.readouterr().err
        if said:
            seen.append(said)
        return real(*words)

    seen: list[str] = []
    monkeypatch.setattr(multi_scale, "scores", scores)
    assert run("evaluate", made, "--protocol", "voc", "--workers", 0, "--save", tmp_path / "png") == 0
    largest = "val_1, has 300 x 200 pixels (2,072 tokens at scale 1.5)"  # 450 x 300 pixels are 56 x 37 patches of 8
    assert f"3 photographs, the largest, {largest}; about a minute" in seen[0]
    assert " MB of memory, estimated from small passes on this machine" in seen[0] and "--longest" not in seen[0]
    (tmp_path / "png/val_1.png").unlink()
    assert run("evaluate", made, "--protocol", "voc", "--workers", 0, "--save", tmp_path / "png") == 0
    assert "1 photograph, the largest, val_1" in seen[-1], "what is there already costs nothing"


def test_a_camera_picture_is_told_of_the_limit():
    said = plan((4000, 3000)).sentence(3 * 3600.0, "val")
    # 6000 x 4500 pixels are 375 x 281 patches of 16
    assert "4000 x 3000 pixels (105,375 tokens at scale 1.5); about 3.0 hours" in said
    assert said.endswith("--longest N scales larger ones down")
    assert "about 5 minutes" in plan((500, 375)).sentence(300.0, "val")


def test_expected_seconds_are_those_of_a_network_that_takes_known_ones(made, tmp_path, monkeypatch):
    """2 ms a token and 0.1 ms a pair of tokens: passes of 6 x 4 tokens and of 9 x 6 mirrored, 20 images of them."""
    clock = [0.0]

    def network(shard: object, image: torch.Tensor) -> torch.Tensor:
        tokens = image.shape[2] * image.shape[3] // 64
        clock[0] += 2e-3 * tokens + 1e-4 * tokens**2
        return image

    monkeypatch.setattr(stream.Shard, "network", network)
    monkeypatch.setattr(workload, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    asked = replace(plan(*[(48, 32)] * 20, scales=(1.0, 1.5), crf=False), patch=8)
    by_hand = 20 * 2 * (2e-3 * (24 + 54) + 1e-4 * (24**2 + 54**2))
    assert asked.seconds(shard_of(made, tmp_path)) == pytest.approx(by_hand, rel=1e-6)


PEAK = """
import os, numpy as np, psutil, torch
from wsss import model, presets, process, protocols
from wsss.inference import multi_scale
from wsss.inference.crf import dense_crf
from wsss.tools.machine import photograph, resident_mb
torch.set_num_threads(1)
process.keep_freed()
peak = lambda: int(1e6 * resident_mb(psutil.Process(), peak=True))
config = presets.get("voc", **{"model.backbone": "vit_tiny_patch16_224", "model.pretrained": False, "model.depth": 3})
net, asked = model.build(config, 20).eval(), protocols.get("voc")
pixels, probability = photograph(np.random.default_rng(0), (600, 400)), np.full((21, 400, 600), 1 / 21, np.float32)
def network(height, width):
    x, size = torch.randn(1, 3, height, width), (height, width)
    multi_scale.scores(lambda y: net(y).segmentation, x, [size], asked, 16)[0].softmax(0).numpy()
def crf(height, width):
    dense_crf(pixels[:height, :width], probability[:, :height, :width], iterations=1)
for part in (network, crf):  # each in a process of its own, since a peak only rises
    if not os.fork():
        part(32, 32)
        before = peak()
        part(400, 600)
        print(peak() - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to read memory from")
def test_expected_memory_is_that_of_a_process():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    expected = plan((600, 400))
    for said, measured in zip((expected.network_bytes(), expected.crf_bytes()), done.stdout.split(), strict=True):
        assert 2 / 3 < said / int(measured) < 1.8, done.stdout


def test_what_does_not_fit_is_refused_before_it_is_tried(made, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(workload, "available", lambda: 30 * 10**6)
    said = refused("evaluate", made, "--protocol", "voc", "--workers", 0, "--save", tmp_path / "png")
    assert "photograph val_1 has 300 x 200 pixels: predicting it takes about" in said and "30 MB are free" in said
    assert {path.name for path in (tmp_path / "png").iterdir()} == {"protocol.json"}


def test_the_limit_that_is_proposed_fits():
    with pytest.raises(workload.UserError, match=r"photo_1 has 8000 x 6000 pixels.* 4\.0 GB are free; --longest 2048 "):
        plan((500, 375), (8000, 6000)).refuse(4 * 10**9)
    assert plan((500, 375), (8000, 6000), longest=2048).bytes() <= 4e9 < plan((8000, 6000), longest=3072).bytes()


def test_the_memory_of_an_accelerator_counts_for_the_network_alone():
    host = replace(plan((500, 375), (8000, 6000)), workers=1)
    beside = replace(host, accelerator=4 * 10**9)
    assert beside.bytes() == beside.crf_bytes() < host.bytes()
    with pytest.raises(workload.UserError, match=r"on the accelerator, but 4\.0 GB are free; --longest \d+ fits"):
        beside.refuse(10**12)
    replace(host, accelerator=10**12).refuse(10**12)


def test_fewer_workers_are_started_where_memory_is_small_unless_they_were_named(made, tmp_path, monkeypatch):
    opened = shard_of(made, tmp_path)
    needs = [workload.Plan.of(opened, workers).bytes() for workers in (1, 2, 3)]
    assert needs == sorted(needs)
    monkeypatch.setattr(workload, "available", lambda: needs[1])
    assert workload.prepare(opened, 3, fixed=False) == 2
    with pytest.raises(workload.UserError, match="fewer --workers"):
        workload.prepare(opened, 3, fixed=True)


def test_the_limit_scales_photographs_down_and_labels_back(made, tmp_path):
    """The same as photographs that were scaled down before, whose labels are enlarged by hand, pixel by pixel."""
    words = ("--protocol", "voc", "--workers", 0)
    assert run("evaluate", made, *words, "--longest", 60, "--save", tmp_path / "limited") == 0
    small, own = tmp_path / "small", made.parents[3] / "own"
    (small / "JPEGImages").mkdir(parents=True)
    (small / "ImageSets/Segmentation").mkdir(parents=True)
    (small / "classes.txt").write_text("cup\njug\n")
    (small / "ImageSets/Segmentation/test.txt").write_text("val_1\n")
    photograph = pictures.read_image(own / "JPEGImages/val_1.jpg")
    photograph.resize((60, 40), Image.Resampling.BILINEAR).save(small / "JPEGImages/val_1.png")
    assert run("evaluate", made, *words, "--split", "test", "--data-root", small, "--save", tmp_path / "before") == 0
    limited, before = (read_mask(tmp_path / name / "val_1.png", None, 2) for name in ("limited", "before"))
    assert limited.shape == (200, 300) and before.shape == (40, 60)
    assert {0, 2} < set(np.unique(before)), "between 0 and 2 a mean would be another class"
    rows, columns = (np.arange(200) + 0.5) * 40 / 200, (np.arange(300) + 0.5) * 60 / 300
    np.testing.assert_array_equal(limited, before[rows.astype(int)][:, columns.astype(int)])
    assert read_mask(tmp_path / "limited/val_0.png", None, 2).shape == (40, 48), "what is smaller stays as it is"


def test_limited_sizes():
    limits = {(400, 300): (100, 75), (300, 400): (75, 100), (100, 80): (100, 80), (5000, 3): (100, 1)}
    assert {size: protocols.limited(size, 100) for size in limits} == limits


def test_a_stop_is_heard_between_two_passes(made, tmp_path, monkeypatch, capsys):
    passes, real = [], model.SegmentationModel.forward

    def forward(self: model.SegmentationModel, image: torch.Tensor, *words: object) -> object:
        passes.append(tuple(image.shape))
        if image.shape[0] == 2:  # the timed passes before have one image
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, image, *words)

    monkeypatch.setattr(model.SegmentationModel, "forward", forward)
    assert run("evaluate", made, "--protocol", "voc", "--workers", 0, "--save", tmp_path / "png") == 143
    assert [shape for shape in passes if shape[0] == 2] == [(2, 3, 40, 48)], "neither of the larger scales was begun"
    assert "run the command again to continue" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "png").iterdir()} == {"protocol.json"}


@pytest.fixture(scope="module")
def camera(made: Path) -> Iterator[Path]:
    """The run of `made`, and in its data set a list `camera` of one photograph of 24 megapixels."""
    own = made.parents[3] / "own"
    write_photo(own, "camera", Photo(size=(6000, 4000)), np.random.default_rng(0))
    (own / "ImageSets/Segmentation/camera.txt").write_text("camera\n")
    yield made
    (own / "JPEGImages/camera.jpg").unlink()


IN_THE_NETWORK = ("--scales", "0.5", "--crf", "False")
IN_THE_CRF = ("--scales", "0.02", "--workers", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number"), [(IN_THE_NETWORK, signal.SIGINT), (IN_THE_CRF, signal.SIGTERM)], ids=["network", "crf"]
)
def test_a_stop_in_the_middle_of_a_camera_picture_is_obeyed_in_seconds(camera, tmp_path, words, number):
    """93,750 tokens in one attention, or a CRF of 24 million pixels: both take minutes, in C code."""
    place = tmp_path / "png"
    asked = command("evaluate", camera, "--protocol", "voc", "--split", "camera", "--save", place, *words)
    with subprocess.Popen(asked, env=environment(), stderr=subprocess.PIPE, text=True) as started:
        try:
            said = started.stderr.readline()
            assert "6000 x 4000 pixels" in said
            time.sleep(8)  # reading, the photograph, the first pass
            started.send_signal(number)
            rest = started.communicate(timeout=120)[1]
        finally:
            started.kill()
    assert started.returncode == 143 and "run the command again to continue" in rest
    assert {path.name for path in place.iterdir()} == {"protocol.json"}


def test_a_second_interrupt_ends_at_once_with_another_code():
    """The main thread is in C code for minutes, as in a large product of matrices."""
    code = (
        "import hashlib\n"
        "from wsss.process import stop_signals, within_seconds\n"
        "with stop_signals(), within_seconds(lambda: 'tidied up'):\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"ready\n"
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        started.send_signal(signal.SIGINT)
        try:
            said = started.communicate(timeout=30)[1]
        finally:
            started.kill()
    assert started.returncode == 130 and b"tidied up" in said


FAULTS = """
import resource, sys
from wsss import process
if sys.argv[1] == "kept":
    process.keep_freed()
before = 0
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep freed memory")
def test_a_kept_block_is_not_faulted_in_again():
    words = ([sys.executable, "-c", FAULTS, way] for way in ("given back", "kept"))
    done = (subprocess.run(line, check=True, capture_output=True, text=True).stdout for line in words)
    given_back, kept = map(int, done)
    assert 4 * kept < given_back, "pages may be small or large"
