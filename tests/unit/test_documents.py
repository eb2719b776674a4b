"""What is written for people: README is short, links lead somewhere, numbers are those of the records."""

from __future__ import annotations

import csv
import json
import re

import pytest
import yaml
from documents import PAGES, anchors, blocks, links, parsed
from places import REFERENCE, ROOT

from harness.method.registry import methods
from harness.report.metrics import metric

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
#: What README says of an arm's difference to plain LoRA: study, arm, column, text, whether it is significant.
FOUND = (
    ("quick_tuned", "combined", "average_accuracy", "+1.9 points [−9.4, +13.1]", False),
    ("quick_tuned", "combined", "plain_text_delta", "−0.116 [−0.173, −0.058]", True),
    ("quick_tuned", "lora_ema", "plain_text_delta", "−0.088 [−0.121, −0.055]", True),
    ("quick_tuned", "stable_lora", "plain_text_delta", "+0.046 [+0.004, +0.088]", True),
    ("quick_tuned", "lora_ema", "sample_efficiency_auc", "−12.5 points [−18.5, −6.5]", True),
    ("ablate_adapter", "lora@reinit", "forgetting", "−4.0 points [−5.8, −2.1]", False),
    ("ablate_stable", "stable_lora@shrink=0.01", "forgetting", "+3.6 points of forgetting [−1.6, +8.7]", False),
    ("ablate_stable_reinit", "stable_lora@shrink=0.01", "forgetting", "−2.3 [−6.2, +1.7]", False),
)
#: What README says of an arm of quick_tuned itself: arm, column, text without signs.
LEVELS = (
    ("combined", "average_accuracy", "61.8 % [53.5, 70.1]"),
    ("lora", "plain_text_delta", "0.147 [0.102, 0.192]"),
    ("combined", "general_delta", "11.1 points [2.2, 20.0]"),
    ("lora", "general_delta", "8.3 [5.6, 11.1]"),
)


def board(study: str) -> dict[str, dict[str, str]]:
    with (REFERENCE / study / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def flat(text: str) -> str:
    return " ".join(text.split())


def test_readme_is_short():
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_index_of_docs_has_every_page():
    listed = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize(("study", "arm", "column", "text", "significant"), FOUND)
def test_findings_of_readme_are_those_of_the_records(study, arm, column, text, significant):
    section = flat(README.split("## What it has found")[1].split("\n## ")[0])
    assert text in section
    assert f"]({REFERENCE.relative_to(ROOT)}/{study}/report.md)" in section
    row = board(study)[arm]
    prefix = "" if column == "average_accuracy" else f"{column}_"
    ends = [float(row[f"{prefix}difference_to_reference{end}"]) for end in ("", "_ci_low", "_ci_high")]
    shown = [f"{metric(column).scale * value:+.{metric(column).digits}f}".replace("-", "−") for value in ends]
    assert re.findall(r"[+−][\d.]+", text) == shown
    assert (float(row[f"{prefix}p_holm"]) < 0.05) is significant


@pytest.mark.parametrize(("page", "device", "least"), [("speed", "nvidia-h200", 16), ("clusters", "cpu", 2)])
def test_speeds_are_those_that_were_measured(page, device, least):
    told = re.findall(r"<!-- (\w+) (\S+) -->([\d.,]*\d)( %)?", (DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert len(told) >= least
    for file, key, number, percent in told:
        found = json.loads((ROOT / f"results/perf/{file}-{device}.json").read_text())["headline"][key]
        assert float(number.replace(",", "")) == pytest.approx(found * (100 if percent else 1), rel=0.008), key


def test_counts_of_readme_are_those_of_the_records():
    section = flat(README.split("## What it has found")[1].split("\n## ")[0])
    tuned = board("quick_tuned")
    for arm, column, text in LEVELS:
        ends = [float(tuned[arm][f"{column}{end}"]) for end in ("", "_ci_low", "_ci_high")]
        shown = [f"{metric(column).scale * value:.{metric(column).digits}f}".lstrip("-") for value in ends]
        assert text in section
        assert sorted(re.findall(r"[\d.]+", text)) == sorted(shown)
    assert f"from {100 * float(board('ablate_adapter')['lora']['forgetting']):.1f}" in section
    effects = [
        100 * float(row["minimum_detectable_effect"]) for row in tuned.values() if row["minimum_detectable_effect"]
    ]
    assert f"{min(effects):.0f} to {max(effects):.0f} points" in section
    counted = re.findall(r"\((?:(\d+) pairs; )?(\d+) trials: \[`(\w+)`\]", section)
    assert {study for _, _, study in counted} == {study for study, *_ in FOUND}
    others = re.search(r"one order, (\d+) pairs", section)
    assert others
    for pairs, trials, study in counted:
        rows = board(study).values()
        assert {row["pairs"] for row in rows if row["pairs"]} == {pairs or others[1]}
        assert sum(int(row["trials"].split("/")[0]) for row in rows) == int(trials)


def test_readme_counts_methods():
    assert int(re.search(r"plain LoRA with (\d+) ", flat(README))[1]) == len(methods()) - 1
    rows = (ROOT / "baselines" / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| `") and "equal to PEFT" in line for line in rows) == 1 + 13
    assert "thirteen other methods" in flat(README)


def test_the_citation_is_one():
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    entry = dict(re.findall(r"(\w+)\s*= \{+(.*?)\}+,?\n", README.split("```bibtex")[1]))
    assert entry["title"] == file["title"]
    assert entry["author"] == file["authors"][0]["name"]
    assert entry["year"] == str(file["date-released"])[:4]
    assert entry["version"] == file["version"]


def test_messages_that_are_explained_are_those_of_the_code():
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "harness").rglob("*.py")))
    # Strings that stand one behind the other are one, and what is filled in is a gap.
    sources = re.sub(r'"\s*f?"', "", re.sub(r"\{[^{}]*\}", "…", sources))
    said = [text for row in re.findall(r"^\| (`.*?) \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.M)
            for text in re.findall(r"`(.*?)`", row)]  # fmt: skip
    assert len(said) > 20
    for text in said:
        parts = [part.strip(" '()") for part in text.split("…")]
        assert all(part in sources for part in parts), text


def lines_of_commands() -> list[tuple[str, str]]:
    """(page, a line of ``lorabench``) of every block, also of those that a test can't run."""
    found = []
    for page in PAGES:
        for token in parsed(page):
            if token.type in ("code_block", "fence"):
                lines = [line.strip() for line in token.content.splitlines()]
                found += [(page.name, line) for line in lines if line.startswith("lorabench ")]
    return found


@pytest.mark.parametrize(("page", "line"), lines_of_commands())
def test_verbs_and_options_of_a_line_are_there(page, line):
    from typer.main import get_command

    from harness.cli import app

    words = re.sub(r"[\[\]]", " ", line.partition("#")[0]).split()[1:]
    verbs = [word for at, word in enumerate(words) if at == 0 or words[at - 1] == "|"] if "|" in words else words[:1]
    for verb in verbs:
        command = get_command(app)
        options = {option for part in command.params for option in (*part.opts, *part.secondary_opts)}
        if verb.startswith("--"):
            assert verb in options
            continue
        rest = words[words.index(verb) :]
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        options |= {option for part in command.params for option in (*part.opts, *part.secondary_opts)}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, line


def test_blocks_that_no_test_runs_say_what_they_need():
    needs = {block.needs for page in PAGES for block in blocks(page)}
    assert {"a GPU", "a cluster", "Slurm", "Kubernetes"} <= needs
    for page in PAGES:
        for block in blocks(page):
            assert block.commands, f"{page.name}:{block.line}"


def test_the_example_of_a_study_is_one():
    from harness.study.arms import expand_arms
    from harness.study.load import build_study

    (text, *_) = [block.text for block in blocks(DOCS / "study.md", "yaml")]
    study = build_study({**yaml.safe_load(text), "name": "example"}, where="docs/study.md")
    arms = {arm.name for arm in expand_arms(study, methods(), "docs/study.md")}
    grid = {"stable_lora@shrink=0.001", "stable_lora@shrink=0.01"}
    assert arms == {"frozen", "lora", "lora@hot", "lora@rank2", "lora@reinit"} | grid
