"""Files that others wrote: what a plain reader lets pass is refused, with its line."""

from __future__ import annotations

import json

import pytest

from harness.errors import InputError, LorabenchError
from harness.reading import parse_json, parse_yaml, read_json, read_yaml


def yaml_of(text: str):
    return parse_yaml(text, where="a.yaml", remedy="mend it")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3", "'a' stands here twice; the first is in line 1"),
        ("m:\n  x: {k: 1, k: 2}\n", "a.yaml:2", "'k' stands here twice"),
        ("- {1: a, 1: b}\n", "a.yaml:1", "'1' stands here twice"),
        ("a: [1, 2\nb: 3\n", "a.yaml:2", "not valid YAML"),
        ("a: \x01\n", "a.yaml", "not valid YAML"),
        ("a: !function x.y\n", "a.yaml:1", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "a.yaml:1", "not valid YAML"),
        ("{[1]: a}\n", "a.yaml:1", "key must be"),
        ("a: 2026-13-45\n", "a.yaml", "can't be read"),
        ("[" * 5000 + "]" * 5000, "a.yaml:1", "nested too deeply"),
        ("a: &a [x]\nb: [" + "*a, " * 200 + "]\n", "a.yaml:2", "aliases"),
        (
            "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 + "]" for i in range(1, 11))]),
            "a.yaml:6",
            "more than 250,000 values",
        ),
        ("a: &a [*a]\n", "a.yaml:1", "'\\*a' stands within what it names"),
    ],
)
def test_yaml_is_refused_with_its_line(text, where, what):
    with pytest.raises(InputError, match=what) as caught:
        yaml_of(text)
    assert caught.value.where == where
    assert caught.value.remedy


def test_yaml_that_is_right_is_read_as_ever():
    assert yaml_of("a: &x {k: 1}\nb: {<<: *x, l: 2}\nc: [1, 2.5, null, yes]\n") == {
        "a": {"k": 1}, "b": {"k": 1, "l": 2}, "c": [1, 2.5, None, True],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("{", "a.json:1", "not JSON"),
        ('{"a": 1,\n"b" 2}', "a.json:2", "not JSON"),
        ("[" * 200_000, "a.json", "nested too deeply"),
        ("1" * 5000, "a.json", "can't be read|can be read"),
    ],
)
def test_json_is_refused_with_its_line(text, where, what):
    with pytest.raises(InputError, match=what) as caught:
        parse_json(text, where="a.json", remedy="mend it")
    assert caught.value.where == where


def test_files_name_themselves(tmp_path):
    for read in (read_json, read_yaml):
        for path, content in ((tmp_path / "none", None), (tmp_path / "latin", b"\xff\xfe"), (tmp_path, None)):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(InputError) as caught:
                read(path)
            assert caught.value.where == str(path)


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(path) == read_yaml(path) == {"a": 1}


def test_a_message_is_never_longer_than_a_screen():
    error = LorabenchError("x" * 50_000_000, where="y" * 10_000, remedy="z" * 10_000)
    assert len(str(error)) < 10_000
    assert str(error).startswith("y")
