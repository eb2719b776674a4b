"""The command line: quick to start, one message an error, exit statuses 0, 1, 2 and 130."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hub_copies
import pytest
import synthetic
import typer
from places import ROOT

from harness import cli
from harness.errors import LorabenchError
from harness.store import write_trial

VERBS = (
    "fetch", "plan", "run", "tune", "status", "report", "compare", "trials", "export", "log", "audit", "mitigate",
    "new", "doctor", "perf", "methods", "tasks", "studies",
)  # fmt: skip


@pytest.fixture
def lorabench(in_process, monkeypatch, tmp_path):
    """``lorabench("run", "smoke")`` in this process -> (status, stdout, stderr); an empty cache and folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return in_process


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def study(folder: Path, **changes: object) -> Path:
    """A study file that is read and refused before anything is built."""
    data = {
        "model": "tiny-random-llama", "dtype": "float32", "device": "cpu", "seeds": [0], "probes": ["toy_text"],
        "streams": {"order": ["toy_recall", "toy_digits"]}, "methods": {"lora": {}},
        "training": {"examples": 64, "batch": 8},
    } | changes  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data))
    return path


# -- quick to start ---------------------------------------------------------------------------------------------------


def test_help_is_quick():
    """A generous bound: importing torch alone takes about as long on a slow machine."""
    start = time.monotonic()
    done = python("-m", "harness", "--help")
    assert time.monotonic() - start < 8
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    "module",
    ["harness.cli", "harness.running.campaign", "harness.report", "harness.cli.show.plan", "harness.cli.show.outcome"],
)
def test_importing_needs_neither_torch_nor_ray(module):
    heavy = ("torch", "ray", "lm_eval", "transformers", "datasets")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


def test_planning_needs_no_statistics():
    """scipy.stats alone takes a second, as long as all else of ``plan`` and ``status``."""
    modules = "harness.running.campaign, harness.cli.show.plan, harness.cli.show.outcome"
    heavy = ("scipy.stats", "pandas", "matplotlib", "torch")
    assert python("-c", f"import sys, {modules}; print({{*{heavy}}} & set(sys.modules))").stdout.strip() == "set()"


def test_lists_need_neither_torch_nor_ray():
    """``lorabench tasks`` and ``studies`` answer at once."""
    code = (
        "import sys; from harness import cli\n"
        "for verb in ('tasks', 'studies'):\n"
        "    sys.argv = ['lorabench', verb]\n"
        "    try: cli.main()\n"
        "    except SystemExit as stop: assert not stop.code, stop.code\n"
        "print([name for name in ('torch', 'ray', 'lm_eval') if name in sys.modules])"
    )
    assert python("-c", code).stdout.strip().splitlines()[-1] == "[]"


def test_the_console_script_is_this_main():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="lorabench")
    assert script.load() is cli.main


# -- help, lists ------------------------------------------------------------------------------------------------------


def test_there_is_no_other_verb():
    names = {command.name or getattr(command.callback, "__name__", "") for command in cli.app.registered_commands}
    assert names | {group.name for group in cli.app.registered_groups} == set(VERBS)


def test_an_unknown_benchmark_is_bad_usage(lorabench):
    status, _, err = lorabench("perf", "trian")
    assert status == 2
    assert "trian" in err


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_verb_has_help(lorabench, verb, flag):
    status, out, _ = lorabench(verb, flag)
    assert status == 0
    assert f"lorabench {verb}" in out
    assert len(out.splitlines()) > 5


def test_without_a_verb_it_shows_the_help(lorabench):
    _, out, err = lorabench()
    assert "Usage" in out + err


METHODS = {"combined", "frozen", "lora", "lora_ema", "self_distill", "stable_lora"}


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("methods", METHODS),
        ("tasks", {"toy_recall", "toy_digits", "toy_text"}),
        ("studies", {"smoke", "quick", "core"}),
    ],
)
def test_lists_as_json_and_as_text(lorabench, verb, names):
    status, out, _ = lorabench(verb, "--json")
    rows = json.loads(out)
    assert status == 0
    assert names <= {row["name"] for row in rows}
    assert len({frozenset(row) for row in rows}) == 1, "every row has the same keys"
    status, out, _ = lorabench(verb)
    assert status == 0
    head, *lines = out.splitlines()
    assert head.split()[0] == "name"
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]


def test_tasks_are_listed_by_pattern(lorabench):
    _, out, _ = lorabench("tasks", "toy_*")
    assert [line.split()[0] for line in out.splitlines()] == ["name", "toy_digits", "toy_recall", "toy_text"]


def test_a_pattern_that_nothing_matches_is_no_error(lorabench):
    status, out, err = lorabench("tasks", "zz*")
    assert (status, out) == (0, "")
    assert err == "no task matches 'zz*'; lm-eval's own are listed with --lm-eval\n"
    assert lorabench("tasks", "zz*", "--json") == (0, "[]\n", "")


def test_numbers_of_one_are_singular(lorabench):
    sizes = {row["name"]: row["size"] for row in json.loads(lorabench("studies", "--json")[1])}
    assert sizes["smoke"] == "1 order, 2 seeds"


def test_the_version_is_the_package_s_and_the_clone_s(lorabench):
    from importlib.metadata import version

    from harness.store.clone import clone

    status, out, err = lorabench("--version")
    assert (status, err) == (0, "")
    assert out.startswith(f"lorabench {version('lorabench')}")
    assert (clone().commit or "")[:12] in out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lorabench sta", {"status"}),
        ("lorabench plan smo", {"smoke"}),
        ("lorabench methods --check stable", {"stable_lora"}),
        ("lorabench run smoke --executor lo", {"local"}),
        ("lorabench log smoke --to w", {"wandb"}),
        (
            "lorabench trials ablate_stable --arm stable_lora@shrink",
            {f"stable_lora@shrink={value}" for value in (0.0005, 0.001, 0.002, 0.005, 0.01)},
        ),
        ("lorabench export --study ablate_stable --order order", {"order1", "order2", "order3"}),
        ("lorabench compare ablate_stable lora lora_p", {"lora_plus"}),
        ("lorabench report quick --latex --columns forgetting,average_accuracy", {"forgetting,average_accuracy"}),
        ("lorabench trials there_is_none --arm l", set()),
    ],
)
def test_the_shell_completes_what_there_is(monkeypatch, lorabench, line, found):
    words = line.split()
    monkeypatch.setenv("_LORABENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert set(lorabench()[1].split()) == found


@pytest.mark.parametrize("listed", [[], ["--lm-eval"]])
def test_a_task_that_is_not_there_is_a_message(lorabench, listed):
    hub_copies.write_small_index()
    status, out, err = lorabench("tasks", "toy_recal" if not listed else "arc_eazy", *listed)
    assert (status, out) == (2, "")
    assert ("'arc_easy'" if listed else "'toy_recall'") in err


def test_what_answers_are_can_be_said(lorabench, tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_PLUGINS", str(tmp_path / "own"))
    rows = [{"question": f"{n}?", "choices": [1, 2, 3, 4], "answer": 1 + n % 3} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["new", "task", "mine", "--from", str(tmp_path / "rows.jsonl")]
    status, out, err = lorabench(*command)
    assert (status, out) == (2, "")
    assert "rows.jsonl:1: the answers fit as texts of the choices and as places from 0" in err
    assert not (tmp_path / "own").exists()
    assert lorabench(*command, "--answers", "index")[0] == 0
    written = [json.loads(line) for line in (tmp_path / "own/tasks/mine/data.jsonl").read_text().splitlines()]
    assert [row["label"] for row in written] == [row["answer"] for row in rows]


def test_lm_evals_names_are_listed(lorabench):
    hub_copies.write_small_index()
    status, out, err = lorabench("tasks", "--lm-eval", "*arc*", "--json")
    row = {"kind": "task", "output_type": "multiple_choice", "training_split": True, "data_set": "allenai/ai2_arc"}
    tag = {"kind": "tag of 1", "output_type": None, "training_split": None, "data_set": None}
    assert (status, err) == (0, "")
    assert json.loads(out) == [{"name": "arc_easy", **row}, {"name": "ai2_arc", **tag}]
    _, out, _ = lorabench("tasks", "arc_e*", "--lm-eval")
    assert out.splitlines()[1].split() == ["arc_easy", "task", "multiple_choice", "yes", "allenai/ai2_arc"]
    assert lorabench("tasks", "--lm-eval", "toy_*") == (0, "", "no task matches 'toy_*'\n")


def test_status_as_json(lorabench, tmp_path):
    status, out, _ = lorabench("status", "smoke", "--json")
    assert status == 0
    wanted = {"folder": str(tmp_path / "results" / "smoke"), "methods": [], "damaged": {}, "changes": [],
              "reference": None, "running": None}  # fmt: skip
    assert json.loads(out) == wanted


# -- plug-ins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    ["--plugins", "a", "run", "smoke"], ["run", "smoke", "--plugins", "a"], ["run", "--plugins", "a", "smoke"],
])  # fmt: skip
def test_plugins_may_stand_anywhere(arguments):
    assert cli._plugins_first(arguments) == ["--plugins", "a", "run", "smoke"]


def test_plugins_of_several_folders_and_of_none():
    assert cli._plugins_first(["run", "--plugins=a", "x", "--plugins", "b"]) == [
        "--plugins=a", "--plugins", "b", "run", "x",
    ]  # fmt: skip
    assert cli._plugins_first(["run", "--plugins"]) == ["--plugins", "run"]
    assert cli._plugins_first([]) == []


def test_plugins_that_are_not_there_are_refused(lorabench):
    status, _, err = lorabench("tasks", "--plugins", "nowhere")
    assert status == 2
    assert "--plugins nowhere: there is no such folder" in err


# -- exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("run", "smok", "--executor", "local"), "did you mean 'smoke'"),
        (("plan", "quik"), "did you mean 'quick'"),
        (("fetch", "cor"), "did you mean 'core'"),
        (("run", "smoke", "--executor", "locl"), "did you mean 'local'"),
        (("run", "smoke", "--executor", "local", "--model", "tiny-random-lama"), "did you mean 'tiny-random-llama'"),
    ],
)
def test_an_unknown_name_is_bad_usage_and_the_nearest_is_named(lorabench, arguments, near):
    status, _, err = lorabench(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert near in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["fetch", "plan", "run", "status", "report"])
def test_an_empty_model_is_not_the_study_s_own(lorabench, verb):
    status, _, err = lorabench(verb, "smoke", "--model", "")
    assert status == 2
    assert "--model: must name a model" in err


@pytest.mark.parametrize(
    ("changes", "place", "near"),
    [
        ({"methods": {"lora_emma": {}}}, "methods.lora_emma", "did you mean 'lora_ema'"),
        ({"methods": {"lorra": {}}, "streams": {"one": ["toy_recall"]}}, "methods.lorra", "did you mean 'lora'"),
        ({"methods": {"lora": {"learning_rat": 1.0}}}, "methods.lora", "did you mean 'learning_rate'"),
        ({"streams": {"order": ["toy_recal"]}}, "mine.yaml:streams.order", "did you mean 'toy_recall'"),
        ({"probes": ["toy_txt"]}, "mine.yaml:probes", "did you mean 'toy_text'"),
        ({"trainin": {}}, "trainin", "did you mean 'training'"),
        ({"seeds": [0, 0]}, ":seeds", "correct the study file"),
    ],
)
def test_a_wrong_study_names_the_place_and_the_nearest(lorabench, tmp_path, changes, place, near):
    hub_copies.write_small_index()
    status, _, err = lorabench("plan", str(study(tmp_path, **changes)))
    assert status == 2
    assert place in err
    assert near in err


@pytest.mark.parametrize("verb", ["run", "plan", "fetch"])
def test_a_missing_study_file_is_bad_usage(lorabench, verb):
    status, _, err = lorabench(verb, "./nowhere.yaml", *(("--executor", "local") if verb == "run" else ()))
    assert status == 2
    assert "no such study file" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [("frobnicate",), ("run", "--frobnicate"), ("export",), ("run", "smoke", "more")])
def test_bad_usage(lorabench, arguments):
    assert lorabench(*arguments)[0] == 2


def test_a_report_of_nothing_is_bad_usage(lorabench, tmp_path):
    status, _, err = lorabench("report", "smoke", "--out", str(tmp_path / "nothing"))
    assert status == 2
    assert "no results here" in err


@pytest.mark.parametrize(
    "arguments", [("compare", "smoke", "lora", "frozen"), ("report", "--all")], ids=["compare", "report --all"]
)
def test_nothing_to_compare_or_index_is_bad_usage(lorabench, arguments):
    status, _, err = lorabench(*arguments)
    assert status == 2
    assert "no results here" in err


def test_compare_prints_the_answer_and_json(lorabench, tmp_path):
    for method in ("lora", "combined"):
        for seed in range(6):
            write_trial(tmp_path / "results" / "mine", synthetic.trial(method, synthetic.QUICK, seed=seed))
    status, out, _ = lorabench("compare", "mine", "combined", "lora")
    assert status == 0
    assert out.startswith("combined minus lora in average accuracy: +")
    assert "Forgetting, points" in out
    status, out, _ = lorabench("compare", "mine", "combined", "lora", "--with", "results/mine", "--json")
    assert status == 0
    assert json.loads(out)["differences"]["average_accuracy"]["pairs"] == 6
    status, _, err = lorabench("compare", "mine", "combined", "lroa")
    assert status == 2
    assert "did you mean 'lora'?" in err


def test_an_export_of_nothing_is_bad_usage(lorabench, tmp_path):
    status, _, err = lorabench("export", "abc", str(tmp_path / "to"), "--study", "smoke")
    assert status == 2
    assert "0 trials begin with 'abc'" in err
    assert not (tmp_path / "to").exists()


def raising(error: BaseException):
    def verb(*_, **__):
        raise error

    return verb


def test_a_failure_is_1_with_its_remedy(lorabench, monkeypatch):
    monkeypatch.setattr(
        "harness.cli.show.outcome.show_status", raising(LorabenchError("it broke", where="here", remedy="mend it"))
    )
    status, _, err = lorabench("status", "smoke")
    assert status == 1
    assert err == "error: here: it broke\n  -> mend it\n"


def test_a_run_that_did_not_finish_is_1(lorabench, monkeypatch):
    """An unfinished study is no success, whatever was written."""
    from harness.running import campaign

    class Found:
        folder = Path()

        class study:  # noqa: N801
            name, device = "mine", "cpu"

    state = campaign.State({"a": "error", "b": "ok"}, {}, (), 0)
    monkeypatch.setattr(campaign, "load_campaign", lambda *_, **__: Found)
    monkeypatch.setattr(campaign, "read_state", lambda *_, **__: state)
    monkeypatch.setattr(campaign, "run", lambda *_, **__: state)
    monkeypatch.setattr("harness.cli.show.plan.show_plan", lambda *_: None)
    monkeypatch.setattr("harness.cli.show.progress.progress", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("harness.cli.show.outcome.show_outcome", lambda *_: None)
    assert lorabench("run", "smoke", "--executor", "local", "--no-report")[0] == 1
    done = campaign.State({"a": "diverged", "b": "ok"}, {}, (), 0)
    monkeypatch.setattr(campaign, "run", lambda *_, **__: done)
    assert lorabench("run", "smoke", "--executor", "local", "--no-report")[0] == 0


def test_ctrl_c_is_130(lorabench, monkeypatch):
    monkeypatch.setattr("harness.cli.show.outcome.show_status", raising(KeyboardInterrupt()))
    assert lorabench("status", "smoke")[0] == 130


def test_ctrl_c_says_that_trials_are_kept(lorabench, monkeypatch):
    monkeypatch.setattr("harness.cli.show.outcome.show_status", raising(KeyboardInterrupt()))
    assert "run the same command to go on" in lorabench("status", "smoke")[2]


def test_a_bug_shows_its_traceback(lorabench, monkeypatch):
    monkeypatch.setattr("harness.cli.show.outcome.show_status", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        lorabench("status", "smoke")


def test_exit_status_of_a_verb_passes(lorabench, monkeypatch):
    monkeypatch.setattr("harness.cli.show.outcome.show_status", raising(typer.Exit(1)))
    assert lorabench("status", "smoke")[0] == 1


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_study_file_has_the_same_folder_for_every_verb(lorabench, tmp_path, verb):
    """``run mine.yaml`` writes results/mine; ``status mine.yaml`` and ``report mine.yaml`` must look there."""
    (tmp_path / "results" / "mine").mkdir(parents=True)
    file = study(tmp_path)
    _, out, err = lorabench(verb, str(file), *(("--json",) if verb == "status" else ()))
    where = json.loads(out)["folder"] if verb == "status" else err
    assert str(tmp_path / "results" / "mine") in where
    assert "mine.yaml" not in where


@pytest.mark.parametrize("verb", ["run", "tune"])
def test_a_wrong_name_is_refused_before_anything_starts(lorabench, monkeypatch, tmp_path, verb):
    hub_copies.write_small_index()
    monkeypatch.setattr("harness.executors.make_executor", lambda name: pytest.fail("an executor was started"))
    assert lorabench(verb, "smok")[0] == 2
    for changes in ({"methods": {"lorra": {}}}, {"streams": {"order": ["toy_recal"]}}, {"probes": ["toy_txt"]}):
        assert lorabench(verb, str(study(tmp_path, **changes)))[0] == 2


@pytest.mark.parametrize("verb", ["run", "tune"])
def test_an_address_is_that_of_rays_cluster(lorabench, monkeypatch, verb):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    status, _, err = lorabench(verb, "smoke", "--executor", "local", "--address", "here:6379")
    assert (status, os.environ["RAY_ADDRESS"]) == (2, "elsewhere:1")
    assert "--executor local joins no cluster" in err
    assert lorabench(verb, "smoke", "--address", " ")[0] == 2
    monkeypatch.setattr("harness.cli.study._carry_out", raising(ZeroDivisionError("far enough")))
    with pytest.raises(ZeroDivisionError):
        lorabench(verb, "smoke", "--address", "here:6379")
    assert os.environ["RAY_ADDRESS"] == "here:6379"


def test_an_address_where_nobody_answers_is_refused(lorabench, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    status, _, err = lorabench("run", "smoke", "--address", "127.0.0.1:9", "--out", tmp_path / "out")
    assert status == 2
    assert "no Ray cluster answers at '127.0.0.1:9'" in err
