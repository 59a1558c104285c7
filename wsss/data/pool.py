"""Work spread over processes, its results in order; the processes end with the one that started them.

Not joblib: its processes stay for later calls, these end with their work and leave Ctrl-C to the parent.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from wsss.interrupt import obey_parent
from wsss.paths import UserError

_CHUNK = 8
"""Items a process takes at once: few, so that a stop is soon heard."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[Any], Any], items: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """work(item) of each item, in order, by `workers` processes beside this one (None: one a core; 0: by this one).

    `work` and the items are pickled, so `work` is a function of a module or a `partial` of one. The first exception
    of a worker is raised here and ends the work. Raises UserError if a process dies.
    """
    if workers is None:
        workers = cores() if cores() > 1 else 0
    workers = min(workers, -(-len(items) // _CHUNK) if len(items) > _CHUNK else 0)
    if not workers:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of whatever threads there are
    try:
        with ProcessPoolExecutor(workers, context, obey_parent) as pool:
            yield from pool.map(work, items, chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, for want of memory perhaps; ask for fewer --workers") from error
