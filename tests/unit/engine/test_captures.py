"""Captures and work beside them take turns."""

from __future__ import annotations

import threading

import pytest

from harness.engine.captures import beside_captures, capturing, why_not

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
    asked, turns, seen = threading.Event(), 0, []

    def capture() -> None:
        asked.set()
        with capturing():
            seen.append(turns)

    thread = None
    while not seen and turns < 1000:
        with beside_captures():
            turns += 1
            if thread is None:
                thread = start(capture)
                assert asked.wait(SECONDS)
                threading.Event().wait(0.05)  # by now it waits for the turn
    assert thread is not None
    thread.join(SECONDS)
    assert seen == [1]


def test_what_fails_leaves_the_turn():
    for turn in (capturing, beside_captures):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    with capturing():
        pass


def test_why_a_capture_failed_is_a_line():
    assert why_not(RuntimeError("out of memory\nTried to allocate")) == "RuntimeError: out of memory"
    assert why_not(RuntimeError()) == "RuntimeError: "
