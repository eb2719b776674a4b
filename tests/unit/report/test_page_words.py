"""What the page says at a glance, and how it says to get the trials again."""

from __future__ import annotations

import pytest
from places import ROOT
from synthetic import QUICK, SIX, Folder, failed, trial

from harness.report import leaderboard
from harness.report.pages.reproduce import reproduction, study_yaml
from harness.report.pages.trials import trial_list
from harness.report.study import gather
from harness.report.text.headline import headline
from harness.store import read_trials
from harness.study.load import load_study


def facts(records) -> dict[str, tuple[str, str]]:
    study = gather(Folder(records))
    return {fact.label: (fact.value, fact.detail) for fact in headline(study, leaderboard.rows(study))}


def several(*arms: str, seeds: int = 8):
    return [trial(arm, SIX, seed=seed) for arm in arms for seed in range(seeds)]


def test_the_best_contestant_has_its_difference_and_its_p():
    study = gather(Folder(several("lora", "combined", "frozen")))
    (row,) = (row for row in leaderboard.rows(study) if row.arm.name == "combined")
    found = facts(several("lora", "combined", "frozen"))
    assert found["Best contestant"][0] == "combined"
    value, detail = found["Against plain LoRA"]
    assert value == f"+{100 * row.difference.mean:.1f} points"
    assert detail.endswith("p < .001 after Holm, significant")
    assert found["Lowest mean forgetting"][0] == "combined"
    assert "; lora: " in found["Lowest mean forgetting"][1]
    assert found["Costs of combined"][0] == "2.00 ×"


def test_where_plain_lora_is_best_the_next_one_is_compared():
    found = facts([*several("lora", seeds=3), *map(halved, several("stable_lora", seeds=3))])
    assert found["Best contestant"][0] == "lora"
    value, detail = found["Against plain LoRA"]
    assert value.startswith("−")
    assert detail.startswith("stable_lora, the best of the others: ")


def halved(record):
    tasks = {name: scores.model_copy(update={"score": tuple(score / 2 for score in scores.score)})
             for name, scores in record.tasks.items()}  # fmt: skip
    return record.model_copy(update={"tasks": tasks})


def test_exact_ties_are_ties_and_no_ranked_arm_wins_nothing():
    twin = [trial("lora", QUICK, seed=seed) for seed in range(3)]
    specs = [record.spec.model_copy(update={"setting": "twin"}) for record in twin]
    other = [record.model_copy(update={"spec": spec, "fingerprint": spec.fingerprint})
             for record, spec in zip(twin, specs, strict=True)]  # fmt: skip
    value, detail = facts([*twin, *other])["Best contestant"]
    assert value == "lora and lora@twin"
    assert detail.startswith("an exact tie; ")
    assert facts([trial("lora", QUICK)])["Best contestant"][0] == "none is ranked"


def test_every_record_is_a_line_of_the_trials():
    records = [trial("lora", QUICK, commit="f" * 40, clean=False), failed("lora_ema", QUICK)]
    found = trial_list(gather(Folder(records)))
    first, second = (dict(zip(found["columns"], row, strict=True)) for row in found["rows"])
    assert (first["Arm"], first["Trial"]) == ("lora", records[0].fingerprint[:12])
    assert first["Commit"] == "ffffffffff + changes"
    last = 100 * sum(records[0].tasks[task].score[-1] for task in QUICK) / 3
    assert first["Average accuracy, %"] == f"{last:.1f}"
    assert (second["Status"], second["Average accuracy, %"], second["Commit"]) == ("diverged", "–", "–")


@pytest.mark.parametrize("name", ["quick", "ablate_adapter"])
def test_the_study_file_asks_for_the_same_trials(name, tmp_path):
    """Made from the committed records, against the one that ships, as far as a trial depends on it."""
    records = read_trials(ROOT / "results" / "reference" / name, lean=True).records
    (tmp_path / f"{name}.yaml").write_text(study_yaml(records))
    made, shipped = load_study(tmp_path / f"{name}.yaml"), load_study(ROOT / "tasks" / "studies" / f"{name}.yaml")
    for part in ("model", "dtype", "threads", "streams", "probes", "adapter", "training", "root_seed"):
        assert getattr(made, part) == getattr(shipped, part), part
    assert made.seeds == tuple(sorted({record.spec.seed for record in records}))
    assert set(made.methods) == {record.spec.arm for record in records}
    for record in records:
        adapter = made.adapter.model_dump(mode="json") | made.methods[record.spec.arm].get("adapter", {})
        assert adapter == record.spec.training["adapter"]


def test_commands_name_an_arm_order_and_seed_that_are_there():
    study = gather(Folder([trial("lora@rank=2,alpha=4", QUICK, seed=seed) for seed in range(3)]))
    found = reproduction(study, leaderboard.rows(study), "quick")
    said = "\n".join(command for command, _ in found.commands)
    assert "lorabench run quick.yaml --trial " + study.records[0].fingerprint[:12] in said
    assert "--arm lora@rank=2,alpha=4 --order a --seed 0" in said
    assert found.commits == []
    odd = gather(Folder([trial("a b;$(x)", QUICK)]))
    commands = [command for command, _ in reproduction(odd, leaderboard.rows(odd), "quick").commands]
    assert not [command for command in commands if "$" in command], "a fingerprint says it as well"
