"""Processes of a run: rank, sums over all, barriers. A run that torchrun did not start has one process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from wsss.paths import Echo, UserError, note

_T = TypeVar("T")


@contextmanager
def group() -> Iterator[torch.device]:
    """Join torchrun's processes, if there are any; yield this process's device.

    Gradients travel by NCCL, flags and objects by gloo, which needs no GPU. If a machine has fewer GPUs than processes,
    they share GPUs and everything travels by gloo, because NCCL allows only one process on a GPU.
    """
    local, here = int(os.environ.get("LOCAL_RANK", 0)), local_world_size()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", local % gpus) if gpus else torch.device("cpu")
    started = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()  # a caller's group stays
    # No TF32: records compare devices, so float32 has to mean float32 on all of them.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if gpus:  # early: code that asks for "the" GPU, such as pinned memory, would take the first one in every process
        torch.cuda.set_device(device)
    if started and 0 < gpus < here:
        note(f"{here} processes share {gpus} GPU{'s' * (gpus > 1)} by gloo, which is slow; start one process per GPU")
    if started:
        alone = gpus >= here
        dist.init_process_group("cpu:gloo,cuda:nccl" if alone else "gloo", device_id=device if alone else None)
    try:
        yield device
    finally:
        if started:
            dist.destroy_process_group()


@cache  # asked for every micro-batch
def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16"))


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def all_reduce_sum(*numbers: int) -> list[int]:
    """Sum each number over all processes. The sums travel between hosts by gloo, so nobody waits for a GPU."""
    if world_size() == 1:
        return list(numbers)
    total = torch.tensor(numbers)  # on the host, so gloo carries it
    dist.all_reduce(total)
    return total.tolist()


def all_gather(value: object) -> list[object]:
    """Collect the `value` of every process, in order of rank; every process gets the list."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until all processes are here."""
    all_reduce_sum(0)


def from_main(work: Callable[[], _T]) -> _T:
    """Return process 0's `work()` in every process, so that long work is done once.

    Its UserError ends all processes, so that none waits for one that has ended. The others raise it as Echo, which
    prints nothing.
    """
    try:
        answer = work() if not rank() else None
    except UserError as error:
        answer = error
    answer = all_gather(answer)[0]
    if isinstance(answer, UserError):
        raise Echo(str(answer)) if rank() else answer
    return answer


def main_first(work: Callable[[], _T]) -> _T:
    """Return `work()`, run in process 0 first and then in all others, so that files on disk are made once."""
    if rank():
        barrier()
    value = work()
    if not rank():
        barrier()
    return value
