"""Work spread over processes, with results in order; the processes end with the one that started them.

joblib is not used: its processes stay for later calls. These end with their work and leave Ctrl-C to the parent.
"""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from wsss import process
from wsss.paths import UserError
from wsss.process import cores, obey_parent

AHEAD = 2
"""Chunks per worker that are in work or wait; this bounds the memory."""


def stream(
    work: Callable[[Any], Any], items: Iterable[Any], workers: int | None = None, chunk: int = 1
) -> Iterator[Any]:
    """Yield work(item) of each item, in order, by `workers` processes (None: one per core; 0: by this process alone).

    `work` and the items are pickled, `chunk` items at once. An item is taken only when there is room for it: at most
    AHEAD chunks per worker are between `items` and the result. A sequence of at most one chunk is worked on here.
    Raises the first exception of a worker, and UserError if one dies.
    """
    if workers is None:
        workers = cores() if cores() > 1 else 0
    if not workers or (chunk > 1 and isinstance(items, Sequence) and len(items) <= chunk):
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)  # a fork would copy held locks
    source, waiting = iter(items), deque[Future]()
    try:
        while taken := list(islice(source, chunk)):
            waiting.append(pool.submit(_each, work, taken))
            del taken  # the queue alone holds it now
            if len(waiting) >= AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, perhaps because memory ran out; use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _each(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [work(item) for item in items]


def _start() -> None:
    """Set up a worker: ignore Ctrl-C, remove what is half-written on SIGTERM, end with the parent."""
    obey_parent()
    process.keep_freed()  # otherwise a fifth of the CRF's time goes into page faults
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
