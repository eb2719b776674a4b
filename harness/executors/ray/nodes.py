"""The nodes of a cluster: what there is, what a job needs of it, and what is on those that will run the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.cloudpickle import register_pickle_by_value
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import InputError, LorabenchError, clipped
from harness.executors.ray import look, messages, settings
from harness.study.config import ResourceSettings
from harness.study.stack import LIBRARIES, Device, cpu_name

LOOK_SECONDS = 180.0  #: for a node's first process, with torch
ON_GPU = ("triton", "liger-kernel")  #: libraries that numbers depend on beside, on a GPU
KIND = "accelerator_type:"  #: Ray's resource of a node whose GPUs are of the kind that follows

register_pickle_by_value(look)


@dataclass(frozen=True, eq=False)
class Node:
    """A living node: its number, address, and all that it has, used or not."""

    id: str
    address: str
    has: Mapping[str, float]

    @property
    def accelerator(self) -> str:
        """The kind of its GPUs; empty where Ray knows none."""
        return next((name.removeprefix(KIND) for name in self.has if name.startswith(KIND)), "")

    def room(self, needs: Mapping[str, float]) -> int:
        """How many jobs with these needs it has at a time."""
        return min((int(self.has.get(name, 0) / amount + 1e-9) for name, amount in needs.items() if amount), default=0)


@dataclass(frozen=True)
class Place:
    """Where jobs for a device run: the nodes that were looked at, and the kind of GPU that later ones must have."""

    device: Device
    nodes: tuple[Node, ...] = field(compare=False)
    accelerator: str = ""


def living() -> list[Node]:
    """The nodes that live now."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
    ]


def able(nodes: Sequence[Node]) -> list[Node]:
    """Those that run something: a cluster's head often does not."""
    return [node for node in nodes if node.has.get("CPU", 0)]


def with_gpus(nodes: Sequence[Node], resources: ResourceSettings) -> list[Node]:
    """Those with a GPU, of the kind that the study names if it does."""
    wanted = resources.accelerator_type
    return [node for node in nodes if node.has.get("GPU", 0) and wanted in (None, node.accelerator)]


@contextmanager
def asked_for(wanted: Mapping[str, float]) -> Iterator[None]:
    """Have a task with these needs wait for a place: an autoscaler starts nodes for what waits, and for nothing else.

    Unlike what ``ray.autoscaler.sdk`` has for it, that ends with this process, and takes nothing from other runs.
    """
    kind = next((name.removeprefix(KIND) for name in wanted if name.startswith(KIND)), None)
    words = {"num_cpus": wanted.get("CPU", 0), "num_gpus": wanted.get("GPU", 0), "accelerator_type": kind}
    waiting: Any = ray.remote(_do_nothing)
    reference = waiting.options(**words, max_retries=0).remote()
    lost = False
    try:
        yield
    except LorabenchError:  # the cluster is gone, and with it what waited: asking it for something could hang
        lost = True
        raise
    finally:
        if not lost:
            ray.cancel(reference, force=True)


def _do_nothing() -> None:
    pass


def look_around(nodes: Sequence[Node], kind: str) -> Place:
    """Ask every one of these nodes what it has; one that dies meanwhile is left out.

    Raises InputError where they can't run jobs, or differ.
    """
    gpu = kind == "cuda"
    seen_at = _each(nodes, look.look, (*LIBRARIES, *(ON_GPU if gpu else ())), gpu, gpu=gpu)
    nodes, answers = list(seen_at), list(seen_at.values())
    for node, seen in seen_at.items():
        _check_libraries(node, seen)
        if gpu and not seen["gpus"]:
            raise InputError(
                f"{_called(node, seen)} offers a GPU to Ray, and can't use it: {seen['blind']}",
                where=settings.WHERE,
                remedy="install a CUDA build of torch there, or set device: cpu",
            )
    _check_alike(nodes, answers)
    libraries = {name: answers[0]["libraries"][name] for name in LIBRARIES}
    if not gpu:
        return Place(Device("cpu", cpu_name(answers[0]["processor"]), None, libraries), tuple(nodes))
    name, memory = min((card for seen in answers for card in seen["gpus"]), key=lambda card: card[1])
    return Place(Device("cuda", name, memory / 1e9, libraries), tuple(nodes), nodes[0].accelerator)


def ask(place: Place, question: Callable[..., Any], *given: Any) -> Any:
    """The answer of a process on one of these nodes, the first that lives."""
    for node in place.nodes:
        with suppress(GoneError):
            return _each([node], question, *given, gpu=place.device.kind == "cuda")[node]
    raise GoneError


class GoneError(LorabenchError):
    """The nodes that were asked live no more."""

    def __init__(self) -> None:
        where, remedy = settings.WHERE, f"see to the cluster, then {messages.AGAIN}"
        super().__init__("the nodes of the Ray cluster died while they were asked", where=where, remedy=remedy)

    def __reduce__(self) -> tuple[type[GoneError], tuple[()]]:
        return GoneError, ()


def _each(nodes: Sequence[Node], question: Callable[..., Any], *given: Any, gpu: bool = True) -> dict[Node, Any]:
    """What each node answers, but for those that die; it takes none of a node's resources, which others may have.

    With ``gpu`` by a process that ends then, and so gives back what it has of the card.  Raises what a node raises.
    """
    remote = ray.remote(max_retries=1, max_calls=1 if gpu else 0, num_cpus=0)(question)
    asked = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked.append(remote.options(scheduling_strategy=where).remote(*given))
    answers: dict[Node, Any] = {}
    for node, reference in zip(nodes, asked, strict=True):
        with suppress(NodeDiedError, TaskUnschedulableError):
            answers[node] = _answer(node, reference)
    if not answers:
        raise GoneError
    return answers


def _answer(node: Node, reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference, timeout=LOOK_SECONDS)
    except (RayTaskError, NodeDiedError, TaskUnschedulableError):
        raise
    except GetTimeoutError as error:
        raise LorabenchError(
            f"the node {node.address} of the Ray cluster has not said within {LOOK_SECONDS:g} s what it has",
            where=settings.WHERE,
            remedy=f"see whether it can start a worker (its raylet's logs), then {messages.AGAIN}",
        ) from error
    except RayError as error:
        raise LorabenchError(
            f"the node {node.address} of the Ray cluster can't be asked what it has: {type(error).__name__}: "
            f"{clipped(str(error), 400)}",
            where=settings.WHERE,
            remedy=f"see to the cluster, then {messages.AGAIN}",
        ) from error


def _called(node: Node, seen: Mapping[str, Any]) -> str:
    return f"the node {seen['host']} ({node.address}) of the Ray cluster"


def _check_libraries(node: Node, seen: Mapping[str, Any]) -> None:
    missing = [library for library in LIBRARIES if seen["libraries"][library] is None]
    if missing:
        raise InputError(
            f"{_called(node, seen)} lacks {', '.join(missing)}",
            where=settings.WHERE,
            remedy="install lorabench there, of this version, into the Python that Ray runs with",
        )


def _check_alike(nodes: Sequence[Node], answers: Sequence[Mapping[str, Any]]) -> None:
    """Their records are compared, so all have the same libraries, and GPUs of one kind."""
    first = answers[0]
    for node, seen in zip(nodes, answers, strict=True):
        for what, there in _compared(first).items():
            if there != (here := _compared(seen)[what]):
                raise InputError(
                    f"{_called(node, seen)} has {what} {here or 'not at all'}, and {_called(nodes[0], first)} "
                    f"{there or 'not at all'}: their results could not be compared",
                    where=settings.WHERE,
                    remedy="install the same on every node",
                )
    names = sorted({name for seen in answers for name, _ in seen.get("gpus", ())})
    if len(names) > 1:
        kinds = sorted({node.accelerator for node in nodes})
        raise InputError(
            f"the Ray cluster has GPUs of several kinds, whose results can't be compared: {', '.join(names)}",
            where="study:resources.accelerator_type",
            remedy=f"name the kind that the study runs on: {', '.join(filter(None, kinds)) or 'none is known to Ray'}",
        )


def _compared(seen: Mapping[str, Any]) -> dict[str, str | None]:
    """What has to be the same; the processor, too, unless the numbers are a GPU's."""
    return seen["libraries"] | ({} if seen.get("gpus") else {"the processor": seen["processor"]})
