"""A node that lacks a module of a plug-in: one message with the node, the module and what to do.  No Ray is started."""

from __future__ import annotations

import importlib
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray_jobs import Small

from harness.errors import InputError
from harness.executors.ray import flight, task
from harness.executors.ray.flight import Flight, Running
from harness.executors.ray.sealed import SEALED, Needs, Sealed, seal
from harness.executors.ray.task import Signs, answer, carry_out_packed, packed
from harness.perf.trivial import WORK

METHOD = """
from dataclasses import dataclass
import lorabench_test_library


@dataclass(frozen=True)
class Part:
    width: int = lorabench_test_library.WIDTH
"""


@pytest.fixture
def pickled(tmp_path, monkeypatch) -> Callable[[], Any]:
    """A part of a method from a package of a person's, which imports a library; both are importable here."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lorabench_test_library.py").write_text("WIDTH = 3\n")
    (tmp_path / "lorabench_test_method.py").write_text(METHOD)
    yield lambda: importlib.import_module("lorabench_test_method").Part()
    forget()


def forget() -> None:
    """As a process that has imported neither."""
    for name in ("lorabench_test_method", "lorabench_test_library"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def sealed(part: Any, folder: Path) -> bytes:
    """A job that has this part, as a worker gets it."""
    job = Small(folder=folder, seconds=part)
    return packed(Sealed(**vars(Needs.of(job)), content=seal(job, WORK)), SEALED)


def refused(call: Callable[..., Any], *given: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*given)
    assert caught.value.what.startswith(f"the node {socket.gethostname()} of the Ray cluster ")
    assert "install it there" in str(caught.value.remedy)
    assert "run the same command again" in str(caught.value.remedy)
    return caught.value


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("lorabench_test_method", "lacks the module 'lorabench_test_method', which this run's methods import"),
        (
            "lorabench_test_library",
            "lacks the module 'lorabench_test_library', which this run's methods import "
            "(lorabench_test_method.py, line 3)",
        ),
    ],
)
def test_a_module_that_a_node_lacks_is_named(pickled, tmp_path, monkeypatch, gone, told):
    monkeypatch.setattr(task, "die_with_parent", lambda: None)
    content, question = sealed(pickled(), tmp_path), pickle.dumps(pickled().__eq__)
    assert carry_out_packed(content, None) is not None
    (tmp_path / f"{gone}.py").unlink()
    forget()
    assert refused(carry_out_packed, content, None).what.endswith(told)
    assert refused(answer, question).what.endswith(told)
    assert not list((tmp_path / "running").iterdir()), "nothing of the job is left"


def test_another_version_of_a_module_is_told(pickled, tmp_path):
    question = pickle.dumps(pickled().__eq__)
    (tmp_path / "lorabench_test_method.py").write_text("")
    forget()
    what = refused(answer, question).what
    assert "has another version of what this run's methods import (AttributeError: " in what
    assert "'Part'" in what


def test_the_run_ends_with_what_a_worker_says(tmp_path, monkeypatch):
    """And not with Ray's account of where it was raised."""
    told = InputError("the node x lacks the module 'y'", where="--address", remedy="install it")

    def get(reference: object) -> None:
        raise RayTaskError("carry_out_packed", "Traceback ...", told)

    monkeypatch.setattr(flight.ray, "get", get)
    running = Running(Small(folder=tmp_path), Signs.of(Small(folder=tmp_path)))
    with pytest.raises(InputError) as caught:
        Flight(SimpleNamespace(), SimpleNamespace(), None, WORK, lambda *_: None)._fetch(object(), running)
    assert caught.value is told
