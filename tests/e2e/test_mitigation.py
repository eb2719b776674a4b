"""``lorabench mitigate`` on the smoke study: known arithmetic on real adapters, the right files, an honest refusal."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def mitigated(local_run, lorabench) -> list[dict[str, str]]:
    """Rows of every trial of the study."""
    said = lorabench("mitigate", "smoke", "--keep", "0,0.5,1", "--out", local_run)
    assert "have intruder dimensions" in said
    with (local_run / "mitigation" / "first" / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_trained_adapter_is_the_trial_as_recorded(mitigated, local_run):
    records = [json.loads(path.read_text()) for path in (local_run / "trials").glob("*.json")]
    by_name = {record["fingerprint"][:12]: record for record in records}
    trained = [row for row in mitigated if row["kind"] == "trained"]
    assert trained
    for row in trained:
        record = by_name[row["trial"]]
        assert int(row["intruder_count"]) == record["intruders"][-1]["count"] > 0
        for task in record["spec"]["stream"]:
            assert float(row[f"score_{task}"]) == record["tasks"][task]["score"][-1]


def test_variants_are_there_and_the_control_has_the_same_norm(mitigated):
    for name in {row["trial"] for row in mitigated}:
        own = {(row["kind"], row["keep"]): row for row in mitigated if row["trial"] == name}
        variants = {(kind, part) for kind in ("mitigated", "control") for part in ("0", "0.5", "1")}
        assert set(own) == {("trained", "1"), ("rescored", "1")} | variants
        for part in ("0", "0.5"):
            control, trained = own["control", part], own["trained", "1"]
            shrunk = float(control["shrunk_by"])
            assert float(control["delta_norm"]) == pytest.approx(shrunk * float(trained["delta_norm"]), rel=1e-5)


def test_the_figure_and_its_numbers_are_there(mitigated, local_run):
    for name in ("mitigation.png", "mitigation.svg", "mitigation.csv"):
        assert (local_run / "mitigation" / "first" / "figures" / name).stat().st_size > 0
    for name in ("mitigation.html", "mitigation.md"):
        text = (local_run / "mitigation" / "first" / name).read_text()
        assert "Do intruder dimensions cause forgetting?" in text or "Whether intruder dimensions cause" in text


def test_without_kept_adapters_it_says_what_to_do(local_run, lorabench, tmp_path):
    import shutil

    shutil.copytree(local_run, tmp_path / "copy", ignore=shutil.ignore_patterns("adapters"))
    with pytest.raises(AssertionError, match="keep_adapters"):
        lorabench("mitigate", "smoke", "--out", tmp_path / "copy")
