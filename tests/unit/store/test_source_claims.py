"""Claims of sources as files hold them: read strictly, every problem with its file, claim and key."""

from __future__ import annotations

import json

import pytest
import yaml

from harness.errors import InputError
from harness.report import metrics
from harness.store.results import open_results, read_trials
from harness.store.source_claims import Outcome, SourceClaim, claims_file, read_claims

STATED = {"claim": "it helps", "source": "a paper", "number": "+2", "model": "m", "protocol": "p"}
GOOD = STATED | {"arm": "dora", "outcome": "forgetting", "direction": "lower"}


def written(tmp_path, *claims):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump([GOOD, *claims]))
    return path


def test_the_three_ways_are_read(tmp_path):
    path = written(tmp_path, STATED | {"correlation": "count", "direction": "higher"}, STATED | {"needs": "an arm"})
    difference, correlation, needs = read_claims(path)
    assert (difference.arm, difference.sign, difference.against) == (("dora",), -1, None)
    assert (correlation.correlation, correlation.sign) == ("count", 1)
    assert needs.needs == "an arm"


@pytest.mark.parametrize(("change", "key"), [
    ({"outcome": "accuracy"}, "outcome"), ({"outcome": "train_seconds"}, "outcome"), ({"outcome": None}, "outcome"),
    ({"direction": "up"}, "direction"), ({"direction": None}, "direction"), ({"armm": "x"}, "armm"),
    ({"claim": ""}, "claim"), ({"source": None}, "source"), ({"arm": []}, "arm"), ({"arm": 3}, "arm"),
    ({"needs": "more"}, "needs"), ({"correlation": "count"}, "correlation"), ({"against": "dora"}, "against"),
    ({"direction": "same"}, "within"), ({"within": 2}, "within"), ({"direction": "same", "within": 0}, "within"),
    ({"direction": "same", "within": 2, "least": 1}, "least"), ({"least": 3, "most": 2}, "least"),
    ({"least": -1}, "least"), ({"most": float("inf")}, "most"),
    ({"direction": "same", "within": 2, "possible": True}, "possible"),
    ({"arm": [], "outcome": None, "direction": "same", "within": 1, "correlation": "count"}, "direction"),
    ({"arm": [], "outcome": None, "direction": "same", "correlation": "count"}, "within"),
    ({"arm": [], "needs": "more"}, "outcome"), ({"arm": [], "outcome": None, "needs": "more"}, "direction"),
])  # fmt: skip
def test_a_claim_that_is_wrong_is_named(tmp_path, change, key):
    path = written(tmp_path, GOOD | change)
    with pytest.raises(InputError) as caught:
        read_claims(path)
    assert str(caught.value.where).startswith(f"{path}:1.{key}")
    assert caught.value.remedy


def test_an_unknown_list_gets_the_nearest_name(tmp_path):
    written(tmp_path)
    with pytest.raises(InputError, match="mime") as caught:
        claims_file("mime", tmp_path, "study.yaml:claims")
    assert caught.value.where == "study.yaml:claims"
    assert "'mine'" in caught.value.remedy


def test_claims_are_kept_with_the_study(tmp_path):
    claim = SourceClaim(**GOOD, least=0.5)
    open_results(tmp_path, "mine", {"lora": 3}, claims=[claim])
    assert read_trials(tmp_path).claims == (claim,)
    open_results(tmp_path, "mine", {"lora": 3})
    assert read_trials(tmp_path).claims == ()
    assert "claims" not in json.loads((tmp_path / "study.json").read_text())


def test_a_kept_claim_that_was_edited_is_named(tmp_path):
    open_results(tmp_path, "mine", {"lora": 3}, claims=[SourceClaim(**GOOD)])
    manifest = tmp_path / "study.json"
    manifest.write_text(manifest.read_text().replace("forgetting", "luck"))
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path)
    assert str(caught.value.where) == f"{manifest}:claims:0.outcome"


def test_every_outcome_has_paired_differences():
    paired = {metric.name for metric in metrics.compared() if not metric.shared}
    assert set(Outcome.__args__) <= paired
