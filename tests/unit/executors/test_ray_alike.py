"""Nodes whose results could not be compared are refused by name: what each says it has is made up here, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import InputError
from harness.executors.ray import nodes
from harness.executors.ray.nodes import LIBRARIES, ON_GPU, Node
from harness.study.stack import Device

CARD = ("NVIDIA H100 80GB HBM3", 80 * 10**9)
FIRST, SECOND = "the node one (10.0.0.1) of the Ray cluster", "the node two (10.0.0.2) of the Ray cluster"


@pytest.fixture
def look(monkeypatch):
    """``look("cpu", {}, {"torch": None})``: what a run finds on two nodes with these libraries otherwise than usual."""

    def go(kind: str, *differ: dict[str, str | None], **seen: Any) -> nodes.Place:
        usual = dict.fromkeys((*LIBRARIES, *(ON_GPU if kind == "cuda" else ())), "1.0")
        cards = {"gpus": [CARD], "blind": ""} if kind == "cuda" else {}
        found = {
            Node(host, f"10.0.0.{number}", {"CPU": 4.0}): {
                "host": host, "processor": "x86_64", "libraries": usual | change, **cards,
                **(seen if host == "two" else {}),
            }
            for number, host, change in zip((1, 2), ("one", "two"), differ, strict=True)
        }  # fmt: skip
        monkeypatch.setattr(nodes, "_each", lambda *asked, **words: found)
        return nodes.look_around(list(found), kind)

    return go


def refused(look, *given: Any, **seen: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        look(*given, **seen)
    assert caught.value.where == "--address (or RAY_ADDRESS)"
    return caught.value


def test_nodes_that_are_alike_are_taken(look):
    place = look("cpu", {}, {})
    assert place.device == Device("cpu", "cpu (x86_64)", None, dict.fromkeys(LIBRARIES, "1.0"))
    assert [node.address for node in place.nodes] == ["10.0.0.1", "10.0.0.2"]
    assert look("cuda", {}, {}).device.name == CARD[0]


@pytest.mark.parametrize("missing", [("torch",), ("transformers", "lm_eval")])
def test_libraries_that_a_node_lacks_are_named(look, missing):
    error = refused(look, "cpu", {}, dict.fromkeys(missing))
    assert error.what == f"{SECOND} lacks {', '.join(missing)}"
    assert "install lorabench there" in str(error.remedy)


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_is_named_with_both_nodes(look, library):
    error = refused(look, "cpu", {}, {library: "2.0"})
    assert error.what == f"{SECOND} has {library} 2.0, and {FIRST} 1.0: their results could not be compared"
    assert error.remedy == "install the same on every node"


@pytest.mark.parametrize("library", ON_GPU)
def test_a_kernel_library_that_one_node_lacks_is_named(look, library):
    """A GPU goes without it, and its numbers are others then: all nodes have it, or none."""
    error = refused(look, "cuda", {}, {library: None})
    assert error.what == f"{SECOND} has {library} not at all, and {FIRST} 1.0: their results could not be compared"
    error = refused(look, "cuda", {library: None}, {})
    assert error.what == f"{SECOND} has {library} 1.0, and {FIRST} not at all: their results could not be compared"
    assert look("cuda", {library: None}, {library: None}).device.kind == "cuda"


def test_another_processor_counts_where_it_computes(look):
    error = refused(look, "cpu", {}, {}, processor="aarch64")
    assert f"{SECOND} has the processor aarch64, and {FIRST} x86_64" in error.what
    assert look("cuda", {}, {}, processor="aarch64").device.name == CARD[0]
