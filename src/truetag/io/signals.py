"""Ctrl-C and SIGTERM: work in progress reaches a safe point and is saved, then the process ends.

Ctrl-C ends the process with a KeyboardInterrupt (exit code 130), as always in Python. SIGTERM, which schedulers send
before they take a machine away, ends it with SystemExit(143).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody has asked the process to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop at the next safe point."""
        return self.signal is not None

    def check(self) -> None:
        """End the process if somebody has asked for it; to be called at a safe point.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with code 143.
        """
        if self.signal is not None:
            _end(self.signal)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Only note the first signal that arrives in the block; a second one ends the process on the spot."""
    stop = Stop()

    def take_note(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            _end(number)
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stop
        return
    handlers = {number: signal.signal(number, take_note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    stop.check()  # a signal may have come after the last safe point


def end_on_sigterm() -> None:
    """Let SIGTERM end this process through an exception, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, lambda number, frame: _end(number))


def ignore_signals(worker: int) -> None:
    """Ignore signals in a worker process: they reach the whole group, and the main process decides when workers end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
