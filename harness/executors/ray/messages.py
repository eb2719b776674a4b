"""What is said of a cluster that does not start, is not there, or dies: what, where, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import InputError, LorabenchError, clipped
from harness.executors.ray import settings

AGAIN = "run the same command again: finished trials are kept"
#: How a cluster gets a machine that it lacks.
JOINING = "ray start --address=..., or a kind of node for its autoscaler"


def died(what: str, when: str, folder: Path | None) -> LorabenchError:
    """A part of Ray died; ``folder`` is that of a cluster of our own."""
    address = settings.address()
    if address:
        return LorabenchError(
            f"the Ray cluster's {what} died {when}, or cannot be reached any more",
            where=f"--address {clipped(address, 200)} (or {settings.ADDRESS})",
            remedy=f"see to the cluster, then {AGAIN}; or {settings.UNSET}",
        )
    return LorabenchError(
        f"Ray's {what} died {when}: killed, or out of memory",
        where=f"{folder} (Ray's logs)",
        remedy=f"{AGAIN}; or use --executor local",
    )


def late(folder: Path | None) -> LorabenchError:
    """Ray has not started in time, or a cluster does not let us in."""
    address = settings.address()
    if address:
        return unreachable(address)
    return LorabenchError(
        f"Ray has not started within {settings.START_SECONDS:g} s",
        where=f"{folder} (Ray's logs)",
        remedy="see its logs, or use --executor local",
    )


def refused(error: BaseException) -> LorabenchError:
    """What ``ray.init`` raised, in our words and the first line of its own."""
    text = str(error).strip() or type(error).__name__
    said = clipped(text.splitlines()[0], 400)
    address = settings.address()
    if address and (versions := _versions(text)):
        (ray, python), (our_ray, our_python) = versions
        return InputError(
            f"the Ray cluster at '{clipped(address, 200)}' has Ray {ray} and Python {python}, and this process has Ray "
            f"{our_ray} and Python {our_python}",
            where=settings.WHERE,
            remedy=f"run with that Python and `pip install 'ray[default]=={ray}'`, or start the cluster with these; "
            f"or {settings.UNSET}",
        )
    if address:
        return InputError(
            f"Ray cannot join '{clipped(address, 200)}': {said}",
            where=settings.WHERE,
            remedy=f"start it, or set address and token (RAY_AUTH_TOKEN) of a running one; or {settings.UNSET}",
        )
    return LorabenchError(f"Ray does not start: {said}", where="--executor ray", remedy="use --executor local")


def check_reachable(address: str) -> None:
    """Raise InputError for an address that is none, or where nobody answers; Ray is not imported for that."""
    point = settings.endpoint(address)
    if point and not settings.answers(point):
        raise unreachable(address)


def unreachable(address: str) -> InputError:
    """Nobody answers at the address of the user's cluster."""
    return InputError(
        f"no Ray cluster answers at '{clipped(address, 200)}'",
        where=settings.WHERE,
        remedy=f"start that cluster, or set the address of a running one; or {settings.UNSET}",
    )


def _versions(said: str) -> list[tuple[str, str]]:
    """(Ray's, Python's) of the cluster and of this process, where Ray says that they differ; else none."""
    found = re.findall(r"Ray: *(\S+)\s+Python: *(\S+)", said)
    return found if len(found) == 2 else []
