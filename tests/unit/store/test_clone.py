"""The commit that a record names: of a clone and of nothing else, whatever git says or whether there is one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.store.clone import Clone, look


def git(folder: Path, *words: str) -> str:
    options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=none")
    found = subprocess.run(["git", "-C", str(folder), *options, *words], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_a_clone_has_its_commit(folder):
    assert look(folder) == Clone(git(folder, "rev-parse", "HEAD"), clean=True)


def test_results_and_notes_leave_it_clean(folder):
    (folder / "results").mkdir()
    (folder / "results" / "report.md").write_text("")
    assert look(folder).clean is True


@pytest.mark.parametrize("name", ["harness/a.py", "harness/new.py", "baselines/mine.py"])
def test_changed_or_new_code_makes_it_unclean(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("a = 2\n")
    assert look(folder) == Clone(git(folder, "rev-parse", "HEAD"), clean=False)


def test_a_clone_without_a_commit_has_none(tmp_path):
    git(tmp_path, "init", "-q")
    assert look(tmp_path) == Clone()


def test_a_package_below_somebody_s_clone_is_none(folder):
    assert look(folder / "harness") == Clone()


@pytest.mark.parametrize("broken", ["no git", "slow git", "not a repository"])
def test_whatever_fails_there_is_no_commit_and_no_error(folder, monkeypatch, broken):
    def slow(*_, **__):
        raise subprocess.TimeoutExpired("git", 10)

    if broken == "no git":
        monkeypatch.setenv("PATH", "")
    elif broken == "slow git":
        monkeypatch.setattr(subprocess, "run", slow)
    else:
        (folder / ".git" / "HEAD").unlink()
    assert look(folder) == Clone()


def test_a_clone_of_another_user_is_read(folder, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "-C", str(folder), "status"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert look(folder).clean is True


def test_in_a_hook_of_another_clone_it_is_still_this_one(folder, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(folder / "nowhere"))
    assert look(folder).clean is True
