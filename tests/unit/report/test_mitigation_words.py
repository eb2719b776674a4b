"""What a page says of a mitigation: the causal test in words, and the table behind it."""

from __future__ import annotations

import pytest
from synthetic import QUICK, Folder, trial

from harness.report import write_mitigation, write_mitigation_page, write_report
from harness.report.mitigation import effects, read_mitigation
from harness.report.pages.mitigation import About
from harness.report.text.mitigation import mitigation_tables, verdict
from harness.store.reported import current_answer, note_report, sources

COLUMNS = ("trial", "arm", "order", "seed", "which", "kind", "keep", "average_accuracy", "last_task_accuracy",
           "forgetting", "general_delta")  # fmt: skip
RECORDS = [trial(arm, QUICK, seed=seed) for arm in ("lora", "combined") for seed in range(6)]


def rows(scaled: float, shrunk: float, noise: float = 0.002) -> list[dict]:
    """Every trial forgets .2; scaling and shrinking recover so much, with noise that the seeds of both arms share."""
    made = []
    for record in RECORDS:
        spec = record.spec
        for kind, keep, gain in (("trained", 1.0, 0.0), ("rescored", 1.0, 0.0), ("mitigated", 0.5, scaled),
                                 ("control", 0.5, shrunk)):  # fmt: skip
            luck = noise * (-1) ** spec.seed * (1 + spec.seed) if kind == "mitigated" else 0.0
            made.append({"trial": record.fingerprint[:12], "arm": spec.arm, "order": spec.order, "seed": spec.seed,
                         "which": "first", "kind": kind, "keep": keep, "average_accuracy": 0.6,
                         "last_task_accuracy": 0.8 - gain / 2, "forgetting": 0.2 - gain + luck})  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("scaled", "shrunk", "words"),
    [
        (0.10, 0.02, "recovers more than shrinking all of ΔW to the same size: +8.1 points ["),
        (0.02, 0.10, "recovers less than shrinking all of ΔW to the same size: −7.9 points ["),
        (0.02, 0.02, "can't be told apart from shrinking all of ΔW to the same size: +0.1 points ["),
    ],
)
def test_the_verdict_is_as_strong_as_its_interval(scaled, shrunk, words):
    """Of 12 trials with 6 pairs of order and seed: arms of a seed share their data and are no pairs of their own."""
    said = verdict("first", effects(rows(scaled, shrunk)))
    assert words in said
    assert "over 6 order and seeds" not in said
    assert "over 6 pairs of order and seed" in said
    assert ("They cause a part of it" in said) == (scaled > shrunk)


def test_one_pair_decides_nothing():
    one = [row for row in rows(0.1, 0.02) if row["seed"] == 0]
    assert "is not tested" in verdict("first", effects(one))


def test_the_page_shows_the_mitigation_of_its_records(tmp_path):
    write_report(tmp_path, Folder(RECORDS))
    assert "Mitigation" not in (tmp_path / "report.md").read_text()
    others = [{**row, "trial": "0" * 12} for row in rows(0.5, 0.5)]
    write_mitigation([*rows(0.10, 0.02), *others], COLUMNS, tmp_path / "mitigation" / "first")
    written = write_report(tmp_path, Folder(RECORDS), latex=True)
    for name in ("report.md", "report.html", "report.tex"):
        assert "Do intruder dimensions cause forgetting? Scaling the first" in (tmp_path / name).read_text()
    page = (tmp_path / "report.md").read_text()
    assert "| every arm | 0.50 | +10.1 | +2.0 | +8.1 [+7.2, +9.0] | +5.0 | +1.0 | +4.0 | 12 |" in page
    assert "which forgot 20.0 points" in page
    note_report(tmp_path, written, sources(tmp_path), "lora wins.")
    assert current_answer(tmp_path)
    write_mitigation(rows(0.02, 0.02), COLUMNS, tmp_path / "mitigation" / "first")
    assert current_answer(tmp_path) is None, "the page has the results of the mitigation"


def test_scores_of_an_older_version_are_left_out(tmp_path):
    old = [{key: value for key, value in row.items() if key != "which"} for row in rows(0.1, 0.02)]
    write_mitigation(old, [name for name in COLUMNS if name != "which"], tmp_path)
    assert read_mitigation(tmp_path, [record.fingerprint for record in RECORDS]) == []
    assert read_mitigation(tmp_path / "nowhere", []) == []


def test_a_study_without_mitigation_has_no_table(tmp_path):
    from harness.report.study import gather

    assert mitigation_tables(gather(Folder(RECORDS)), tmp_path) == []


@pytest.mark.drawn
def test_the_page_has_verdict_table_and_every_variant(tmp_path):
    found = rows(0.10, 0.02)
    write_mitigation(found, COLUMNS, tmp_path)
    about = About("mine", "first", (0.0, 0.5), 9, ("one has no adapter",))
    html, markdown = (next(path for path in write_mitigation_page(found, about, tmp_path) if path.suffix == end)
                      for end in (".html", ".md"))  # fmt: skip
    text = markdown.read_text()
    assert "Do intruder dimensions cause forgetting? Scaling the first intruder dimension" in text
    assert f"{len({row['trial'] for row in found})} of 9 trials have intruder dimensions" in text
    assert "Left out: one has no adapter" in text
    assert text.count("| mitigated |") == sum(row["kind"] == "mitigated" for row in found)
    assert "lorabench mitigate mine --which first --keep 0,0.5" in text
    assert (tmp_path / "figures" / "mitigation.png").stat().st_size > 0
    assert "<svg" in html.read_text()
