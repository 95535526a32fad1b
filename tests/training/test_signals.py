"""SIGINT and SIGTERM set a flag once; then the former handlers are back."""

from __future__ import annotations

import signal
import threading

import pytest

from reslink.training.signals import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag_and_restores_the_handlers(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as flag:
        assert signal.getsignal(number) is not before
        assert not flag.requested
        signal.raise_signal(number)
        assert flag.requested
        assert signal.getsignal(number) is before, "a second signal has its usual effect"
    assert signal.getsignal(number) is before


def test_the_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_the_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with stop_on_signals() as flag:
            seen.append((signal.getsignal(signal.SIGINT) is before, flag.requested))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
