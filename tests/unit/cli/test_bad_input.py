"""Bad studies, bad command lines, bad folders: one message with a place and a remedy, soon, and no traceback."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import hub_copies
import pytest
import synthetic

import baselines
from harness.data import models
from harness.method import registry
from harness.store import write_trial

GOOD = {
    "model": "tiny-random-llama", "dtype": "float32", "device": "cpu", "seeds": [0], "probes": ["toy_text"],
    "streams": {"order": ["toy_recall", "toy_digits"]}, "methods": {"lora": {}},
    "training": {"examples": 64, "batch": 8},
}  # fmt: skip
LONG = "x" * 5000


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Of all tests here, with the model, and an index of lm-eval's tasks that is made at once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(folder))
        hub_copies.write_small_index()
        models.resolve_model(str(GOOD["model"]))
    return folder


@pytest.fixture
def lorabench(in_process, monkeypatch, tmp_path, cache):
    """``lorabench("plan", "x")`` in this process -> (status, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORABENCH_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    return in_process


def refused(answer: tuple[int, str, str], place: str, status: int = 2) -> str:
    """The one message of a command that was refused."""
    found, out, err = answer
    assert found == status, (out, err)
    assert err.startswith("error: "), err
    assert place in err
    assert err.count("\n  -> ") == 1, "a remedy"
    assert "Traceback" not in err
    assert len(out + err) < 12_000
    assert not any(letter < " " and letter not in "\n\t" for letter in out + err)
    return err


# -- studies ----------------------------------------------------------------------------------------------------------

#: What is changed in a good study, and the place that the message names after the file.
STUDIES = [
    ({"model": ""}, ":model"), ({"model": "a\x00b"}, ":model"), ({"model": LONG}, ":model"), ({"model": 7}, ":model"),
    ({"seeds": list(range(20_001))}, ":seeds"), 
    ({"seeds": [True]}, ":seeds.0"),
    ({"seeds": [1.0]}, ":seeds.0"), ({"seeds": [-1]}, ":seeds.0"), ({"seeds": ["0"]}, ":seeds.0"),
    ({"seeds": [10**4000]}, ":seeds.0"), ({"seeds": {"a": 1}}, ":seeds"), ({"seeds": [0, 0]}, ":seeds"),
    ({"threads": 1_000_000}, ":threads"), ({"threads": "2"}, ":threads"), ({"pack": 10**12}, ":pack"),
    ({"root_seed": 10**30}, ":root_seed"), ({"adapter": {"rank": 10**9}}, ":adapter.rank"),
    ({"adapter": {"alpha": "inf"}}, ":adapter.alpha"), ({"adapter": {"alpha": 1e999}}, ":adapter.alpha"),
    ({"adapter": {"targets": []}}, ":adapter.targets"), ({"training": {"examples": 10**12}}, ":training.examples"),
    ({"training": {"batch": 10**12}}, ":training.batch"),
    ({"training": {"pass_tokens": 10**12}}, ":training.pass_tokens"),
    ({"training": {"max_length": 10**12}}, ":training.max_length"), ({"training": {"clip": True}}, ":training.clip"),
    ({"scoring": {"batch_tokens": 10**12}}, ":scoring.batch_tokens"),
    ({"scoring": {"items": 10**12}}, ":scoring.items"),
    ({"scoring": {"num_fewshot": 10**9}}, ":scoring.num_fewshot"),
    ({"scoring": {"probe_items": {"toy_text": -1}}}, ":scoring.probe_items"),
    ({"tuning": {"settings": 10**9}}, ":tuning.settings"),
    ({"streams": {"order": ["toy_recal"]}}, ":streams.order"), ({"streams": {"order": [LONG]}}, ":streams.order"),
    ({"streams": {"order": ["../toy_recall"]}}, ":streams.order"), ({"streams": {"order": [""]}}, ":streams.order"),
    ({"streams": {"[/bold]": ["[/x]"]}}, ":streams.[/bold]"), ({"streams": {"a\x1b[2J": ["x"]}}, r":streams.a\x1b[2J"),
    ({"streams": {"order": [f"t{n}" for n in range(1000)]}}, ":streams.order"),
    ({"probes": ["toy_txt"]}, ":probes"), ({"probes": "toy_text"}, ":probes"),
    ({"methods": {"lorra": {}}}, ":methods.lorra"), ({"methods": {"": {}}}, ":methods."),
    ({"methods": {"[/bold]": {}}}, ":methods.[/bold]"), ({"methods": {"lora@": {}, "lora": {}}}, ":methods"),
    ({"methods": {"lora": {"learning_rate": list(range(1, 30_000))}}}, ":methods.lora.learning_rate"),
    ({"methods": {"lora": {"learning_rate": [[0.1]]}}}, ":methods.lora.learning_rate"),
    ({"methods": {"lora": {"learning_rate": []}}}, ":methods.lora.learning_rate"),
    ({"methods": {"lora": {"learning_rate": "[/bold]"}}}, ":methods.lora.learning_rate"),
    ({"methods": {"lora": {"learning_rate": 1e999}}}, ":methods.lora.learning_rate"),
    ({"methods": {"lora": {"adapter": {"rank": "8"}}}}, ":methods.lora.adapter.rank"),
    ({"methods": {"lora": {"[/bold]": 1}}}, ":methods.lora.[/bold]"),
    ({"title": ["x"]}, ":title"), ({"published": "none"}, ":published"), ({"published": "../x"}, ":published"),
    ({"claims": "none"}, ":claims"), ({"claims": "../x"}, ":claims"), ({"claims": ["core_arms"]}, ":claims"),
    ({"a\x1b[31m": 1}, r":a\x1b[31m"), ({LONG: 1}, ":1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place"), STUDIES, ids=[f"{n}{place}"[:40] for n, (_, place) in enumerate(STUDIES)])
def test_a_bad_study(lorabench, tmp_path, change, place):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(GOOD | change))
    refused(lorabench("plan", str(file)), f"{file}{place}")


TEXTS = [
    ("empty", b"", ""), ("null", b"null\n", ""), ("list", b"- a\n", ""), ("text", b"hello", ""),
    ("binary", bytes(range(256)), ""), ("zeros", b"\0" * 1000, ""), ("utf16", "model: m\n".encode("utf-16"), ""),
    ("latin", "title: é".encode("latin-1"), ""), ("tab", b"a:\n\t- b\n", ":2"), ("cut", b"seeds: [0\n", ":2"),
    ("twice", b"model: m\nmethods:\n  lora: {}\n  lora: {}\n", ":4"), ("top twice", b"seeds: [0]\nseeds: [1]\n", ":2"),
    ("deep", b"a: " + b"[" * 100_000, ":1"), ("deep maps", b"{a: " * 3000, ":1"),
    ("laughs", b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(10)), ":"),
    ("cycle", b"a: &a [*a]\n", ":1"), ("code", b"a: !!python/object/apply:os.system [id]\n", ":1"),
    ("set", b"model: m\nseeds: [0]\nstreams: {o: !!set {a, b}}\nmethods: {lora: }\n", ":streams.o"),
    ("date", b"model: 2026-01-01\n", ":model"), ("no date", b"title: 2026-13-45\n", ""),
    ("digits", b"seeds: [" + b"9" * 100_000 + b"]\n", ""), ("hex", b"seeds: [0x" + b"f" * 10_000 + b"]\n", ""),
    ("half", b'title: "\\ud83d"\n', ":title"), ("key", b"{[a]: 1}\n", ":1"), ("large", b"a" * 3_000_000, ""),
]  # fmt: skip


@pytest.mark.parametrize(("content", "place"), [case[1:] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_a_file_that_is_no_study(lorabench, tmp_path, content, place):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    refused(lorabench("plan", str(file)), f"{file}{place}")


@pytest.mark.parametrize("name", ["Mine", "a b", "perf", ".x", "[bold]"])
def test_a_file_whose_name_is_none_for_a_study(lorabench, tmp_path, name):
    file = tmp_path / f"{name}.yaml"
    file.write_text(json.dumps(GOOD))
    refused(lorabench("plan", str(file)), str(file))


# -- what is printed as it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[/bold]", "[red]x", "[link=https://x.y]z[/link]", ":smile:", "a\x1b[2Jb"])
def test_a_good_study_with_odd_names_is_shown_as_it_is(lorabench, tmp_path, cache, text):
    (made,) = cache.glob("models/tiny-random-llama*")
    shutil.copytree(made, tmp_path / "[blink]model")
    changes = {"title": f"title {text}", "streams": {f"stream {text}": ["toy_recall"]},
               "methods": {f"lora@arm {text}": {}}, "model": str(tmp_path / "[blink]model")}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(GOOD | changes))
    status, out, err = lorabench("plan", "mine.yaml", "--out", str(tmp_path / "[blink]out"))
    assert (status, err) == (0, "")
    shown = text.replace("\x1b", r"\x1b")
    for part in (f"title {shown}", f"stream {shown}", f"lora@arm {shown}", "/[blink]model", "/[blink]out"):
        assert part in " ".join(out.split())
    assert "\x1b" not in out


# -- command lines ----------------------------------------------------------------------------------------------------

LINES = [
    (["plan", ""], "STUDY"), (["plan", ".."], "STUDY"), (["plan", "a/b"], "STUDY"), (["plan", "[/bold]"], "STUDY"),
    (["plan", "quik"], "quik"), (["plan", LONG], "STUDY"), (["plan", f"{LONG}.yaml"], "yaml"),
    (["plan", "dir.yaml"], "dir.yaml"),
    (["plan", "/dev/null.yaml"], "null.yaml"), (["plan", "smoke", "--model", ""], "--model"),
    (["plan", "smoke", "--model", LONG], "--model"), (["plan", "smoke", "--model", "a\nb"], "--model"),
    (["plan", "smoke", "--model", "[/bold]"], "[/bold]"), (["plan", "smoke", "--out", ""], "--out"),
    (["plan", "smoke", "--out", "file"], "--out"), (["plan", "smoke", "--out", "file/below"], "--out"),
    (["plan", "smoke", "--out", LONG], "--out"), (["plan", "smoke", "--out", "loop"], "--out"),
    (["run", "smoke", "--executor", "[/bold]"], "--executor"),
    (["run", "smoke", "--executor", "local", "--out", "file"], "--out"),
    (["run", "", "--executor", "local"], "STUDY"), (["tune", "../smoke", "--executor", "local"], "STUDY"),
    (["fetch", "..", "--model", "x"], "STUDY"), (["fetch", "smoke", "--model", " "], "--model"),
    (["status", "../.."], "STUDY"), (["status", "smoke", "--out", "file"], "--out"), (["status", "@x"], "STUDY"),
    (["report", "", "--out", "empty"], "STUDY"), (["report", "smoke", "--out", "empty"], "empty"),
    (["report", "smoke", "--out", "file"], "--out"), (["report", "--all", "--out", "empty"], "empty"),
    (["report", "--all", "--out", "file"], "--out"), (["compare", "..", "a", "b"], "STUDY"),
    (["compare", "smoke", "a", "b", "--out", "empty"], "empty"), (["compare", "smoke", "a", "b", "--with", ""], ""),
    (["compare", "smoke", "a", "b", "--with", LONG], ""),
    (["export", "abc", "to", "--study", "smoke", "--out", "empty"], "trials"),
    (["export", "abc", "", "--study", "smoke"], "TO"), (["export", "abc", "file", "--study", "smoke"], "TO"),
    (["export", "[/bold]", "to", "--study", "smoke"], "[/bold]"), (["mitigate", "smoke", "--keep", "nan"], "--keep"),
    (["mitigate", "smoke", "--keep", "[/bold]"], "--keep"),
    (["audit", "empty", "--model", "", "--tasks", "toy_text"], "--model"),
    (["audit", "empty", "--model", "m", "--items", "-1"], "items"),
    (["audit", "empty", "--model", "m", "--threads", "9" * 30], "threads"),
    (["audit", "empty", "--model", "m", "--tasks", "a,a"], "audit"),
    (["audit", "empty", "--model", "m", "--num-fewshot", "9" * 5000], "--num-fewshot"),
    (["audit", "empty", "--model", "m", "--num-fewshot", "="], "--num-fewshot"),
    (["audit", "empty", "--model", "m", "--out", "file"], "--out"),
    (["perf", "train", "--packs", "9" * 5000], "--packs"), (["perf", "train", "--packs", "0"], "--packs"),
    (["perf", "intruders", "--ranks", "1000000000"], "--ranks"), (["perf", "score", "--out", "file"], "--out"),
    (["perf", "train", "--model", ""], "--model"), (["tasks", "--plugins", "file"], "--plugins"),
    (["tasks", "--plugins", LONG], "--plugins"), (["methods", "--check", "[/bold]"], "[/bold]"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "place"), LINES, ids=[" ".join(line)[:50] for line, _ in LINES])
def test_a_bad_command_line(lorabench, tmp_path, line, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dir.yaml").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    refused(lorabench(*line), place)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "empty", "dir.yaml", "loop"}, "nothing was made"


@pytest.mark.parametrize("line", [
    ["[/bold]"], ["run", "--executor"], ["plan", "smoke", "--[/bold]"],
    ["audit", "x", "--model", "m", "--items", "many"],
    ["perf", "score", "--documents", "1000000000000"], ["perf", "train", "more"], ["--plugins"],
])  # fmt: skip
def test_bad_usage_is_2(lorabench, line):
    status, out, err = lorabench(*line)
    assert status == 2
    assert "Traceback" not in out + err


# -- results that are none --------------------------------------------------------------------------------------------

VERBS = [
    ["report", "mine"],
    ["status", "mine"],
    ["compare", "mine", "lora", "frozen"],
    ["export", "f", "to", "--study", "mine"],
]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '"x"'])
@pytest.mark.parametrize("verb", VERBS, ids=[verb[0] for verb in VERBS])
def test_a_garbled_manifest(lorabench, tmp_path, verb, text):
    write_trial(tmp_path / "results" / "mine", synthetic.trial("lora", synthetic.QUICK))
    (tmp_path / "results" / "mine" / "study.json").write_text(text)
    refused(lorabench(*verb), "study.json")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"tries": 5}', '{"schema_version": 1}', '{"tries": [], "arms": {"lora": {"ends": 3}}}'],
)
def test_a_garbled_tuning(lorabench, tmp_path, text):
    write_trial(tmp_path / "results" / "mine", synthetic.trial("lora", synthetic.QUICK))
    (tmp_path / "results" / "mine" / "tuning.json").write_text(text)
    refused(lorabench("report", "mine"), "tuning.json")


def test_results_that_are_empty_or_unknown(lorabench, tmp_path):
    (tmp_path / "results" / "mine").mkdir(parents=True)
    assert lorabench("status", "mine")[0] == 0
    refused(lorabench("report", "mine"), str(tmp_path / "results" / "mine"))
    write_trial(tmp_path / "results" / "mine", synthetic.trial("lora", synthetic.QUICK))
    refused(lorabench("export", "nothing", "to", "--study", "mine"), "trials")
    refused(lorabench("compare", "mine", "lora", "[/bold]"), "[/bold]")


@pytest.mark.parametrize("line", [["report", "mine"], ["report", "--all"]])
def test_a_folder_that_can_not_be_written(lorabench, tmp_path, line):
    write_trial(tmp_path / "results" / "mine", synthetic.trial("lora", synthetic.QUICK))
    for page in ("results/mine/trials.csv", "results/index.html"):
        (tmp_path / page).mkdir()  # whoever runs this, a folder can't be replaced by a file
    (tmp_path / "results" / "mine" / "report.html").write_text("")  # the index makes what is missing
    refused(lorabench(*line), "cannot write the file", status=1)


def test_a_disk_that_is_full_anywhere_is_one_message(lorabench, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/results/claim.json")

    monkeypatch.setattr("harness.cli.show.outcome.show_status", full)
    refused(lorabench("status", "smoke"), "/results/claim.json", status=1)


# -- plug-ins ---------------------------------------------------------------------------------------------------------

METHOD = "from harness.method.recipe import Method, Recipe\n"
PLUG_INS = [
    ("import sys\nsys.exit()\n", ":2", "SystemExit"), ("raise SystemExit(0)\n", ":1", "SystemExit: 0"),
    ("import sys\nsys.exit('bye')\n", ":2", "bye"),
    ("class Odd(BaseException): pass\nraise Odd('x')\n", ":2", "Odd: x"),
    ("raise GeneratorExit\n", ":1", "GeneratorExit"), ("raise KeyError('[/bold]')\n", ":1", "[/bold]"),
    ("raise ValueError('x' * 50_000_000)\n", ":1", "characters"), ("def f(): f()\nf()\n", ":1", "RecursionError"),
    ("x = (\n", ":1", "SyntaxError"), ("\0", "", "null bytes"),
    ("import nothing_like_this\n", ":1", "nothing_like_this"),
    ("METHOD = None\n", "", "not a Method"),
    (METHOD + "METHOD = Method('mine', 's', 's', lambda s: 1 / 0)\n", "", "ZeroDivisionError"),
    (METHOD + "METHOD = Method('mine', 's', 's', lambda s: {}['x'])\n", "", "KeyError"),
    (METHOD + "METHOD = Method('mine', 's', 's', lambda s: exit(3))\n", "", "SystemExit"),
    (METHOD + "METHOD = Method('mine', 's', 's', lambda s: None)\n", "", "not a Recipe"),
    (METHOD + "METHOD = Method('mine', 's', 's', lambda s: Recipe(), settings=None)\n", "", "can't be composed"),
    (METHOD + "names = {'Recipe': Recipe}\nexec('def f(s): return Recipe()', names)\n"
     "METHOD = Method('mine', 's', 's', names['f'])\n", "", "no source file"),
    (METHOD + "METHOD = Method('a@b', 's', 's', lambda s: Recipe())\n", "", "not a name"),
    (METHOD + "METHOD = Method(5, 's', 's', lambda s: Recipe())\n", "", "not a name"),
    (METHOD + "METHOD = Method('[/bold]', 's', 's', lambda s: Recipe())\n", "", "not a name"),
]  # fmt: skip


@pytest.fixture
def plug_in(tmp_path_factory, monkeypatch):
    """A folder of plug-ins that this process knows for the length of a test."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "methods").mkdir()
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(folder / "methods")])
    registry.methods.cache_clear()
    yield folder / "methods" / "zz_bad.py"
    sys.modules.pop("baselines.zz_bad", None)
    registry.methods.cache_clear()


@pytest.mark.parametrize(("text", "place", "what"), PLUG_INS, ids=[what for _, _, what in PLUG_INS])
def test_a_bad_plug_in(lorabench, plug_in, text, place, what):
    plug_in.write_text(text)
    assert what in refused(lorabench("methods"), f"{plug_in}{place}")


def test_the_digest_of_a_partial_function_is_of_its_own_module(plug_in):
    text = (
        METHOD + "from functools import partial\nMETHOD = Method('mine', 's', 's', partial(lambda a, s: Recipe(), 1))\n"
    )
    digests = []
    for more in ("", "# changed\n"):
        plug_in.write_text(text + more)
        registry.methods.cache_clear()
        digests.append(registry.method_digest(registry.methods()["mine"]))
    assert digests[0] != digests[1]


def test_ctrl_c_at_import_is_ctrl_c(lorabench, plug_in):
    plug_in.write_text("raise KeyboardInterrupt\n")
    assert lorabench("methods")[0] == 130


# -- the machine ------------------------------------------------------------------------------------------------------


def test_the_check_up_goes_on_past_a_broken_task_or_cache(lorabench, monkeypatch, tmp_path):
    from harness.cli import doctor as checkup

    (tmp_path / "own" / "tasks" / "bad").mkdir(parents=True)
    (tmp_path / "own" / "tasks" / "bad" / "bad.yaml").write_text("a: [")
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("LORABENCH_PLUGINS", str(tmp_path / "own"))
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkup, "CHECKS", (checkup._disk, checkup._cached))
    status, out, err = lorabench("doctor")
    assert (status, err) == (1, "")
    assert "is a file, not a folder; set LORABENCH_CACHE" in out
    assert "problem cached" in " ".join(out.split())
