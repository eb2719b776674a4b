"""``lorabench log``: what a tracker is given, and TensorBoard's own files read back."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from synthetic import QUICK, Folder, failed, quick

from harness.report import leaderboard, leaderboard_csv
from harness.report.series import _named, board_of, series_of
from harness.report.study import gather
from harness.store import read_trials, write_trial
from harness.store.packed import Floats

LOSSES = tuple(Floats.of([2.0 - 0.1 * step - task for step in range(12)]) for task in range(3))
#: Twelve steps a task, as 96 examples in batches of 8 are.
RECORDS = [record.model_copy(update={"train_loss": LOSSES}) for record in quick().records]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Results of made-up trials, one of which failed."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results" / "mine"
    for record in (*RECORDS, failed("lora", QUICK, status="oom", seed=9)):
        write_trial(place, record)
    return place


def study():
    return gather(Folder(RECORDS), where="here")


def test_steps_of_a_trial_rise_and_hold_the_whole_matrix():
    for series, trial in zip(series_of(study()), study().trials, strict=True):
        record = trial.record
        steps = [step for step, _ in series.points]
        assert steps == sorted(set(steps))
        points = dict(series.points)
        last = points[steps[-1]]
        for j, task in enumerate(QUICK):
            assert points[0][f"task/{task}"] == record.tasks[task].score[0]
            assert last[f"task/{task}"] == record.tasks[task].score[-1]
            assert [values[f"learning/{task}"] for _, values in series.points if f"learning/{task}" in values] == list(
                record.curves[j].score
            )
        assert last["final/average_accuracy"] == trial.metrics["average_accuracy"]
        assert last["stream/average_accuracy_so_far"] == pytest.approx(trial.metrics["average_accuracy"])
        assert series.settings["setting/learning_rate"] == 5e-4
        assert not [value for value in series.settings.values() if not isinstance(value, str | int | float | bool)]


def test_the_board_is_leaderboard_csv():
    found = study()
    (((step, values),), table) = board_of(found).points, leaderboard_csv.table(leaderboard.rows(found))
    assert step == 0
    for line in table:
        assert values[f"average_accuracy/{line['method']}"] == line["average_accuracy"]


def test_names_that_would_fall_together_stay_apart():
    assert _named({0: {"task/a@b": 1.0, "task/a=b": 2.0}, 3: {"task/a=b": 4.0}}) == [
        (0, {"task/a-b": 1.0, "task/a-b-2": 2.0}), (3, {"task/a-b-2": 4.0})
    ]  # fmt: skip


def read(folder: Path, run: str) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of a run that TensorBoard's own reader finds in the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.glob(f"{run}/events.*")
    found = EventAccumulator(str(file)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_what_was_logged(folder, in_process):
    status, out, err = in_process("log", "mine", "--to", "tensorboard")
    assert status == 0, err
    assert out == f"16 runs logged to tensorboard: tensorboard --logdir {folder / 'tensorboard'}\n"
    record = next(r for r in quick().records if (r.spec.method, r.spec.seed) == ("lora", 1))
    found = read(folder / "tensorboard", f"lora/a/seed1-{record.fingerprint[:8]}")
    assert [step for step, _ in found["train/loss"]] == list(range(1, 37))
    assert found["train/loss"][12][1] == pytest.approx(1.0)
    for task in QUICK:
        assert [step for step, _ in found[f"task/{task}"]] == [0, 12, 24, 36]
        assert [value for _, value in found[f"task/{task}"]] == pytest.approx(record.tasks[task].score)
    assert [step for step, _ in found[f"learning/{QUICK[1]}"]] == [12, 16, 24], "0, 32 and 96 examples of task 2"
    mean = sum(trial.metrics["average_accuracy"] or 0 for trial in study().arms[1].trials) / 3
    assert read(folder / "tensorboard", "board")["average_accuracy/lora"] == [(0, pytest.approx(mean))]
    status, _, err = in_process("log", "mine")
    assert status == 2
    assert "there is a log here" in err


def test_some_trials_are_logged_without_the_board(folder, in_process, tmp_path):
    status, out, _ = in_process("log", "mine", "--arm", "lora", "--seed", "2", "--dir", tmp_path / "there")
    assert status == 0
    assert out.startswith("1 run logged to tensorboard")
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"lora"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "wanb"], "'wanb' is none of tensorboard, wandb, mlflow, trackio"),
        (["--to", "wandb"], "--to wandb: wandb is not installed\n  -> pip install 'lorabench[wandb]'"),
        (["--arm", "lroa"], "did you mean 'lora'?"),
        (["--seed", "9"], "there is no trial of seed 9"),
        (["--dir", ""], "--dir: this is empty"),
        (["--out", "nowhere"], "there are no results here"),
    ],
)
def test_what_can_t_be_logged(folder, in_process, monkeypatch, words, said):
    if "wandb" in words:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, out, err = in_process("log", "mine", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert not (folder / "tensorboard").exists()


def same_as_logged(folder: Path, found: dict[str, dict[tuple[str, int], float]]) -> None:
    """The same runs with the same numbers as were handed to the tracker, the board among them."""
    results = gather(read_trials(folder), where="here")
    runs = [*series_of(results), board_of(results)]
    assert found == {
        run.name: {(name, step): pytest.approx(value) for step, values in run.points for name, value in values.items()}
        for run in runs
    }


def test_names_are_those_that_every_tracker_takes():
    odd = [record.model_copy(update={"spec": record.spec.model_copy(update={"setting": "rank=2,reinit"})})
           for record in RECORDS]  # fmt: skip
    found = gather(Folder(odd), where="here")
    runs = [*series_of(found), board_of(found)]
    names = {name for run in runs for _, values in run.points for name in values} | {run.name for run in runs}
    assert "average_accuracy/lora-rank-2-reinit" in names
    assert not [name for name in names if not re.fullmatch(r"[\w./-]+", name, re.ASCII)]


def test_mlflow_has_what_was_logged(folder, in_process, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'lorabench[mlflow]')")
    place = f"sqlite:///{folder.parents[1]}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    mlflow.set_tracking_uri(place)
    status, out, err = in_process("log", "mine", "--to", "mlflow")
    assert (status, out) == (0, "16 runs logged to mlflow\n"), err
    client = mlflow.MlflowClient(place)
    runs = client.search_runs([client.get_experiment_by_name(study().name).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    same_as_logged(folder, {
        run.info.run_name: {(name, each.step): each.value for name in run.data.metrics
                            for each in client.get_metric_history(run.info.run_id, name)}
        for run in runs
    })  # fmt: skip


def test_trackio_has_what_was_logged(folder, in_process, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed (pip install 'lorabench[trackio]')")
    from trackio import utils

    place = folder / "trackio"
    monkeypatch.setattr(utils, "TRACKIO_DIR", place)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", place)
    status, out, err = in_process("log", "mine", "--to", "trackio")
    assert status == 0, err
    assert out.endswith("16 runs logged to trackio\n")
    (file,) = place.glob("*.db")
    found: dict = {}
    with closing(sqlite3.connect(file)) as base:
        for run, step, text in base.execute("select run_name, step, metrics from metrics"):
            found.setdefault(run, {}).update({(name, step): value for name, value in json.loads(text).items()})
    same_as_logged(folder, found)


def test_wandb_has_what_was_logged(folder, in_process, monkeypatch):
    """Offline; its file is read by the format's own rules: blocks of 32 KiB, chunks with seven bytes of head."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed (pip install 'lorabench[wandb]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    status, out, err = in_process("log", "mine", "--to", "wandb")
    assert status == 0, err
    assert out.endswith("16 runs logged to wandb\n")
    wandb.teardown()  # which ends the process that writes
    found: dict = {}
    for file in folder.rglob("*.wandb"):
        name, values = "", {}
        for record in wandb_records(file.read_bytes()):
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                         for item in record.history.item}  # fmt: skip
                step = items.get("_step", record.history.step.num)
                values |= {(key, step): value for key, value in items.items() if not key.startswith("_")}
        found[name] = values
    same_as_logged(folder, found)


def wandb_records(data: bytes) -> Iterator:
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        begins, ends = kind in (1, 2), kind in (1, 4)
        whole = (b"" if begins else whole) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if ends:
            yield Record.FromString(whole)


def test_what_a_tracker_says_is_an_error(folder, in_process, monkeypatch):
    from accelerate.tracking import TensorBoardTracker

    def refuse(self, values, step):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(TensorBoardTracker, "log", refuse)
    status, _, err = in_process("log", "mine", "--arm", "lora")
    assert status == 1
    assert "ConnectionError: nobody answers" in err
    assert "0 logged before it" in err


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_other_trackers_are_made_by_accelerate(monkeypatch, name):
    """Made, not started: that needs their packages, and an account or a server."""
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    from harness.posthoc.trackers import _tracker

    run = next(series_of(study()))
    made = _tracker(name, run, "mine", Path("x"))
    kind = {"wandb": WandBTracker, "mlflow": MLflowTracker, "trackio": TrackioTracker}[name]
    assert isinstance(made, kind)
    assert "mine" in (getattr(made, "run_name", None), getattr(made, "experiment_name", None))
