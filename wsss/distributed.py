"""Processes of a run: who am I, sum over all, wait for all. One process when not started by torchrun."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from wsss.paths import Echo, UserError

T = TypeVar("T")


@contextmanager
def group() -> Iterator[torch.device]:
    """Join torchrun's processes, if there are any; yields this process's device."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    started = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    # Records compare devices, so that float32 is float32 on all of them.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if started:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if started:
            dist.destroy_process_group()


@cache  # asked for every micro-batch
def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16"))


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """Sum of `value` over all processes; every process gets it."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def gather(value: object) -> list[object]:
    """`value` of every process, in order of rank; every process gets the list."""
    if world() == 1:
        return [value]
    values: list[object] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


def from_main(work: Callable[[], T]) -> T:
    """`work()` of process 0, for all: what takes long is done once. Its UserError ends all, so that none waits for a
    process that has ended; the others raise it as Echo, which is said once."""
    try:
        answer = work() if not rank() else None
    except UserError as error:
        answer = error
    answer = gather(answer)[0]
    if isinstance(answer, UserError):
        raise Echo(str(answer)) if rank() else answer
    return answer


def main_first(work: Callable[[], T]) -> T:
    """`work()` in process 0, then in all others: what it makes on disk is made once."""
    if rank():
        wait()
    value = work()
    if not rank():
        wait()
    return value
