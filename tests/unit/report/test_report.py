"""The report on synthetic records: right cells, honest words, safe pages, the same bytes twice."""

from __future__ import annotations

import csv
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from synthetic import QUICK, STACK, Folder, failed, quick, trial

from harness.errors import InputError
from harness.report import build_report, leaderboard, leaderboard_csv, numbers, write_report
from harness.report.csv_files import cell
from harness.report.figures import palette, registry, style
from harness.report.figures.accuracy_cost import accuracy_cost
from harness.report.figures.fronts import pareto_front
from harness.report.figures.parts import limits
from harness.report.study import gather
from harness.report.text import answer, notes
from harness.store import write_trial
from harness.store.published import PublishedRow
from harness.store.records import TrialRecord
from harness.store.tuning import Choice, Tuning

FIRST = (
    "method,trials,average_accuracy,average_accuracy_ci_low,average_accuracy_ci_high,backward_transfer,forgetting,"
    "learning_accuracy,general_delta,plain_text_delta,sample_efficiency_auc,intruder_count,intruder_distance,"
    "tokens_per_second,peak_memory_gib,settings_tried"
)
FILES = ["trials.csv", "leaderboard.csv"] + [
    f"figures/{name}.{kind}"
    for name in ("accuracy_matrix", "task_scores", "forgetting", "accuracy_forgetting", "accuracy_cost",
                 "sample_efficiency", "intruders",
                 "intruders_by_epsilon", "intruders_by_place", "intruders_forgetting")
    for kind in ("png", "svg", "csv")
] + ["report.md", "report.html"]  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def quick_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    written = write_report(folder, quick())
    assert [str(path.relative_to(folder)) for path in written] == FILES
    return folder


@pytest.mark.drawn
def test_report_twice_gives_the_same_bytes(quick_folder, tmp_path):
    readout = quick()
    readout.records.reverse()  # nor does the order of the files matter
    write_report(tmp_path, readout)
    assert everything(tmp_path) == everything(quick_folder)


@pytest.mark.drawn
def test_a_results_folder_gives_the_same_report(quick_folder, tmp_path):
    for record in quick().records:
        write_trial(tmp_path, record)
    written = build_report(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in written] == FILES
    assert {path.name: path.read_bytes() for path in written} == {
        path.name: path.read_bytes() for path in (quick_folder / name for name in FILES)
    }


def test_what_training_costs_is_told_in_tokens():
    def clause(**costs):
        records = [trial(arm, QUICK, seed=seed) for arm in ("lora", "sdft") for seed in range(3)]
        spent = {"train_tokens": 1000, "teacher_tokens": 0, "prompt_tokens": 0, "sampled_tokens": 0}
        each = {"lora": spent, "sdft": spent | costs}
        records = [
            r.model_copy(update={"costs": r.costs.model_copy(update=each[r.spec.method] | {"train_seconds": 9.0 * n})})
            for n, r in enumerate(records, 1)
        ]
        study = gather(Folder(records))
        return answer.answer(study, leaderboard.rows(study))[2].rpartition("power. ")[2]

    assert clause() == "Training takes 1.00 times as many tokens as that of plain LoRA for sdft."
    dear = clause(teacher_tokens=1500, prompt_tokens=700, sampled_tokens=50)
    assert dear == "Training takes 3.25 times as many tokens as that of plain LoRA for sdft."


def test_leaderboard_columns_and_values(quick_folder):
    assert (quick_folder / "leaderboard.csv").read_text().startswith(FIRST + ",reference,difference_to_reference,")
    rows = {row["method"]: row for row in read(quick_folder / "leaderboard.csv")}
    trials = [record for record in quick().records if record.spec.method == "stable_lora"]
    last = [sum(record.tasks[task].score[-1] for task in QUICK) / 3 for record in trials]
    assert float(rows["stable_lora"]["average_accuracy"]) == pytest.approx(sum(last) / 3)
    assert rows["stable_lora"]["trials"] == "3/3"
    assert rows["stable_lora"]["pairs"] == "3"
    assert rows["stable_lora"]["ranked"] == "yes"
    assert rows["stable_lora"]["items_per_task"] == "200"
    low, high = (float(rows["lora_ema"][f"difference_to_reference_ci_{end}"]) for end in ("low", "high"))
    assert (float(rows["lora_ema"]["p"]) < 0.05) == (low > 0 or high < 0)
    assert float(rows["lora_ema"]["p_holm"]) >= float(rows["lora_ema"]["p"])
    assert rows["lora_ema"]["p_sign_flip"] == "", "three pairs could not reject"
    assert rows["lora"]["difference_to_reference"] == rows["lora"]["p"] == ""
    assert float(rows["stable_lora"]["delta_social_iqa"]) == float(rows["stable_lora"]["general_delta"])


def test_the_board_is_sorted_by_average_accuracy(quick_folder):
    rows = read(quick_folder / "leaderboard.csv")
    values = [float(row["average_accuracy"]) for row in rows if row["control"] == "no"]
    assert values == sorted(values, reverse=True)
    assert [row["control"] for row in rows] == ["no"] * len(values) + ["yes"], "controls stand below"


def test_the_frozen_arm_has_zeros_and_empty_costs(quick_folder):
    row = next(row for row in read(quick_folder / "leaderboard.csv") if row["method"] == "frozen")
    for name in ("forgetting", "backward_transfer", "intruder_count", "intruder_distance", "sample_efficiency_auc"):
        assert row[name] == "0"
    for name in ("tokens_per_second", "peak_memory_gib", "train_seconds", "normalised_forgetting"):
        assert row[name] == ""


def test_trials_csv_is_tidy(quick_folder):
    rows = read(quick_folder / "trials.csv")
    assert tuple(rows[0]) == ("study", "trial", "method", "setting", "seed", "order", "after_task", "examples",
                              "metric", "target", "value", "items", "stderr", "schema_version")  # fmt: skip
    record = next(r for r in quick().records if (r.spec.arm, r.spec.seed) == ("lora", 0))
    own = [row for row in rows if row["trial"] == record.fingerprint]

    def values(metric, target=""):
        return [float(row["value"]) for row in own if (row["metric"], row["target"]) == (metric, target)]

    assert values("acc", "bbc_topics") == pytest.approx(record.tasks["bbc_topics"].score)
    errors = [float(row["stderr"]) for row in own if (row["metric"], row["target"]) == ("acc", "bbc_topics")]
    assert errors == pytest.approx(record.tasks["bbc_topics"].stderr)
    assert values("bits_per_byte", "plain_text") == pytest.approx([s for s in record.probes["plain_text"].score if s])
    assert values("curve", "language_id") == pytest.approx(record.curves[1].score)
    assert {row["after_task"] for row in own if row["metric"] == "curve" and row["target"] == "language_id"} == {"2"}
    assert values("intruder_count") == [record.intruders[-1].count]
    assert values("intruder_count", "q_proj") == [record.intruders[-1].by_type["q_proj"].count]
    assert len(values("forgetting")) == len(values("train_seconds")) == 1
    assert all(row["value"] not in ("", "nan", "inf") for row in rows)


def test_scores_stand_beside_their_standard_error(quick_folder):
    """± of the base's score in the table of tasks; a cell of an arm has its interval over trials, and no second one."""
    text = (quick_folder / "report.md").read_text()
    lora = [record for record in quick().records if record.spec.arm == "lora"]
    final = [record.tasks["bbc_topics"] for record in lora]
    score = 100 * np.mean([scores.score[-1] for scores in final])
    base = final[0]
    section = text.split("## Final score by task")[1].split("##")[0]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("|")}
    assert lines["Method"].endswith("| bbc_topics |")
    assert lines["Test items"].endswith(f"| {base.items} |")
    assert lines["Base model"].endswith(f"| {100 * base.score[0]:.1f} ± {100 * base.stderr[0]:.1f} |")
    assert f"| {score:.1f} [" in lines["lora"]
    assert "±" not in lines["lora"]
    (row,) = (row for row in read(quick_folder / "leaderboard.csv") if row["method"] == "lora")
    each = [np.sqrt(sum(scores.stderr[-1] ** 2 for scores in record.tasks.values())) / 3 for record in lora]
    assert float(row["average_accuracy_stderr"]) == pytest.approx(np.mean(each), rel=1e-6)


def test_items_that_lost_their_beginning_are_reported(tmp_path):
    folder = quick()
    cut = folder.records[0].tasks["language_id"].model_copy(update={"truncated": 7})
    folder.records[0] = folder.records[0].model_copy(update={"tasks": folder.records[0].tasks | {"language_id": cut}})
    for readout, said in ((folder, True), (quick(), False)):
        study = gather(readout)
        text = " ".join(notes.notes(study, leaderboard.rows(study)))
        assert ("language_id (7 of 200 items)" in text) == ("lost their beginning" in text) == said


def test_no_file_says_nan(quick_folder):
    for name, data in everything(quick_folder).items():
        if name.endswith((".csv", ".md")):
            assert not re.search(rb"(?i)\b(nan|inf|None,)\b", data), name
    text = re.sub(r"<svg.*?</svg>", "", (quick_folder / "report.html").read_text(), flags=re.DOTALL)
    assert not re.search(r"(?i)\b(nan|inf)\b", text)


def test_the_page_needs_no_network(quick_folder):
    page = (quick_folder / "report.html").read_text()
    assert not re.search(r"<script[^>]+src|<link|<iframe|@import|(?:src|href)=.https?:", page)
    assert "default-src 'none'" in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"', page):
        assert target in ids


def test_the_words_are_no_stronger_than_the_tests(quick_folder):
    for name in ("report.html", "report.md"):
        text = (quick_folder / name).read_text()
        assert "no contestant differs significantly from plain LoRA in accuracy" in text
        assert "no contestant differs significantly in forgetting or learning speed" in text
        assert "with 3 pairs a true difference to plain LoRA of" in text
        assert "Rerun noise: the same arm, seeds and orders" in text
        assert "No arm was tuned" in text
        assert "lorabench run quick" in text


def tuning(**settings: dict[str, Any] | None) -> Tuning:
    """The outcome of five tries an arm: what was chosen."""
    arms = {
        arm: Choice(settings=chosen, tried=5, grid=5, metric="average_accuracy", digest="d", place="inside")
        for arm, chosen in settings.items()
    }
    return Tuning(study="s", seeds=(9,), settings=5, arms=arms, tries=())


def three_seeds(arm: str, **changes: Any) -> list[TrialRecord]:
    made = (trial(arm, QUICK, seed=seed) for seed in range(3))
    return [each.model_copy(update={"spec": each.spec.model_copy(update=changes)}) for each in made]


def test_a_methods_settings_are_the_boards_and_those_tune_tried():
    made = [
        *three_seeds("lora"),
        *three_seeds("lora_ema"),
        *three_seeds("lora_ema@ema_decay=0.9"),
        *three_seeds("lora_ema@ema_decay=0.99", settings_tried=3, tuned=True),  # what was there when it ran
    ]
    found = Folder(made, expected={"lora_ema@ema_decay=0.999": 3})
    study = gather(found, tuning=tuning(lora_ema={"learning_rate": 5e-4}))
    board = leaderboard.rows(study)
    found = {line["method"]: line["settings_tried"] for line in leaderboard_csv.table(board)}
    assert found == {arm.name: 1 if arm.name == "lora" else 8 for arm in study.arms}
    assert len(found) == 5
    said = [note for note in notes.notes(study, board) if note.startswith("More settings")]
    assert said == [
        "More settings were tried of one method than of another (lora 1, lora_ema 8): the best of many flatters it."
    ]


def test_tuned_is_what_tuning_json_says_now():
    """Records of a run before any tuning are tuned where its choice is what they have, and none is without the file."""
    made = [*three_seeds("lora"), *three_seeds("lora_ema", tuned=True), *three_seeds("frozen")]
    chosen = tuning(lora={"learning_rate": 5e-4}, lora_ema={"learning_rate": 1e-3}, frozen=None)

    def said(outcome: Tuning | None) -> tuple[dict[str, tuple[bool, str | None]], str]:
        study = gather(Folder(made), tuning=outcome)
        board = leaderboard.rows(study)
        lines = {line["method"]: (line["tuned"], line["place_in_grid"]) for line in leaderboard_csv.table(board)}
        return lines, " ".join(notes.notes(study, board))

    lines, text = said(chosen)
    assert lines == {"lora": (True, "inside"), "lora_ema": (False, None), "frozen": (False, None)}
    assert "Not tuned, while others were: lora_ema." in text
    assert "Trained with other settings than tuning.json chose: lora_ema; run the study again." in text
    lines, text = said(None)
    assert lines == dict.fromkeys(("lora", "lora_ema", "frozen"), (False, None))
    assert "No arm was tuned" in text


def test_a_clear_difference_is_reported_with_its_direction():
    records = [trial(arm, synthetic.SIX, seed=seed) for arm in ("lora", "combined", "frozen") for seed in range(8)]
    study = gather(Folder(records))
    first, second, third = answer.answer(study, leaderboard.rows(study))
    assert first.startswith("combined has the highest mean of average accuracy")
    assert "significantly above every other contestant" in first
    assert "combined is significantly above plain LoRA (+" in first
    assert "frozen" not in first, "a control is no contestant"
    assert "forgetting is significantly lower for combined (−" in second
    assert "frozen" not in second, "forgetting nothing by not learning is no merit"
    assert "with 8 pairs a true difference to plain LoRA of" in third


def test_an_arm_with_a_failure_is_shown_and_not_ranked(tmp_path):
    readout = quick()
    readout.records = [r for r in readout.records if (r.spec.arm, r.spec.seed) != ("lora_ema", 1)]
    readout.records.append(failed("lora_ema", QUICK, seed=1))
    readout.records = [r for r in readout.records if (r.spec.arm, r.spec.seed) != ("stable_lora", 2)]
    readout.expected["combined"] = 3
    readout.quarantined.append("damaged.json")
    write_report(tmp_path, readout)
    rows = {row["method"]: row for row in read(tmp_path / "leaderboard.csv")}
    assert list(rows) == ["self_distill", "lora", "stable_lora", "lora_ema", "combined", "frozen"]
    assert (rows["lora_ema"]["trials"], rows["lora_ema"]["diverged"], rows["lora_ema"]["ranked"]) == ("2/3", "1", "no")
    assert (rows["stable_lora"]["trials"], rows["stable_lora"]["why_not_ranked"]) == (
        "2/3", "1 missing, provisional: 2 seeds")  # fmt: skip
    assert (rows["combined"]["trials"], rows["combined"]["average_accuracy"]) == ("0/3", "")
    assert rows["lora_ema"]["p"] == ""
    page = (tmp_path / "report.html").read_text()
    assert "FloatingPointError: &lt;nan&gt;" in page
    assert "damaged.json" in page


def test_two_seeds_are_provisional():
    readout = Folder([trial(arm, QUICK, seed=seed) for arm in ("lora", "lora_ema") for seed in range(2)])
    board = leaderboard.rows(gather(readout))
    assert [row.why_not for row in board] == ["provisional: 2 seeds"] * 2
    assert answer.answer(gather(readout), board)[0].startswith("No contestant is ranked")


def test_published_numbers_stand_below_the_arms(tmp_path):
    rows = (
        PublishedRow(method="O-LoRA", model="T5-large", protocol="orders 1-3 | r 8", accuracy=75.8, source="a paper"),
        PublishedRow(method="SLAO", model="LLaMA", protocol="orders 4-6", accuracy=74.8, bwt=-3.5, source="<another>"),
    )
    readout = quick()
    write_report(tmp_path, Folder(readout.records, expected=readout.expected, published=rows))
    text = (tmp_path / "report.md").read_text()
    section = text.split("## Published numbers")[1].split("##")[0]
    assert "| O-LoRA | 75.8 | – | T5-large | orders 1-3 &#124; r 8 | a paper |" in section
    assert "| SLAO | 74.8 | −3.5 | LLaMA | orders 4-6 | &lt;another&gt; |" in section
    assert section.index("| lora |") < section.index("| O-LoRA |")
    assert "not directly comparable" in section
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Published numbers</h2>" in page
    assert ">&lt;another&gt;</td>" in page


def test_a_study_without_published_numbers_has_no_such_table(quick_folder):
    assert "Published numbers" not in (quick_folder / "report.md").read_text()


@pytest.mark.parametrize(
    "records",
    [
        [trial("stable_lora", ("only",), probes={}, curves=(), intruders="none")],
        [trial("lora", QUICK)],
        [trial("lora", QUICK[:2], seed=seed, curves=(), probes={}) for seed in range(3)],
        [trial("frozen", QUICK, seed=seed) for seed in range(3)],
        [trial("lora", QUICK, seed=seed, grid=(0, 96)) for seed in range(2)],
    ],
    ids=["one task", "one trial", "no curves or probes", "only frozen", "one grid point"],
)
def test_small_studies(tmp_path, records):
    write_report(tmp_path, Folder(records))
    row = read(tmp_path / "leaderboard.csv")[0]
    assert row["average_accuracy"]
    assert row["p"] == ""
    assert len(everything(tmp_path)) == len(FILES)


def test_one_task_has_empty_cells(tmp_path):
    write_report(tmp_path, Folder([trial("lora", ("only",), probes={}, curves=())]))
    row = read(tmp_path / "leaderboard.csv")[0]
    for name in ("forgetting", "backward_transfer", "forward_transfer", "general_delta", "plain_text_delta",
                 "sample_efficiency_auc", "average_accuracy_ci_low"):  # fmt: skip
        assert row[name] == ""


def test_several_orders_are_strata(tmp_path):
    records = [trial(arm, stream, order=order, seed=seed)
               for arm in ("lora", "stable_lora") for seed in range(3)
               for order, stream in (("a", QUICK), ("b", QUICK[::-1]))]  # fmt: skip
    write_report(tmp_path, Folder(records))
    rows = read(tmp_path / "figures" / "accuracy_matrix.csv")
    positions = {(row["order"], row["position"], row["task"]) for row in rows}
    assert positions >= {("a", "1", QUICK[0]), ("b", "1", QUICK[2])}
    assert read(tmp_path / "leaderboard.csv")[0]["pairs"] in ("", "6")


def test_intruders_after_every_task_are_lines(tmp_path):
    records = [trial(arm, QUICK, seed=seed, intruders="all") for arm in ("lora", "combined") for seed in range(2)]
    write_report(tmp_path, Folder(records))
    rows = read(tmp_path / "figures" / "intruders.csv")
    assert [row["x"] for row in rows if (row["arm"], row["metric"]) == ("combined", "distance")] == ["1", "2", "3"]


def test_names_are_text_everywhere(tmp_path):
    name = "<script>alert(1)</script>"
    spec = synthetic.spec(name, QUICK)
    odd = synthetic.spec("=cmd|x", QUICK, seed=1)
    write_report(tmp_path, Folder([trial("lora", QUICK), trial("lora", QUICK, seed=1, spec=spec, fingerprint="x"),
                                   trial("lora", QUICK, seed=2, spec=odd, fingerprint="y"),
                                   failed(name, QUICK, seed=5)]))  # fmt: skip
    for path in (tmp_path / "report.html", tmp_path / "report.md"):
        text = path.read_text()
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
    assert "=cmd&#124;x" in (tmp_path / "report.md").read_text()
    methods = [row["method"] for row in read(tmp_path / "leaderboard.csv")]
    assert "'=cmd|x" in methods


def test_all_arms_are_drawn_in_pages_if_need_be(tmp_path, monkeypatch):
    """And a shorter report in the same folder leaves no page of the longer one."""
    names = ("accuracy_matrix", "task_scores", "sample_efficiency")
    monkeypatch.setattr(registry, "FIGURES", tuple(plot for plot in registry.FIGURES if plot.name in names))
    arms = ("lora", *(f"other{i:02}" for i in range(12)))
    records = [trial(arm, QUICK[:2]) for arm in arms]
    write_report(tmp_path, Folder(records))
    figures = tmp_path / "figures"
    for name in names:
        assert {row["arm"] for row in read(figures / f"{name}.csv")} == set(arms), name
    pages = {path.name for path in figures.glob("*.png")}
    assert {"sample_efficiency.png", "sample_efficiency-2.png", "task_scores-2.png"} <= pages
    text = (tmp_path / "report.md").read_text()
    assert all(f"(figures/{page})" in text for page in pages)
    write_report(tmp_path, Folder(records[:2]))
    assert not list(figures.glob("*-2.*"))


def test_arms_that_are_not_sequential_have_no_curves_but_an_end(tmp_path):
    arms = ("lora", "multitask")
    write_report(tmp_path, Folder([trial(arm, QUICK, seed=s, intruders="all") for arm in arms for s in range(3)]))
    assert {row["arm"] for row in read(tmp_path / "figures" / "sample_efficiency.csv")} == {"lora"}
    ends = [row["x"] for row in read(tmp_path / "figures" / "intruders.csv") if row["arm"] == "multitask"]
    assert set(ends) == {"3"}


def _with_students(record, *gains: float):
    """A student that is better than the base model by so much at 32 and at 96 examples of every task."""
    curves = [
        curve.model_copy(update={"student": (base, *(base + gain for gain in gains))})
        for curve in record.curves for base in [record.tasks[curve.task].score[0]]
    ]  # fmt: skip
    return record.model_copy(update={"curves": tuple(curves)})


def test_the_student_of_an_average_has_a_curve_and_its_area(tmp_path):
    averaged = [_with_students(trial("lora_ema", QUICK, seed=seed), 0.1, 0.3) for seed in range(3)]
    write_report(tmp_path, Folder([*averaged, *(trial("lora", QUICK, seed=seed) for seed in range(3))]))
    areas = {row["method"]: row["sample_efficiency_auc_student"] for row in read(tmp_path / "leaderboard.csv")}
    assert float(areas["lora_ema"]) == pytest.approx(0.2), "a straight line over log2 from 0.1 to 0.3"
    assert areas["lora"] == "", "its own curve is the student's"
    drawn = read(tmp_path / "figures" / "sample_efficiency.csv")
    assert {(row["arm"], row["weights"]) for row in drawn} == {
        ("lora", "scored"), ("lora_ema", "scored"), ("lora_ema", "student")
    }  # fmt: skip
    last = next(r for r in drawn if (r["arm"], r["weights"], r["examples"]) == ("lora_ema", "student", "96"))
    bases = [averaged[0].tasks[task].score[0] for task in QUICK]
    assert float(last["mean"]) == pytest.approx(sum(bases) / len(bases) + 0.3)
    assert "Sample efficiency AUC of the student" in (tmp_path / "report.md").read_text()


def test_a_board_without_students_has_an_empty_column(tmp_path):
    write_report(tmp_path, Folder([trial("lora_ema", QUICK, seed=seed) for seed in range(3)]))
    assert read(tmp_path / "leaderboard.csv")[0]["sample_efficiency_auc_student"] == ""
    assert "AUC of the student" not in (tmp_path / "report.md").read_text()


def _lower_is_better(record, task: str):
    scores = record.tasks[task].model_copy(update={"higher_is_better": False, "metric": "brier_score"})
    return record.model_copy(update={"tasks": record.tasks | {task: scores}})


@pytest.mark.drawn
def test_a_score_that_is_better_the_lower_is_in_no_mean(tmp_path):
    """Neither in a figure, which says why it is empty, nor in a table as a share."""
    records = [_lower_is_better(trial("lora", QUICK, seed=seed), QUICK[0]) for seed in range(3)]
    write_report(tmp_path, Folder(records))
    assert read(tmp_path / "figures" / "sample_efficiency.csv") == []
    assert "lower is better" in (tmp_path / "figures" / "sample_efficiency.svg").read_text()
    report = (tmp_path / "report.md").read_text()
    assert "| Metric | brier_score, lower is better | acc, % | acc, % |" in report
    assert "Final score by task, %" not in report
    assert read(tmp_path / "leaderboard.csv")[0]["sample_efficiency_auc"] == ""


def test_a_page_breaks_names_between_settings(tmp_path):
    name = "lora@rank=2,alpha=<4>"
    write_report(tmp_path, Folder([trial(name, QUICK, seed=seed) for seed in range(3)]))
    assert "lora@<wbr>rank=2,<wbr>alpha=&lt;4&gt;</span>" in (tmp_path / "report.html").read_text()


def test_mixed_stacks_are_refused_unless_allowed(tmp_path):
    other = STACK | {"digest": "other", "torch": "2.12.0"}
    records = [trial("lora", QUICK), trial("lora_ema", QUICK, stack=other)]
    with pytest.raises(InputError, match=r"torch \(2\.11\.0 / 2\.12\.0\)"):
        write_report(tmp_path, Folder(records))
    write_report(tmp_path, Folder(records), allow_mixed=True)
    assert "Mixed board" in (tmp_path / "report.md").read_text()
    assert "Mixed board" in (tmp_path / "report.html").read_text()


def test_other_task_versions_within_an_arm_are_mixtures_too():
    versions = synthetic.spec("lora_ema", QUICK, task_digests={QUICK[0]: "new"})
    with pytest.raises(InputError, match="task naughty_strings in more than one version"):
        gather(Folder([trial("lora", QUICK), trial("lora_ema", QUICK, spec=versions)]))
    changed = synthetic.spec("lora", QUICK, seed=1, parameters={"learning_rate": 1.0})
    with pytest.raises(InputError, match="arm lora in more than one version"):
        gather(Folder([trial("lora", QUICK), trial("lora", QUICK, seed=1, spec=changed)]))


def test_one_trial_is_not_counted_twice():
    with pytest.raises(InputError, match="two records of arm 'lora'"):
        gather(Folder([trial("lora", QUICK), trial("lora", QUICK, fingerprint="again")]))


def test_nothing_finished_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no finished trial to report \(1 failed"):
        write_report(tmp_path, Folder([failed("lora", QUICK)]))
    assert not everything(tmp_path)


def test_long_names_are_broken_into_lines_and_stay_apart():
    names = [f"self_distill@teacher={t},demonstration={d},tokens=own" for t in ("ema", "snapshot") for d in (0, 1)]
    labels = [look.label for look in palette.looks((name, "self_distill") for name in names).values()]
    assert [label.replace("\n", "") for label in labels] == names
    assert all(len(line) <= palette.LABEL for label in labels for line in label.split("\n"))
    (cut,) = palette.looks([(f"lora@{'x' * 40}", "lora")]).values()
    assert cut.label == f"lora@\n{'x' * 19}…{'x' * 10}"


def test_a_long_legend_takes_nothing_off_the_axes():
    def height(arms: int) -> float:
        names = [f"self_distill@teacher=snapshot,demonstration={i}" for i in range(arms)]
        drawn = palette.looks((name, "self_distill") for name in names)
        with style.context():
            figure = style.new_figure(6.4, 3.6)
            figure.subplots().set_ylabel("points")
            style.legend(figure, names, drawn)
            figure.draw_without_rendering()
            return figure.axes[0].get_position().height * figure.get_figheight()

    assert height(12) == pytest.approx(height(1), abs=0.15)


def test_lower_is_better_tasks_have_no_average(tmp_path):
    record = trial("lora", QUICK)
    flipped = record.tasks[QUICK[0]].model_copy(update={"higher_is_better": False})
    write_report(tmp_path, Folder([record.model_copy(update={"tasks": record.tasks | {QUICK[0]: flipped}})]))
    assert read(tmp_path / "leaderboard.csv")[0]["average_accuracy"] == ""


def test_examples_to_90_needs_plain_lora():
    with_lora = gather(quick()).arms
    without = gather(Folder([r for r in quick().records if r.spec.method != "lora"])).arms
    assert any(arm.estimate("examples_to_90") for arm in with_lora)
    assert not any(arm.estimate("examples_to_90") for arm in without)


def test_pareto_front():
    points = {"a": (0.1, 0.5), "b": (0.2, 0.7), "c": (0.2, 0.6), "d": (0.3, 0.7), "e": (0.1, 0.5)}
    assert pareto_front(points) == ["a", "e", "b"]


def test_cells():
    assert [cell(v) for v in (None, float("nan"), -0.0, 3, 0.1 + 0.2, True, "-x", "\tx", "x")] == [
        "", "", "0", "3", "0.3", "yes", "'-x", "'\tx", "x"]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.9999, "1"), (0.25, ".250"), (0.0004, "< .001"), (0.0499, ".050"), (1.0, "1")]
)
def test_p_text(value, text):
    assert numbers.p_text(value) == text


def test_numbers_in_words():
    assert numbers.points(-0.0123) == "−1.2"
    assert numbers.points(-0.0001) == "0.0"
    assert numbers.number(float("inf")) == "–"
    for off in (-1e-16, 0, 1e-16):  # whatever order a machine adds in
        assert numbers.percent(0.4375 + off) == "43.8"
        assert numbers.points(-0.1875 + off) == "−18.8"


def test_equal_values_get_a_sensible_axis():
    low, high = limits([0.5, 0.5], 2)
    assert low < -0.5 < 1.5 < high


def test_there_is_no_front_over_seconds_which_packs_share():
    study = gather(quick())
    with style.context():
        _, _, rows = accuracy_cost(study, registry.drawn_looks(study, leaderboard.rows(study)))
    fronts = {
        cost: {row["on_front"] for row in rows if row["cost"] == cost} for cost in ("training_tokens", "train_seconds")
    }
    assert fronts["train_seconds"] == {None}
    assert True in fronts["training_tokens"]
