"""Several processes: the same numbers as one, each image counted once, errors without a hang."""

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from running import Photo, folder, own_set, process, record, run, tiny
from safetensors.torch import load_file

from wsss import checkpoint, distributed, presets, train
from wsss.report import records

PHOTOS = (Photo(), Photo(classes=(2,)), Photo(classes=(1, 2)), Photo(classes=(2,), size=(31, 57)), Photo())
EXACT = ("--optim.bfloat16", "false", "--optim.batch", "4", "--optim.lr", "1e-4")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images: an odd number for two processes."""
    return own_set(tmp_path_factory.mktemp("data") / "own", PHOTOS)


@pytest.fixture(scope="module")
def pair(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pair")
    done = process(*tiny(own, output, *EXACT), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mIoU in percent") == 1, "one process reports"
    return output


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(pair, own, tmp_path):
    assert run(*tiny(own, tmp_path, *EXACT, "--optim.accumulate", "2")) == 0
    assert_same_weights(tmp_path, pair)


@pytest.mark.slow
def test_two_processes_train_without_the_contrast_head(own, tmp_path):
    """Without class contrast, and with all other terms from the start, the head has no gradient in any step."""
    zero = (
        "--class_contrast.weight",
        "--msc.patch_weight",
        "--schedule.contrast_start",
        "--schedule.segmentation_start",
    )
    words = tiny(own, tmp_path, *EXACT, *(word for name in zero for word in (name, "0")))
    done = process(*words, processes=2)
    assert done.returncode == 0, done.stderr


def assert_same_weights(*outputs: Path) -> None:
    """Up to rounding, after the last of four steps."""
    one, two = (load_file(folder(output) / "step-00000004.safetensors") for output in outputs)
    difference = {name: float((one[name] - two[name]).abs().max()) for name in one}
    worst = max(difference, key=difference.get)
    assert difference[worst] <= 1e-6, (worst, difference[worst])


def stopped(rank: int, processes: int, port: int, words: list[str]) -> None:
    """Run one of several processes; the last of them is asked to stop in the second step."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    update = train.Trainer._update

    def updated(self: train.Trainer, *arguments: object) -> dict:
        if self.step == 1 and rank == processes - 1:
            signal.raise_signal(signal.SIGTERM)
        return update(self, *arguments)

    train.Trainer._update = updated
    assert run(*words) == 143


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_two(own, tmp_path):
    """One process may not go on with the run; two end with the weights of one process that accumulates. With contrast
    from the first step on, no parameter is ever unused, and DDP is told so."""
    contrast = ("--schedule.contrast_start", "0")
    words = tiny(own, tmp_path / "two", *EXACT, *contrast)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(stopped, (2, port, words), 2)
    assert checkpoint.latest(folder(tmp_path / "two")) == 2
    assert run(*words) == 1
    done = process(*words, processes=2)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "two")["processes"] == 2
    assert run(*tiny(own, tmp_path / "one", *EXACT, *contrast, "--optim.accumulate", "2")) == 0
    assert_same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_D10_two_processes_count_each_image_once(pair, own, tmp_path):
    two, counts = record(pair), counts_of(pair)
    assert two["processes"] == 2 and two["images"] == two["fingerprint"]["images"] == 5
    assert run("evaluate", folder(pair)) == 0
    one = record(pair)
    assert one["fingerprint"] == two["fingerprint"]
    for name, value in counts_of(pair).items():  # batches differ, and with them the last bit of a logit
        assert value.shape == counts[name].shape and len(value) == 5
        assert name == "ids" or np.abs(value - counts[name]).sum() <= 8
    done = process("evaluate", folder(pair), processes=2)
    assert done.returncode == 0, done.stderr
    assert record(pair)["results"] == two["results"]


def counts_of(output: Path) -> dict[str, np.ndarray]:
    return records.load_counts(records.load(folder(output).with_suffix(".json")))


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path):
    """Process 0 checks the photographs; the other one must not wait for ever, nor report the fault again."""
    root, broken = own_set(tmp_path / "own", PHOTOS, labels=["cup"] * 5), "train_3.jpg"
    (root / "JPEGImages" / broken).write_bytes(b"\xff\xd8\xff")
    done = process(*tiny(root, tmp_path / "out"), processes=2)
    assert done.returncode != 0
    assert done.stderr.count("wsss: error:") == 1 and f"{broken} cannot be decoded" in done.stderr
    assert not (tmp_path / "out/own/tiny/0.json").exists()


@pytest.fixture
def machine(monkeypatch):
    """A stand-in for torch.cuda and torch.distributed, which notes what is called and in which order."""
    calls: list[tuple] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", str(device))))
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(("destroy",)))
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, device_id: calls.append(("init", backend, str(device_id)))
    )

    def join(rank: int, processes: int, gpus: int) -> list[tuple]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", processes)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        calls.clear()
        with distributed.group() as device:
            calls.append(("work", str(device)))
        return calls

    return join


def test_each_process_takes_its_gpu_before_it_joins_the_others(machine):
    """Else code that asks for "the" GPU, such as an object gather, gets the first one in every process: NCCL hangs."""
    both = "cpu:gloo,cuda:nccl"
    for rank in (0, 1):
        own = f"cuda:{rank}"
        assert machine(rank, 2, 2) == [("set_device", own), ("init", both, own), ("work", own), ("destroy",)]
    assert machine(0, 1, 2) == [("set_device", "cuda:0"), ("work", "cuda:0")]
    assert machine(1, 2, 0) == [("init", "gloo", "None"), ("work", "cpu"), ("destroy",)]


def test_more_processes_than_gpus_share_them_by_gloo(machine, capsys):
    assert machine(2, 3, 2) == [("set_device", "cuda:0"), ("init", "gloo", "None"), ("work", "cuda:0"), ("destroy",)]
    assert not capsys.readouterr().err
    machine(0, 3, 2)
    assert "3 processes share 2 GPUs" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "own"), [("cuda:1", [torch.device("cuda:1")]), ("cpu", None)])
@pytest.mark.parametrize("start", [0, 0.1])
def test_gradients_are_averaged_on_the_gpu_of_the_process(monkeypatch, device, own, start):
    """Without `device_ids` DDP does not move its inputs. It looks for parameters without a gradient if the schedule
    begins with classification alone."""
    asked: dict[str, object] = {}

    def wrap(module: torch.nn.Module, **options: object) -> None:
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "DistributedDataParallel", wrap)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(train.method, "Forward", lambda model, config: model)
    trainer = train.Trainer.__new__(train.Trainer)
    trainer.config = presets.get(
        "smoke", **dict.fromkeys(("schedule.contrast_start", "schedule.segmentation_start"), start)
    )
    trainer.model, trainer.device, trainer.last = torch.nn.Identity(), torch.device(device), 1
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert asked == {"device_ids": own, "gradient_as_bucket_view": True, "find_unused_parameters": start > 0}
