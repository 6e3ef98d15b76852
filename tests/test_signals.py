import os
import signal
import threading

import pytest

from denoiser.signals import log_of_signals, uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_until_the_block_is_done(number):
    before, done = signal.signal(number, signal.default_int_handler), []
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(number)
            done.append("after the signal")
        assert done and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_other_threads_are_let_through():
    reached = []

    def work():
        with uninterrupted():
            reached.append(threading.current_thread().name)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    assert reached == ["other"]


@pytest.mark.skipif(os.name == "nt", reason="no log on Windows")
def test_one_that_was_held_back_is_logged_once():
    handled = []
    before = signal.signal(signal.SIGINT, lambda *_: handled.append(1))
    try:
        look = log_of_signals()
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert handled == [1] and look() == [signal.SIGINT]
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, before)
