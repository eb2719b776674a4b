"""The driver's side of the jobs on Ray's workers.

A job is a Ray task.  Its process goes on to the next one, with what it has loaded, unless a job has failed in it or
the next is for another GPU (:mod:`harness.executors.ray.staying`).  Ray holds no state of ours: result files are the
only truth, and progress comes through small files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import ray
from ray.exceptions import RayTaskError

from harness.errors import InputError, LorabenchError
from harness.executors.hardware import device_here
from harness.executors.interface import Job, Outcome, Watch, Work
from harness.executors.ray import messages, nodes, settings
from harness.executors.ray.cluster import Cluster
from harness.executors.ray.flight import Flight
from harness.executors.ray.mail import Mail
from harness.executors.ray.room import Room, likely_needs, waited_for
from harness.executors.ray.task import answer
from harness.study.config import ResourceSettings
from harness.study.stack import Device


class RayExecutor:
    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        """``say`` is told in a line what a person should know."""
        self.cluster, self._say = cluster, say
        self._resources = ResourceSettings()
        self._places: dict[str, nodes.Place] = {}  #: by kind of device, once a study has asked for it

    def device(self, wanted: str, resources: ResourceSettings | None = None) -> Device:
        """What the nodes have that will run the jobs; this process may have no GPU, or another."""
        self.cluster.check()
        self._resources = resources = resources or ResourceSettings()
        there, cards = self._find(wanted, resources)
        if self.cluster.ours:
            return device_here("cuda" if cards else "cpu")
        kind = "cuda" if cards else "cpu"
        self._places[kind] = nodes.look_around(cards or there, kind)
        return self._places[kind].device

    def _find(self, wanted: str, resources: ResourceSettings) -> tuple[list[nodes.Node], list[nodes.Node]]:
        """The nodes that can run something, and those of them with a GPU that the study takes.

        Raises InputError where it must have one and there is none, for as long as the study says.
        """
        must = wanted == "cuda" or (wanted == "any" and resources.accelerator_type is not None)

        def find() -> list[nodes.Node]:
            there = nodes.able(nodes.living())
            return nodes.with_gpus(there, resources) if must else there

        minutes = 0.0 if self.cluster.ours else resources.wait_minutes
        found = waited_for(find, likely_needs(resources, must), minutes, self._say, self.cluster.check)
        if not found:
            raise _nothing(nodes.living(), resources, must)
        return found, nodes.with_gpus(found, resources) if wanted != "cpu" else []

    def ask(self, question: bytes, kind: str) -> Any:
        """The answer to a pickled question, of a node that jobs for this kind of device run on."""
        self.cluster.check()
        if kind not in self._places:
            self.device(kind, self._resources)
        try:
            try:
                return nodes.ask(self._places[kind], answer, question)
            except nodes.GoneError:  # an autoscaler ends nodes that have nothing to do
                self.device(kind, self._resources)
                return nodes.ask(self._places[kind], answer, question)
        except RayTaskError as error:
            if isinstance(error.cause, LorabenchError):
                raise error.cause from None
            raise

    def run(self, jobs: Sequence[Job], work: Work, watch: Watch) -> list[Outcome]:
        if not jobs:
            return []
        self.cluster.check()
        place = self._places.get(jobs[0].device)
        room = Room(jobs, place.accelerator if place else "", self._resources, not self.cluster.ours, self._say)
        if self.cluster.ours:  # every worker sees the folder
            return Flight(self.cluster, room, None, work, watch).land(jobs)
        with closing(Mail(jobs)) as mail:
            return Flight(self.cluster, room, mail, work, watch).land(jobs)

    def describe(self) -> str:
        resources, count = ray.cluster_resources(), len(ray.nodes())
        there = f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"
        return f"starts: {there}, {count} node{'s' if count != 1 else ''}"

    def close(self) -> None:
        self.cluster.close()


def _nothing(there: Sequence[nodes.Node], resources: ResourceSettings, gpu: bool) -> InputError:
    if not gpu:
        return InputError(
            "the Ray cluster has no node that could run anything",
            where=settings.WHERE,
            remedy=f"join a machine ({messages.JOINING}), or raise resources.wait_minutes in the study",
        )
    wanted, kinds = resources.accelerator_type, sorted({node.accelerator for node in there if node.accelerator})
    if wanted is None or not kinds:
        return InputError(
            f"the study asks for a GPU{f' ({wanted})' if wanted else ''}, and the Ray cluster has none",
            where="study:device",
            remedy=f"set device: any, or join a machine with a GPU ({messages.JOINING})",
        )
    return InputError(
        f"the study asks for a GPU of the kind {wanted}, and the Ray cluster has {', '.join(kinds)}",
        where="study:resources.accelerator_type",
        remedy=f"name one that is there, or join a machine that has it ({messages.JOINING})",
    )
