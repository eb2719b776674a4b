"""The claims of sources that a study names, checked against its arms before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from harness.data import paths
from harness.errors import unknown_name
from harness.store.source_claims import SourceClaim, claims_file, read_claims
from harness.study.arms import expand_arms
from harness.study.config import Study


def claims_of(study: Study, registry: Mapping[str, Any], where: str) -> tuple[SourceClaim, ...]:
    """The claims that the study names, none where it names none; ``where`` is its file.

    An arm of a method that the study leaves out is allowed, and its claim is *not run* there.  Raises InputError for
    what is neither an arm of the study nor of another method, as ``file:claim.key``.
    """
    if study.claims is None:
        return ()
    file = claims_file(study.claims, paths.claims_dir(), f"{where}:claims")
    claims = read_claims(file)
    arms = {arm.name: arm.name.partition("@")[0] for arm in expand_arms(study, registry, where)}
    for number, claim in enumerate(claims):
        for key, names in (("arm", claim.arm), ("against", (claim.against,) if claim.against else ())):
            for name in names:
                if not _known(name, arms, registry):
                    raise unknown_name("arm", name, {*arms, *registry}, where=f"{file}:{number}.{key}")
    return claims


def _known(name: str, arms: Mapping[str, str], registry: Collection[str]) -> bool:
    """Whether the study has the arm, or knows its method and has no arm of it."""
    method = name.partition("@")[0]
    return name in arms or (method in registry and method not in arms.values())
