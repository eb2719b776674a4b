"""How many jobs go to Ray at a time: what its nodes have room for now, and how long one is waited for that has any."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import InputError
from harness.executors.interface import Job
from harness.executors.ray import messages
from harness.executors.ray.nodes import KIND, Node, asked_for, living
from harness.study.config import ResourceSettings

LOOK_SECONDS = 1.0  #: between two looks at the nodes
EXTRA = 2  #: jobs beyond what fits, so that a free place never waits for the driver
TAKEN_SECONDS = 60.0  #: until it is said that others have all places


def needs(job: Job, accelerator: str = "") -> dict[str, float]:
    """What one job takes of a node, by Ray's names."""
    wanted = {"CPU": job.cpus, "GPU": job.gpus}
    if job.gpus and accelerator:
        wanted[KIND + accelerator] = 0.001
    return {name: amount for name, amount in wanted.items() if amount}


def likely_needs(resources: ResourceSettings, gpu: bool) -> dict[str, float]:
    """What a job of a study takes, before it is known how large its packs are."""
    share = 1.0 if resources.num_gpus == "plan" else resources.num_gpus
    kind = {KIND + resources.accelerator_type: 0.001} if gpu and resources.accelerator_type else {}
    return {"CPU": resources.num_cpus or 1.0} | ({"GPU": share} if gpu else {}) | kind


def described(wanted: Mapping[str, float]) -> str:
    """``2 CPU and 1 GPU (H100)``."""
    kind = next((f" ({name.removeprefix(KIND)})" for name in wanted if name.startswith(KIND)), "")
    return " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if not name.startswith(KIND)) + kind


class Room:
    """The places for the jobs of one run, on a cluster of our own or (``joined``) one whose nodes come and go."""

    def __init__(
        self, jobs: Sequence[Job], accelerator: str, resources: ResourceSettings, joined: bool,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._accelerator, self._resources, self._joined, self._say = accelerator, resources, joined, say
        self._all = [needs(job, accelerator) for job in {(job.cpus, job.gpus): job for job in jobs}.values()]
        self._looked = self._waiting = self._idle = 0.0  # times; 0: not
        self._lanes = 0
        self._told = False

    def options(self, job: Job) -> dict[str, Any]:
        """How Ray is told of what a job needs."""
        kind = self._accelerator if job.gpus else ""
        return {"num_cpus": job.cpus, "num_gpus": job.gpus, "accelerator_type": kind or None}

    def most(self, begun: bool) -> int:
        """How many jobs may be with Ray now; ``begun``: one of them is at work, or done.

        With an autoscaler the more there are the more it starts.  Raises InputError where no node is large enough,
        for as long as the study says.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            nodes = living()
            self._lanes = max(sum(node.room(each) for node in nodes) for each in self._all)
            self._wait(nodes, now)
            self._tell_taken(begun, now)
        return (2 * self._lanes if self._joined else self._lanes) + EXTRA

    def _wait(self, nodes: Sequence[Node], now: float) -> None:
        wanting = next((each for each in self._all if not any(node.room(each) for node in nodes)), None)
        if wanting is None:
            if self._waiting:
                self._say("a node has joined the Ray cluster: the run goes on")
            self._waiting = 0.0
            return
        limit = self._resources.wait_minutes if self._joined else 0.0
        if not self._waiting and limit:
            self._say(
                f"waiting for a node of the Ray cluster with {described(wanting)}, up to {limit:g} minutes "
                f"(resources.wait_minutes in the study): {_there(nodes, wanting)}"
            )
        self._waiting = self._waiting or now
        if now - self._waiting >= 60 * limit:
            raise _too_small(nodes, wanting, limit)

    def _tell_taken(self, begun: bool, now: float) -> None:
        """Say once that all places are others' where none of the jobs has begun."""
        if begun or not self._lanes or not self._joined:
            self._idle = 0.0
            return
        self._idle = self._idle or now
        if now - self._idle >= TAKEN_SECONDS and not self._told:
            self._told = True
            self._say("waiting for a place on the Ray cluster: others have all of them")


def _there(nodes: Sequence[Node], wanted: Mapping[str, float]) -> str:
    able = [node for node in nodes if any(node.has.get(name, 0) for name in wanted)]
    if not able:
        return "there is none that could run anything"
    each = sorted({described({name: node.has.get(name, 0) for name in wanted}) for node in able})
    return f"there {'is' if len(able) == 1 else 'are'} {len(able)}, with {'; '.join(each[:4])}"


def _too_small(nodes: Sequence[Node], wanted: Mapping[str, float], minutes: float) -> InputError:
    without = "GPU" in wanted and not any(node.has.get("GPU") for node in nodes)
    remedy = "lower threads: in the study (it changes the numbers' last bits), or use a larger machine"
    if minutes:
        machine = "a GPU" if without else "a larger machine"
        remedy = (
            f"join {machine} ({messages.JOINING}), lower threads:, or raise "
            f"resources.wait_minutes, then {messages.AGAIN}"
        )
    waited = f", and none has joined within {minutes:g} minutes" if minutes else ""
    return InputError(
        f"a pack needs {described(wanted)}, and no node of the Ray cluster has that{waited}: {_there(nodes, wanted)}",
        where="study:device" if without else "study:threads",
        remedy=remedy,
    )


def waited_for(
    find: Callable[[], list[Node]], wanted: Mapping[str, float], minutes: float, say: Callable[[str], None],
    check: Callable[[], None],
) -> list[Node]:  # fmt: skip
    """What ``find`` finds among the nodes of a cluster, waited for as long as that; empty after it."""
    found = find()
    if found or not minutes:
        return found
    end = time.monotonic() + 60 * minutes
    say(
        f"waiting for a node of the Ray cluster with {described(wanted)}, up to {minutes:g} minutes "
        "(resources.wait_minutes in the study)"
    )
    with asked_for(wanted):
        while not found and time.monotonic() < end:
            time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
            check()
            found = find()
    return found
