"""A test that lacks what it needs is skipped with the reason, and fails where that was promised."""

from __future__ import annotations

import pytest
from needs import NAMESPACES, namespaces

REFUSED = ["sh", "-c", "echo unshare failed: Operation not permitted >&2; exit 1"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (REFUSED, "unshare failed: Operation not permitted"),
        (["false"], "status 1"),
        (["no-such-unshare"], "No such file"),
    ],
)
def test_what_the_system_refuses_is_said(monkeypatch, command, why):
    monkeypatch.delenv(NAMESPACES, raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"no namespaces here: .*{why}"):
        namespaces(command)
    monkeypatch.setenv(NAMESPACES, "1")
    with pytest.raises(pytest.fail.Exception, match=f"{why}.*, and {NAMESPACES} is set"):
        namespaces(command)


def test_a_system_that_makes_them_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv(NAMESPACES, "1")
    namespaces(["sh", "-c", "echo a warning >&2"])
