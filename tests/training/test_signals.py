"""SIGINT and SIGTERM set a flag once; then the former handlers are back."""

from __future__ import annotations

import signal
import threading

import pytest

from reslink.training.signals import handlers_as_before, stop_on_signals


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


def test_handlers_of_a_library_end_with_the_block() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with handlers_as_before():
        for number in before:
            signal.signal(number, signal.SIG_IGN)
    assert {number: signal.getsignal(number) for number in before} == before
