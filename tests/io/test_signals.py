"""Ctrl-C and SIGTERM: noted while work is under way, obeyed at a safe point, and at once when repeated."""

import os
import signal
import threading

import pytest

from truetag.io.signals import end_on_sigterm, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_a_safe_point(number):
    before = signal.getsignal(number)
    done = []
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended, stoppable() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        done.append("work")
        assert stop.requested
        stop.check()
    assert done == ["work"]
    assert number == signal.SIGINT or ended.value.code == 143
    assert signal.getsignal(number) is before


def test_the_second_signal_does_not_wait():
    done = []
    with pytest.raises(SystemExit), stoppable():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("work")
    assert done == []


def test_other_threads_leave_the_handlers_alone():
    found = []

    def work():
        with stoppable() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_sigterm_runs_every_finally():
    before = signal.getsignal(signal.SIGTERM)
    done = []
    try:
        end_on_sigterm()
        with pytest.raises(SystemExit) as ended:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                done.append("cleaned")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert done == ["cleaned"]
