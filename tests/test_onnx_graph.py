"""`wsss export`: the ONNX graph computes what the network in torch does, from its weights in half precision."""

import copy

import pytest
import torch
from running import folder, one_thread, own_set, run, tiny

from wsss import evaluate
from wsss.data.pictures import read_image
from wsss.explore import onnx_graph, sources
from wsss.paths import project_root
from wsss.transforms import resize_square

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install -e '.[test]')")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two scales with both modules, and its exported graph."""
    root, output = own_set(tmp_path_factory.mktemp("data") / "own"), tmp_path_factory.mktemp("runs")
    assert run(*tiny(root, output, "--cam.scales", "1,0.75")) == 0
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    assert run("export", folder(output), "--output", path) == 0
    return root, folder(output), path


def seen(path, pixels, label):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    values = session.run(None, {"pixels": pixels.float().numpy(), "label": label.numpy()})
    return {output.name: torch.from_numpy(value) for output, value in zip(session.get_outputs(), values, strict=True)}


def assert_same(found, prediction, size):
    """Within 1e-3 on the CAMs, and the same labels of 99.9 % of the pixels."""
    label = found["probability"] > 0.5
    label |= found["probability"] == found["probability"].amax()
    for name, maps in prediction.layers.items():
        assert (found[name][:, label[0]] - maps[:, label[0]]).abs().max() <= 1e-3
    labels = evaluate._resized(found["segmentation"], size)[0].argmax(0)
    assert (labels == evaluate._resized(prediction.segmentation, size)[0].argmax(0)).float().mean() >= 0.999
    assert (found["pseudo_label"] == prediction.pseudo_label).float().mean() >= 0.999


def test_the_graph_of_a_run_computes_what_the_run_does(made):
    root, place, path = made
    seer, classes = sources.of_run(place)
    whole = copy.deepcopy(seer.model)
    seer.model.half().float()  # as the exported file holds it
    for picture in sources.of_set(root, "val", classes, 3):
        size = seer.config.augment.squashed
        pixels = resize_square(picture.image, size)[None]
        with one_thread():
            label = evaluate.predicted_label(seer.model, pixels)
            found = seen(path, pixels, torch.zeros(1, 2))
            assert_same(found, evaluate.predict(seer.model, pixels, label, seer.config), picture.image.size[::-1])
            exact = evaluate.predict(whole, pixels, label, seer.config)
            assert (found["cam"] * label[..., None, None] - exact.cam).abs().max() <= 5e-3
            other = torch.tensor([[0.0, 1.0]])
            told = evaluate.predict(seer.model, pixels, other, seer.config)
            found = seen(path, pixels, other)
        assert (found["pseudo_label"] == told.pseudo_label).float().mean() >= 0.999
        assert torch.allclose(found["codes"].flatten(2), told.codes, atol=1e-3)


@pytest.mark.parametrize("name", ["cow", "cat"])
def test_the_shipped_graph_computes_what_the_shipped_model_does(name):
    seer, classes = sources.shipped()
    photograph = read_image(project_root() / f"data/photographs/{name}.jpg")
    pixels = resize_square(photograph, seer.config.augment.squashed)[None]
    with one_thread():
        label = evaluate.predicted_label(seer.model, pixels)
        prediction = evaluate.predict(seer.model, pixels, label, seer.config)
    graph = (project_root() / sources.SHIPPED).with_suffix(".onnx")
    assert_same(seen(graph, pixels, torch.zeros(1, len(classes))), prediction, photograph.size[::-1])


def test_what_cannot_be_exported_is_said(made, tmp_path, monkeypatch, capsys):
    _, place, _ = made
    assert run("export", place, "--output", tmp_path / "model.pt") == 1
    assert "must end in .onnx" in capsys.readouterr().err
    monkeypatch.setattr(onnx_graph, "LIMIT", 1000)
    assert run("export", place, "--output", tmp_path / "model.onnx") == 1
    assert "a page may hold" in capsys.readouterr().err and not list(tmp_path.iterdir())
