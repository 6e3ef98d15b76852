"""Signals that a moment must not be cut by."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_ENDING: list[int] = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # not on Windows
    _ENDING.append(signal.SIGHUP)


def log_of_signals() -> Callable[[], list[int]]:
    """Keep every signal that comes from now on; a handler is called once for several.

    Python calls handlers between the steps of the main thread, so what comes twice while that
    computes in C is seen once.

    Returns:
        Gives the numbers of all that came; none on Windows.
    """
    log: list[int] = []
    if os.name == "nt":
        return lambda: log
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def look() -> list[int]:
        with contextlib.suppress(BlockingIOError):
            log.extend(os.read(reading, 4096))
        return log

    return look


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP until the block is done.

    A step of training is not half taken, and a library that is interrupted while it loads does not
    look broken.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    held: list[int] = []

    def hold(number: int, _: object) -> None:
        held.append(number)

    before = {
        number: signal.signal(number, hold)
        for number in _ENDING
        # one that is not Python's could not be put back
        if signal.getsignal(number) not in (None, signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            handler = before[held[0]]
            if callable(handler):  # raised again, it would be logged twice
                handler(held[0], None)
            else:
                signal.raise_signal(held[0])
