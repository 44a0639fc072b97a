"""Ctrl-C and SIGTERM: work in progress is brought to a safe point, saved, and then the process ends.

Ctrl-C ends as Python always ends it, by KeyboardInterrupt (exit code 130); SIGTERM, which schedulers send before they
take a machine away, by SystemExit(143).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop at the next safe point."""
        return self.signal is not None

    def check(self) -> None:
        """To be called at a safe point: ends the process there if that was asked for.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with code 143.
        """
        if self.signal is not None:
            _end(self.signal)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it the first signal only takes note; a second one ends the process where it stands."""
    stop = Stop()

    def take_note(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            _end(number)
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stop
        return
    before = {number: signal.signal(number, take_note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    stop.check()  # one that came after the last safe point


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that every `finally` is run."""
    signal.signal(signal.SIGTERM, lambda number, frame: _end(number))


def ignore_signals(worker: int) -> None:
    """For worker processes, which get the signals of their group too: the main process decides when they end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
