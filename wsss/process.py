"""This process: its cores, the memory that glibc keeps, and signal handlers for a clean stop."""

import ctypes
import multiprocessing
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType

GRACE = 5.0
"""Seconds that work in progress gets to end after a signal."""


# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class Interrupted(Exception):
    """The work was asked to stop; the message says where it goes on."""


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and Ctrl-C set; a second Ctrl-C ends at once.

    The earlier handlers are put back at the end. Only the main thread can have handlers: in another one nothing sets
    the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Make SIGTERM unwind the stack, so that half-written files are removed; exit code 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def obey_parent() -> None:
    """Set up a worker process: leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent:
        # sys.exit would end the thread alone.
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def leave_stop_to_parent(*_: object) -> None:
    """Ignore SIGTERM, which torchrun and SLURM send to all processes of a group.

    The parent first ends its work and saves; then it ends this process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def within_seconds(leave: Callable[[], str]) -> Iterator[None]:
    """End the process, with exit code 143, if it still runs GRACE seconds after a signal of `stop_signals`.

    Python handles a signal only between two operations, and one attention over a large photograph takes many minutes.
    So the interpreter's C code writes each signal to a socket, where a thread waits. The thread calls `leave`, which
    removes half-written files and says how to go on. A second Ctrl-C ends the process after a second, with exit code
    130.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, leave), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # the watcher reads the end and returns
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, leave: Callable[[], str]) -> None:
    code = 0
    try:
        while number := reader.recv(1):
            if number[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            again = bool(code) and number[0] == signal.SIGINT
            code = 130 if again else code or 143
            reader.settimeout(1.0 if again else GRACE)
    except TimeoutError:
        print(f"wsss: {leave()}", file=sys.stderr, flush=True)
        os._exit(code)  # the main thread is in C code, and nothing else could end it


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed() -> None:
    """Make the C library keep freed memory until the process ends.

    glibc gives a large freed block back to the system at once. The next step asks for one of the same size. That comes
    page by page, filled with zeros: time that no operation shows. Only glibc can be asked; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # the heap never shrinks
