"""What stands beside the page: documented columns, the comparison of two arms, LaTeX, the index over studies."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import synthetic
from places import ROOT
from synthetic import QUICK, STACK, Folder, failed, quick, trial

from harness.errors import InputError
from harness.report import (
    build_index,
    build_report,
    compare_studies,
    comparison,
    leaderboard,
    leaderboard_csv,
    write_report,
)
from harness.report.study import gather
from harness.report.text import latex, latex_tables
from harness.report.text.latex_tables import escaped
from harness.report.text.parameters import parameters
from harness.report.text.table import Table
from harness.report.trials_csv import COLUMNS
from harness.store import write_trial


def stored(folder: Path, records) -> Path:
    for record in records:
        write_trial(folder, record)
    return folder


def eight(arms=("lora", "combined", "frozen")):
    return [trial(arm, QUICK, seed=seed) for arm in arms for seed in range(8)]


# -- columns ----------------------------------------------------------------------------------------------------------


def documented(section: str) -> set[str]:
    text = (ROOT / "results" / "README.md").read_text().split(f"## {section}")[1].split("\n## ")[0]
    lines = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for line in lines for name in re.findall(r"`([^`]+)`", line)}


def test_the_documented_columns_are_the_columns():
    columns = leaderboard_csv.columns_of(gather(quick()))
    plain = {re.sub(r"^delta_(social_iqa|plain_text)$", "delta_<probe>", name) for name in columns}
    assert {name for name in plain if not name.endswith(("_ci_low", "_ci_high"))} == documented("leaderboard.csv")
    bases = {re.sub("_ci_(low|high)$", "", name) for name in plain}
    assert bases == documented("leaderboard.csv"), "an interval is of a documented column"
    assert set(COLUMNS) == documented("trials.csv")
    assert "now 2:" in (ROOT / "results" / "README.md").read_text()


def test_the_board_has_groups_effects_and_secondary_tests(tmp_path):
    write_report(tmp_path, Folder(eight()))
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert {row["schema_version"] for row in rows.values()} == {"2"}
    assert [rows[name]["tie_group"] for name in ("combined", "lora", "frozen")] == ["1", "2", ""]
    assert 0 < float(rows["combined"]["minimum_detectable_effect"]) < float(rows["combined"]["difference_to_reference"])
    assert float(rows["combined"]["forgetting_difference_to_reference"]) < 0
    assert float(rows["combined"]["forgetting_p"]) == float(rows["combined"]["forgetting_p_holm"]) < 0.05
    assert float(rows["combined"]["p_sign_flip"]) == 2 / 2**8
    assert rows["frozen"]["p"] == rows["frozen"]["forgetting_p"] == "", "a control is tested in nothing"
    assert rows["frozen"]["difference_to_reference_ci_low"]
    assert rows["lora"]["minimum_detectable_effect"] == rows["lora"]["forgetting_p"] == ""
    finals = [r.tasks[task].score[-1] for r in eight(("combined",)) for task in QUICK]
    middle = sorted(finals)[6:18]
    assert float(rows["combined"]["interquartile_mean"]) == pytest.approx(sum(middle) / 12)


# -- compare ----------------------------------------------------------------------------------------------------------


def test_compare_says_the_paired_difference(tmp_path):
    found = compare_studies(stored(tmp_path, eight()), "combined", tmp_path, "lora")
    first, second, third, noise = comparison.sentences(found)
    assert first.startswith("combined minus lora in average accuracy: +")
    assert "over 8 pairs; significant at 5 % (two-sided paired t test, p " in first
    assert first.endswith("; a sign-flip test has p = .008).")
    assert noise.startswith("Rerun noise")
    assert "would be found in 80 % of such studies" in second
    assert "not adjusted" in third
    back = compare_studies(tmp_path, "lora", tmp_path, "combined")
    assert back.gaps["forgetting"].mean == -found.gaps["forgetting"].mean
    columns, rows = comparison.table(found)
    assert columns[1:3] == ["combined (8/8)", "lora (8/8)"]
    assert rows[0][0] == "Average accuracy, %"
    assert all(len(row) == len(columns) for row in rows)
    said = comparison.as_data(found)["differences"]["average_accuracy"]
    assert (said["p_sign_flip"], said["p"] < 0.05) == (2 / 2**8, True)


def test_compare_across_two_studies_of_one_stack(tmp_path):
    one = stored(tmp_path / "one", eight(("lora",)))
    other = stored(tmp_path / "other", eight(("combined", "lora")))
    found = compare_studies(one, "lora", other, "combined")
    assert found.gaps == compare_studies(other, "lora", other, "combined").gaps
    same = compare_studies(one, "lora", other, "lora")
    assert same.gaps["average_accuracy"].mean == 0
    assert "an exact tie, not significant" in comparison.sentences(same)[0]


def test_the_columns_are_means_over_the_pairs(tmp_path):
    """One arm has seeds that the other lacks: first minus second must be the difference beside them."""
    one = stored(tmp_path / "quick", [trial("lora", QUICK, seed=seed) for seed in range(3)])
    other = stored(tmp_path / "core", [trial("lora", QUICK, seed=seed, order=o) for o in "ab" for seed in range(8)])
    found = compare_studies(one, "lora", other, "lora")
    mean = sum(r.matrix()[-1][j] for r in (trial("lora", QUICK, seed=s) for s in range(3)) for j in range(3)) / 9
    assert found.means("average_accuracy") == pytest.approx((mean, mean))
    columns, rows = comparison.table(found)
    assert columns[1:3] == ["lora of quick (3/3)", "lora of core (16/16)"]
    assert rows[0][1] == rows[0][2] == f"{100 * mean:.1f}"
    assert comparison.sentences(found)[0].startswith("lora of quick minus lora of core in average accuracy: 0.0")
    data = comparison.as_data(found)
    assert data["studies"] == ("quick", "core")
    for metric, gap in data["differences"].items():
        assert gap["first_mean"] - gap["second_mean"] == pytest.approx(gap["mean"]), metric


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [stored(tmp_path / name / "quick", eight(("lora",))) for name in ("old", "new")]
    assert compare_studies(folders[0], "lora", folders[1], "lora").studies == ("old/quick", "new/quick")
    assert compare_studies(folders[0], "lora", folders[0], "lora").studies is None


def test_it_says_what_two_studies_train_otherwise(tmp_path):
    one, other = (
        [
            trial("lora", QUICK, spec=synthetic.spec("lora", QUICK, seed=s, training={"batch": n}), seed=s)
            for s in range(3)
        ]
        for n in (8, 4)
    )
    found = compare_studies(stored(tmp_path / "one", one), "lora", stored(tmp_path / "other", other), "lora")
    assert comparison.sentences(found)[-2] == "The studies themselves differ in batch (8 / 4)."
    assert "differ in" not in " ".join(
        comparison.sentences(compare_studies(tmp_path / "one", "lora", tmp_path / "one", "lora"))
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stack": STACK | {"digest": "x", "torch": "3"}}, "torch"),
        ({"spec": {"model_digest": "other"}}, "more than one base model"),
        ({"spec": {"scoring": {"items": 7}}}, r"scoring.items differs \(200 / 7\)"),
        ({"spec": {"training": {"root_seed": 1}}}, "the root seed differs"),
    ],
)
def test_what_may_not_be_compared_is_refused_unless_asked_for(tmp_path, change, words):
    one = stored(tmp_path / "one", eight(("lora",)))
    records = [
        trial("combined", QUICK, seed=seed, **change)
        if "stack" in change
        else trial("combined", QUICK, seed=seed, spec=synthetic.spec("combined", QUICK, seed=seed, **change["spec"]))
        for seed in range(8)
    ]
    other = stored(tmp_path / "other", records)
    with pytest.raises(InputError, match=words):
        compare_studies(one, "lora", other, "combined")
    found = compare_studies(one, "lora", other, "combined", allow_mixed=True)
    assert comparison.sentences(found)[0].startswith("MIXED: ")


def test_an_arm_of_another_stack_has_no_say_between_two_others(tmp_path):
    """It is refused, or called mixed, only where it is one of the two."""
    alone = compare_studies(stored(tmp_path / "two", eight()), "combined", tmp_path / "two", "lora")
    newer = STACK | {"digest": "x", "torch": "3"}
    beside = [trial("lora_ema", QUICK, seed=seed, stack=newer) for seed in range(8)]
    folder = stored(tmp_path / "three", [*eight(), *beside])
    for allowed in (False, True):
        found = compare_studies(folder, "combined", folder, "lora", allow_mixed=allowed)
        assert found.gaps == alone.gaps
        assert comparison.sentences(found) == comparison.sentences(alone)
    with pytest.raises(InputError, match="2 stacks, which differ in torch"):
        compare_studies(folder, "lora_ema", folder, "lora")
    mixed = compare_studies(folder, "lora_ema", folder, "lora", allow_mixed=True)
    assert comparison.sentences(mixed)[0].startswith("MIXED: 2 stacks")


def test_compare_refuses_unknown_names_and_arms_without_pairs(tmp_path):
    folder = stored(tmp_path, [*eight(), trial("lora_ema", QUICK, seed=99), failed("self_distill", QUICK)])
    with pytest.raises(InputError, match="did you mean 'combined'"):
        compare_studies(folder, "combine", folder, "lora")
    with pytest.raises(InputError, match="share no order and seed"):
        compare_studies(folder, "lora_ema", folder, "lora")
    with pytest.raises(InputError, match="no finished trial"):
        compare_studies(folder, "self_distill", folder, "lora")


def test_an_arm_that_is_not_ranked_is_compared_and_not_tested(tmp_path):
    folder = stored(tmp_path, [*eight(), failed("combined", QUICK, seed=9)])
    found = compare_studies(folder, "combined", folder, "lora")
    assert comparison.sentences(found)[-2].endswith("not tested: combined is not ranked (1 diverged).")
    assert {row[-1] for row in comparison.table(found)[1]} == {"–"}
    assert comparison.as_data(found)["differences"]["forgetting"]["p"] is None


# -- LaTeX ------------------------------------------------------------------------------------------------------------


def test_latex_holds_every_table_and_escapes(tmp_path):
    odd = [trial("lora", QUICK, seed=s, spec=synthetic.spec(r"50%_&\x", QUICK, seed=s), fingerprint=f"x{s}")
           for s in range(3)]  # fmt: skip
    (path,) = (p for p in write_report(tmp_path, Folder([*eight(), *odd]), latex=True) if p.suffix == ".tex")
    text = path.read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule")
    for heading in (
        "Leaderboard",
        "The rest of",
        r"Final score by task, \%",
        "Probes: end minus base",
        "Costs of a trial",
    ):
        assert rf"\caption{{{heading}" in text
    assert r"50\%\_\&\textbackslash{}x" in text
    assert r"$-$" in text
    assert text.isascii(), "needs no Unicode font"
    first = text.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines()
    wide = [line.replace(r"\multicolumn{2}", "&").count("&") - line.count(r"\&")
            for line in first if line.endswith(r"\\")]  # fmt: skip
    assert len(set(wide)) == 1
    assert not re.search(r"\\\\\s*\[", text), "which would be how much to skip: TeX never ends"
    assert escaped("a\nb {x} $1 ~^") == r"a b \{x\} \$1 \textasciitilde{}\textasciicircum{}"
    assert escaped("a---b “c” ☃") == r"a-{}-{}-b “c” \texttt{U+2603}"


def test_a_name_that_looks_like_a_number_is_one_cell():
    (part,) = latex_tables.floats(Table("A", ["Task", "x"], [["0.5 (all)", "1.0 [0, 2]"], ["b", "–"]]), "l")
    assert r"0.5 (all) & 1.0 & {\scriptsize [0, 2]} \\" in part
    assert r"\begin{tabular}{lr@{" in part


def test_the_main_table_marks_the_best_and_the_second(tmp_path):
    arms = ("lora", "combined", "stable_lora", "frozen")
    records = [trial(arm, QUICK, seed=seed) for arm in arms for seed in range(3)]
    chosen = ("forgetting", "learning_accuracy")
    study = gather(Folder(records))
    path = latex.write_latex(study, leaderboard.rows(study), tmp_path, chosen)
    main, appendix = path.read_text().split(latex.APPENDIX)
    lost = {arm.name: arm.estimate("forgetting").mean for arm in study.arms if not arm.control}
    best, second, last = sorted(lost, key=lost.get)
    lines = {line.split(" &")[0].replace(r"\_", "_"): line for line in main.splitlines() if " & " in line}
    assert rf"\textbf{{{100 * lost[best]:.1f}}}" in lines[best]
    assert rf"\underline{{{100 * lost[second]:.1f}}}" in lines[second]
    assert f"& {100 * lost[last]:.1f} & {{" in lines[last]
    assert "textbf" not in lines["frozen"], "a control wins nothing"
    two = [rf"\multicolumn{{2}}{{c}}{{\shortstack[c]{{{name}}}}}"
           for name in (r"Forgetting,\\points", r"Learning\\accuracy, \%")]  # fmt: skip
    assert lines["Method"] == " & ".join(["Method", *two]) + r" \\"
    assert main.count(r"\midrule") == 2, "one above the controls"
    rest = appendix.split(r"\toprule")[1].splitlines()[1]
    assert "Average accuracy" in rest.replace(r"\\", " ")
    assert "Forgetting" not in rest


def test_an_appendix_has_few_columns_a_table_and_none_empty():
    heads = ["Method", *(f"Column {i}" for i in range(14))]
    rows = [[arm, *(f"{i}.5 [1.0, 2.0]" if i not in (3, 7) else "–" for i in range(14))] for arm in ("lora", "b_c")]
    parts = latex_tables.floats(Table("Much", heads, rows, "All of it.", fixed=[["Items", *[""] * 14]]), "tab:x")
    written = [part.split(r"\toprule")[1].splitlines()[1].removesuffix(r" \\").split(" & ") for part in parts]
    assert all(head[0] == "Method" and len(head) <= 6 for head in written)
    names = [name.removeprefix(r"\multicolumn{2}{c}{").removesuffix("}") for head in written for name in head[1:]]
    assert names == [f"Column {i}" for i in range(14) if i not in (3, 7)]
    assert [f"Much ({i} of 3). All of it." in part for i, part in enumerate(parts, start=1)] == [True] * 3
    assert len({re.findall(r"\\label{(.*)}", part)[0] for part in parts}) == 3
    assert all(r"b\_c & 0.5 & {\scriptsize [1.0, 2.0]}" in part for part in parts[:1]), "numbers in line"


def test_latex_compiles_with_the_packages_that_its_head_names(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex on this system (apt-get install texlive-latex-recommended)")
    odd = [trial("lora", QUICK, seed=s, spec=synthetic.spec(r"50%_&\x--[é ρ 中", QUICK, seed=s), fingerprint=f"x{s}")
           for s in range(3)]  # fmt: skip
    write_report(tmp_path, Folder([*eight(), *odd]), latex=True)
    named = re.findall(r"\\usepackage(?:\[.*?\])?{.*?}", (tmp_path / "report.tex").read_text().split(r"\begin")[0])
    paper = "\n".join([r"\documentclass{article}", *named, r"\begin{document}\input{report}\end{document}"])
    (tmp_path / "paper.tex").write_text(paper)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert not re.findall(r"Overfull .*|.*not set up.*|.*Missing character.*", log)


def test_a_table_fits_its_line_and_is_never_blown_up():
    (part,) = latex_tables.floats(Table("A", ["Method", "x"], [["lora", "1"]]), "l")
    fitted = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
    assert part.index(r"\sbox0{%") < part.index(r"\begin{tabular}") < part.index(fitted)


def test_hyper_parameters_of_few_arms_are_words():
    def arm(method: str, **own):
        spec = synthetic.spec(method, QUICK)
        return trial(method, QUICK, fingerprint=method, spec=spec.model_copy(update={"parameters": own}))

    records = [
        arm("lora", learning_rate=0.001, clip=1.0),
        arm("stable_lora", learning_rate=0.002, clip=1.0, shrink=0.005),
        arm("lora_ema", learning_rate=0.001, clip=1.0, ema_decay=11 / 12, ema_warmup=False),
        arm("frozen"),
    ]
    table = parameters(gather(Folder(records)))
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert table.columns == ["Method", "learning_rate", "Others", "Tuned", "Settings tried"]
    assert {name: (row["learning_rate"], row["Others"]) for name, row in rows.items()} == {
        "lora": ("0.001", "–"),
        "stable_lora": ("0.002", "shrink 0.005"),
        "lora_ema": ("0.001", "ema_decay 0.916667, ema_warmup false"),
        "frozen": ("–", "–"),
    }
    assert table.caption == "Every arm with settings (3 of 4 arms) has clip 1.0."


def test_an_unknown_column_is_refused_with_the_nearest(tmp_path):
    study = gather(Folder(eight()))
    with pytest.raises(InputError, match="unknown column 'forgeting'") as error:
        latex.write_latex(study, leaderboard.rows(study), tmp_path, ("forgeting",))
    assert "did you mean 'forgetting'" in error.value.remedy


# -- the index --------------------------------------------------------------------------------------------------------


def test_the_index_has_all_and_says_what_it_could_not_read(tmp_path):
    stored(tmp_path / "good", eight())
    build_report(tmp_path / "good")
    stored(tmp_path / "reference" / "older", eight(("lora", "combined")))
    stored(tmp_path / "broken", [failed("lora", QUICK)])
    (tmp_path / "audit-x").mkdir()
    (tmp_path / "audit-x" / "audit.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    text = build_index(tmp_path).read_text()
    assert 'href="good/report.html"' in text
    assert 'href="reference/older/report.html"' in text
    assert (tmp_path / "reference" / "older" / "report.html").exists(), "a missing page is written"
    assert "Not reported: no finished trial to report" in text
    assert 'href="audit-x/audit.html"' in text
    assert "empty" not in text
    assert text.count("combined has the highest mean of average accuracy") == 2
    before = (tmp_path / "good" / "report.html").stat().st_mtime_ns
    assert build_index(tmp_path).read_text() == text
    assert (tmp_path / "good" / "report.html").stat().st_mtime_ns == before, "a page that is there is left alone"


def test_the_index_says_of_tuning_what_the_page_says(tmp_path):
    shutil.copytree(ROOT / "results" / "reference" / "quick_tuned", tmp_path / "quick_tuned")
    said = "every trained arm is tuned"
    assert said in (tmp_path / "quick_tuned" / "report.md").read_text()
    (tmp_path / "quick_tuned" / "report.html").touch()  # it has a page, which the index leaves alone
    assert said in build_index(tmp_path).read_text()


def test_nothing_to_index_is_an_error(tmp_path):
    with pytest.raises(InputError, match="there are no results here"):
        build_index(tmp_path)
