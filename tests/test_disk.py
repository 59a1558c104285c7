"""What a run leaves on disk."""

from wsss.cli import main


def test_D11_a_run_keeps_no_logits(tmp_path):
    """Weights, training state, log, a few examples, the record and its counts: nothing grows with the images."""
    words = ["train", "smoke", "--optim.steps", "2", "--output", str(tmp_path), "--variant", "kept"]
    assert main(words) == 0
    found = {str(path.relative_to(tmp_path / "smoke" / "kept")) for path in tmp_path.rglob("*") if path.is_file()}
    texts = ("config.json", "data.json", "log.jsonl")
    tensors = ("best.safetensors", "cams.npz", "step-00000002.pt", "step-00000002.safetensors")
    assert found == {"0.json", "0.npz", *(f"0/{name}" for name in texts + tensors)}
