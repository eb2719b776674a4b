"""What records say of claims: a verdict of each kind from hand-made records, and where it is shown."""

from __future__ import annotations

import pytest
from places import ROOT
from synthetic import QUICK, Folder, failed, quick, trial

from harness.report import documentation, leaderboard, write_report
from harness.report.findings import AGREE, DISAGREE, NOT_RUN, UNSURE, UNTESTED, finding, verdict_of
from harness.report.study import gather
from harness.report.text import claims as text
from harness.store.records import TaskScores
from harness.store.source_claims import SourceClaim
from harness.store.tuning import Choice, Tuning

#: What each seed adds to the accuracy of an arm, in points: a spread of its own.
NOISE = (-0.4, 0.0, 0.4, 0.1)


def claim(**changes):
    stated = {"claim": "it helps", "source": "a paper", "number": "+2", "model": "m", "protocol": "p"}
    tested = {"arm": "dora", "outcome": "average_accuracy", "direction": "higher"}
    return SourceClaim(**(stated | tested | changes))


def scored(arm, seed, accuracy):
    """A trial of one task with this final score, in points."""
    task = TaskScores(metric="acc", higher_is_better=True, items=200, chance=0.25,
                      score=(0.25, accuracy / 100), stderr=(0.03, 0.03))  # fmt: skip
    return trial(arm, ("only",), seed=seed, tasks={"only": task}, probes={}, curves=())


def board(expected=None, tuning=None, **gains):
    """A study of `lora`, at 50 points, and arms that are so many points above it, with noise."""
    records = [scored("lora", seed, 50 + seed) for seed in range(4)]
    for number, (arm, gain) in enumerate(gains.items()):
        records += [scored(arm, seed, 50 + seed + gain + NOISE[(seed + number) % 4]) for seed in range(4)]
    return gather(Folder(records, expected=expected), tuning=tuning)


@pytest.mark.parametrize(("gain", "asked", "verdict"), [
    (3, {}, AGREE), (-3, {}, DISAGREE), (0, {}, UNSURE),
    (-3, {"direction": "lower"}, AGREE), (3, {"direction": "lower"}, DISAGREE),
    (-3, {"possible": True}, UNSURE), (3, {"possible": True}, AGREE),
    (0, {"direction": "same", "within": 2}, AGREE), (5, {"direction": "same", "within": 2}, DISAGREE),
    (-5, {"direction": "same", "within": 2}, DISAGREE), (2, {"direction": "same", "within": 2}, UNSURE),
])  # fmt: skip
def test_the_interval_decides(gain, asked, verdict):
    assert finding(board(dora=gain), claim(**asked)).verdict == verdict


def test_the_difference_is_that_of_the_board():
    study = board(dora=3)
    (row,) = [row for row in leaderboard.rows(study) if row.arm.name == "dora"]
    found = finding(study, claim()).found
    assert row.difference.mean == pytest.approx(0.03025)
    ends = (f"{100 * end:+.1f}" for end in (row.difference.low, row.difference.high))
    assert found == f"+3.0 [{', '.join(ends)}], 4 pairs"


def test_whom_it_is_compared_with_may_be_named():
    found = finding(board(dora=3, pissa=5), claim(against="pissa"))
    assert found.verdict == DISAGREE
    assert found.compared == "dora − pissa: Average accuracy, points"


@pytest.mark.parametrize(("least", "most", "says"), [
    (1, 5, AGREE), (10, 20, f"{AGREE}: less than claimed"), (0.5, 1, f"{AGREE}: more than claimed"),
])  # fmt: skip
def test_a_claimed_size_changes_words_only(least, most, says):
    assert finding(board(dora=3), claim(least=least, most=most)).answer == says
    down = claim(direction="lower", least=least, most=most)
    assert finding(board(dora=-3), down).answer == says


def test_arms_that_are_missing_are_not_run():
    for study in (board(pissa=1), board(expected={"dora": 4, "lora": 4})):
        assert finding(study, claim()).answer == f"{NOT_RUN}: no trials of dora"
    assert finding(board(dora=3), claim(against="pissa")).answer == f"{NOT_RUN}: no trials of pissa"


def test_an_arm_that_is_not_ranked_decides_nothing():
    half = board(expected={"dora": 6, "lora": 4}, dora=3)
    assert finding(half, claim()).answer == f"{UNSURE}: dora is not ranked (2 missing)"
    records = [record for arm in board(dora=3).arms for record in arm.records]
    diverged = gather(Folder([*records, failed("dora", ("only",), seed=4)]))
    assert finding(diverged, claim()).verdict == UNSURE


def test_pairs_without_spread_decide_nothing():
    records = [scored(arm, seed, 50 + gain) for arm, gain in (("lora", 0), ("dora", 3)) for seed in range(3)]
    assert finding(gather(Folder(records)), claim()).answer == f"{UNSURE}: the pairs give no interval"


def test_mixed_trials_decide_nothing():
    records = [record for arm in board(dora=3).arms for record in arm.records]
    records[0] = records[0].model_copy(update={"stack": records[0].stack | {"digest": "another"}})
    found = finding(gather(Folder(records), allow_mixed=True), claim())
    assert found.answer == f"{UNSURE}: these trials are mixed"


def test_a_claim_of_tuned_arms_needs_tuned_arms():
    assert finding(board(dora=3), claim(tuned=True)).answer == f"{UNSURE}: untuned: dora and lora"
    made = {"learning_rate": 5e-4, "rank": 16}
    choices = dict.fromkeys(("dora", "lora"), _choice(made))
    tuning = Tuning(study="quick", seeds=(7,), settings=5, tries=(), arms=choices)
    assert finding(board(dora=3, tuning=tuning), claim(tuned=True)).verdict == AGREE


@pytest.mark.parametrize(("gains", "verdict", "remark"), [
    ({"dora": 3, "pissa": 4}, AGREE, ""), ({"dora": 3, "pissa": -4}, DISAGREE, "pissa"),
    ({"dora": 3, "pissa": 0}, UNSURE, "pissa"), ({"dora": 3}, NOT_RUN, "pissa (no trials of pissa)"),
])  # fmt: skip
def test_a_claim_of_several_arms_is_of_each(gains, verdict, remark):
    found = finding(board(**gains), claim(arm=["dora", "pissa"]))
    assert (found.verdict, found.remark) == (verdict, remark)
    assert found.found.count("pairs") == len(gains)


def test_of_several_arms_a_wider_interval_refutes():
    """At -0.7 points an interval of 95 % leaves out 0, and one that is widened for ten arms does not."""
    low = {f"dora@{n}": -0.7 for n in range(10)}
    study = board(**low)
    assert finding(study, claim(arm="dora@1")).verdict == DISAGREE
    assert finding(study, claim(arm=tuple(low))).verdict == UNSURE


def test_no_board_tests_what_needs_more():
    found = finding(board(dora=3), claim(arm=(), outcome=None, direction=None, needs="an arm of GRPO"))
    assert (found.verdict, found.answer) == (UNTESTED, "not tested: needs an arm of GRPO")


@pytest.mark.parametrize(("slope", "verdict"), [(1, AGREE), (-1, DISAGREE)])
def test_a_correlation_is_that_of_all_trials(slope, verdict):
    asked = claim(arm=(), outcome=None, correlation="count", least=0.59, most=0.97)
    found = finding(gather(Folder(_forgetful(slope))), asked)
    assert found.verdict == verdict
    assert found.found.endswith("12 trials")
    assert finding(gather(Folder(_forgetful(0))), asked).verdict == UNSURE
    assert finding(board(dora=3), asked).answer == f"{NOT_RUN}: no trial has both"


def test_intervals_at_the_ends_of_the_rule():
    assert verdict_of(claim(), 0.0, 1.0) == UNSURE
    same = claim(direction="same", within=2)
    assert verdict_of(same, -2.0, 2.0) == AGREE
    assert verdict_of(same, 2.0, 3.0) == UNSURE
    assert verdict_of(same, None, None) == UNSURE


def test_the_claims_stand_on_every_page(tmp_path):
    readout = quick()
    asked = claim(arm="stable_lora", source="<a> | b")
    write_report(tmp_path, Folder(readout.records, expected=readout.expected, claims=(asked,)), latex=True)
    found = finding(gather(readout), asked)
    section = (tmp_path / "report.md").read_text().split(f"## {text.HEADING}")[1].split("##")[0]
    assert f"| {found.found} | {found.answer} |" in section
    assert "&lt;a&gt; &#124; b" in section
    assert "Bonferroni" in section
    page = (tmp_path / "report.html").read_text().split(f"<h2>{text.HEADING}</h2>")[1].split("<h2>")[0]
    assert ">&lt;a&gt; | b</td>" in page
    assert page.count("<td") == 7
    assert page.split("<thead>")[0].count('<table class="cards sortable prose">') == 1, "sentences wrap"
    tex = [part.split("\\end{table}")[0] for part in (tmp_path / "report.tex").read_text().split(text.HEADING)[1:]]
    assert len(tex) == 2, "in tables that can be read"
    assert any(r"\raggedright\arraybackslash}p{" in part for part in tex), "sentences wrap"


def test_a_study_without_claims_has_no_such_table(tmp_path):
    write_report(tmp_path, quick())
    for name in ("report.md", "report.html"):
        assert text.HEADING not in (tmp_path / name).read_text()


def test_the_page_of_claims_is_what_the_records_say():
    page = (ROOT / documentation.CLAIMS_PAGE).read_text(encoding="utf-8")
    assert page == documentation.documented(page), "run: python -m harness.report.documentation"
    assert page.count("<!-- end -->") == 2


def _choice(values):
    return Choice(settings=values, tried=5, grid=5, metric="average_accuracy", digest="d")


def _forgetful(slope):
    """Trials whose forgetting goes with their intruders, or not at all, over three arms."""
    records = []
    for number, arm in enumerate(("lora", "dora", "pissa")):
        for seed in range(4):
            rank = 4 * number + seed
            lost = 0.2 + 0.01 * slope * rank
            tasks = {
                task: TaskScores(metric="acc", higher_is_better=True, items=200, chance=0.25, stderr=(0.03,) * 4,
                                 score=(0.2, 0.9, 0.9 - lost, 0.9 - lost))
                for task in QUICK
            }  # fmt: skip
            made = trial(arm, QUICK, seed=seed, tasks=tasks)
            last = made.intruders[-1].model_copy(update={"count": 3 + rank})
            records.append(made.model_copy(update={"intruders": (None, None, last)}))
    return records
