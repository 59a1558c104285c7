"""`make gpu`: every part at toy size on a CPU, so that none rots; words where there is no GPU."""

import json

import pytest

from wsss import command
from wsss.tools import gpu, machine


@pytest.mark.slow
def test_every_part_runs_at_toy_size_and_says_its_numbers(monkeypatch, capsys):
    """On a CPU the device is the reference itself: float32 is equal, bfloat16 near. test_bench compiles a step."""
    monkeypatch.setattr(machine, "GEMM", 512)
    monkeypatch.setattr(gpu, "PARTS", {name: part for name, part in gpu.PARTS.items() if name != "compiled"})
    code = command.main("gpu", gpu.Check, ["--toy", "True", "--steps", "20", "--repeats", "1", "--images", "4"])
    printed = capsys.readouterr().out
    parts = {line["part"]: line for line in map(json.loads, (x for x in printed.splitlines() if x.startswith("{")))}
    assert list(parts) == list(gpu.PARTS) and "What a GPU must show" in printed
    assert code == 0 and all(line["ok"] for line in parts.values()), parts
    assert parts["parity"]["float32"] == 0 < parts["parity"]["bfloat16"]
    assert parts["resumed"]["codes"] == [143, 0] and parts["ranks"]["apart"] < 1e-3


def test_a_part_that_fails_is_said_and_the_others_run(monkeypatch, capsys):
    def broken(check: gpu.Check) -> dict:
        raise ValueError("no")

    def whole(check: gpu.Check) -> dict:
        return {"images": check.images, "ok": True}

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "whole": whole})
    assert command.main("gpu", gpu.Check, ["--toy", "True", "--images", "7"]) == 1
    output = capsys.readouterr().out
    assert '"error": "ValueError: no"' in output and '"images": 7' in output and "NO" in output


def test_without_a_gpu_it_says_so(capsys):
    assert (
        command.main("gpu", gpu.Check, []) == 0
        and "PyTorch sees no GPU here, so nothing was checked" in capsys.readouterr().out
    )
