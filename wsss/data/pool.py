"""Work spread over processes, its results in order; the processes end with the one that started them.

Not joblib: its processes stay for later calls, these end with their work and leave Ctrl-C to the parent.
"""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from wsss import memory
from wsss.interrupt import cores, obey_parent
from wsss.paths import UserError

_CHUNK = 8
"""Items a process takes at once: few, so that a stop is soon heard."""
AHEAD = 2
"""Items a worker of `stream` that wait for it: what bounds the memory."""


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


def stream(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """work(item) of each item, in order, by `workers` processes beside this one (0: by this one).

    An item is taken only when there is room for it: at most AHEAD a worker are anywhere between `items` and the result.
    Raises the first exception of a worker, and UserError if one dies.
    """
    if not workers:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)  # a fork would copy locks
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            del item  # the queue alone holds it now
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, for want of memory perhaps; ask for fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """Set up a worker: ignore Ctrl-C, remove what is half-written on SIGTERM, end with the parent."""
    obey_parent()
    memory.keep_freed()  # otherwise a fifth of the CRF's time goes into page faults
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
