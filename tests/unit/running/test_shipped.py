"""Settings that ship with a study are taken where they fit it, and refused by name where they don't."""

from __future__ import annotations

import campaigns
import pytest

from harness.data import paths
from harness.errors import InputError
from harness.running import campaign
from harness.running.shipped import take_shipped
from harness.store.tuning import Choice, Tuning, read_tuning, write_tuning
from harness.study.tuning import trials_digest

STUDY = campaigns.TOY | {"methods": {"frozen": {}, "lora": {}}}


@pytest.fixture
def mine(tmp_path, monkeypatch, in_shared_cache):
    """Take the settings that ship with the study "mine", with these keys changed; they chose a rate of 0.002."""
    monkeypatch.setattr(paths, "tuned_dir", lambda: tmp_path / "tuned")
    file = campaigns.write_study(tmp_path, STUDY)
    found = campaigns.load(file, tmp_path / "out", tune=True)
    (search,) = (search for search in found.searches if search.tries)
    choice = Choice(
        settings={"learning_rate": 0.002}, score=0.75, tried=5, grid=5, metric=search.metric,
        digest=trials_digest(found.plan, search),
    )  # fmt: skip
    tries = ({"arm": "lora", "setting": "learning_rate=0.002", "score": 0.75},)
    made = Tuning(study="mine", seeds=(1000,), settings=5, arms={"lora": choice}, tries=tries)
    write_tuning(tmp_path / "made", made)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "made" / "tuning.json").rename(tmp_path / "tuned" / "mine.json")

    def take(**changes):
        return take_shipped(str(campaigns.write_study(tmp_path, STUDY, **changes)), None, tmp_path / "out")

    return take


def test_a_run_has_them_and_says_whence(mine, tmp_path):
    file, tuning = mine()
    assert (file, tuning) == (tmp_path / "out" / "tuning.json", read_tuning(tmp_path / "out"))
    assert tuning.shipped
    found = campaigns.load(tmp_path / "mine.yaml", tmp_path / "out")
    assert {trial.learning_rate for trial in found.plan.trials if trial.spec.arm == "lora"} == {0.002}
    assert "and which ship with the study" in found.remarks[0]
    assert mine()[1] == tuning, "a second time nothing is lost"


@pytest.mark.parametrize("change", [
    {"training": {"examples": 32, "batch": 8}}, {"tuning": {"settings": 4}}, {"methods": {"lora": {}, "rslora": {}}},
])  # fmt: skip
def test_of_another_version_nothing_is_taken(mine, tmp_path, change):
    with pytest.raises(InputError, match=r"ship with 'mine' were chosen for another version of '(rs)?lora'") as error:
        mine(**change)
    assert error.value.where == str(tmp_path / "tuned" / "mine.json")
    assert not (tmp_path / "out" / "tuning.json").exists()


def test_an_own_choice_is_kept(mine, tmp_path):
    mine()
    own = read_tuning(tmp_path / "out").model_copy(update={"shipped": False})
    write_tuning(tmp_path / "out", own)
    with pytest.raises(InputError, match="has been tuned here already"):
        mine()
    assert read_tuning(tmp_path / "out") == own


def test_a_study_without_any(tmp_path, monkeypatch, in_shared_cache):
    monkeypatch.setattr(paths, "tuned_dir", lambda: tmp_path / "tuned")
    with pytest.raises(InputError, match="no settings ship with the study 'mine'; they do with no study"):
        take_shipped(str(campaigns.write_study(tmp_path, STUDY)), None, tmp_path / "out")


def test_what_ships_can_be_read():
    for file in paths.tuned_dir().glob("*.json"):
        assert campaign.read_choices(file).study == file.stem
