"""Captures and work beside them take turns."""

from __future__ import annotations

import threading

import pytest

from harness.engine.captures import beside_captures, capturing

SECONDS = 60  #: until a wait that should have ended is a failure


def start(work) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_neither_is_within_the_other():
    within, most = 0, 0

    def count() -> None:
        nonlocal within, most
        within += 1
        most = max(most, within)
        threading.Event().wait(0.001)
        within -= 1

    def beside() -> None:
        for _ in range(20):
            with beside_captures():
                count()

    thread = start(beside)
    for _ in range(20):
        with capturing():
            count()
    thread.join(SECONDS)
    assert most == 1


def test_a_capture_that_waits_is_the_next():
    """However fast the other comes again."""
    over, at_work = threading.Event(), threading.Event()

    def beside() -> None:
        while not over.is_set():
            with beside_captures():
                at_work.set()

    thread = start(beside)
    assert at_work.wait(SECONDS)
    for _ in range(1000):
        with capturing():
            pass
    over.set()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_what_fails_leaves_the_turn():
    for turn in (capturing, beside_captures):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    with capturing():
        pass
