"""Copies from device to host that a step need not wait for."""

from collections.abc import Callable

import torch
from torch import Tensor


def may_ask(tensor: Tensor) -> bool:
    """Return whether the tensor's values can be read at once, as on a CPU."""
    # An accelerator would first finish all work that it was given, and then idle until the host hands out more.
    return tensor.device.type == "cpu"


def fetch(*tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Begin to copy tensors of one device to the host; return a call that waits for the copies.

    The call does not wait for work that the device is given after them.
    """
    copies = tuple(tensor.detach().to("cpu", non_blocking=True) for tensor in tensors)
    arrival = torch.cuda.current_stream().record_event() if tensors[0].is_cuda else None

    def wait() -> tuple[Tensor, ...]:
        if arrival:
            arrival.synchronize()
        return copies

    return wait
