"""Text for starts that look at some: what a task's source has beyond its splits, and nothing that is scored."""

from __future__ import annotations

import pytest

from harness.data import tasks
from harness.data.tasks.text import check_text, unscored
from harness.errors import InputError, LorabenchError


@pytest.mark.parametrize("name", ["toy_text", "plain_text"])
def test_it_is_none_of_what_is_scored(name):
    try:
        prepared = tasks.prepare_task(name)
    except LorabenchError:
        pytest.skip("its wheel has not been fetched")
    scored = {row["text"] for split in tasks.SPLITS for row in tasks.read_split(prepared, split)}
    text = unscored(name)
    assert scored
    assert len(text) == len(set(text)) > 30
    assert not scored & set(text)


def test_it_is_the_same_every_time():
    assert unscored("toy_text") == unscored("toy_text")


@pytest.mark.parametrize("name", ["toy_recall", "arc_easy"])
def test_a_task_without_running_text_of_its_own_is_refused(name):
    with pytest.raises(InputError, match="is not made of running text") as error:
        check_text(name, "s.yaml:methods.corda")
    assert error.value.where == "s.yaml:methods.corda"


def test_a_task_whose_rows_are_all_taken_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "tasks" / "all_taken"
    folder.mkdir(parents=True)
    source = tasks.load_task("toy_text").folder
    yaml = (source / "toy_text.yaml").read_text().replace("toy_text", "all_taken").replace("test: 32", "test: 64")
    (folder / "all_taken.yaml").write_text(yaml)
    (folder / "prepare.py").write_text((source / "prepare.py").read_text())
    monkeypatch.setenv("LORABENCH_PLUGINS", str(tmp_path))
    with pytest.raises(InputError, match="every document of 'all_taken' is in one of its splits") as error:
        unscored("all_taken")
    assert error.value.where.endswith("all_taken.yaml:metadata.splits")
