"""Reports of what is not as it should be: each says so, and no file holds a NaN."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic
from places import GOLDEN
from synthetic import QUICK, STACK, Folder, failed, trial

from harness.errors import InputError, LorabenchError
from harness.report import build_report, leaderboard, write_report
from harness.report.csv_files import write_csv
from harness.report.figures import palette, registry
from harness.report.pages import study as study_page
from harness.report.pages.index import write_index
from harness.report.study import gather
from harness.report.text import answer
from harness.store import SCHEMA_VERSION, write_trial
from harness.store.records import Failure

TEXT = (".csv", ".md", ".html", ".tex")


def written(folder: Path, readout: Folder, **options) -> dict[str, str]:
    """Every text file of the report, by name; none of them may say NaN, Infinity or None."""
    write_report(folder, readout, latex=True, **options)
    found = {path.name: path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in TEXT}
    for name, text in found.items():
        # Tracebacks are others' words, scripts and drawings are no numbers.
        plain = re.sub(r"<(head|script|svg|pre)\b.*?</\1>|^    [^\n]*$", "", text, flags=re.DOTALL | re.MULTILINE)
        said = re.search(r"\b(nan|NaN|inf|Infinity|None|null)\b", plain)
        assert not said, (name, plain[max(0, said.start() - 80) : said.end() + 20])
    return found


def board(text: str) -> dict[str, dict[str, str]]:
    return {row["method"]: row for row in csv.DictReader(text.splitlines())}


def test_no_finished_trial(tmp_path):
    with pytest.raises(InputError, match=r"no finished trial to report \(2 failed, 1 damaged\)") as error:
        write_report(tmp_path, Folder([failed("lora", QUICK), failed("frozen", QUICK)], ["x.json"]))
    assert "lorabench run" in str(error.value)


def test_one_trial(tmp_path):
    files = written(tmp_path, Folder([trial("lora", QUICK)]))
    assert "No contestant is ranked" in files["report.md"]
    assert board(files["leaderboard.csv"])["lora"]["average_accuracy_ci_low"] == ""


def test_one_seed_in_three_orders_is_provisional(tmp_path):
    orders = {"a": QUICK, "b": QUICK[::-1], "c": (QUICK[1], QUICK[2], QUICK[0])}
    files = written(
        tmp_path, Folder([trial(arm, s, order=o) for arm in ("lora", "combined") for o, s in orders.items()])
    )
    row = board(files["leaderboard.csv"])["combined"]
    assert (row["why_not_ranked"], row["average_accuracy_ci_low"], row["pairs"]) == ("provisional: 1 seed", "", "3")
    assert row["tie_group"] == row["minimum_detectable_effect"] == row["p"] == ""


def test_a_missing_arm_and_missing_trials(tmp_path):
    records = [trial("lora", QUICK, seed=seed) for seed in range(3)]
    files = written(tmp_path, Folder(records, expected={"lora": 4, "combined": 4}))
    rows = board(files["leaderboard.csv"])
    assert (rows["combined"]["trials"], rows["combined"]["why_not_ranked"]) == ("0/4", "4 missing")
    assert (rows["lora"]["trials"], rows["lora"]["why_not_ranked"]) == ("3/4", "1 missing")
    assert "5 missing" in files["report.md"]


def test_no_plain_lora_to_compare_with(tmp_path):
    records = [trial(arm, QUICK, seed=seed) for arm in ("stable_lora", "combined") for seed in range(8)]
    files = written(tmp_path, Folder(records))
    assert "there is no arm of plain LoRA to compare with" in files["report.md"]
    assert "nothing is tested of forgetting" in files["report.md"]
    rows = board(files["leaderboard.csv"])
    assert rows["combined"]["difference_to_reference"] == rows["combined"]["p"] == ""
    assert rows["combined"]["tie_group"] == "1", "ties are among the arms and need no plain LoRA"


def test_failures_are_shown_once_with_their_traceback(tmp_path):
    records = [trial("lora", QUICK, seed=seed) for seed in range(3)]
    records += [failed("combined", QUICK, seed=seed) for seed in range(3)]
    records += [failed("stable_lora", QUICK, status="oom", seed=0)]
    page = written(tmp_path, Folder(records))["report.html"]
    assert page.count("FloatingPointError: &lt;nan&gt;") == 2, "three that ended alike stand together"
    assert "combined, order a, seed 0 and 2 more: diverged" in page
    assert "combined, order a, seed 2" in page
    assert "3 diverged" in page


def test_a_failure_of_megabytes_is_clipped_on_the_page(tmp_path):
    long = Failure(phase="train", message="m" * 1_000_000, traceback="t" * 1_000_000)
    bad = failed("frozen", QUICK).model_copy(update={"failure": long})
    (found,) = study_page._failures(gather(Folder([trial("lora", QUICK), bad])))
    assert [len(found[key]) < 11_000 for key in ("message", "traceback")] == [True, True]


def test_a_constant_metric_has_no_interval_and_no_claim(tmp_path):
    def flat(arm, seed):
        record = trial(arm, QUICK, seed=seed)
        tasks = {n: t.model_copy(update={"score": (0.3, 0.5, 0.5, 0.5)}) for n, t in record.tasks.items()}
        return record.model_copy(update={"tasks": tasks, "intruders": (None, None, None), "curves": ()})

    readout = Folder([flat(arm, seed) for arm in ("lora", "combined") for seed in range(6)])
    row = board(written(tmp_path, readout)["leaderboard.csv"])["combined"]
    assert (row["average_accuracy_ci_low"], row["average_accuracy_ci_high"]) == ("", "")
    assert (row["difference_to_reference"], row["p"], row["tie_group"]) == ("0", "1", "1")
    assert row["minimum_detectable_effect"] == ""
    study = gather(readout)
    said = answer.answer(study, leaderboard.rows(study))
    assert said[0].startswith("combined and lora tie exactly: they have the highest mean of average accuracy, 50.0 %")
    assert "without any spread" in said[2]
    assert "intruder distance could not be tested" in said[1]


def test_mixed_stacks_are_refused_or_bannered(tmp_path):
    records = [trial("lora", QUICK), trial("combined", QUICK, stack=STACK | {"digest": "2", "threads": 9})]
    with pytest.raises(InputError, match=r"threads \(2 / 9\)"):
        write_report(tmp_path, Folder(records))
    assert not list(tmp_path.iterdir())
    assert 'class="banner" role="alert"' in written(tmp_path, Folder(records), allow_mixed=True)["report.html"]


def test_older_records_are_reported_and_newer_ones_refused(tmp_path):
    shutil.copytree(GOLDEN / "schema1", tmp_path / "old")
    build_report(tmp_path / "old")
    assert len(board((tmp_path / "old" / "leaderboard.csv").read_text())) >= 2
    write_trial(tmp_path / "new", trial("lora", QUICK))
    (path,) = (tmp_path / "new" / "trials").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match=f"has schema {SCHEMA_VERSION + 1}"):
        build_report(tmp_path / "new")


NAMES = [
    "a\"b'c",
    "a,b;c",
    "two\nlines",
    "<b>bold</b>&amp;",
    '=cmd("x")',
    "@sum",
    "n" * 200,
    "$x_1^2$",
    "a|b`c`",
    r"\input{x}",
    "</script><script>alert(1)</script>",
    "]]>-->",
]


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory) -> dict[str, str]:
    records = [trial("lora", QUICK, seed=seed) for seed in range(3)]
    for i, name in enumerate(NAMES):
        specs = [synthetic.spec(name, QUICK, seed=seed) for seed in range(3)]
        records += [trial("lora", QUICK, seed=s, spec=spec, fingerprint=f"{i}-{s}") for s, spec in enumerate(specs)]
    return written(tmp_path_factory.mktemp("odd"), Folder(records))


@pytest.mark.drawn
@pytest.mark.parametrize("name", NAMES)
def test_an_odd_method_name_is_text_in_every_file(odd_names, name):
    with_mark = f"'{name}" if name[0] in "=@" else name
    for file in ("leaderboard.csv", "trials.csv"):
        rows = list(csv.DictReader(odd_names[file].splitlines(keepends=True)))
        assert with_mark in {row["method"] for row in rows}
        assert all(None not in row and None not in row.values() for row in rows)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', odd_names["report.html"], re.DOTALL)
    assert name in {arm["name"] for arm in json.loads(data[1])["arms"]}


def test_odd_names_break_no_table_and_no_element(odd_names):
    page, markdown = odd_names["report.html"], odd_names["report.md"]
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b>bold" not in page + markdown
    section = markdown.split("## Leaderboard")[1].split("##")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 1 + len(NAMES)
    assert len({line.count("|") for line in lines}) == 1
    assert r"\input{x}" not in odd_names["report.tex"]


def test_a_long_name_is_shortened_in_legends_only():
    (look,) = palette.looks([("n" * 100 + "end", "x")]).values()
    assert len(look.label) <= 32
    assert look.label.endswith("nend")
    assert [look.label for look in palette.looks([("a\nb", "x")]).values()] == ["a b"]


def tuning(**changes: Any) -> str:
    """The text of a tuning.json."""
    values = {"schema_version": 2, "study": "s", "seeds": [9], "settings": 5, "arms": {}, "tries": []}
    return json.dumps(values | changes)


def choice(**changes: Any) -> dict[str, Any]:
    return {"settings": {}, "tried": 3, "grid": 3, "metric": "average_accuracy", "digest": "d"} | changes


def test_tuning_tries_are_a_table_where_there_is_a_file(tmp_path):
    tries = [{"method": "lora", "learning_rate": 1e-4, "score": 0.51234567}, {"method": "<x>", "score": None}]
    (tmp_path / "tuning.json").write_text(tuning(tries=tries))
    files = written(tmp_path, Folder([trial("lora", QUICK)]))
    assert "<h2>Tuning tries</h2>" in files["report.html"]
    assert ">51.2</td>" in files["report.html"]
    assert "| &lt;x&gt; | – | – |" in files["report.md"]
    assert "<h2>Tuning tries</h2>" not in written(tmp_path / "untuned", Folder([trial("lora", QUICK)]))["report.html"]


def test_a_choice_at_an_end_of_its_grid_is_told(tmp_path):
    arms = {"lora": choice(ends=["learning_rate=0.002"], beyond=["learning_rate=0.002"]), "combined": choice()}
    (tmp_path / "tuning.json").write_text(tuning(tries=[{"arm": "lora"}], arms=arms))
    page = written(tmp_path, Folder([trial("lora", QUICK)]))["report.html"]
    assert "Tried beyond an end of the grid, where the best of it lay: lora (learning_rate=0.002)." in page
    assert "Chosen at an end of what was tried: lora (learning_rate=0.002); a wider grid may" in page


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", tuning(tries=3), tuning(tries=["x"]), tuning(arms={"lora": choice(ends=[1])}),
     tuning(arms={"lora": choice(ends=5)}), tuning(arms=[]), tuning(schema_version=1), "[" * 100_000, "\x00", "{" * 50],
)  # fmt: skip
def test_a_damaged_tuning_file_is_an_error(tmp_path, text):
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(InputError, match=r"not readable as the outcome of a tuning|not JSON|another version") as error:
        write_report(tmp_path, Folder([trial("lora", QUICK)]))
    assert str(error.value.where).startswith(str(tmp_path / "tuning.json"))
    assert "remove this file" in error.value.remedy


# -- names of everything else ------------------------------------------------------------------------------------------

ODD = ["=cmd|a`b`", "$x_{$", "[/bold]&<i>", "\x1b[31mred\x00", "# x\ny", "＝1+1", r"\end{x}~^#%"]


@pytest.fixture(scope="module")
def odd_everything(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Odd names for study, orders, tasks, probes and model; arms more than are drawn, so that one is annotated."""
    order = tuple(ODD[:3])
    records = []
    for number, name in enumerate(["lora", *ODD, *(f"arm{n}" for n in range(10))]):
        for seed in range(3):
            record = trial("lora", QUICK, seed=seed)
            rename = dict(zip(QUICK, order, strict=True))
            update = {"method": name, "order": ODD[3], "stream": order, "model": ODD[4], "setting": "default"}
            records.append(record.model_copy(update={
                "fingerprint": f"{number}-{seed}", "study": ODD[6], "spec": record.spec.model_copy(update=update),
                "tasks": {rename[task]: scores for task, scores in record.tasks.items()},
                "probes": {f"{task}{ODD[5]}": scores for task, scores in record.probes.items()},
                "curves": tuple(curve.model_copy(update={"task": rename[curve.task]}) for curve in record.curves),
            }))  # fmt: skip
    folder = tmp_path_factory.mktemp("everything")
    return folder, written(folder, Folder(records))


@pytest.mark.drawn
def test_odd_names_of_anything_break_no_file(odd_everything):
    folder, files = odd_everything
    assert not any(letter in text for text in files.values() for letter in "\x1b\x00")
    for drawing in folder.glob("figures/*.svg"):
        ElementTree.parse(drawing)  # raises for what is no XML
    for name, text in files.items():
        if name.endswith(".csv"):
            rows = list(csv.reader(text.splitlines(keepends=True)))
            assert len({len(row) for row in rows}) == 1, name
            cells = {cell for row in rows for cell in row}
            assert not [cell for cell in cells if cell.startswith(tuple("=@＝")) or cell[:2] in ("+1", "-c")], name
    page, markdown = files["report.html"], files["report.md"]
    assert "<i>" not in page + markdown
    assert page.count("<script") == 2
    assert not [line for line in markdown.splitlines() if line.startswith(("- # ", "# x"))]
    assert r"\end{x}" not in files["report.tex"]
    assert r"\x1b" not in files["report.tex"], "which would be a command"


def test_headings_of_columns_are_no_formulas(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["=1+1", "b"], [{"=1+1": "\n=2", "b": "＠x"}])
    assert list(csv.reader(path.read_text().splitlines(keepends=True))) == [["'=1+1", "b"], ["'\n=2", "'＠x"]]


# -- a disk that is full, a folder that is closed ----------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "part",
    [
        "report.html",
        "report.md",
        "report.tex",
        "trials.csv",
        "leaderboard.csv",
        "figures/forgetting.png",
        "figures/forgetting.svg",
        "figures/forgetting.csv",
    ],
)
def test_a_full_disk_is_one_message_and_nothing_is_cut_off(tmp_path, monkeypatch, part):
    one = tuple(plot for plot in registry.FIGURES if plot.name in ("accuracy_matrix", "forgetting"))
    monkeypatch.setattr(registry, "FIGURES", one)
    write_trial(tmp_path, trial("lora", QUICK))
    build_report(tmp_path, latex=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    replace = Path.replace

    def replaced(self, target):
        return full() if Path(target) == tmp_path / part else replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(LorabenchError, match="No space left") as error:
        build_report(tmp_path, latex=True)
    assert error.value.exit_status == 1
    assert error.value.where == str(tmp_path / part)
    assert "free disk space" in error.value.remedy
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_where_the_figures_go_is_one_message(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(LorabenchError, match="cannot write the file"):
        write_report(tmp_path, Folder([trial("lora", QUICK)]))


def test_a_folder_whose_name_is_no_text_is_on_the_index(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9 #1")
    write_trial(folder, trial("lora", QUICK))
    (folder / "report.html").write_text("")
    page = write_index(tmp_path).read_text()
    assert 'href="caf%E9%20%231/report.html"' in page
    assert r"caf\udce9 #1" in page
