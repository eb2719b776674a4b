"""Shared by all tests.  Its place also puts ``tests`` on the path, so that ``import helpers`` works everywhere."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, however long one takes, since a machine may be busy; `--hypothesis-profile=explore`
# draws others.
settings.register_profile("explore", deadline=None, derandomize=False)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile("repeat")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for others of theirs spin by default, and take the core from those and from the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core; studies say how many threads they take
    os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Slow files that take longest.  They begin first, so that the workers of pytest-xdist end at about the same time.
LONGEST = (
    "test_ray_clusters.py", "test_ray_messages.py", "test_progress.py", "test_smoke.py",
    "test_examples.py", "test_ray_doors.py", "test_ray_workers.py", "test_custom_steps.py", "test_kill.py",
    "test_all_arms.py", "test_wheel.py", "test_documents_run.py", "test_ray_autoscaler.py", "test_perf_campaign.py",
    "test_whole_tasks.py", "test_tune.py", "test_perf_peers.py", "test_ray_nodes.py", "test_kill_ray.py",
    "test_perf_score.py",
)  # fmt: skip

#: What stands for a figure: an empty drawing, and one white pixel.
BLANK_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="72pt" viewBox="0 0 72 72"></svg>'
BLANK_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """What fixtures draw is the same in every run, and the threads that a test's study has set end with it.

    A second thread of a BLAS on a core that is taken made full SVDs of 150 x 100 take up to 40 times as long.
    """
    torch = sys.modules.get("torch")
    if torch:
        torch.manual_seed(0)
    before = torch.get_num_threads() if torch else None
    done = yield
    if torch and torch.get_num_threads() != before:
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")  # what tests decompose is small
        torch.set_num_threads(before)
    return done


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Where torch is there, a test draws the same numbers, whatever ran and whichever fixtures were made before it."""
    torch = sys.modules.get("torch")
    if torch:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def figures_left_blank(request, monkeypatch) -> None:
    """Reports have blank images, except where a test is marked ``drawn``: images are 4/5 of what a report takes."""
    if request.node.get_closest_marker("drawn") or request.node.get_closest_marker("slow"):
        return
    from matplotlib.figure import Figure

    def savefig(figure: Figure, file, *, format: str, **_: object) -> None:
        file.write(BLANK_PNG if format == "png" else BLANK_SVG)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache of models and tasks that the tests of a process fill once; never the person's."""
    return tmp_path_factory.getbasetemp() / "lorabench-cache"


@pytest.fixture
def in_shared_cache(shared_cache, monkeypatch) -> Path:
    """Sets the environment so that this test uses the shared cache."""
    monkeypatch.setenv("LORABENCH_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def in_process(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """``in_process("plan", "x")``: the command in this process -> (status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from harness import cli

        monkeypatch.setattr(sys, "argv", ["lorabench", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        said = capsys.readouterr()
        return status, said.out, said.err

    return call
