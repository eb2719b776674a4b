"""Ray's environment and addresses, without Ray."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.executors.ray import settings
from harness.executors.ray.settings import Endpoint


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    """This process's environment, without what Ray reads; put back at the end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    monkeypatch.setattr(os, "environ", kept)
    return kept


@pytest.mark.parametrize("address", [None, "", " ", "local"])
def test_a_cluster_of_our_own_has_a_token_and_is_local(environment, address):
    if address is not None:
        environment["RAY_ADDRESS"] = address
    environment["RAY_AUTH_MODE"] = "disabled"
    settings.prepare()
    assert settings.address() is None
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_workers_import_from_where_the_run_does(environment, monkeypatch):
    environment["PYTHONPATH"] = "/before"
    monkeypatch.setattr(sys, "path", ["", "/notebook/clone", "/before", *sys.path])
    settings.prepare()
    told = subprocess.run(
        [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout)[1:3] == ["/notebook/clone", "/before"]


def test_every_process_has_a_token_of_its_own_and_keeps_it(environment):
    code = (
        "import os; from harness.executors.ray.settings import prepare; prepare(); one = os.environ['RAY_AUTH_TOKEN'];"
        "prepare(); assert one == os.environ['RAY_AUTH_TOKEN']; print(one)"
    )
    tokens = {
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(tokens) == 2


@pytest.mark.parametrize("given", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"}])
def test_a_cluster_of_the_users_keeps_its_authentication(environment, given):
    environment.update({"RAY_ADDRESS": "10.0.0.1:6379"} | given)
    settings.prepare()
    assert settings.address() == "10.0.0.1:6379"
    assert {key: value for key, value in environment.items() if "AUTH" in key} == given
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment


def test_the_users_own_settings_stay(environment):
    environment["RAY_task_oom_retries"] = "7"
    settings.prepare()
    assert environment["RAY_task_oom_retries"] == "7"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("10.0.0.1:6379", Endpoint("10.0.0.1", 6379)),
        ("head.example.org:1", Endpoint("head.example.org", 1)),
        ("[fd00::2]:6379", Endpoint("fd00::2", 6379)),
        ("ray://head:10001", Endpoint("head", 10001)),
        ("auto", None),
        ("anyscale://cluster", None),
    ],
)
def test_addresses(address, wanted):
    assert settings.endpoint(address) == wanted


@pytest.mark.parametrize(
    "address",
    ["foo", "host:", ":6379", "host:abc", "host:0", "host:99999", "a b:1", "ray://host", "host:1/x", "::1:6379"],
)
def test_what_is_no_address(address):
    with pytest.raises(InputError) as error:
        settings.endpoint(address)
    assert error.value.where == "--address (or RAY_ADDRESS)"
    assert "host:port" in str(error.value.remedy)


def test_the_folder_of_sockets_is_closed_to_others(environment):
    environment["RAY_TMPDIR"] = "/tmp/lorabench-test"
    folder = settings.make_folder()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.parent == Path("/tmp/lorabench-test")
    finally:
        folder.rmdir()
        folder.parent.rmdir()


UNUSABLE = {"/tmp/" + "x" * 90: "too long for the sockets", "/dev/null/x": "cannot be made", "here": "not an absolute"}


@pytest.mark.parametrize("path", UNUSABLE)
def test_a_folder_that_cannot_hold_sockets(environment, path):
    environment["RAY_TMPDIR"] = path
    with pytest.raises(InputError, match="such as /tmp") as error:
        settings.make_folder()
    assert UNUSABLE[path] in error.value.what
    assert error.value.where == "RAY_TMPDIR"


@pytest.mark.parametrize("path", UNUSABLE)
def test_an_unusable_folder_not_set_for_ray_gives_way_to_tmp(environment, path):
    environment["TMPDIR"] = path
    folder = settings.make_folder()
    folder.rmdir()
    assert folder.parent == Path("/tmp")


def test_the_longest_folder_takes_a_socket(environment):
    """The bound is right: a socket of the longest name can be made in the longest folder, and in no longer one."""
    environment["RAY_TMPDIR"] = parent = "/tmp/" + "x" * (settings.LONGEST_SOCKET - len(settings.SOCKET) - len("/tmp/"))
    made = settings.make_folder()
    try:
        path = Path(parent + settings.SOCKET)
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        assert len(made.name) == len(settings.SOCKET.split("/")[1])
    finally:
        shutil.rmtree(parent)


def test_versions_that_differ_are_both_named(environment, monkeypatch):
    """In Ray's own words, which have a line for each."""
    from ray._private.utils import check_version_info

    from harness.executors.ray.messages import refused

    environment["RAY_ADDRESS"] = "10.0.0.1:6379"
    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.9.0", "python_version": "3.8.1"}, "here")
    error = refused(caught.value)
    assert "has Ray 2.9.0 and Python 3.8.1, and this process has Ray" in error.what
    assert sys.version.split()[0] in error.what
    assert "ray[default]==2.9.0" in str(error.remedy)
    assert "Ray cannot join '10.0.0.1:6379': no" in refused(RuntimeError("no\nmore")).what
