"""A metric is declared in one place, and everything that shows metrics has it from there."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from synthetic import QUICK, Folder, trial

from harness.report import comparison, documentation, evidence, metrics, sequence, write_report
from harness.report.documented_boards import REFERENCES
from harness.report.documented_metrics import metric_tables
from harness.report.metric import TABLES, Metric
from harness.report.reliability import UNRELIABLE
from harness.report.study import gather
from harness.store.intruders import Intruders
from harness.store.records import Costs

README = ROOT / documentation.README


def worst(matrix: np.ndarray) -> float:
    return float(matrix[-1].min())


#: What no report knows of: the least of the final scores.
WORST = Metric(
    "worst_task", "Worst task", "the least final score", evidence.of_stream(worst), better="higher", unit="%",
    scale=100, tested="secondary", interval=True, table="main", compared=True, indexed=True, audited=True,
)  # fmt: skip


@pytest.fixture
def registered(monkeypatch) -> Metric:
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, WORST))
    return WORST


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def eight() -> Folder:
    return Folder([trial(arm, QUICK, seed=seed) for arm in ("lora", "combined") for seed in range(8)])


def test_a_metric_declared_is_in_every_file(registered, tmp_path):
    write_report(tmp_path, eight(), latex=True)
    board = {row["method"]: row for row in read(tmp_path / "leaderboard.csv")}
    scores = [min(record.tasks[task].score[-1] for task in QUICK) for record in eight().records]
    mean = float(np.mean(scores[8:]))
    assert float(board["combined"]["worst_task"]) == pytest.approx(mean)
    assert float(board["combined"]["worst_task_ci_low"]) < mean < float(board["combined"]["worst_task_ci_high"])
    gap = float(board["combined"]["worst_task_difference_to_reference"])
    assert gap == pytest.approx(mean - float(np.mean(scores[:8])))
    assert float(board["combined"]["worst_task_p"]) == float(board["combined"]["worst_task_p_holm"]) <= 1
    rows = [row for row in read(tmp_path / "trials.csv") if row["metric"] == "worst_task"]
    assert sorted(float(row["value"]) for row in rows) == pytest.approx(sorted(scores))
    for name in ("report.md", "report.html", "report.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "Worst task" in text, name
        assert f"{100 * mean:.1f}" in text.partition("Worst task")[2], name


def test_a_metric_declared_is_compared(registered):
    study = gather(eight())
    found = comparison.compare(study, study, "combined", "lora")
    _, rows = comparison.table(found)
    (line,) = [row for row in rows if row[0] == "Worst task, %"]
    assert found.gaps["worst_task"].pairs == 8
    assert line[3].startswith(registered.change(found.gaps["worst_task"].mean))
    assert "worst_task" in comparison.as_data(found)["differences"]


def test_a_metric_declared_is_documented(registered):
    text = documentation.documented(README.read_text(encoding="utf-8"))
    assert "| `worst_task` | higher | the least final score |\n" in text
    assert "| `worst_task_p_holm` |" in text


def test_a_metric_declared_is_on_the_index_and_in_an_audit(registered):
    assert registered in metrics.indexed()
    assert registered in metrics.audited()
    assert sequence.of_sequence([[0.5, 0.5], [0.75, 0.5], [0.25, 0.75]])["worst_task"] == 0.25


def test_the_readme_is_what_the_declarations_make():
    text = README.read_text(encoding="utf-8")
    assert text == documentation.documented(text), "run: python -m harness.report.documentation"
    assert text.count("<!-- columns of ") == text.count("<!-- end -->") == 2


def test_the_simulation_s_table_is_the_committed_result():
    text = (ROOT / documentation.STATISTICS).read_text(encoding="utf-8")
    assert text == documentation.documented(text), "run: python -m harness.report.documentation"
    assert UNRELIABLE.read_text(encoding="utf-8") == documentation.kept(documentation.simulated())


@pytest.mark.parametrize("page", [documentation.METRICS_PAGE, documentation.REFERENCE], ids=str)
def test_a_page_s_tables_are_what_is_declared(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == documentation.documented(text), "run: python -m harness.report.documentation"


def test_the_page_of_metrics_has_every_one():
    tables = metric_tables()
    assert [tables.count(f"| `{each.name}` |") for each in metrics.METRICS] == [1] * len(metrics.METRICS)


def test_every_reference_study_has_its_board():
    text = (ROOT / documentation.REFERENCE).read_text(encoding="utf-8")
    folders = sorted(path.parent.name for path in (ROOT / REFERENCES).glob("*/leaderboard.csv"))
    assert sorted(re.findall(r"<!-- board of (\w+) -->", text)) == folders


def test_every_number_of_a_record_is_a_metric():
    """Costs and intruders: a field that no metric shows is forgotten, unless it says how something was counted."""
    shown = {metric.of: [each.name for each in metrics.METRICS if each.of == metric.of] for metric in metrics.METRICS}
    assert set(Costs.model_fields) - {"shared_by"} == set(shown["costs"]) - {"training_tokens"}, "which is a sum"
    named = {"intruder_count": "count", "intruder_distance": "distance", "intruder_energy_share": "energy_share"}
    assert {named.get(name, name) for name in shown["weights"]} <= set(Intruders.model_fields)


def test_the_declarations_agree_with_themselves():
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert [metric.name for metric in metrics.METRICS if metric.tested == "primary"] == [metrics.PRIMARY]
    assert sorted(metric.first for metric in metrics.promised()) == list(range(1, len(metrics.promised()) + 1))
    assert {metric.table for metric in metrics.METRICS} == {*TABLES, ""}
    for metric in metrics.METRICS:
        assert metric.better or not metric.tested, "what is tested has a better end"
        assert metric.tested == "secondary" or not metric.answered
        assert ("<probe>" in metric.name) == (metric.of == "probe")
