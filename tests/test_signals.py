import signal
import threading

import pytest

from denoiser.signals import uninterrupted


def test_an_interrupt_waits_until_the_block_is_done():
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("after the signal")
    assert done and signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_let_through():
    reached = []

    def work():
        with uninterrupted():
            reached.append(threading.current_thread().name)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    assert reached == ["other"]
